"""`dlrm_jax.data.prepare`: values, ids, splits and rejects against hand-computed cases and a slow reference."""

import gzip
import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from places import REAL
from prepared_case import criteo_lines, rows_of

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data import criteo, shard_format
from dlrm_jax.data.prepare import delimited, distinct, parse, parts, program, rows, vocabulary
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.prepare.schema import CRITEO, CategoricalColumn
from dlrm_jax.data.prepare.schema_file import load_schema
from dlrm_jax.data.transform import Input

SCHEMA = 'label = "y"\ncategorical = ["c", "age"]\n[dense]\nage = { transform = "none", missing = 40 }\nviews = { transform = "log1p" }\n'


def real(name: str) -> Path:
  path = REAL / name
  if not path.exists():
    pytest.skip(f"the real data {name} is not in ../shared/data")
  return path


def run(tmp_path: Path, *words: str, output: str = "out") -> tuple[dict, Path]:
  out = tmp_path / output
  return prepare(flags.parse(["prepare", f"--output={out}", "--workers=1", *words], PrepareConfig)), out


def write_csv(tmp_path: Path, text: str, name: str = "log.csv") -> list[str]:
  (tmp_path / name).write_bytes(text.encode())
  (tmp_path / "schema.toml").write_text(SCHEMA)
  return ["--format=csv", f"--input={tmp_path / name}", f"--schema={tmp_path / 'schema.toml'}"]


def test_golden_hashes():
  """If these values change, every prepared data set and every hashed table is orphaned."""
  assert [f"{h:016x}" for h in vocabulary.hash_text("user_id", [b"", b"1", "é".encode()])] == [
    "9899afa5de7e8c21",
    "0f4eee96cc700c6a",
    "af208bf311de4055",
  ]
  values = np.array([0, 1, 0x68FD1E64, 2**32 - 1, 2**32], np.uint64)
  assert [f"{h:016x}" for h in vocabulary.hash_uint32("C1", values)] == [
    "67f99994f0edbc06",
    "4fa9f5b89bcc0c6a",
    "5c47fd49bb27900f",
    "0bd11ac596654e76",
    "c5f9829390cdd57a",
  ]
  assert vocabulary.hash_ids(np.array([0, 2**33, 2**64 - 1], np.uint64)).tolist() == [0, 1, 2**31 - 1]
  assert vocabulary.hash_text("item_id", [b"1"])[0] != vocabulary.hash_text("user_id", [b"1"])[0]


def test_hash_is_the_same_for_text_integers_and_missing():
  column = CategoricalColumn("user_id")
  text = parts.hash_values(column, pa.array(["7", "-3", "9007199254740993", None, ""]))
  integers = parts.hash_values(column, pa.array([7, -3, 2**53 + 1, None, None]))
  np.testing.assert_array_equal(text, integers)
  assert text[3] == text[4] == parts.missing_hash(column)
  assert len(set(text)) == 4
  neighbour = parts.hash_values(column, pa.array([2**53]))
  assert neighbour[0] != integers[2]  # a float64 would have merged them


