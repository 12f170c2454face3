"""Histograms of dense columns: flat data have flat bars, whatever step their numbers have, and every column has some."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax.data.describe.dense_columns import scale_of
from dlrm_jax.data.describe.histogram import MOST_BARS, Scale, _whole_steps, histogram
from dlrm_jax.data.transform import Input

PLAIN, LOG1P = (scale_of(Input("x", "x", transform)) for transform in ("none", "log1p"))

F32 = np.finfo(np.float32)


def of(numbers: np.ndarray, scale: Scale = PLAIN):
  """The histogram of some numbers of a log."""
  value_k, count_k = np.unique(scale.value_of(np.asarray(numbers, np.float64)), return_counts=True)
  return histogram(value_k, value_k, count_k.astype(np.int64), scale, float(value_k[0]), float(value_k[-1]))


def check(found, total: int):
  assert len(found.edges) == len(found.counts) + 1 and sum(found.counts) == total and min(found.counts) >= 0
  assert np.all(np.diff(found.edges) > 0) and np.isfinite(found.edges).all()


@pytest.mark.parametrize(
  ("first", "step", "count"),
  [
    *((0, 1, n) for n in (2, 3, 14, 40, 41, 59, 60, 97, 100, 101, 127, 720, 1440, 5003)),
    (1_717_200_000, 128, 675),  # a day of seconds in float32, which is no finer
    (-50, 1, 101),
    (0, 5, 77),
    (0, 0.5, 10),
    (0, 0.1, 101),
    (17.87, 0.01, 350),
    (0, 0.001, 2000),
    (1e6, 0.0625, 300),
    (2.0**100, 2.0**77, 90),
  ],
)
def test_flat_data_have_flat_bars(first: float, step: float, count: int):
  """Before, 0..100 had bars of 2 and of 3 numbers, and 0..59 bars of 1 and of 2."""
  numbers = first + step * np.arange(count)
  found = of(np.repeat(numbers, 10))
  check(found, 10 * count)
  each = set(found.counts[:-1])
  assert len(each) <= 1 and found.counts[-1] <= max(each, default=10 * count)
  assert len(found.counts) <= MOST_BARS and (count > MOST_BARS or len(found.counts) == count)
  assert found.counts[-1] > 0.6 * found.counts[0]  # the last bar lacks few steps
  middle_b = (np.array(found.edges[:-1]) + np.array(found.edges[1:])) / 2
  if len(found.counts) == count:
    np.testing.assert_allclose(middle_b, numbers, rtol=1e-6)


def test_counts_are_those_of_the_numbers_between_the_edges():
  rng = np.random.default_rng(4)
  for numbers in (rng.geometric(0.03, 5000), rng.normal(0, 1, 5000), np.round(rng.lognormal(2, 1, 5000), 2), rng.zipf(1.5, 5000) % 10**6):
    for scale in (PLAIN, LOG1P):
      kept = np.asarray(numbers, np.float64) if scale is PLAIN else np.maximum(numbers, 0.0)
      found = of(kept, scale)
      check(found, 5000)
      by_hand = [np.count_nonzero((kept >= a) & (kept < b)) for a, b in zip(found.edges, found.edges[1:])]
      assert np.abs(np.array(by_hand) - found.counts).max() <= 2  # numbers at an edge, after float32


def test_whole_numbers_on_a_logarithmic_axis():
  """The density of 0..999 over log(1 + x) grows like 1 + x, without a gap between the first numbers."""
  found = of(np.repeat(np.arange(1000), 3), LOG1P)
  check(found, 3000)
  assert found.log and found.edges[:4] == (-0.5, 0.5, 1.5, 2.5) and found.counts[:3] == (3, 3, 3)
  assert all(round(edge * 2) % 2 for edge in np.array(found.edges))  # half-way between whole numbers
  width_b = np.diff(found.edges)
  np.testing.assert_allclose(np.array(found.counts[:-1]) / width_b[:-1], 3)
  assert len(found.counts) < 60
  few = of(np.arange(40), LOG1P)
  assert not few.log and few.counts == (1,) * 40  # each number has a bar of its own


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_after_standard_have_bars_of_whole_steps(log: bool):
  numbers = np.repeat(np.arange(101), 3)
  plain = np.log1p(numbers) if log else numbers
  one = Input("x", "x", "standard", log=log, mean=float(plain.mean()), deviation=float(plain.std()))
  found = of(numbers, scale_of(one))
  check(found, 303)
  assert all(round(edge * 2) % 2 for edge in np.array(found.edges)) and found.log == log
  density_b = np.array(found.counts) / np.diff(found.edges)
  assert density_b[:-1].max() == density_b[:-1].min() == 3


def test_numbers_that_standard_cuts_off_do_not_spoil_the_others():
  """Beyond ten deviations the number itself is not known."""
  numbers = np.concatenate([np.repeat(np.arange(20), 100), [-400, 900]])
  one = Input("x", "x", "standard", mean=float(np.mean(numbers)), deviation=6.0)
  found = of(numbers, scale_of(one))
  check(found, 2002)
  assert all(round(edge * 2) % 2 for edge in np.array(found.edges))


def test_whole_numbers_after_quantile_have_bars_of_whole_steps():
  numbers = np.repeat(np.arange(1, 60), np.arange(1, 60))
  edges = np.quantile(numbers, np.linspace(0, 1, 257), method="inverted_cdf")
  found = of(numbers, scale_of(Input("x", "x", "quantile", edges=tuple(map(float, edges)))))
  check(found, len(numbers))
  assert not found.log and all(round(edge * 2) % 2 for edge in np.array(found.edges))


def test_whole_numbers_that_are_known_to_a_bucket_only():
  """Beyond 2**18 different values `describe` knows the bucket of each. Among small numbers a bucket still has one whole number."""
  numbers = np.repeat(np.arange(500_000.0), 2)
  value_n = LOG1P.value_of(numbers)
  bucket_n = value_n.view(np.int32) >> 11
  bucket_k, count_k = np.unique(bucket_n, return_counts=True)
  first_k, last_k = (bucket_k << 11).astype(np.int32).view(np.float32), ((bucket_k << 11) + 2047).astype(np.int32).view(np.float32)
  found = histogram(first_k, last_k, count_k, LOG1P, 0.0, float(value_n[-1]))
  check(found, 1_000_000)
  assert found.edges[:4] == (-0.5, 0.5, 1.5, 2.5) and found.counts[:3] == (2, 2, 2)
  np.testing.assert_allclose(np.array(found.counts[:-1]) / np.diff(found.edges)[:-1], 2, rtol=0.05)


def test_a_day_of_seconds_after_log1p_has_no_spikes():
  """float32 has 26 values of log(1 + x) in such a day."""
  seconds = 1_717_200_000 + np.arange(86_400)
  found = of(seconds, LOG1P)
  check(found, 86_400)
  density_b = np.array(found.counts) / np.diff(found.edges)
  assert not found.log and 10 < len(found.counts) <= MOST_BARS
  assert density_b[1:-1].max() < 1.1 * density_b[1:-1].min()


@pytest.mark.parametrize("scale", [PLAIN, LOG1P])
@pytest.mark.parametrize(
  "numbers",
  [
    [0.0],
    [7.5],
    [1_717_200_000.0],
    [float(F32.max)],
    [float(F32.smallest_subnormal)],
    [0.0, float(F32.smallest_subnormal)],
    [float(F32.smallest_subnormal), 2 * float(F32.smallest_subnormal)],
    [-float(F32.max), float(F32.max)],
    [-float(F32.max), 0.0, float(F32.smallest_subnormal), float(F32.max)],
    [1.0, 1.0 + float(F32.eps)],
    [float(F32.max), float(np.nextafter(F32.max, np.float32(0)))],
    [-1e-40, 1e-40],
    [2.0**24, 2.0**24 + 2],
    [-0.0, 1e38],
    [-1.5, 0.0, 5.12e9],  # ten billion steps of .5
    [-0.5, 0.0, 2.0**51],
  ],
)
def test_every_column_has_bars(numbers: list[float], scale: Scale):
  found = of(np.array(numbers), scale)
  check(found, len(numbers))
  distinct = len(set(scale.value_of(np.array(numbers)).tolist()))
  assert min(distinct, 2) <= sum(count > 0 for count in found.counts) <= distinct


@settings(max_examples=300)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.sampled_from([PLAIN, LOG1P]))
def test_any_column_has_bars(numbers: list[float], scale: Scale):
  check(of(np.array(numbers, np.float64), scale), len(numbers))


@settings(max_examples=100)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 40))
def test_columns_of_neighbouring_floats(first: float, ulps: int):
  numbers = [np.float32(first)]
  for _ in range(ulps):
    numbers.append(np.nextafter(numbers[-1], F32.max))
  found = of(np.array(numbers, np.float64))
  check(found, len(numbers))


def test_values_outside_are_left_out():
  value_k = np.arange(100, dtype=np.float32)
  found = histogram(value_k, value_k, np.ones(100, np.int64), PLAIN, 10.0, 49.0)
  assert sum(found.counts) == 40 and found.edges[0] == 9.5 and found.edges[-1] == 49.5


def test_a_range_of_any_number_of_steps_is_divided_at_once():
  """Comparing every division of 2**52 steps would take years."""
  edge_e = _whole_steps(0.0, 2.0**52, 1.0)
  width_b = np.diff(edge_e)
  assert len(width_b) <= 40 and edge_e[0] <= 0.0 and edge_e[-1] >= 2.0**52
  np.testing.assert_allclose(width_b, width_b[0], rtol=1e-12)
  assert edge_e[-1] - 2.0**52 < 0.02 * width_b[0]  # the last bar is as good as full
