"""How a sweeper treats a run that fails, is stopped, is lost, or has another owner. worker_case.py replaces the training."""

import contextlib
import dataclasses
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from worker_case import Trainer, another_owner, directory_of, install, outcomes, raises, run_id, sweep_of

from dlrm_jax.common import flags, stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from sweeps import claims, presets, run, store, worker
from sweeps.points import SweepConfig, expand
from sweeps.worker import WorkerConfig


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
  return install(monkeypatch)


def test_a_run_that_fails_once_is_tried_again_and_leaves_no_mark(tmp_path: Path, trainer: Trainer):
  sweep, error = sweep_of(tmp_path), RuntimeError("a flaky device\nwith details")
  seen: list[Any] = []

  def act(call: int, directory: Path) -> None:
    if call == 1:
      raise error
    seen.append(store.read_run(directory))

  trainer.acts[60] = act
  run.main(sweep)
  assert trainer.calls == {30: 1, 60: 2, 90: 1}
  (failed,) = seen  # while the second attempt ran
  assert failed["status"] == "failed" and failed["attempts"] == 1
  assert failed["error"]["type"] == "RuntimeError" and failed["error"]["message"] == "a flaky device\nwith details"
  assert "in __call__" in failed["error"]["traceback"] and failed["config"]["model"]["num_rows"] == 60
  assert (store.read_run(directory_of(sweep, 60)) or {})["status"] == "done"
  assert outcomes(sweep, 60) == ["failed", "done"] and outcomes(sweep, 30) == ["done"]


def test_a_run_that_goes_on_failing_is_left_alone_and_the_others_are_done(
  tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]
):
  sweep = sweep_of(tmp_path, max_attempts=2)
  trainer.acts[30] = raises(RuntimeError("boom\nmore"))
  with pytest.raises(UserError, match="1 of 3 runs failed; the same command with a larger --max_attempts"):
    run.main(sweep)
  assert trainer.calls == {30: 2, 60: 1, 90: 1}
  path = directory_of(sweep, 30) / "record.json"
  assert f"s=1.111 rows=30 seed 0 dlrm: failed 2 times, RuntimeError: boom ({path})" in capsys.readouterr().err
  with pytest.raises(UserError, match="1 of 3 runs failed"):
    run.main(sweep)  # nothing is tried again by the same command
  assert trainer.calls == {30: 2, 60: 1, 90: 1}
  trainer.acts[30] = raises(RuntimeError("boom"), times=3)
  run.main(sweep_of(tmp_path, max_attempts=4))
  assert trainer.calls == {30: 4, 60: 1, 90: 1}
  assert outcomes(sweep, 30) == ["failed", "failed", "failed", "done"]
  assert {out["status"] for out in store.records(tmp_path).values()} == {"done"}


def test_trouble_with_the_store_is_no_run_s_fault(tmp_path: Path, trainer: Trainer):
  """A full disk stops the sweep, however often; nothing is counted."""
  sweep = sweep_of(tmp_path, max_attempts=1)
  trainer.acts[60] = raises(OSError(errno.ENOSPC, "No space left on device", "curve.jsonl"), times=3)
  for _ in range(3):
    with pytest.raises(OSError, match="No space left"):
      run.main(sweep)
  assert outcomes(sweep, 60) == ["interrupted"] * 3 and not (directory_of(sweep, 60) / "record.json").exists()
  run.main(sweep)
  assert trainer.calls == {30: 1, 60: 4, 90: 1}


def test_a_stop_is_not_an_attempt(tmp_path: Path, trainer: Trainer):
  sweep = sweep_of(tmp_path, max_attempts=1)
  trainer.acts[60] = raises(stopping.Stopped("SIGTERM after 1,024 examples"), times=2)
  for _ in range(2):
    with pytest.raises(stopping.Stopped, match="1,024 examples"):
      run.main(sweep)
  assert outcomes(sweep, 60) == ["stopped"] * 2 and outcomes(sweep, 90) == []
  run.main(sweep)
  assert trainer.calls == {30: 1, 60: 3, 90: 1} and outcomes(sweep, 60)[-1] == "done"


