"""The pieces of input files, chunks of raw columns, a file that is digested while it is read, and the Parquet reader.

`delimited` reads text, `parse` turns chunks into values, and `rows` calls both.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Int64

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.cells import is_list, is_text
from dlrm_jax.data.prepare.rejects import Reject
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.prepare.times import TimeColumn

CHUNK_ROWS = 1 << 16
_READ_BYTES = 1 << 20
MOST_SMALL = 1024  # tasks about which very many small files are divided among
GZIP = b"\x1f\x8b"  # gzipped files start with it, text never does


@dataclasses.dataclass(frozen=True)
class Piece:
  """A file or a part of one, which one task reads.

  Attributes:
    source: index of the file.
    start, stop: in plain text, the bytes in which its lines begin; in Parquet, its row groups; 0 and 0 for a gzipped file, one piece.
    size: bytes of the file in it, for progress.
  """

  source: int
  start: int
  stop: int
  size: int


def pieces_of(source: int, path: Path, log_format: str, piece_bytes: int) -> list[Piece]:
  """Cuts a file into at least one piece of about `piece_bytes`. Raises UserError if it should be a Parquet file and is none."""
  size = path.stat().st_size
  if log_format == "parquet":
    with _open_parquet(path) as file:
      groups = file.metadata.num_row_groups
    each = max(1, groups * piece_bytes // max(size, 1))
    starts = range(0, max(groups, 1), each)
    return [Piece(source, start, min(start + each, groups), size * each // max(groups, 1)) for start in starts]
  if is_gzipped(path):
    return [Piece(source, 0, 0, size)]
  return [
    Piece(source, start, min(start + piece_bytes, size), min(piece_bytes, size - start)) for start in range(0, max(size, 1), piece_bytes)
  ]


def bundles(files: Sequence[Sequence[Piece]], piece_bytes: int) -> list[tuple[Piece, ...]]:
  """The pieces of consecutive files as tasks: one piece each, or several whole small files.

  A log of a few large files has as many tasks as pieces. Of very many small files so many are read together that about `MOST_SMALL`
  tasks remain, because every task writes files of its own.
  """
  most = min(piece_bytes, sum(piece.size for pieces in files for piece in pieces) // MOST_SMALL)
  out: list[list[Piece]] = []
  room = -1  # bytes of whole files that the last task may still take
  for pieces in files:
    whole, size = len(pieces) == 1, pieces[0].size
    if whole and size <= room:
      out[-1] += pieces
      room -= size
    else:
      out += [[piece] for piece in pieces]
      room = most - size if whole else -1
  return [tuple(task) for task in out]


def is_gzipped(path: Path) -> bool:
  """Whether a file is gzipped, by its first bytes or its name."""
  with path.open("rb") as file:
    return file.read(len(GZIP)) == GZIP or path.suffix == ".gz"


def _open_parquet(path: Path) -> pq.ParquetFile:
  try:
    return pq.ParquetFile(path)
  except pa.ArrowException as error:
    raise _unreadable(path, error) from None


def _unreadable(path: Path, error: pa.ArrowException) -> UserError:
  return UserError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})")


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Some consecutive lines of a file.

  Attributes:
    columns: the raw cells of every column of the schema. If the file is text, they are text, and empty cells are null.
    line_n: the line number of each row.
    rejects: the lines that could not be cut into columns.
    text: returns the bytes of the line of row i.
  """

  columns: dict[str, pa.Array]
  line_n: Int64[np.ndarray, " n"]
  rejects: list[Reject]
  text: Callable[[int], bytes]


def arrow(values: np.ndarray) -> pa.Array:
  """A numpy array as an Arrow array, without a copy. `pa.array` would search for pandas each time."""
  values = np.ascontiguousarray(values)
  return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


class HashingFile(io.RawIOBase):
  """A range of a file's bytes. It digests and counts the bytes that are read."""

  def __init__(self, path: Path, start: int, stop: int, on_bytes: Callable[[int], None]):
    self._file, self._digest, self._on_bytes = io.FileIO(path), xxhash.xxh3_128(), on_bytes
    self._file.seek(start)
    self._left = stop - start

  def readable(self) -> bool:
    return True

  def read(self, size: int = -1) -> bytes:
    block = self._file.read(self._left if size < 0 else min(size, self._left)) or b""
    self._digest.update(block)
    self._left -= len(block)
    self._on_bytes(len(block))
    return block

  def readinto(self, buffer: Any) -> int:
    block = self.read(len(buffer))
    buffer[: len(block)] = block
    return len(block)

  def hexdigest(self) -> str:
    """The xxh3_128 of the whole range. Reads the bytes that were not read yet."""
    while self.read(_READ_BYTES):
      pass
    return self._digest.hexdigest()

  def close(self) -> None:
    self._file.close()
    super().close()


