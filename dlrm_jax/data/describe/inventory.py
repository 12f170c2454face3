"""Computes the numbers of a prepared data set, column by column in bounded memory. Called by `describe`.

Ids and dense values are read in the first rows of the training split, ids also in the first rows of the held-out splits, and labels in all
rows of all splits.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from dlrm_jax.common import record
from dlrm_jax.common.progress import Bar
from dlrm_jax.data.dataset import SPLITS, Dataset
from dlrm_jax.data.describe import frequency
from dlrm_jax.data.describe.columns import read_column
from dlrm_jax.data.describe.dense_columns import DenseSummary, dense_summary
from dlrm_jax.data.shard_format import MAX_IDS, PADDING, check_ids, lookup_names
from dlrm_jax.data.transform import inputs_of

HELD_OUT = SPLITS[1:]
TIME_BINS = 100
_LEAST_ROWS = 250  # of a time bin
_FEW_A_DAY = 4  # with fewer bins a day they do not show its cycle
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
    held_out_lookups: number of ids in the held-out rows that were read.
    unseen_share: share of these ids that were not seen in training; None if there are none. With ids by frequency it is the share of id 0,
      and a value that is rare in the training rows has id 0, too. With hashed ids it is the share of ids that are not in the training rows
      that were read; values with the hash of a seen one count as seen.
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
  held_out_lookups: int
  unseen_share: float | None
  spectrum: frequency.Spectrum
  zipf: frequency.Zipf | None


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
  """The result of `take`.

  Attributes:
    rows: number of training rows whose ids and dense values were read.
    held_out_rows: number of held-out rows whose ids were read.
    features, dense, base_rate: what was found.
    bin_days: how many days each bin of the base rate is about long; None: they do not follow the days.
  """

  rows: int
  held_out_rows: int
  features: tuple[Feature, ...]
  dense: tuple[DenseSummary, ...]
  base_rate: tuple[RateBin, ...]
  bin_days: int | None = None


def take(dataset: Dataset, max_rows: int) -> Inventory:
  """Reads the shards. Raises UserError if they differ from dataset.json.

  Args:
    dataset: from `open_dataset`.
    max_rows: number of training rows whose ids and dense values are read, and of rows of each other split whose ids are read; 0: all.
  """
  rows_of = {split: min(max_rows or dataset.rows(split), dataset.rows(split)) for split in SPLITS}
  rows, all_rows = rows_of["train"], sum(rows_of.values())
  contents = record.read_json(dataset.path / "dataset.json")
  inputs, (bins, bin_days) = inputs_of(contents), time_bins(contents)
  indicators = {one.column: one.name for one in inputs if one.transform == "missing"}
  log_rows = sum(dataset.rows(split) for split in SPLITS)
  with Bar("looking", rows * 2 * len(dataset.dense) + all_rows * dataset.shape.num_lookups + log_rows) as bar:
    base_rate = _base_rate(dataset, bins, bar)
    of = [None if one.transform == "missing" else indicators.get(one.column) for one in inputs]
    dense = tuple(dense_summary(dataset, one, indicator, rows, bar) for one, indicator in zip(inputs, of, strict=True))
    features = tuple(_feature(dataset, place, rows_of, bar) for place in range(len(dataset.shape.field_names)))
  return Inventory(rows, all_rows - rows, features, dense, base_rate, bin_days)


def _feature(dataset: Dataset, place: int, rows_of: dict[str, int], bar: Bar) -> Feature:
  shape, rows = dataset.shape, rows_of["train"]
  name, limit, length = shape.field_names[place], shape.num_ids(MAX_IDS)[place], shape.bag_lengths[place]
  ranked = dataset.vocabulary == "frequency"
  columns = [f"id.{lookup}" for lookup in lookup_names([name], [length])]
  passes, padding, zeros, lookups, held_out, seen_before = 0, 0, 0, 0, 0, 0

  def read() -> Iterator[Int32[np.ndarray, " n"]]:
    nonlocal passes
    passes += 1
    if passes > 1:
      bar.extend((rows if ranked else sum(rows_of.values())) * length)
    for column in columns:
      yield from read_column(dataset, "train", column, rows, bar)

  def held_out_ids() -> Iterator[Int32[np.ndarray, " n"]]:
    for split in HELD_OUT:
      for column in columns:
        for id_n in read_column(dataset, split, column, rows_of[split], bar):
          yield id_n[id_n >= 0]

  def counts() -> Iterator[np.ndarray]:
    nonlocal padding, zeros, lookups, held_out, seen_before
    for ids, seen in frequency.counted(read):
      check_ids([ids], [name], [limit], str(dataset.path), PADDING if shape.weighted else 0)
      padding += int(seen[ids == PADDING].sum())
      zeros += int(seen[ids == 0].sum())
      lookups += int(seen[ids >= 0].sum())
      for id_n in held_out_ids() if passes == 1 or not ranked else ():
        held_out += len(id_n) if passes == 1 else 0
        seen_before += int(np.count_nonzero(id_n if ranked else _in(ids, id_n)))
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
    held_out_lookups=held_out,
    unseen_share=1 - seen_before / held_out if held_out else None,
    spectrum=spectrum,
    zipf=frequency.zipf(spectrum),
  )


def _in(ids: Int32[np.ndarray, " u"], id_n: Int32[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
  """Which of the ids are among some ascending ones."""
  if not len(ids):
    return np.zeros(len(id_n), bool)
  return ids[np.minimum(np.searchsorted(ids, id_n), len(ids) - 1)] == id_n


def time_bins(contents: dict[str, Any]) -> tuple[int, int | None]:
  """The number of bins of the base rate, and `Inventory.bin_days`. `contents` is that of dataset.json.

  Where there are few bins a day, they would turn a daily cycle into a zigzag. Then bins are about as long as one or more whole days. That
  needs the times of the log and all of its rows, and it takes days to have about equally many rows.
  """
  splits, time = contents["splits"].values(), contents.get("time")
  most = min(TIME_BINS, max(1, sum(split["rows"] for split in splits) // _LEAST_ROWS))
  if time is None or (time["ordered_by"] != "time" and time["earlier_rows"]) or "keep_negatives" in contents:
    return most, None
  moments = [np.datetime64(split[key].removesuffix("Z"), "ns") for split in splits for key in ("first_time", "last_time")]
  days = (max(moments) - min(moments)) / np.timedelta64(1, "D")
  if days <= most / _FEW_A_DAY:
    return most, None
  each = math.ceil(days / most)
  return max(1, round(days / each)), each


def _base_rate(dataset: Dataset, bins: int, bar: Bar) -> tuple[RateBin, ...]:
  """Clicks in bins of equal size of the log, all splits in order. The first row of bin b is ceil(b * rows / bins)."""
  rows = sum(dataset.rows(split) for split in SPLITS)
  first_b = -(-np.arange(bins + 1) * rows // bins)
  clicks_b, row = np.zeros(bins, np.int64), 0
  for split in SPLITS:
    for label_n in read_column(dataset, split, "label", dataset.rows(split), bar):
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