def test_what_another_sweeper_does_is_left_to_it(tmp_path: Path, trainer: Trainer):
  sweep = sweep_of(tmp_path)
  held = another_owner(sweep, 60, dead=False)
  worker.work(sweep, expand(sweep), wait=False)  # returns, though a run is left
  assert trainer.calls == {30: 1, 90: 1} and outcomes(sweep, 60) == [None]
  held.end("stopped")
  worker.work(sweep, expand(sweep), wait=False)
  assert trainer.calls == {30: 1, 60: 1, 90: 1} and outcomes(sweep, 60) == ["stopped", "done"]


def test_a_sweeper_that_waits_takes_over_what_dies(tmp_path: Path, trainer: Trainer):
  """The owner lives in another process, which ends while it is waited for."""
  sweep = sweep_of(tmp_path)
  held = another_owner(sweep, 60, dead=False)
  path, looks = held.directory / "attempts/0001.json", [0]
  with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
    who = {"pid": process.pid, "process_started": claims.process_started(process.pid)}
    path.write_text(json.dumps(json.loads(path.read_text()) | who))

    def tick() -> None:
      looks[0] += trainer.calls == {30: 1, 90: 1}
      if looks[0] == 4:  # two of them while the last of the others was trained
        process.kill()

    worker.work(sweep, expand(sweep), wait=True, tick=tick)
  assert looks[0] >= 4 and trainer.calls == {30: 1, 60: 1, 90: 1}
  assert outcomes(sweep, 60) == [None, "done"]


def test_a_run_whose_process_dies_every_time_gets_a_record_that_says_so(tmp_path: Path, trainer: Trainer):
  sweep = sweep_of(tmp_path, max_attempts=3)
  for generation in (1, 2, 3):
    another_owner(sweep, 60, dead=True, generation=generation)
  with pytest.raises(UserError, match="1 of 3 runs failed"):
    run.main(sweep)
  out = store.read_run(directory_of(sweep, 60)) or {}
  assert (out["status"], out["attempts"]) == ("failed", 3) and "died without an error message" in out["error"]["message"]
  assert trainer.calls == {30: 1, 90: 1} and outcomes(sweep, 60) == [None, None, None, "given_up"]
  run.main(sweep_of(tmp_path, max_attempts=4))
  assert trainer.calls == {30: 1, 60: 1, 90: 1}


@pytest.fixture
def groups(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, int]]]:
  """(rows, seed) of the runs of each call of `loop.train_runs`, which here trains one after the other."""
  calls: list[list[tuple[int, int]]] = []

  def train(configs: list[RunConfig], directories: list[Path], source: Any, quiet: bool, on_progress: list[Any]) -> list[Any]:
    calls.append([(config.model.num_rows, config.train.seed) for config in configs])
    results: list[Any] = []
    for config, directory, callback in zip(configs, directories, on_progress):
      try:
        results.append(trainer(config, directory, source, quiet, callback))
      except claims.Lost as lost:
        results.append(lost)
    return results

  monkeypatch.setattr(worker.loop, "train_runs", train)
  return calls


def test_runs_alike_but_for_their_seed_are_claimed_together(tmp_path: Path, trainer: Trainer, groups: list[list[tuple[int, int]]]):
  sweep = dataclasses.replace(sweep_of(tmp_path, together=3), seeds=5)
  held = another_owner(sweep, 60, dead=False, seed=1)
  (store.run_directory(tmp_path, run_id(sweep, 90, 2)) / "checkpoint/000000001024").mkdir(parents=True)
  (store.run_directory(tmp_path, run_id(sweep, 90, 2)) / "checkpoint/000000001024/checkpoint.json").write_text("{}")
  worker.work(sweep, expand(sweep), wait=False)
  assert groups == [
    [(30, 0), (30, 1), (30, 2)],
    [(60, 0), (60, 2), (60, 3)],
    [(90, 0), (90, 1), (90, 3)],
    [(30, 3), (30, 4)],
  ]
  assert trainer.calls == {30: 5, 60: 4, 90: 5}  # the one with a checkpoint goes on alone
  assert {attempt.outcome for path in tmp_path.glob("runs/*") for attempt in claims.attempts(path)} == {"done", None}
  assert held.directory == store.run_directory(tmp_path, run_id(sweep, 60, 1)) and not (held.directory / "record.json").exists()