def _is_value(kind: pa.DataType) -> bool:
  return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _check_types(file: pa.Schema, schema: Schema, path: Path) -> None:
  """Raises UserError unless `parse` supports the types of a Parquet file's columns."""
  for name in schema.columns:
    kind = file.field(name).type
    if schema.time is not None and name == schema.time.column:
      _check_time(kind, schema.time, path)
      if name not in (*schema.dense_names, *schema.categorical_names, *schema.bag_columns):
        continue
    if name in schema.list_columns:
      # Arrow cannot read lists of dictionary-encoded values across two row groups.
      if not (is_list(kind) and _is_value(kind.value_type) and not pa.types.is_dictionary(kind.value_type)):
        what = "a bag with a length must be a column of lists of integers, plain text or booleans"
        raise UserError(f"{path}: column '{name}' is {kind}: {what}")
      continue
    simple = _is_value(kind)
    if name in schema.bag_columns and not simple:
      lists = f'; lists are read as {{ column = "{name}", length = 5 }}' if is_list(kind) else ""
      raise UserError(f"{path}: column '{name}' is {kind}: the columns of a bag must hold integers, text or booleans{lists}")
    if name in schema.categorical_names and not simple:
      raise UserError(f"{path}: column '{name}' is {kind}: a categorical column must hold integers, text or booleans")
    if not (simple or pa.types.is_floating(kind)):
      raise UserError(f"{path}: column '{name}' is {kind}: a label or dense column must hold numbers, booleans or text")
    label = schema.label
    if label is not None and name == label.column and isinstance(label.value, str) and not simple:
      raise UserError(f"{path}: column '{name}' is {kind}: the label compares it with text; write a number without quotes")


def parquet_types(path: Path) -> dict[str, pa.DataType]:
  """The columns of a Parquet file and their types. Raises UserError naming the file if it is none."""
  with _open_parquet(path) as file:
    return dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))


def parquet_rows(path: Path) -> int:
  """The number of rows of a Parquet file. Raises UserError naming the file if it is none."""
  with _open_parquet(path) as file:
    return file.metadata.num_rows


def _check_time(kind: pa.DataType, time: TimeColumn, path: Path) -> None:
  """Raises UserError unless `times` supports the type of the time column."""
  stamps = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
  if not (stamps or is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
    raise UserError(f"{path}: column '{time.column}' is {kind}: the time column must hold timestamps, dates, numbers or text")
  for key, value in (("unit", time.unit), ("format", time.format)):
    if stamps and value is not None:
      raise UserError(f"{path}: column '{time.column}' is {kind}: {key} = \"{value}\" is for numbers and text alone; leave it out")


def read_parquet(path: Path, piece: Piece, schema: Schema, raw: HashingFile) -> Iterator[Chunk]:
  """Chunks of some row groups of a Parquet file; a row counts as a line. Raises UserError naming the file if it cannot be used.

  `raw` is read in step with the rows, for its digest.
  """
  try:
    with _open_parquet(path) as file:
      if not file.metadata.num_rows:
        return  # an empty partition may lack columns, or have them without a type
      schema.check_present(file.schema_arrow.names, str(path))
      _check_types(file.schema_arrow, schema, path)
      line, groups = 1, range(piece.start, piece.stop)
      rows = sum(file.metadata.row_group(g).num_rows for g in groups)
      for batch in file.iter_batches(CHUNK_ROWS, groups, columns=list(schema.columns), use_threads=False):
        columns = {name: batch.column(name) for name in schema.columns}
        yield Chunk(columns, np.arange(line, line + len(batch)), [], lambda i, b=batch: _row_json(b, i))  # type: ignore[misc]
        line += len(batch)
        raw.read(piece.size * len(batch) // rows)
  except pa.ArrowException as error:
    raise _unreadable(path, error) from None


def _row_json(batch: pa.RecordBatch, i: int) -> bytes:
  row = {name: shown(column.slice(i, 1)) for name, column in zip(batch.schema.names, batch.columns)}
  return json.dumps(row, default=str).encode()


def shown(cell: pa.Array) -> Any:
  """The value of an array's only cell. Times become text, because Python's datetime has no nanoseconds."""
  return (cell.cast(pa.string()) if pa.types.is_temporal(cell.type) else cell)[0].as_py()
