"""Values to ids: the stable 64-bit hash of a categorical value, and the frequency vocabulary over the training rows.

The hash is the same in every process, on every platform and with every version of the libraries; golden values are tested. Parquet, CSV
and gzipped copies of a log give the same ids. No value is ever converted to float. Used by `parts` and `shards`.
"""

import dataclasses
import hashlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from dlrm_jax.common import record

HASH_CARDINALITY = 2**31  # ids of the `hash` vocabulary: the top 31 bits of the hash
_MERGE_ENTRIES = 1 << 22


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

  Writes `PATH.hash.npy` and then `PATH.id.npy`, each whole. Hashes are evenly distributed, so the runs are merged by ranges of hashes:
  memory holds about `entries` of them in addition to the runs, which may be mapped from files.
  """
  num_ranges = -(-max(sum(len(hash_d) for hash_d, _ in runs), 1) // entries)
  edges = [(i << 64) // num_ranges for i in range(num_ranges + 1)]
  having = Counter[int]()  # count -> number of values with it
  with tempfile.TemporaryFile(dir=path.parent) as kept:
    for low, high in zip(edges, edges[1:]):
      hash_d, count_d = _merged(runs, low, high)
      hash_d, count_d = hash_d[count_d >= min_count], count_d[count_d >= min_count]
      having.update(dict(zip(*(x.tolist() for x in np.unique(count_d, return_counts=True)))))
      np.save(kept, hash_d)
      np.save(kept, count_d)
    more = dict(zip(sorted(having, reverse=True), itertools.accumulate((having[c] for c in sorted(having, reverse=True)), initial=1)))
    kept.seek(0)
    with record.written_whole(Path(f"{path}.id.npy")) as ids, record.written_whole(Path(f"{path}.hash.npy")) as hashes:
      for file, dtype in ((hashes, "<u8"), (ids, "<i4")):
        np.lib.format.write_array_header_1_0(file, {"shape": (having.total(),), "fortran_order": False, "descr": dtype})
      for _ in range(num_ranges):
        hash_d, count_d = np.load(kept), np.load(kept)
        id_d = np.empty(len(hash_d), np.int32)
        order = np.argsort(-count_d, kind="stable")
        values, starts, lengths = np.unique(-count_d[order], return_index=True, return_counts=True)
        for value, start, length in zip((-values).tolist(), starts.tolist(), lengths.tolist()):
          id_d[order[start : start + length]] = np.arange(more[value], more[value] + length)
          more[value] += length  # `more` is the next id for values with this count
        hashes.write(hash_d.astype("<u8", copy=False).tobytes())
        ids.write(id_d.astype("<i4", copy=False).tobytes())


def saved(path: Path) -> bool:
  """Whether `rank` has written a vocabulary at `path`."""
  return Path(f"{path}.id.npy").exists()


def load(path: Path) -> Vocabulary:
  """The vocabulary that `rank` wrote, mapped into memory."""
  return Vocabulary(*(np.load(f"{path}.{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("hash", "id")))