def test_runs_that_failed_in_company_are_tried_again_alone(tmp_path: Path, trainer: Trainer, groups: list[list[tuple[int, int]]]):
  sweep = dataclasses.replace(sweep_of(tmp_path, together=2, max_attempts=2), seeds=2, sizes_rows=(60,))
  trainer.acts[60] = raises(MemoryError("too large for two"), times=1)
  run.main(sweep)
  assert groups == [[(60, 0), (60, 1)]] and trainer.calls == {60: 3}
  assert sorted(tuple(a.outcome for a in claims.attempts(path)) for path in tmp_path.glob("runs/*")) == [("failed", "done")] * 2


def test_one_that_is_overtaken_in_company_lets_the_others_go_on(tmp_path: Path, trainer: Trainer, groups: list[list[tuple[int, int]]]):
  sweep = dataclasses.replace(sweep_of(tmp_path, together=2), seeds=2, sizes_rows=(60,))

  def overtake(call: int, directory: Path) -> None:
    if call == 1:
      another_owner(sweep, 60, dead=False, generation=2)

  trainer.acts[60] = overtake
  worker.work(sweep, expand(sweep), wait=False)
  found = [[a.outcome for a in claims.attempts(store.run_directory(tmp_path, run_id(sweep, 60, seed)))] for seed in (0, 1)]
  assert groups == [[(60, 0), (60, 1)]] and found == [[None, None], ["done"]]


@pytest.mark.parametrize("error", [None, RuntimeError("not its to tell"), OSError("nor this")])
def test_an_owner_that_was_overtaken_writes_nothing(tmp_path: Path, trainer: Trainer, error: Exception | None):
  sweep = sweep_of(tmp_path)

  def overtake(call: int, directory: Path) -> None:
    another_owner(sweep, 60, dead=False, generation=2)
    if error:
      raise error

  trainer.acts[60] = overtake
  with contextlib.suppress(OSError):
    worker.work(sweep, expand(sweep), wait=False)
  assert not (directory_of(sweep, 60) / "record.json").exists() and outcomes(sweep, 60) == [None, None]
  worker.work(sweep, expand(sweep), wait=False)
  assert trainer.calls == {30: 1, 60: 1, 90: 1}  # it went on with the next one


def test_runs_never_tried_come_before_runs_that_failed(tmp_path: Path, trainer: Trainer):
  sweep, order = sweep_of(tmp_path), []
  for rows in (30, 60, 90):
    trainer.acts[rows] = lambda call, directory: order.append(directory.name)
  trainer.acts[30] = lambda call, directory: (order.append(directory.name), raises(RuntimeError("once"), 1)(call, directory))[0]
  run.main(sweep)
  names = [directory_of(sweep, rows).name for rows in (30, 60, 90)]
  assert order == [*names, names[0]]


def test_too_few_devices_are_told_before_anything_is_trained(tmp_path: Path, trainer: Trainer):
  sweep = sweep_of(tmp_path)
  mesh = dataclasses.replace(sweep.run.mesh, mesh="64")
  with pytest.raises(UserError, match="--mesh=64: needs 64 devices"):
    run.main(dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, mesh=mesh)))
  assert trainer.calls == {}


def test_a_claim_says_what_it_goes_on_from(tmp_path: Path, trainer: Trainer):
  """The newest checkpoint that is whole."""
  sweep = sweep_of(tmp_path)
  for examples, whole in [(512, True), (1024, True), (1536, False)]:
    path = directory_of(sweep, 60) / "checkpoint" / f"{examples:012d}"
    path.mkdir(parents=True)
    if whole:
      (path / "checkpoint.json").write_text("{}")
  assert store.saved_examples(directory_of(sweep, 60)) == 1024 and store.saved_examples(directory_of(sweep, 30)) == 0
  run.main(sweep)
  assert [claims.attempts(directory_of(sweep, rows))[0].began for rows in (30, 60, 90)] == [0, 1024, 0]


def test_words_make_the_same_sweep_again():
  """How the launchers hand a sweep to its workers."""
  for name, preset in presets.PRESETS.items():
    fields = {f.name: getattr(preset, f.name) for f in dataclasses.fields(SweepConfig)}
    config = WorkerConfig(**fields, only=("0123456789abcdef", "fedcba9876543210"), wait=True, parent=7)
    assert flags.parse(["worker", *flags.words(config)], WorkerConfig) == config, name
