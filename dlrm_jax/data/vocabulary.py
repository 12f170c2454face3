"""Values to ids: the stable 64-bit hash of a categorical value, and the frequency vocabulary over the training rows.

The hash is the same in every process, on every platform and with every version of the libraries (golden values are tested);
Parquet, CSV and gzipped copies of a log give the same ids. Nothing here is ever a float. Used by `parse` and `prepare`.
"""

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np
import polars as pl
from jaxtyping import Int32, UInt64

from dlrm_jax.data.read import arrow

HASH_CARDINALITY = 2**31  # ids of the `hash` vocabulary: the top 31 bits of the hash
_MERGE_ROWS = 1 << 20


def hash_text(column: str, values: Iterable[bytes]) -> UInt64[np.ndarray, " n"]:
  """BLAKE2b of each value, 8 bytes little-endian, keyed by the column's name. The empty value stands for a missing one."""
  keyed = hashlib.blake2b(digest_size=8, key=hashlib.blake2b(column.encode()).digest())
  out = bytearray()
  for value in values:
    one = keyed.copy()
    one.update(value)
    out += one.digest()
  return np.frombuffer(bytes(out), "<u8")


def hash_uint32(column: str, value_n: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
  """SplitMix64's finaliser of value + a seed from the column's name: a bijection, so no two values of a column meet.

  Args:
    column: the column's name.
    value_n: 32-bit values; a missing one is 2**32.
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
  """The ids of one column by frequency: id 1 is the most frequent value of the training rows, 0 an unseen or rare one.

  Attributes:
    hash_v: the hashes that have an id, ascending.
    id_v: their ids, 1 to v.
  """

  hash_v: UInt64[np.ndarray, " v"]
  id_v: Int32[np.ndarray, " v"]

  @property
  def cardinality(self) -> int:
    """The number of ids, 0 included."""
    return len(self.hash_v) + 1

  def lookup(self, hash_n: UInt64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """The id of each hash, 0 where it has none."""
    if not len(self.hash_v):
      return np.zeros(len(hash_n), np.int32)
    encoded = arrow(hash_n).dictionary_encode()  # most columns repeat few values: search each one once
    distinct_d = encoded.dictionary.to_numpy(zero_copy_only=False)
    place_d = np.minimum(np.searchsorted(self.hash_v, distinct_d), len(self.hash_v) - 1)
    id_d = np.where(self.hash_v[place_d] == distinct_d, self.id_v[place_d], np.int32(0))
    return id_d[encoded.indices.to_numpy(zero_copy_only=False)]


class Counter:
  """Counts the values of one column, in memory proportional to the number of distinct ones."""

  def __init__(self) -> None:
    self._parts: list[pl.DataFrame] = []
    self._pending = 0

  def add(self, hash_n: UInt64[np.ndarray, " n"]) -> None:
    """Counts one chunk."""
    counted = arrow(hash_n).value_counts()
    self._parts.append(
      pl.DataFrame({"hash": counted.field(0).to_numpy(zero_copy_only=False), "count": counted.field(1).to_numpy(zero_copy_only=False)})
    )
    self._pending += len(counted)
    if self._pending > max(_MERGE_ROWS, 2 * len(self._parts[0])):  # each merge at least doubles: linear time in all
      self._merge()

  def _merge(self) -> None:
    self._parts = [pl.concat(self._parts).group_by("hash").agg(pl.col("count").sum())]
    self._pending = 0

  def vocabulary(self, min_count: int) -> Vocabulary:
    """Ranks the values seen at least `min_count` times by descending count, then ascending hash: file order plays no part."""
    if not self._parts:
      return Vocabulary(np.zeros(0, np.uint64), np.zeros(0, np.int32))
    self._merge()
    kept = self._parts[0].filter(pl.col("count") >= min_count)
    ranked = kept.sort(["count", "hash"], descending=[True, False])["hash"].to_numpy()
    order = np.argsort(ranked)
    return Vocabulary(ranked[order], (order + 1).astype(np.int32))
