"""Bad input to `dlrm_jax.data.prepare` and `open_dataset` gives one clear line and an exit code other than 0, and leaves nothing behind."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.program import PrepareConfig, main

GOOD = "1\t" + "\t".join(["5"] * 13) + "\t" + "\t".join(["68fd1e64"] * 26) + "\n"
OTHER = "0" + GOOD[1:]
LOG = (GOOD + OTHER) * 10
SCHEMA = 'label = "y"\ncategorical = ["c"]\n[dense]\nx = {}\n'


def write(tmp_path: Path, data: str | bytes, name: str = "log.tsv") -> Path:
  path = tmp_path / name
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  return path


def words(tmp_path: Path, data: str | bytes, name: str = "log.tsv", kind: str = "criteo_tsv") -> list[str]:
  given = [f"--format={kind}", f"--input={write(tmp_path, data, name)}", f"--output={tmp_path}/out"]
  return given if kind == "criteo_tsv" else [*given, f"--schema={write(tmp_path, SCHEMA, 'schema.toml')}"]


def parquet(**columns: list) -> bytes:
  sink = pa.BufferOutputStream()
  pq.write_table(pa.table(columns), sink)
  return sink.getvalue().to_pybytes()


CASES = {
  "empty file": (lambda t: words(t, ""), r"log\.tsv: no rows in it \(0 bytes\)"),
  "empty gz": (lambda t: words(t, gzip.compress(b""), "log.gz"), r"log\.gz: no rows in it"),
  "header only": (lambda t: words(t, "y,c,x\n", "log.csv", "csv"), r"log\.csv: no rows in it"),
  "parquet without rows": (
    lambda t: words(t, parquet(y=[], c=[], x=[]), "a.parquet", "parquet"),
    r"a\.parquet: no rows in it",
  ),
  "too few columns": (
    lambda t: words(t, LOG + GOOD.rsplit("\t", 1)[0] + "\n"),
    r"line 21: wrong number of columns \(39 instead of 40\)",
  ),
  "too many columns": (
    lambda t: words(t, LOG + GOOD[:-1] + "\t\n"),
    r"1 of 21 lines rejected \(4\.76%\), above --max_reject_fraction=0\.001; the first: .*line 21: wrong number.* \(41 instead of 40\)",
  ),
  "comma file as tsv": (
    lambda t: words(t, LOG.replace("\t", ",")),
    r"20 of 20 lines rejected .* line 1: wrong number of columns \(1 instead of 40\)",
  ),
  "non-hex category": (
    lambda t: words(t, LOG + GOOD.replace("68fd1e64\n", "68fd1e6z\n")),
    r"line 21: not 8 hexadecimal digits \(C26 is '68fd1e6z'\)",
  ),
  "label 2": (lambda t: words(t, LOG + "2" + GOOD[1:]), r"line 21: label is not 0 or 1 \(label is '2'\)"),
  "float for an integer": (lambda t: words(t, LOG + GOOD.replace("1\t5\t", "1\t5.0\t")), r"line 21: not an integer \(I1 is '5\.0'\)"),
  "text for a number": (lambda t: words(t, "y,c,x\n1,a,b\n0,a,2\n", "log.csv", "csv"), r"line 2: not a number \(x is 'b'\)"),
  "truncated gz": (lambda t: words(t, gzip.compress(LOG.encode())[:-20], "log.gz"), r"log\.gz: damaged or truncated gzip file"),
  "gz that is none": (lambda t: words(t, LOG, "log.gz"), r"log\.gz: damaged or truncated gzip file \(Not a gzipped file"),
  "gz with a wrong checksum": (
    lambda t: words(t, gzip.compress(LOG.encode())[:-8] + b"12345678", "log.gz"),
    r"damaged or truncated gzip file",
  ),
  "binary file": (lambda t: words(t, b"\x00\xff" * (9 << 20)), r"a line is longer than 16 MiB"),
  "not parquet": (lambda t: words(t, LOG, "a.parquet", "parquet"), r"a\.parquet: not a readable Parquet file"),
  "float categories": (
    lambda t: words(t, parquet(y=[0, 1], c=[1.0, 2.0], x=[1, 2]), "a.parquet", "parquet"),
    r"column 'c' is double: a categorical",
  ),
  "list as dense": (
    lambda t: words(t, parquet(y=[0, 1], c=[1, 2], x=[[1], [2]]), "a.parquet", "parquet"),
    r"column 'x' is list.*must hold numbers",
  ),
  "missing directory": (
    lambda t: ["--format=criteo_tsv", f"--input={t}/absent/day_*", f"--output={t}/out"],
    r"--input=.*no such directory .*absent",
  ),
  "nothing matches": (lambda t: ["--format=criteo_tsv", f"--input={t}/day_*", f"--output={t}/out"], r"--input=.*day_\*: no such file"),
  "a directory as input": (
    lambda t: ["--format=criteo_tsv", f"--input={t}", f"--output={t}/out"],
    r"is a directory; match the files in it",
  ),
  "output under a file": (lambda t: [*words(t, LOG)[:2], f"--output={t}/log.tsv/out"], r"log\.tsv|Not a directory"),
  "output is a file": (lambda t: [*words(t, LOG)[:2], f"--output={t}/log.tsv", "--overwrite"], r"exists already and is no data set"),
  "no schema": (lambda t: words(t, "y,c,x\n1,a,2\n", "log.csv", "csv")[:3], r"--format=csv needs --schema=FILE\.toml"),
  "schema with criteo": (lambda t: [*words(t, LOG), "--schema=x"], r"--schema=x: must be left out with --format=criteo_tsv"),
  "absent schema file": (
    lambda t: [*words(t, "y,c,x\n", "log.csv", "csv")[:3], f"--schema={t}/no.toml"],
    r"--schema=.*no\.toml: no such file",
  ),
  "absent column": (
    lambda t: words(t, "y,x,d\n1,2,3\n", "log.csv", "csv"),
    r"log\.csv: no column 'c', which the schema names; the file has y, x, d",
  ),
  "absent parquet column": (
    lambda t: words(t, parquet(y=[1], d=[2]), "a.parquet", "parquet"),
    r"no column 'x', which the schema names; the file has y, d",
  ),
  "column twice": (lambda t: words(t, "y,c,c,x\n1,2,3,4\n", "log.csv", "csv"), r"'c' is there twice"),
  "unknown flag": (lambda t: [*words(t, LOG), "--eval_row=3"], r"Unknown command line flag 'eval_row'.*eval_rows"),
  "unknown format": (
    lambda t: ["--format=json", "--input=x", f"--output={t}/out"],
    r"--format=json: must be among criteo_tsv, csv, parquet",
  ),
  "no output flag": (lambda t: words(t, LOG)[:2], r"--output is required"),
  "all rows held out": (
    lambda t: [*words(t, LOG), "--eval_rows=20"],
    r"--eval_rows=20 of 20 rows holds out 20: neither split may be empty",
  ),
  "fraction of 2": (lambda t: [*words(t, LOG), "--eval_fraction=2"], r"--eval_fraction=2\.0: must be above 0 and below 1"),
  "one class": (lambda t: words(t, GOOD * 20), r"every label of the 18 training rows is 1: nothing can be learned"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_left_behind(tmp_path, name):
  make, message = CASES[name]
  arguments = make(tmp_path)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises((UserError, OSError), match=message) as error:
    main(flags.parse(["prepare", *arguments], PrepareConfig))
  assert "\n" not in str(error.value)
  assert sorted(tmp_path.rglob("*")) == before


def start(*arguments: str) -> subprocess.CompletedProcess:
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  return subprocess.run(
    [sys.executable, "-m", "dlrm_jax.data.prepare", *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
  )


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("truncated gz", "error: "),
    ("label 2", "error: 1 of 21 lines rejected"),
    ("output under a file", "error: "),
    ("unknown flag", "error: "),
  ],
)
def test_the_program_prints_one_line_and_fails(tmp_path, name, message):
  arguments = CASES[name][0](tmp_path)
  before = sorted(tmp_path.rglob("*"))
  done = start(*arguments)
  assert done.returncode == 2
  assert done.stdout == ""
  assert done.stderr.startswith(message)
  assert done.stderr.count("\n") == 1
  assert done.stderr.endswith("\n")
  assert sorted(tmp_path.rglob("*")) == before


def test_no_permission_to_write(tmp_path):
  """/proc refuses new files even to the superuser."""
  if not Path("/proc/self").exists():
    pytest.skip("no /proc on this system")
  arguments = [*words(tmp_path, LOG)[:2], "--output=/proc/dlrm_jax/out"]
  done = start(*arguments)
  assert done.returncode == 2
  assert done.stderr.startswith("error: /proc/dlrm_jax")
  assert done.stderr.count("\n") == 1


def test_read_only_directory(tmp_path):
  if os.geteuid() == 0:
    pytest.skip("the superuser may write everywhere")
  arguments = [*words(tmp_path, LOG)[:2], f"--output={tmp_path}/closed/out"]
  (tmp_path / "closed").mkdir(mode=0o555)
  with pytest.raises(PermissionError):
    main(flags.parse(["prepare", *arguments], PrepareConfig))
  assert list((tmp_path / "closed").iterdir()) == []


def test_a_good_run_says_what_it_made(tmp_path):
  done = start(*words(tmp_path, LOG))
  assert done.returncode == 0
  assert all(line.startswith("warning: dense column") for line in done.stderr.splitlines())  # its lines are all the same
  assert "rejected lines: 0" in done.stdout
  assert f"written to {tmp_path}/out" in done.stdout
