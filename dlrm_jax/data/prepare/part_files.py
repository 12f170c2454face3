"""The files of a part, which holds rows of the log between the passes. Written by `parts` and `arrange`, read by them and `shards`.

    PART.arrow          label, weight if rows have one, raw numbers, and for each id of a row the index of its value among the distinct
                        values of its feature here
    PART.values.arrow   the hashes of the distinct values of each feature, ascending, and their counts
    PART.time.arrow     the time of each row, if the log has a time column

Files are mapped into memory.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Integer

from dlrm_jax.common import record
from dlrm_jax.data.prepare.read import arrow
from dlrm_jax.data.prepare.vocabulary import Counts


@dataclasses.dataclass(frozen=True)
class Part:
  """A file of rows: its path without endings, and the number of rows."""

  path: Path
  rows: int

  @property
  def file(self) -> Path:
    """The file of its rows."""
    return Path(f"{self.path}.arrow")

  @property
  def times(self) -> Path:
    """The file of the times of its rows, which is written last."""
    return Path(f"{self.path}.time.arrow")


def _one_row(values: np.ndarray) -> pa.Array:
  """A column whose only row holds an array. `pa.array` would search for pandas each time."""
  return pa.ListArray.from_arrays(arrow(np.array([0, len(values)], np.int32)), arrow(values))


def write(path: Path, columns: Mapping[str, Any]) -> None:
  """Writes columns as an Arrow file that can be mapped into memory. It is whole or absent, even if two runs write the same file."""
  arrays = [_one_row(*column) if isinstance(column, list) else arrow(column) for column in columns.values()]
  batch = pa.record_batch(arrays, list(columns))
  with record.written_whole(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
    writer.write_batch(batch)


def write_part(
  path: Path, columns: Mapping[str, np.ndarray], values: Sequence[Counts], time_n: Int64[np.ndarray, " n"] | None = None
) -> None:
  """Writes the files of a part.

  Args:
    path: its path without endings.
    columns: the label, then the raw dense numbers, then the indices of ids.
    values: the hashes and counts of the distinct values of each feature.
    time_n: the times of the rows, if the log has a time column.
  """
  write(Path(f"{path}.arrow"), columns)
  entries = {f"hash.{f}": [hash_d] for f, (hash_d, _) in enumerate(values)} | {f"count.{f}": [n_d] for f, (_, n_d) in enumerate(values)}
  write(Path(f"{path}.values.arrow"), entries)
  if time_n is not None:
    write(Part(path, len(time_n)).times, {"time": time_n})


def columns_of(path: Path, names: Sequence[str] | None = None) -> list[pa.Array]:
  """The named columns of a file that `write` wrote, mapped into memory; by default all."""
  with pa.memory_map(str(path)) as file:
    batch = pa.ipc.open_file(file).get_batch(0)
  return [batch.column(name) for name in (batch.schema.names if names is None else names)]


def names_of(path: Path) -> list[str]:
  """The names of the columns of a file that `write` wrote."""
  with pa.memory_map(str(path)) as file:
    return list(pa.ipc.open_file(file).schema.names)


def values_of(part: Part, feature: int) -> Counts:
  """The hashes of a feature's distinct values in a part, ascending, and their counts."""
  hashes, counts = columns_of(Path(f"{part.path}.values.arrow"), [f"hash.{feature}", f"count.{feature}"])
  return hashes[0].values.to_numpy(), counts[0].values.to_numpy()


def times_of(part: Part) -> Int64[np.ndarray, " n"]:
  """The time of each row of a part."""
  return columns_of(part.times)[0].to_numpy()


def numbered_again(
  parts: Sequence[Part], rows: Sequence[Integer[np.ndarray, " _"]], feature: int, lookups: Sequence[str]
) -> tuple[list[np.ndarray], Counts]:
  """The values of a feature in some rows of several parts, numbered anew.

  Returns for each id of the feature the index of every row's value, in the smallest integer type, and the values' hashes and counts.
  """
  used, hashes = [], []
  for part, row_m in zip(parts, rows):
    index_n = np.concatenate([column.to_numpy()[row_m] for column in columns_of(part.file, lookups)])
    index_d, code_n, count_d = np.unique(index_n, return_inverse=True, return_counts=True)
    used.append((code_n, count_d))
    hashes.append(values_of(part, feature)[0][index_d])
  hash_d = np.unique(np.concatenate(hashes))
  counts, pieces = np.zeros(len(hash_d), np.int64), []
  for (code_n, count_d), old_d in zip(used, hashes):
    new_d = np.searchsorted(hash_d, old_d)
    counts[new_d] += count_d
    pieces.append(np.split(new_d.astype(np.min_scalar_type(max(len(hash_d) - 1, 0)))[code_n], len(lookups)))
  return [np.concatenate(same) for same in zip(*pieces)], (hash_d, counts)
