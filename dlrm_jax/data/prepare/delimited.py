"""Delimited text, plain or gzipped, to chunks of raw columns: tabs without a header (Criteo), or commas with one. Used by `rows`.

One line is one row: a quoted cell cannot hold a line break. Lines that cannot be cut into columns are rejected here; `parse` checks the
values. Memory holds a few chunks, whatever the size of the file.
"""

import codecs
import contextlib
import csv
import functools
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from jaxtyping import Int64

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.read import Chunk, HashingFile, Piece, is_gzipped
from dlrm_jax.data.prepare.rejects import Reject
from dlrm_jax.data.prepare.schema import Schema

CHUNK_BYTES = 2 << 20  # smaller chunks cost more Python, larger ones do not fit the cache
MAX_LINE_BYTES = 16 << 20
csv.field_size_limit(MAX_LINE_BYTES)  # Arrow has no limit, and a line must not depend on whether its block holds quotes


@contextlib.contextmanager
def _text_of(path: Path, raw: HashingFile) -> Iterator[io.RawIOBase | gzip.GzipFile]:
  """The text of `raw`, gzipped or not. Raises UserError if it is damaged."""
  if not is_gzipped(path):
    yield raw
    return
  buffered = io.BufferedReader(raw, CHUNK_BYTES)
  try:
    yield gzip.GzipFile(fileobj=buffered)
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(f"{path}: damaged or truncated gzip file ({error})") from None
  finally:
    buffered.detach()  # `raw` must stay open, because its digest is read later


def blocks_of_lines(path: Path, piece: Piece, raw: HashingFile) -> Iterator[bytes]:
  """The lines that begin in a piece, in blocks that each end in a newline. Carriage returns before newlines are dropped.

  `raw` is the piece's range of the file, or the whole of a gzipped file. Raises UserError if a line is very long.
  """
  rest = b""
  with path.open("rb") as around, _text_of(path, raw) as file:
    around.seek(max(piece.start - 1, 0))
    inside = piece.start > 0 and around.read(1) != b"\n"  # the piece starts inside a line of the piece before
    while block := file.read(CHUNK_BYTES):
      if inside:
        _, newline, block = block.partition(b"\n")
        inside = not newline
      cut = block.rfind(b"\n") + 1
      if cut:
        yield _without_returns(b"".join((rest, memoryview(block)[:cut])))
      rest = block[cut:] if cut else rest + block
      _refuse_long(rest, path)
    if rest and piece.stop:
      around.seek(piece.stop)
      rest += around.readline(MAX_LINE_BYTES)
      _refuse_long(rest, path)
  if rest:
    yield _without_returns(rest.removesuffix(b"\n") + b"\n")


def _without_returns(lines: bytes) -> bytes:
  return lines.replace(b"\r\n", b"\n") if b"\r" in lines else lines  # the search for a single byte is far faster


def _refuse_long(line: bytes, path: Path) -> None:
  if len(line) >= MAX_LINE_BYTES:
    raise UserError(f"{path}: a line is longer than {MAX_LINE_BYTES >> 20} MiB: is this a file of text lines?")


def _is_utf8(text: bytes) -> bool:
  try:
    return text.isascii() or bool(text.decode())
  except UnicodeDecodeError:
    return False


def _bad_bytes(line: bytes) -> str:
  """The reason to reject a line before it is cut, or an empty text."""
  if not line:
    return "empty line"  # Arrow would make it a row of empty cells
  return "carriage return inside the line" if b"\r" in line else "" if _is_utf8(line) else "not UTF-8 text"


def _cut_plain(block: bytes, names: Sequence[str], separator: str, wanted: Sequence[str]) -> tuple[dict[str, pa.Array], dict[int, str]]:
  """Columns of a block without quoting, and {line in the block: its number of columns} for lines with too few or too many."""
  wrong: dict[int, str] = {}

  def on_wrong(row: Any) -> str:
    wrong[row.number - 1] = f"{row.actual_columns} instead of {row.expected_columns}"
    return "skip"

  if block.startswith(codecs.BOM_UTF8):
    block = codecs.BOM_UTF8 + block  # Arrow drops one BOM, but this may be the middle of a file
  table = pyarrow.csv.read_csv(
    pa.py_buffer(block),
    read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=list(names)),
    parse_options=pyarrow.csv.ParseOptions(
      delimiter=separator, quote_char=False, double_quote=False, escape_char=False, ignore_empty_lines=False, invalid_row_handler=on_wrong
    ),
    convert_options=pyarrow.csv.ConvertOptions(
      column_types=dict.fromkeys(names, pa.string()),
      include_columns=list(wanted),
      strings_can_be_null=True,
      null_values=[""],
      check_utf8=False,
    ),
  )
  return {name: table[name].combine_chunks() for name in wanted}, wrong