def random_cells(rng: np.random.Generator) -> list[pa.Array]:
  """A column in chunks, with missing cells, of few or many values."""
  pieces = []
  for _ in range(rng.integers(1, 6)):
    size = int(rng.integers(0, 9000))
    values = rng.integers(0, rng.choice([3, 100, 5000, 2**32]), size).astype(np.uint32)
    column = pa.array(values, mask=rng.random(size) < rng.choice([0, 0.3, 1.0]) if rng.random() < 0.8 else None)
    pieces.append(column.slice(int(rng.integers(0, size // 2 + 1))))
  return pieces


@pytest.mark.parametrize("native", [True, False])
def test_distinct_values_are_numbered_and_counted(native, monkeypatch):
  if native and distinct._native() is None:
    pytest.skip("no C++ compiler")
  if not native:
    monkeypatch.setattr(distinct, "_native", lambda: None)
  rng = np.random.default_rng(0)
  for _ in range(40):
    cells = random_cells(rng)
    expected = [value for column in cells for value in column.to_pylist()]
    number_n, values, count_d = distinct.number(cells)
    of_number = values.to_pylist()
    assert [of_number[i] for i in number_n.tolist()] == expected
    assert of_number == list(dict.fromkeys(expected))  # in the order of their first appearance
    counts = Counter(expected)
    assert count_d.tolist() == [counts[value] for value in of_number]


def test_ids_dense_values_and_split_by_hand(tmp_path):
  text = "views,y,c,age,unused\n"
  text += "3,1,b,20,x\n,0,a,,x\n-2,1,b,30.5,x\n0,0,a,20,x\n10,1,b,,x\n1e2,0,rare,20,x\n"  # train
  text += "1,1,a,20,x\n2,0,never,20,x\n5,1,,1e1,x\n"  # eval
  contents, out = run(tmp_path, *write_csv(tmp_path, text), "--eval_rows=3")
  train, held_out = rows_of(out, "train"), rows_of(out, "eval")
  assert train.columns == ["label", "dense.age", "dense.views", "id.c", "id.age"]
  assert train.dtypes == [pl.UInt8, pl.Float32, pl.Float32, pl.Int32, pl.Int32]
  assert train["label"].to_list() == [1, 0, 1, 0, 1, 0]
  assert held_out["label"].to_list() == [1, 0, 1]
  assert train["dense.age"].to_list() == [20, 40, 30.5, 20, 40, 20]
  np.testing.assert_allclose(train["dense.views"], [math.log(4), 0, 0, 0, math.log(11), math.log(101)], rtol=1e-6)
  assert train["id.c"].to_list() == [1, 2, 1, 2, 1, 0]  # b 3 times, a 2, rare once
  assert held_out["id.c"].to_list() == [2, 0, 0]  # missing was never seen in training
  assert train["id.age"].to_list() == [1, 2, 0, 1, 2, 1]  # "20" 3 times, missing 2, "30.5" once
  assert held_out["id.age"].to_list() == [1, 1, 0]
  assert contents["columns"]["categorical"] == [
    {"name": "c", "cardinality": 3, "missing_share": 1 / 9},
    {"name": "age", "cardinality": 3, "missing_share": 2 / 9},
  ]
  assert contents["splits"]["train"]["rows"] == 6
  assert contents["splits"]["train"]["base_rate"] == 0.5
  assert contents["splits"]["eval"]["base_rate"] == pytest.approx(2 / 3)
  assert contents["name"] == "out"
  assert json.loads((out / "dataset.json").read_text())["digest"] == contents["digest"]
  contents, out = run(tmp_path, *write_csv(tmp_path, text), "--eval_rows=3", "--min_count=1", output="all")
  assert rows_of(out, "train")["id.c"].to_list() == [1, 2, 1, 2, 1, 3]
  assert contents["columns"]["categorical"][0]["cardinality"] == 4


def test_ties_go_by_hash_and_not_by_file_order(tmp_path):
  values = [f"v{i}" for i in range(50)] * 2
  by_hash = sorted(set(values), key=lambda v: int(vocabulary.hash_text("c", [v.encode()])[0]))
  for seed in (1, 2):
    random.Random(seed).shuffle(values)
    text = "views,y,c,age\n" + "".join(f"1,{i % 2},{v},3\n" for i, v in enumerate([*values, "v0"]))
    _, out = run(tmp_path, *write_csv(tmp_path, text), "--eval_rows=1", output=f"out{seed}")
    assert rows_of(out, "train")["id.c"].to_list() == [by_hash.index(v) + 1 for v in values]


@pytest.mark.parametrize("entries", [1 << 22, 999])
def test_vocabulary_merges_as_one_count(tmp_path, entries):
  """The result is the same by one range of hashes and by many."""
  rng = np.random.default_rng(0)
  hashes = np.concatenate([vocabulary.hash_uint32("x", (rng.zipf(1.3, 30_000) % 5000).astype(np.uint64)), [np.uint64(2**64 - 1)] * 3])
  vocabulary.rank([np.unique(part, return_counts=True) for part in np.array_split(hashes, 37)], 3, tmp_path / "v", entries)
  table = vocabulary.load(tmp_path / "v")
  counts = Counter(hashes.tolist())
  ranked = sorted((h for h, n in counts.items() if n >= 3), key=lambda h: (-counts[h], h))
  expected = {h: i + 1 for i, h in enumerate(ranked)}
  assert table.cardinality == len(ranked) + 1
  asked = np.concatenate([hashes, [np.uint64(0), np.uint64(2**64 - 2)]])
  assert table.lookup(asked).tolist() == [expected.get(h, 0) for h in asked.tolist()]
  assert table.lookup(asked).dtype == np.int32
  vocabulary.rank([(np.zeros(0, np.uint64), np.zeros(0, np.int64))], 1, tmp_path / "none")
  assert vocabulary.load(tmp_path / "none").lookup(asked).tolist() == [0] * len(asked)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["none", "v"]


def test_hash_vocabulary_keeps_all_31_bits(tmp_path):
  (tmp_path / "log.tsv").write_text("\n".join(criteo_lines(300)))
  contents, out = run(tmp_path, "--format=criteo_tsv", f"--input={tmp_path}/log.tsv", "--vocabulary=hash", "--eval_rows=30")
  cells = [line.split("\t")[14] for line in criteo_lines(300)][:270]
  hashes = vocabulary.hash_uint32("C1", np.array([int(cell, 16) if cell else 2**32 for cell in cells], np.uint64))
  assert rows_of(out, "train")["id.C1"].to_list() == [int(h) >> 33 for h in hashes]
  assert contents["columns"]["categorical"][0]["cardinality"] == 2**31
  assert max(rows_of(out, "train")["id.C1"]) > 2**24


def test_copies_of_a_log_give_one_digest(tmp_path, monkeypatch):
  """Plain or gzipped, one file or several, large chunks or tiny ones, CR LF, with or without a last newline, read by C++ or by Arrow."""
  lines = criteo_lines(200)
  digests = {}

  def add(name: str, pattern: str) -> None:
    contents, _ = run(tmp_path, "--format=criteo_tsv", f"--input={tmp_path}/{pattern}", output=f"out-{name}")
    digests[name] = contents["digest"]

  (tmp_path / "plain.tsv").write_text("\n".join(lines) + "\n")
  (tmp_path / "no_newline.tsv").write_text("\n".join(lines))
  (tmp_path / "dos.tsv").write_bytes("\r\n".join(lines).encode())
  (tmp_path / "zipped.gz").write_bytes(
    gzip.compress("\n".join(lines[:70]).encode() + b"\n") + gzip.compress("\n".join(lines[70:]).encode())
  )
  for i, part in enumerate((lines[:40], lines[40:90], lines[90:])):
    (tmp_path / f"day_{(2, 9, 10)[i]}").write_text("\n".join(part) + "\n")
  for name in ("plain.tsv", "no_newline.tsv", "dos.tsv", "zipped.gz", "day_*"):
    add(name, name)
  monkeypatch.setattr(delimited, "CHUNK_BYTES", 9000)
  add("tiny chunks", "plain.tsv")
  monkeypatch.setattr(rows, "_line_reader", lambda: None)
  monkeypatch.setattr(distinct, "_native", lambda: None)
  add("without a compiler", "plain.tsv")
  assert len(set(digests.values())) == 1, digests
  lines[-1] = ("0" if lines[-1][0] == "1" else "1") + lines[-1][1:]
  (tmp_path / "other.tsv").write_text("\n".join(lines))
  add("other", "other.tsv")
  assert digests["other"] != digests["plain.tsv"]


def files_of(out: Path) -> dict[str, bytes]:
  """The contents of a data set's files, without its path and the command line that made it."""
  files = {path.name: path.read_bytes() for path in out.iterdir()}
  contents = json.loads(files["dataset.json"])
  files["dataset.json"] = json.dumps({k: v for k, v in contents.items() if k not in ("command", "name", "sources")}).encode()
  return files


@pytest.mark.parametrize("kind", ["tsv", "gz", "csv", "parquet"])
def test_pieces_and_workers_change_nothing(tmp_path, monkeypatch, kind):
  """Pieces end inside lines, at their ends and inside the header. Rejects keep their line numbers. Shards end inside parts."""
  monkeypatch.setattr(shard_format, "ROWS_PER_GROUP", 31)
  monkeypatch.setattr(shard_format, "GROUPS_PER_SHARD", 2)
  lines = criteo_lines(300, seed=9)
  for i in (5, 77, 200, 201, 299):
    lines[i] = lines[i].replace("\t", " ", 1)
  words = ["--format=criteo_tsv", f"--input={tmp_path}/log_*", "--max_reject_fraction=0.02"]
  if kind in ("tsv", "gz"):
    for i, part in enumerate((lines[:150], lines[150:151], lines[151:])):
      text = ("\n".join(part) + "\n" * (i < 2)).encode()
      (tmp_path / f"log_{i}").write_bytes(gzip.compress(text) if kind == "gz" else text)
  else:
    rng = random.Random(1)
    log = [(i if rng.random() < 0.9 else None, i % 2, rng.choice("abcdefghij"), rng.randrange(9)) for i in range(600)]
    text = "".join(f"{'' if v is None else v},{y if v != 444 else 'x'},{c},{age}\n" for v, y, c, age in log)
    words = write_csv(tmp_path, "views,y,c,age\n" + text, "log_0")
    words[1] = f"--input={tmp_path}/log_*"
    if kind == "parquet":
      columns = dict(zip(("views", "y", "c", "age"), zip(*log, strict=True), strict=True))
      pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "log_0", row_group_size=40)
      words[0] = "--format=parquet"
    words.append("--max_reject_fraction=0.02")
  _, out = run(tmp_path, *words, "--workers=1")
  assert len(list(out.glob("train-*"))) >= 5
  expected = files_of(out)
  monkeypatch.setattr(program, "_MIB", 1)
  total = sum(path.stat().st_size for path in tmp_path.glob("log_*"))
  for size, workers in ((total // 5, 1), (total // 23, 2 if kind in ("tsv", "parquet") else 1)):
    _, out = run(tmp_path, *words, f"--workers={workers}", f"--piece_mib={size}", output=f"out{size}")
    assert files_of(out) == expected


def test_csv_and_parquet_of_a_log_give_one_digest(tmp_path):
  rng = random.Random(3)
  rows = [
    (rng.choice([None, 1, 5, 2**40]), rng.randrange(2), rng.choice(["a", "ü", 'say "x"', "p,q", None]), rng.randrange(90))
    for _ in range(200)
  ]
  cells = [["" if v is None else f'"{v.replace(chr(34), chr(34) * 2)}"' if isinstance(v, str) else str(v) for v in row] for row in rows]
  words = write_csv(tmp_path, "\ufeffviews,y,c,age\n" + "".join(",".join(row) + "\n" for row in cells))
  csv_contents, _ = run(tmp_path, *words)
  columns = dict(zip(("views", "y", "c", "age"), zip(*rows, strict=True), strict=True))
  pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "log.parquet", row_group_size=64)
  contents, out = run(tmp_path, "--format=parquet", f"--input={tmp_path}/log.parquet", words[2], output="out-parquet")
  assert contents["digest"] == csv_contents["digest"]
  assert contents["columns"]["categorical"][0]["missing_share"] == sum(row[2] is None for row in rows) / 200
  assert rows_of(out, "train")["label"].to_list() == [row[1] for row in rows][:180]


def test_rejects_are_counted_kept_and_skipped(tmp_path):
  good = criteo_lines(60)
  bad = {
    3: (good[0] + "\tdeadbeef", "wrong number of columns", "41 instead of 40"),
    10: ("\t".join(good[0].split("\t")[:39]), "wrong number of columns", "39 instead of 40"),
    11: ("2" + good[0][1:], "label is not 0 or 1", "label is '2'"),
    12: ("", "empty line", ""),
    20: (re.sub(r"^(.)\t[^\t]*\t[^\t]*", r"\1\t1\t3.5", good[0]), "not an integer", "I2 is '3.5'"),
    21: (good[0].rsplit("\t", 1)[0] + "\t0000000g", "not 8 hexadecimal digits", "C26 is '0000000g'"),
  }
  lines = list(good)
  for number, (text, _, _) in bad.items():
    lines.insert(number - 1, text)
  (tmp_path / "log.tsv").write_text("\n".join(lines) + "\n")
  (tmp_path / "good.tsv").write_text("\n".join(good) + "\n")
  words = ["--format=criteo_tsv", f"--input={tmp_path}/log.tsv"]
  contents, out = run(tmp_path, *words, "--max_reject_fraction=0.1")
  kept = (out / "rejects.tsv").read_text().splitlines()
  assert kept[0].split("\t") == ["source", "line", "reason", "detail", "text"]
  assert kept[1:] == [f"log.tsv\t{number}\t{reason}\t{detail}\t{text}" for number, (text, reason, detail) in bad.items()]
  assert contents["rejects"] == {
    "total": 6,
    "share": 6 / 66,
    "by_reason": {
      "wrong number of columns": 2,
      "empty line": 1,
      "label is not 0 or 1": 1,
      "not an integer": 1,
      "not 8 hexadecimal digits": 1,
    },
  }
  expected, _ = run(tmp_path, "--format=criteo_tsv", f"--input={tmp_path}/good.tsv", output="good")
  assert contents["digest"] == expected["digest"]
  said = "above --max_reject_fraction=0.09; 2 of them for the commonest reason, the first: "
  with pytest.raises(UserError, match=re.escape(f"6 of 66 lines rejected (9.09%), {said}{tmp_path}/log.tsv line 3: wrong number")):
    run(tmp_path, *words, "--max_reject_fraction=0.09", output="none")
  assert not (tmp_path / "none").exists()


def test_csv_rejects(tmp_path):
  text = 'views,y,c,age\n1,1,"a",3\n1,0,"a"x,3\n"1",0,a"b,3\n+1,1,a,3\nnan,0,a,3\n1e39,1,a,1e39\n1,0,a,\xff\nz,ja,a,3\n'
  text += "1,0.0,a,3\n1,1\n1, 0,a,3\n"
  words = write_csv(tmp_path, "")
  (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
  contents, out = run(tmp_path, *words, "--max_reject_fraction=0.9", "--eval_rows=1")
  rejected = [line.split("\t")[1:4] for line in (out / "rejects.tsv").read_text(encoding="latin-1").splitlines()[1:]]
  assert rejected == [
    ["3", "bad quoting", ""],
    ["5", "not a number", "views is '+1'"],
    ["6", "not a number", "views is 'nan'"],
    ["7", "not finite", "age is '1e39'"],
    ["8", "not UTF-8 text", ""],
    ["9", "label is not 0 or 1", "y is 'ja'"],
    ["11", "wrong number of columns", "2 instead of 4"],
    ["12", "label is not 0 or 1", "y is ' 0'"],
  ]
  assert sum(split["rows"] for split in contents["splits"].values()) == 3


def test_a_line_does_not_depend_on_its_neighbours(tmp_path, monkeypatch):
  """A byte order mark is text unless it starts a file. The limit of a cell's length also holds in a block with quotes."""
  lines = ["1,1,a,3", "\ufeff2,0,b,3", f"3,1,{'x' * 140_000},3", '4,0,"c",3', "5,1,d,3", "6,1,d,3"]
  found = []
  for size in (10, 1 << 20):
    monkeypatch.setattr(delimited, "CHUNK_BYTES", size)
    words = write_csv(tmp_path, "views,y,c,age\n" + "\n".join(lines) + "\n")
    contents, out = run(tmp_path, *words, "--min_count=1", "--max_reject_fraction=0.5", "--eval_rows=1", output=f"out{size}")
    found.append((contents["digest"], (out / "rejects.tsv").read_text().splitlines()[1:]))
  assert found[0] == found[1]
  assert found[0][1] == ["log.csv\t3\tnot a number\tviews is '\\ufeff2'\t\ufeff2,0,b,3"]


def test_files_are_told_apart_by_their_directories(tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "log.tsv").write_text("\n".join(["x", *criteo_lines(20)]))
  contents, out = run(tmp_path, "--format=criteo_tsv", f"--input={tmp_path}/?/log.tsv", "--max_reject_fraction=0.1")
  assert [source["path"] for source in contents["sources"]] == ["a/log.tsv", "b/log.tsv"]
  assert [line.split("\t")[:2] for line in (out / "rejects.tsv").read_text().splitlines()[1:]] == [["a/log.tsv", "1"], ["b/log.tsv", "1"]]
  (tmp_path / "a" / "log.tsv.gz").write_bytes(gzip.compress((tmp_path / "a" / "log.tsv").read_bytes()))
  with pytest.raises(UserError, match=r"a/log\.tsv\.gz and .*a/log\.tsv both match: are they not the same log\?"):
    run(tmp_path, "--format=criteo_tsv", f"--input={tmp_path}/a/*", output="none")
  with pytest.raises(UserError, match=r"--output=.*: holds .*a/log\.tsv, which is an input"):
    run(tmp_path, "--format=criteo_tsv", f"--input={tmp_path}/a/log.tsv", output="a")


def reference(line: str) -> tuple[int, list[float], list[int]] | None:
  """Parses a Criteo line, one cell at a time; None if it must be rejected."""
  cells = line.split("\t")
  if len(cells) != 40 or cells[0] not in ("0", "1", "-0", *("0" * i for i in range(2, 19)), *("0" * i + "1" for i in range(1, 18))):
    return None
  dense, categories = [], []
  for cell in cells[1:14]:
    if not re.fullmatch(r"(-?[0-9]{1,18})?", cell, re.ASCII):
      return None
    dense.append(math.log1p(max(int(cell), 0)) if cell else 0.0)
  for cell in cells[14:]:
    if not re.fullmatch(r"([0-9a-fA-F]{8})?", cell):
      return None
    categories.append(int(cell, 16) if cell else 2**32)
  return int(cells[0]), dense, categories


BASE = criteo_lines(12, seed=5)
MUTATIONS = st.lists(
  st.tuples(
    st.integers(0, 11),
    st.integers(0, 300),
    st.sampled_from(
      [
        "",
        "\t",
        "-",
        "+",
        ".",
        "e",
        "g",
        "F",
        " ",
        "0",
        "9",
        "x",
        "\r",
        '"',
        "é",
        "\0",
        "٣",
        "1.0",
        "0x1",
        "99999999999999999999",
        "nan",
        "\n",
      ]
    ),
    st.booleans(),
  ),
  min_size=1,
  max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(MUTATIONS)
@example([(0, 0, "-", True), (1, 0, "٣", True), (2, 2, "0x1", True), (3, 2, "+", True), (4, 2, "0" * 17, True)])
def test_every_line_is_accepted_with_its_value_or_rejected(mutations):
  lines = list(BASE)
  for row, place, piece, insert in mutations:
    place %= len(lines[row]) + 1
    lines[row] = lines[row][:place] + piece + lines[row][place + (0 if insert else 1) :]
  text = ("\n".join(lines) + "\n").replace("\r\n", "\n")
  header = CRITEO.header
  assert header is not None
  lines = text.split("\n")[:-1]
  chunk = delimited.cut(text.encode(), np.arange(1, len(lines) + 1), header, CRITEO)
  rows, rejects = parse.parse(chunk, CRITEO)
  expected = [reference(line) for line in lines]
  good = [value for value in expected if value is not None]
  assert [reject.line for reject in rejects] == [i + 1 for i, value in enumerate(expected) if value is None]
  assert [reject.text.decode() for reject in rejects] == [line for line, value in zip(lines, expected, strict=True) if value is None]
  assert rows.label_n.tolist() == [label for label, _, _ in good]
  for i in range(13):
    np.testing.assert_allclose(
      Input("x", "x", "log1p").apply(rows.dense[i]), np.array([dense[i] for _, dense, _ in good], np.float32), rtol=2e-7
    )
  for i in range(26):
    assert rows.cells[i].to_pylist() == [None if categories[i] == 2**32 else categories[i] for _, _, categories in good]


def test_criteo_facts():
  assert len(criteo.KAGGLE_CARDINALITIES) == len(criteo.MLPERF_ROWS) == len(criteo.MLPERF_BAG_LENGTHS) == criteo.NUM_CATEGORICAL == 26
  assert sum(criteo.KAGGLE_CARDINALITIES) == 33_762_577  # DLRM's published total for Kaggle
  assert sum(criteo.MLPERF_BAG_LENGTHS) == 214
  assert sum(criteo.MLPERF_ROWS) == 204_184_588  # the 204M rows of MLPerf v2


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("label = 3", "label = 3 must be text"),
    ("label = ", "not valid TOML"),
    ('categorical = ["a"]', "no label"),
    ('label = "y"', "at least one categorical column"),
    ('label = "y"\ncategorical = "a"', "categorical = 'a' must be a list"),
    ('label = "y"\ncategorical = ["a", "a"]', "'a' is there twice"),
    ('label = "y"\ncategorical = ["y"]', "cannot be a categorical column too"),
    ('label = "y"\ncategorical = ["a"]\nbag = 1', "unknown key 'bag'; there are label, categorical, dense, bags, name"),
    ('label = "y"\ncategorical = ["a"]\ndense = ["b"]', "dense must be a table"),
    ('label = "y"\ncategorical = ["a"]\n[dense]\nb = { clip = 1 }', "dense column 'b': unknown key 'clip'; there are transform, missing"),
    ('label = "y"\ncategorical = ["a"]\n[dense]\nb = { transform = "log" }', "'log' must be among standard, quantile, log1p, none, bins"),
    ('label = "y"\ncategorical = ["a"]\n[dense]\nb = { missing = "0" }', "missing = '0' must be a finite number"),
  ],
)
def test_bad_schemas_are_refused_in_one_line(tmp_path, text, message):
  (tmp_path / "s.toml").write_text(text)
  with pytest.raises(UserError, match=message) as error:
    load_schema(str(tmp_path / "s.toml"))
  assert str(tmp_path / "s.toml") in str(error.value)
  assert "\n" not in str(error.value)


def test_overwrite_replaces_only_data_sets_and_only_on_success(tmp_path):
  words = write_csv(tmp_path, "views,y,c,age\n" + "1,1,a,3\n1,0,b,3\n" * 5)
  first, out = run(tmp_path, *words)
  with pytest.raises(UserError, match=r"holds a data set already.*--overwrite"):
    run(tmp_path, *words)
  (tmp_path / "log.csv").write_text("views,y,c,age\n1,7,a,3\n")
  with pytest.raises(UserError, match="1 of 1 lines rejected"):
    run(tmp_path, *words, "--overwrite")
  assert json.loads((out / "dataset.json").read_text())["digest"] == first["digest"]
  (tmp_path / "log.csv").write_text("views,y,c,age\n" + "2,1,a,3\n1,0,b,3\n" * 5)
  second, _ = run(tmp_path, *words, "--overwrite")
  assert json.loads((out / "dataset.json").read_text())["digest"] == second["digest"] != first["digest"]
  (tmp_path / "home").mkdir()
  (tmp_path / "home" / "thesis.txt").write_text("x")
  with pytest.raises(UserError, match="is no data set"):
    run(tmp_path, *words, "--overwrite", output="home")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "log.csv", "out", "schema.toml"]


def test_real_criteo_head_against_a_slow_count(tmp_path):
  path = real("criteo_kaggle_head/train.txt")
  contents, out = run(tmp_path, "--format=criteo_tsv", f"--input={path}", "--eval_rows=1109")
  cells = [line.split("\t") for line in path.read_text().splitlines()]
  assert contents["rejects"]["total"] == 0
  assert (contents["splits"]["train"]["rows"], contents["splits"]["eval"]["rows"]) == (9000, 1109)
  labels = [int(row[0]) for row in cells]
  assert contents["splits"]["train"]["base_rate"] == sum(labels[:9000]) / 9000
  held_out = rows_of(out, "eval")
  for column in (0, 2, 15, 25):
    counts = Counter(row[14 + column] for row in cells[:9000])
    kept = [value for value, count in counts.items() if count >= 2]
    assert contents["columns"]["categorical"][column]["cardinality"] == len(kept) + 1
    ids = held_out[f"id.C{column + 1}"].to_list()
    with_count = Counter(counts.values())
    more = {count: sum(n for other, n in with_count.items() if other > count) for count in with_count}
    for row, i in zip(cells[9000:], ids, strict=True):
      count = counts[row[14 + column]]
      assert (i == 0) if count < 2 else more[count] < i <= more[count] + with_count[count]
  expected = [math.log1p(max(int(row[2] or 0), 0)) for row in cells[9000:]]
  np.testing.assert_allclose(held_out["dense.I2"], expected, rtol=1e-6)
  assert sum(len({row[14 + i] for row in cells}) for i in range(26)) == 43_963  # as the data's own notes say, missing counted


def test_real_criteo_day_plain_and_gzipped(tmp_path):
  plain, _ = run(tmp_path, "--format=criteo_tsv", f"--input={real('criteo_1tb_head/day_0.head.txt')}", output="plain")
  zipped, _ = run(tmp_path, "--format=criteo_tsv", f"--input={real('criteo_1tb_head/day_0.head.gz')}", output="zipped")
  assert plain["digest"] == zipped["digest"]
  assert [s["shards"] for s in plain["splits"].values()] == [s["shards"] for s in zipped["splits"].values()]
  assert plain["sources"] != zipped["sources"]


@pytest.mark.parametrize(("name", "label", "rows"), [("train.tiny.csv", "Label", 1999), ("deepctr_criteo_sample.txt", "label", 200)])
def test_real_csv(tmp_path, name, label, rows):
  dense = "\n".join(f'{column} = {{ transform = "log1p" }}' for column in criteo.DENSE_NAMES)
  (tmp_path / "s.toml").write_text(f'label = "{label}"\ncategorical = {json.dumps(criteo.CATEGORICAL_NAMES)}\n[dense]\n{dense}\n')
  contents, out = run(tmp_path, "--format=csv", f"--input={real('criteo_csv/' + name)}", f"--schema={tmp_path}/s.toml")
  assert (contents["rejects"]["total"], sum(split["rows"] for split in contents["splits"].values())) == (0, rows)
  if rows == 1999:  # the same rows as the start of the TSV: the same dense values
    tsv = [line.split("\t") for line in real("criteo_kaggle_head/train.txt").read_text().splitlines()[:1999]]
    got = pl.concat([rows_of(out, "train"), rows_of(out, "eval")])["dense.I5"]
    np.testing.assert_allclose(got, [math.log1p(int(row[5] or 0)) for row in tsv], rtol=1e-6)


def test_real_movielens(tmp_path):
  path = real("ml1m/ml1m_events.parquet")
  (tmp_path / "s.toml").write_text(
    'label = "label"\ncategorical = ["user_id", "movie_id", "zip", "genres", "occupation", "age", "gender"]\n'
    '[dense]\nage = { transform = "log1p" }\n'
  )
  contents, out = run(tmp_path, "--format=parquet", f"--input={path}", f"--schema={tmp_path}/s.toml")
  log = pl.read_parquet(path)
  train = log[:900_189]
  assert {split: entry["rows"] for split, entry in contents["splits"].items()} == {"train": 900_189, "eval": 100_020}
  assert contents["splits"]["train"]["base_rate"] == train["label"].sum() / 900_189
  got = rows_of(out, "train")
  for column in contents["columns"]["categorical"]:
    counts = train[column["name"]].value_counts()
    assert column["cardinality"] == (counts["count"] >= 2).sum() + 1
    frequencies = counts["count"].sort(descending=True)
    ids = got[f"id.{column['name']}"].value_counts().sort(f"id.{column['name']}").filter(pl.col(f"id.{column['name']}") > 0)
    assert ids["count"].to_list() == frequencies.filter(frequencies >= 2).to_list()  # id 1 is the most frequent, and so on
    pairs = pl.DataFrame({"value": train[column["name"]], "id": got[f"id.{column['name']}"]}).filter(pl.col("id") > 0).unique()
    assert len(pairs) == pairs["id"].n_unique() == pairs["value"].n_unique()  # one value, one id
  np.testing.assert_allclose(got["dense.age"], np.log1p(train["age"].cast(pl.Float64)), rtol=1e-6)
