"""The first pass over a log: it turns each piece of the input into parts, files of rows whose categories are numbered.

A task reads a piece, or several small files. A part (`part_files.py`) holds up to a piece's worth of rows. Nothing later looks at a cell
again, because ids are given to distinct values, not to rows. `TASK.json` is written last: it marks a task as done.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt64

from dlrm_jax.common import record
from dlrm_jax.data.prepare import distinct, vocabulary
from dlrm_jax.data.prepare.part_files import Part, columns_of, values_of, write_part
from dlrm_jax.data.prepare.read import Piece
from dlrm_jax.data.prepare.rejects import Tally, text_of
from dlrm_jax.data.prepare.rows import End, Read, read_piece
from dlrm_jax.data.prepare.schema import Bag, CategoricalColumn, Schema
from dlrm_jax.data.transform import joined


@dataclasses.dataclass(frozen=True)
class PieceResult:
  """What the first pass found of a piece of the input.

  Attributes:
    lines: number of lines that begin in it, a header included.
    rows: number of rows that were accepted.
    weightless: number of good lines that were left out because their weight is 0.
    rejects: from `Tally.as_json`.
    xxh3_128: digest of its bytes.
  """

  lines: int
  rows: int
  weightless: int
  rejects: dict[str, Any]
  xxh3_128: str

  @property
  def empty(self) -> bool:
    """Whether it has no lines other than a header."""
    return not (self.rows or self.weightless or self.rejects["by_reason"])


@dataclasses.dataclass(frozen=True)
class TaskResult:
  """The result of a task of the first pass, as `TASK.json` holds it.

  Attributes:
    pieces: of each of its pieces.
    parts: rows of each of its parts.
    missing_dense: missing cells of each dense column.
    missing: missing cells of each feature.
    truncated: for each bag of a list column, the number of rows with a longer list.
    inside: whether the last piece ends inside a quoted cell if it begins (outside, inside) of one.
    times: of each part, if the log has a time column: the lowest time, the highest, and whether they ascend (1) or not (0).
    units: units of time that were recognised by the size of numbers.
  """

  pieces: tuple[PieceResult, ...]
  parts: list[int]
  missing_dense: list[int]
  missing: dict[str, int]
  truncated: dict[str, int]
  inside: tuple[bool, bool]
  times: list[list[int]]
  units: list[str]

  @classmethod
  def read(cls, path: Path) -> "TaskResult":
    """The result in a file."""
    facts = record.read_json(path)
    return cls(**facts | {"pieces": tuple(PieceResult(**piece) for piece in facts["pieces"]), "inside": tuple(facts["inside"])})


def missing_hash(feature: CategoricalColumn | Bag) -> np.uint64:
  """The hash of an empty cell of this column or bag."""
  if isinstance(feature, CategoricalColumn) and feature.hexadecimal:
    return vocabulary.hash_uint32(feature.name, np.array([1 << 32], np.uint64))[0]  # outside of the 32-bit values
  return vocabulary.hash_text(feature.name, [b""])[0]


def hash_values(feature: CategoricalColumn | Bag, values: pa.Array) -> UInt64[np.ndarray, " n"]:
  """The hash of every value. Integers and booleans are hashed as text; nulls get `missing_hash`."""
  if isinstance(feature, CategoricalColumn) and feature.hexadecimal:
    number_n = values.fill_null(0).to_numpy().astype(np.uint64)
    hash_n = vocabulary.hash_uint32(feature.name, number_n)
  else:
    texts = ["" if value is None else str(value).lower() if isinstance(value, bool) else str(value) for value in values.to_pylist()]
    hash_n = vocabulary.hash_text(feature.name, [text.encode() for text in texts])
  return np.where(values.is_null().to_numpy(zero_copy_only=False), missing_hash(feature), hash_n)


def _encode(feature: CategoricalColumn | Bag, cells: Sequence[pa.Array]) -> tuple[np.ndarray, vocabulary.Counts]:
  """The index of every cell's value, in the smallest integer type, and the hashes of the distinct values, ascending, with their counts."""
  number_n, values, count_d = distinct.number(cells)
  hash_d = hash_values(feature, values)
  order_d = np.argsort(hash_d)
  rank_d = np.empty(len(order_d), np.min_scalar_type(max(len(order_d) - 1, 0)))
  rank_d[order_d] = np.arange(len(order_d))
  return rank_d.take(number_n), (hash_d[order_d], count_d[order_d])


def counts(schema: Schema, parts: Sequence[Part], rows: int, feature: int) -> list[vocabulary.Counts]:
  """The hashes and counts of a feature's values in the first `rows` rows of the log, part by part. Padding of a bag is left out."""
  runs, first = [], sum(other.length for other in schema.features[:feature])
  of, before = schema.features[feature], 0
  for part in parts:
    if before >= rows:
      break
    hash_d, count_d = values_of(part, feature)
    if before + part.rows > rows:
      columns = columns_of(part.file, [f"id.{first + i}" for i in range(of.length)])
      index_n = np.concatenate([column.to_numpy()[: rows - before] for column in columns])
      count_d = np.bincount(index_n, minlength=len(hash_d))
    kept_d = (count_d > 0) & (hash_d != missing_hash(of)) if isinstance(of, Bag) else count_d > 0
    runs.append((hash_d[kept_d], count_d[kept_d]))
    before += part.rows
  return runs


