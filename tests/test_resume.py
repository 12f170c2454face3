"""A run that stops at a random step and goes on from its checkpoint is, bit for bit, the run that did not stop."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dlrm_jax import flags, loop, record
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data import contents, prepare, shards
from dlrm_jax.data.source import Source
from dlrm_jax.learner import Learner, make_learner

BATCH, EXAMPLES = 64, 2700  # the last batch is short
STEPS = -(-EXAMPLES // BATCH)
BASE = RunConfig(
  model=ModelConfig(embed_dim=4, num_rows=150, overarch=(8, 1)),
  train=TrainConfig(num_examples=EXAMPLES, batch_size=BATCH, eval_examples=256, first_eval=700, evals_per_octave=1),
  planted=PlantedConfig(tail_fields=2, zipf_s=1.25, bag_length=3),
  checkpoint=True,
)


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
    for module in (shards, contents):
      patch.setattr(module, "ROWS_PER_GROUP", 100)
    prepare.main(flags.parse(["prepare", "--format=csv", "--workers=1", *words], prepare.PrepareConfig))
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
  """What a run did: the loss of each step, where `step_by_step`, and the state it ended in."""

  step_by_step: bool
  losses: list[float] = dataclasses.field(default_factory=list)
  state: Any = None

  def make_learner(self, config: RunConfig, source: Source) -> Learner:
    learner = make_learner(config, source)

    def train(state: Any, *batches: Any) -> Any:
      if not self.step_by_step:
        return learner.train(state, *batches)
      for batch in batches:
        state, loss, _ = learner.read_progress(learner.train(state, batch))
        self.losses.append(loss)
      return state

    def save(path: Path, state: Any, facts: dict[str, Any]) -> None:
      self.state = jax.device_get((state.dense, state.dense_slots, state.step, [group.stacks for group in state.tables.groups.values()]))
      assert learner.save is not None
      learner.save(path, state, facts)

    return dataclasses.replace(learner, train=train, save=save)


def watched(config: RunConfig, directory: Path, step_by_step: bool) -> Watched:
  out = Watched(step_by_step)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "make_learner", out.make_learner)
    loop.train(config, directory, quiet=True)
  return out


def assert_same_state(a: Any, b: Any):
  for (path, x), (_, y) in zip(jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b), strict=True):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def first_steps(config: RunConfig, steps: int) -> RunConfig:
  return dataclasses.replace(config, train=dataclasses.replace(config.train, num_examples=steps * BATCH))


@pytest.mark.parametrize("steps_per_call", [1, 8])
@pytest.mark.parametrize("kind", ["time", "shuffled", "planted"])
def test_losses_and_state_after_a_stop_are_those_without(kind: str, steps_per_call: int, data: Path, tmp_path: Path):
  config = run_of(kind, data, steps_per_call)
  whole = watched(config, tmp_path / "whole", step_by_step=True)
  assert len(whole.losses) == STEPS and len(set(whole.losses)) == STEPS
  assert_same_state(watched(config, tmp_path / "calls", step_by_step=False).state, whole.state)
  curve = {row["examples"]: row for row in record.read_curve(tmp_path / "calls" / "curve.jsonl")}
  rng = np.random.default_rng([steps_per_call, len(kind)])
  for step in rng.choice(np.arange(1, STEPS), 2, replace=False).tolist():
    watched(first_steps(config, step), tmp_path / f"{step}", step_by_step=False)
    rest = dataclasses.replace(config, restore=str(tmp_path / f"{step}" / "checkpoint"))
    after = watched(rest, tmp_path / f"{step} rest", step_by_step=True)
    assert after.losses == whole.losses[step:]
    assert_same_state(after.state, whole.state)
    assert_same_state(watched(rest, tmp_path / f"{step} calls", step_by_step=False).state, whole.state)
    rows = record.read_curve(tmp_path / f"{step} calls" / "curve.jsonl")
    assert [row["examples"] for row in rows] == [examples for examples in curve if examples > step * BATCH]
    for row in rows:
      assert row["log_loss"] == curve[row["examples"]]["log_loss"]
      for name in ("progressive_log_loss", "progressive_ne"):
        assert row[name] == pytest.approx(curve[row["examples"]][name], rel=1e-6)  # sums on the device begin anew at the stop
