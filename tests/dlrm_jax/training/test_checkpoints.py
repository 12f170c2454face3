"""The checkpoints of a run on disk: how many stay, what happens where one is damaged, cannot be written or was never finished."""

import dataclasses
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from resume_case import BASE, BATCH, assert_same_run, first_steps

from dlrm_jax.common import record, stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.training import checkpoint, loop, trajectory
from dlrm_jax.training.checkpoint import MANIFEST
from dlrm_jax.training.checkpoints import found

RUN = dataclasses.replace(BASE, checkpoint=False, checkpoint_every_s=1e-9, keep_checkpoints=3)
FULL = OSError(28, "No space left on device")


def names(directory: Path) -> list[int]:
  return [int(path.name) // BATCH for path in found(directory / "checkpoint")]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch):
  """A checkpoint every five steps."""
  monkeypatch.setattr(trajectory, "_CHECK_EVERY", 5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The run without a stop or a checkpoint."""
  directory = tmp_path_factory.mktemp("whole")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trajectory, "_CHECK_EVERY", 5)
    loop.train(dataclasses.replace(RUN, checkpoint_every_s=0), directory, quiet=True)
  assert sorted(os.listdir(directory)) == ["curve.jsonl", "record.json"]
  return directory


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """What is there after a kill at step 33: three checkpoints."""
  directory = tmp_path_factory.mktemp("killed")

  def dying(examples: int, loss: float):
    if examples >= 33 * BATCH:
      raise KeyboardInterrupt

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(trajectory, "_CHECK_EVERY", 5)
    with pytest.raises(KeyboardInterrupt):
      loop.train(RUN, directory, quiet=True, on_progress=dying)
  for thread in threading.enumerate():
    if thread.name == "checkpoint":
      thread.join()
  assert names(directory) == [30, 25, 20]
  return directory


@pytest.fixture
def dead(killed: Path, tmp_path: Path) -> Path:
  return Path(shutil.copytree(killed, tmp_path / "run"))


def spoil(path: Path, how: str):
  """Damages a checkpoint."""
  largest = max((file for file in (path / "arrays").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
  data = bytearray(largest.read_bytes())
  if how == "truncated":
    largest.write_bytes(data[:-1])
  elif how == "changed":
    data[::16] = bytes(byte ^ 0x10 for byte in data[::16])  # a single one may lie where nothing is kept
    largest.write_bytes(data)
  else:
    (path / MANIFEST).unlink()


def test_a_run_goes_on_from_its_newest_checkpoint_to_the_same_bits(dead: Path, whole: Path, often: None, capfd: pytest.CaptureFixture[str]):
  progress: list[tuple[int, float]] = []
  loop.train(RUN, dead, on_progress=lambda *args: progress.append(args))
  assert f"going on after {30 * BATCH:,} examples, from {dead}/checkpoint/{30 * BATCH:012d}\n" in capfd.readouterr().err
  assert progress[0][0] == 35 * BATCH and all(0 < loss < 1 for _, loss in progress)
  assert_same_run(dead, whole)
  assert sorted(os.listdir(dead)) == ["curve.jsonl", "record.json"]


@pytest.mark.parametrize("how", ["truncated", "changed", "unfinished"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves reads behind where one fails
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
  how: str, dead: Path, whole: Path, often: None, capfd: pytest.CaptureFixture[str]
):
  newest, before, _ = found(dead / "checkpoint")
  spoil(newest, how)
  loop.train(RUN, dead)
  said = [line for line in capfd.readouterr().err.splitlines() if str(newest) in line]
  assert len(said) == 1 and said[0].endswith(f"; going on from {before}"), said
  assert_same_run(dead, whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_all_are_damaged_a_run_begins_anew_and_a_restore_is_refused(
  dead: Path, whole: Path, often: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
  paths = found(dead / "checkpoint")
  for path, how in zip(paths, ("truncated", "changed", "unfinished"), strict=True):
    spoil(path, how)
  there = str(dead / "checkpoint")
  longer = first_steps(dataclasses.replace(RUN, restore=there), 60)
  with pytest.raises(UserError, match=rf"^--restore={there}: no sound checkpoint is left$"):
    loop.train(longer, tmp_path / "other", quiet=True)
  assert not (tmp_path / "other").exists() and found(dead / "checkpoint") == paths
  capfd.readouterr()
  loop.train(RUN, dead, quiet=True)
  said = capfd.readouterr().err.splitlines()
  assert len(said) == 3 and all(str(path) in line and line.endswith("; there is none before it") for path, line in zip(paths, said)), said
  assert_same_run(dead, whole)


def test_restore_takes_the_newest_or_the_one_that_is_named(dead: Path, often: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
  newest, _, oldest = found(dead / "checkpoint")
  ends = {}
  for there, step in ((dead / "checkpoint", 30), (oldest, 20)):
    out = loop.train(first_steps(dataclasses.replace(RUN, restore=str(there)), 60), tmp_path / f"{step}", quiet=True)
    assert out["restored_examples"] == step * BATCH and out["examples"] == 60 * BATCH
    ends[step] = out["log_loss"]
  assert ends[30] == ends[20]
  spoil(newest, "truncated")
  longer = first_steps(dataclasses.replace(RUN, restore=str(dead / "checkpoint")), 60)
  assert loop.train(longer, tmp_path / "fallen", quiet=True)["restored_examples"] == 25 * BATCH
  shown = capfd.readouterr().err
  assert shown.count("\n") == 1 and str(newest) in shown and f"going on from {dead}/checkpoint/{25 * BATCH:012d}" in shown
  for there in (str(tmp_path), str(tmp_path / "absent")):
    with pytest.raises(UserError, match=f"^--restore={there}: there is no checkpoint; give WORKDIR/checkpoint, or one of"):
      loop.train(dataclasses.replace(longer, restore=there), tmp_path / "refused", quiet=True)


def test_another_runs_directory_is_refused(dead: Path, often: None):
  before = sorted(dead.rglob("*"))
  other = dataclasses.replace(RUN, train=dataclasses.replace(RUN.train, seed=1))
  with pytest.raises(UserError, match=rf"^--workdir={dead}: holds another run's checkpoints \(config_id [0-9a-f]{{16}}, this one is"):
    loop.train(other, dead, quiet=True)
  assert sorted(dead.rglob("*")) == before


def failing_after(successes: int, monkeypatch: pytest.MonkeyPatch, where: str) -> list[int]:
  """Makes checkpoints fail at a place, all but the first so many. Returns a list that grows with the attempts."""
  attempts: list[int] = []
  place, name = {"start": (checkpoint, "start_writing"), "arrays": (checkpoint, "start_writing"), "manifest": (checkpoint, "seal")}[where]
  good = getattr(place, name)

  def sometimes(*args: Any) -> None:
    attempts.append(1)
    if len(attempts) > successes:
      if where == "arrays":  # as TensorStore does it: in the background, after some of the files
        good(*args)
        args[0]._async_manager._thread.join()
        args[0]._async_manager._exception = ValueError("RESOURCE_EXHAUSTED: Error writing file: No space left on device")
        return
      raise FULL
    good(*args)

  monkeypatch.setattr(place, name, sometimes)
  return attempts


@pytest.mark.parametrize("where", ["start", "arrays", "manifest"])
def test_a_checkpoint_that_cannot_be_written_costs_a_line(
  where: str, whole: Path, often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
  attempts, seen = failing_after(2, monkeypatch, where), []

  def look(examples: int, loss: float):
    for thread in threading.enumerate():
      if thread.name == "checkpoint":
        thread.join()
    seen.append((names(tmp_path), sorted(os.listdir(tmp_path))))

  loop.train(RUN, tmp_path, quiet=True, on_progress=look)
  said = capfd.readouterr().err.splitlines()
  assert len(attempts) > 5 and len(said) == len(attempts) - 2
  assert all("this checkpoint could not be written (" in line and "No space left" in line and "the run goes on" in line for line in said)
  assert seen[-1][0] == [10, 5]  # those before stay, and nothing is left of the others
  assert_same_run(tmp_path, whole)


def test_a_stop_says_what_it_could_save(often: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  def stopped(directory: Path) -> str:
    with stopping.installed(), pytest.raises(stopping.Stopped) as stop:
      loop.train(RUN, directory, quiet=True, on_progress=lambda examples, loss: os.kill(os.getpid(), signal.SIGTERM))
    return str(stop.value)

  there = tmp_path / "a" / "checkpoint"
  assert stopped(tmp_path / "a") == f"SIGTERM after 320 examples, saved after 320 in {there}: the same command goes on from there"
  failing_after(0, monkeypatch, "start")
  assert stopped(tmp_path / "a") == f"SIGTERM after 640 examples, saved after 320 in {there}: the same command goes on from there"
  assert stopped(tmp_path / "b") == "SIGTERM after 320 examples, nothing is saved: the same command begins anew"


def test_a_lost_claim_writes_nothing(often: None, tmp_path: Path):
  """What `on_progress` raises comes out before the curve, a checkpoint or the record is written."""
  last: list[int] = []

  class Lost(Exception):
    pass

  def look(examples: int, loss: float):
    if last == [examples]:
      raise Lost
    last[:] = [examples]

  with pytest.raises(Lost):
    loop.train(RUN, tmp_path / "a", quiet=True, on_progress=look)
  assert names(tmp_path / "a") == []
  assert record.read_curve(tmp_path / "a" / "curve.jsonl") == []

  def look_at_the_end(examples: int, loss: float):
    if len(record.read_curve(tmp_path / "b" / "curve.jsonl")) == 3:  # the last row is there, and all that is missing is the record
      raise Lost

  with pytest.raises(Lost):
    loop.train(dataclasses.replace(RUN, checkpoint_every_s=0), tmp_path / "b", quiet=True, on_progress=look_at_the_end)
  assert not (tmp_path / "b" / "record.json").exists()
