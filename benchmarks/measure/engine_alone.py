"""The embedding engine compiled without a model. Used by benchmarks/lookup.py and benchmarks/peers.

The programs take and return one state: the tables, the pooled vectors of the last batch and its routes. So no step makes a new array.
On a CPU a new array costs page faults that a training step does not have.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Int32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.config import RunConfig
from dlrm_jax.embedding import engine
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import Tables, init_tables, specs
from dlrm_jax.machine.host_memory import on_huge_pages
from dlrm_jax.machine.mesh import constrain, placed, split
from dlrm_jax.model.flops import FLOAT_BYTES, cost
from dlrm_jax.training.state import Rates, table_rule

OPERATIONS = ("gather", "update", "both")

Vectors = dict[str, ArrayLike]  # {"rows": [B, F, D]}; abstract while programs are made


@dataclasses.dataclass(frozen=True)
class EngineCase:
  """What is timed: sizes (of `run`), the placement of the tables, the mesh, and the skew of the ids."""

  run: RunConfig
  plan: Plan
  mesh: Mesh
  skew: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EngineState:
  """The tables, and the result of the last lookup."""

  tables: Tables
  vectors: Vectors
  routes: Any


@dataclasses.dataclass(frozen=True)
class EnginePrograms:
  """Compiled functions that take the old state's buffers.

  Attributes:
    init: the state before the first step.
    gather: (state, lookups) -> state.
    update: (state, (routes, gradients)) -> state.
    both: (state, (lookups, gradients)) -> state. 0 times a looked-up value is added to the learning rate, so the update cannot begin
      before the vectors are ready, as in training. Otherwise the compiler may read rows after it wrote them, and then it keeps a copy of
      the tables.
  """

  init: Callable[[], EngineState]
  gather: Callable[[EngineState, Lookups], EngineState]
  update: Callable[[EngineState, tuple[Any, Vectors]], EngineState]
  both: Callable[[EngineState, tuple[Lookups, Vectors]], EngineState]


def make_programs(case: EngineCase) -> EnginePrograms:
  """The programs of one case; they are compiled when first called."""
  plan, mesh, train = case.plan, case.mesh, case.run.train
  rule, here = table_rule(train, Rates.of(train), jnp.int32(0)), NamedSharding(mesh, split(mesh))

  def init(seed: Any, lookups: Lookups) -> EngineState:
    tables = init_tables(plan, train, seed, mesh)
    return EngineState(tables, *engine.lookup(plan, mesh, tables, lookups))

  def gather(old: EngineState, lookups: Lookups) -> EngineState:
    return constrain(EngineState(old.tables, *engine.lookup(plan, mesh, old.tables, lookups)), shapes)

  def update(old: EngineState, given: tuple[Any, Vectors]) -> EngineState:
    tables = engine.update(plan, mesh, old.tables, *given, rule)
    return constrain(EngineState(tables, old.vectors, old.routes), shapes)

  def both(old: EngineState, given: tuple[Lookups, Vectors]) -> EngineState:
    lookups, grads = given
    vectors, routes = engine.lookup(plan, mesh, old.tables, lookups)
    after = dataclasses.replace(rule, lr=rule.lr + 0 * sum(x[0, 0, 0] for x in vectors.values()))
    tables = engine.update(plan, mesh, old.tables, routes, grads, after)
    return constrain(EngineState(tables, vectors, routes), shapes)

  size = (train.batch_size, plan.layout.num_lookups)
  none = Lookups(np.zeros(size, np.int32), np.zeros(size, bool), None)
  found = jax.eval_shape(init, np.uint32(0), none)
  groups = {name: placed(found.tables.groups[name], mesh, spec) for name, spec in specs(plan, mesh).items()}
  shapes = EngineState(Tables(groups), *(placed(tree, mesh, split(mesh)) for tree in (found.vectors, found.routes)))
  begin = jax.jit(lambda seed, lookups: constrain(init(seed, lookups), shapes))
  compiled = (jax.jit(program, donate_argnums=0, keep_unused=True) for program in (gather, update, both))
  return EnginePrograms(lambda: on_huge_pages(begin(np.uint32(train.seed), jax.device_put(none, here))), *compiled)


def draw(layout: Layout, batch_size: int, skew: float, seed: int) -> Int32[np.ndarray, "B L"]:
  """Draws the row of each lookup within its feature's table: floor(V u^skew), u uniform."""
  rows_l = np.array([t.num_rows for t in layout.tables])[layout.feature_of_lookup]
  u_bl = np.random.default_rng(seed).random((batch_size, layout.num_lookups))
  return np.minimum(rows_l * u_bl**skew, rows_l - 1).astype(np.int32)


def distinct_share(layout: Layout, row_bl: Int32[np.ndarray, "B L"]) -> float:
  """Number of distinct rows of a batch over its number of lookups."""
  return len(np.unique(row_bl + layout.offsets[layout.feature_of_lookup])) / row_bl.size


def operation_bytes(run: RunConfig, layout: Layout, operation: str) -> int:
  """Bytes of memory that an operation moves on one batch, counted from the structure.

  A gather reads a row for each lookup and writes a float32 vector for each feature. An update reads and writes the row and the optimiser
  slots of each lookup (dlrm_jax/model/flops.py). The count leaves out ids, routes and gradients.
  """
  moved = cost(run.model, run.train, layout, num_dense=0).bytes["tables_moved_per_example"]  # the gather's reads and the update
  values = sum(layout.dims.values())
  read = layout.num_lookups * values * (2 if layout.dtype == "bfloat16" else FLOAT_BYTES)
  written = len(layout.tables) * values * FLOAT_BYTES
  return run.train.batch_size * {"gather": read + written, "update": moved - read, "both": moved + written}[operation]
