"""The format of a data set's shards. `prepare` writes them, `pipeline` and `describe` read them.

A shard has the columns `label` uint8, `dense.NAME` float32 (transformed) and `id.NAME` int32. A bag of several ids has the columns
`id.NAME.0`, `id.NAME.1`, ..., where -1 is padding. If rows have weights, the last column is `weight` float32, above 0. Every shard of a
split but the last has `ROWS_PER_GROUP * GROUPS_PER_SHARD` rows, in row groups of `ROWS_PER_GROUP` rows. The pipeline reads these row groups
as blocks.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dlrm_jax.common.flags import UserError

FORMAT = 2  # of a data set's files. The first format had no number, and sha256 digests
MAX_IDS = 2**31  # of a feature: ids are int32
PADDING = -1  # the id of an empty place in a bag
ROWS_PER_GROUP = 1 << 15
GROUPS_PER_SHARD = 32


def digest(path: Path) -> str:
  """The xxh3_128 of a file."""
  import xxhash  # training on planted data needs none

  hashed = xxhash.xxh3_128()
  with path.open("rb") as file:
    while block := file.read(1 << 20):
      hashed.update(block)
  return hashed.hexdigest()


def shard_columns(dense: Sequence[str], lookups: Sequence[str], weighted: bool = False) -> list[str]:
  """The names of a shard's columns, in order; `lookups` are those of `lookup_names`, and `weighted` if rows have weights."""
  return ["label", *(f"dense.{name}" for name in dense), *(f"id.{name}" for name in lookups), *["weight"] * weighted]


def lookup_names(features: Sequence[str], bag_lengths: Sequence[int]) -> tuple[str, ...]:
  """The names of the L ids of a row: the feature's name if it has one id, else NAME.0, NAME.1, ..."""
  pairs = zip(features, bag_lengths, strict=True)
  return tuple(f"{name}.{i}" if length > 1 else name for name, length in pairs for i in range(length))


def check_ids(columns: Sequence[np.ndarray], names: Sequence[str], limits: Sequence[int], where: str, lowest: int = 0) -> None:
  """Raises UserError naming feature, value and limit unless lowest <= id < limit everywhere. The device would clip an id without a word.

  Args:
    columns: the ids of each lookup, [N].
    names, limits: feature and number of ids of each column.
    where: the file or data set of the ids, for the message.
    lowest: -1 if that marks an empty place of a bag, else 0.
  """
  for column, name, limit in zip(columns, names, limits, strict=True):
    if len(column) and (column.min() < lowest or column.max() >= limit):
      value = column.min() if column.min() < lowest else column.max()
      raise UserError(f"{where}: feature {name} has id {value}; ids are from 0 to {limit - 1}")
