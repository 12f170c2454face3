"""The numbers of a dense column, in one or two passes and bounded memory. Called by `inventory`."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from scipy.special import ndtr

from dlrm_jax.common.progress import Bar
from dlrm_jax.data.dataset import Dataset
from dlrm_jax.data.describe.columns import read_column
from dlrm_jax.data.describe.frequency import merged
from dlrm_jax.data.describe.histogram import Histogram, Scale, histogram
from dlrm_jax.data.transform import Input

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_OUTER = (0.001, 0.999)  # a histogram with far extremes is drawn between these quantiles
_BUCKET_BITS = 20
_WIDE = 50.0  # ratio of the largest number to the median that needs a logarithmic axis
_MOST_VALUES = 1 << 18  # that are counted one by one


@dataclasses.dataclass(frozen=True)
class DenseSummary:
  """One dense column in the rows that were read, as the model sees it: after its transform, with missing cells filled.

  Attributes:
    name: from the data set.
    low, mean, high: smallest value, mean, largest.
    zero_share: share of values that are 0, without filled cells, if the data set says where they are.
    number: the median number of the log, where the transform can be undone; without missing cells, if the data set says where they are.
    quantiles: the QUANTILES. They are exact, or too low by at most one part in 2,000 if a column spans very different magnitudes.
    histogram: of the numbers before the transform, where it can be undone; without missing cells, as above. Values outside of it are beyond
      the _OUTER quantiles.
  """

  name: str
  low: float
  mean: float
  high: float
  zero_share: float
  number: float
  quantiles: tuple[float, ...]
  histogram: Histogram


def scale_of(one: Input) -> Scale:
  """How the values of an input follow from the numbers of the log."""
  if one.transform == "quantile" and one.edges:
    edge_q = np.array(one.edges)
    wide = edge_q[0] >= 0 and edge_q[-1] > _WIDE * (1 + edge_q[len(edge_q) // 2])
    return Scale(bool(wide), one.apply, lambda value_k: np.interp(ndtr(value_k), np.linspace(0, 1, len(edge_q)), edge_q))
  if one.transform not in ("log1p", "standard"):
    return Scale(False, one.apply, lambda value_k: value_k)
  log = one.log or one.transform == "log1p"

  def number_of(value_k: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    unscaled_k = value_k * one.deviation + one.mean
    return np.expm1(unscaled_k) if log else unscaled_k

  return Scale(log, one.apply, number_of)


def _ordered(bits_n: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
  """Maps the bits of float32 to integers in the order of the values. It is its own inverse."""
  return bits_n ^ ((bits_n >> 31) & np.int32(0x7FFFFFFF))


def _keys(value_n: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
  """Integers in the order of the values. Neighbouring floats get consecutive integers."""
  return _ordered((value_n + np.float32(0)).view(np.int32)).astype(np.int64)  # + 0 makes -0 0


def _values(key_k: Int64[np.ndarray, " k"]) -> Float32[np.ndarray, " k"]:
  """The inverse of `_keys`."""
  return _ordered(key_k.astype(np.int32)).view(np.float32)


def dense_summary(dataset: Dataset, one: Input, indicator: str | None, rows: int, bar: Bar) -> DenseSummary:
  """One pass counts the values, as long as they are few. If they are many, a second pass counts them in buckets between the extremes.

  Args:
    dataset: the data set.
    one: the input.
    indicator: the input that is 1 where this one is missing; None if there is none.
    rows: number of training rows to read.
    bar: shows progress. Each row counts twice.
  """
  column, low, high, total, zeros = f"dense.{one.name}", np.inf, -np.inf, 0.0, 0
  counted: tuple[np.ndarray, np.ndarray] | None = (np.zeros(0, np.int64), np.zeros(0, np.int64))
  for value_n in read_column(dataset, "train", column, rows, bar):
    low, high = min(low, float(value_n.min())), max(high, float(value_n.max()))
    total += float(value_n.sum(dtype=np.float64))
    zeros += int((value_n == 0).sum())
    if counted is not None:
      counted = merged([counted, np.unique(_keys(value_n), return_counts=True)])
      counted = counted if len(counted[0]) <= _MOST_VALUES else None
  if counted is not None:
    bar(rows)  # the second pass
    (first_k, count_k), last_k = counted, counted[0]
  else:
    first_k, last_k, count_k = _in_buckets(dataset, column, low, high, rows, bar)
  value_k = _values(first_k)

  def quantile(share: float, of_k: np.ndarray = count_k) -> float:
    below_k = np.cumsum(of_k)
    return float(value_k[np.searchsorted(below_k, np.ceil(share * below_k[-1]))])

  scale, present_k = scale_of(one), count_k.copy()
  if indicator is not None:
    bar.extend(rows)
    filled = sum(int(is_missing_n.sum()) for is_missing_n in read_column(dataset, "train", f"dense.{indicator}", rows, bar))
    present_k[np.searchsorted(last_k, _keys(np.array([one.missing], np.float32)))] -= filled
    zeros -= filled if one.missing == 0 else 0
  there_k = present_k > 0
  inner = (quantile(_OUTER[0]), quantile(_OUTER[1]))
  ends = inner if inner[0] < inner[1] and high - low > 2 * (inner[1] - inner[0]) else (low, high)
  return DenseSummary(
    name=one.name,
    low=low,
    mean=total / rows,
    high=high,
    zero_share=zeros / rows,
    number=float(scale.number_of(np.array([quantile(0.5, present_k)]))[0]) if there_k.any() else np.nan,
    quantiles=tuple(map(quantile, QUANTILES)),
    histogram=histogram(value_k[there_k], _values(last_k)[there_k], present_k[there_k], scale, *ends),
  )


def _in_buckets(
  dataset: Dataset, column: str, low: float, high: float, rows: int, bar: Bar
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
  """The first key, the last key and the number of values of each of 2**20 buckets between the extremes, empty ones left out."""
  first, last = _keys(np.array([low, high], np.float32)).tolist()
  shift = max(0, (last - first).bit_length() - _BUCKET_BITS)
  count_k = np.zeros(((last - first) >> shift) + 1, np.int64)
  for value_n in read_column(dataset, "train", column, rows, bar):
    count_k += np.bincount((_keys(value_n) - first) >> shift, minlength=len(count_k))
  kept_k = np.flatnonzero(count_k)
  first_k = (kept_k << shift) + first
  last_k = np.minimum(first_k + (1 << shift) - 1, last)
  first_k[(first_k < 0) & (last_k >= 0)] = 0  # the bucket of 0 holds 0 and its nearest values
  return first_k, last_k, count_k[kept_k]
