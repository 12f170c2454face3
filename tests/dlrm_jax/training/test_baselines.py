"""What records hold of the base rate and of a logistic regression: on a log whose figures are computed here from its shards."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_case import rows_of
from scipy import special, stats

from dlrm_jax.batch import Batch
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, RunConfig, TrainConfig
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.source import open_source
from dlrm_jax.training import baselines, loop, metrics
from dlrm_jax.training.logistic import FtrlSettings, LogisticRegression, cut

TINY = RunConfig(
  model=ModelConfig(embed_dim=2, num_rows=500, overarch=(4, 1)),
  train=TrainConfig(num_examples=100_000, batch_size=256, eval_examples=65_536, first_eval=1000),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """4,000 training rows and 1,000 held-out ones, whose click rate is another one; rows are in blocks of their time."""
  directory = tmp_path_factory.mktemp("log")
  rng = np.random.default_rng(0)
  item, user, age = rng.integers(0, 30, 5000), rng.integers(0, 200, 5000), rng.integers(18, 70, 5000)
  label = rng.uniform(size=5000) < np.where(item % 3 == 0, 0.7, 0.2) * np.where(np.arange(5000) < 4000, 1, 0.6)
  lines = [f"{int(y)},i{i},u{u},{a}" for y, i, u, a in zip(label, item, user, age, strict=True)]
  (directory / "log.csv").write_text("clicked,item,user,age\n" + "\n".join(lines) + "\n")
  (directory / "log.toml").write_text('label = "clicked"\ncategorical = ["item", "user"]\n[dense]\nage = {}\n')
  words = [f"--input={directory}/log.csv", f"--schema={directory}/log.toml", f"--output={directory}/set", "--eval_rows=1000"]
  prepare(flags.parse(["prepare", "--format=csv", "--workers=1", *words], PrepareConfig))
  return directory / "set"


def trained(data: Path, directory: Path, **train: Any) -> dict[str, Any]:
  config = dataclasses.replace(TINY, data=str(data), train=dataclasses.replace(TINY.train, **train))
  return loop.train(config, directory, quiet=True)


def batch_of(data: Path, split: str) -> Batch:
  """All rows of a split in the order of the log, read by polars."""
  rows = rows_of(data, split)
  ids, label = rows.select("id.item", "id.user").to_numpy().astype(np.int32), rows["label"].to_numpy().astype(np.float32)
  return Batch(rows.select("dense.age").to_numpy().astype(np.float32), np.ascontiguousarray(ids), label, np.ones_like(label))


def test_a_record_holds_both_baselines_on_the_same_rows(data: Path, tmp_path: Path):
  out = trained(data, tmp_path)
  train, held_out = batch_of(data, "train"), batch_of(data, "eval")
  rate = train.label_b.mean(dtype=float)
  assert out["base_rate"] == pytest.approx(rate)
  assert out["base_rate_log_loss"] == pytest.approx(-np.log(np.where(held_out.label_b == 1, rate, 1 - rate)).mean(), rel=1e-12)
  assert out["base_rate_ne"] == pytest.approx(out["base_rate_log_loss"] / stats.bernoulli(rate).entropy(), rel=1e-12)
  assert abs(out["base_rate_ne"] - 1) > 0.01  # the held-out click rate is another one
  tried = [LogisticRegression(open_dataset(data).shape, FtrlSettings(alpha=alpha)) for alpha in (0.1, 0.3)]
  losses = [regression.learn(train) for regression in tried]
  late = [log_loss(before[2000:], train.label_b[2000:]) for before in losses]
  assert abs(late[0] - late[1]) > 0.001  # the better one over the second half goes on
  before, regression = losses[int(np.argmin(late))], tried[int(np.argmin(late))]
  assert out["logistic_progressive_log_loss"] == pytest.approx(log_loss(before, train.label_b), rel=1e-6)
  logit = regression.predict(held_out)
  assert out["logistic_log_loss"] == pytest.approx(log_loss(logit, held_out.label_b), rel=1e-6)
  assert out["logistic_ne"] == pytest.approx(out["logistic_log_loss"] / stats.bernoulli(rate).entropy(), rel=1e-9)
  pos, neg = logit[held_out.label_b == 1], logit[held_out.label_b == 0]
  assert out["logistic_roc_auc"] == pytest.approx(stats.mannwhitneyu(pos, neg).statistic / (len(pos) * len(neg)), abs=1e-5)
  assert out["logistic_roc_auc"] > 0.65
  curve = record.read_curve(tmp_path / "curve.jsonl")
  assert {row["base_rate_log_loss"] for row in curve} == {out["base_rate_log_loss"]}


def log_loss(logit: np.ndarray, label: np.ndarray) -> float:
  return float(-np.log(special.expit(np.where(label == 1, logit, -logit))).mean())


def test_the_errors_of_differences_are_of_the_same_rows(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """From the logits of every evaluation, in blocks of 8 rows: of two evaluations, and of the last one and the regression."""
  added, real = dict[int, list[np.ndarray]](), metrics.Accumulator.add

  def add(self: metrics.Accumulator, logit_n: np.ndarray, label_n: np.ndarray, *words: Any, **named: Any) -> None:
    added.setdefault(id(self), [self]).append(np.stack([logit_n, label_n]).astype(np.float64))
    real(self, logit_n, label_n, *words, **named)

  monkeypatch.setattr(metrics.Accumulator, "add", add)
  out = trained(data, tmp_path, evals_per_octave=4, table_lr=3.0, dense_lr=0.3)  # too high, so that the loss rises
  logistic, *evaluations = [
    np.log1p(np.exp(-(2 * label - 1) * logit))
    for logit, label in (np.concatenate(x[1:], axis=1) for x in added.values())
    if len(label) == 1000
  ]

  def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(stats.sem((other - one).reshape(125, 8).mean(axis=1)))

  curve = record.read_curve(tmp_path / "curve.jsonl")
  means = [losses.mean() for losses in evaluations]
  assert [row["log_loss"] for row in curve] == pytest.approx(means)
  assert out["logistic_error"] == pytest.approx(error(logistic, evaluations[-1]))
  assert curve[0]["rise_error"] is None and int(np.argmin(means[:-1])) < len(means) - 2
  for i in range(1, len(curve)):
    assert curve[i]["rise_error"] == pytest.approx(error(evaluations[int(np.argmin(means[:i]))], evaluations[i]))


def test_the_losses_that_choose_a_rate_are_those_of_the_second_half(data: Path):
  train, shape = batch_of(data, "train"), open_dataset(data).shape
  candidate, before = baselines._Candidate(LogisticRegression(shape), shape, 0.3), LogisticRegression(shape).learn(train)
  for low in range(0, 4000, 512):  # whole steps, of which one has examples of both halves
    candidate.learn(cut(train, low, min(low + 512, 4000)), 2000)
  assert candidate.examples == 4000
  assert candidate.late_loss == pytest.approx(2000 * log_loss(before[2000:], train.label_b[2000:]), rel=1e-9)


def test_rows_of_weight_0_do_not_keep_it_from_a_choice(data: Path, monkeypatch: pytest.MonkeyPatch):
  """Half of the rows do not count, so that fewer are seen than the choice waits for."""
  real = baselines._all_examples

  def half(*words: Any) -> Any:
    for batch in real(*words):
      yield dataclasses.replace(batch, weight_b=np.where(np.arange(len(batch.weight_b)) % 2, batch.weight_b, 0))

  monkeypatch.setattr(baselines, "_all_examples", half)
  config = dataclasses.replace(TINY, data=str(data), train=dataclasses.replace(TINY.train, num_examples=4000))
  found = baselines._computed(config, open_source(config), 1000, True)
  assert 0 < found["logistic_log_loss"] < 0.7


def test_runs_share_it_unless_examples_order_or_held_out_rows_differ(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  counted, real = [], baselines._computed

  def computed(*words: Any) -> dict[str, float]:
    counted.append(words)
    return real(*words)

  monkeypatch.setattr(baselines, "_computed", computed)

  def run(name: str, **changes: Any) -> dict[str, Any]:
    model = {"num_tables": changes.pop("num_tables", 0), "embed_dim": changes.pop("embed_dim", 2)}
    config = dataclasses.replace(TINY, data=str(data), workdir=str(tmp_path), model=dataclasses.replace(TINY.model, **model))
    return loop.train(dataclasses.replace(config, train=dataclasses.replace(TINY.train, **changes)), tmp_path / name, quiet=True)

  first = run("a")
  assert {run("b", embed_dim=4)["logistic_ne"], run("c", seed=1, dense_lr=0.1)["logistic_ne"]} == {first["logistic_ne"]}
  assert len(counted) == 1 == len(list((tmp_path / "baselines").glob("*.json")))
  others = [run("d", num_examples=2000), run("e", order="shuffled"), run("f", order="shuffled", seed=1), run("g", eval_examples=500)]
  others.append(run("h", num_tables=1))
  assert len(counted) == 6 and len({out["logistic_ne"] for out in (first, *others)}) == 6
  run("i", order="shuffled", seed=1)
  assert len(counted) == 6


def test_it_waits_for_another_run_that_computes_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """A held lock: another process is at it, and its file is there when the lock is free."""
  import fcntl

  whole = trained(data, tmp_path / "one")
  (kept,) = (tmp_path / "one" / "baselines").glob("*.json")
  folder = tmp_path / "two" / "baselines"
  folder.mkdir(parents=True)
  with open(folder / f".{kept.stem}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)

    def pause(seconds: float) -> None:
      (folder / kept.name).write_bytes(kept.read_bytes())

    monkeypatch.setattr(baselines.time, "sleep", pause)
    monkeypatch.setattr(baselines, "_computed", lambda *_: pytest.fail("computed twice"))
    assert trained(data, tmp_path / "two")["logistic_ne"] == whole["logistic_ne"]


@pytest.mark.parametrize("text", ["{}", '{"logistic', '{"logistic_log_loss": [], "logistic_ne": 1}'])
def test_a_damaged_result_is_named(data: Path, tmp_path: Path, text: str):
  trained(data, tmp_path / "one", eval_examples=1)
  (kept,) = (tmp_path / "one" / "baselines").glob("*.json")
  (tmp_path / "two" / "baselines").mkdir(parents=True)
  (tmp_path / "two" / "baselines" / kept.name).write_text(text)
  with pytest.raises(UserError, match=kept.name):
    trained(data, tmp_path / "two", eval_examples=1)


def test_a_log_of_one_class_has_no_logistic_alarm(data: Path, tmp_path: Path):
  """Undefined numbers are null in the file, and NaN again when they are read."""
  out = trained(data, tmp_path, eval_examples=1)
  assert out["logistic_roc_auc"] is None or math.isnan(out["logistic_roc_auc"])
  again = trained(data, tmp_path / "again", eval_examples=1)
  assert again["logistic_log_loss"] == out["logistic_log_loss"]


def test_planted_data_has_the_base_rate_alone_unless_asked(tmp_path: Path):
  out = loop.train(dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, num_examples=4096)), tmp_path / "auto")
  assert "logistic_ne" not in out and out["base_rate_ne"] == pytest.approx(1, abs=0.01)
  asked = dataclasses.replace(TINY, logistic="yes", train=dataclasses.replace(TINY.train, num_examples=65_536))
  out = loop.train(asked, tmp_path / "asked")
  assert 0.8 < out["logistic_ne"] < 1


def test_it_can_be_left_out(data: Path, tmp_path: Path):
  out = loop.train(dataclasses.replace(TINY, data=str(data), logistic="no"), tmp_path, quiet=True)
  assert "logistic_ne" not in out and not (tmp_path / "baselines").exists()
