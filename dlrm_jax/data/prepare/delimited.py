"""Delimited text, plain or gzipped, to chunks of raw columns. Used by `rows`.

One line is one row: a quoted cell with a line break is rejected (`quotes`). Lines that cannot be cut into columns are rejected here;
`parse` checks the values. Memory holds a few chunks, whatever the size of the file.
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
from dlrm_jax.data.prepare.quotes import Quotes, open_after
from dlrm_jax.data.prepare.read import Chunk, HashingFile, Piece, is_gzipped
from dlrm_jax.data.prepare.rejects import LINE_BREAK, Reject
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
    first = piece.start == 0
    while block := file.read(CHUNK_BYTES):
      if first:
        block, first = _after_mark(block, path), False
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


def _after_mark(start: bytes, path: Path) -> bytes:
  """The first bytes of a file without a byte order mark. Raises UserError if they are UTF-16 or UTF-32 text."""
  pairs = list(zip(start[:4:2], start[1:4:2]))  # of text in Latin letters, one of the two bytes of every character is 0
  wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
  wide |= len(pairs) == 2 and any(all(0 < pair[i] < 128 and not pair[1 - i] for pair in pairs) for i in (0, 1))
  if wide:
    raise UserError(f"{path}: this looks like UTF-16 or UTF-32 text; convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8")
  return start.removeprefix(codecs.BOM_UTF8)


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


def _cut_quoted(
  lines: list[bytes], names: Sequence[str], wanted: Sequence[str], quotes: Quotes
) -> tuple[dict[str, pa.Array], dict[int, tuple[str, str]]]:
  """Columns of lines with quotes, and {line: (reason, detail)} for those that are rejected. `quotes` is brought to the end of the lines."""
  wrong: dict[int, tuple[str, str]] = {}
  rows, delimiter = [], quotes.delimiter.decode()
  for i, line in enumerate(lines):
    began_inside, reason, cells = quotes.inside, _bad_bytes(line), None
    if not reason and not began_inside:
      try:
        cells = next(csv.reader([line.decode()], delimiter=delimiter, strict=True), [""])
      except csv.Error:
        reason = "bad quoting"
    if b'"' in line:
      quotes.follow(line, complete=cells is not None)
    if began_inside or quotes.inside:
      wrong[i] = (LINE_BREAK, "")
    elif cells is None:
      wrong[i] = (reason, "")
    elif len(cells) == len(names):
      rows.append(cells)
    else:
      wrong[i] = ("wrong number of columns", f"{len(cells)} instead of {len(names)}")
  place = {name: i for i, name in enumerate(names)}
  return {name: pa.array([row[place[name]] or None for row in rows], pa.string()) for name in wanted}, wrong


def _cut_unquoted(
  block: bytes, names: Sequence[str], separator: str, wanted: Sequence[str]
) -> tuple[dict[str, pa.Array], dict[int, tuple[str, str]]]:
  """The same of a block in which quotes have no meaning."""
  wrong: dict[int, tuple[str, str]] = {}
  kept: Sequence[int] = range(block.count(b"\n"))
  if b"\n\n" in block or block.startswith(b"\n") or b"\r" in block or not _is_utf8(block):
    lines = block.split(b"\n")[:-1]
    wrong = {i: (_bad_bytes(line), "") for i, line in enumerate(lines) if _bad_bytes(line)}
    kept = [i for i in kept if i not in wrong]
    block = b"".join(lines[i] + b"\n" for i in kept)
  if not block:
    return {name: pa.array([], pa.string()) for name in wanted}, wrong
  columns, counts = _cut_plain(block, names, separator, wanted)
  return columns, wrong | {kept[i]: ("wrong number of columns", count) for i, count in counts.items()}


def cut(block: bytes, line_n: Int64[np.ndarray, " n"], names: Sequence[str], schema: Schema, quotes: Quotes | None = None) -> Chunk:
  """Cuts a block of lines into the schema's columns.

  Args:
    block: lines that each end in a newline.
    line_n: the number of each line.
    names: the names of all columns.
    schema: which columns are wanted, and the delimiter.
    quotes: the state before the block, which becomes that after it; None: quotes have no meaning.
  """
  if quotes is not None and (quotes.inside or b'"' in block):
    columns, wrong = _cut_quoted(block.split(b"\n")[:-1], names, schema.columns, quotes)
  else:
    columns, wrong = _cut_unquoted(block, names, schema.delimiter, schema.columns)
  place_n = np.delete(np.arange(len(line_n)), list(wrong))
  if any(len(column) != len(place_n) for column in columns.values()):
    raise AssertionError("lines and rows differ")  # a line that is cut in two would misplace every later label
  line_texts = functools.cache(lambda: block.split(b"\n"))  # only if there is something to reject
  rejects = [Reject(int(line_n[i]), *wrong[i], line_texts()[i]) for i in sorted(wrong)]
  return Chunk(columns, line_n[place_n], rejects, lambda i: line_texts()[place_n[i]])


def first_cells(path: Path, schema: Schema) -> int:
  """The number of cells in a file's first line; 0 if the line cannot be cut."""
  line = _first_line(path)
  if not schema.quotes:
    return line.count(schema.delimiter.encode()) + 1
  try:
    return len(next(csv.reader([line.decode().strip("\r\n")], delimiter=schema.delimiter, strict=True), []))
  except (UnicodeDecodeError, csv.Error):
    return 0


def _first_line(path: Path) -> bytes:
  """The first line of a file, with its end but without a byte order mark; empty if the file is empty."""
  with HashingFile(path, 0, path.stat().st_size, lambda count: None) as raw, _text_of(path, raw) as file:
    return _after_mark(io.BufferedReader(file).readline(MAX_LINE_BYTES), path)


def header_of(path: Path, schema: Schema) -> tuple[str, ...] | None:
  """The names of a file's columns: the schema's, or those of its first line; None if the file is empty.

  Raises UserError if a column of the schema is missing.
  """
  if schema.header is not None:
    return schema.header
  line = _first_line(path)
  if not line:
    return None
  try:
    text = [line.decode().strip("\r\n")]
    names = next(csv.reader(text, delimiter=schema.delimiter, strict=True), []) if schema.quotes else text[0].split(schema.delimiter)
  except (UnicodeDecodeError, csv.Error) as error:
    why = f"a {LINE_BREAK}" if schema.quotes and open_after(line.strip(b"\r\n"), False, schema.delimiter.encode()) else str(error)
    raise UserError(f"{path}: line 1 is not a CSV header ({why})") from None
  try:
    schema.check_present(names, str(path))
  except UserError as error:
    if len(set(names)) < len(names) or not set(schema.columns).isdisjoint(names):
      raise  # it is a header line
    hint = (
      'delimiter = ";", or another one' if len(names) == 1 else "header = [...], with the names of all columns, if there is no header line"
    )
    raise UserError(f"{error}; the schema may have {hint}") from None
  return tuple(names)
