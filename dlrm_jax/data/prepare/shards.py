"""The second pass over a log: it turns parts into Parquet shards with ids (`shard_format.py`).

A shard depends on its position in the split alone, not on how the log was cut into parts.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Int32

from dlrm_jax.common import record
from dlrm_jax.data import shard_format
from dlrm_jax.data.prepare import vocabulary
from dlrm_jax.data.prepare.parts import Part, columns_of, missing_hash, values_of
from dlrm_jax.data.prepare.read import arrow
from dlrm_jax.data.prepare.schema import Bag, Schema
from dlrm_jax.data.shard_format import PADDING, digest, lookup_names, shard_columns


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


class Ids:
  """The ids of the values of a part, by the vocabularies in `directory`, or by hashes if it is None."""

  def __init__(self, schema: Schema, directory: Path | None):
    self._features = schema.features
    tables = [None if directory is None else vocabulary.load(vocabulary_path(directory, f)) for f in range(len(schema.features))]
    self._lookups = [vocabulary.hash_ids if table is None else table.lookup for table in tables]
    self.of = functools.lru_cache(maxsize=2)(self._of)  # a part may belong to two shards

  def _of(self, part: Part) -> list[Int32[np.ndarray, " d"]]:
    """The id of every distinct value of the part, for each feature."""
    out = []
    for f, (feature, lookup) in enumerate(zip(self._features, self._lookups)):
      hash_d, _ = values_of(part, f)
      id_d = lookup(hash_d)
      out.append(np.where(hash_d == missing_hash(feature), np.int32(PADDING), id_d) if isinstance(feature, Bag) else id_d)
    return out


def vocabulary_path(directory: Path, feature: int) -> Path:
  """The path of a feature's vocabulary, without its endings."""
  return directory / f"{feature:04d}"


def _slices(parts: Sequence[Part], shard: ShardPlan) -> Iterator[tuple[Part, int, int]]:
  """The parts that a shard is made of, and for each the range of rows that belongs to the shard."""
  before = 0
  for part in parts:
    low, high = max(shard.first - before, 0), min(shard.first + shard.rows - before, part.rows)
    if low < high:
      yield part, low, high
    before += part.rows


def _columns(schema: Schema, part: Part, ids: Ids, low: int, high: int) -> list[np.ndarray]:
  """Rows of a part as the columns of a shard."""
  columns = [column.to_numpy()[low:high] for column in columns_of(Path(f"{part.path}.arrow"))]
  first, of_feature = 1 + len(schema.dense), np.repeat(np.arange(len(schema.features)), [f.length for f in schema.features])
  tables = ids.of(part)
  return columns[:first] + [tables[f].take(index_n) for f, index_n in zip(of_feature, columns[first:], strict=True)]


def write(directory: Path, done: Path, schema: Schema, parts: Sequence[Part], ids: Ids, shard: ShardPlan) -> None:
  """Writes a shard and last `DONE/SHARD.json`: file, rows, bytes, clicks, the digests of file and content."""
  names = shard_columns(schema.dense_names, lookup_names([f.name for f in schema.features], [f.length for f in schema.features]))
  kinds = [pa.uint8()] + [pa.float32()] * len(schema.dense) + [pa.int32()] * len(schema.lookups)
  content, clicks = xxhash.xxh3_128(), 0
  encodings = dict.fromkeys(names[1:], "BYTE_STREAM_SPLIT")
  options = {"compression": "lz4", "use_dictionary": False, "column_encoding": encodings, "write_statistics": False}
  fields = [pa.field(name, kind, nullable=False) for name, kind in zip(names, kinds, strict=True)]  # so that no levels are written
  path = directory / shard.name
  with record.written_whole(path) as file, pq.ParquetWriter(file, pa.schema(fields), **options) as writer:
    for group in _groups(schema, parts, ids, shard):
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
  }
  record.write_json(done / f"{shard.name}.json", written)


def _groups(schema: Schema, parts: Sequence[Part], ids: Ids, shard: ShardPlan) -> Iterator[list[np.ndarray]]:
  """The columns of each row group of a shard."""
  waiting: list[list[np.ndarray]] = []
  missing = shard.group_rows  # rows of the next group
  for part, low, high in _slices(parts, shard):
    columns = _columns(schema, part, ids, low, high)
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
