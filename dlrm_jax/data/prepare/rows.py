"""Reads a piece of the input, in any format, chunk by chunk to accepted rows and rejects. Called by `parts`."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dlrm_jax.data.prepare import delimited
from dlrm_jax.data.prepare.criteo_lines import Lines, Reader
from dlrm_jax.data.prepare.parse import Rows, joined, parse
from dlrm_jax.data.prepare.quotes import Quotes
from dlrm_jax.data.prepare.read import HashingFile, Piece, read_parquet
from dlrm_jax.data.prepare.rejects import Reject
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.transform import pack


@dataclasses.dataclass(frozen=True)
class Read:
  """The result of one chunk of lines.

  Attributes:
    rows: the accepted lines.
    rejects: the other lines, in order. The first line of the piece has number 1.
    num_bytes: the size of the lines.
  """

  rows: Rows
  rejects: list[Reject]
  num_bytes: int

  @property
  def num_lines(self) -> int:
    return len(self.rows.line_n) + self.rows.weightless + len(self.rejects)


@dataclasses.dataclass(frozen=True)
class End:
  """What is known at the end of a piece.

  Attributes:
    xxh3_128: digest of its bytes.
    header_lines: 1 if its first line is a header, else 0.
    inside: whether it ends inside a quoted cell if it begins (outside, inside) of one.
  """

  xxh3_128: str
  header_lines: int = 0
  inside: tuple[bool, bool] = (False, False)


def read_piece(
  path: Path, piece: Piece, log_format: str, schema: Schema, on_bytes: Callable[[int], None], inside: bool = False
) -> Iterator[Read | End]:
  """The lines of a piece in order, and last an `End`. Raises UserError naming the file if it cannot be used.

  Args:
    path, piece: the file and the piece of it.
    log_format: "criteo_tsv", "csv" or "parquet".
    schema: its columns.
    on_bytes: called with the number of bytes read since the last call.
    inside: whether the piece begins inside a quoted cell.
  """
  size = path.stat().st_size
  start, stop = (piece.start, piece.stop) if log_format != "parquet" and piece.stop else (0, size)
  if log_format == "parquet" and piece.start:
    start = stop  # the first piece digests the whole file
  with HashingFile(path, start, stop, on_bytes) as raw:
    if log_format == "parquet":
      for chunk in read_parquet(path, piece, schema, raw):
        yield Read(*parse(chunk, schema), sum(column.nbytes for column in chunk.columns.values()))
      yield End(raw.hexdigest())
    elif log_format == "criteo_tsv":
      yield from _read_criteo(path, piece, schema, raw)
      yield End(raw.hexdigest())
    else:
      yield from _read_csv(path, piece, schema, raw, inside)


def _read_criteo(path: Path, piece: Piece, schema: Schema, raw: HashingFile) -> Iterator[Read]:
  names, line, reader = schema.header, 1, _line_reader()
  assert names is not None
  for block in delimited.blocks_of_lines(path, piece, raw):
    if reader is None:
      line_n = np.arange(line, line + block.count(b"\n"))
      read = Read(*parse(delimited.cut(block, line_n, names, schema), schema), len(block))
    else:
      read = _checked(block, reader.read(block), line, names, schema)
    line += read.num_lines
    yield read


def _read_csv(path: Path, piece: Piece, schema: Schema, raw: HashingFile, inside: bool) -> Iterator[Read | End]:
  names, line = delimited.header_of(path, schema), 1
  quotes = Quotes.at_start(schema.delimiter, inside) if schema.quotes else None
  header_lines = int(schema.header is None and piece.start == 0 and names is not None)
  skip = header_lines
  for block in delimited.blocks_of_lines(path, piece, raw):
    if skip:
      block, skip, line = block.partition(b"\n")[2], 0, 2
    assert names is not None  # because the file is not empty
    line_n = np.arange(line, line + block.count(b"\n"))
    read = Read(*parse(delimited.cut(block, line_n, names, schema, quotes), schema), len(block))
    line += read.num_lines
    yield read
  yield End(raw.hexdigest(), header_lines, (False, False) if quotes is None else quotes.at_end(inside))


@functools.cache
def _line_reader() -> Reader | None:
  return Reader.make()


def _checked(block: bytes, lines: Lines, first_line: int, names: Sequence[str], schema: Schema) -> Read:
  """The lines that the fast reader accepted, together with the others, which the careful reader reads."""
  dense = tuple(pack(number_n, missing_n) for number_n, missing_n in zip(lines.number_mn, lines.missing_mn))
  missing = tuple(np.count_nonzero(lines.missing_mn, axis=1).tolist())
  key_fn, valid_fb = lines.key_fn.copy(), lines.valid_fb.copy()  # the next call of the reader overwrites its buffers
  cells = tuple(
    pa.Array.from_buffers(pa.uint32(), len(key_n), [pa.py_buffer(valid_b), pa.py_buffer(key_n)], nulls)
    for key_n, valid_b, nulls in zip(key_fn, valid_fb, lines.null_count_f.tolist())
  )
  rows = Rows(lines.line_n.astype(np.int64) + first_line, lines.label_n.copy(), dense, missing, cells, {})
  if not len(lines.careful_k):
    return Read(rows, [], len(block))
  careful = b"".join(block[start : block.index(b"\n", start) + 1] for start in lines.careful_start_k.tolist())
  more, rejects = parse(delimited.cut(careful, lines.careful_k.astype(np.int64) + first_line, names, schema), schema)
  return Read(joined([rows, more]), rejects, len(block))
