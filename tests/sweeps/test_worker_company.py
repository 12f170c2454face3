"""Sweepers when several things happen at once: races for a run, full disks, and runs that are trained together."""

import dataclasses
import errno
import fcntl
import json
import time
from pathlib import Path
from typing import Any

import pytest
from worker_case import Trainer, another_owner, directory_of, install, outcomes, raises, run_id, sweep_of

from dlrm_jax.common import record
from dlrm_jax.training import loop
from sweeps import claims, estimate, run, store, worker
from sweeps.points import SweepConfig, expand, runs_of

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
  return install(monkeypatch)


def two_together(workdir: Path) -> SweepConfig:
  return dataclasses.replace(sweep_of(workdir, together=2, max_attempts=1), seeds=2, sizes_rows=(30,))


def test_a_run_that_had_ended_keeps_its_result_when_the_others_fail(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
  def train(configs: list, directories: list, source: Any, quiet: bool, on_progress: list) -> list:
    trainer(configs[0], directories[0], source, quiet, on_progress[0])
    raise RuntimeError("out of memory in the second lot")

  monkeypatch.setattr(worker.loop, "train_runs", train)
  sweep = two_together(tmp_path)
  worker.work(sweep, expand(sweep), wait=False)
  assert [(outcomes(sweep, 30, seed), store.records(tmp_path)[run_id(sweep, 30, seed)]["status"]) for seed in (0, 1)] == [
    (["done"], "done"),
    (["failed"], "failed"),
  ]


def test_a_full_disk_while_company_is_claimed_counts_against_nobody(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
  real, calls = claims.claim, [0]

  def claim(*args: Any) -> claims.Claim | None:
    calls[0] += 1
    if calls[0] == 2:
      raise FULL
    return real(*args)

  monkeypatch.setattr(claims, "claim", claim)
  sweep = two_together(tmp_path)
  with pytest.raises(OSError, match="No space left"):
    worker.work(sweep, expand(sweep), wait=False)
  assert outcomes(sweep, 30, 0) == ["interrupted"]


def test_a_full_disk_while_a_failure_is_noted_counts_against_nobody(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
  real = record.write_json

  def write(path: Path, value: dict[str, Any]) -> None:
    if value.get("status") == "failed":
      raise FULL
    real(path, value)

  monkeypatch.setattr(record, "write_json", write)
  trainer.acts[60] = raises(RuntimeError("x"))
  sweep = sweep_of(tmp_path, max_attempts=1)
  with pytest.raises(OSError, match="No space left"):
    worker.work(sweep, expand(sweep), wait=False)
  assert outcomes(sweep, 60) == ["interrupted"]


def test_an_owner_that_nothing_is_known_of_is_watched_before_a_sweeper_leaves(tmp_path: Path, trainer: Trainer):
  sweep = sweep_of(tmp_path, stale_after_s=1.0)
  path = another_owner(sweep, 60, dead=True).directory / "attempts/0001.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "another", "boot_id": "another", "beat_every_s": 0.1}))
  worker.work(sweep, expand(sweep), wait=False)
  assert trainer.calls == {30: 1, 60: 1, 90: 1} and outcomes(sweep, 60) == [None, "done"]


def test_a_run_that_ends_between_look_and_claim_is_not_done_again(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch):
  sweep = sweep_of(tmp_path)
  held, real = another_owner(sweep, 60, dead=True), claims.Observer.lives

  def lives(self: claims.Observer, directory: Path, attempt: claims.Attempt) -> bool | None:
    if directory == held.directory and not (directory / "record.json").exists():
      out = {
        "status": "done",
        "config_id": directory.name,
        "examples": 2048,
        "examples_per_s": 1000.0,
        "ne": 0.9,
        "excess": None,
        "wall_s": 2.0,
      }
      record.write_text(directory / "curve.jsonl", '{"examples": 2048}\n')
      record.write_json(directory / "record.json", out)
      held.end("done")
    return real(self, directory, attempt)

  monkeypatch.setattr(claims.Observer, "lives", lives)
  worker.work(sweep, expand(sweep), wait=False, only=(run_id(sweep, 60),))
  assert trainer.calls == {} and set(outcomes(sweep, 60)) == {"done"}


def test_the_last_run_lost_to_another_sweeper_is_waited_for(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
  """Another claims it after this sweeper has looked at it and before it claims it itself: that is no reason to leave."""
  sweep, real, rivals = sweep_of(tmp_path), claims.claim, list[claims.Claim]()
  point, source = runs_of(expand(sweep))[run_id(sweep, 90)]

  def claim(directory: Path, *args: Any) -> claims.Claim | None:
    if directory == directory_of(sweep, 90) and not rivals:
      monkeypatch.setattr(claims, "claim", real)
      rivals.append(another_owner(sweep, 90, dead=False))
    return real(directory, *args)

  def sleep(seconds: float) -> None:
    if rivals:  # meanwhile the other trains it to its end
      trainer(point.config, directory_of(sweep, 90), source, True, rivals[0].progress)
      rivals.pop().end("done")

  monkeypatch.setattr(claims, "claim", claim)
  monkeypatch.setattr(time, "sleep", sleep)
  run.main(sweep)
  assert trainer.calls == {30: 1, 60: 1, 90: 1} and outcomes(sweep, 90) == ["done"]


def test_sweeps_that_start_at_once_keep_each_others_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """The second comes while the first is writing: it waits for its turn."""
  sweep = sweep_of(tmp_path)
  others = dataclasses.replace(sweep, axes=("dim",), sizes_dim=(1, 2))
  held: list[bool] = []
  real = record.write_json

  def write(path: Path, value: dict[str, Any]) -> None:
    with open(tmp_path / ".sweep.lock", "w") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(False)
      except BlockingIOError:
        held.append(True)
    real(path, value)

  monkeypatch.setattr(record, "write_json", write)
  for one in (sweep, others):
    store.write_sweep(tmp_path, [point for point, _ in expand(one)], record.header())
  assert held == [True, True]
  assert {(d["axis"], d["size"]) for d in record.read_json(tmp_path / "sweep.json")["points"]} == {
    *(("rows", size) for size in (30.0, 60.0, 90.0)),
    *(("dim", size) for size in (1.0, 2.0)),
  }


def test_an_owner_that_wakes_up_after_an_evaluation_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """Suspended while it evaluates; meanwhile another does the run to its end."""
  monkeypatch.setattr(worker.hardware, "share_compiled", lambda directory: None)
  sweep = dataclasses.replace(sweep_of(tmp_path), sizes_rows=(60,))
  ((_, (point, source)),) = runs_of(expand(sweep)).items()
  directory, real, calls = directory_of(sweep, 60), loop.evaluate, [0]

  def evaluate(*args: Any) -> Any:
    out = real(*args)
    calls[0] += 1
    if calls[0] == 2:
      held = claims.claim(directory, 2, 0, 2048, 60.0)
      assert held is not None
      with held:
        loop.train(point.config, directory, source, quiet=True, on_progress=held.progress)
      held.end("done")
    return out

  monkeypatch.setattr(loop, "evaluate", evaluate)
  worker.work(sweep, expand(sweep), wait=False)
  assert outcomes(sweep, 60) == [None, "done"]
  rows = [json.loads(line)["examples"] for line in (directory / "curve.jsonl").read_text().splitlines()]
  assert rows == sorted(set(rows)) and store.result(directory) is not None


def test_a_model_that_cannot_be_measured_does_not_end_the_sweep(
  tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  real = estimate.make_learner

  def make(configs: Any, source: Any) -> Any:
    if configs[0].model.num_rows == 90:
      raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
    return real(configs, source)

  monkeypatch.setattr(estimate, "make_learner", make)
  run.main(dataclasses.replace(sweep_of(tmp_path), measure=True))
  assert "rows=90 seed 0 dlrm: not measured, RuntimeError: RESOURCE_EXHAUSTED" in capsys.readouterr().err
  assert trainer.calls == {30: 1, 60: 1, 90: 1}
