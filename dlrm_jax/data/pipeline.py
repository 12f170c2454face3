"""From a prepared data set to batches: row groups are read by Grain, in order and ahead of time, and cut into batches.

Called by the training loop. Elements of the Grain pipeline are blocks (row groups of a shard), not rows: a row costs no Python.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32, UInt8

from dlrm_jax import record
from dlrm_jax.batch import Batch, check_ids
from dlrm_jax.data.schema import lookup_names
from dlrm_jax.data.shards import PADDING, sha256, shard_columns
from dlrm_jax.flags import UserError

SPLITS = ("train", "eval")
VERIFY_BYTES = 1 << 30  # smaller data sets have their digests checked whenever they are opened
_READ_AHEAD = 4  # blocks


@dataclasses.dataclass(frozen=True)
class Shard:
  """One Parquet file and what `dataset.json` says of it."""

  path: Path
  rows: int
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set, from `open_dataset`.

  Attributes:
    path: its directory.
    name: its name, for reports.
    digest: stands for the content, wherever it lies.
    dense: names of the M dense columns.
    categorical: names of the F categorical features.
    cardinalities: the number of ids of each, id 0 (unseen or rare) included.
    bag_lengths: how many ids a row holds of each.
    weighted: whether there are bags, whose empty places are padding.
    train_rows, eval_rows: rows of the two splits.
    train_base_rate, eval_base_rate: shares of label 1.
    train_shards, eval_shards: the files.
    rows_per_group: rows of every block of a split but its last.
    vocabulary: "frequency" (ids are ranks) or "hash".
  """

  path: Path
  name: str
  digest: str
  dense: tuple[str, ...]
  categorical: tuple[str, ...]
  cardinalities: tuple[int, ...]
  bag_lengths: tuple[int, ...]
  weighted: bool
  train_rows: int
  eval_rows: int
  train_base_rate: float
  eval_base_rate: float
  train_shards: tuple[Shard, ...]
  eval_shards: tuple[Shard, ...]
  rows_per_group: int
  vocabulary: str

  def rows(self, split: str) -> int:
    """The number of rows of "train" or "eval"."""
    return {"train": self.train_rows, "eval": self.eval_rows}[split]

  def shards(self, split: str) -> tuple[Shard, ...]:
    """The files of "train" or "eval", in order."""
    return {"train": self.train_shards, "eval": self.eval_shards}[split]


def open_dataset(path: str | Path, verify: bool = False) -> Dataset:
  """Opens a directory made by `dlrm_jax.data.prepare`.

  Args:
    path: the directory.
    verify: read every shard to check its SHA-256; data sets below 1 GiB are always checked.

  Raises:
    UserError: the directory or `dataset.json` is missing or broken, or a shard is missing or not as stated.
  """
  path = Path(path)
  if not path.is_dir():
    raise UserError(f"{path}: no such directory; a data set is made by python -m dlrm_jax.data.prepare")
  if not (path / "dataset.json").is_file():
    raise UserError(f"{path}: no dataset.json in it; a data set is made by python -m dlrm_jax.data.prepare")
  contents = record.read_json(path / "dataset.json")
  try:
    if contents["schema_version"] != record.SCHEMA_VERSION:
      raise UserError(f"{path}/dataset.json: schema_version {contents['schema_version']}, but this version reads {record.SCHEMA_VERSION}")
    dataset = _from_contents(path, contents)
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path}/dataset.json: not made by dlrm_jax.data.prepare ({type(error).__name__}: {error})") from None
  shards = dataset.train_shards + dataset.eval_shards
  for shard in shards:
    size = shard.path.stat().st_size if shard.path.is_file() else None
    if size != shard.size:
      raise UserError(f"{shard.path}: " + ("missing" if size is None else f"{size} bytes, but dataset.json says {shard.size}"))
  if verify or sum(shard.size for shard in shards) < VERIFY_BYTES:
    for shard in shards:
      if sha256(shard.path) != shard.sha256:
        raise UserError(f"{shard.path}: changed since it was prepared (its SHA-256 is not the one in dataset.json)")
  return dataset


def _from_contents(path: Path, contents: dict[str, Any]) -> Dataset:
  columns, splits = contents["columns"], contents["splits"]
  shards = {
    split: tuple(Shard(path / s["file"], int(s["rows"]), int(s["bytes"]), s["sha256"]) for s in splits[split]["shards"]) for split in SPLITS
  }
  for split in SPLITS:
    if sum(shard.rows for shard in shards[split]) != splits[split]["rows"]:
      raise ValueError(f"the shards of {split} do not add up to its rows")
  return Dataset(
    path=path,
    name=contents["name"],
    digest=contents["digest"],
    dense=tuple(columns["dense"]),
    categorical=tuple(column["name"] for column in columns["categorical"]),
    cardinalities=tuple(int(column["cardinality"]) for column in columns["categorical"]),
    bag_lengths=tuple(int(column.get("bag_length", 1)) for column in columns["categorical"]),
    weighted=any("bag_length" in column for column in columns["categorical"]),
    train_rows=int(splits["train"]["rows"]),
    eval_rows=int(splits["eval"]["rows"]),
    train_base_rate=float(splits["train"]["base_rate"]),
    vocabulary=str(contents["vocabulary"]["mode"]),
    eval_base_rate=float(splits["eval"]["base_rate"]),
    train_shards=shards["train"],
    eval_shards=shards["eval"],
    rows_per_group=int(contents["rows_per_group"]),
  )


@dataclasses.dataclass(frozen=True)
class _Block:
  """Consecutive rows: the unit that Grain reads; ids as on disk."""

  dense_nm: Float32[np.ndarray, "n M"]
  ids_nl: Int32[np.ndarray, "n L"]
  label_n: UInt8[np.ndarray, " n"]


