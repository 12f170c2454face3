"""`Learner`: what the loop trains. The DLRM, or the exact per-id estimator that judges it on planted data."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from dlrm_jax.batch import Batch
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import Source
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.planner import machine_of, make_plan
from dlrm_jax.embedding.print_plan import print_plan
from dlrm_jax.machine.host_memory import on_huge_pages
from dlrm_jax.machine.mesh import make_mesh, put_part
from dlrm_jax.model.flops import cost
from dlrm_jax.training import checkpoint, per_id, pmap
from dlrm_jax.training.state import Progress
from dlrm_jax.training.step import compile_programs


@dataclasses.dataclass(frozen=True)
class Learner:
  """A state and the compiled functions on it.

  Attributes:
    start: makes the state before the first step.
    put: a batch that every process holds whole to where the functions want it.
    put_part: the same of a training batch, of which every process holds its part.
    train: (state, batch, ...) -> state, a step for each of up to `steps_per_call` batches; the old state's buffers are given up.
    predict: (state, batch) -> logits [B].
    announce: shows a person where the tables lie.
    snapshot: state -> a copy of it, for a checkpoint; None where there are none.
    restore: path of a checkpoint -> state.
    read_progress: state -> (state with counters at 0, mean training log loss since the last reading, first bad step or -1).
    facts: params, FLOPs, bytes and kernels for the record.
  """

  start: Callable[[], Any]
  put: Callable[[Batch], Batch]
  put_part: Callable[[Batch], Batch]
  train: Callable[..., Any]
  predict: Callable[[Any, Batch], Array]
  read_progress: Callable[[Any], tuple[Any, float, int]]
  facts: dict[str, Any]
  announce: Callable[[], None] = lambda: None
  snapshot: Callable[[Any], checkpoint.Snapshot] | None = None
  restore: Callable[[Path], Any] | None = None


def make_learner(config: RunConfig, source: Source) -> Learner:
  """The learner that the config names, compiled for its batch size."""
  return _per_id(config, source) if config.train.learner == "per_id" else _dlrm(config, source)


def _dlrm(config: RunConfig, source: Source) -> Learner:
  layout, mesh = make_layout(config.model, source.shape), make_mesh(config)
  machine = machine_of(mesh)
  plan = make_plan(config, layout, machine)
  make = compile_programs if config.mesh.parallelism == "jit" else pmap.compile_programs
  programs = make(config, plan, source.shape.num_dense, mesh)

  def read_progress(state: Any) -> tuple[Any, float, int]:
    progress = jax.tree.map(lambda x: np.asarray(x).reshape(-1)[0], state.progress)  # under pmap, one of each device, all the same
    loss = float(progress.loss_sum) / max(float(progress.weight_sum), 1.0)
    zero = dataclasses.replace(Progress.zero(), bad_step=progress.bad_step)
    zero = jax.tree.map(lambda x, old: np.full(old.shape, x, old.dtype), zero, state.progress)
    return dataclasses.replace(state, progress=zero), loss, int(progress.bad_step)

  start, train, predict = functools.partial(programs.init, np.uint32(config.train.seed)), programs.train, programs.predict
  if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu":
    train, predict = _one_at_a_time(train), _one_at_a_time(predict)
  part = functools.partial(put_part, mesh=mesh) if jax.process_count() > 1 else programs.put
  facts = facts_of(config, plan, source.shape.num_dense, programs.xla_flops)
  learner = Learner(start, programs.put, part, train, predict, read_progress, facts)
  if config.mesh.parallelism == "pmap":
    return learner
  return dataclasses.replace(
    learner,
    announce=lambda: print_plan(plan, config, machine) if mesh.size > 1 else None,
    snapshot=lambda state: checkpoint.snapshot(state, plan, mesh),
    restore=lambda path: on_huge_pages(checkpoint.restore(path, config, plan, source.shape.num_dense, mesh)),
  )


def facts_of(config: RunConfig, plan: Plan, num_dense: int, xla_flops: float) -> dict[str, Any]:
  """What the record says of a model and its programs; `xla_flops` are those of a step on one device."""
  layout = plan.layout
  counted = cost(config.model, config.train, layout, num_dense)
  return dataclasses.asdict(counted) | {
    "kernels": "native" if plan.kernels else "xla",
    "steps_per_call": config.steps_per_call,
    "flops_per_example_xla": xla_flops * plan.num_devices / config.train.batch_size,
    "tables": [dataclasses.asdict(t) | {"placement": placement} for t, placement in zip(layout.tables, plan.placements, strict=True)],
  }


def _one_at_a_time(program: Callable[..., Any]) -> Callable[..., Any]:
  """Waits for each call: simulated devices that run several steps ahead starve each other of threads, and XLA:CPU then gives up."""

  def waited(state: Any, *batches: Batch) -> Any:
    return jax.block_until_ready(program(state, *batches))

  return waited


def _per_id(config: RunConfig, source: Source) -> Learner:
  bias = config.planted.bias
  start = functools.partial(per_id.init, len(source.shape.field_names), config.planted.tail_sigma)

  def train(state: Any, *batches: Batch) -> Any:
    return functools.reduce(functools.partial(per_id.update, bias=bias), batches, state)

  predict = functools.partial(per_id.predict, bias=bias)
  facts: dict[str, Any] = {
    "params": None,
    "flops_per_example": None,
    "bytes": None,
    "flops_total": None,
    "kernels": None,
    "steps_per_call": None,
    "tables": [],
  }
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shape = jax.eval_shape(start)
  shapes = {"effects": jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=one)}
  return Learner(
    start,
    lambda batch: batch,
    lambda batch: batch,
    train,
    predict,
    lambda state: (state, np.nan, -1),
    facts,
    snapshot=lambda state: checkpoint.snapshot_dense({"effects": state}, one),
    restore=lambda path: checkpoint.restore_dense(path, shapes)["effects"],
  )
