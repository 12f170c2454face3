"""Several runs that differ in seed or learning rates only, in one program on one device: how `step.train_step` goes over them.

In a stacked state the runs' tables are placed one after the other (`embedding/stacked.py`). Every other array has an axis of runs in front.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.embedding import stacked
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import Tables
from dlrm_jax.embedding.update import Rule
from dlrm_jax.machine.mesh import REPLICATED, placed
from dlrm_jax.training.state import TrainState, state_shapes
from dlrm_jax.training.step import Batches, OneRun


@dataclasses.dataclass(frozen=True)
class StackedRuns(OneRun):
  """How steps go over several runs at once, on one device."""

  def lookup(self, tables: Tables, lookups: Lookups) -> tuple[dict[str, Array], Lookups]:
    return stacked.lookup(self.build.plan, tables, lookups), lookups

  def update(self, tables: Tables, routes: Lookups, grads: dict[str, Array], rule: Rule) -> Tables:
    return stacked.update(self.build.plan, tables, routes, grads, rule)

  def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.vmap(function)

  def dense_part(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Under vmap, or one by one where CPU kernels are called.

    Under vmap their calls become a loop that copies what it cuts out: four steps of the small preset took 8.9 ms, against 6.6 one by one
    and 6.3 in four programs (one core).
    """
    if not self.build.plan.kernels:
      return jax.vmap(function)

    def one_by_one(*args: Any) -> Any:
      out = [function(*jax.tree.map(lambda x, run=run: x[run], args)) for run in range(self.runs)]
      return jax.tree.map(lambda *x: jnp.stack(x), *out)

    return one_by_one

  def for_all(self, lookups: Lookups) -> Lookups:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.runs, *x.shape)), lookups)

  def join(self, batches: Batches) -> Batch:
    return jax.tree.map(lambda *x: jnp.stack(x), *batches)

  def state_shapes(self) -> TrainState:
    shapes = _each(
      lambda x: jax.ShapeDtypeStruct((self.runs * x.shape[0], *x.shape[1:]), x.dtype),
      lambda x: jax.ShapeDtypeStruct((self.runs, *x.shape), x.dtype),
      state_shapes(self.build),
    )
    return placed(shapes, self.build.mesh, REPLICATED)


def stacked_state(over: OneRun, init: Callable[[np.uint32], TrainState], seeds: Sequence[int]) -> TrainState:
  """The state before the first step. It is made run by run, so that there is never a second copy of all tables."""
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), over.state_shapes())
  for run, seed in enumerate(seeds):
    state = _insert(state, init(np.uint32(seed)), run)
  return state


def _each(under: Callable[..., Any], in_front: Callable[..., Any], *states: TrainState) -> TrainState:
  """A state made of `under` over the arrays of tables and `in_front` over the others."""
  parts = ("dense", "dense_slots", "step", "progress")
  others = {part: jax.tree.map(in_front, *(getattr(state, part) for state in states)) for part in parts}
  return TrainState(tables=jax.tree.map(under, *(state.tables for state in states)), **others)


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
def state_of_run(state: TrainState, run: ArrayLike, runs: int) -> TrainState:
  """The state of one of so many runs, copied out of the stacked one."""
  return _each(
    lambda x: jax.lax.dynamic_slice_in_dim(x, run * (len(x) // runs), len(x) // runs, axis=0),
    lambda x: jax.lax.dynamic_index_in_dim(x, run, axis=0, keepdims=False),
    state,
  )
