"""Between the passes: rows brought into the order of their time, or of their split, as new parts. Called by `program`.

First the rows of each part are sorted by a key: their time, or the number of their split (`Sorting`). The new parts are consecutive ranges
of (key, part, place), so that rows of one key keep the order of the log, however it was cut. Their limits come from a sample of the keys.
The rows of a range are consecutive in each sorted part, and a task puts them together (`Arranging`). Memory holds the rows of one new part,
which has about as many as an old one.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt32

from dlrm_jax.data.prepare.part_files import Part, columns_of, names_of, numbered_again, times_of, write, write_part
from dlrm_jax.data.prepare.schema import Schema

_SAMPLES = 4096  # of a part, at most


@dataclasses.dataclass(frozen=True)
class Place:
  """A row of the log: its key, the number of its part, and its place among the sorted rows of the part."""

  key: int
  part: int
  place: int


def sorted_path(directory: Path, part: int) -> Path:
  """The sorted keys of a part, and the row of each."""
  return directory / f"{part:06d}.sorted.arrow"


def new_path(directory: Path, index: int) -> Path:
  """The path of a new part, without its endings."""
  return directory / f"new-{index:06d}"


@dataclasses.dataclass(frozen=True)
class Sorting:
  """A job of `tasks.run`. A task is to sort the rows of a part by their key.

  Attributes:
    directory: where files go.
    parts: the parts of the log.
    bounds: None: the key is the time. Else the key is the number of the split: how many of these moments are not after the row.
  """

  directory: Path
  parts: tuple[Part, ...]
  bounds: tuple[int, ...] | None

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    """Writes the sorted keys of a part."""
    time_n = times_of(self.parts[index])
    key_n = time_n if self.bounds is None else np.searchsorted(np.array(self.bounds), time_n, "right")
    row_n = np.argsort(key_n, kind="stable")
    write(sorted_path(self.directory, index), {"key": key_n[row_n].astype(np.int64), "row": row_n.astype(np.uint32)})
    advance(len(row_n))


def _sorted(directory: Path, part: int) -> tuple[Int64[np.ndarray, " n"], UInt32[np.ndarray, " n"]]:
  key_n, row_n = (column.to_numpy() for column in columns_of(sorted_path(directory, part)))
  return key_n, row_n


def _before(edges: Sequence[Place], part: int, key_n: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " e"]:
  """How many of the sorted rows of a part come before each edge."""
  key_e, part_e, place_e = (np.array([getattr(edge, name) for edge in edges], np.int64) for name in ("key", "part", "place"))
  left_e, right_e = (np.searchsorted(key_n, key_e, side) for side in ("left", "right"))
  return np.where(part_e == part, place_e, np.where(part_e > part, right_e, left_e))


def plan(directory: Path, parts: Sequence[Part]) -> tuple[list[Place], list[Part]]:
  """The first row of each new part but the first one, and the new parts. It reads what `Sorting` wrote."""
  most = max(part.rows for part in parts)
  step = max(1, most // min(4 * len(parts), _SAMPLES))
  keys, which, places = [], [], []
  for i, part in enumerate(parts):
    sample = np.arange(0, part.rows, step)
    keys.append(_sorted(directory, i)[0][sample])
    which.append(np.full(len(sample), i))
    places.append(sample)
  key_s, part_s, place_s = (np.concatenate(columns) for columns in (keys, which, places))
  chosen = np.argsort(key_s, kind="stable")[max(1, most // step) :: max(1, most // step)]
  edges = [Place(*map(int, place)) for place in zip(key_s[chosen], part_s[chosen], place_s[chosen], strict=True)]
  before = np.zeros(len(edges) + 1, np.int64)
  for i in range(len(parts)):
    key_n, _ = _sorted(directory, i)
    before[:-1] += _before(edges, i, key_n)
  before[-1] = sum(part.rows for part in parts)
  return edges, [Part(new_path(directory, i), int(rows)) for i, rows in enumerate(np.diff(before, prepend=0))]


@dataclasses.dataclass(frozen=True)
class Arranging:
  """A job of `tasks.run`. A task is to write a new part, with the files that an old one has (`parts.py`).

  Attributes:
    directory, parts: as in `Sorting`, which has sorted all parts.
    schema: the log's.
    edges: the first row of each new part but the first one.
  """

  directory: Path
  parts: tuple[Part, ...]
  schema: Schema
  edges: tuple[Place, ...]

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    """Writes a new part."""
    parts, keys, rows = self._taken(index)
    order_n = np.argsort(np.concatenate(keys), kind="stable")
    columns, values = {}, []
    names = names_of(parts[0].file)
    plain = [name for name in names if not name.startswith("id.")]
    taken = [[column.to_numpy()[row_m] for column in columns_of(part.file, plain)] for part, row_m in zip(parts, rows)]
    for name, pieces in zip(plain, zip(*taken), strict=True):
      columns[name] = np.concatenate(pieces)[order_n]
    first = 0
    for f, feature in enumerate(self.schema.features):
      lookups = [f"id.{first + i}" for i in range(feature.length)]
      indices, counts = numbered_again(parts, rows, f, lookups)
      columns |= {name: index_n[order_n] for name, index_n in zip(lookups, indices, strict=True)}
      values.append(counts)
      first += feature.length
    time_n = np.concatenate([times_of(part)[row_m] for part, row_m in zip(parts, rows)])[order_n]
    write_part(new_path(self.directory, index), {name: columns[name] for name in names}, values, time_n)
    advance(len(order_n))

  def _taken(self, index: int) -> tuple[list[Part], list[Int64[np.ndarray, " _"]], list[UInt32[np.ndarray, " _"]]]:
    """The parts with rows of a new part, and for each the keys and the numbers of these rows."""
    parts, keys, rows = [], [], []
    for i, part in enumerate(self.parts):
      key_n, row_n = _sorted(self.directory, i)
      limits = [0, *_before(self.edges[max(index - 1, 0) : index + 1], i, key_n).tolist(), part.rows]
      low, high = limits[-3:-1] if index < len(self.edges) else limits[-2:]
      if low < high:
        parts.append(part)
        keys.append(key_n[low:high])
        rows.append(row_n[low:high])
    return parts, keys, rows
