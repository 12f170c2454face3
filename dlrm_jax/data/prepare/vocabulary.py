"""Values to ids: the stable 64-bit hash of a categorical value, and the frequency vocabulary over the training rows.

The hash is the same in every process, on every platform and with every version of the libraries; golden values are tested. Parquet, CSV
and gzipped copies of a log give the same ids. No value is ever converted to float. Used by `parts` and `shards`.

A data set keeps the frequency vocabulary of each feature as an Arrow file of two columns, `hash` (ascending) and `id`. It is mapped into
memory, whatever its size. With it, `predict` and `prepare --like` give the values of other files the same ids.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import xxhash
from jaxtyping import Int32, Int64, UInt64

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError

HASH_CARDINALITY = 2**31  # ids of the `hash` vocabulary: the top 31 bits of the hash
_MERGE_ENTRIES = 1 << 22
_KINDS = {"hash": pa.uint64(), "id": pa.int32()}  # of the columns of a file


def hash_text(column: str, values: Iterable[bytes]) -> UInt64[np.ndarray, " n"]:
  """BLAKE2b of each value, 8 bytes little-endian, keyed by the column's name. A missing value is hashed as an empty one."""
  keyed = hashlib.blake2b(digest_size=8, key=hashlib.blake2b(column.encode()).digest())
  out = bytearray()
  for value in values:
    one = keyed.copy()
    one.update(value)
    out += one.digest()
  return np.frombuffer(bytes(out), "<u8")


