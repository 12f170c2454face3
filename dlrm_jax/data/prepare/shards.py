"""The second pass over a log: it turns parts into Parquet shards with ids (`shard_format.py`).

A shard depends on its position in the split alone, not on how the log was cut into parts.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Int32

from dlrm_jax.common import record
from dlrm_jax.data import shard_format
from dlrm_jax.data.prepare import vocabulary
from dlrm_jax.data.prepare.counting import Counted
from dlrm_jax.data.prepare.encode import Ids
from dlrm_jax.data.prepare.part_files import Part, columns_of, times_of, values_of
from dlrm_jax.data.prepare.read import arrow
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.prepare.staging import Staging
from dlrm_jax.data.shard_format import digest, shard_columns


@dataclasses.dataclass(frozen=True)
class ShardPlan:
  """A shard to write: rows `first` .. `first + rows - 1` of the log, counted over all splits, in row groups of `group_rows`."""

  split: str
  number: int
  first: int
  rows: int
  group_rows: int

  @property
  def name(self) -> str:
    return f"{self.split}-{self.number:05d}.parquet"


def plan_shards(splits: dict[str, int]) -> list[ShardPlan]:
  """The shards of consecutive splits of the log with these numbers of rows."""
  group = shard_format.ROWS_PER_GROUP
  out, first, most = [], 0, group * shard_format.GROUPS_PER_SHARD
  for split, rows in splits.items():
    out += [ShardPlan(split, i, first + start, min(most, rows - start), group) for i, start in enumerate(range(0, rows, most))]
    first += rows
  return out


@dataclasses.dataclass(frozen=True)
class Writing:
  """The second pass as a job of `tasks.run`. A task is to write a shard. Ids and dense inputs are made as `counted` says."""

  place: Staging
  schema: Schema
  parts: tuple[Part, ...]
  wanted: tuple[ShardPlan, ...]
  counted: Counted

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    """Writes a shard and last `SHARD.json`: file, rows, bytes, clicks, the digests of file and content, the first and the last time.

    If rows have weights, clicks are the sum of the weights of clicks, and `weights` is the sum of all.
    """
    shard, inputs, weighted = self.wanted[index], self.counted.inputs, self.schema.weight is not None
    lookups = [*self.schema.lookup_names, *(bins.name for bins in self.counted.bins)]
    names = shard_columns([one.name for one in inputs], lookups, weighted)
    kinds = [pa.uint8()] + [pa.float32()] * len(inputs) + [pa.int32()] * len(lookups) + [pa.float32()] * weighted
    content, weights = xxhash.xxh3_128(), 0.0
    clicks: float = 0
    encodings = dict.fromkeys(names[1:], "BYTE_STREAM_SPLIT")
    options = {"compression": "lz4", "use_dictionary": False, "column_encoding": encodings, "write_statistics": False}
    fields = [pa.field(name, kind, nullable=False) for name, kind in zip(names, kinds, strict=True)]  # so that no levels are written
    path = self.place.out / shard.name
    with record.written_whole(path) as file, pq.ParquetWriter(file, pa.schema(fields), **options) as writer:
      for group in self._groups(shard):
        if weighted:
          weight_n = group[-1].astype(np.float64)
          clicks, weights = clicks + float(weight_n @ group[0]), weights + float(weight_n.sum())
        else:
          clicks += int(group[0].sum())
        for column in group:
          content.update(column.astype(column.dtype.newbyteorder("<"), copy=False).data)
        writer.write_batch(pa.record_batch([arrow(column) for column in group], schema=writer.schema), row_group_size=shard.group_rows)
    written = {
      "file": shard.name,
      "rows": shard.rows,
      "bytes": path.stat().st_size,
      "xxh3_128": digest(path),
      "clicks": clicks,
      "content": content.hexdigest(),
      **({"weights": weights} if weighted else {}),
    }
    if self.schema.time is not None:
      times = [times_of(part)[low:high] for part, low, high in _slices(self.parts, shard)]
      written |= {"first_time": min(int(time_n.min()) for time_n in times), "last_time": max(int(time_n.max()) for time_n in times)}
    record.write_json(self.place.done / f"{shard.name}.json", written)
    advance(shard.rows)

  def _groups(self, shard: ShardPlan) -> Iterator[list[np.ndarray]]:
    """The columns of each row group of a shard."""
    waiting: list[list[np.ndarray]] = []
    missing = shard.group_rows  # rows of the next group
    for part, low, high in _slices(self.parts, shard):
      columns = self._columns(part, low, high)
      start = 0
      while start < high - low:
        taken = min(missing, high - low - start)
        waiting.append([column[start : start + taken] for column in columns])
        start, missing = start + taken, missing - taken
        if not missing:
          yield [np.concatenate(same) for same in zip(*waiting)]
          waiting, missing = [], shard.group_rows
    if waiting:
      yield [np.concatenate(same) for same in zip(*waiting)]

  def _columns(self, part: Part, low: int, high: int) -> list[np.ndarray]:
    """Rows of a part as the columns of a shard."""
    label, *columns = [column.to_numpy()[low:high] for column in columns_of(part.file)]
    weight = [columns.pop(0)] if self.schema.weight is not None else []
    first = len(self.schema.dense)
    numbers = dict(zip(self.schema.dense_names, columns[:first], strict=True))
    ids_of_lookups = [id_d for feature, id_d in zip(self.schema.features, self._ids_of(part)) for _ in range(feature.length)]
    return [
      label,
      *(one.apply(numbers[one.column]) for one in self.counted.inputs),
      *(id_d.take(index_n) for id_d, index_n in zip(ids_of_lookups, columns[first:], strict=True)),
      *(bins.ids(numbers[bins.column]) for bins in self.counted.bins),
      *weight,
    ]

  @functools.cached_property
  def _ids_of(self) -> Callable[[Part], list[Int32[np.ndarray, " d"]]]:
    """A function that returns the ids of a part's distinct values, for each feature. It keeps two parts, which may belong to two shards."""
    count = len(self.schema.features)
    tables = [vocabulary.load(path) for path in self.counted.vocabularies] or None
    ids = Ids.of(self.schema.features, tables)
    return functools.lru_cache(maxsize=2)(lambda part: [ids.of_hashes(f, values_of(part, f)[0]) for f in range(count)])


def _slices(parts: Sequence[Part], shard: ShardPlan) -> Iterator[tuple[Part, int, int]]:
  """The parts that a shard is made of, and for each the range of rows that belongs to the shard."""
  before = 0
  for part in parts:
    low, high = max(shard.first - before, 0), min(shard.first + shard.rows - before, part.rows)
    if low < high:
      yield part, low, high
    before += part.rows
