"""Which files make a log: empty partitions, files of Spark, hundreds of small files, standard input and pipes."""

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import REAL
from prepared_case import criteo_lines, rows_of

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import parts, program, read
from dlrm_jax.data.prepare.program import PrepareConfig, prepare

SCHEMA = 'label = "y"\ncategorical = ["c"]\n[dense]\nx = {}\n'
HEADER = "y,c,x\n"
FULL = HEADER + "".join(f"{i % 2},{'ab'[i % 3 == 0]},{i}\n" for i in range(30))


def words(tmp_path: Path, kind: str, pattern: str = "log/*") -> list[str]:
  (tmp_path / "s.toml").write_text(SCHEMA)
  schema = [] if kind == "criteo_tsv" else [f"--schema={tmp_path}/s.toml"]
  return ["prepare", f"--format={kind}", f"--input={tmp_path}/{pattern}", f"--output={tmp_path}/out", "--workers=1", *schema]


def run(given: list[str], *more: str) -> dict:
  made = prepare(flags.parse([*given, *more], PrepareConfig))
  assert made is not None
  return made


def parquet(rows: int, typed: bool = True) -> bytes:
  sink = pa.BufferOutputStream()
  columns = {"y": [i % 2 for i in range(rows)], "c": ["ab"[i % 3 == 0] for i in range(rows)], "x": list(range(rows))}
  table = pa.table(columns) if rows else pa.table({name: pa.array([], pa.int64() if name != "c" else pa.string()) for name in columns})
  pq.write_table(table if typed else pa.table({}), sink)
  return sink.getvalue().to_pybytes()


FULLS = {
  "csv": FULL.encode(),
  "gz": gzip.compress(FULL.encode()),
  "parquet": parquet(30),
  "criteo_tsv": "\n".join(criteo_lines(30)).encode(),
}
EMPTIES = {
  "csv": [b"", HEADER.encode(), HEADER.strip().encode(), b"\xef\xbb\xbf" + HEADER.encode()],
  "gz": [gzip.compress(b""), gzip.compress(HEADER.encode()), b""],
  "parquet": [parquet(0), parquet(0, typed=False)],
  "criteo_tsv": [b""],
}


@pytest.mark.parametrize("kind", EMPTIES)
def test_empty_partitions_in_any_place_are_skipped_counted_and_said(tmp_path, kind, capsys):
  log_format = "csv" if kind == "gz" else kind
  (tmp_path / "log").mkdir()
  for number, places in enumerate([(0,), (1,), (3,), (0, 1), (1, 3), (2, 3), (0, 2, 3)]):
    for path in (tmp_path / "log").iterdir():
      path.unlink()
    empties, names = itertools.cycle(EMPTIES[kind]), []
    for i in range(4):
      (tmp_path / "log" / f"part-{i}").write_bytes(next(empties) if i in places else FULLS[kind])
      names += [f"part-{i}"] * (i in places)
    given = words(tmp_path, log_format)
    given[3] = f"--output={tmp_path}/out{number}"
    capsys.readouterr()
    made = run(given, "--eval_files=1" if len(places) < 3 else "--eval_rows=3")
    assert made["empty_files"] == names
    assert f"{len(places)} of 4 files without rows: skipped; the first: {tmp_path}/log/part-{places[0]}" in capsys.readouterr().err
    assert len(made["sources"]) == 4
    assert sum(split["rows"] for split in made["splits"].values()) == 30 * (4 - len(places))
    if len(places) < 3:
      assert made["splits"]["eval"]["rows"] == 30  # the last file with rows is held out
    for path in (tmp_path / "log").iterdir():
      if path.name in names:
        path.unlink()
    given[3] = f"--output={tmp_path}/without{number}"
    without = run(given, "--eval_files=1" if len(places) < 3 else "--eval_rows=3")
    assert without["digest"] == made["digest"]
    assert "empty_files" not in without


@pytest.mark.parametrize("kind", EMPTIES)
def test_a_log_of_empty_partitions_alone_is_one_error(tmp_path, kind):
  (tmp_path / "log").mkdir()
  for i in range(3):
    (tmp_path / "log" / f"part-{i}").write_bytes(EMPTIES[kind][i % len(EMPTIES[kind])])
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(UserError, match=r"part-0: no rows in it, nor in the other 2 files") as error:
    run(words(tmp_path, "csv" if kind == "gz" else kind))
  assert "\n" not in str(error.value)
  assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "s.toml"])


