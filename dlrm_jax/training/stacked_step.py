"""The compiled functions of several runs that differ in seed or learning rates only: `step.py` for all of them at once, on one device.

In a stacked state the runs' tables lie under each other (`embedding/stacked.py`); all else has an axis of runs in front.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dlrm_jax.batch import Batch, empty_batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.config import RunConfig
from dlrm_jax.embedding import stacked
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.pool import Lookups, lookups_of
from dlrm_jax.machine.hardware import compiler_options
from dlrm_jax.machine.host_memory import on_huge_pages
from dlrm_jax.machine.mesh import put_batch
from dlrm_jax.training.state import Progress, Rates, TrainState, dense_optimizer, init_state, make_model, state_shapes, table_rule
from dlrm_jax.training.step import alike, kernel_flops, loss_and_grads

Batches = tuple[Batch, ...]  # one for each run


@dataclasses.dataclass(frozen=True)
class Programs:
  """The compiled functions of S runs.

  Attributes:
    start: makes the stacked state before the first step.
    put: a batch of the host to the device.
    train: (state, batches, ...) -> state, a step of every run for each of up to `steps_per_call` tuples of S batches; the state is donated.
    predict: (state, batch) -> logits [S, B] of the same examples.
    part: (state, run) -> a copy of the run's state, as it would be alone.
    xla_flops: FLOPs of a step of one run as XLA counts them, and those of CPU kernels.
  """

  start: Callable[[], TrainState]
  put: Callable[[Batch], Batch]
  train: Callable[..., TrainState]
  predict: Callable[[TrainState, Batch], Array]
  part: Callable[[TrainState, int], TrainState]
  xla_flops: float


def over_runs(function: Callable[..., Any], plan: Plan) -> Callable[..., Any]:
  """The dense part of every run, from arguments with an axis of runs in front: under vmap, or one by one where CPU kernels work in it.

  Under vmap their calls become a loop that copies what it cuts out: four steps of the small preset took 8.9 ms, against 6.6 one by one
  and 6.3 in four programs (one core).
  """
  if not plan.kernels:
    return jax.vmap(function)

  def one_by_one(*args: Any) -> Any:
    runs = len(jax.tree.leaves(args)[0])
    out = [function(*jax.tree.map(lambda x, run=run: x[run], args)) for run in range(runs)]
    return jax.tree.map(lambda *x: jnp.stack(x), *out)

  return one_by_one


def train_step(config: RunConfig, plan: Plan, graphdef: nnx.GraphDef, state: TrainState, batch: Batch, rates: Rates) -> TrainState:
  """`step.train_step` of every run; `batch` and `rates` have an axis of runs in front."""
  lookups = jax.vmap(functools.partial(lookups_of, plan.layout))(batch)
  with jax.named_scope("lookup"):
    embedded = stacked.lookup(plan, state.tables, lookups)
  examples_s = batch.weight_b.sum(axis=1)
  dense_part = over_runs(functools.partial(loss_and_grads, graphdef), plan)
  loss_s, (dense_grads, row_grads) = dense_part(state.dense, embedded, batch, examples_s)

  def dense_step(grads: nnx.State, slots: optax.OptState, dense: nnx.State, rates: Rates) -> tuple[nnx.State, optax.OptState]:
    changes, slots = dense_optimizer(config.train, rates).update(grads, slots, dense)
    return optax.apply_updates(dense, changes), slots

  with jax.named_scope("dense_update"):
    dense, slots = jax.vmap(dense_step)(dense_grads, state.dense_slots, state.dense, rates)
  with jax.named_scope("update"):  # all runs are at the same step
    tables = stacked.update(plan, state.tables, lookups, row_grads, table_rule(config.train, rates, state.step[0]))
  progress = jax.vmap(Progress.after)(state.progress, state.step, loss_s, examples_s)
  return TrainState(tables, dense, slots, state.step + 1, progress)


def predict(plan: Plan, graphdef: nnx.GraphDef, state: TrainState, batch: Batch) -> Float[Array, "S B"]:
  """Logits of one batch by every run."""
  runs, lookups = len(state.step), lookups_of(plan.layout, batch)
  everyones: Lookups = jax.tree.map(lambda x: jnp.broadcast_to(x, (runs, *x.shape)), lookups)
  embedded = stacked.lookup(plan, state.tables, everyones)
  return over_runs(lambda dense, rows: nnx.merge(graphdef, dense)(batch.dense_bm, rows), plan)(state.dense, embedded)


def compile_programs(configs: Sequence[RunConfig], plan: Plan, num_dense: int, mesh: Mesh) -> Programs:
  """The programs of runs whose configs are `step.alike`, compiled once for all groups of as many such runs."""
  start_one, compiled, logits, xla_flops = _compile(alike(configs[0]), plan, num_dense, mesh, len(configs))
  rates = jax.tree.map(lambda *x: jnp.stack(x), *(Rates.of(config.train) for config in configs))
  steps = configs[0].steps_per_call

  def start() -> TrainState:
    """Made run by run, so that there is never a second copy of all tables."""
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), _shapes(configs[0], plan, num_dense, mesh, len(configs)))
    for run, config in enumerate(configs):
      state = _insert(state, start_one(np.uint32(config.train.seed)), run)
    return on_huge_pages(state)

  def train(state: TrainState, *groups: Batches) -> TrainState:
    filled = groups + groups[-1:] * (steps - len(groups))
    return compiled(state, filled, rates, np.int32(len(groups)))

  return Programs(start, functools.partial(put_batch, mesh=mesh), train, logits, functools.partial(_part, runs=len(configs)), xla_flops)


@functools.lru_cache(maxsize=32)
def _compile(
  config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh, runs: int
) -> tuple[jax.stages.Wrapped, jax.stages.Compiled, jax.stages.Compiled, float]:
  """(the first state of one run, training steps, prediction, XLA's FLOPs of a step of one run)."""
  graphdef, _ = nnx.split(nnx.eval_shape(lambda: make_model(config, plan, num_dense, jax.random.key(0))), nnx.Param)
  layout, state = plan.layout, _shapes(config, plan, num_dense, mesh, runs)
  batch = jax.eval_shape(lambda: empty_batch(config.train.batch_size, num_dense, layout.num_lookups, layout.weighted))
  rates = jax.eval_shape(lambda: Rates(jnp.zeros(runs), jnp.zeros(runs)))

  def steps(old: TrainState, groups: tuple[Batches, ...], rates: Rates, count: ArrayLike) -> TrainState:
    """`count` steps, on the first of the groups."""
    batches = jax.tree.map(lambda *x: jnp.stack(x), *[jax.tree.map(lambda *x: jnp.stack(x), *group) for group in groups])
    step = functools.partial(train_step, config, plan, graphdef, rates=rates)
    return jax.lax.fori_loop(0, count, lambda i, now: step(now, jax.tree.map(lambda x: x[i], batches)), old)

  options = compiler_options(mesh.devices.flat[0].platform)
  groups = ((batch,) * runs,) * config.steps_per_call
  with jax.default_matmul_precision(config.model.matmul_precision):
    train = jax.jit(steps, donate_argnums=0).lower(state, groups, rates, np.int32(1)).compile(options)
    logits = jax.jit(functools.partial(predict, plan, graphdef)).lower(state, batch).compile(options)
  flops = float((train.cost_analysis() or {}).get("flops", math.nan)) / runs + kernel_flops(config, plan, num_dense)
  return jax.jit(functools.partial(init_state, config, plan, num_dense, mesh)), train, logits, flops


def _each(under: Callable[..., Any], in_front: Callable[..., Any], *states: TrainState) -> TrainState:
  """A state made of `under` over the arrays of tables and `in_front` over the others."""
  parts = ("dense", "dense_slots", "step", "progress")
  others = {part: jax.tree.map(in_front, *(getattr(state, part) for state in states)) for part in parts}
  return TrainState(tables=jax.tree.map(under, *(state.tables for state in states)), **others)


def _shapes(config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh, runs: int) -> TrainState:
  """The shapes of a stacked state."""
  return _each(
    lambda x: jax.ShapeDtypeStruct((runs * x.shape[0], *x.shape[1:]), x.dtype),
    lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype),
    state_shapes(config, plan, num_dense, mesh),
  )


@functools.partial(jax.jit, donate_argnums=0)
def _insert(state: TrainState, one: TrainState, run: ArrayLike) -> TrainState:
  """The stacked state with one run's state in its place."""
  return _each(
    lambda everyones, x: jax.lax.dynamic_update_slice_in_dim(everyones, x, run * len(x), axis=0),
    lambda everyones, x: jax.lax.dynamic_update_index_in_dim(everyones, x, run, axis=0),
    state,
    one,
  )


@functools.partial(jax.jit, static_argnames="runs")
def _part(state: TrainState, run: ArrayLike, runs: int) -> TrainState:
  """A run's state, copied out of the stacked one."""
  return _each(
    lambda x: jax.lax.dynamic_slice_in_dim(x, run * (len(x) // runs), len(x) // runs, axis=0),
    lambda x: jax.lax.dynamic_index_in_dim(x, run, axis=0, keepdims=False),
    state,
  )
