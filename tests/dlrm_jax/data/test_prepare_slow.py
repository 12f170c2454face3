"""Fuzz: every mutated line of a log ends in the shards with the value that a slow reading of its cells gives, or in rejects.tsv with
its reason; none is missing, none is changed, and the order is kept."""

import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from criteo_case import NAMES, PIECES, log1p, meaning, mutated_lines

from dlrm_jax.data.prepare import delimited, read
from dlrm_jax.data.prepare.label import NULL_TOKENS
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.prepare.vocabulary import hash_ids, hash_text, hash_uint32

pytestmark = pytest.mark.slow
Rejects = list[tuple[bytes, ...]]  # source, line, reason, detail, text


def lines_of(data: bytes) -> list[bytes]:
  """The lines of a file. The last one may have no newline."""
  lines = data.split(b"\n")
  if not lines[-1]:
    lines.pop()
  return [line.removesuffix(b"\r") for line in lines]


def rows_of(out: Path) -> pl.DataFrame:
  return pl.concat([pl.read_parquet(path) for split in ("train", "eval") for path in sorted(out.glob(f"{split}-*.parquet"))])


def rejects_of(out: Path) -> Rejects:
  lines = (out / "rejects.tsv").read_bytes().split(b"\n")
  assert lines[0] == b"source\tline\treason\tdetail\ttext" and lines[-1] == b""
  return [tuple(line.split(b"\t", 4)) for line in lines[1:-1]]


def write_log(directory: Path, seed: int, files: int, lines: int, share: float) -> list[Path]:
  """Files of mutated lines; every second one ends in the middle of a line or without a newline."""
  rng, paths = random.Random(seed), []
  for i in range(files):
    data = mutated_lines(rng, lines, share)
    data = data[: len(data) - rng.randrange(1, 200)] if i % 4 == 1 else data.rstrip(b"\r\n") if i % 4 == 3 else data
    paths.append(directory / f"log_{i}.tsv")
    paths[-1].write_bytes(data)
  return paths


def check_criteo(paths: list[Path], out: Path) -> int:
  """Compares a prepared data set with its input files. Returns the number of lines."""
  total, rejects, rows = 0, [], []
  for path in paths:
    for number, line in enumerate(lines_of(path.read_bytes()), 1):
      value = meaning(line)
      if len(value) == 2:
        rejects.append((path.name.encode(), b"%d" % number, *(text.encode() for text in value), line))
      else:
        rows.append(value)
      total += 1
  got = rejects_of(out)
  for mine, theirs in zip(got, rejects):
    assert mine == theirs
  assert len(got) == len(rejects)
  frame = rows_of(out)
  assert len(frame) == len(rows) == total - len(rejects)
  assert frame["label"].to_list() == [label for label, _, _ in rows]
  for i in range(13):
    expected = np.array([log1p(numbers[i]) for _, numbers, _ in rows], np.float32)
    np.testing.assert_allclose(frame[f"dense.{NAMES[1 + i]}"], expected, rtol=2e-7, atol=0)
  for i in range(26):
    values = np.array([2**32 if keys[i] is None else keys[i] for _, _, keys in rows], np.uint64)
    np.testing.assert_array_equal(frame[f"id.{NAMES[14 + i]}"], hash_ids(hash_uint32(NAMES[14 + i], values)))
  return total


def criteo_config(tmp_path: Path, **settings: object) -> PrepareConfig:
  fixed = {"format": "criteo_tsv", "input": f"{tmp_path}/log_*.tsv", "output": f"{tmp_path}/out", "vocabulary": "hash"}
  return PrepareConfig(**(fixed | {"max_reject_fraction": 1.0, "workers": 1} | settings))  # type: ignore[arg-type]


def test_mutated_criteo_lines(tmp_path):
  """140,000 lines, 105,000 of them mutated; two workers and files of two pieces."""
  paths = write_log(tmp_path, 0, files=20, lines=7000, share=0.75)
  prepare(criteo_config(tmp_path, workers=2, piece_mib=1))
  assert check_criteo(paths, tmp_path / "out") > 140_000


def test_mutated_criteo_lines_in_small_chunks(tmp_path, monkeypatch):
  """Chunks and pieces end everywhere in a line, and any line may be the first of one."""
  paths = write_log(tmp_path, 1, files=4, lines=1500, share=0.5)
  monkeypatch.setattr(delimited, "CHUNK_BYTES", 3989)
  pieces_of = read.pieces_of
  monkeypatch.setattr(read, "pieces_of", lambda i, path, log_format, size: pieces_of(i, path, log_format, 20_011))
  prepare(criteo_config(tmp_path))
  assert check_criteo(paths, tmp_path / "out") > 6000


