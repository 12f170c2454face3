"""Runs the engine and the dense oracle side by side: on a new machine (section `correct`), and in the tests of the engine."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from benchmarks.accelerator import oracle as engine_oracle
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.hashing import uniform, word
from dlrm_jax.config import MeshConfig, RunConfig, TableConfig, TrainConfig
from dlrm_jax.embedding import engine
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.placement import Group, Plan
from dlrm_jax.embedding.planner import Machine, make_plan
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS, Tables, init_tables
from dlrm_jax.embedding.update import Rule
from dlrm_jax.machine.mesh import make_mesh

ROWS, BAGS, DIM, INIT, LR = (50, 20, 133, 8, 3), (3, 1, 5, 2, 1), 8, 0.05, 0.1


@dataclasses.dataclass(frozen=True)
class Case:
  """One cell of the grid."""

  optimizer: str = "rowwise_adagrad"
  placement: str = "row"
  mesh: str = "8"
  bags: bool = False
  skew: bool = False  # all requests go to one owner
  lanes: int = 0
  weight_decay: float = 0.0
  dtype: str = "float32"
  batch_size: int = 32
  kernels: str = "xla"

  def __str__(self) -> str:
    return (
      " ".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default) or "default"
    )

  @property
  def layout(self) -> Layout:
    tables = tuple(TableConfig(f"c{i}", n, DIM, bag if self.bags else 1) for i, (n, bag) in enumerate(zip(ROWS, BAGS)))
    return Layout(tables, "top", ROWS, first_order=True, weighted=self.bags, dtype=self.dtype)

  @functools.cached_property
  def devices(self) -> Mesh:
    return make_mesh(RunConfig(mesh=MeshConfig(mesh=self.mesh), train=TrainConfig(batch_size=self.batch_size)))

  def plan(self) -> Plan:
    placement = tuple(self.placement.split(","))
    train = TrainConfig(batch_size=self.batch_size, table_optimizer=self.optimizer)
    config = RunConfig(mesh=MeshConfig(mesh=self.mesh, placement=placement), train=train, kernels=self.kernels)
    platform = self.devices.devices.flat[0].platform
    return make_plan(config, self.layout, Machine(self.devices.size, None, self.lanes, platform))


def logical(group: Group, array: np.ndarray, dim: int, per_row: bool = False) -> dict[int, Any]:
  """{row of the layout: its value} from the parts of all devices; copies must agree."""
  parts = np.split(array, group.num_devices) if group.sharded else [array]
  out: dict[int, list[Any]] = {}
  places = np.arange(group.local_rows, dtype=np.int32)
  for device, part in enumerate(parts):
    rows = np.asarray(group.layout_row(device, places))
    values = part if per_row else part.reshape(group.local_rows, -1)
    for place in np.flatnonzero(rows < group.layout.total_rows):
      out.setdefault(int(rows[place]), []).append(values[place])
  split = group.is_split(dim) and not per_row
  for pieces in out.values():
    assert split or all(np.array_equal(piece, pieces[0]) for piece in pieces)
  return {row: np.concatenate(pieces) if split else pieces[0] for row, pieces in out.items()}


def whole(plan: Plan, tables: Tables, stack: str, slot: str | None = None) -> np.ndarray:
  """One array in the order of the layout."""
  rows: dict[int, Any] = {}
  for name, group in plan.by_name.items():
    state = tables.groups[name].stacks[stack]
    array = np.asarray(state.rows_vd if slot is None else state.slots[slot])
    rows |= logical(group, array, plan.layout.dims[stack], per_row=array.ndim == 1)
  assert sorted(rows) == list(range(plan.layout.total_rows))
  return np.stack([rows[r] for r in range(len(rows))])


def draw(case: Case, plan: Plan, rng: np.random.Generator) -> Lookups:
  """Lookups with many duplicates; some ids of bags and the last examples do not count."""
  lengths = case.layout.bag_lengths
  rows_l = np.repeat(ROWS, lengths)
  row_bl = np.minimum(rng.zipf(1.3, (case.batch_size, len(rows_l))) - 1, rows_l - 1).astype(np.int32)
  if case.skew:
    (group,) = plan.groups
    owners = np.asarray(group.place_of(np.arange(sum(ROWS), dtype=np.int32))) // group.local_rows
    first_l = np.repeat(group.offsets, lengths)
    for l, (first, rows) in enumerate(zip(first_l, rows_l)):
      mine = np.flatnonzero(owners[first : first + rows] == 0) if rows > 3 else np.arange(rows)
      row_bl[:, l] = rng.choice(mine, case.batch_size)
  valid_bl = np.ones(row_bl.shape, bool)
  valid_bl[-3:] = False
  if not case.bags:
    return Lookups(row_bl, valid_bl, None)
  weight_bl = rng.uniform(0.5, 2, row_bl.shape).astype(np.float32) * (rng.random(row_bl.shape) < 0.7)
  return Lookups(row_bl, valid_bl & (weight_bl != 0), weight_bl)


def run(case: Case, steps: int = 5) -> None:
  """Some steps of both: rows, slots and pooled vectors must agree, and rows outside the batches keep their bits. Raises AssertionError."""
  plan, mesh, layout = case.plan(), case.devices, case.layout
  train = TrainConfig(table_optimizer=case.optimizer, table_init=INIT, batch_size=case.batch_size)
  tables = jax.jit(lambda seed: init_tables(plan, train, seed, mesh))(np.uint32(1))

  @functools.partial(jax.jit, donate_argnums=0)
  def step(tables: Tables, lookups: Lookups, grads: dict[str, Array], number: ArrayLike) -> tuple[dict[str, Array], Tables]:
    vectors, routes = engine.lookup(plan, mesh, tables, lookups)
    rule = Rule(case.optimizer, LR, case.weight_decay, number)
    return vectors, engine.update(plan, mesh, tables, routes, grads, rule)

  lengths = layout.bag_lengths
  start = {stack: whole(plan, tables, stack).astype(np.float64) for stack in layout.dims}
  place = word(np.uint32(1), np.arange(layout.total_rows)[:, None], np.arange(DIM))
  first = ((2 * np.asarray(uniform(place)) - 1) * np.float32(INIT)).astype(np.float32)
  np.testing.assert_allclose(start["rows"], first, rtol=1e-6 if case.dtype == "float32" else 2**-8)
  oracle = {
    stack: (rows, {s: np.zeros(rows.shape if full else len(rows)) for s, full in OPTIMIZER_SLOTS[case.optimizer].items()})
    for stack, rows in start.items()
  }
  rng, touched = np.random.default_rng(0), np.zeros(layout.total_rows, bool)
  for number in range(steps):
    lookups = draw(case, plan, rng)
    grads = {s: rng.normal(size=(case.batch_size, len(lengths), dim)).astype(np.float32) for s, dim in layout.dims.items()}
    vectors, tables = step(tables, lookups, grads, np.int32(number))
    weight = np.ones(lookups.row_bl.shape) if lookups.weight_bl is None else lookups.weight_bl
    row_bl = lookups.row_bl + np.repeat(layout.offsets, lengths)
    for stack, (rows, slots) in oracle.items():
      expected = engine_oracle.pooled(rows, row_bl, weight * lookups.valid_bl, lengths)[:-3]
      if case.dtype == "float32":
        np.testing.assert_allclose(vectors[stack][:-3], expected, rtol=1e-5, atol=1e-5, err_msg=f"{stack} at step {number}")
      total, touched_v = engine_oracle.total_gradient(len(rows), row_bl, lookups.valid_bl, weight, grads[stack], lengths)
      oracle[stack] = engine_oracle.dense_update(rows, slots, case.optimizer, total, touched_v, LR, case.weight_decay, number)
      touched |= touched_v
  assert 0 < touched.sum() < len(touched)
  for stack, (rows, slots) in oracle.items():
    got = whole(plan, tables, stack)
    largest = np.abs(rows - start[stack]).max()
    rtol, atol = (1e-5, 1e-6 * largest) if case.dtype == "float32" else (steps * 2**-7, steps * 2**-7 * np.abs(rows).max())
    np.testing.assert_allclose(got.astype(np.float64), rows, rtol=rtol, atol=atol, err_msg=f"{case} {stack}")
    np.testing.assert_array_equal(got[~touched].astype(np.float64), start[stack][~touched])  # bit for bit
    for name, expected in slots.items():
      got = whole(plan, tables, stack, name)
      np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max(), err_msg=f"{case} {stack} {name}")
      assert not got[~touched].any()