def test_files_that_spark_leaves_are_skipped(tmp_path, capsys):
  (tmp_path / "log").mkdir()
  for name in ("_SUCCESS", "_committed_123", "_started_123"):
    (tmp_path / "log" / name).write_bytes(b"" if name == "_SUCCESS" else b'{"added":[]}')
  with pytest.raises(UserError, match=r"only .*_SUCCESS, and names that begin with _ or \. are no part of a log"):
    run(words(tmp_path, "parquet"))
  (tmp_path / "log" / "part-0").write_bytes(parquet(30))
  made = run(words(tmp_path, "parquet"))
  assert made["hidden_files"] == ["_SUCCESS", "_committed_123", "_started_123"]
  assert [source["path"] for source in made["sources"]] == ["part-0"]
  assert "3 of 4 files whose names begin with _ or .: skipped; the first: " in capsys.readouterr().err
  (tmp_path / "_log").write_bytes(parquet(30))  # a file that is named in full is read, whatever its name
  given = words(tmp_path, "parquet", "_log")
  given[3] = f"--output={tmp_path}/other"
  assert run(given)["digest"] == made["digest"]


def test_the_real_case_of_an_empty_part(tmp_path):
  case = REAL / "cases" / "empty_part"
  if not case.exists():
    pytest.skip("the cases are not in ../shared/data")
  given = ["prepare", "--format=parquet", f"--input={case}/spark/*", f"--schema={case}/log.toml", f"--output={tmp_path}/out"]
  made = run(given)
  assert len(made["empty_files"]) == 1
  assert made["hidden_files"] == ["_SUCCESS"]
  assert sum(split["rows"] for split in made["splits"].values()) > 0


@pytest.mark.parametrize("kind", ["criteo_tsv", "csv", "gz"])
def test_hundreds_of_small_files_are_read_together(tmp_path, monkeypatch, kind):
  """The data set is that of one file of all lines. Files with rejects and files without rows are among them."""
  monkeypatch.setattr(program, "_MOST_TASKS", 100)
  monkeypatch.setattr(read, "MOST_SMALL", 50)
  (tmp_path / "log").mkdir()
  count = 600
  lines = criteo_lines(2 * count) if kind == "criteo_tsv" else FULL.splitlines()[1:] * (2 * count // 30)
  lines[101] = "x" + lines[101]
  header = "" if kind == "criteo_tsv" else HEADER
  for i in range(count):
    some = lines[2 * i : 2 * i + 2] if i % 7 else lines[2 * i : 2 * i + 1]
    text = header + "".join(line + "\n" for line in some)
    (tmp_path / "log" / f"part_{i}").write_bytes(gzip.compress(text.encode()) if kind == "gz" else text.encode())
    if i % 100 == 5:
      (tmp_path / "log" / f"part_{i}_empty").write_bytes(b"")
  kept = [line for i in range(count) for line in (lines[2 * i : 2 * i + 2] if i % 7 else lines[2 * i : 2 * i + 1])]
  done, real = [], parts.Reading.do
  monkeypatch.setattr(parts.Reading, "do", lambda self, index, advance: (done.append(index), real(self, index, advance))[1])
  made = run(words(tmp_path, "csv" if kind == "gz" else kind), "--max_reject_fraction=0.01", f"--eval_files={count // 10}")
  assert 25 < len(done) <= 100
  assert (tmp_path / "out" / "rejects.tsv").read_bytes().splitlines()[1].split(b"\t")[:2] == [b"part_50", b"3" if header else b"2"]
  assert len(made["empty_files"]) == len([i for i in range(count) if i % 100 == 5])
  assert len(made["sources"]) == count + len(made["empty_files"])
  (tmp_path / "one").write_text(header + "".join(line + "\n" for line in kept))
  given = words(tmp_path, "csv" if kind == "gz" else kind, "one")
  given[3] = f"--output={tmp_path}/whole"
  whole = run(given, "--max_reject_fraction=0.01", f"--eval_rows={made['splits']['eval']['rows']}")
  assert whole["digest"] == made["digest"]
  for name in ("train", "eval"):
    assert rows_of(tmp_path / "out", name).equals(rows_of(tmp_path / "whole", name))


def test_few_small_files_stay_tasks_of_their_own(tmp_path):
  """So that every core has work. A file of several pieces is never read together with another."""

  def pieces(*sizes: int) -> list[list[read.Piece]]:
    return [
      [read.Piece(i, start, min(start + 10, size), min(10, size - start)) for start in range(0, size, 10)] for i, size in enumerate(sizes)
    ]

  assert [len(task) for task in read.bundles(pieces(*[8] * 100), 10)] == [1] * 100
  tasks = read.bundles(pieces(*[1] * 5000, 25, *[1] * 5000), 10)
  assert [piece for task in tasks for piece in task] == [piece for of_file in pieces(*[1] * 5000, 25, *[1] * 5000) for piece in of_file]
  assert max(len(task) for task in tasks) == 9
  assert all(piece.size == 1 for task in tasks if len(task) > 1 for piece in task)


ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}


