"""Chunks of raw columns, the file that digests itself while it is read, and the Parquet reader (`delimited` reads text).

Used by `prepare`; `parse` turns chunks into values.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from dlrm_jax.data.rejects import Reject
from dlrm_jax.data.schema import Schema
from dlrm_jax.flags import UserError

CHUNK_ROWS = 1 << 16
_READ_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Chunk:
  """Some consecutive lines of a file.

  Attributes:
    columns: the raw cells of every column of the schema; text where the file is text, where empty cells are null.
    line_n: the line number of each row.
    rejects: the lines that could not be cut into columns.
    text: gives the bytes of the line of row i.
  """

  columns: dict[str, pa.Array]
  line_n: Int64[np.ndarray, " n"]
  rejects: list[Reject]
  text: Callable[[int], bytes]


def arrow(values: np.ndarray) -> pa.Array:
  """A numpy array as an Arrow array, without a copy and without the search for pandas that `pa.array` makes each time."""
  values = np.ascontiguousarray(values)
  return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


class HashingFile(io.RawIOBase):
  """A file that digests the bytes read from it and counts them."""

  def __init__(self, path: Path, on_bytes: Callable[[int], None]):
    self._file, self._digest, self._on_bytes = io.FileIO(path), hashlib.sha256(), on_bytes

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    count = self._file.readinto(buffer) or 0
    self._digest.update(memoryview(buffer)[:count])
    self._on_bytes(count)
    return count

  def hexdigest(self) -> str:
    """The SHA-256 of the whole file, reading what is left of it."""
    while self.read(_READ_BYTES):
      pass
    return self._digest.hexdigest()

  def close(self) -> None:
    self._file.close()
    super().close()


def is_text(kind: pa.DataType) -> bool:
  """Whether a column of this type holds text."""
  if pa.types.is_dictionary(kind):
    return is_text(kind.value_type)
  return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_value(kind: pa.DataType) -> bool:
  return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _is_list(kind: pa.DataType) -> bool:
  return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _check_types(file: pa.Schema, schema: Schema, path: Path) -> None:
  """Raises UserError unless the columns of a Parquet file have types that `parse` understands."""
  for name in schema.columns:
    kind = file.field(name).type
    if name in schema.list_columns:
      # Arrow cannot read lists of dictionary-encoded values where two row groups meet.
      if not (_is_list(kind) and _is_value(kind.value_type) and not pa.types.is_dictionary(kind.value_type)):
        what = "a bag with a length must be a column of lists of integers, plain text or booleans"
        raise UserError(f"{path}: column '{name}' is {kind}: {what}")
      continue
    simple = _is_value(kind)
    if name in schema.bag_columns and not simple:
      lists = f'; lists are read as {{ column = "{name}", length = 5 }}' if _is_list(kind) else ""
      raise UserError(f"{path}: column '{name}' is {kind}: the columns of a bag must hold integers, text or booleans{lists}")
    if name in schema.categorical_names and not simple:
      raise UserError(f"{path}: column '{name}' is {kind}: a categorical column must hold integers, text or booleans")
    if not (simple or pa.types.is_floating(kind)):
      raise UserError(f"{path}: column '{name}' is {kind}: a label or dense column must hold numbers, booleans or text")


def read_parquet(path: Path, schema: Schema, raw: HashingFile) -> Iterator[Chunk]:
  """Chunks of a Parquet file; a row counts as a line. Raises UserError naming the file when it cannot be used."""
  try:
    with pq.ParquetFile(path) as file:
      schema.check_present(file.schema_arrow.names, str(path))
      if not file.metadata.num_rows:
        raise UserError(f"{path}: no rows in it")
      _check_types(file.schema_arrow, schema, path)
      line = 1
      for batch in file.iter_batches(CHUNK_ROWS, columns=list(schema.columns), use_threads=False):
        columns = {name: batch.column(name) for name in schema.columns}
        yield Chunk(columns, np.arange(line, line + len(batch)), [], lambda i, b=batch: _row_json(b, i))  # type: ignore[misc]
        line += len(batch)
        raw.read(path.stat().st_size * len(batch) // file.metadata.num_rows)  # its digest keeps pace with the rows
  except pa.ArrowException as error:
    raise UserError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from None


def _row_json(batch: pa.RecordBatch, i: int) -> bytes:
  return json.dumps(batch.slice(i, 1).to_pylist()[0], default=str).encode()
