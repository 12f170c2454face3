"""Computes the numbers of a prepared data set, column by column in bounded memory. Called by `describe`.

Ids and dense values are read in the first rows of the training split, labels in all rows of all splits.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32, Int64

from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import Bar
from dlrm_jax.data.dataset import SPLITS, Dataset
from dlrm_jax.data.describe import frequency
from dlrm_jax.data.shard_format import MAX_IDS, PADDING, check_ids, lookup_names

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
TIME_BINS = 100
_LEAST_ROWS = 250  # of a time bin
_HISTOGRAM_BINS = 40
_OUTER = (0.001, 0.999)  # a histogram with far extremes is drawn between these quantiles
_BUCKET_BITS = 20
_ROWS_AT_ONCE = 1 << 20
_Z = 1.959963984540054  # 97.5% quantile of the normal distribution


@dataclasses.dataclass(frozen=True)
class Feature:
  """One categorical feature in the rows that were read. Shares are of its ids; empty places of bags are not ids.

  Attributes:
    name, cardinality, bag_length: from the data set.
    lookups: number of ids.
    padding_share: share of empty places in its bags.
    zero_share: share of id 0, which all rare and unseen values have; None with hashed ids, where id 0 is a usual id.
    top_share: share of the most frequent id; without id 0 if many values have it.
    spectrum: counts of all ids; without id 0 if many values have it.
    zipf: the fitted law; None if too few ids were seen often enough.
  """

  name: str
  cardinality: int
  bag_length: int
  lookups: int
  padding_share: float
  zero_share: float | None
  top_share: float
  spectrum: frequency.Spectrum
  zipf: frequency.Zipf | None


@dataclasses.dataclass(frozen=True)
class DenseColumn:
  """One dense column in the rows that were read, as the model sees it: after its transform, with missing cells filled.

  Attributes:
    name: from the data set.
    low, mean, high: smallest value, mean, largest.
    zero_share: share of values that are 0.
    quantiles: the QUANTILES. They are exact, or too low by at most one part in 2,000 if a column spans very different magnitudes.
    edges, counts: a histogram with bins of equal width. Values outside of it are beyond the _OUTER quantiles.
  """

  name: str
  low: float
  mean: float
  high: float
  zero_share: float
  quantiles: tuple[float, ...]
  edges: tuple[float, ...]
  counts: tuple[int, ...]

  @property
  def median(self) -> float:
    return self.quantiles[QUANTILES.index(0.5)]


@dataclasses.dataclass(frozen=True)
class RateBin:
  """Consecutive rows of the log: index of the first (over all splits), number, clicks, click rate, 95% Wilson interval."""

  first_row: int
  rows: int
  clicks: int
  rate: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Inventory:
  """The result of `take`. `rows` is the number of training rows whose ids and dense values were read."""

  rows: int
  features: tuple[Feature, ...]
  dense: tuple[DenseColumn, ...]
  base_rate: tuple[RateBin, ...]


def take(dataset: Dataset, max_rows: int) -> Inventory:
  """Reads the shards. Raises UserError if they differ from dataset.json.

  Args:
    dataset: from `open_dataset`.
    max_rows: number of training rows whose ids and dense values are read; 0: all.
  """
  train = dataset.rows("train")
  rows = min(max_rows or train, train)
  log_rows = sum(dataset.rows(split) for split in SPLITS)
  with Bar("looking", rows * (dataset.shape.num_lookups + 2 * len(dataset.dense)) + log_rows) as bar:
    base_rate = _base_rate(dataset, bar)
    dense = tuple(_dense(dataset, name, rows, bar) for name in dataset.dense)
    features = tuple(_feature(dataset, place, rows, bar) for place in range(len(dataset.shape.field_names)))
  return Inventory(rows, features, dense, base_rate)


def _read(dataset: Dataset, split: str, column: str, rows: int, bar: Bar) -> Iterator[np.ndarray]:
  """The first rows of a column, chunk by chunk."""
  for shard in dataset.shards(split):
    if rows <= 0:
      return
    dataset.verify(shard)
    try:
      with pq.ParquetFile(shard.path) as file:
        if file.metadata.num_rows != shard.rows:
          raise UserError(f"{shard.path}: {file.metadata.num_rows} rows, but dataset.json states {shard.rows}")
        step = max(1, _ROWS_AT_ONCE // dataset.rows_per_group)
        for first in range(0, file.num_row_groups, step):
          groups = list(range(first, min(first + step, file.num_row_groups)))
          values = file.read_row_groups(groups, columns=[column], use_threads=False)[column].to_numpy()[:rows]
          bar(len(values))
          yield values
          rows -= len(values)
          if rows <= 0:
            return
    except (pa.ArrowException, KeyError, OSError) as error:
      raise UserError(f"{shard.path}: column '{column}' cannot be read ({str(error).splitlines()[0]})") from None


def _feature(dataset: Dataset, place: int, rows: int, bar: Bar) -> Feature:
  shape = dataset.shape
  name, limit, length = shape.field_names[place], shape.num_ids(MAX_IDS)[place], shape.bag_lengths[place]
  ranked = dataset.vocabulary == "frequency"
  columns = [f"id.{lookup}" for lookup in lookup_names([name], [length])]
  passes, padding, zeros, lookups = 0, 0, 0, 0

  def read() -> Iterator[Int32[np.ndarray, " n"]]:
    nonlocal passes
    passes += 1
    if passes > 1:
      bar.extend(rows * length)
    for column in columns:
      yield from _read(dataset, "train", column, rows, bar)

  def counts() -> Iterator[np.ndarray]:
    nonlocal padding, zeros, lookups
    for ids, seen in frequency.counted(read):
      check_ids([ids], [name], [limit], str(dataset.path), PADDING if shape.weighted else 0)
      padding += int(seen[ids == PADDING].sum())
      zeros += int(seen[ids == 0].sum())
      lookups += int(seen[ids >= 0].sum())
      yield seen[ids >= (1 if ranked else 0)]

  spectrum = frequency.spectrum(counts())
  return Feature(
    name=name,
    cardinality=limit,
    bag_length=length,
    lookups=lookups,
    padding_share=padding / (rows * length),
    zero_share=zeros / max(lookups, 1) if ranked else None,
    top_share=int(spectrum.seen_c[0]) / lookups if spectrum.distinct else 0.0,
    spectrum=spectrum,
    zipf=frequency.zipf(spectrum),
  )


def _ordered(bits_n: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
  """Maps the bits of float32 to integers in the order of the values. It is its own inverse."""
  return bits_n ^ ((bits_n >> 31) & np.int32(0x7FFFFFFF))


def _keys(value_n: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
  """Integers in the order of the values. Neighbouring floats get consecutive integers."""
  return _ordered((value_n + np.float32(0)).view(np.int32)).astype(np.int64)  # + 0 makes -0 0


def _dense(dataset: Dataset, name: str, rows: int, bar: Bar) -> DenseColumn:
  """Two passes: the extremes, then counts in 2**20 buckets between them, which are single float32 values if the extremes are close."""
  column, low, high, total, zeros = f"dense.{name}", np.inf, -np.inf, 0.0, 0
  for value_n in _read(dataset, "train", column, rows, bar):
    low, high = min(low, float(value_n.min())), max(high, float(value_n.max()))
    total += float(value_n.sum(dtype=np.float64))
    zeros += int((value_n == 0).sum())
  first, last = _keys(np.array([low, high], np.float32)).tolist()
  shift = max(0, (last - first).bit_length() - _BUCKET_BITS)
  count_k = np.zeros(((last - first) >> shift) + 1, np.int64)
  for value_n in _read(dataset, "train", column, rows, bar):
    count_k += np.bincount((_keys(value_n) - first) >> shift, minlength=len(count_k))
  kept_k = np.flatnonzero(count_k)
  key_k = (kept_k << shift) + first
  key_k[(key_k < 0) & (key_k + (1 << shift) > 0)] = 0  # the bucket of 0 holds 0 and its nearest values
  value_k = _ordered(key_k.astype(np.int32)).view(np.float32)  # the smallest value of each bucket
  count_k = count_k[kept_k]
  below_k = np.cumsum(count_k)

  def quantile(share: float) -> float:
    return float(value_k[np.searchsorted(below_k, np.ceil(share * rows))])

  inner = (quantile(_OUTER[0]), quantile(_OUTER[1]))
  ends = inner if inner[0] < inner[1] and high - low > 2 * (inner[1] - inner[0]) else (low, high)
  counts, edges = np.histogram(value_k, bins=_HISTOGRAM_BINS, range=ends, weights=count_k)
  return DenseColumn(
    name=name,
    low=low,
    mean=total / rows,
    high=high,
    zero_share=zeros / rows,
    quantiles=tuple(map(quantile, QUANTILES)),
    edges=tuple(map(float, edges)),
    counts=tuple(map(int, counts)),
  )


def _base_rate(dataset: Dataset, bar: Bar) -> tuple[RateBin, ...]:
  """Clicks in bins of equal size of the log, all splits in order. The first row of bin b is ceil(b * rows / bins)."""
  rows = sum(dataset.rows(split) for split in SPLITS)
  bins = min(TIME_BINS, max(1, rows // _LEAST_ROWS))
  first_b = -(-np.arange(bins + 1) * rows // bins)
  clicks_b, row = np.zeros(bins, np.int64), 0
  for split in SPLITS:
    for label_n in _read(dataset, split, "label", dataset.rows(split), bar):
      before_n = np.concatenate([[0], np.cumsum(label_n, dtype=np.int64)])
      clicks_b += np.diff(before_n[np.clip(first_b - row, 0, len(label_n))])
      row += len(label_n)
  pairs = zip(first_b[:-1].tolist(), np.diff(first_b).tolist(), clicks_b.tolist(), strict=True)
  return tuple(RateBin(first, count, clicks, clicks / count, *wilson(clicks, count)) for first, count, clicks in pairs)


def wilson(clicks: int, rows: int) -> tuple[float, float]:
  """The 95% interval of a share (Wilson 1927, doi 10.1080/01621459.1927.10502953)."""
  share, extra = clicks / rows, _Z**2 / rows
  middle = (share + extra / 2) / (1 + extra)
  half = _Z * np.sqrt(share * (1 - share) / rows + extra / (4 * rows)) / (1 + extra)
  return float(middle - half), float(middle + half)
