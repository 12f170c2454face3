"""Runs small sweeps as programs and compares their results, for tests of what a sweep survives."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from places import ROOT

MAY_DIFFER = {"command", "hardware", "software", "wall_s", "training_s", "examples_per_s"}
# 24 runs of 4 shapes, two seconds each.
FLAGS = (
  *("--preset=tiny", "--axes=rows", "--sizes_rows=50,100,200,300", "--seeds=6", "--num_examples=262144", "--axis_examples=0"),
  *("--num_rows=300", "--embed_dim=4", "--overarch=8,1", "--batch_size=128", "--eval_examples=2048", "--steps_per_call=8"),
  *("--measure=false", "--checkpoint_every_s=0.3", "--max_attempts=50"),
)


def started(
  workdir: Path, *words: str, cores: Sequence[int] = (0,), program: str = "sweeps.run", devices: int = 1
) -> subprocess.Popen[str]:
  """Starts a sweep in a process of its own, on the processors `cores`, with `devices` simulated devices whatever the tests have."""
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
  mine = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the program would inherit an ignored signal
  try:
    return subprocess.Popen(
      [sys.executable, "-m", program, f"--workdir={workdir}", *words],
      cwd=ROOT,
      env=environment | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
  finally:
    os.sched_setaffinity(0, mine)
    signal.signal(signal.SIGINT, before)


def ended(process: subprocess.Popen[str], seconds: float = 300.0) -> tuple[int, str]:
  """The exit code of a program and its output. The program is killed where it takes too long."""
  try:
    said = process.communicate(timeout=seconds)[0]
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    raise
  return process.returncode, said


def finished(workdir: Path, *words: str, cores: Sequence[int] = (0,), devices: int = 1) -> Path:
  """Runs a sweep to its end and returns its directory. Fails with all of its output where its exit code is not 0."""
  code, said = ended(started(workdir, *words, cores=cores, devices=devices))
  assert code == 0, said
  return workdir


def processes_of(workdir: Path) -> list[int]:
  """The processes that have `workdir` on their command line."""
  found = []
  for path in Path("/proc").glob("[0-9]*/cmdline"):
    try:
      words = path.read_bytes().split(b"\0")
    except OSError:
      continue
    if f"--workdir={workdir}".encode() in words:
      found.append(int(path.parent.name))
  return found


def wait_for_none(workdir: Path, seconds: float = 40.0) -> None:
  """Waits until no process works in a directory."""
  until = time.monotonic() + seconds
  while left := processes_of(workdir):
    assert time.monotonic() < until, left
    time.sleep(0.1)


def results(workdir: Path) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
  """The record and the curve of every run of a sweep, without the fields that may differ between machines or days."""
  out = {}
  for path in sorted(workdir.glob("runs/*/record.json")):
    record = {name: value for name, value in json.loads(path.read_text()).items() if name not in MAY_DIFFER}
    curve = [json.loads(line) for line in (path.parent / "curve.jsonl").read_text().splitlines()]
    out[path.parent.name] = (record, [{name: value for name, value in row.items() if name != "wall_s"} for row in curve])
  return out


def outcomes(workdir: Path) -> dict[str, list[str | None]]:
  """The outcomes of every run's attempts, oldest first. None: the attempt wrote no outcome."""
  out = {}
  for run in sorted(workdir.glob("runs/*")):
    out[run.name] = [json.loads(path.read_text())["outcome"] for path in sorted(run.glob("attempts/[0-9]*.json"))]
  return out
