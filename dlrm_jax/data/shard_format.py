"""The format of a data set's shards. `prepare` writes them, `pipeline` and `describe` read them.

A shard has the columns `label` uint8, `dense.NAME` float32 (transformed) and `id.NAME` int32. A bag of several ids has the columns
`id.NAME.0`, `id.NAME.1`, ..., where -1 is padding. Every shard of a split but the last has `ROWS_PER_GROUP * GROUPS_PER_SHARD` rows, in
row groups of `ROWS_PER_GROUP` rows. The pipeline reads these row groups as blocks.
"""

from collections.abc import Sequence
from pathlib import Path

import xxhash

FORMAT = 2  # of a data set's files. The first format had no number, and sha256 digests
MAX_IDS = 2**31  # of a feature: ids are int32
PADDING = -1  # the id of an empty place in a bag
ROWS_PER_GROUP = 1 << 15
GROUPS_PER_SHARD = 32


def digest(path: Path) -> str:
  """The xxh3_128 of a file."""
  hashed = xxhash.xxh3_128()
  with path.open("rb") as file:
    while block := file.read(1 << 20):
      hashed.update(block)
  return hashed.hexdigest()


def shard_columns(dense: Sequence[str], lookups: Sequence[str]) -> list[str]:
  """The names of a shard's columns, in order; `lookups` are those of `lookup_names`."""
  return ["label", *(f"dense.{name}" for name in dense), *(f"id.{name}" for name in lookups)]


def lookup_names(features: Sequence[str], bag_lengths: Sequence[int]) -> tuple[str, ...]:
  """The names of the L ids of a row: the feature's name if it has one id, else NAME.0, NAME.1, ..."""
  pairs = zip(features, bag_lengths, strict=True)
  return tuple(f"{name}.{i}" if length > 1 else name for name, length in pairs for i in range(length))
