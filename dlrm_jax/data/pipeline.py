"""From a prepared data set to batches: row groups are read by Grain, in order and ahead of time, and cut into batches.

Called by the training loop. Elements of the Grain pipeline are blocks (row groups of a shard), not rows: a row costs no Python.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32, UInt8

from dlrm_jax.batch import Batch, check_ids
from dlrm_jax.data.dataset import SPLITS, Dataset
from dlrm_jax.data.schema import lookup_names
from dlrm_jax.data.shards import PADDING, shard_columns
from dlrm_jax.flags import UserError

_READ_AHEAD = 4  # blocks


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
  import grain  # takes half a second: only runs on a data set wait for it

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