def _cut_quoted(lines: list[bytes], names: Sequence[str], wanted: Sequence[str]) -> tuple[dict[str, pa.Array], dict[int, tuple[str, str]]]:
  """The same for comma-separated lines, some of which hold quotes, with {line: (reason, detail)}."""
  wrong: dict[int, tuple[str, str]] = {}
  rows = []
  for i, line in enumerate(lines):
    try:
      cells = next(csv.reader([line.decode()], strict=True), [""])
    except csv.Error:
      wrong[i] = ("bad quoting", "")
      continue
    if len(cells) == len(names):
      rows.append(cells)
    else:
      wrong[i] = ("wrong number of columns", f"{len(cells)} instead of {len(names)}")
  place = {name: i for i, name in enumerate(names)}
  return {name: pa.array([row[place[name]] or None for row in rows], pa.string()) for name in wanted}, wrong


def cut(block: bytes, line_n: Int64[np.ndarray, " n"], names: Sequence[str], schema: Schema) -> Chunk:
  """Cuts a block of lines into the schema's columns: at tabs if the schema has a header of its own, else at commas, with quotes.

  Args:
    block: lines that each end in a newline.
    line_n: the number of each line.
    names: the names of all columns.
    schema: which columns are wanted.
  """
  quoting, wanted = schema.header is None, schema.columns
  wrong: dict[int, tuple[str, str]] = {}
  kept: Sequence[int] = range(len(line_n))
  if b"\n\n" in block or block.startswith(b"\n") or b"\r" in block or not _is_utf8(block):
    lines = block.split(b"\n")[:-1]
    wrong = {i: (_bad_bytes(line), "") for i, line in enumerate(lines) if _bad_bytes(line)}
    kept = [i for i in kept if i not in wrong]
    clean = b"".join(lines[i] + b"\n" for i in kept)
  else:
    clean = block
  miscut: dict[int, tuple[str, str]]
  if quoting and b'"' in clean:
    columns, miscut = _cut_quoted(clean.split(b"\n")[:-1], names, wanted)
  elif clean:
    columns, counts = _cut_plain(clean, names, "," if quoting else "\t", wanted)
    miscut = {i: ("wrong number of columns", count) for i, count in counts.items()}
  else:
    columns, miscut = {name: pa.array([], pa.string()) for name in wanted}, {}
  wrong |= {kept[i]: why for i, why in miscut.items()}
  place_n = np.delete(np.asarray(kept, np.int64), list(miscut))
  if any(len(column) != len(place_n) for column in columns.values()):
    raise AssertionError("lines and rows differ")  # a line that is cut in two would misplace every later label
  line_texts = functools.cache(lambda: block.split(b"\n"))  # only if there is something to reject
  rejects = [Reject(int(line_n[i]), *wrong[i], line_texts()[i]) for i in sorted(wrong)]
  return Chunk(columns, line_n[place_n], rejects, lambda i: line_texts()[place_n[i]])


def header_of(path: Path, schema: Schema) -> tuple[str, ...]:
  """The names of a file's columns: the schema's, or those of its first line. Raises UserError if a column of the schema is missing."""
  if schema.header is not None:
    return schema.header
  size = path.stat().st_size
  with HashingFile(path, 0, size, lambda count: None) as raw, _text_of(path, raw) as file:
    line = io.BufferedReader(file).readline(MAX_LINE_BYTES)
  if not line:
    raise UserError(f"{path}: no rows in it ({size} bytes)")
  try:
    names = next(csv.reader([line.decode("utf-8-sig").strip("\r\n")], strict=True), [])
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path}: line 1 is not a CSV header ({error})") from None
  schema.check_present(names, str(path))
  return tuple(names)