def test_mutated_criteo_lines_without_a_compiler(tmp_path):
  paths = write_log(tmp_path, 2, files=4, lines=5000, share=0.6)
  words = [f"--{name}={value}" for name, value in vars(criteo_config(tmp_path)).items() if value is not None and name != "overwrite"]
  environment = os.environ | {"CXX": "false", "XDG_CACHE_HOME": str(tmp_path / "cache")}
  command = [sys.executable, "-m", "dlrm_jax.data.prepare", *words]
  done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
  assert "pyarrow reads the lines instead, which is slower" in done.stderr
  assert check_criteo(paths, tmp_path / "out") > 20_000


SCHEMA = 'label = "y"\ncategorical = ["c", "age"]\n[dense]\nage = { transform = "none", missing = 40 }\nviews = { transform = "log1p" }\n'
HEADER = ("views", "y", "unused", "c", "age")
NUMBER = r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
NUMBERS = [
  "",
  "0",
  "1",
  "-0",
  "1.",
  ".5",
  "-.5",
  "1e3",
  "1E-3",
  "-2.5e+2",
  "007",
  "3.4e38",
  "3.5e38",
  "-1e39",
  "1e308",
  "1e309",
  "-1e400",
  "1e-400",
]
NUMBERS += [
  "nan",
  "inf",
  "-inf",
  "+1",
  "1e",
  "e1",
  ".",
  "-",
  "0x1",
  "1_0",
  "1 ",
  "٣",
  "1,5",
  "12345678901234567890",
  "0.1",
  "9007199254740993",
]
NUMBERS += [
  "1.7976931348623157e308",
  "4.9e-324",
  "2e-324",
  "1" * 400,
  "0." + "0" * 400 + "1",
  "1e99999",
  "1e-99999",
  "--1",
  "1f",
  "1d",
  "NULL",
  "NA",
]
TEXTS = [
  "",
  "a",
  "b",
  "ü",
  "p,q",
  'say "x"',
  '"',
  '""',
  ",",
  " a",
  "a ",
  "NULL",
  "nan",
  "\0",
  "é" * 40,
  "x" * 3000,
  "\u2028",
  "\ufeff",
  "1",
  "1.0",
]


def cut_csv(line: str) -> list[str] | None:
  """The cells of a line; None if the quoting is bad. A quote counts at the start of a cell only."""
  cells, i = [], 0
  while True:
    cell = ""
    if line[i : i + 1] == '"':
      i += 1
      while True:
        end = line.find('"', i)
        if end < 0:
          return None
        cell, i = cell + line[i:end], end + 1
        if line[i : i + 1] != '"':
          break
        cell, i = cell + '"', i + 1
      if i < len(line) and line[i] != ",":
        return None
    else:
      end = line.find(",", i)
      end = len(line) if end < 0 else end
      cell, i = line[i:end], end
    cells.append(cell)
    if i == len(line):
      return cells
    i += 1


def csv_meaning(line: bytes) -> tuple[str, str] | tuple[int, float, float, str, str]:
  """Label, age, views, c and age as text; or the reason and detail of the reject."""
  if not line:
    return "empty line", ""
  if b"\r" in line:
    return "carriage return inside the line", ""
  try:
    cells = cut_csv(line.decode())
  except UnicodeDecodeError:
    return "not UTF-8 text", ""
  if cells is None:
    return "bad quoting", ""
  if len(cells) != 5:
    return "wrong number of columns", f"{len(cells)} instead of 5"
  row = dict(zip(HEADER, cells))

  def reject(reason: str, name: str) -> tuple[str, str]:
    return reason, f"{name} is {repr(row[name] or None)[:40]}"

  if row["y"] in ("", *NULL_TOKENS):
    return reject("label is missing", "y")
  if not re.fullmatch(NUMBER, row["y"], re.ASCII) or float(row["y"]) not in (0, 1):
    return reject("label is not 0 or 1", "y")
  for name, most in (("age", 3.4028235677973366e38), ("views", math.inf)):  # half a step above the largest float32
    if row[name] and not re.fullmatch(NUMBER, row[name], re.ASCII):
      return reject("not a number", name)
    if abs(float(row[name] or 0)) >= most:
      return reject("not finite", name)
  views = math.log1p(max(float(row["views"] or 0), 0.0))
  return int(float(row["y"])), float(row["age"] or 40), views, row["c"], row["age"]


