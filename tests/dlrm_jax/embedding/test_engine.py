"""The engine on meshes of simulated devices against the dense oracle: a sample of the grid; all of it is in test_engine_slow.py."""

import jax
import numpy as np
import pytest

from benchmarks.accelerator.engine_case import ROWS, Case, run
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig, RunConfig, TableConfig, TrainConfig
from dlrm_jax.embedding import engine
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.placement import Group
from dlrm_jax.embedding.planner import LANES, Machine, make_plan, plan_bytes
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS, init_group, init_tables
from dlrm_jax.embedding.update import Rule

NATIVE = (
  Case(kernels="native", placement="replicated", mesh="1"),
  Case(kernels="native", placement="replicated", mesh="1", bags=True, optimizer="sgd", weight_decay=0.01),
  Case(kernels="native", placement="replicated", mesh="1", bags=True, optimizer="adam"),  # looks up by kernel, steps in XLA
  Case(kernels="native", placement="replicated", mesh="4", bags=True, optimizer="adagrad"),
  Case(kernels="native", placement="row", mesh="8", bags=True, skew=True),
  Case(kernels="native", placement="table", mesh="2", optimizer="adagrad", weight_decay=0.01),
  Case(kernels="native", placement="column", mesh="2x4", bags=True),
  Case(kernels="native", placement="column", mesh="4", bags=True, optimizer="sgd"),
  Case(kernels="native", placement="row", mesh="2", dtype="bfloat16", bags=True),
)
SAMPLE = (
  Case(placement="replicated", mesh="1"),
  Case(placement="replicated", mesh="1", bags=True, optimizer="adam", weight_decay=0.01),
  Case(placement="replicated", mesh="4", bags=True, optimizer="adagrad"),
  Case(placement="replicated", mesh="2", batch_size=64, optimizer="adam", weight_decay=0.01),  # small tables: the whole gradient is summed
  Case(placement="row", mesh="8"),
  Case(placement="row", mesh="2x4", bags=True, optimizer="adam"),
  Case(placement="row", mesh="8", bags=True, skew=True, optimizer="adagrad"),
  Case(placement="row", mesh="4", lanes=LANES),
  Case(placement="table", mesh="2", bags=True, optimizer="sgd"),
  Case(placement="table", mesh="8"),
  Case(placement="column", mesh="2x4", bags=True),
  Case(placement="column", mesh="4", optimizer="adam"),
  Case(placement="row", mesh="3", batch_size=33, bags=True),
  Case(placement="auto,c0:table,c1:row,c2:column", mesh="8", bags=True),
  Case(placement="row", mesh="2", dtype="bfloat16", bags=True, lanes=LANES),
  *NATIVE,
)


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_five_steps_equal_the_dense_oracle(case: Case):
  run(case)


def test_small_replicated_tables_sum_whole_gradients():
  groups = Case(placement="replicated", mesh="2", batch_size=64).plan().groups
  assert [(group.dense_gradient, list(group.rows)) for group in groups] == [(False, [133]), (True, [50, 20, 8, 3])]


@pytest.mark.parametrize("num_devices", [2, 3, 8])
def test_rows_are_dealt_evenly_and_each_has_one_place(num_devices: int):
  (group,) = Case(placement="row", mesh=str(num_devices), batch_size=24).plan().groups
  places = np.asarray(group.place_of(np.arange(sum(ROWS), dtype=np.int32)))
  assert len(np.unique(places)) == sum(ROWS)
  owners = places // group.local_rows
  counts = np.bincount(owners, minlength=num_devices)
  assert counts.max() - counts.min() <= 1
  for device in range(num_devices):
    held = np.asarray(group.layout_row(device, (places[owners == device] % group.local_rows).astype(np.int32)))
    np.testing.assert_array_equal(np.sort(held), np.flatnonzero(owners == device))


@pytest.mark.parametrize(("batch_size", "most"), [(2048, 1.05), (16, 1.3)])
def test_zipf_ids_load_owners_evenly_once_repeats_are_left_out(batch_size: int, most: float):
  """26 tables of frequency ranks on 8 devices, the fullest owner over the mean: without the turn of each round, 1.4 at a batch of 16."""
  layout = Layout(tuple(TableConfig(f"c{i}", 100_000, 4) for i in range(26)), "top", (100_000,) * 26, first_order=False)
  group, worst = Group(layout, tuple(range(26)), "row", 8), []
  place_of = jax.jit(group.place_of)
  for seed in range(10):
    rows = np.minimum(np.random.default_rng(seed).zipf(1.2, (batch_size, 26)) - 1, 99_999) + 100_000 * np.arange(26)
    loads = np.bincount(np.unique(place_of(rows.astype(np.int32))) // group.local_rows, minlength=8)
    worst.append(loads.max() / loads.mean())
  assert np.mean(worst) < most


@pytest.mark.parametrize("placement", ["replicated", "row", "table", "column"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZER_SLOTS))
def test_planned_bytes_are_those_allocated(placement: str, optimizer: str):
  """The arrays of one device, counted; first-order scalars and the scratch included."""
  plan = Case(placement=placement, mesh="8", optimizer=optimizer).plan()
  train = TrainConfig(table_optimizer=optimizer)
  made = jax.eval_shape(lambda: {n: init_group(g, train, np.uint32(0), 0) for n, g in plan.by_name.items()})
  assert plan_bytes(plan, optimizer) == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))


def test_the_planner_deals_by_rows_what_does_not_fit_and_refuses_whole_tables_that_cannot():
  tables = (TableConfig("large", 4_000_000, 64), TableConfig("bag", 1_000_000, 64, bag_length=8), TableConfig("small", 50, 64))
  layout = Layout(tables, "top", (4_000_000, 1_000_000, 50), first_order=False)
  train = TrainConfig(batch_size=8192)

  def placements(gib: float | None, *placement: str) -> tuple[str, ...]:
    config = RunConfig(train=train, mesh=MeshConfig(mesh="8", placement=placement or ("auto",), device_memory_gib=gib))
    return make_plan(config, layout, Machine(8)).placements

  assert placements(None) == ("column", "column", "replicated")
  assert placements(0.175) == ("row", "column", "replicated")  # column keeps an accumulator and a scratch word of every row on every device
  with pytest.raises(UserError, match=r"the tables need 0.98 GiB on each of 8 devices.* use another --placement"):
    placements(0.5, "table")  # whole: the device with the large one holds all of it
  assert placements(2, "table") == ("table", "table", "table")


def test_rows_are_exchanged_without_a_search_in_a_loop():
  """A loop of a lookup and one of an update, round by round; a binary search would be a loop more, which a GPU's host would run."""
  case = Case(placement="row", mesh="8")
  plan, mesh, layout = case.plan(), case.devices, case.layout
  train = TrainConfig(batch_size=case.batch_size)
  tables = jax.eval_shape(lambda: init_tables(plan, train, np.uint32(0), mesh))
  lookups = Lookups(np.zeros((32, len(ROWS)), np.int32), np.ones((32, len(ROWS)), bool), None)
  grads = {name: np.zeros((32, len(ROWS), dim), np.float32) for name, dim in layout.dims.items()}

  def step(tables, lookups, grads):
    vectors, routes = engine.lookup(plan, mesh, tables, lookups)
    return vectors, engine.update(plan, mesh, tables, routes, grads, Rule("rowwise_adagrad", 0.1, 0.0, 0))

  assert jax.jit(step).lower(tables, lookups, grads).as_text().count("stablehlo.while") == 2