def start(given: list[str], **options: object) -> subprocess.Popen:
  command = [sys.executable, "-m", "dlrm_jax.data.prepare", *given[1:]]
  return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(tmp_path, name):
  given = words(tmp_path, "csv")
  given[2] = f"--input={name}"
  process = start(given, stdin=subprocess.PIPE)
  out, err = process.communicate(gzip.compress(FULL.encode()), timeout=120)
  assert (process.returncode, err) == (0, b""), err
  assert b"written to" in out
  (tmp_path / "log.csv").write_text(FULL)
  whole = words(tmp_path, "csv", "log.csv")
  whole[3] = f"--output={tmp_path}/whole"
  made = json.loads((tmp_path / "out" / "dataset.json").read_text())
  assert made["digest"] == run(whole)["digest"]
  assert [source["path"] for source in made["sources"]] == ["stdin"]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out", "s.toml", "whole"]


def written_later(path: Path, data: bytes) -> threading.Thread:
  thread = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
  thread.start()
  return thread


def test_pipes_as_input_and_as_schema(tmp_path, capsys):
  for name in ("input", "schema"):
    os.mkfifo(tmp_path / name)
  given = ["prepare", "--format=parquet", f"--input={tmp_path}/input", f"--schema={tmp_path}/schema", f"--output={tmp_path}/new/out"]
  threads = [written_later(tmp_path / "input", parquet(30)), written_later(tmp_path / "schema", SCHEMA.encode())]
  made = run(given)
  for thread in threads:
    thread.join(60)
  said = capsys.readouterr().err
  assert f"--schema={tmp_path}/schema: waiting for a program that writes to this pipe" in said
  assert f"--input={tmp_path}/input: waiting for a program that writes to this pipe" in said
  (tmp_path / "log").write_bytes(parquet(30))
  whole = words(tmp_path, "parquet", "log")
  assert run(whole)["digest"] == made["digest"]
  assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out"]


@pytest.mark.parametrize(
  ("data", "more", "message"),
  [
    (b"", [], r"input: no rows in it \(0 bytes\)"),
    (b"y,c\n1,a\n", [], r"^{0}/input: no column 'x', which the schema names"),
    (FULL.encode(), ["--eval_rows=99"], "holds out 99"),
    (FULL.replace("1,a", "7,a").encode(), [], r"{0}/input line 3: label is not 0 or 1"),
  ],
)
def test_bad_input_from_a_pipe_leaves_nothing_behind(tmp_path, monkeypatch, data, more, message):
  monkeypatch.setattr("dlrm_jax.data.prepare.staging.WORTH_KEEPING", 0)
  os.mkfifo(tmp_path / "input")
  given = words(tmp_path, "csv", "input")
  given[3] = f"--output={tmp_path}/new/out"
  written_later(tmp_path / "input", data)
  with pytest.raises(UserError, match=message.format(tmp_path)) as error:
    run(given, *more)
  assert "\n" not in str(error.value)
  assert "goes on from there" not in str(error.value)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "s.toml"]


def test_what_cannot_be_read_from_a_pipe_is_refused_at_once(tmp_path):
  given = words(tmp_path, "csv")
  with pytest.raises(UserError, match="--schema=-: must be a file if --input is standard input"):
    run([*given[:2], "--input=/dev/stdin", given[3], "--schema=-"])
  with pytest.raises(UserError, match="--shard=0/2: must be left out if --input is a pipe"):
    run([*given[:2], "--input=-", *given[3:]], "--shard=0/2")
  (tmp_path / "log").mkdir()
  os.mkfifo(tmp_path / "log" / "pipe")
  with pytest.raises(UserError, match=r"log/pipe is a pipe; give it alone"):
    run(given)
  with pytest.raises(UserError, match="/dev/zero is a device, not a file"):
    run([*given[:2], "--input=/dev/zero", *given[3:]])
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "thesis.txt").write_text("x")
  with pytest.raises(UserError, match="is no data set"):  # before the pipe is read
    run([*given[:2], f"--input={tmp_path}/log/pipe", *given[3:]])


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_while_it_reads_a_pipe(tmp_path, kind):
  """Ctrl-C leaves nothing. After a kill the next run removes what is left, says so, and does not go on from there."""
  given = words(tmp_path, "csv")
  given[2] = "--input=-"
  process = start(given, stdin=subprocess.PIPE)
  assert process.stdin is not None
  process.stdin.write(FULL.encode())
  process.stdin.flush()
  for _ in range(1200):
    if (tmp_path / ".out.spool" / "stdin").exists():
      break
    time.sleep(0.1)
  process.send_signal(kind)
  _, err = process.communicate(timeout=60)
  assert process.returncode == (-signal.SIGKILL if kind == signal.SIGKILL else 130)
  left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
  if kind == signal.SIGINT:
    assert err.decode().splitlines() == ["interrupted: nothing is kept, because --input=- cannot be read twice"]
    assert left == []
    return
  assert left == [".out.spool"]
  again = start(given, stdin=subprocess.PIPE)
  _, err = again.communicate(FULL.encode(), timeout=120)
  assert again.returncode == 0
  assert err.decode().splitlines() == [
    f"{tmp_path}/.out.spool: removed; a killed run had copied its input there from a pipe, which cannot be read again"
  ]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "s.toml"]