class _PartWriter:
  """Gathers the rows of chunks and writes them as parts."""

  def __init__(self, task: Path, schema: Schema):
    self._task, self._schema = task, schema
    self._waiting: list[Read] = []
    self.rows: list[int] = []  # of each part
    self.missing: Counter[str] = Counter()  # cells of features
    self.times: list[list[int]] = []  # of each part

  def add(self, read: Read, most_bytes: int) -> None:
    self._waiting.append(read)
    if sum(waiting.num_bytes for waiting in self._waiting) > most_bytes:
      self.flush()

  def flush(self) -> None:
    chunks = [read.rows for read in self._waiting if len(read.rows.label_n)]
    self._waiting = []
    if not chunks:
      return
    path, schema = part_path(self._task, len(self.rows)), self._schema
    label_n = np.concatenate([rows.label_n for rows in chunks])
    dense = [joined(columns) for columns in zip(*(rows.dense for rows in chunks))]
    columns = {"label": label_n}
    if schema.weight is not None:
      columns["weight"] = np.concatenate([rows.weight_n for rows in chunks if rows.weight_n is not None])
    columns |= {f"dense.{i}": value_n for i, value_n in enumerate(dense)}
    values, first = [], 0
    for feature in schema.features:
      places = range(first, first + feature.length)
      index_n, (hash_d, count_d) = _encode(feature, [rows.cells[place] for place in places for rows in chunks])
      columns |= {f"id.{place}": index_m for place, index_m in zip(places, np.split(index_n, feature.length))}
      values.append((hash_d, count_d))
      self.missing[feature.name] += int(count_d[hash_d == missing_hash(feature)].sum())
      first += feature.length
    time_n = np.concatenate([rows.time_n for rows in chunks]) if schema.time is not None else None
    if time_n is not None:
      self.times.append([int(time_n.min()), int(time_n.max()), int((time_n[1:] >= time_n[:-1]).all())])
    write_part(path, columns, values, time_n)
    self.rows.append(len(label_n))


def task_path(directory: Path, task: int, inside: bool) -> Path:
  """The path of a task's files, without their endings. `inside`: its piece begins inside a quoted cell."""
  return directory / (f"{task:06d}" + "-inside" * inside)


def result_path(task: Path) -> Path:
  """The `TaskResult` of a task, which exists once the task is done."""
  return Path(f"{task}.json")


def rejects_path(task: Path) -> Path:
  """The rejected lines of a task's pieces, one after the other, as `rejects.text_of` writes them."""
  return Path(f"{task}.rejects")


def part_path(task: Path, part: int) -> Path:
  """The path of a part, without its ending."""
  return Path(f"{task}-{part:04d}")


@dataclasses.dataclass(frozen=True)
class Reading:
  """The first pass as a job of `tasks.run`. A task is to read one piece of the input, or several small files.

  Attributes:
    directory: where the results go.
    sources: the files of the log.
    tasks: the pieces of each task.
    inside: whether each task's first piece begins inside a quoted cell.
    format, schema, part_bytes: the log's format and columns, and about the most bytes of text of a part.
  """

  directory: Path
  sources: tuple[Path, ...]
  tasks: tuple[tuple[Piece, ...], ...]
  inside: tuple[bool, ...]
  format: str
  schema: Schema
  part_bytes: int

  def task(self, index: int) -> Path:
    """The path of a task's files, without their endings."""
    return task_path(self.directory, index, self.inside[index])

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    """Does a task: writes its parts, its rejects (`TASK.rejects`) and last `TASK.json`.

    Raises UserError naming the file if it cannot be used or most of its lines are rejected.
    """
    schema, path = self.schema, self.task(index)
    writer, pieces, inside = _PartWriter(path, schema), list[PieceResult](), (False, False)
    missing, truncated, units = np.zeros(len(schema.dense), np.int64), Counter[str](), set[str]()
    with record.written_whole(rejects_path(path)) as rejects:
      for piece in self.tasks[index]:
        source, tally, lines, weightless = self.sources[piece.source], Tally(), 0, 0
        for read in read_piece(source, piece, self.format, schema, advance, self.inside[index]):
          if isinstance(read, End):
            inside = read.inside
            pieces.append(PieceResult(lines + read.header_lines, tally.good - weightless, weightless, tally.as_json(), read.xxh3_128))
            continue
          writer.add(read, self.part_bytes + self.part_bytes // 8)
          weightless += read.rows.weightless
          tally.add(read.rejects, len(read.rows.label_n) + read.rows.weightless)
          rejects.writelines(map(text_of, read.rejects))
          lines += read.num_lines
          missing += np.array(read.rows.missing, np.int64)
          truncated.update(read.rows.truncated)
          units.update(read.rows.units)
          tally.refuse_hopeless(source, piece.start)
      writer.flush()
    counts = (writer.rows, missing.tolist(), dict(writer.missing), dict(truncated))
    result = TaskResult(tuple(pieces), *counts, inside, writer.times, sorted(units))
    record.write_json(result_path(path), dataclasses.asdict(result))
