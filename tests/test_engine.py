"""The engine on meshes of simulated devices against the dense oracle: a sample of the grid; all of it is in test_engine_slow.py."""

import jax
import numpy as np
import pytest
from engine_case import LANES, ROWS, Case, run

from dlrm_jax.embedding.exchange import row

SAMPLE = (
  Case(placement="replicated", mesh="1"),
  Case(placement="replicated", mesh="1", bags=True, optimizer="adam", weight_decay=0.01),
  Case(placement="replicated", mesh="4", bags=True, optimizer="adagrad"),
  Case(placement="replicated", mesh="2", batch_size=64, optimizer="sgd"),  # small tables: the whole gradient is summed
  Case(placement="row", mesh="8"),
  Case(placement="row", mesh="2x4", bags=True, optimizer="adam"),
  Case(placement="row", mesh="8", bags=True, skew=True, optimizer="adagrad"),
  Case(placement="row", mesh="4", lanes=LANES),
  Case(placement="table", mesh="2", bags=True, optimizer="sgd"),
  Case(placement="table", mesh="8"),
  Case(placement="column", mesh="2x4", bags=True),
  Case(placement="column", mesh="4", optimizer="adam"),
  Case(placement="auto,c0:table,c1:column,c2:row", mesh="8", bags=True),
  Case(placement="row", mesh="2", dtype="bfloat16", bags=True, lanes=LANES),
)


@pytest.mark.parametrize("case", SAMPLE, ids=str)
def test_five_steps_equal_the_dense_oracle(case: Case):
  run(case)


def test_small_replicated_tables_sum_whole_gradients():
  groups = Case(placement="replicated", mesh="2", batch_size=64).plan().groups
  assert [(group.dense_gradient, list(group.rows)) for group in groups] == [(False, [133]), (True, [50, 20, 8, 3])]


@pytest.mark.parametrize("num_devices", [2, 3, 8])
def test_rows_are_dealt_evenly_and_each_has_one_place(num_devices: int):
  case = Case(placement="row", mesh=str(min(num_devices, 8)), batch_size=24)
  (group,) = case.plan().groups
  places = np.asarray(group.place_of(np.arange(sum(ROWS), dtype=np.int32)))
  assert len(np.unique(places)) == sum(ROWS)
  counts = np.bincount(places // group.local_rows, minlength=num_devices)
  assert counts.max() - counts.min() <= 1
  for device in range(num_devices):
    mine = places[places // group.local_rows == device] % group.local_rows
    held = np.asarray(group.layout_row(device, mine.astype(np.int32)))
    np.testing.assert_array_equal(np.sort(held), np.flatnonzero(places // group.local_rows == device))


def test_zipf_ids_load_owners_evenly_once_repeats_are_left_out():
  """26 tables of frequency ranks on 8 devices: the fullest owner gets at most 1.1 times the mean of a device's distinct rows."""
  rng = np.random.default_rng(0)
  rows = np.minimum(rng.zipf(1.2, (2048, 26)) - 1, 99_999) + 100_000 * np.arange(26)
  shift = np.asarray(jax.jit(lambda r: row.Group.place_of(_group(), r))(rows.astype(np.int32)))
  loads = np.bincount(np.unique(shift) // _group().local_rows, minlength=8)
  assert loads.max() < 1.1 * loads.mean()


def _group() -> row.Group:
  from dlrm_jax.config import TableConfig
  from dlrm_jax.embedding.layout import Layout

  layout = Layout(tuple(TableConfig(f"c{i}", 100_000, 4) for i in range(26)), "top", (100_000,) * 26, first_order=False)
  return row.Group(layout, tuple(range(26)), "row", 8)


def test_one_owner_for_all_requests_takes_several_rounds():
  """The loop is what serves the worst skew: with its first round alone, lookups come back empty."""
  case = Case(placement="row", mesh="8", skew=True)
  assert row.capacity(case.batch_size // 8 * len(ROWS), 8) < len(ROWS)  # one example alone asks for more than a round takes
