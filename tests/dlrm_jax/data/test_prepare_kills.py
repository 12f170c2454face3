"""`dlrm_jax.data.prepare` killed, out of disk, or not allowed to write: nothing that opens as valid is left, and the same command ends with
the same bytes as a run that nothing happened to."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from criteo_case import good_line, mutate
from places import HELPERS

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.dataset import open_dataset

pytestmark = pytest.mark.slow
PROGRAM = str(HELPERS / "prepare_process.py")
KILLS = 20


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Three files, 4 MB in all: 18 pieces, 9 shards."""
  directory, rng = tmp_path_factory.mktemp("log"), random.Random(0)
  lines = [mutate(rng, line) if i % 100 == 7 else line for i, line in enumerate(good_line(rng) for _ in range(15_000))]
  for i in range(3):
    (directory / f"day_{i}").write_bytes(b"\n".join(lines[5000 * i : 5000 * (i + 1)]) + b"\n")
  return directory


def words(log: Path, workers: int) -> list[str]:
  fixed = ["--format=criteo_tsv", "--output=out", "--max_reject_fraction=0.1", "--test_fraction=0.3", "--piece_mib=1"]
  return [*fixed, f"--input={log}/day_*", f"--workers={workers}"]


def start(directory: Path, *arguments: str, limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
  command, pipe = [sys.executable, PROGRAM, *arguments], subprocess.PIPE
  return subprocess.Popen(command, cwd=directory, stdout=pipe, stderr=pipe, text=True, preexec_fn=limit, start_new_session=True)


def finish(process: subprocess.Popen[str], seconds: float = 60) -> tuple[str, str]:
  """The output of a program. It and its workers, which hold the same pipes, must end in time."""
  try:
    return process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    raise


def run(directory: Path, *arguments: str, limit: Callable[[], None] | None = None) -> tuple[int, str, str]:
  process = start(directory, *arguments, limit=limit)
  out, err = finish(process, 300)
  return process.returncode, out, err


def files_of(directory: Path) -> dict[str, bytes]:
  return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def same(directory: Path, expected: dict[str, bytes]) -> None:
  got = files_of(directory)
  assert sorted(got) == sorted(expected)
  assert [name for name in expected if got[name] != expected[name]] == []


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def untouched(
  request: pytest.FixtureRequest, log: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, bytes], float]:
  """The command's words, the files that it makes undisturbed, and the seconds that it takes."""
  directory, arguments = tmp_path_factory.mktemp("untouched"), words(log, request.param)
  begun = time.monotonic()
  code, _, err = run(directory, *arguments)
  seconds = time.monotonic() - begun
  assert code == 0, err
  made = files_of(directory / "out")
  assert [path.name for path in directory.iterdir()] == ["out"]
  assert sum(name.endswith(".parquet") for name in made) >= 8 and {"dataset.json", "rejects.tsv"} < set(made)
  return arguments, made, seconds


def test_killed_at_random_moments(untouched, tmp_path):
  """After each kill the same command goes on, and does no finished work again; it is killed up to three times."""
  arguments, made, seconds = untouched
  rng, kept, seen = random.Random(1), 0, 0
  for i in range(KILLS):
    place = tmp_path / str(i)
    place.mkdir()
    done: dict[str, int] = {}
    for kill in range(rng.choice((1, 1, 1, 3))):
      process = start(place, *arguments)
      try:
        process.wait(seconds * (i + rng.random()) / KILLS * 0.7**kill)
      except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)  # its workers are left to find out
      finish(process)
      if (place / "out").exists():
        same(place / "out", made)
        seen += 1
        break
      work = place / ".out.partial"
      now = {str(p): p.stat().st_mtime_ns for p in (*work.glob("rows/*.json"), *work.glob("done/*.json"))}
      assert {path: now.get(path) for path in done} == done
      kept, done = kept + len(done), now
    code, out, err = run(place, *arguments)
    if "already" in err:
      assert (code, seen) > (0, 0)  # the output was there before the kill
    else:
      assert code == 0, err
      assert "written to out" in out
    same(place / "out", made)
    assert [path.name for path in place.iterdir()] == ["out"]
  assert kept > 20  # the kills came when something was done


