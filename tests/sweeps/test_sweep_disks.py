"""Sweeps on a disk that fills up or becomes read-only: one line, no attempt counted, and the same command later ends with equal records."""

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sweep_case

pytestmark = pytest.mark.slow
FLAGS = (*sweep_case.FLAGS, "--seeds=2")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A sweep of 8 runs that nothing disturbs."""
  return sweep_case.finished(tmp_path_factory.mktemp("untouched"), *FLAGS)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
  """A file system of its own, of 64 MB."""
  made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], capture_output=True, text=True, check=False)
  if made.returncode:
    pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
  try:
    yield tmp_path
  finally:
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def records(workdir: Path) -> int:
  return len(list(workdir.glob("runs/*/record.json")))


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
  until = time.monotonic() + 120
  while not condition():
    assert process.poll() is None, process.communicate()[0]
    if time.monotonic() > until:
      os.killpg(process.pid, signal.SIGKILL)
      raise AssertionError("it takes too long")
    time.sleep(0.02)


def refused(process: subprocess.Popen[str], message: str) -> None:
  code, said = sweep_case.ended(process)
  errors = [line for line in said.splitlines() if line.startswith("error: ")]
  assert code == 2 and len(errors) == 1 and message in errors[0] and "Traceback" not in said, said


@pytest.mark.parametrize("launcher", ["inline", "local"])
def test_a_full_disk_stops_a_sweep_and_loses_nothing(disk: Path, untouched: Path, launcher: str):
  workdir, ballast = disk / "sweep", disk / "ballast"
  words = (*FLAGS, f"--launcher={launcher}", "--workers=1", "--max_attempts=1")
  process = sweep_case.started(workdir, *words)
  wait_until(lambda: records(workdir) >= 2, process)
  with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
    while True:
      file.write(bytes(4096))
  refused(process, "No space left on device")
  sweep_case.wait_for_none(workdir)
  assert 2 <= records(workdir) < 8
  refused(sweep_case.started(workdir, *words), "No space left on device")
  ballast.unlink()
  assert sweep_case.results(sweep_case.finished(workdir, *words)) == sweep_case.results(untouched)
  assert {outcome for run in sweep_case.outcomes(workdir).values() for outcome in run} <= {"done", "interrupted"}


def remount(disk: Path, how: str) -> None:
  """Fails while a file is being written; tried again until it does not."""
  for _ in range(500):
    if not subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], capture_output=True, check=False).returncode:
      return
    time.sleep(0.005)
  raise OSError(errno.EBUSY, "cannot be remounted", str(disk))


def test_a_disk_that_becomes_read_only_stops_a_sweep_and_loses_nothing(disk: Path, untouched: Path):
  workdir = disk / "sweep"
  process = sweep_case.started(workdir, *FLAGS)
  wait_until(lambda: records(workdir) >= 2, process)
  remount(disk, "ro")
  refused(process, "Read-only file system")
  assert 2 <= records(workdir) < 8
  refused(sweep_case.started(workdir, *FLAGS), "Read-only file system")
  remount(disk, "rw")
  assert sweep_case.results(sweep_case.finished(workdir, *FLAGS)) == sweep_case.results(untouched)


def test_a_sweep_that_cannot_begin_says_so(disk: Path):
  remount(disk, "ro")
  refused(sweep_case.started(disk / "sweep", *FLAGS), "Read-only file system")
  refused(sweep_case.started(disk / "sweep", *FLAGS, "--launcher=local"), "Read-only file system")
