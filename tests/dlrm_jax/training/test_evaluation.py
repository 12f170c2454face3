"""Evaluation: kept or read anew gives the same numbers, in memory that does not grow; the split that is asked for; progressive losses."""

import dataclasses
import itertools
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy import special

from dlrm_jax import train
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.prepare import program
from dlrm_jax.data.source import PreparedSource, open_source
from dlrm_jax.identity import config_id
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import evaluation, loop, metrics, trajectory
from dlrm_jax.training.evaluation import EvalSet, evaluate
from dlrm_jax.training.learner import make_learner
from dlrm_jax.training.read_ahead import read_ahead

TINY = RunConfig(
  model=ModelConfig(embed_dim=4, num_rows=300, overarch=(8, 1)),
  train=TrainConfig(num_examples=5000, batch_size=256, eval_examples=1500, first_eval=1000, evals_per_octave=1, table_lr=0.2),
  planted=PlantedConfig(tail_fields=3, zipf_s=1.25, pair_variance=0.3),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """2100 training rows, then 600 that are evaluated, then 300 of the test split, where clicks are far more frequent."""
  directory, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  item, user = rng.integers(0, 30, 3000), rng.integers(0, 100, 3000)
  prob = np.where(item % 3 == 0, 0.6, 0.2)
  prob[2700:] = 0.9
  label = rng.uniform(size=3000) < prob
  lines = [f"{int(y)},i{i},u{u}" for y, i, u in zip(label, item, user, strict=True)]
  (directory / "log.csv").write_text("clicked,item,user\n" + "\n".join(lines) + "\n")
  (directory / "log.toml").write_text('label = "clicked"\ncategorical = ["item", "user"]\n')
  for name, words in (("set", ["--eval_fraction=0.3", f"--test_fraction={1 / 3}"]), ("no_test", ["--eval_rows=900"])):
    words += [f"--input={directory}/log.csv", f"--schema={directory}/log.toml", f"--output={directory}/{name}", "--workers=1"]
    program.main(flags.parse(["prepare", "--format=csv", *words], program.PrepareConfig))
  return directory


def with_train(config: RunConfig, **settings: Any) -> RunConfig:
  return dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))


def curve(config: RunConfig, directory: Path) -> list[dict[str, Any]]:
  """The rows without their times."""
  loop.train(config, directory, quiet=True)
  return [{name: value for name, value in row.items() if name != "wall_s"} for row in record.read_curve(directory / "curve.jsonl")]