def left_open(line: bytes, inside: bool) -> bool:
  """Whether a quoted cell is open at the end of a line, one byte at a time."""
  state = "quoted" if inside else "start"
  for byte in line.decode("latin-1"):
    if state == "start":
      state = {'"': "quoted", ",": "start"}.get(byte, "plain")
    elif state == "quoted":
      state = "quote" if byte == '"' else "quoted"
    else:
      state = "start" if byte == "," else "quoted" if byte == '"' and state == "quote" else "plain"
  return state == "quoted"


def csv_line(rng: random.Random) -> bytes:
  def text(cell: str) -> str:
    quoted = any(x in cell for x in ',"') or rng.random() < 0.1
    return '"' + cell.replace('"', '""') + '"' if quoted else cell

  def number() -> str:
    return rng.choice(NUMBERS) if rng.random() < 0.15 else str(rng.choice((rng.randrange(100), round(rng.uniform(-5, 5), 3))))

  y = rng.choice(["1.0", "0e5", "1e0", "-0", "00", "0.999", "2", "", "1.00000000000000000001"]) if rng.random() < 0.1 else rng.choice("01")
  cells = [number(), y, rng.choice(TEXTS), rng.choice(TEXTS), number()]
  line = ",".join([cells[0], cells[1], *map(text, cells[2:])]).encode()
  for _ in range(rng.choice((0, 0, 1, 2))):
    place = rng.randrange(len(line) + 1)
    piece = rng.choice((*PIECES, b'"', b'""', b",", b'","', b'"a"b'))
    line = line[:place] + piece + line[place + rng.choice((0, 0, 1, 3)) :]
  return line


@pytest.mark.parametrize("quotes", [True, False])
def test_mutated_csv_lines(tmp_path, quotes, monkeypatch):
  """`delimited` has different code for blocks with and without quotes. Pieces end anywhere, also inside quotes."""
  pieces_of = read.pieces_of
  monkeypatch.setattr(read, "pieces_of", lambda i, path, log_format, size: pieces_of(i, path, log_format, 20_011))
  rng, paths = random.Random(quotes), []
  for i in range(4):
    lines = [csv_line(rng) for _ in range(6000 if quotes else 20_000)]
    lines = [line for line in lines if quotes or b'"' not in line]
    paths.append(tmp_path / f"log_{i}.csv")
    paths[-1].write_bytes(b"\xef\xbb\xbf" * (i % 2) + ",".join(HEADER).encode() + b"\n" + b"\n".join(lines) + b"\n" * (i < 2))
  (tmp_path / "schema.toml").write_text(SCHEMA)
  names = {"format": "csv", "input": f"{tmp_path}/log_*.csv", "schema": f"{tmp_path}/schema.toml"}
  prepare(criteo_config(tmp_path, **names))
  rejects, rows = [], []
  for path in paths:
    inside = False
    for number, line in enumerate(lines_of(path.read_bytes())[1:], 2):
      began_inside, inside = inside, left_open(line, inside)
      value = ("line break in quotes", "") if began_inside or inside else csv_meaning(line)
      if len(value) == 2:
        rejects.append((path.name.encode(), b"%d" % number, *(text.encode() for text in value), line))
      else:
        rows.append(value)
  got, frame = rejects_of(tmp_path / "out"), rows_of(tmp_path / "out")
  for mine, theirs in zip(got, rejects):
    assert mine == theirs
  assert (len(got), len(frame)) == (len(rejects), len(rows))
  assert len(rows) > 5000 and len(got) > 5000
  label, age, views, c, age_text = map(list, zip(*rows))
  assert frame["label"].to_list() == label
  np.testing.assert_array_equal(frame["dense.age"], np.array(age, np.float32))
  np.testing.assert_allclose(frame["dense.views"], np.array(views, np.float32), rtol=2e-7, atol=1e-44)
  np.testing.assert_array_equal(frame["id.c"], hash_ids(hash_text("c", [cell.encode() for cell in c])))
  np.testing.assert_array_equal(frame["id.age"], hash_ids(hash_text("age", [cell.encode() for cell in age_text])))
