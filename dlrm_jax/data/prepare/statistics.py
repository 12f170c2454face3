"""The statistics of a dense column over the training rows of a log, which are measured between the two passes of `prepare`.

They depend on the log and the split alone. The rows are taken in blocks of `_BLOCK`, counted from the first row of the log, whatever parts
they are in. What is kept is rounded to less than the last bits, in which processors differ. Called by `counting`.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from dlrm_jax.data.prepare.dense import DenseColumn
from dlrm_jax.data.prepare.part_files import Part, columns_of
from dlrm_jax.data.prepare.vocabulary import hash_uint32
from dlrm_jax.data.timestamps import kind_of_time
from dlrm_jax.data.transform import as_float, log1p

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of the quantiles that dataset.json shows
STEPS = 256  # between the quantiles of the quantile transform
_BLOCK = 1 << 16  # rows
_SAMPLE = 1 << 20  # rows from which quantiles are computed: all of a log that has no more
_DIGITS = 6  # a mean is kept to a millionth of the deviation


@dataclasses.dataclass(frozen=True)
class Moments:
  """Count, mean and sums of (x - mean)**2 and (x - mean)**3 of some numbers, measured from `origin`: `mean` is that of x - origin."""

  origin: float
  count: int = 0
  mean: float = 0.0
  second: float = 0.0
  third: float = 0.0

  def add(self, number_n: Float64[np.ndarray, " n"]) -> "Moments":
    """These moments with more numbers (Pebay 2008, doi 10.2172/1028931, equations 3.1 and 3.5)."""
    if not len(number_n):
      return self
    x = number_n - self.origin
    n, m = len(x), float(x.mean())
    d = x - m
    m2, m3 = float(np.square(d).sum()), float((d * np.square(d)).sum())
    count, shift = self.count + n, m - self.mean
    mean = self.mean + shift * n / count
    between = shift * shift * self.count * n / count  # products, which become infinite where powers raise
    third = self.third + m3 + between * shift * (self.count - n) / count
    third += 3 * shift * (self.count * m2 - n * self.second) / count
    return Moments(self.origin, count, mean, self.second + m2 + between, third)

  def as_json(self) -> dict[str, float]:
    """Mean, deviation (of the population) and skewness; null where a number is beyond float64."""
    if not self.count:
      return {"mean": 0.0, "deviation": 0.0, "skewness": 0.0}
    deviation = math.sqrt(self.second / self.count)
    skewness = self.third / self.count / deviation / deviation / deviation if deviation else 0.0
    return {
      "mean": _rounded(self.origin + self.mean, deviation),
      "deviation": _rounded(deviation, deviation),
      "skewness": _rounded(skewness, 1.0),
    }


def _rounded(value: float, unit: float) -> float:
  """The value to a millionth of the unit, so that sums in another order give the same."""
  if not (math.isfinite(value) and math.isfinite(unit)) or not unit:
    return value
  return round(value, _DIGITS - math.floor(math.log10(unit)))


def blocks(parts: Sequence[Part], column: int, rows: int) -> Iterator[Float64[np.ndarray, " n"]]:
  """The first `rows` rows of a dense column, NaN where missing, in blocks of `_BLOCK`."""
  waiting: list[np.ndarray] = []
  held = 0
  for part in parts:
    if not rows:
      break
    number_n = columns_of(part.file, [f"dense.{column}"])[0].to_numpy()[:rows]
    rows -= len(number_n)
    start = 0
    while start < len(number_n):
      piece = as_float(number_n[start : start + _BLOCK - held])
      waiting.append(piece)
      start, held = start + len(piece), held + len(piece)
      if held == _BLOCK:
        yield np.concatenate(waiting)
        waiting, held = [], 0
  if waiting:
    yield np.concatenate(waiting)


def _picked(first: int, count: int, stride: int) -> Int64[np.ndarray, " s"]:
  """Which of the rows `first` .. `first + count - 1` are in the sample: one of every `stride` rows, drawn by a hash of its number."""
  stratum_s = np.arange(first // stride, (first + count - 1) // stride + 1, dtype=np.uint64)
  picked_s = stratum_s * np.uint64(stride) + hash_uint32("row", stratum_s) % np.uint64(stride)
  row_s = picked_s.astype(np.int64) - first
  return row_s[(row_s >= 0) & (row_s < count)]


def measure(column: DenseColumn, numbers: Iterator[Float64[np.ndarray, " n"]], rows: int) -> dict[str, Any]:
  """The statistics of a column, from blocks of its `rows` training rows.

  Returns:
    "statistics": for dataset.json: rows, missing, zeros, low, high, mean, deviation, skewness; the same three of log(1 + max(x, 0)) as
      log_mean, log_deviation, log_skewness; quantiles and the number of distinct values (of a sample in large logs); time, the kind of time
      stamps that the numbers look like, or None.
    "edges": the STEPS + 1 evenly spaced quantiles.
    "bins": the edges of `column.num_bins` bins.
  """
  stride = max(1, -(-rows // _SAMPLE))
  sample, first, missing, zeros, low, high = [], 0, 0, 0, math.inf, -math.inf
  plain = log = None
  for block in numbers:
    sample.append(block[_picked(first, len(block), stride)])
    first += len(block)
    number_n = block[~np.isnan(block)]
    missing += len(block) - len(number_n)
    if not len(number_n):
      continue
    low, high = min(low, float(number_n.min())), max(high, float(number_n.max()))
    zeros += int(np.count_nonzero(number_n == 0))
    with np.errstate(over="ignore", invalid="ignore"):
      log_n = log1p(number_n)
      plain = (plain or Moments(float(number_n[0]))).add(number_n)
      log = (log or Moments(float(log_n[0]))).add(log_n)
  seen_s = np.sort(np.concatenate(sample))
  seen_s = seen_s[: np.count_nonzero(~np.isnan(seen_s))]  # NaN is sorted to the end
  none = Moments(0.0)
  statistics = {
    "rows": rows,
    "missing": missing,
    "zeros": zeros,
    "low": low if rows > missing else None,
    "high": high if rows > missing else None,
    **(plain or none).as_json(),
    **{f"log_{name}": value for name, value in (log or none).as_json().items()},
    "distinct": int(np.count_nonzero(np.diff(seen_s))) + bool(len(seen_s)),
    "quantiles": dict(zip(map(str, SHARES), quantiles(seen_s, SHARES), strict=True)) if len(seen_s) else {},
    "time": kind_of_time(seen_s),
  }
  return {
    "statistics": statistics,
    "edges": quantiles(seen_s, np.linspace(0, 1, STEPS + 1)) if len(seen_s) and low < high else [],
    "bins": bin_edges(seen_s, column.num_bins) if column.num_bins else [],
  }


def quantiles(sorted_s: Float64[np.ndarray, " s"], shares: Sequence[float] | Float64[np.ndarray, " q"]) -> list[float]:
  """Quantiles of sorted numbers, each of which is one of the numbers: the smallest that has at least this share at or below it."""
  place_q = np.ceil(np.asarray(shares) * len(sorted_s)).astype(np.int64) - 1
  return sorted_s[np.maximum(place_q, 0)].tolist()


def bin_edges(sorted_s: Float64[np.ndarray, " s"], bins: int) -> list[float]:
  """The edges between at most `bins` bins of about equally many of the sorted numbers. Few distinct numbers get a bin each."""
  if not len(sorted_s):
    return []
  distinct_d = sorted_s[np.flatnonzero(np.diff(sorted_s, prepend=-np.inf))]
  if len(distinct_d) <= bins:
    return distinct_d[1:].tolist()
  edge_b = np.unique(sorted_s[np.arange(1, bins) * len(sorted_s) // bins])
  return edge_b[edge_b > sorted_s[0]].tolist()
