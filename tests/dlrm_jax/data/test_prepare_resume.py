"""`dlrm_jax.data.prepare` if it is interrupted, shared by several runs, or cannot write; and its splits by files."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from places import ROOT
from prepared_case import criteo_lines, rows_of

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.data.pipeline import batches
from dlrm_jax.data.prepare import parts, program
from dlrm_jax.data.prepare.program import PrepareConfig, prepare

PIECE = 4000  # bytes


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
  """Three days of 60 lines, read in pieces of `PIECE` bytes: a dozen."""
  monkeypatch.setattr(program, "_MIB", 1)
  lines = criteo_lines(180, seed=4)
  lines[70] = "x" + lines[70]
  for day in range(3):
    (tmp_path / f"day_{day}").write_text("\n".join(lines[60 * day : 60 * day + 60]) + "\n")
  return tmp_path


def words(log: Path, *more: str) -> list[str]:
  given = ["prepare", "--format=criteo_tsv", f"--input={log}/day_*", f"--piece_mib={PIECE}", "--workers=1", "--max_reject_fraction=0.01"]
  return [*given, *more]


def run(log: Path, *more: str, output: str = "out") -> Path:
  prepare(flags.parse(words(log, f"--output={log / output}", *more), PrepareConfig))
  return log / output


def files_of(out: Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "dataset.json"} | {"digest": digest_of(out).encode()}


def digest_of(out: Path) -> str:
  return json.loads((out / "dataset.json").read_text())["digest"]


class Stopped(BaseException):
  """Raised in place of a kill, after which nothing of the program runs."""


def stop_after(monkeypatch: pytest.MonkeyPatch, done: int, error: BaseException) -> list[int]:
  """Lets `done` pieces be read. Returns the list of pieces that the run asked for."""
  asked: list[int] = []
  real = parts.Reading.do

  def do(self, index, advance):
    asked.append(index)
    if len(asked) > done:
      raise error
    real(self, index, advance)

  monkeypatch.setattr(parts.Reading, "do", do)
  return asked


@pytest.mark.parametrize("error", [Stopped(), KeyboardInterrupt()])
def test_a_second_run_does_what_is_missing(log, monkeypatch, error):
  expected = files_of(run(log, output="whole"))
  with monkeypatch.context() as patch:
    stop_after(patch, 4, error)
    with pytest.raises(type(error)) as stopped:
      run(log)
  assert not (log / "out").exists()
  with pytest.raises(UserError, match="no such directory"):
    open_dataset(log / "out")
  with pytest.raises(UserError, match="no such directory|no dataset.json"):
    open_dataset(log / ".out.partial" / "out" / "x")
  if isinstance(error, KeyboardInterrupt):
    assert "the same command goes on from there" in str(stopped.value)
  with monkeypatch.context() as patch:
    asked = stop_after(patch, 1000, error)
    out = run(log)
  assert min(asked) == 4
  assert files_of(out) == expected
  assert sorted(path.name for path in log.iterdir()) == ["day_0", "day_1", "day_2", "out", "whole"]


def test_a_log_that_takes_a_while_is_named_first(log, monkeypatch, capsys):
  run(log)
  assert "reading" not in capsys.readouterr().err
  monkeypatch.setattr(program, "_SAID_BYTES", 1)
  run(log, "--overwrite")
  assert capsys.readouterr().err.startswith("reading 3 files of 0 MB, then writing shards\n")


@pytest.mark.parametrize("change", ["settings", "source"])
def test_work_of_other_settings_or_sources_is_not_used(log, monkeypatch, change, capsys):
  with monkeypatch.context() as patch:
    stop_after(patch, 4, Stopped())
    with pytest.raises(Stopped):
      run(log)
  if change == "source":
    text = (log / "day_0").read_text()
    (log / "day_0").write_text(("0" if text[0] == "1" else "1") + text[1:])
  more = ["--min_count=1"] if change == "settings" else []
  with monkeypatch.context() as patch:
    asked = stop_after(patch, 1000, Stopped())
    out = run(log, *more)
  assert ("what was read is kept" if change == "settings" else "starting anew") in capsys.readouterr().err
  assert min(asked) == (4 if change == "settings" else 0)
  assert files_of(out) == files_of(run(log, *more, output="whole"))


def test_an_error_of_the_disk_says_what_is_kept(log, monkeypatch):
  with monkeypatch.context() as patch:
    stop_after(patch, 4, OSError(errno.ENOSPC, "No space left on device", "x.arrow"))
    with pytest.raises(
      UserError, match=r"^x\.arrow: No space left on device; what is done so far is in .*\.out\.partial: the same"
    ) as error:
      run(log)
  assert "\n" not in str(error.value)
  assert not (log / "out").exists()
  assert files_of(run(log)) == files_of(run(log, output="whole"))


def test_one_run_at_a_time(log, monkeypatch):
  with monkeypatch.context() as patch:
    stop_after(patch, 4, Stopped())
    with pytest.raises(Stopped):
      run(log)
  with (log / ".out.partial" / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for more in ([], ["--shard=0/2"]):
      with pytest.raises(UserError, match="another run is at work on it"):
        run(log, *more)
    fcntl.flock(lock, fcntl.LOCK_SH)  # as a share of the work does
    with pytest.raises(UserError, match="another run is at work on it"):
      run(log)
  assert (log / ".out.partial" / "plan.json").exists()
  run(log)


def test_a_run_that_was_killed_after_the_rename_ends_well(log, monkeypatch):
  """Both the output and the staging directory exist. The same command removes the latter and succeeds."""
  with monkeypatch.context() as patch:
    patch.setattr("shutil.rmtree", lambda *args, **kwargs: (_ for _ in ()).throw(Stopped()))
    with pytest.raises(Stopped):
      run(log)
  assert (log / ".out.partial").exists()
  before = files_of(log / "out")
  assert files_of(run(log)) == before
  assert not (log / ".out.partial").exists()
  with pytest.raises(UserError, match="holds a data set already"):
    run(log)


def killed_while_clearing(monkeypatch: pytest.MonkeyPatch, log: Path, step: str) -> None:
  """Leaves a run that was killed right before its output was made ("rename"), or right after ("rmtree")."""
  real = Path.rename

  def rename(path: Path, target: Path) -> Path:
    if path.name == "out":
      raise Stopped
    return real(path, target)

  def rmtree(*args: object, **kwargs: object) -> None:
    raise Stopped

  with monkeypatch.context() as patch:
    patch.setattr(*((Path, "rename", rename) if step == "rename" else ("shutil.rmtree", rmtree)))
    with pytest.raises(Stopped):
      run(log)


def test_what_ended_was_a_run_of_these_settings(log, monkeypatch):
  """After a kill behind the rename, a command with other settings must not count as done."""
  killed_while_clearing(monkeypatch, log, "rmtree")
  with pytest.raises(UserError, match="holds a data set already"):
    run(log, "--min_count=1")
  assert sorted(path.name for path in log.iterdir()) == ["day_0", "day_1", "day_2", "out"]
  assert files_of(run(log, "--min_count=1", "--overwrite")) == files_of(run(log, "--min_count=1", output="whole"))


@pytest.mark.parametrize("more", [[], ["--min_count=1"]])
def test_killed_right_before_the_rename(log, monkeypatch, more):
  killed_while_clearing(monkeypatch, log, "rename")
  assert sorted(path.name for path in log.iterdir()) == [".out.finished", ".out.partial", "day_0", "day_1", "day_2"]
  assert files_of(run(log, *more)) == files_of(run(log, *more, output="whole"))
  assert sorted(path.name for path in log.iterdir()) == ["day_0", "day_1", "day_2", "out", "whole"]


def test_bad_flags_do_not_cost_what_was_read_of_a_large_log(log, monkeypatch):
  monkeypatch.setattr("dlrm_jax.data.prepare.staging.WORTH_KEEPING", 1000)
  with pytest.raises(
    UserError, match=r"^--eval_rows=999 of 179 rows .* may be empty; what is done so far is in .* a command with other flags"
  ):
    run(log, "--eval_rows=999")
  with monkeypatch.context() as patch:
    asked = stop_after(patch, 0, Stopped())
    out = run(log, "--eval_rows=9")
  assert asked == []
  assert files_of(out) == files_of(run(log, "--eval_rows=9", output="whole"))


def test_a_log_that_changes_while_it_is_read(log, monkeypatch):
  real = parts.Reading.do

  def do(self, index, advance):
    with (log / "day_0").open("a") as file:
      file.write("x")
    real(self, index, advance)

  monkeypatch.setattr(parts.Reading, "do", do)
  with pytest.raises(UserError, match="a file changed while it was read"):
    run(log)
  assert not (log / ".out.partial").exists()


def test_overwriting_is_whole_too(log, monkeypatch):
  first = files_of(run(log))
  with monkeypatch.context() as patch:
    patch.setattr(program.read_log, "write_rejects", lambda *args: (_ for _ in ()).throw(Stopped()))
    with pytest.raises(Stopped):
      run(log, "--overwrite", "--min_count=1")
  assert files_of(log / "out") == first
  assert files_of(run(log, "--overwrite", "--min_count=1")) == files_of(run(log, "--min_count=1", output="whole"))


def test_shares_of_the_work_make_the_same_data_set(log):
  """Two processes at once make the whole data set."""
  code = "from dlrm_jax.data.prepare import program as p; p._MIB = 1; from dlrm_jax.common import flags; flags.run(p.main, p.PrepareConfig)"
  environment = os.environ | {"PYTHONPATH": str(ROOT)}

  def start(share: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *words(log, f"--output={log}/out", f"--shard={share}")[1:]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

  runs = [start("0/2"), start("1/2")][::-1]  # the first is done as soon as the other has written its shards, and removes the place
  outs = [process.communicate(timeout=120) for process in runs]
  assert [process.returncode for process in runs] == [0, 0], outs
  assert "share 1/2 is done" in outs[0][0]
  assert "written to" in outs[1][0]
  assert files_of(log / "out") == files_of(run(log, output="whole"))


def test_shards_must_agree(log, monkeypatch):
  with monkeypatch.context() as patch:
    stop_after(patch, 1, Stopped())
    with pytest.raises(Stopped):
      run(log, "--shard=0/2")
  with pytest.raises(UserError, match="another share has other settings or other files"):
    run(log, "--shard=1/2", "--min_count=7")
  for bad in ("2/2", "x/2", "1", "-1/2", "0/0"):
    with pytest.raises(UserError, match=r"--shard=.*: must be i/n with 0 <= i < n"):
      run(log, f"--shard={bad}")


def test_the_last_day_becomes_validation_and_test(log):
  out = run(log, "--eval_files=1", "--test_fraction=0.5")
  contents = json.loads((out / "dataset.json").read_text())
  assert {split: entry["rows"] for split, entry in contents["splits"].items()} == {"train": 119, "eval": 30, "test": 30}
  labels = [int(line[0]) for line in (log / "day_2").read_text().splitlines()]
  assert rows_of(out, "eval")["label"].to_list() == labels[:30]
  assert rows_of(out, "test")["label"].to_list() == labels[30:]
  dataset = open_dataset(out)
  assert [dataset.rows(split) for split in ("train", "eval", "test", "none")] == [119, 30, 30, 0]
  got = next(iter(batches(dataset, "test", 30)))
  assert got.label_b.tolist() == labels[30:]
  with pytest.raises(UserError, match="--eval_files=3 of 179 rows holds out 179"):
    run(log, "--eval_files=3", output="none")
  with pytest.raises(UserError, match="--eval_files=1: must be at least 1, without --eval_rows"):
    run(log, "--eval_files=1", "--eval_rows=3", output="none")
  with pytest.raises(UserError, match=r"--test_fraction=0\.5: must be one row or more of the 1 held out"):
    run(log, "--eval_rows=1", "--test_fraction=0.5", output="none")


def test_missing_shares_of_dense_columns(log):
  contents = json.loads((run(log) / "dataset.json").read_text())
  lines = [line.split("\t") for day in range(3) for line in (log / f"day_{day}").read_text().splitlines() if line[0] != "x"]
  for i, column in enumerate(contents["columns"]["dense"]):
    assert (column["name"], column["missing_share"]) == (f"I{i + 1}", sum(not line[1 + i] for line in lines) / 179)


def test_a_killed_worker_ends_the_run(log):
  """The run ends with an error in one line."""
  code = (
    "import os, signal; from dlrm_jax.data.prepare import program as p, parts; p._MIB = 1\n"
    "from dlrm_jax.common import flags\n"
    "if __name__ == '__main__':\n"
    "  flags.run(p.main, p.PrepareConfig)\n"
    "else:\n"
    "  parts.Reading.do = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
  )
  (log / "program.py").write_text(code)
  command = [sys.executable, str(log / "program.py"), *words(log, f"--output={log}/out", "--workers=2")[1:]]
  environment = os.environ | {"PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith("error: a worker was killed")
  assert "what is done so far is in" in done.stderr
  assert done.stderr.count("\n") == 1


def test_columns_are_readable_by_others(log):
  """Polars can read the encoding of the shards."""
  frame = pl.read_parquet(run(log) / "train-00000.parquet")
  assert frame.columns[:3] == ["label", "dense.I1", "dense.I2"]
  assert frame["id.C1"].dtype == pl.Int32
