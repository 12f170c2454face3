"""Several epochs, windows of the most recent rows, and thinned held-out rows, against slow references over data sets of known rows."""

import collections

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered_case import numbered, rows_in
from order_case import reference, reference_epochs

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.order import local_count, spread
from dlrm_jax.data.pipeline import batches
from dlrm_jax.data.source import PreparedSource

PER_BLOCK, ROWS = 4, 83  # of a shard of three blocks; a shuffled unit has 32 rows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
  return numbered(tmp_path_factory.mktemp("data"), ROWS, PER_BLOCK, groups=3)


@st.composite
def runs(draw: st.DrawFn) -> dict:
  processes = draw(st.sampled_from([1, 2, 3]))
  each, epochs = draw(st.integers(1, ROWS)), draw(st.integers(1, 4))
  return {
    "size": processes * draw(st.integers(1, 12)), "each": each, "epochs": epochs, "processes": processes,
    "order": draw(st.sampled_from(["time", "shuffled"])), "window": draw(st.sampled_from(["oldest", "recent"])),
    "start": draw(st.integers(0, each * epochs)),
  }  # fmt: skip


def read(dataset, run: dict, process: int, start: int = 0) -> list:
  first = ROWS - run["each"] if run["window"] == "recent" else 0
  total, share = run["each"] * run["epochs"], (process, run["processes"])
  return list(batches(dataset, "train", run["size"], total - start, start, run["order"], 5, share, first, run["each"]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs())
def test_epochs_and_windows_are_those_of_the_reference(dataset, run: dict):
  """In every process, and from every start on: also from one inside a batch, after which batches are cut anew."""
  names = ("order", "processes", "each", "epochs", "window")
  order, processes, each, epochs, window = (run[name] for name in names)
  expected = reference_epochs(ROWS, PER_BLOCK, order, 5, processes, each, epochs, window)
  total = each * epochs
  whole = [read(dataset, run, p) for p in range(processes)]
  rest = [read(dataset, run, p, run["start"]) for p in range(processes)]
  for p in range(processes):
    assert rows_in(whole[p]) == expected[p]
    assert rows_in(rest[p]) == expected[p][local_count(run["start"], (p, processes)) :]
    assert all(batch.weight_b.all() for batch in whole[p][:-1])
  assert {len(got) for got in whole} == {-(-total // run["size"])}
  assert {len(got) for got in rest} == {-(-(total - run["start"]) // run["size"])}
  counts = collections.Counter(row for got in whole for row in rows_in(got))
  assert set(counts.values()) == {epochs} and len(counts) == each
  if window == "recent":
    assert min(counts) == ROWS - each
  elif order == "time" and processes == 1:
    assert max(counts) == each - 1


@pytest.mark.parametrize("seed", [0, 1, 5])
@pytest.mark.parametrize("processes", [1, 2])
def test_later_epochs_draw_the_order_of_many_units_anew(tmp_path, seed, processes):
  """Seven units of 32 rows, so that an order of units that was not drawn cannot pass by chance."""
  rows, epochs = 7 * 32 + 11, 4
  dataset = numbered(tmp_path, rows, PER_BLOCK, groups=3)
  expected = reference_epochs(rows, PER_BLOCK, "shuffled", seed, processes, rows, epochs)
  for p in range(processes):
    got = list(batches(dataset, "train", 10, rows * epochs, 0, "shuffled", seed, (p, processes), 0, rows))
    assert rows_in(got) == expected[p]


def test_one_epoch_of_the_oldest_is_what_it_was(dataset):
  """Runs that were made before there were epochs and windows read the same rows."""
  for order in ("time", "shuffled"):
    for processes in (1, 2, 3):
      assert reference_epochs(ROWS, PER_BLOCK, order, 5, processes, ROWS, 1) == reference(ROWS, PER_BLOCK, order, 5, processes)
      for p in range(processes):
        old, new = (list(batches(dataset, "train", 6, None, 0, order, 5, (p, processes), 0, each)) for each in (None, ROWS))
        assert rows_in(old) == rows_in(new) == reference(ROWS, PER_BLOCK, order, 5, processes)[p]


def test_shuffled_epochs_have_different_orders_and_times_repeat():
  for order, different in (("time", 1), ("shuffled", 3)):
    (rows,) = reference_epochs(ROWS, PER_BLOCK, order, 5, 1, 80, 3)
    assert len({tuple(rows[i : i + 80]) for i in (0, 80, 160)}) == different


def test_a_recent_window_in_time_order_is_the_end_of_the_log(dataset):
  for each in (1, 3, 4, 5, 32, 33, 82, 83):
    got = rows_in(list(batches(dataset, "train", 7, each, first_row=ROWS - each)))
    assert got == list(range(ROWS - each, ROWS))


def test_a_source_takes_window_and_epochs_from_the_run(dataset):
  source = PreparedSource(dataset, window="recent", epochs=2)
  assert rows_in(list(source.train_batches(0, 8, 20))) == [*range(73, 83)] * 2
  assert rows_in(list(source.train_batches(0, 8, 20, 13))) == [*range(76, 83)]
  with pytest.raises(UserError, match=r"^pass_rows=84: the train split of numbered has 83 rows"):
    list(PreparedSource(dataset, epochs=2).train_batches(0, 8, 168))


def test_a_window_that_has_fewer_rows_than_asked_for_says_so(dataset):
  with pytest.raises(UserError, match=r"^num_examples=5 from example 0 on: the train split of numbered has 4 rows after its first 79$"):
    batches(dataset, "train", 8, 5, first_row=79)


@pytest.mark.parametrize("count", [0, 1, 5, 64, 1000, 4097])
def test_spread_takes_one_of_every_block_and_nests(count: int):
  before = np.arange(count)
  for octaves in range(8):
    rows, size = spread(count, octaves), 2**octaves
    assert set(rows) <= set(before) and (np.diff(rows) > 0).all()
    strata = rows // size
    assert len(set(strata)) == len(rows) and set(range(count // size)) <= set(strata.tolist())
    before = rows


def test_spread_follows_no_period_of_the_log():
  """In logs with one positive after a fixed number of negatives a regular sample has all of them or none."""
  for octaves in (1, 2, 3, 5):
    rows = spread(2**17, octaves)
    for period in (2, 3, 4, 8, 100):
      shares = np.bincount(rows % period, minlength=period) / len(rows)
      np.testing.assert_allclose(shares, 1 / period, atol=5 * np.sqrt(1 / period / len(rows)))


def test_spread_is_golden():
  """Curves on disk were evaluated on these rows."""
  assert spread(40, 2).tolist() == [1, 5, 9, 15, 16, 21, 26, 30, 32, 38]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 40), count=st.integers(1, ROWS), octaves=st.integers(0, 5))
def test_thinned_batches_are_the_spread_rows(dataset, size: int, count: int, octaves: int):
  rows = spread(count, octaves)
  got = list(batches(dataset, "train", size, count, only=rows))
  assert rows_in(got) == rows.tolist() and len(got) == -(-len(rows) // size)
