"""From a prepared data set to batches: Grain's threads read blocks ahead of time, which are then cut into batches.

Called by the sources. The elements of the Grain pipeline are blocks (row groups of a shard) or windows of blocks, so that no Python runs
for a single row. `order.py` decides which rows a process reads, and when.
"""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float32, Int, Int32

from dlrm_jax.batch import Batch
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ORDERS
from dlrm_jax.data.dataset import SPLITS, Dataset
from dlrm_jax.data.order import BlockRows, ReadOrder, local_batch_size, local_count
from dlrm_jax.data.shard_format import MAX_IDS, PADDING, check_ids, lookup_names, shard_columns

_MOST_THREADS = 8  # that read. At least half of the cores are left to the training
_BLOCKS_AHEAD, _WINDOWS_AHEAD = 4, 1  # that each thread reads ahead
_ROWS_TOGETHER = 4096  # rows transposed at a time, so that they stay in the processor's cache: 80 against 155 ns a row of Criteo
_OPEN_FILES = 8  # that each thread keeps. To open a shard of 32 blocks and read its metadata costs 1.5 ms, to keep it 1.2 MB


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Rows in the layout of a batch. This is not a pytree, because Grain would take one apart."""

  dense_nm: Float32[np.ndarray, "n M"]
  ids_nl: Int32[np.ndarray, "n L"]
  label_n: Float32[np.ndarray, " n"]
  bag_weight_nl: Float32[np.ndarray, "n L"] | None
  weight_n: Float32[np.ndarray, " n"] | None

  def __len__(self) -> int:
    return len(self.label_n)

  def cut(self, low: int, high: int) -> "_Rows":
    """Rows `low .. high - 1`, without a copy."""
    return self._each(lambda array: array[low:high])

  def take(self, position_k: Int[np.ndarray, " k"]) -> "_Rows":
    """A copy of the rows at these positions, in their order."""
    return self._each(lambda array: array[position_k])

  def _each(self, function: Callable[[np.ndarray], np.ndarray]) -> "_Rows":
    given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return dataclasses.replace(self, **{name: function(array) for name, array in given.items() if array is not None})


class _OpenFiles(threading.local):
  """The shards that a thread keeps open: those that it used last."""

  def __init__(self) -> None:
    self._files: collections.OrderedDict[Path, pq.ParquetFile] = collections.OrderedDict()

  def get(self, path: Path) -> pq.ParquetFile:
    file = self._files.pop(path, None) or pq.ParquetFile(path)
    self._files[path] = file
    if len(self._files) > _OPEN_FILES:
      self._files.popitem(last=False)[1].close()
    return file


class _Units:
  """The units that a process reads, as Grain's random-access source: an element is the rows of a unit."""

  def __init__(self, dataset: Dataset, split: str, order: ReadOrder):
    shape, of_lookup = dataset.shape, dataset.shape.feature_of_lookup
    self.order, self._dataset, self._weighted, self._num_dense = order, dataset, shape.weighted, shape.num_dense
    self._groups = [
      (shard, group, min(dataset.rows_per_group, shard.rows - group * dataset.rows_per_group))
      for shard in dataset.shards(split)
      for group in range(-(-shard.rows // dataset.rows_per_group))
    ]
    num_ids = shape.num_ids(MAX_IDS)
    self._names, self._limits = [shape.field_names[f] for f in of_lookup], [num_ids[f] for f in of_lookup]
    self._has_weights = shape.weight_column is not None
    self._columns = shard_columns(dataset.dense, lookup_names(shape.field_names, shape.bag_lengths), self._has_weights)
    self._kinds = ["uint8"] + ["float"] * self._num_dense + ["int32"] * len(self._names) + ["float"] * self._has_weights
    self._files = _OpenFiles()

  def __len__(self) -> int:
    return len(self.order)

  def __getitem__(self, unit: int) -> _Rows:
    blocks = self.order.blocks(unit)
    rows = sum(block.high - block.low for block in blocks)
    places, out, done = self.order.places(unit, rows), self.made(np.empty, rows), 0
    for block in blocks:
      label_n, *columns = self._read(block)
      weight_n = columns.pop() if out.weight_n is not None else None
      for low in range(0, len(label_n), _ROWS_TOGETHER):
        some = slice(low, min(low + _ROWS_TOGETHER, len(label_n)))
        count = some.stop - low
        there = slice(done, done + count) if places is None else places[done : done + count]
        out.label_n[there] = label_n[some]
        if out.weight_n is not None and weight_n is not None:
          out.weight_n[there] = weight_n[some]
        _put_rows(out.dense_nm, there, [column[some] for column in columns[: self._num_dense]])
        _put_rows(out.ids_nl, there, [column[some] for column in columns[self._num_dense :]])
        done += count
    if out.bag_weight_nl is not None:
      np.not_equal(out.ids_nl, PADDING, out=out.bag_weight_nl)
      np.maximum(out.ids_nl, 0, out=out.ids_nl)
    return out

  def made(self, make: Callable[..., np.ndarray], rows: int) -> _Rows:
    """Rows whose arrays `make` allocates: numpy's empty or zeros."""
    ids_nl = make((rows, len(self._names)), np.int32)
    bag_weights = make(ids_nl.shape, np.float32) if self._weighted else None
    weights = make(rows, np.float32) if self._has_weights else None
    return _Rows(make((rows, self._num_dense), np.float32), ids_nl, make(rows, np.float32), bag_weights, weights)

  def _read(self, block: BlockRows) -> list[np.ndarray]:
    """The checked columns of some rows of a block."""
    shard, group, rows = self._groups[block.block]
    path = shard.path
    self._dataset.verify(shard)
    table = self._files.get(path).read_row_group(group, columns=self._columns, use_threads=False)
    if table.column_names != self._columns:
      raise UserError(f"{path}: has the columns {', '.join(table.column_names)}, not {', '.join(self._columns)}")
    if len(table) != rows:
      raise UserError(f"{path}: block {group} has {len(table)} rows, not {rows} as dataset.json states")
    for name, column, kind in zip(self._columns, table.columns, self._kinds, strict=True):
      if str(column.type) != kind or column.null_count:
        raise UserError(f"{path}: column {name} is {column.type} with {column.null_count} nulls, not {kind} with none")
    columns = [column.to_numpy()[block.low : block.high] for column in table.columns]
    check_ids(
      columns[1 + self._num_dense :][: len(self._names)], self._names, self._limits, str(path), lowest=PADDING if self._weighted else 0
    )
    return columns

  def __repr__(self) -> str:
    return f"_Units({len(self)})"


class _UnitsAgain:
  """The units of a later epoch, as Grain's random-access source: those of a pass over `count` rows of this process, in another order."""

  def __init__(self, units: _Units, epoch: int, count: int):
    self._units, self._epoch, self._count, self._order = units, epoch, count, units.order.units_again(epoch, count)

  def __len__(self) -> int:
    return len(self._order)

  def __getitem__(self, place: int) -> _Rows:
    unit, order = int(self._order[place]), self._units.order
    rows = self._units[unit].cut(0, self._count - unit * order.rows_per_unit)
    return rows.take(order.rows_again(self._epoch, unit, len(rows)))

  def __repr__(self) -> str:
    return f"_UnitsAgain({len(self)})"


def _put_rows(out: np.ndarray, there: slice | np.ndarray, columns: Sequence[np.ndarray]) -> None:
  """Writes columns into the rows `there` of the row-major array `out`."""
  rows = out[there] if isinstance(there, slice) else np.empty((len(there), len(columns)), out.dtype)
  for i, column in enumerate(columns):
    rows[:, i] = column
  if not isinstance(there, slice):
    out[there] = rows


def batches(
  dataset: Dataset,
  split: str,
  batch_size: int,
  num_examples: int | None = None,
  start: int = 0,
  order: str = "time",
  seed: int = 0,
  process: tuple[int, int] = (0, 1),
  first_row: int = 0,
  pass_rows: int | None = None,
  only: Int[np.ndarray, " k"] | None = None,
) -> Iterator[Batch]:
  """Batches of numpy arrays. The last batch of a process is padded with examples of weight 0.

  Every process gets the same number of batches, each of batch_size / P examples; together they are the whole batches. `start` and the
  other arguments are the whole state of a pass: a pass that begins at `start` gives what the pass from 0 gives after `start` examples,
  and reads nothing before that. If the data set has bags, an empty place in a bag has id 0 and weight 0; otherwise there are no bag
  weights.

  Args:
    dataset: from `open_dataset`.
    split: one of its splits, such as "train".
    batch_size: examples per batch, over all processes.
    num_examples: number of examples over all processes; by default all from `start` on. A larger number begins with the same examples.
    start: number of examples that are skipped; with several epochs it may lie in any of them.
    order: "time", that of the log, or "shuffled"; with several processes see `order.py`.
    seed: of the shuffled order, from 0 to 2**32 - 1.
    process: (p, P): this is process p of P.
    first_row: number of rows of the split that are left out of its beginning: the window starts there.
    pass_rows: examples of an epoch: after so many the same ones come again, in another order (`order.py`). None: there is one epoch.
    only: sorted positions of the examples to take, counted from `start`, for one process. None: all.

  Raises:
    UserError: the split has fewer rows than asked for, or the processes do not divide `batch_size`.
  """
  if split not in SPLITS:
    raise UserError(f"split '{split}' must be among {', '.join(SPLITS)}")
  if order not in ORDERS:
    raise UserError(f"order '{order}' must be among {', '.join(ORDERS)}")
  rows = dataset.rows(split) - first_row
  num_examples = rows - start if num_examples is None else num_examples
  if batch_size < 1 or start < 0 or num_examples < 0:
    raise UserError(f"batch_size={batch_size}, start={start}, num_examples={num_examples}: must be at least 1, 0 and 0")
  if (pass_rows or start + num_examples) > rows:
    where = f" after its first {first_row}" if first_row else ""
    asked = f"num_examples={num_examples} from example {start} on" if pass_rows is None else f"pass_rows={pass_rows}"
    raise UserError(f"{asked}: the {split} split of {dataset.name} has {rows} rows{where}")
  size = local_batch_size(batch_size, process)

  def units_for(role: tuple[int, int]) -> _Units:
    return _Units(dataset, split, ReadOrder(rows, dataset.rows_per_group, order, seed, role, first_row))

  read = _read_epochs(units_for, process, start, start + num_examples, pass_rows or rows)
  count = num_examples if only is None else len(only)
  return _batches(units_for(process), read if only is None else _only(read, only), size, -(-count // batch_size))


def _read_epochs(
  units_for: Callable[[tuple[int, int]], _Units], process: tuple[int, int], start: int, stop: int, each: int
) -> Iterator[_Rows]:
  """The process's rows of the examples `start .. stop - 1`, of which every `each` are an epoch."""
  for epoch in range(start // each, -(-stop // each)) if start < stop else ():
    before = epoch * each  # after them this process is where another one was at the start, so that it takes that one's part
    role = ((process[0] - before) % process[1], process[1])
    low, high = (local_count(min(max(count - before, 0), each), role) for count in (start, stop))
    yield from _read_ahead(units_for(role), low, high, epoch, local_count(each, role))


def _only(read: Iterator[_Rows], positions: Int[np.ndarray, " k"]) -> Iterator[_Rows]:
  """The rows at these sorted positions of a stream."""
  done = 0
  for rows in read:
    low, high = np.searchsorted(positions, (done, done + len(rows)))
    if low < high:
      yield rows.take(positions[low:high] - done)
    done += len(rows)


def _batches(units: _Units, read: Iterator[_Rows], size: int, count: int) -> Iterator[Batch]:
  """`count` batches of a stream of rows."""
  cuts: list[_Rows] = []
  waiting = 0
  for rows in read:
    low = 0
    while low < len(rows):
      taken = min(size - waiting, len(rows) - low)
      cuts.append(rows.cut(low, low + taken))
      low, waiting = low + taken, waiting + taken
      if waiting == size:
        yield _batch(units, cuts, size)
        cuts, waiting, count = [], 0, count - 1
  if count:
    yield _batch(units, cuts, size)


def _batch(units: _Units, cuts: list[_Rows], size: int) -> Batch:
  """Consecutive rows as one batch. Padding has id 0, label 0, dense 0 and weight 0, and empty bags."""
  if len(cuts) == 1 and len(cuts[0]) == size:
    rows, done = cuts[0], size
  else:
    rows, done = units.made(np.zeros, size), 0
    for cut in cuts:
      for field in dataclasses.fields(cut):
        if (given := getattr(cut, field.name)) is not None:
          getattr(rows, field.name)[done : done + len(cut)] = given
      done += len(cut)
  weight_b = (np.arange(size) < done).astype(np.float32) if rows.weight_n is None else rows.weight_n
  return Batch(rows.dense_nm, rows.ids_nl, rows.label_n, weight_b, rows.bag_weight_nl)


def _read_ahead(units: _Units, start: int, stop: int, epoch: int, count: int) -> Iterator[_Rows]:
  """The process's rows `start .. stop - 1` of the `count` of an epoch, unit by unit."""
  if start == stop:
    return
  import grain  # takes half a second, which runs without a data set need not wait for

  per_unit, shuffled = units.order.rows_per_unit, units.order.order == "shuffled"
  threads = max(1, min(_MOST_THREADS, record.hardware()["cores"] // 2))
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * (_WINDOWS_AHEAD if shuffled else _BLOCKS_AHEAD))
  first, last = start // per_unit, -(-stop // per_unit)
  source = _UnitsAgain(units, epoch, count) if epoch and shuffled else units
  with contextlib.closing(iter(grain.MapDataset.source(source)[first:last].to_iter_dataset(options))) as read:
    try:
      for unit, rows in enumerate(read, first):
        yield rows.cut(max(0, start - unit * per_unit), min(len(rows), stop - unit * per_unit))
    except UserError as error:  # Grain adds lines to the message
      raise UserError(str(error).splitlines()[0]) from None
