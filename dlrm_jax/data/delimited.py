"""Delimited text, plain or gzipped, to chunks of raw columns: tabs without a header (Criteo), or commas with one. Used by `prepare`.

One line is one row: a quoted cell cannot hold a line break. Lines that cannot be cut into columns are rejected here; `parse`
judges the values. Memory is a few chunks, whatever the size of the file.
"""

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

from dlrm_jax.data.read import Chunk, HashingFile
from dlrm_jax.data.rejects import Reject
from dlrm_jax.data.schema import Schema
from dlrm_jax.flags import UserError

CHUNK_BYTES = 2 << 20  # larger chunks are slower, as their columns no longer fit the cache
MAX_LINE_BYTES = 16 << 20


@contextlib.contextmanager
def _opened_text(path: Path, raw: HashingFile) -> Iterator[io.BufferedIOBase]:
  """The bytes of a plain or gzipped file, told apart by its first two bytes (0x1f 0x8b is no text) or its name."""
  with path.open("rb") as file:
    zipped = file.read(2) == b"\x1f\x8b" or path.suffix == ".gz"
  buffered = io.BufferedReader(raw, CHUNK_BYTES)
  try:
    yield gzip.GzipFile(fileobj=buffered) if zipped else buffered
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(f"{path}: damaged or truncated gzip file ({error})") from None
  finally:
    buffered.detach()  # `raw` stays open: its digest is still to be read


def _blocks_of_lines(file: io.BufferedIOBase, path: Path) -> Iterator[bytes]:
  """The bytes of `file` in blocks that each end in a newline; carriage returns before newlines are dropped."""
  rest = b""
  while block := file.read(CHUNK_BYTES):
    cut = block.rfind(b"\n") + 1
    if cut:
      yield (rest + block[:cut]).replace(b"\r\n", b"\n")
      rest = block[cut:]
    else:
      rest += block
    if len(rest) > MAX_LINE_BYTES:
      raise UserError(f"{path}: a line is longer than {MAX_LINE_BYTES >> 20} MiB: is this a file of text lines?")
  if rest:
    yield (rest + b"\n").replace(b"\r\n", b"\n")


def _is_utf8(text: bytes) -> bool:
  try:
    return text.isascii() or bool(text.decode())
  except UnicodeDecodeError:
    return False


def _bad_bytes(line: bytes) -> str:
  """Why a line is rejected before it is cut, or nothing."""
  if not line:
    return "empty line"  # Arrow would make it a row of empty cells
  return "carriage return inside the line" if b"\r" in line else "" if _is_utf8(line) else "not UTF-8 text"


def _cut_plain(block: bytes, names: Sequence[str], separator: str, wanted: Sequence[str]) -> tuple[dict[str, pa.Array], dict[int, str]]:
  """Columns of a block without quoting, and {line in the block: number of columns} of those that have too few or too many."""
  wrong: dict[int, str] = {}

  def on_wrong(row: Any) -> str:
    wrong[row.number - 1] = f"{row.actual_columns} instead of {row.expected_columns}"
    return "skip"

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
  """The same for comma-separated lines of which some hold quotes; {line: (reason, detail)}."""
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


def _cut(block: bytes, first_line: int, names: Sequence[str], separator: str, quoting: bool, wanted: Sequence[str]) -> Chunk:
  wrong: dict[int, tuple[str, str]] = {}
  kept: Sequence[int] = range(block.count(b"\n"))
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
    columns, counts = _cut_plain(clean, names, separator, wanted)
    miscut = {i: ("wrong number of columns", count) for i, count in counts.items()}
  else:
    columns, miscut = {name: pa.array([], pa.string()) for name in wanted}, {}
  wrong |= {kept[i]: why for i, why in miscut.items()}
  line_n = np.delete(np.asarray(kept, np.int64), list(miscut))
  if any(len(column) != len(line_n) for column in columns.values()):
    raise AssertionError("lines and rows differ")  # a line cut in two would misplace every later label
  line_texts = functools.cache(lambda: block.split(b"\n"))  # only where there is something to reject
  rejects = [Reject(first_line + i, *wrong[i], line_texts()[i]) for i in sorted(wrong)]
  return Chunk(columns, line_n + first_line, rejects, lambda i: line_texts()[line_n[i]])


def _header(line: bytes, path: Path) -> list[str]:
  try:
    return next(csv.reader([line.decode("utf-8-sig").strip("\r\n")], strict=True), [])
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path}: line 1 is not a CSV header ({error})") from None


def read_text(path: Path, schema: Schema, raw: HashingFile) -> Iterator[Chunk]:
  """Chunks of a file without header, cut at tabs (`schema.header` is set), or of a CSV file with one, cut at commas.

  Raises UserError naming the file when it holds no rows, lacks a column, or is a damaged .gz.
  """
  names, line = schema.header, 1
  separator, quoting = (",", True) if names is None else ("\t", False)
  with _opened_text(path, raw) as file:
    for block in _blocks_of_lines(file, path):
      if names is None:
        first, _, block = block.partition(b"\n")
        names, line = tuple(_header(first, path)), 2
        schema.check_present(names, str(path))
      if block:
        yield _cut(block, line, names, separator, quoting, schema.columns)
        line += block.count(b"\n")
  if line == 1 or (quoting and line == 2):
    raise UserError(f"{path}: no rows in it ({path.stat().st_size} bytes)")
