"""The local launcher: how it divides devices and cores, and what it does when a worker, or the launcher itself, ends.

Workers are small programs here. Real ones are in test_sweep_kills.py.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dlrm_jax.common import stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from sweeps import local
from sweeps.local import WorkerGroup, WorkerPlace, divide
from sweeps.points import SweepConfig

# A worker takes the next free number and writes its cores and one environment variable to a file. Then it runs the test's own code.
PREAMBLE = """
import os, pathlib, signal, sys, time

def claimed(path):
  try:
    return not path.touch(exist_ok=False)
  except FileExistsError:
    return False

def ready():
  (here / f"ready{{os.getpid()}}").touch()

here = pathlib.Path({directory!r})
number = 0
while not claimed(here / f"number{{number}}"):
  number += 1
(here / f"start{{number}}_{{os.getpid()}}").write_text(f"{{sorted(os.sched_getaffinity(0))}} {{os.environ.get('DEVICE')}}")
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
  """Launches workers that run `code` after the preamble, one in each place."""

  def launched(code: str, places: list[WorkerPlace], tick: Callable[[], None] = lambda: None) -> None:
    words = [sys.executable, "-c", PREAMBLE.format(directory=str(tmp_path)) + code]
    monkeypatch.setattr(local, "command", lambda sweep, group: words)
    local.launch(SweepConfig(run=RunConfig(workdir=str(tmp_path))), [WorkerGroup(("a" * 16,), places)], tick)

  return launched


def starts(directory: Path) -> list[int]:
  """The processes that were started."""
  return [int(path.name.partition("_")[2]) for path in directory.glob("start*")]


def alive(pid: int) -> bool:
  with contextlib.suppress(ProcessLookupError):
    os.kill(pid, 0)
    return True
  return False


@contextlib.contextmanager
def signalled(directory: Path, signum: int, workers: int, times: int = 1) -> Iterator[None]:
  """Sends a signal to this process as soon as `workers` are ready."""

  def send() -> None:
    while len(list(directory.glob("ready*"))) < workers:
      time.sleep(0.05)
    for _ in range(times):
      time.sleep(0.5)
      os.kill(os.getpid(), signum)

  before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may have been started where it is ignored
  thread = threading.Thread(target=send)
  thread.start()
  try:
    yield
  finally:
    thread.join()
    signal.signal(signal.SIGINT, before)


def test_cores_are_divided_evenly(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 8, 9, 10})
  assert [place.cores for place in divide("cpu", [], 1, 3, 100)] == [(0, 1), (2, 3), (8, 9)]
  assert [place.cores for place in divide("cpu", [], 1, 0, 100)] == [(0,), (1,), (2,), (3,), (8,), (9,), (10,)]
  assert [place.cores for place in divide("cpu", [], 1, 0, 2)] == [(0,), (1,)]  # two runs need no third worker, and keep their bits
  with pytest.raises(UserError, match="--workers=8: must be at most 7: this process may use 7 cores"):
    divide("cpu", [], 1, 8, 100)


