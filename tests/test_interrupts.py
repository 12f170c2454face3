"""Ctrl-C at many moments of every program: exit code 130, one or two lines, never a traceback."""

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from places import ROOT

from dlrm_jax.common import flags, interrupts, starting
from dlrm_jax.config import MeshConfig

PACKAGES = ("dlrm_jax", "sweeps", "analysis", "benchmarks")


def programs() -> list[str]:
  """Every module that calls `flags.run` when it is started."""
  files = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if re.search(r"^  flags\.run\(", path.read_text(), re.M)
  )
  return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for path in files]


def begun(module: str, *words: str, python: tuple[str, ...] = ()) -> subprocess.Popen[str]:
  """Starts a program, whose SIGINT is not ignored whatever this process has."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"JAX_NUM_CPU_DEVICES": "1"}
  try:
    return subprocess.Popen(
      [sys.executable, *python, "-m", module, *words],
      cwd=ROOT,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
  finally:
    signal.signal(signal.SIGINT, before)


def clean(process: subprocess.Popen[str], signals: int = 1) -> tuple[int, str]:
  """Sends SIGINT and returns exit code and output, without the lines of -X importtime. No traceback may be in it."""
  for _ in range(signals):
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
  try:
    out, err = process.communicate(timeout=60)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"still running: {process.communicate()}") from None
  said = "".join(line for line in f"{out}{err}".splitlines(keepends=True) if not line.startswith("import time:"))
  assert not re.search("Traceback|Exception ignored|KeyboardInterrupt|Error", said), said
  return process.returncode, said


def while_importing(module: str, after: int) -> tuple[int, str]:
  """A program that is interrupted when it has made so many imports after that of its package. It ends by itself if it makes fewer."""
  process = begun(module, "--help", python=("-X", "importtime"))
  assert process.stderr is not None
  left, before = -1, ""
  for line in process.stderr:
    before += "" if line.startswith("import time:") else line
    name = line.split("|")[-1].strip()
    left = after if left < 0 and name == module.split(".")[0] else left - 1 if left > 0 else left
    if left == 0:
      break
  code, said = clean(process)
  return code, before + said


def test_all_programs_are_found():
  found = programs()
  assert {"dlrm_jax.train", "dlrm_jax.data.prepare", "sweeps.run", "analysis.report", "benchmarks.compare", "benchmarks.step"} <= set(found)
  assert len(found) >= 20


@pytest.mark.parametrize("module", ["dlrm_jax.train", "sweeps.plan", "analysis.fit"])
def test_while_it_imports(module: str):
  assert while_importing(module, 150) == (starting.EXIT_CODE, "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("module", programs())
def test_at_many_moments_while_it_imports(module: str):
  for after in (0, 20, 100, 300, 700, 1200, 1800):
    code, said = while_importing(module, after)
    assert (code, said) == (starting.EXIT_CODE, "interrupted\n") or (code == 0 and "--help" in said), (after, code, said)


_LINES = 1_000_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A log of 1,000,000 lines, whose preparation lasts for seconds, its schema, and a data set of its first lines."""
  folder, rng = tmp_path_factory.mktemp("log"), np.random.default_rng(1)
  pl.DataFrame({"y": rng.integers(0, 2, _LINES), "c": rng.integers(0, 900, _LINES), "x": rng.integers(0, 50, _LINES)}).write_csv(
    folder / "log.csv"
  )
  (folder / "log.toml").write_text('label = "y"\ncategorical = ["c"]\n[dense]\nx = {}\n')
  return folder


def words_of(program: str, log: Path, out: Path) -> tuple[str, ...]:
  prepare = ("--format=csv", f"--input={log / 'log.csv'}", f"--schema={log / 'log.toml'}", "--piece_mib=1")
  train = ("--preset=tiny", "--num_examples=100000000", f"--workdir={out}")
  return {
    "dlrm_jax.data.prepare": (*prepare, f"--output={out}", "--workers=2"),
    "dlrm_jax.data.describe": (str(log / "set"), f"--output={out}"),
    "dlrm_jax.train": train,
    "sweeps.run": (*train, "--axes=data"),
    "analysis.report": (f"--workdir={ROOT / 'analysis/study/movielens.parquet'}", f"--output={out}"),
  }[program]