def hash_uint32(column: str, value_n: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
  """SplitMix64's finaliser of value + a seed from the column's name. It is a bijection: no two values of a column get the same hash.

  Args:
    column: the column's name.
    value_n: 32-bit values; 2**32 is a missing one.
  """
  x = value_n + hash_text(column, [b"seed"])[0]  # uint64 arrays wrap around
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def hash_ids(hash_n: UInt64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
  """The ids of the `hash` vocabulary."""
  return (hash_n >> np.uint64(33)).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """The ids of one feature by frequency: id 1 is the most frequent value of the training rows, 0 an unseen or rare one.

  Attributes:
    hash_v: the hashes that have an id, ascending; mapped into memory if they come from a file.
    id_v: their ids, 1 to v.
  """

  hash_v: UInt64[np.ndarray, " v"]
  id_v: Int32[np.ndarray, " v"]

  @property
  def cardinality(self) -> int:
    """The number of ids, 0 included."""
    return len(self.hash_v) + 1

  def lookup(self, hash_n: UInt64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """The id of each hash, or 0 if it has none. The search is fastest if hashes ascend."""
    if not len(self.hash_v):
      return np.zeros(len(hash_n), np.int32)
    place_n = np.minimum(np.searchsorted(self.hash_v, hash_n), len(self.hash_v) - 1)
    return np.where(self.hash_v[place_n] == hash_n, self.id_v[place_n], np.int32(0))

  def content(self) -> str:
    """The xxh3_128 of all hashes and then all ids, little-endian. It does not depend on how Arrow writes a file."""
    hashed = xxhash.xxh3_128()
    for values, dtype in ((self.hash_v, "<u8"), (self.id_v, "<i4")):
      for start in range(0, len(values), _MERGE_ENTRIES):
        hashed.update(np.ascontiguousarray(values[start : start + _MERGE_ENTRIES], dtype).data)
    return hashed.hexdigest()


# The hashes of distinct values, ascending, and the count of each.
Counts = tuple[UInt64[np.ndarray, "_"], Int64[np.ndarray, "_"]]


def _merged(runs: Sequence[Counts], low: int, high: int) -> Counts:
  """The sum of one or more counts, for the hashes from `low` to below `high`."""
  cuts = [slice(np.searchsorted(hash_d, np.uint64(low)), np.searchsorted(hash_d, np.uint64(high - 1), "right")) for hash_d, _ in runs]
  hash_n = np.concatenate([hash_d[cut] for cut, (hash_d, _) in zip(cuts, runs)])
  count_n = np.concatenate([count_d[cut] for cut, (_, count_d) in zip(cuts, runs)])
  order = np.argsort(hash_n)
  hash_n = hash_n[order]
  first = np.flatnonzero(np.concatenate([[True], hash_n[1:] != hash_n[:-1]])) if len(hash_n) else np.zeros(0, np.int64)
  return hash_n[first], np.add.reduceat(count_n[order], first) if len(first) else count_n


def rank(runs: Sequence[Counts], min_count: int, path: Path, entries: int = _MERGE_ENTRIES) -> None:
  """Ranks the values seen at least `min_count` times by descending count, then ascending hash, so that the order of the log has no effect.

  Writes the Arrow file `path`, whole. Hashes are evenly distributed, so the runs are merged by ranges of hashes: memory holds about
  `entries` of them in addition to the runs, which may be mapped from files.
  """
  num_ranges = -(-max(sum(len(hash_d) for hash_d, _ in runs), 1) // entries)
  edges = [(i << 64) // num_ranges for i in range(num_ranges + 1)]
  having = Counter[int]()  # count -> number of values with it
  with contextlib.ExitStack() as opened:
    kept, hashes, ids = (opened.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in range(3))
    for low, high in zip(edges, edges[1:]):
      hash_d, count_d = _merged(runs, low, high)
      hash_d, count_d = hash_d[count_d >= min_count], count_d[count_d >= min_count]
      having.update(dict(zip(*(x.tolist() for x in np.unique(count_d, return_counts=True)))))
      np.save(kept, hash_d)
      np.save(kept, count_d)
    more = dict(zip(sorted(having, reverse=True), itertools.accumulate((having[c] for c in sorted(having, reverse=True)), initial=1)))
    kept.seek(0)
    for _ in range(num_ranges):
      hash_d, count_d = np.load(kept), np.load(kept)
      id_d = np.empty(len(hash_d), np.int32)
      order = np.argsort(-count_d, kind="stable")
      values, starts, lengths = np.unique(-count_d[order], return_index=True, return_counts=True)
      for value, start, length in zip((-values).tolist(), starts.tolist(), lengths.tolist()):
        id_d[order[start : start + length]] = np.arange(more[value], more[value] + length)
        more[value] += length  # `more` is the next id for values with this count
      hashes.write(hash_d.tobytes())
      ids.write(id_d.tobytes())
    _save(path, Vocabulary(_mapped(hashes, np.uint64), _mapped(ids, np.int32)))


def _mapped(file: IO[bytes], dtype: type[np.generic]) -> np.ndarray:
  """The numbers that were written into a file, mapped into memory."""
  file.flush()
  return np.memmap(file, dtype, mode="r") if file.tell() else np.zeros(0, dtype)  # an empty file cannot be mapped


def _save(path: Path, vocabulary: Vocabulary) -> None:
  arrays = [np.ascontiguousarray(x) for x in (vocabulary.hash_v, vocabulary.id_v)]
  columns = [pa.Array.from_buffers(kind, len(x), [None, pa.py_buffer(x)]) for kind, x in zip(_KINDS.values(), arrays)]
  batch = pa.record_batch(columns, pa.schema([pa.field(name, kind, nullable=False) for name, kind in _KINDS.items()]))
  with record.written_whole(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
    writer.write_batch(batch)


def load(path: Path, content: str | None = None) -> Vocabulary:
  """The vocabulary that `rank` wrote, mapped into memory.

  Raises UserError naming the file if it is absent or none, or if its content is not `content`, from dataset.json.
  """
  try:
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
      batch = reader.get_batch(0)
    if {field.name: field.type for field in batch.schema} != _KINDS:
      raise pa.ArrowInvalid(f"has the columns {', '.join(batch.schema.names)}")
    out = Vocabulary(batch.column(0).to_numpy(), batch.column(1).to_numpy())
  except FileNotFoundError:
    raise UserError(f"{path}: no such file; it has the ids of a feature's values") from None
  except (pa.ArrowException, OSError, ValueError) as error:  # Arrow raises OSError, too, where bytes are damaged
    raise UserError(f"{path}: not a vocabulary ({' '.join(str(error).split())})") from None
  if content is not None and out.content() != content:
    raise UserError(f"{path}: changed since it was prepared (its content is not the one in dataset.json)")
  return out
