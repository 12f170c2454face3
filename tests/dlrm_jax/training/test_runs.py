"""Several runs trained at once have the losses of each run alone, whatever happens to the others; rates are values, not programs."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dlrm_jax.common import record, stopping
from dlrm_jax.config import MeshConfig, ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import open_source
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import working_bytes
from dlrm_jax.identity import together_key
from dlrm_jax.training import loop, step
from dlrm_jax.training.build import Build, build_of, runs_that_fit
from dlrm_jax.training.learner import dlrm_learner, make_learner
from dlrm_jax.training.step import OneRun, compile_programs

BATCH, STEPS = 64, 100
BASE = RunConfig(
  model=ModelConfig(embed_dim=4, num_rows=150, overarch=(8, 1)),
  train=TrainConfig(num_examples=BATCH * STEPS - 10, batch_size=BATCH, eval_examples=500, first_eval=1000, table_lr=0.2),
  planted=PlantedConfig(zipf_s=1.25, tail_fields=3),
  steps_per_call=4,
)


def alike(base: RunConfig, *runs: tuple[int, float, float]) -> list[RunConfig]:
  """Runs of these (seed, table_lr, dense_lr)."""
  return [
    dataclasses.replace(base, train=dataclasses.replace(base.train, seed=seed, table_lr=table, dense_lr=dense))
    for seed, table, dense in runs
  ]


def check_same(got: Any, directory: Path, alone: Path) -> None:
  """The record and the curve of a run trained with others are those of the run alone, to float32's rounding."""
  expected = record.read_json(alone / "record.json")
  assert got["status"] == expected["status"] and got["config_id"] == expected["config_id"]
  assert record.read_json(directory / "record.json")["log_loss"] == got["log_loss"]
  rows, wanted = (record.read_curve(where / "curve.jsonl") for where in (directory, alone))
  assert [row["examples"] for row in rows] == [row["examples"] for row in wanted]
  for name in ("log_loss", "progressive_log_loss", "excess"):
    np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in wanted], rtol=1e-5)


CASES = {
  "kernels": {},
  "xla": {
    "kernels": "xla",
    "planted": PlantedConfig(zipf_s=1.25, tail_fields=3, bag_length=3, dense_variance=0.3),
    "steps_per_call": 1,
    "model": dataclasses.replace(BASE.model, rows_by="hash"),
    "train": dataclasses.replace(
      BASE.train,
      table_optimizer="adam",
      dense_optimizer="adam",
      table_weight_decay=0.01,
      warmup_examples=1000,
      table_warmup_examples=500,
      lr_schedule="inverse_sqrt",
      decay_examples=2000,
    ),
  },
}


@pytest.mark.parametrize("case", ["kernels", pytest.param("xla", marks=pytest.mark.slow)])
def test_losses_are_those_of_the_runs_alone(tmp_path: Path, case: str):
  base = dataclasses.replace(BASE, **CASES[case])
  configs = alike(base, (0, 0.05, 0.02), (3, 0.05, 0.02), (0, 0.2, 0.01))
  source = open_source(base)
  outs = loop.train_runs(configs, [tmp_path / str(i) for i in range(3)], source, quiet=True)
  for i, (config, out) in enumerate(zip(configs, outs, strict=True)):
    loop.train(config, tmp_path / f"alone{i}", source, quiet=True)
    check_same(out, tmp_path / str(i), tmp_path / f"alone{i}")
    assert isinstance(out, dict) and out["trained_together"] == 3
  assert len({out["log_loss"] for out in outs if isinstance(out, dict)}) == 3


def test_one_that_diverges_and_one_that_is_lost_leave_the_others_alone(tmp_path: Path):
  configs = alike(BASE, (0, 0.2, 0.02), (0, 1e30, 1e30), (1, 0.2, 0.02))
  source, seen = open_source(BASE), []

  def taken_over(examples: int, loss: float) -> None:
    seen.append((examples, loss))
    if examples > 4000:
      raise LookupError("somebody else has it")

  directories = [tmp_path / str(i) for i in range(3)]
  done, diverged, lost = loop.train_runs(configs, directories, source, quiet=True, on_progress=[None, None, taken_over])
  assert isinstance(diverged, dict) and (diverged["status"], diverged["diverged_metric"]) == ("diverged", "train log_loss")
  assert 0 < diverged["diverged_step"] < 10 and record.read_json(directories[1] / "record.json")["status"] == "diverged"
  assert isinstance(lost, LookupError) and not (directories[2] / "record.json").exists()
  assert len(seen) > 1 and all(0.3 < loss < 1 for _, loss in seen)
  loop.train(configs[0], tmp_path / "alone", source, quiet=True)
  check_same(done, directories[0], tmp_path / "alone")


