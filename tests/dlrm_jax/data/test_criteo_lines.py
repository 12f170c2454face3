"""`criteo_lines`: which lines are plain and what they hold, against a reader of single cells; memory; blocks; no compiler."""

import ctypes
import mmap
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from criteo_case import good_line, mutated_lines, sure
from places import REAL

from dlrm_jax.data.prepare import criteo_lines
from dlrm_jax.data.prepare.criteo_lines import Lines, Reader


@pytest.fixture(scope="module")
def reader() -> Reader:
  made = Reader.make()
  assert made is not None
  return made


def check(lines: Lines, block: bytes) -> int:
  """Compares the lines with those of the slow reader, one by one. Returns the number of rows."""
  texts = block.split(b"\n")[:-1]
  expected = [(i, sure(text)) for i, text in enumerate(texts)]
  careful = [i for i, value in expected if value is None]
  rows = [(i, value) for i, value in expected if value is not None]
  assert lines.num_lines == len(texts)
  assert lines.careful_k.tolist() == careful
  starts = np.cumsum([0, *(len(text) + 1 for text in texts)])
  assert lines.careful_start_k.tolist() == starts[careful].tolist()
  assert lines.line_n.tolist() == [i for i, _ in rows]
  assert lines.label_n.tolist() == [label for _, (label, _, _) in rows]
  for i in range(13):
    cells = [numbers[i] for _, (_, numbers, _) in rows]
    assert lines.number_mn[i].tolist() == [cell or 0 for cell in cells]
    assert lines.missing_mn[i].tolist() == [cell is None for cell in cells]
  for f in range(26):
    cells = [keys[f] for _, (_, _, keys) in rows]
    buffers = [pa.py_buffer(lines.valid_fb[f]), pa.py_buffer(lines.key_fn[f])]
    column = pa.Array.from_buffers(pa.uint32(), len(rows), buffers, int(lines.null_count_f[f]))
    column.validate(full=True)
    assert column.to_pylist() == cells
    assert lines.key_fn[f].tolist() == [cell or 0 for cell in cells]  # nothing is left behind a null
    assert lines.null_count_f[f] == cells.count(None)
  return len(rows)


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 128, 1000])
def test_good_lines(reader, count):
  rng = random.Random(count)
  block = b"".join(good_line(rng) + b"\n" for _ in range(count))
  assert check(reader.read(block), block) == count


@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_mutated_lines(reader, share):
  rng = random.Random(int(share * 100))
  rows = 0
  for count in (*range(1, 40), 300, 5000):
    block = mutated_lines(rng, count, share)
    rows += check(reader.read(block), block)
  assert 0.03 < rows / 6080 < 0.99  # some of either kind


LINE = b"1\t" + b"\t".join([b"5", b"-12", b"", b"1234567", b"12345678", b"999999999999999999"] * 2 + [b"7"]) + b"\t6fd81E64" * 26
CELLS = LINE.split(b"\t")


def with_cell(i: int, cell: bytes) -> bytes:
  return b"\t".join([*CELLS[:i], cell, *CELLS[i + 1 :]])


INTEGERS = {"": True, "-": False, "-0": True, "--1": False, "0" * 18: True, "0" * 19: False, "9" * 18: True, "9" * 19: False}
INTEGERS |= {"-" + "9" * 18: True, "-" + "9" * 19: False, "+1": False, "1-": False, "1.0": False, " 1": False, "1 ": False, "0x1": False}
INTEGERS |= {"1234567": True, "12345678": True, "-123456": True, "-1234567": True, "1\n2": False, "٣": False, "1\0": False, "/": False}
INTEGERS |= {":": False, "1:": False, "1234567:": False, "/2345678": False, "-" * 7: False, "-" * 8: False, "\x1d1": False, "1" * 30: False}
HEXADECIMAL = {"": True, "abcdefAB": True, "01234567": True, "89ABCDEF": True, "abcdefg0": False, "0000000G": False, "abcdef": False}
HEXADECIMAL |= {"abcdefabc": False, "-0000001": False, "0000 000": False, "0000000\0": False, "0000000\x10": False, "0000000\x16": False}
HEXADECIMAL |= {
  "/0000000": False,
  ":0000000": False,
  "@0000000": False,
  "`0000000": False,
  "éééé": False,
  "0000000": False,
  "!0000000": False,
}
HEXADECIMAL |= {"\x01" * 8: False, "\t" * 8: False, "0000\t000": False, "0000000\n": False, "0000000\r": False, "\xb0" * 4: False}


LABELS = {"0": True, "1": True, "2": False, "": False, "01": False, "-0": False, "/": False, "\x11": False, "é": False}