PROGRAMS = ("dlrm_jax.data.prepare", "dlrm_jax.data.describe", "dlrm_jax.train", "sweeps.run", "analysis.report")


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_at_many_moments_from_start_to_end(log: Path, tmp_path: Path, program: str):
  """At many moments from the first imports on: parsing flags, reading, compiling, training, ending."""
  if not (log / "set").exists():
    making = begun("dlrm_jax.data.prepare", *words_of("dlrm_jax.data.prepare", log, log / "set"))
    assert making.communicate() and making.returncode == 0
  codes = []
  for moment in np.arange(1, 9, 0.5):
    out = tmp_path / f"{moment:.1f}"
    process = begun(program, *words_of(program, log, out))
    time.sleep(moment)
    if process.poll() is not None:
      assert process.communicate() and process.returncode == 0
      break
    code, said = clean(process, signals=1 + round(moment * 10) % 2)
    codes.append(code)
    ended = code == -signal.SIGINT and re.search("^(page: |written to)", said, re.M)  # Python drops the handler when it has done the work
    assert (code == starting.EXIT_CODE and "interrupted" in said) or code == 0 or ended, (moment, code, said)
    assert not (out / "record.json").exists() and (code != starting.EXIT_CODE or len(said.splitlines()) < 20)
  assert codes.count(starting.EXIT_CODE) >= 3


def test_prepare_says_what_is_kept(log: Path, tmp_path: Path):
  """The log is so large that the work is not done before the signal comes, on a busy machine either."""
  process = begun("dlrm_jax.data.prepare", *words_of("dlrm_jax.data.prepare", log, tmp_path / "out"))
  until = time.monotonic() + 60
  while not (tmp_path / ".out.partial" / "plan.json").exists():
    assert process.poll() is None and time.monotonic() < until
    time.sleep(0.005)
  code, said = clean(process)
  *before, last = said.splitlines()
  assert code == starting.EXIT_CODE and "the same command goes on from there" in last, (code, said)
  assert before in ([], ["reading 1 file of 9 MB, then writing shards"])


@pytest.fixture
def handlers() -> Iterator[None]:
  """SIGINT as a program has it when it starts."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_a_dropped_interrupt_is_raised_again(handlers: None):
  """Python drops what a callback of the garbage collector raises."""

  def callback(phase: str, info: dict[str, int]) -> None:
    if phase == "start" and not seen:
      seen.append(phase)
      signal.raise_signal(signal.SIGINT)

  def collect_and_wait() -> None:
    with interrupts.raising():
      gc.collect()
      threading.Event().wait(10)

  seen: list[str] = []
  gc.callbacks.append(callback)
  try:
    with pytest.raises(KeyboardInterrupt):
      collect_and_wait()
  finally:
    gc.callbacks.remove(callback)
  assert seen == ["start"]


def test_an_error_that_a_library_makes_of_an_interrupt_is_one(handlers: None):

  def fail_to_import() -> None:
    with interrupts.raising():
      try:
        signal.raise_signal(signal.SIGINT)
      except KeyboardInterrupt:
        raise ImportError("numpy failed to import") from None

  with pytest.raises(KeyboardInterrupt):
    fail_to_import()
  with pytest.raises(ImportError), interrupts.raising():
    raise ImportError("without a signal")


def test_nothing_of_the_handlers_is_left(handlers: None, monkeypatch: pytest.MonkeyPatch):
  hook = sys.unraisablehook
  monkeypatch.setattr(sys, "argv", ["program"])
  flags.run(lambda config: None, MeshConfig)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and sys.unraisablehook is hook
  starting.while_starting("dlrm_jax")  # nothing was started by -m
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path):
  """A shell lets the programs that it starts in the background ignore SIGINT."""
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    process = subprocess.Popen([sys.executable, "-m", "analysis.fit", "--help"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for _ in range(20):
      process.send_signal(signal.SIGINT)
      time.sleep(0.05)
    assert "--input" in process.communicate(timeout=60)[0] and process.returncode == 0
  finally:
    signal.signal(signal.SIGINT, before)