def test_devices_are_divided_by_what_a_run_takes():
  names = ["0", "1", "2", "GPU-af3", "7"]
  places = divide("cuda", names, 2, 0, 100)
  assert [place.environment for place in places] == [(("CUDA_VISIBLE_DEVICES", "0,1"),), (("CUDA_VISIBLE_DEVICES", "2,GPU-af3"),)]
  assert divide("rocm", names, 1, 1, 100) == [WorkerPlace(environment=(("ROCR_VISIBLE_DEVICES", "0"),))]
  tpu = dict(divide("tpu", ["0", "1", "2", "3"], 4, 0, 100)[0].environment)
  assert tpu == {"TPU_VISIBLE_CHIPS": "0,1,2,3", "TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "2,2,1"}
  with pytest.raises(UserError, match="--workers=3: must be at most 2: jax finds 5 cuda devices, and a run takes 2"):
    divide("cuda", names, 2, 3, 100)
  with pytest.raises(UserError, match="--workers=0: must be at most 0: jax finds 5 cuda devices, and a run takes 8"):
    divide("cuda", names, 8, 0, 100)


def test_workers_get_their_share_and_this_process_keeps_its_own(tmp_path: Path, launch: Callable[..., None]):
  mine = sorted(os.sched_getaffinity(0))
  launch("", [WorkerPlace(cores=(mine[0],), environment=(("DEVICE", "gpu5"),)), WorkerPlace()])
  assert sorted(path.read_text() for path in tmp_path.glob("start*")) == sorted([f"{mine[:1]} gpu5", f"{mine} None"])
  assert sorted(os.sched_getaffinity(0)) == mine


def test_a_worker_that_dies_is_started_again(tmp_path: Path, launch: Callable[..., None], capsys: pytest.CaptureFixture[str]):
  launch("if number < 5: os.kill(os.getpid(), signal.SIGKILL)", [WorkerPlace()])
  assert len(starts(tmp_path)) == 6
  assert capsys.readouterr().err.count("worker 0 ended (SIGKILL) and is started again") == 5


def test_a_worker_that_cannot_begin_ends_the_sweep(tmp_path: Path, launch: Callable[..., None]):
  with pytest.raises(UserError, match=r"3 workers in a row ended \(code 1\) without beginning a run; see .*/logs/.*-0\.log"):
    launch("raise ImportError('half an installation')", [WorkerPlace()])
  assert len(starts(tmp_path)) == 3
  (log,) = tmp_path.glob("logs/*")
  assert log.read_text().count("ImportError: half an installation") == 3


def test_a_worker_that_brings_runs_on_may_die_any_number_of_times(tmp_path: Path, launch: Callable[..., None]):
  code = """
(here / "runs" / ("a" * 16) / "attempts").mkdir(parents=True, exist_ok=True)
(here / "runs" / ("a" * 16) / "attempts" / f"{number:04d}.json").write_text("{}")
sys.exit(7 * (number < 8))
"""
  launch(code, [WorkerPlace()])
  assert len(starts(tmp_path)) == 9


def test_bad_input_of_a_worker_is_told_in_its_words_and_the_others_are_asked_to_save(tmp_path: Path, launch: Callable[..., None]):
  code = """
if number == 0:
  while not list(here.glob("ready*")): time.sleep(0.05)
  sys.exit(print("something before", "error: curve.jsonl: No space left on device", sep="\\n", file=sys.stderr) or 2)
signal.signal(signal.SIGTERM, lambda *_: sys.exit((here / "saved").write_text("") or 75))
ready()
while True: time.sleep(0.1)
"""
  with pytest.raises(UserError, match="^curve.jsonl: No space left on device$"):
    launch(code, [WorkerPlace(), WorkerPlace()])
  assert (tmp_path / "saved").exists() and not any(map(alive, starts(tmp_path)))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
def test_a_stop_reaches_every_worker_and_is_waited_for(tmp_path: Path, launch: Callable[..., None], signum: int):
  code = """
def save(*_):
  time.sleep(0.5)
  (here / f"saved{os.getpid()}").write_text("")
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
ready()
time.sleep(60)
"""
  before = signal.getsignal(signum)
  with signalled(tmp_path, signum, 2), pytest.raises(stopping.Stopped, match="2 workers were stopped; their runs are saved"):
    launch(code, [WorkerPlace(), WorkerPlace()])
  assert len(list(tmp_path.glob("saved*"))) == 2 and not any(map(alive, starts(tmp_path)))
  assert signal.getsignal(signum) is before


def test_ctrl_c_has_every_worker_save(tmp_path: Path, launch: Callable[..., None]):
  code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: sys.exit((here / f"saved{os.getpid()}").write_text("") and 75))
ready()
time.sleep(60)
"""
  with signalled(tmp_path, signal.SIGINT, 2), pytest.raises(KeyboardInterrupt):
    launch(code, [WorkerPlace(), WorkerPlace()])
  assert len(list(tmp_path.glob("saved*"))) == 2 and not any(map(alive, starts(tmp_path)))


def test_ctrl_c_twice_ends_workers_that_do_not_listen(tmp_path: Path, launch: Callable[..., None]):
  begun = time.monotonic()
  with signalled(tmp_path, signal.SIGINT, 1, times=2), pytest.raises(KeyboardInterrupt):
    launch("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\ntime.sleep(60)", [WorkerPlace()])
  assert time.monotonic() - begun < 15 and not any(map(alive, starts(tmp_path)))


def test_a_worker_gets_the_process_that_it_must_not_outlive_and_its_runs(tmp_path: Path):
  words = local.command(SweepConfig(run=RunConfig(workdir=str(tmp_path))), WorkerGroup(("a", "b"), [WorkerPlace()]))
  assert {f"--parent={os.getpid()}", "--only=a,b", "--wait=True", f"--workdir={tmp_path}"} <= set(words)