@pytest.mark.parametrize(("first", "last", "cells"), [(0, 0, LABELS), (1, 13, INTEGERS), (14, 39, HEXADECIMAL)])
def test_cells_at_every_place_of_the_line_and_of_the_block(reader, first, last, cells):
  for cell, good in cells.items():
    for place in {first, last, (first + last) // 2}:
      line = with_cell(place, cell.encode())
      block = LINE + b"\n" + line + b"\n" + LINE + b"\n" + (LINE + b"\n") * 3  # far from the end, and below at the end
      assert check(reader.read(block), block) == 5 + good, (cell, place)
      block = LINE + b"\n" + line + b"\n"
      assert check(reader.read(block), block) == 1 + good, (cell, place)


def test_every_byte_at_every_place_of_a_line(reader):
  """One byte is replaced, by all 256 values at each byte of the line, so that every bit of a check is tested."""
  for place in range(len(LINE)):
    block = b"".join(LINE[:place] + bytes([byte]) + LINE[place + 1 :] + b"\n" for byte in range(256))
    lines = reader.read(block)
    texts = block.split(b"\n")[:-1]
    expected = [i for i, text in enumerate(texts) if sure(text) is None]
    assert lines.careful_k.tolist() == expected, place
    if place % 10 == 0:
      check(lines, block)


SHAPES = [
  b"",
  b"\r",
  b"1",
  b"1\t",
  b"\t" * 39,
  b"0" + b"\t" * 38,
  b"0" + b"\t" * 40,
  b"\t" * 5000,
  b"0\t" * 3000,
  b"\0" * 500,
  b"5" * 100_000,
]
SHAPES += [LINE[:-1], LINE[1:], LINE[: LINE.rindex(b"\t")], LINE + b"\r", LINE + b"\t", LINE + b"\0", LINE + b"\t00000000", LINE + LINE]
SHAPES += [b"\xef\xbb\xbf" + LINE, with_cell(3, b"5" * 100_000), with_cell(39, b"a" * 700)]


@pytest.mark.parametrize("line", SHAPES)
def test_lines_of_other_shapes(reader, line):
  assert sure(line) is None
  for before, after in ((0, 0), (1, 0), (0, 1), (0, 5), (70, 70)):
    block = (LINE + b"\n") * before + line + b"\n" + (LINE + b"\n") * after
    assert check(reader.read(block), block) == before + after


def test_a_line_of_empty_cells_is_the_shortest_that_is_read():
  block = (b"0" + b"\t" * 39 + b"\n") * 5000
  assert len(block) == 5000 * 41
  fresh = Reader.make()  # its buffers have room for this block and no more
  assert fresh is not None
  assert check(fresh.read(block), block) == 5000


@pytest.fixture
def guarded():
  """Puts bytes right before or right after a page that cannot be read. Returns their address."""
  libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
  libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
  room = mmap.mmap(-1, 4 * page)
  start = ctypes.addressof(anchor := ctypes.c_char.from_buffer(room))
  for closed in (0, 3):
    assert libc.mprotect(start + closed * page, page, 0) == 0

  def put(data: bytes, at_end: bool) -> int:
    place = 3 * page - len(data) if at_end else page
    assert page <= place and place + len(data) <= 3 * page
    room[place : place + len(data)] = data
    return start + place

  yield put
  for closed in (0, 3):
    assert libc.mprotect(start + closed * page, page, mmap.PROT_READ | mmap.PROT_WRITE) == 0
  del anchor
  room.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect is called as Linux has it")
def test_nothing_outside_the_block_is_read(reader, guarded):
  """Blocks of every short length, cut from lines of all kinds, at the start and at the end of the memory that can be read."""
  rng = random.Random(1)
  text = mutated_lines(rng, 200, 0.4)
  short = b"0" + b"\t" * 39 + b"\n"
  for length in (*range(1, 1200), 2000, 4000, 8000):
    place = rng.randrange(len(text) - length)
    for data in (text[place : place + length - 1] + b"\n", ((short * 200)[-length:]), b"\n" * min(length, 300)):
      for at_end in (True, False):
        reader.read(data)  # room for it, and what the buffers hold
        expected = [np.array(x) for x in (reader._counts, reader._key[:, :20], reader._number[:, :20])]
        reader._read(ctypes.c_char_p(guarded(data, at_end)), len(data), *reader._out)
        for got, value in zip((reader._counts, reader._key[:, :20], reader._number[:, :20]), expected, strict=True):
          np.testing.assert_array_equal(got, value)
    block = text[place : place + length - 1] + b"\n"
    if length % 20 == 0:
      check(reader.read(block), block)


def test_blocks_of_any_size_one_after_the_other(reader):
  """Buffers grow, are reused for smaller blocks, and keep nothing of the block before."""
  rng = random.Random(2)
  text = mutated_lines(rng, 3000, 0.2)
  place = 0
  while place < len(text):
    end = text.find(b"\n", min(place + int(10 ** rng.uniform(0, 5)), len(text) - 1)) + 1
    check(reader.read(text[place:end]), text[place:end])
    place = end
  assert check(reader.read(b""), b"") == 0


def test_blocks_that_are_no_lines_are_refused(reader):
  with pytest.raises(ValueError, match="whole lines"):
    reader.read(LINE)


@pytest.mark.parametrize("name", ["criteo_kaggle_head/train.txt", "criteo_1tb_head/day_0.head.txt"])
def test_real_lines_are_sure(reader, name):
  path = REAL / name
  if not path.exists():
    pytest.skip(f"the real data {name} is not in ../shared/data")
  block = path.read_bytes()
  assert check(reader.read(block), block) == block.count(b"\n") >= 1000


def test_without_a_compiler_one_line_says_so(monkeypatch, capsys, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("CXX", "false")
  assert Reader.make() is None
  said = capsys.readouterr().err.splitlines()
  assert "false failed" in said[-1] and said[-1].endswith("pyarrow reads the lines instead, which is slower")
  assert not list(tmp_path.rglob("*.so"))
  monkeypatch.setattr(criteo_lines.sys, "byteorder", "big")
  assert Reader.make() is None
  assert "little-endian" in capsys.readouterr().err


def test_the_import_is_cheap():
  code = "import sys, dlrm_jax.data.prepare.criteo_lines; print([m for m in ('jax', 'pyarrow', 'polars', 'scipy') if m in sys.modules])"
  assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout == "[]\n"
