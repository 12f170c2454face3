"""Signals that ask a run to stop: handlers come and go, the program ends in one line and code 75; slow: real processes at any moment."""

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from resume_case import assert_same_run

from dlrm_jax import train
from dlrm_jax.common import flags, record, stopping
from dlrm_jax.config import RunConfig
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import loop

TINY = ("--preset=tiny", "--num_examples=4096", "--checkpoint_every_s=0")
# The model of the quick sweep (sweeps/presets.py), with fewer examples.
QUICK = ("--embed_dim=4", "--num_rows=1048576", "--overarch=32,1", "--table_lr=0.1", "--steps_per_call=8", "--num_examples=2000000")


def test_signals_ask_and_are_handled_as_before_afterwards():
  before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR2)]
  assert not stopping.requested()
  for signum in (signal.SIGUSR2, signal.SIGTERM):
    with stopping.installed():
      stopping.check()
      os.kill(os.getpid(), signum)
      assert stopping.requested()
      os.kill(os.getpid(), signal.SIGTERM)  # what came first counts
      with pytest.raises(stopping.Stopped, match=signum.name) as stop:
        stopping.check()
      assert stop.value.signum == signum
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR2)] == before
    assert not stopping.requested()


def test_the_program_ends_in_one_line_and_goes_on_with_the_same_command(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  """Told to stop during the second evaluation: it saves what it has and does not wait for the rest."""
  evaluate, calls = loop.evaluate, []

  def told(*args: object) -> object:
    calls.append(1)
    if len(calls) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return evaluate(*args)

  def main(directory: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["train", *TINY, f"--workdir={tmp_path}/{directory}"])
    try:
      flags.run(train.main, RunConfig, PRESETS)
    except SystemExit as end:
      return end.code
    return 0

  monkeypatch.setattr(loop, "evaluate", told)
  assert main("run") == 75
  there = f"{tmp_path}/run/checkpoint"
  assert capsys.readouterr().err == f"SIGTERM after 1,536 examples, saved after 1,536 in {there}: the same command goes on from there\n"
  assert [row["examples"] for row in record.read_curve(tmp_path / "run" / "curve.jsonl")] == [1024]
  assert main("run") == 0
  shown = capsys.readouterr()
  assert shown.err == f"going on after 1,536 examples, from {there}/000000001536\n" and shown.out.startswith("log_loss=")
  assert main("whole") == 0
  assert_same_run(tmp_path / "run", tmp_path / "whole")
  assert sorted(os.listdir(tmp_path / "run")) == ["curve.jsonl", "record.json"]
  assert main("run") == 2


def start(*words: str, **how: object) -> subprocess.Popen[str]:
  """The program on one core: the bits of a step depend on how many it may use."""
  core = min(os.sched_getaffinity(0))
  env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
  command = ["taskset", "-c", str(core), sys.executable, "-m", "dlrm_jax.train", *words]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **how)


def ended(process: subprocess.Popen[str], codes: tuple[int, ...]) -> str:
  """What it said on standard error; it may be killed before its handlers are in place."""
  out, err = process.communicate(timeout=300)
  assert process.returncode in codes, (process.returncode, out, err)
  return err


@pytest.mark.slow
def test_at_any_moment_it_is_saved_and_out_within_ten_seconds(tmp_path: Path):
  """From the first line of its imports on, while it compiles, trains and evaluates."""
  words = (*QUICK, "--num_examples=25165824")  # longer than four stops take on a fast machine
  ended(start(*words, f"--workdir={tmp_path}/whole"), (0,))
  choose, codes, i = random.Random(3), [], 0
  while not (tmp_path / "run" / "record.json").exists():
    process = start(*words, f"--workdir={tmp_path}/run")
    time.sleep(choose.uniform(1, 9 + i))  # later and later, so that there is an end
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)  # nothing happens where it has ended
    ended(process, (75, 0, -signal.SIGTERM))
    codes.append(process.returncode)
    assert time.monotonic() - began < 10
    i += 1
  assert codes.count(75) >= 4, codes
  assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_kills_among_checkpoints_leave_one_to_go_on_from(tmp_path: Path):
  """Kill -9 while it saves again and again; what is left of a checkpoint that was not finished is passed over and removed."""
  words = ("--preset=tiny", "--num_rows=300000", "--num_examples=3000000", "--checkpoint_every_s=0.001", "--first_eval=100000")
  ended(start(*words[:3], "--first_eval=100000", f"--workdir={tmp_path}/whole"), (0,))
  choose, unfinished, i = random.Random(5), 0, 0
  while not (tmp_path / "run" / "record.json").exists():
    process = start(*words, f"--workdir={tmp_path}/run")
    until = time.monotonic() + 8 + i + choose.uniform(0, 4)
    while process.poll() is None and time.monotonic() < until:
      time.sleep(0.02)
    process.kill()
    err = ended(process, (0, -signal.SIGKILL))
    unfinished += "it was not written to its end" in err
    assert "Traceback" not in err
    i += 1
  assert i > 2 and unfinished > 0
  assert_same_run(tmp_path / "run", tmp_path / "whole")
  assert sorted(os.listdir(tmp_path / "run")) == ["curve.jsonl", "record.json"]


@pytest.mark.slow
# The limit is set between fork and exec, where jax's threads do no harm; it warns if this process has trained before.
@pytest.mark.filterwarnings("ignore:os.fork", "ignore:Exception ignored in. <function _at_fork:pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_costs_a_line_a_checkpoint(tmp_path: Path):
  """Files may grow to 1 MiB, the arrays of the checkpoint want 2.4."""
  words = ("--preset=tiny", "--num_rows=50000", "--num_examples=1500000", "--checkpoint_every_s=0.5", "--first_eval=100000")
  limit: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # noqa: E731
  said = ended(start(*words, f"--workdir={tmp_path}/run", preexec_fn=limit), (0,)).splitlines()
  lines = [line for line in said if "this checkpoint could not be written (" in line]
  assert lines and all(line.endswith("); the run goes on") for line in lines), said
  assert all("File too large" in line for line in lines) and all("examples, loss" in line for line in said if line not in lines), said
  assert sorted(os.listdir(tmp_path / "run")) == ["curve.jsonl", "record.json"]


@pytest.mark.slow
def test_processes_stop_at_the_same_step_whichever_is_told(tmp_path: Path):
  def both(directory: str, told: tuple[int, signal.Signals] | None) -> list[str]:
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    words = ["--preset=tiny", "--num_examples=40000", "--steps_per_call=2", "--mesh=2", "--num_processes=2", "--checkpoint_every_s=1"]
    given = [*words, f"--coordinator=localhost:{port}", f"--workdir={tmp_path}/{directory}"]
    processes = [start(*given, f"--process_id={i}") for i in range(2)]
    curve, rows = tmp_path / directory / "curve.jsonl", 0
    if told is not None:
      rows = len(record.read_curve(curve)) if curve.exists() else 0
      while len(record.read_curve(curve)) <= rows if curve.exists() else True:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
      processes[told[0]].send_signal(told[1])
    said = [ended(process, (0,) if told is None else (75,)) for process in processes]
    return [line for text in said for line in text.splitlines() if " examples, saved after " in line]

  both("whole", None)
  for told in ((1, signal.SIGTERM), (0, signal.SIGUSR2)):
    lines = both("run", told)
    assert len(lines) == 2 and len({line.partition(" after ")[2] for line in lines}) == 1, lines
  both("run", None)
  assert_same_run(tmp_path / "run", tmp_path / "whole")
