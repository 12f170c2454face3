"""`Learner`: what the loop trains. The DLRM of one run or of several, or the exact per-id estimator that it is compared with."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array

from dlrm_jax.batch import Batch
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import Source
from dlrm_jax.embedding.planner import machine_of
from dlrm_jax.embedding.print_plan import print_plan
from dlrm_jax.machine.host_memory import on_huge_pages
from dlrm_jax.machine.mesh import REPLICATED, put_part
from dlrm_jax.model.flops import cost
from dlrm_jax.training import checkpoint, per_id, pmap
from dlrm_jax.training.build import Build, build_of
from dlrm_jax.training.stacked_step import StackedRuns, stacked_state, state_of_run
from dlrm_jax.training.state import Progress, Rates, TrainState
from dlrm_jax.training.step import Batches, OneRun, compile_programs


@dataclasses.dataclass(frozen=True)
class Learner:
  """The compiled functions that train S runs, one in the usual case, each with examples of its own.

  Attributes:
    start: makes the state before the first step.
    put: a batch that every process holds whole to where the functions want it.
    put_part: the same of a training batch, of which every process holds its part.
    train: (state, up to `steps_per_call` tuples of S batches) -> state, after a step of every run on each tuple; the old state is donated.
    predict_call: (state, up to `batches_per_call` batches) -> logits [K, S, B] of the same examples by every run; what comes after the
      batches that were given means nothing.
    batches_per_call: K.
    read_progress: state -> (state with counters at 0, of each run: mean training log loss since the last reading, first bad step or -1,
      the sum of the weights of these examples).
    facts: params, FLOPs, bytes and kernels for the record.
    announce: shows a person where the tables are placed.
    snapshot: (state, run) -> a copy of the run's state, for a checkpoint; None where there are none.
    restore: path of a checkpoint -> state of one run; None where there are none.
    program_text: gives the DLRM's compiled train program, as XLA writes it.
    where: equal for learners whose `put` gives the same arrays.
  """

  start: Callable[[], Any]
  put: Callable[[Batch], Batch]
  put_part: Callable[[Batch], Batch]
  train: Callable[[Any, Sequence[Batches]], Any]
  predict_call: Callable[[Any, Batches], Array]
  batches_per_call: int
  read_progress: Callable[[Any], tuple[Any, list[float], list[int], list[float]]]
  facts: dict[str, Any]
  announce: Callable[[], None] = lambda: None
  snapshot: Callable[[Any, int], checkpoint.Snapshot] | None = None
  restore: Callable[[Path], Any] | None = None
  program_text: Callable[[], str] = lambda: ""
  where: Hashable = None

  def predict(self, state: Any, batch: Batch) -> Array:
    """Logits [S, B] of one batch by every run."""
    return self.predict_call(state, (batch,))[0]


def make_learner(configs: Sequence[RunConfig], source: Source) -> Learner:
  """The learner of runs of one `identity.together_key`, or of one run, compiled for its batch size."""
  if configs[0].train.learner == "per_id":
    return per_id_learner(configs[0], source)
  return dlrm_learner(configs, build_of(configs[0], source.shape, source.base_rate()))


NO_OPTIONS: Mapping[str, Any] = {}


def dlrm_learner(configs: Sequence[RunConfig], build: Build, options: Mapping[str, Any] = NO_OPTIONS) -> Learner:
  """The DLRM of runs that share a build. `options` of XLA are added to those of `hardware.compiler_options`."""
  config, runs, mesh = configs[0], len(configs), build.mesh
  over = OneRun(build) if runs == 1 else StackedRuns(build, runs)
  each_rates = [Rates.of(one.train) for one in configs]
  pmapped = config.mesh.parallelism == "pmap"
  compiled = functools.partial(compile_programs, over, *([tuple(options.items())] if options else []))  # one entry of its cache a build
  programs = pmap.compile_programs(build, each_rates[0]) if pmapped else compiled()
  machine = machine_of(mesh)

  joined = each_rates[0] if runs == 1 else jax.tree.map(lambda *x: np.stack(x), *each_rates)
  everywhere = NamedSharding(mesh, REPLICATED)
  rates = jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, everywhere, x.__getitem__), joined)
  # Simulated devices that run several steps ahead starve each other of threads, and XLA:CPU then gives up.
  finished = jax.block_until_ready if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else lambda x: x

  def start() -> TrainState:
    seeds = [one.train.seed for one in configs]
    return on_huge_pages(programs.init(np.uint32(seeds[0])) if runs == 1 else stacked_state(over, programs.init, seeds))

  def train(state: TrainState, batches: Sequence[Batches]) -> TrainState:
    filled = (*batches, *[batches[-1]] * (build.steps_per_call - len(batches)))
    return finished(programs.train(state, filled, rates, np.int32(len(batches))))

  def predict_call(state: TrainState, batches: Batches) -> Array:
    filled = (*batches, *[batches[-1]] * (build.steps_per_call - len(batches)))
    return finished(programs.predict(state, filled, np.int32(len(batches))))

  def snapshot(state: TrainState, run: int) -> checkpoint.Snapshot:
    return checkpoint.snapshot(state if runs == 1 else state_of_run(state, run, runs), build)

  learner = Learner(
    start,
    programs.put,
    functools.partial(put_part, mesh=mesh) if jax.process_count() > 1 else programs.put,
    train,
    predict_call,
    build.steps_per_call,
    functools.partial(read_progress, runs=runs),
    facts_of(config, build, programs.xla_flops) | ({"trained_together": runs} if runs > 1 else {}),
    program_text=lambda: programs.compiled.as_text() or "",
    where=(mesh, pmapped),
  )
  if pmapped:
    return learner
  return dataclasses.replace(
    learner,
    announce=lambda: print_plan(build.plan, config, machine) if mesh.size > 1 else None,
    snapshot=snapshot,
    restore=lambda path: on_huge_pages(checkpoint.restore(path, build)),
  )


def read_progress(state: TrainState, runs: int) -> tuple[TrainState, list[float], list[int], list[float]]:
  """`Learner.read_progress` of so many runs; under pmap every device has the same counters."""
  progress = jax.tree.map(np.array, state.progress)
  loss_sum, weight_sum, bad_step = (x.reshape(-1)[:runs] for x in (progress.loss_sum, progress.weight_sum, progress.bad_step))
  losses = [float(loss) / (float(weight) or 1.0) for loss, weight in zip(loss_sum, weight_sum, strict=True)]
  zero = Progress(np.zeros_like(progress.loss_sum), np.zeros_like(progress.weight_sum), progress.bad_step)
  return dataclasses.replace(state, progress=zero), losses, bad_step.tolist(), weight_sum.tolist()


def facts_of(config: RunConfig, build: Build, xla_flops: float) -> dict[str, Any]:
  """What the record holds of a model and its programs; `xla_flops` are those of a step on one device."""
  layout, plan = build.plan.layout, build.plan
  return dataclasses.asdict(cost(build.model, config.train, layout, build.num_dense)) | {
    "kernels": "native" if plan.kernels else "xla",
    "steps_per_call": build.steps_per_call,
    "flops_per_example_xla": xla_flops * plan.num_devices / build.settings.batch_size,
    "tables": [dataclasses.asdict(t) | {"placement": placement} for t, placement in zip(layout.tables, plan.placements, strict=True)],
  }


def per_id_learner(config: RunConfig, source: Source) -> Learner:
  """The estimator, of one run."""
  bias, one = config.planted.bias, jax.sharding.SingleDeviceSharding(jax.devices()[0])
  start = functools.partial(per_id.init, len(source.shape.field_names), config.planted.tail_sigma)
  shape = jax.eval_shape(start)
  shapes = {"effects": jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=one)}

  def train(state: Array, batches: Sequence[Batches]) -> Array:
    for (batch,) in batches:
      state = per_id.update(state, batch, bias)
    return state

  return Learner(
    start,
    put=lambda batch: batch,
    put_part=lambda batch: batch,
    train=train,
    predict_call=lambda state, batches: per_id.predict(state, batches[0], bias)[None, None],
    batches_per_call=1,
    read_progress=lambda state: (state, [np.nan], [-1], [np.nan]),
    facts=dict.fromkeys(("params", "flops_per_example", "bytes", "flops_total", "kernels", "steps_per_call")) | {"tables": []},
    snapshot=lambda state, run: checkpoint.snapshot_dense({"effects": state}, one),
    restore=lambda path: checkpoint.restore_dense(path, shapes)["effects"],
  )