@pytest.mark.parametrize("kind", ["new", "overwrite", "like", "sorted"])
def test_killed_before_each_step_on_disk(tmp_path, kind):
  """Renames, syncs and removals, one after the other, of a small log in which everything occurs. With --overwrite: the last ones.

  With --like the vocabularies are those of another data set.
  """
  overwrite = kind == "overwrite"
  by_time = '[time]\ncolumn = "n"\nunit = "s"\norder = true\n' if kind == "sorted" else ""
  rng = random.Random(2)
  lines = [f"{rng.randrange(9)},{rng.randrange(2)},{rng.choice('abcdefg')},{rng.choice('xyz')}" for _ in range(3000)]
  for i in range(2):
    (tmp_path / f"log_{i}.csv").write_text("n,y,c,d\n" + "\n".join(lines[1500 * i : 1500 * (i + 1)]) + "\n1,2,3\n")
  (tmp_path / "schema.toml").write_text('label = "y"\ncategorical = ["c", "d"]\n[dense]\nn = {}\n' + by_time)
  arguments = ["--format=csv", f"--input={tmp_path}/log_*.csv", f"--schema={tmp_path}/schema.toml", "--output=out", "--workers=1"]
  arguments.append("--max_reject_fraction=0.01")
  if kind == "like":
    code, _, err = run(tmp_path, *arguments, "--eval_fraction=0.5")
    assert code == 0, err
    (tmp_path / "out").rename(tmp_path / "base")
    arguments = [word for word in arguments if not word.startswith("--schema")] + [f"--like={tmp_path}/base"]
  count, each, before = tmp_path / "count", tmp_path / "each", tmp_path / "each" / "before"
  count.mkdir()
  each.mkdir()
  if overwrite:
    code, _, err = run(tmp_path, *arguments, "--min_count=200")
    assert code == 0, err
    shutil.copytree(tmp_path / "out", before)
    (tmp_path / "out").rename(count / "out")
    arguments.append("--overwrite")
  code, out, err = run(count, "count", *arguments)
  assert code == 0, err
  steps = int(out)
  assert steps > 50
  first = steps - 40 if overwrite else 0
  code, out, err = run(each, "each", str(first), str(steps), *arguments)
  assert (code, out) == (0, ""), err
  made = files_of(each / str(first) / "out")
  counted = files_of(count / "out")
  assert len(made) >= 4 and sorted(counted) == sorted(made)
  assert all(counted[name] == data for name, data in made.items() if name != "dataset.json")  # which names its command
  stages = []  # what was there after the kill
  for at in range(first, steps):
    place = each / str(at)
    assert {path.name for path in place.iterdir()} <= {"out", "seen"}
    same(place / "out", made)
    seen = files_of(place / "seen") if (place / "seen").exists() else {}
    stages.append("new" if seen == made else "none" if not seen else "old" if overwrite and seen == files_of(before) else "wrong")
  changes = [stage for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]]
  assert changes == (["old", "none", "new"] if overwrite else ["none", "new"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
  """Mounts memory as a disk of some size, or gives the one that is mounted another size or other options."""
  place = tmp_path / "disk"
  place.mkdir()
  done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
  if done.returncode:
    pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")

  def remount(options: str) -> Path:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
    return place

  yield remount
  subprocess.run(["umount", "-l", str(place)], check=True)


def refused(directory: Path, arguments: list[str], why: str, limit: Callable[[], None] | None = None) -> str:
  """Runs a command that must fail in one line and leave nothing that opens. Returns the line."""
  code, out, err = run(directory, *arguments, limit=limit)
  said = [line for line in err.splitlines() if not line.startswith(("reading:", "counting:", "writing:"))]  # progress of a slow run
  assert (code, out) == (2, "") and len(said) == 1, (code, out, err)
  assert why in said[0] and said[0].startswith("error: ")
  assert not (directory / "out").exists()
  with pytest.raises(UserError):
    open_dataset(str(directory / "out"))
  return said[0]


def test_disk_full(untouched, small_disk):
  """The disk is too small, by less each time, until there is room and the work goes on."""
  arguments, made, _ = untouched
  place = small_disk("size=64k")
  for size in (64, 256, 700, 1500, 2500, 3000):
    small_disk(f"size={size}k")
    said = refused(place, arguments, "No space left on device")
    assert "the same command goes on from there" in said
  small_disk("size=100m")
  code, _, err = run(place, *arguments)
  assert code == 0, err
  same(place / "out", made)
  assert [path.name for path in place.iterdir()] == ["out"]


def test_files_that_may_not_grow(untouched, tmp_path):
  """A limit on the size of a file, used if no disk can be mounted."""
  arguments, made, _ = untouched
  for size in (100, 5000, 60_000):
    refused(tmp_path, arguments, "File too large", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))  # noqa: B023
  code, _, err = run(tmp_path, *arguments)
  assert code == 0, err
  same(tmp_path / "out", made)


def test_read_only_output(untouched, small_disk):
  arguments, made, _ = untouched
  place = small_disk("ro,size=100m")
  refused(place, arguments, "Read-only file system")
  assert list(place.iterdir()) == []
  small_disk("rw")
  process = start(place, *arguments)
  deadline = time.monotonic() + 60
  while not list(place.glob(".out.partial/rows/*.json")) and time.monotonic() < deadline:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  finish(process)
  deadline = time.monotonic() + 60
  while subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True, check=False).returncode:  # until no worker writes
    assert time.monotonic() < deadline
    time.sleep(0.1)
  left = files_of(place)
  refused(place, arguments, "Read-only file system")  # in the middle of the work
  assert files_of(place) == left
  small_disk("rw")
  code, _, err = run(place, *arguments)
  assert code == 0, err
  same(place / "out", made)


def test_a_killed_worker_ends_the_run_in_one_line(log, tmp_path):
  process = start(tmp_path, *words(log, 2))
  deadline = time.monotonic() + 60
  while not list(tmp_path.glob(".out.partial/rows/*.json")) and time.monotonic() < deadline:
    time.sleep(0.01)
  tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
  children = [int(pid) for pid in tasks.read_text().split()]
  workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
  os.kill(workers[0], signal.SIGKILL)
  _, err = finish(process)
  said = [line for line in err.splitlines() if not line.startswith("reading:")]
  assert process.returncode == 2 and len(said) == 1 and "a worker was killed" in said[0], err
  assert not (tmp_path / "out").exists()
  assert list(tmp_path.glob(".out.partial/rows/*.json"))  # what was done is kept
  code, _, err = run(tmp_path, *words(log, 1))  # with fewer workers
  assert code == 0, err
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_runs_of_one_output_do_not_meet(log, untouched, tmp_path):
  arguments, made, _ = untouched
  first = start(tmp_path, *arguments)
  deadline = time.monotonic() + 60
  while not list(tmp_path.glob(".out.partial/rows/*.json")) and time.monotonic() < deadline:
    time.sleep(0.01)
  code, _, err = run(tmp_path, *arguments)
  assert code == 2 and "another run is at work on it" in err
  _, err = finish(first, 300)
  assert first.returncode == 0, err
  same(tmp_path / "out", made)
