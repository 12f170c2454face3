"""A run that stops at a random step and goes on from its checkpoint is, bit for bit, the run that did not stop."""

import contextlib
import dataclasses
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from resume_case import BASE, BATCH, EXAMPLES, STEPS, assert_same_run, assert_same_state, first_steps

from dlrm_jax.common import flags, record, stopping
from dlrm_jax.config import PlantedConfig, RunConfig
from dlrm_jax.data import shard_format
from dlrm_jax.data.prepare import program
from dlrm_jax.data.source import Source
from dlrm_jax.training import loop, per_id, trajectory
from dlrm_jax.training.checkpoint import Snapshot
from dlrm_jax.training.learner import Learner, make_learner


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A prepared log of many small blocks, ids repeated within a batch and between batches."""
  directory, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  item, user, age = (rng.zipf(1.5, 3000) % 60, rng.integers(0, 200, 3000), rng.integers(18, 70, 3000))
  label = rng.uniform(size=3000) < np.where(item % 3 == 0, 0.7, 0.2)
  lines = [f"{int(y)},i{i},u{u},{a}" for y, i, u, a in zip(label, item, user, age, strict=True)]
  (directory / "log.csv").write_text("clicked,item,user,age\n" + "\n".join(lines) + "\n")
  (directory / "log.toml").write_text('label = "clicked"\ncategorical = ["item", "user"]\n[dense]\nage = {}\n')
  words = [f"--input={directory}/log.csv", f"--schema={directory}/log.toml", f"--output={directory}/set", "--eval_rows=300"]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shard_format, "ROWS_PER_GROUP", 100)
    program.main(flags.parse(["prepare", "--format=csv", "--workers=1", *words], program.PrepareConfig))
  assert record.read_json(directory / "set" / "dataset.json")["rows_per_group"] == 100
  return directory / "set"


def run_of(kind: str, data: Path, steps_per_call: int) -> RunConfig:
  """Optimisers with and without slots for each value, and learning rates that know the step."""
  settings: dict[str, Any] = {
    "time": {"table_optimizer": "adam", "dense_optimizer": "adam", "table_lr": 0.02, "lr_schedule": "inverse_sqrt", "decay_examples": 500},
    "shuffled": {"order": "shuffled", "seed": 3, "table_lr": 0.2},
    "planted": {"table_optimizer": "adagrad", "warmup_examples": 1500},
  }[kind]
  train = dataclasses.replace(BASE.train, **settings)
  return dataclasses.replace(BASE, train=train, data="planted" if kind == "planted" else str(data), steps_per_call=steps_per_call)


@dataclasses.dataclass
class Watched:
  """What a run did: the loss of each step, where `step_by_step`, and the state it ended in. `stop_at` counts calls of a program, from 1,
  after which a signal asks it to stop."""

  step_by_step: bool = False
  stop_at: tuple[str, int] = ("", 0)
  losses: list[float] = dataclasses.field(default_factory=list)
  state: Any = None
  called: dict[str, int] = dataclasses.field(default_factory=lambda: {"train": 0, "predict": 0})

  def make_learner(self, configs: list[RunConfig], source: Source) -> Learner:
    learner = make_learner(configs, source)
    assert learner.snapshot is not None
    take = learner.snapshot

    def count(program: str):
      self.called[program] += 1
      if self.stop_at == (program, self.called[program]):
        os.kill(os.getpid(), signal.SIGUSR2 if self.called[program] % 2 else signal.SIGTERM)

    def train(state: Any, batches: Any) -> Any:
      if self.step_by_step:
        for batch in batches:
          state, (loss,), *_ = learner.read_progress(learner.train(state, [batch]))
          self.losses.append(loss)
      else:
        state = learner.train(state, batches)
      count("train")
      return state

    def predict_call(state: Any, batches: Any) -> Any:
      count("predict")
      return learner.predict_call(state, batches)

    def snapshot(state: Any, run: int) -> Snapshot:
      out = take(state, run)
      self.state = jax.tree.map(np.array, out.arrays)
      return out

    return dataclasses.replace(learner, train=train, predict_call=predict_call, snapshot=snapshot)


def watched(config: RunConfig, directory: Path, **how: Any) -> Watched:
  out = Watched(**how)
  with pytest.MonkeyPatch.context() as patch, stopping.installed():
    patch.setattr(loop, "make_learner", out.make_learner)
    with contextlib.suppress(stopping.Stopped):
      loop.train(config, directory, quiet=True)
  return out


@pytest.mark.parametrize(
  ("kind", "steps_per_call"), [("time", 8), ("shuffled", 1), ("planted", 1), pytest.param("planted", 8, marks=pytest.mark.slow)]
)
def test_losses_and_state_after_a_branch_are_those_without(kind: str, steps_per_call: int, data: Path, tmp_path: Path):
  """A run that ended, and a longer one that goes on from its last checkpoint."""
  config = run_of(kind, data, steps_per_call)
  whole = watched(config, tmp_path / "whole", step_by_step=True)
  assert len(whole.losses) == STEPS and len(set(whole.losses)) == STEPS
  assert_same_state(watched(config, tmp_path / "calls").state, whole.state)
  curve = {row["examples"]: row for row in record.read_curve(tmp_path / "calls" / "curve.jsonl")}
  rng = np.random.default_rng([steps_per_call, len(kind)])
  step = int(rng.integers(1, STEPS))
  watched(first_steps(config, step), tmp_path / "first")
  assert os.listdir(tmp_path / "first" / "checkpoint") == [f"{step * BATCH:012d}"]
  rest = dataclasses.replace(config, restore=str(tmp_path / "first" / "checkpoint"))
  after = watched(rest, tmp_path / "rest", step_by_step=True)
  assert after.losses == whole.losses[step:]
  assert_same_state(after.state, whole.state)
  assert_same_state(watched(rest, tmp_path / "rest calls").state, whole.state)
  rows = record.read_curve(tmp_path / "rest calls" / "curve.jsonl")
  assert [row["examples"] for row in rows] == [examples for examples in curve if examples > step * BATCH]
  for row in rows:
    assert row["log_loss"] == curve[row["examples"]]["log_loss"]
    for name in ("progressive_log_loss", "progressive_ne"):
      assert row[name] == pytest.approx(curve[row["examples"]][name], rel=1e-6)  # sums on the device begin anew


@pytest.mark.parametrize(("kind", "steps_per_call"), [("time", 1), ("shuffled", 3), ("planted", 8)])
def test_a_run_stopped_anywhere_is_the_run_without_a_stop(
  kind: str, steps_per_call: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  """Stopped at random calls of both programs, in training and in evaluations, until it ends; looks at the loss between evaluations too."""
  monkeypatch.setattr(trajectory, "_CHECK_EVERY", 5)
  config, rng = run_of(kind, data, steps_per_call), np.random.default_rng(steps_per_call)
  whole = watched(config, tmp_path / "whole")
  stops: list[tuple[str, list[str]]] = []
  most = {"predict": 2 + -(-4 // steps_per_call), "train": 4 + 12 // steps_per_call}  # an evaluation has four batches
  while not (tmp_path / "stopped" / "record.json").exists():
    program = ("predict", "train")[len(stops) % 2]
    watched(config, tmp_path / "stopped", stop_at=(program, int(rng.integers(1, most[program]))))
    stops.append((program, os.listdir(tmp_path / "stopped" / "checkpoint")))
  assert len({str(saved) for _, saved in stops}) >= 4, stops
  assert_same_run(tmp_path / "stopped", tmp_path / "whole")
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Orbax: onto other devices this would not be safe
    on_disk = checkpointer.restore(tmp_path / "stopped" / "checkpoint" / f"{EXAMPLES:012d}" / "arrays")
  assert_same_state(on_disk, whole.state)


def test_the_estimator_goes_on_too(tmp_path: Path):
  train_config = dataclasses.replace(BASE.train, learner="per_id", num_examples=1024)
  config = dataclasses.replace(BASE, train=train_config, planted=PlantedConfig(tail_fields=2, zipf_s=1.25), checkpoint=False)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(per_id, "ROWS", 500)
    watched(config, tmp_path / "whole")
    assert watched(config, tmp_path / "stopped", stop_at=("train", 4)).state is not None
    assert os.listdir(tmp_path / "stopped" / "checkpoint") == [f"{4 * BATCH:012d}"]
    assert not (tmp_path / "stopped" / "record.json").exists()
    watched(config, tmp_path / "stopped")
  assert_same_run(tmp_path / "stopped", tmp_path / "whole")
  assert not (tmp_path / "stopped" / "checkpoint").exists()
