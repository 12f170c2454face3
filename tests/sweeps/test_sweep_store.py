"""The files of a sweep, and how `status` and `run` show them. worker_case.py replaces the training."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from worker_case import Trainer, another_owner, directory_of, install, raises, sweep_of

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from sweeps import run, status, store, worker
from sweeps.display import Display
from sweeps.points import Point, expand


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
  return install(monkeypatch)


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("record.json", b'{"status": "do'),
    ("record.json", b"\x00" * 500),
    ("record.json", b'{"status": "done", "config_id": "another", "examples": 2048}'),
    ("record.json", b"[]"),
    ("curve.jsonl", b'{"examples": 1024}\n{"exam'),
    ("curve.jsonl", b'{"examples": 1024}\n'),
    ("curve.jsonl", b'{"examples": 2048}\n{"examples": 1024}\n{"examples": 2048}\n'),
    ("curve.jsonl", None),
  ],
)
def test_a_damaged_result_is_kept_aside_and_its_run_alone_done_again(
  tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None
):
  sweep = sweep_of(tmp_path)
  run.main(sweep)
  path, sound = directory_of(sweep, 60) / name, store.records(tmp_path)
  path.unlink() if content is None else path.write_bytes(content)
  assert len(store.records(tmp_path)) == 2
  capsys.readouterr()
  there: list[bool] = []
  trainer.acts[60] = lambda call, directory: there.append((directory / "record.json").exists())
  run.main(sweep)
  said = capsys.readouterr().err
  assert f"{path}: " in said and f"kept as {name}.damaged; the run is trained again" in said
  assert trainer.calls == {30: 1, 60: 2, 90: 1} and store.records(tmp_path) == sound
  assert there == [False]  # while it was done again it had no result
  if content is not None:
    assert (path.parent / f"{name}.damaged").read_bytes() == content


@pytest.mark.parametrize("examples", [{}, {"examples": None}, {"examples": "2048"}])
def test_a_record_without_its_number_of_examples_is_damaged(tmp_path: Path, examples: dict[str, Any]):
  (tmp_path / "run").mkdir()
  record.write_json(tmp_path / "run" / "record.json", {"status": "diverged", "config_id": "run"} | examples)
  (tmp_path / "run" / "curve.jsonl").write_text('{"examples": 1024}\n')
  with pytest.raises(store.DamagedRun, match=r"record\.json: not the record of this run$"):
    store.read_run(tmp_path / "run")


@pytest.mark.parametrize("text", ["{}", '{"points": 3}', '{"points": [1]}', '{"points": [{"workload": "planted"}]}'])
def test_a_sweep_is_not_added_to_something_else(tmp_path: Path, text: str):
  (tmp_path / "sweep.json").write_text(text)
  with pytest.raises(UserError, match=r"sweep\.json: not the points of a sweep; choose another --workdir$"):
    store.write_sweep(tmp_path, [], {})
  assert (tmp_path / "sweep.json").read_text() == text


def test_checkpoints_that_are_removed_while_they_are_listed_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """Another sweeper ends the run at that moment."""
  directory, real = tmp_path / "checkpoint", os.scandir
  (directory / "000000001024").mkdir(parents=True)
  (directory / "000000001024/checkpoint.json").write_text("{}")
  assert store.saved_examples(tmp_path) == 1024

  def scandir(path: Path) -> Any:
    monkeypatch.setattr(os, "scandir", real)
    shutil.rmtree(directory)
    return real(path)

  monkeypatch.setattr(os, "scandir", scandir)
  assert store.saved_examples(tmp_path) == 0 and not directory.exists()


def test_status_shows_every_state(tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]):
  sweep = sweep_of(tmp_path, max_attempts=1)
  points: list[Point] = [point for point, _ in expand(sweep)]
  store.write_sweep(tmp_path, points, record.header())
  status.main(status.StatusConfig(workdir=str(tmp_path)))
  assert "3 runs: 0 done, 3 queued" in capsys.readouterr().out
  trainer.acts[30] = raises(RuntimeError("boom"))
  worker.work(sweep, expand(sweep), wait=False, only=(points[0].config_id, points[2].config_id))
  held = another_owner(sweep, 60, dead=False)
  path = held.directory / "attempts/0001.json"
  facts = {"examples": 1024, "examples_per_s": 512.0, "loss": 0.25, "slurm_job": "77"}
  path.write_text(json.dumps(json.loads(path.read_text()) | facts))
  status.main(status.StatusConfig(workdir=str(tmp_path)))
  said = capsys.readouterr().out
  assert "3 runs: 1 done, 1 failed, 1 running, 0 queued, 512 examples/s, about 2 s left" in said
  rows = {points[k].config_id: next(line for line in said.splitlines() if points[k].config_id in line) for k in range(3)}
  for word in ("failed", "rows=30"):
    assert word in rows[points[0].config_id]
  for word in ("running", "1,024 of 2,048", "512", "0.2500", f"{os.getppid()} job 77"):
    assert word in rows[points[1].config_id]
  assert "done" in rows[points[2].config_id] and "0.9000" in rows[points[2].config_id]  # NE of its record
  (heading,) = [line for line in said.splitlines() if "config_id" in line]
  assert "held-out NE" in heading and "progressive loss" in heading
  assert f"failed 1 times, RuntimeError: boom ({points[0].config_id}" not in said
  assert "RuntimeError: boom" in said


def test_status_watches_until_every_run_has_ended(
  tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  sweep, looks = sweep_of(tmp_path), [0]
  store.write_sweep(tmp_path, [point for point, _ in expand(sweep)], record.header())

  def pause(seconds: float) -> None:
    looks[0] += 1
    assert looks[0] <= 2
    if looks[0] == 2:
      worker.work(sweep, expand(sweep), wait=False)

  monkeypatch.setattr(status.time, "sleep", pause)
  status.main(status.StatusConfig(workdir=str(tmp_path), watch=True))
  assert looks == [2] and "3 runs: 3 done, 0 queued" in capsys.readouterr().out


@pytest.mark.parametrize("follow", [True, False])
def test_progress_of_what_other_processes_do(
  tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, follow: bool
):
  """Read from the disk: which runs have ended since (unless those that do them tell), and a line every ten seconds."""
  sweep, clock, ahead = sweep_of(tmp_path, max_attempts=1), time.monotonic, [0.0]
  monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead[0])
  points = expand(sweep)
  with Display(sweep, points, follow=follow) as display:
    trainer.acts[60] = raises(RuntimeError("boom"))
    worker.work(sweep, points, wait=False, only=tuple(point.config_id for point, _ in points[:2]))
    display.tick()
    assert capsys.readouterr().err == ""
    ahead[0] = 11.0
    display.tick()
    display.tick()
    said = capsys.readouterr().err.splitlines()
  ended = ["s=1.111 rows=30 seed 0 dlrm: ne 0.9000, 2 s, 1,000 examples/s", "s=1.111 rows=60 seed 0 dlrm: FAILED, RuntimeError: boom"]
  assert said == [*(ended if follow else []), "3 runs: 1 done, 1 failed, 1 queued"]


def test_status_shows_alarms_of_each_run_and_of_all(tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]):
  """They are computed from record and curve, whatever version wrote them. A run without an alarm has none."""
  sweep = sweep_of(tmp_path)
  points: list[Point] = [point for point, _ in expand(sweep)]
  store.write_sweep(tmp_path, points, record.header())
  worker.work(sweep, expand(sweep), wait=False)
  status.main(status.StatusConfig(workdir=str(tmp_path)))
  assert "alarm" not in capsys.readouterr().out
  points = points[::-1]  # the largest first; the others are not counted as worse than the regression
  for point, loss in zip(points[:2], (0.8, 0.7), strict=True):
    path = store.run_directory(tmp_path, point.config_id) / "record.json"
    measured = {"log_loss": loss, "ne": loss / 0.5, "base_rate": 0.2, "eval_examples": 51_200, "logistic_log_loss": 0.75}
    record.write_json(path, json.loads(path.read_text()) | measured)
  status.main(status.StatusConfig(workdir=str(tmp_path)))
  said = capsys.readouterr().out
  rows = [next(line for line in said.splitlines() if point.config_id in line) for point in points]
  assert "worse_than_logistic" in rows[0] and "worse_than_base_rate" in rows[0]
  assert "worse_than_logistic" not in rows[1] and "ne_above_1" in rows[1]
  assert not any(word in rows[2] for word in ("worse", "ne_above"))
  assert "alarm worse_than_base_rate: 2 of 3 runs, such as s=1.111 rows=60 " in said  # the first of the sweep
  assert "seed 0 dlrm: worse than the base rate: the held-out log loss is 0." in said
  assert "alarm worse_than_logistic: 1 of 1 runs, such as s=1.111 rows=90 " in said


def test_status_of_no_sweep_is_refused(tmp_path: Path):
  with pytest.raises(UserError, match="sweep.json: no such file"):
    status.main(status.StatusConfig(workdir=str(tmp_path)))