def test_an_error_of_the_disk_is_no_run_s_own(tmp_path: Path):
  """It ends all, where anything else that a run's on_progress raises ends that run alone."""

  def full(examples: int, loss: float) -> None:
    raise OSError("disk full")

  configs, directories = alike(BASE, (0, 0.2, 0.02), (1, 0.2, 0.02), (2, 0.2, 0.02)), [tmp_path / str(i) for i in range(3)]
  with pytest.raises(OSError, match="^disk full$"):
    loop.train_runs(configs, directories, quiet=True, on_progress=[None, full, None])
  assert not list(tmp_path.glob("*/record.json"))


def test_the_last_checkpoint_is_of_sound_runs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  real = loop.evaluate

  def second_is_bad(*args: Any) -> Any:
    first, second, third = real(*args) or []
    return [first, dataclasses.replace(second, log_loss=float("nan")), third]

  monkeypatch.setattr(loop, "evaluate", second_is_bad)
  short = dataclasses.replace(BASE, checkpoint=True, train=dataclasses.replace(BASE.train, num_examples=512, first_eval=512))
  configs, directories = alike(short, (0, 0.2, 0.02), (1, 0.2, 0.02), (2, 0.2, 0.02)), [tmp_path / str(i) for i in range(3)]
  outs = loop.train_runs(configs, directories, quiet=True)
  assert [out["status"] for out in outs if isinstance(out, dict)] == ["done", "diverged", "done"]
  assert [[int(path.name) for path in directory.glob("checkpoint/*")] for directory in directories] == [[512], [], [512]]


def test_stopped_runs_go_on_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  configs, source = alike(BASE, (0, 0.2, 0.02), (1, 0.1, 0.02), (1, 0.2, 0.02)), open_source(BASE)
  directories = [tmp_path / str(i) for i in range(3)]
  asked = iter([False] * 12 + [True] * 9)
  with monkeypatch.context() as patch:
    patch.setattr(stopping, "requested", lambda: next(asked))
    with pytest.raises(stopping.Stopped, match="examples of 3 runs, 3 saved: the same command goes on"):
      loop.train_runs(configs, directories, source, quiet=True)
  for i, config in enumerate(configs[:2]):
    (saved,) = (directories[i] / "checkpoint").iterdir()
    assert 0 < int(saved.name) < BASE.train.num_examples
    out = loop.train(config, directories[i], source, quiet=True)
    loop.train(config, tmp_path / f"alone{i}", source, quiet=True)
    check_same(out, directories[i], tmp_path / f"alone{i}")


def test_what_the_device_has_no_room_for_is_trained_in_lots(monkeypatch: pytest.MonkeyPatch):
  config, source = alike(BASE, (0, 0.2, 0.02))[0], Planted(BASE.planted)
  held = 3 * 150 * (4 + 1 + 2) * 4 + 3 * 150 * 4  # rows, first-order scalars, an accumulator for each, the election's scratch
  layout = make_layout(config.model, source.shape)
  needed = (held + working_bytes(config, layout, 1)) / 2**30
  for gib, fitting in ((1.01 * needed, 1), (2.99 * needed, 2), (3.01 * needed, 3)):
    room = dataclasses.replace(config, kernels="xla", mesh=MeshConfig(device_memory_gib=gib))
    assert runs_that_fit(room, source) == fitting

  def train(configs: list[RunConfig], directories: list[str], source: Planted, quiet: bool, callbacks: list[Any]) -> list[Any]:
    each = zip(configs, directories, callbacks, strict=True)
    return [{"seed": c.train.seed, "directory": d, "told": told, "of": len(configs), "quiet": quiet} for c, d, told in each]

  monkeypatch.setattr(loop, "runs_that_fit", lambda config, source: 2)
  monkeypatch.setattr(loop, "_train_at_once", train)
  tell, configs = [lambda examples, loss: None for _ in range(3)], alike(BASE, (0, 0.2, 0.02), (1, 0.2, 0.02), (2, 0.2, 0.02))
  outs = loop.train_runs(configs, ["a", "b", "c"], source, quiet=True, on_progress=tell)
  expected = [(0, "a", tell[0], 2, True), (1, "b", tell[1], 2, True), (2, "c", tell[2], 1, True)]
  assert [(*out.values(),) for out in outs if isinstance(out, dict)] == expected


def test_runs_that_see_the_same_examples_share_them(monkeypatch: pytest.MonkeyPatch):
  seeds, source = [], Planted(BASE.planted)
  real = Planted.train_batches
  monkeypatch.setattr(Planted, "train_batches", lambda self, seed, *rest: (seeds.append(seed), real(self, seed, *rest))[1])
  configs = alike(BASE, (5, 0.1, 0.1), (2, 0.1, 0.1), (5, 0.2, 0.1), (2, 0.3, 0.1))
  first = next(loop.batches_of(configs, source, make_learner(configs, source)))
  assert seeds == [5, 2]
  assert first[0] is first[2] and first[1] is first[3]
  expected = [next(real(source, seed, BATCH, 1000)).ids_bl for seed in (5, 2)]
  for got, ids in zip(first, expected * 2, strict=True):
    np.testing.assert_array_equal(got.ids_bl, ids)