class _Blocks:
  """The row groups of a split as a random-access source."""

  def __init__(self, dataset: Dataset, split: str):
    self._places = [(shard, g) for shard in dataset.shards(split) for g in range(-(-shard.rows // dataset.rows_per_group))]
    self._num_dense = len(dataset.dense)
    of_lookup = np.repeat(np.arange(len(dataset.categorical)), dataset.bag_lengths)
    self._names, self._limits = [dataset.categorical[f] for f in of_lookup], [dataset.cardinalities[f] for f in of_lookup]
    self._lowest = -1 if dataset.weighted else 0
    self._columns = shard_columns(dataset.dense, lookup_names(dataset.categorical, dataset.bag_lengths))

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> _Block:
    shard, group = self._places[index]
    with pq.ParquetFile(shard.path) as file:
      table = file.read_row_group(group, columns=self._columns, use_threads=False)
    label_n, *columns = (table[name].to_numpy() for name in self._columns)
    check_ids(columns[self._num_dense :], self._names, self._limits, str(shard.path), lowest=self._lowest)
    return _Block(
      _stack(columns[: self._num_dense], len(label_n), np.float32), _stack(columns[self._num_dense :], len(label_n), np.int32), label_n
    )

  def __repr__(self) -> str:
    return f"_Blocks({len(self)})"


def _stack(columns: list[np.ndarray], rows: int, dtype: Any) -> np.ndarray:
  out = np.empty((rows, len(columns)), dtype)
  for i, column in enumerate(columns):
    if column.dtype != dtype:
      raise TypeError(f"a shard column is {column.dtype}, not {np.dtype(dtype)}")
    out[:, i] = column
  return out


def batches(dataset: Dataset, split: str, batch_size: int, num_examples: int | None = None, start: int = 0) -> Iterator[Batch]:
  """Batches of numpy arrays in the order of the log; the last one is padded with examples of weight 0.

  Where the data set has bags, an empty place in one has id 0 and weight 0; elsewhere there are no bag weights.

  Args:
    dataset: from `open_dataset`.
    split: "train" or "eval".
    batch_size: examples per batch.
    num_examples: how many examples to give; by default all from `start` on. The first n of a larger number are those of a smaller one.
    start: the first example's index in the split.

  Raises:
    UserError: the split has fewer rows than asked for.
  """
  if split not in SPLITS:
    raise UserError(f"split '{split}' must be among {', '.join(SPLITS)}")
  rows = dataset.rows(split)
  num_examples = rows - start if num_examples is None else num_examples
  if batch_size < 1 or start < 0 or num_examples < 0:
    raise UserError(f"batch_size={batch_size}, start={start}, num_examples={num_examples}: must be at least 1, 0 and 0")
  if start + num_examples > rows:
    raise UserError(f"num_examples={num_examples} from example {start} on: the {split} split of {dataset.name} has {rows} rows")
  return _batches(dataset, split, batch_size, start, start + num_examples)


def _one_line_errors(blocks: Iterable[_Block]) -> Iterator[_Block]:
  """The blocks; a UserError from reading them without the lines that Grain adds to it."""
  try:
    yield from blocks
  except UserError as error:
    raise UserError(str(error).splitlines()[0]) from None


def _batches(dataset: Dataset, split: str, batch_size: int, start: int, stop: int) -> Iterator[Batch]:
  # Every row group but the split's last is full, so that row i lies in block i // rows_per_group.
  first, last = start // dataset.rows_per_group, -(-stop // dataset.rows_per_group)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_READ_AHEAD)
  blocks = grain.MapDataset.source(_Blocks(dataset, split))[first:last].to_iter_dataset(options)
  parts: list[_Block] = []
  waiting, place = 0, first * dataset.rows_per_group
  for block in _one_line_errors(blocks) if first < last else ():
    low, high = max(0, start - place), min(len(block.label_n), stop - place)
    place += len(block.label_n)
    while low < high:
      taken = min(batch_size - waiting, high - low)
      parts.append(_Block(block.dense_nm[low : low + taken], block.ids_nl[low : low + taken], block.label_n[low : low + taken]))
      low, waiting = low + taken, waiting + taken
      if waiting == batch_size:
        yield _batch(parts, batch_size, dataset.weighted)
        parts, waiting = [], 0
  if parts:
    yield _batch(parts, batch_size, dataset.weighted)


def _batch(parts: list[_Block], batch_size: int, weighted: bool) -> Batch:
  """Joins consecutive rows into one batch; padding rows have id 0, label 0, dense 0 and weight 0, and empty bags if `weighted`."""
  rows = sum(len(part.label_n) for part in parts)

  def joined(arrays: list[np.ndarray], dtype: Any, fill: int = 0) -> np.ndarray:
    if len(arrays) == 1 and rows == batch_size:
      return arrays[0].astype(dtype, copy=False)
    out = np.full((batch_size, *arrays[0].shape[1:]), fill, dtype)
    np.concatenate(arrays, out=out[:rows], casting="safe")
    return out

  ids_bl = joined([part.ids_nl for part in parts], np.int32, fill=PADDING if weighted else 0)
  return Batch(
    dense_bm=joined([part.dense_nm for part in parts], np.float32),
    ids_bl=np.maximum(ids_bl, 0) if weighted else ids_bl,
    label_b=joined([part.label_n for part in parts], np.float32),
    weight_b=(np.arange(batch_size) < rows).astype(np.float32),
    bag_weight_bl=(ids_bl != PADDING).astype(np.float32) if weighted else None,
  )
