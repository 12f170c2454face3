"""Criteo lines for tests: good ones, mutated ones, and what each means, one cell at a time: the judge of the fast readers."""

import math
import random
import re

NAMES = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]
Meaning = tuple[int, list[int | None], list[int | None]]  # label, integers and categories; None where a cell is empty


def good_line(rng: random.Random) -> bytes:
  """A line that every reader accepts; integers of all lengths, mostly short ones, and digits of both cases."""
  numbers = []
  for _ in range(13):
    digits = rng.choice((1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, rng.randrange(1, 19)))
    number = str(rng.randrange(10**digits)) if rng.random() < 0.9 else "0" * digits
    numbers.append("" if rng.random() < 0.2 else "-" * (rng.random() < 0.1) + number)
  categories = ["" if rng.random() < 0.15 else f"{rng.randrange(2**32):08{rng.choice('xxxX')}}" for _ in range(26)]
  return "\t".join([str(rng.randrange(2)), *numbers, *categories]).encode()


def sure(line: bytes) -> Meaning | None:
  """What a line means that `criteo_lines` accepts; None where it must leave the line to others."""
  cells = line.split(b"\t")
  if len(cells) != 40 or cells[0] not in (b"0", b"1"):
    return None
  if not all(re.fullmatch(rb"(-?[0-9]{1,18})?", cell) for cell in cells[1:14]):
    return None
  if not all(re.fullmatch(rb"([0-9a-fA-F]{8})?", cell) for cell in cells[14:]):
    return None
  return int(cells[0]), [int(c) if c else None for c in cells[1:14]], [int(c, 16) if c else None for c in cells[14:]]


def meaning(line: bytes) -> Meaning | tuple[str, str]:
  """What a line of a file (without its newline and a CR before that) means to `prepare`, or the reason and detail of its reject."""
  if not line:
    return "empty line", ""
  if b"\r" in line:
    return "carriage return inside the line", ""
  try:
    cells = line.decode().split("\t")
  except UnicodeDecodeError:
    return "not UTF-8 text", ""
  if len(cells) != 40:
    return "wrong number of columns", f"{len(cells)} instead of 40"

  def detail(i: int) -> str:
    return f"{NAMES[i]} is {repr(cells[i] or None)[:40]}"

  if not re.fullmatch(r"-?0{1,18}|0{0,17}1", cells[0]):
    return "label is not 0 or 1" if cells[0] else "label is missing", detail(0)
  for i in range(1, 40):
    if i < 14 and not re.fullmatch(r"(-?[0-9]{1,18})?", cells[i]):
      return "not an integer", detail(i)
    if i >= 14 and not re.fullmatch(r"([0-9a-fA-F]{8})?", cells[i]):
      return "not 8 hexadecimal digits", detail(i)
  return int(cells[0]), [int(c) if c else None for c in cells[1:14]], [int(c, 16) if c else None for c in cells[14:]]


def log1p(number: int | None) -> float:
  """What prepare makes of an integer cell, before it is rounded to float32."""
  return math.log1p(max(number or 0, 0))


PIECES = [
  b"",
  b"\t",
  b"\t\t",
  b"-",
  b"--",
  b"+",
  b".",
  b"e",
  b"g",
  b"G",
  b"F",
  b" ",
  b"0",
  b"9",
  b"x",
  b'"',
  b"'",
  b",",
  b"\0",
  b"\r",
  b"\r\n",
]
PIECES += [
  b"\n",
  b"\n\n",
  b"\x0b",
  b"\x0c",
  b"\x1c",
  b"\x7f",
  b"/",
  b":",
  b"@",
  b"`",
  b"\x10",
  b"\x16",
  b"1.0",
  b"1e3",
  b"0x1",
  b"nan",
  b"NULL",
  b"NA",
]
PIECES += [
  "é".encode(),
  "٣".encode(),
  "０".encode(),
  "\ufeff".encode(),
  "\u2028".encode(),
  "\U0001f600".encode(),
  b"\xff",
  b"\xc3",
  b"\xe2\x82",
]
PIECES += [b"\x80", b"\xb0", b"\xed\xa0\x80", b"0" * 17, b"9" * 18, b"-" + b"9" * 18, b"9223372036854775807", b"9" * 19, b"1" * 20]
PIECES += [b"deadbee", b"DEADBEEF", b"deadbeef0", b"7" * 300]
CELLS = [
  b"",
  b"-",
  b"-0",
  b"--1",
  b"00",
  b"01",
  b"-1",
  b"2",
  b"0" * 18,
  b"1" * 18,
  b"-" + b"1" * 18,
  b"1" * 19,
  b"-" + b"1" * 19,
  b"12345678",
]
CELLS += [
  b"1234567",
  b"-123456",
  b"-1234567",
  b"0" * 17 + b"1",
  b"0" * 18 + b"1",
  b"00000000",
  b"ffffffff",
  b"FFFFFFFF",
  b"fffffff",
  b"fffffffff",
]
CELLS += [b"0000000g", b"\xff" * 8, b"\0" * 8, b" 1", b"1 ", b"x" * 70, b"5" * 5000]


def mutate(rng: random.Random, line: bytes) -> bytes:
  """A line with one to four things wrong with it, some of them harmless. It may have become several lines."""
  for _ in range(rng.choice((1, 1, 1, 2, 4))):
    kind, place = rng.randrange(8), rng.randrange(len(line) + 1)
    if kind == 0 and line:  # another byte
      place = min(place, len(line) - 1)
      line = line[:place] + bytes([rng.randrange(256)]) + line[place + 1 :]
    elif kind == 1:  # a bit
      line = line[: place - 1] + bytes([line[place - 1] ^ 1 << rng.randrange(8)]) + line[place:] if place else line
    elif kind == 2:
      line = line[:place] + rng.choice(PIECES) + line[place:]
    elif kind == 3:
      line = line[:place] + line[place + rng.randrange(1, 12) :]
    elif kind == 4:  # cut
      line = line[:place] if rng.random() < 0.5 else line[place:]
    elif kind == 5:
      line += rng.choice((b"\r", b"\t", b" ", b"\0", b"\r\r", b"\t" * rng.randrange(50), b"\xef\xbb\xbf", b"\n\n"))
    elif kind == 6:
      line = rng.choice((b"\xef\xbb\xbf", b" ", b"\t", b"0", b"\r", b"\n", b"#", b"1\t" * 40)) + line
    else:  # another cell
      cells = line.split(b"\t")
      cells[rng.choice((0, rng.randrange(len(cells)), rng.randrange(len(cells))))] = rng.choice(CELLS)
      line = b"\t".join(cells)
  return line


def mutated_lines(rng: random.Random, count: int, share: float = 0.7) -> bytes:
  """Lines of which a share were mutated, each ending in a newline; now and then two are joined."""
  out = bytearray()
  for _ in range(count):
    line = good_line(rng)
    out += mutate(rng, line) if rng.random() < share else line
    out += rng.choices((b"\n", b"\r\n", b""), (97, 2, 1))[0]
  return bytes(out) + b"\n"