@pytest.mark.parametrize("kind", ["planted", "set"])
def test_read_anew_or_kept_gives_the_same_numbers(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  config = TINY if kind == "planted" else dataclasses.replace(TINY, data=str(data / kind))
  kept = curve(config, tmp_path / "kept")
  reads, read = [], EvalSet._read

  def counted(self: EvalSet) -> Iterator[evaluation.EvalBatch]:
    reads.append(self.num_examples)
    return read(self)

  monkeypatch.setattr(EvalSet, "_read", counted)
  monkeypatch.setattr(evaluation, "KEPT_BYTES", 0)
  assert curve(config, tmp_path / "anew") == kept
  assert len(reads) == len(kept) >= 2
  assert record.read_json(tmp_path / "anew" / "record.json")["eval_examples"] == (1500 if kind == "planted" else 600)


def known(row: dict) -> dict:
  """Without what is None: parts of the excess that are not planted."""
  return {name: value for name, value in row.items() if value is not None}


def test_an_evaluation_equals_the_metrics_of_all_its_predictions_at_once(tmp_path: Path):
  source = Planted(TINY.planted)
  learner = make_learner([TINY], source)
  state = learner.start()
  found = evaluate(learner, state, EvalSet(source, learner, TINY.train))
  assert found is not None and len(found) == 1
  got = found[0]
  batch, truth = source.batch(0, 0, 1536)
  logit = np.concatenate([learner.predict(state, jax.tree.map(lambda x: x[i : i + 256], batch))[0] for i in range(0, 1536, 256)])  # noqa: B023
  label, true, *parts = (np.asarray(x)[:1500] for x in (batch.label_b, truth.logit_b, truth.parts["tail"], truth.parts["pairs"]))
  expected = metrics.evaluate(logit[:1500], label, source.base_rate(), true, dict(zip(("tail", "pairs"), parts, strict=True)))
  assert known(got.row()) == pytest.approx(known(expected.row()), rel=1e-6)
  assert got.excess_tail is not None and got.excess_pairs is not None and got.excess_dense is None


@pytest.mark.parametrize("kind", ["planted", "set"])
def test_what_is_read_anew_is_let_go_of(kind: str, data: Path):
  """The most batches that are alive at once do not depend on how many there are."""
  config = with_train(TINY if kind == "planted" else dataclasses.replace(TINY, data=str(data / kind)), batch_size=4)
  source = open_source(config)
  learner = make_learner([config], source)
  state, most = learner.start(), []
  for examples in (200, 600):
    alive: list[weakref.ref[Any]] = []
    counts: list[int] = []

    def put(batch: Any, alive: list = alive, counts: list = counts) -> Any:
      alive.append(weakref.ref(batch))
      counts.append(sum(ref() is not None for ref in alive))
      return learner.put(batch)

    watched = dataclasses.replace(learner, put=put)
    evaluate(watched, state, EvalSet(source, watched, dataclasses.replace(config.train, eval_examples=examples), kept_bytes=0))
    assert len(alive) == examples // 4
    most.append(max(counts))
  assert most[0] == most[1] <= 4


def test_the_set_is_kept_up_to_the_budget():
  source = Planted(TINY.planted)
  learner = make_learner([TINY], source)
  total = 6 * 256 * 4 * (3 + 4 + 5)  # 3 tail ids and 4 of pairs; label, weight, and the logit of the teacher and its two parts
  for budget, kept in ((total, True), (total - 1, False)):
    assert (EvalSet(source, learner, TINY.train, kept_bytes=budget)._kept is not None) == kept


def test_the_split_that_is_asked_for_is_evaluated(data: Path, tmp_path: Path):
  """The test rows have another click rate, which the calibration shows; training is the same."""
  config = dataclasses.replace(TINY, data=str(data / "set"))
  on_eval, on_test = (loop.train(with_train(config, eval_split=split), tmp_path / split, quiet=True) for split in ("eval", "test"))
  assert (on_eval["eval_examples"], on_test["eval_examples"]) == (600, 300)
  assert on_eval["calibration"] == pytest.approx(1, abs=0.15)
  assert on_test["calibration"] < 0.5
  assert on_test["progressive_log_loss"] == on_eval["progressive_log_loss"]
  assert on_test["config"]["train"]["eval_split"] == "test"
  assert config_id(with_train(config, eval_split="eval")) == config_id(config) != config_id(with_train(config, eval_split="test"))


def test_a_split_that_is_not_there_is_refused(data: Path, tmp_path: Path, refusal: Callable[..., str]):
  for words, message in (
    (["--preset=tiny"], "--eval_split=test: must be eval with --data=planted"),
    ([f"--data={data}/no_test"], f"--data={data}/no_test: has no rows for --eval_split=test"),
  ):
    shown = refusal(train.main, RunConfig, PRESETS, [f"--workdir={tmp_path}/run", "--eval_split=test", *words])
    assert message in shown, shown
  shown = refusal(train.main, RunConfig, PRESETS, [f"--workdir={tmp_path}/run", "--eval_split=train"])
  assert "--eval_split=train: must be among eval, test" in shown
  assert list(tmp_path.iterdir()) == []


def losses_before_training(config: RunConfig) -> np.ndarray:
  """The log loss of each training example, predicted before its batch is trained on: one batch after the other, float64."""
  source = open_source(config)
  learner = make_learner([dataclasses.replace(config, steps_per_call=1)], source)
  state, out = learner.start(), []
  for batch in source.train_batches(config.train.seed, config.train.batch_size, config.train.num_examples):
    prob = special.expit(np.asarray(learner.predict(state, learner.put(batch))[0], np.float64))
    label, weight = np.asarray(batch.label_b), np.asarray(batch.weight_b)
    out.append(-np.where(label > 0, np.log(prob), np.log1p(-prob))[weight > 0])
    state = learner.train(state, [(learner.put(batch),)])
  return np.concatenate(out)


@pytest.mark.parametrize(("kind", "steps_per_call"), [("planted", 1), ("planted", 3), ("set", 1)])
def test_progressive_losses_are_those_of_predictions_before_each_step(
  kind: str, steps_per_call: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(trajectory, "_CHECK_EVERY", 5)  # the sums are read between evaluations too
  config = with_train(TINY, num_examples=2099) if kind == "planted" else with_train(TINY, num_examples=2099, batch_size=128)
  config = dataclasses.replace(config, steps_per_call=steps_per_call, data="planted" if kind == "planted" else str(data / kind))
  loss_n, before = losses_before_training(config), 0
  rows = curve(config, tmp_path)
  entropy = metrics.entropy(open_source(config).base_rate())
  assert len(rows) == 3 and rows[-1]["examples"] == len(loss_n) == 2099
  for row in rows:
    mean = loss_n[: row["examples"]].mean()
    assert row["progressive_log_loss"] == pytest.approx(mean, rel=2e-6)
    assert row["progressive_ne"] == pytest.approx(mean / entropy, rel=2e-6)
    assert row["progressive_log_loss_recent"] == pytest.approx(loss_n[before : row["examples"]].mean(), rel=2e-6)
    before = row["examples"]
  written = record.read_json(tmp_path / "record.json")
  for name in evaluation.Progressive.FIELDS:
    assert written[name] == rows[-1][name]


def test_a_restored_run_goes_on_with_the_totals(tmp_path: Path):
  base = with_train(TINY, first_eval=1024)
  whole = curve(base, tmp_path / "whole")
  curve(dataclasses.replace(with_train(base, num_examples=2048), checkpoint=True), tmp_path / "half")
  there = tmp_path / "half" / "checkpoint"
  rest = dataclasses.replace(base, restore=str(there))
  got = curve(rest, tmp_path / "rest")
  expected = [row for row in whole if row["examples"] > 2048]
  for row, wanted in zip(got, expected, strict=True):  # 2048 is a row of the whole run, so that recent losses begin there in both
    wanted = wanted | {"rise_error": row["rise_error"]}  # that of the restored run is against its own evaluations
    assert known(row) == pytest.approx(known(wanted), rel=1e-6)
  assert got[0]["rise_error"] is None


def test_a_checkpoint_from_before_a_setting_counts_as_its_default(tmp_path: Path):
  curve(dataclasses.replace(with_train(TINY, num_examples=2048), checkpoint=True), tmp_path / "half")
  (there,) = (tmp_path / "half" / "checkpoint").iterdir()
  manifest = record.read_json(there / "checkpoint.json")
  del manifest["run"]["train.order"]
  record.write_json(there / "checkpoint.json", manifest)
  curve(dataclasses.replace(TINY, restore=str(there)), tmp_path / "rest")
  manifest["run"]["train.order"] = "shuffled"
  record.write_json(there / "checkpoint.json", manifest)
  with pytest.raises(UserError, match=r"its train.order is shuffled, this run's is time"):
    curve(dataclasses.replace(TINY, restore=str(there)), tmp_path / "refused")


def test_the_estimator_has_no_progressive_loss(tmp_path: Path):
  config = with_train(dataclasses.replace(TINY, planted=PlantedConfig(zipf_s=1.25)), learner="per_id", num_examples=1024)
  rows = curve(config, tmp_path)
  assert all(row[name] is None for row in rows for name in evaluation.Progressive.FIELDS)
  assert rows[-1]["log_loss"] > 0 and rows[-1]["roc_auc_error"] == 0


def test_progressive_sums_by_hand():
  progressive = evaluation.Progressive(0.5)
  progressive.add(0.5, 10)
  progressive.add(1.0, 30)
  assert progressive.row() == pytest.approx(dict(zip(progressive.FIELDS, (25 / 30, 25 / 30 / math.log(2), 25 / 30))))
  progressive.add(0.1, 40)
  assert progressive.row() == pytest.approx(dict(zip(progressive.FIELDS, (26 / 40, 26 / 40 / math.log(2), 0.1))))


def test_reading_ahead_gives_all_items_in_order_and_takes_no_more_than_said():
  taken: list[int] = []

  def items() -> Iterator[int]:
    for i in range(7):
      taken.append(i)
      yield i

  for depth in (0, 1, 3, 20):
    taken.clear()
    for i, item in enumerate(read_ahead(items(), depth)):
      assert (item, len(taken)) == (i, min(7, i + depth + 1))
    assert i == 6
  assert list(read_ahead([], 2)) == []


@pytest.mark.parametrize("error", [UserError("shard x: changed"), KeyboardInterrupt()])
def test_what_the_source_raises_comes_out_as_it_is(error: BaseException, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  config, good = dataclasses.replace(TINY, data=str(data / "set"), steps_per_call=2), PreparedSource.train_batches

  def failing(self: PreparedSource, *args: Any) -> Iterator[Any]:
    yield from itertools.islice(good(self, *args), 3)
    raise error

  monkeypatch.setattr(PreparedSource, "train_batches", failing)
  with pytest.raises(type(error)) as raised:
    loop.train(config, tmp_path, quiet=True)
  assert raised.value is error
  assert not (tmp_path / "record.json").exists()