def test_only_runs_alike_have_one_key():
  one, other = alike(BASE, (0, 0.1, 0.2), (7, 0.3, 0.4))
  key = together_key(one)
  assert key is not None and key == together_key(dataclasses.replace(other, workdir="elsewhere"))
  for change in ({"model": dataclasses.replace(BASE.model, num_rows=151)}, {"planted": PlantedConfig(zipf_s=1.2)}, {"steps_per_call": 5}):
    assert together_key(dataclasses.replace(one, **change)) != key
  for train in ({"num_examples": 1}, {"table_weight_decay": 0.1}, {"eval_examples": 7}):
    assert together_key(dataclasses.replace(one, train=dataclasses.replace(one.train, **train))) != key
  estimator = dataclasses.replace(one.train, learner="per_id")
  changes: list[dict[str, Any]] = [
    {"mesh": MeshConfig("2")},
    {"num_processes": 2, "coordinator": "auto"},
    {"mesh": MeshConfig(parallelism="pmap")},
    {"restore": "x"},
    {"train": estimator},
  ]
  assert [together_key(dataclasses.replace(one, **change)) for change in changes] == [None] * 5


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_learning_rates_are_no_part_of_a_program(steps_per_call: int):
  """Plain SGD: the first step is proportional to the rate, in tables and in the dense part each to its own."""
  train = dataclasses.replace(BASE.train, table_optimizer="sgd", dense_optimizer="sgd")
  base = dataclasses.replace(BASE, train=train, steps_per_call=steps_per_call)
  source, moved, programs = Planted(base.planted), [], set()
  (batch,) = source.train_batches(0, BATCH, BATCH)
  for config in alike(base, (0, 10.0, 4.0), (0, 30.0, 2.0)):
    learner = make_learner([config], source)
    before = jax.device_get(learner.start())
    after = jax.device_get(learner.train(learner.start(), [(learner.put(batch),)]))
    moved.append([jax.tree.map(lambda a, b: b - a, getattr(before, part), getattr(after, part)) for part in ("tables", "dense")])
    programs.add(id(compile_programs(OneRun(build_of(config, source.shape))).compiled))
  assert len(programs) == 1
  for part, ratio in ((0, 3.0), (1, 0.5)):
    for a, b in zip(jax.tree.leaves(moved[0][part]), jax.tree.leaves(moved[1][part]), strict=True):
      if a.dtype == np.float32:
        np.testing.assert_allclose(b, ratio * a, rtol=1e-4, atol=1e-6)
        assert np.abs(a).max() > 1e-4


def test_full_calls_have_a_program_of_known_length(monkeypatch: pytest.MonkeyPatch):
  """As on accelerators. Nine steps in calls of 4, 4 and 1 give the bits of the program that takes any number of steps."""
  train = dataclasses.replace(BASE.train, num_examples=9 * BATCH)
  config, states, texts = dataclasses.replace(BASE, train=train), [], []
  source = Planted(config.planted)
  for known in (False, True):
    monkeypatch.setattr(step, "wants_known_length", lambda platform, known=known: known)
    compile_programs.cache_clear()
    learner = make_learner([config], source)
    state = learner.start()
    batches = [(learner.put(batch),) for batch in source.train_batches(0, BATCH, 9 * BATCH)]
    called: list[jax.stages.Compiled] = []
    call = jax.stages.Compiled.__call__
    with monkeypatch.context() as patch:
      patch.setattr(jax.stages.Compiled, "__call__", lambda self, *args: (called.append(self), call(self, *args))[1])  # noqa: B023
      for first in (0, 4, 8):
        state = learner.train(state, batches[first : first + 4])
    assert ['"known_trip_count":{"n":"4"}' in one.as_text() for one in called] == [known, known, False]  # the last call is not full
    states.append(jax.device_get(state))
    texts.append(learner.program_text())
  compile_programs.cache_clear()
  assert int(states[0].step) == 9
  for one, other in zip(*map(jax.tree.leaves, states), strict=True):
    np.testing.assert_array_equal(one, other)
  counts = ['"known_trip_count":{"n":"4"}' in text for text in texts]
  assert counts == [False, True]


def test_options_reach_the_compiler():
  build = build_of(BASE, Planted(BASE.planted).shape)
  with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_nobody"):
    dlrm_learner([BASE], build, {"xla_of_nobody": True})


def test_the_settings_of_a_run_do_not_get_into_a_program():
  """They hold seed and learning rates."""
  build = build_of(BASE, Planted(BASE.planted).shape)
  with pytest.raises(TypeError, match=r"^Build\.settings is a TrainConfig: give StepSettings, such as TrainConfig\.step_settings\(\)$"):
    dataclasses.replace(build, settings=BASE.train)
  assert isinstance(build, Build) and not hasattr(build.settings, "table_lr")
