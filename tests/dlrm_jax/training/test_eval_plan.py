"""How many held-out examples evaluations predict, and that those of a curve can be compared."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from epochs_case import LOG_ROWS, config_of, prepared_log, rows_of_set
from hypothesis import given
from hypothesis import strategies as st

from dlrm_jax.common import record
from dlrm_jax.config import ALL, TrainConfig
from dlrm_jax.data.order import spread
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import open_source
from dlrm_jax.training import evaluation, held_out, loop, metrics
from dlrm_jax.training.eval_plan import COST, LEAST, SHARE, early_examples, early_octaves, eval_points, evaluated_examples, points_of
from dlrm_jax.training.evaluation import EvalSet
from dlrm_jax.training.held_out import HeldOut
from dlrm_jax.training.learner import make_learner


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return prepared_log(tmp_path_factory.mktemp("data"))


def test_points_after_a_start_inside_a_batch_are_whole_batches_after_it():
  assert eval_points(1000, 64, 100, 1) == [128, 256, 448, 832, 1000]
  assert eval_points(1000, 64, 100, 1, start=300) == [108, 236, 428, 812, 1000]
  assert points_of(TrainConfig(num_examples=1000, batch_size=64, first_eval=100, evals_per_octave=1), 300) == [428, 812, 1000]
  for start in range(0, 1000, 64):
    late = [point for point in eval_points(1000, 64, 100, 1) if point > start]
    assert [point for point in eval_points(1000, 64, 100, 1, start=start) if point > start] == late


@given(
  num_examples=st.integers(1, 10**8), held_out_rows=st.integers(1, 10**7), first=st.integers(1, 10**5), per=st.integers(1, 4),
  epochs=st.integers(1, 3),
)  # fmt: skip
def test_evaluations_take_at_most_a_third_of_a_run(num_examples: int, held_out_rows: int, first: int, per: int, epochs: int):
  """By the cost of an example that is assumed. Where the last evaluation alone takes more, those before it are as small as they may be."""
  train = TrainConfig(num_examples=num_examples, epochs=epochs, eval_examples=ALL, first_eval=first, evals_per_octave=per)
  evaluated, early = evaluated_examples(train, held_out_rows) * COST, early_examples(train, held_out_rows)
  share = evaluated / (evaluated + train.total_examples)
  smallest = early < 2 * LEAST or early == held_out_rows < LEAST
  assert share <= SHARE * (1 + 1e-9) or smallest or len(points_of(train)) == 1
  if early_octaves(train, held_out_rows):
    assert early >= LEAST
    fewer = dataclasses.replace(train, eval_examples=1)
    assert early_octaves(fewer, held_out_rows) == 0 and evaluated_examples(fewer, 1) == len(points_of(train))


def test_the_least_is_not_exceeded_without_need():
  """A run of many examples evaluates all rows each time."""
  train = TrainConfig(num_examples=10**7, eval_examples=ALL)
  assert early_octaves(train, 10_000) == 0 and early_examples(train, 10_000) == 10_000
  assert early_octaves(train, 10**6) == 2  # 24 evaluations share 9M examples: 375k each, a quarter has 250k
  assert [early_octaves(dataclasses.replace(train, num_examples=n), 147_000) for n in (10**6, 262_144, 65_536)] == [2, 5, 7]


def slow_metrics(config, state, rows: np.ndarray) -> metrics.Metrics:
  """Metrics of some held-out rows, predicted one batch after another without any of the program's sets."""
  source = open_source(config)
  learner, label_n, logit_n = make_learner([config], source), [], []
  everything = [batch for batch, _ in source.eval_batches(config.train.batch_size, 10**9)]
  for batch in everything:
    logit_n.append(np.asarray(learner.predict(state, learner.put(batch)))[0])
    label_n.append(batch.label_b)
  logit, label = np.concatenate(logit_n)[rows], np.concatenate(label_n)[rows]
  return metrics.evaluate(logit, label, source.base_rate())


def test_early_points_are_on_the_spread_rows_and_the_last_on_all(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """By another path: each evaluation repeated on the rows that the data set is known to have."""
  monkeypatch.setattr("dlrm_jax.training.eval_plan.LEAST", 64)
  config, states = config_of(data, eval_examples=ALL), []
  held = rows_of_set(data, "eval")
  octaves = early_octaves(config.train, held)
  assert octaves >= 2
  real = loop.evaluate

  def watched(learner, state, examples, runs):
    states.append((examples.num_examples, learner, state))
    return real(learner, state, examples, runs)

  measured = []

  def evaluate(learner, state, examples, runs):
    watched(learner, state, examples, runs)
    few, everything = (slow_metrics(config, state, rows) for rows in (spread(held, octaves), np.arange(held)))
    measured.append((examples.num_examples, few, everything))
    return real(learner, state, examples, runs)

  monkeypatch.setattr(loop, "evaluate", evaluate)
  out = loop.train(config, tmp_path, quiet=True)
  rows, few = record.read_curve(tmp_path / "curve.jsonl"), len(spread(held, octaves))
  assert [row["eval_examples"] for row in rows] == [few] * (len(rows) - 1) + [held]
  assert [count for count, *_ in measured] == [*[few] * (len(rows) - 1), held, few]
  for row, (_, common, everything) in zip(rows, measured, strict=False):
    last = row is rows[-1]
    assert row["log_loss"] == pytest.approx((everything if last else common).log_loss, rel=1e-6)
    assert row["common_log_loss"] == pytest.approx(common.log_loss, rel=1e-6)
    assert row["common_ne"] == pytest.approx(common.ne, rel=1e-6)
  assert abs(rows[-1]["common_log_loss"] - rows[-1]["log_loss"]) > 1e-5
  assert out["eval_examples"] == held
  assert out["evaluated_examples"] == few * len(rows) + held
  assert evaluated_examples(config.train, held) == pytest.approx(out["evaluated_examples"], abs=len(rows))


def test_a_number_of_evaluation_examples_is_that_of_every_evaluation(data: Path, tmp_path: Path):
  loop.train(config_of(data, eval_examples=70), tmp_path, quiet=True)
  rows = record.read_curve(tmp_path / "curve.jsonl")
  assert {row["eval_examples"] for row in rows} == {70} and len(rows) > 2
  assert all(row["common_log_loss"] == row["log_loss"] and row["common_ne"] == row["ne"] for row in rows)


def test_runs_of_a_process_share_their_sets(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """The same rows are read once, whatever else differs; other rows, batches or columns are read anew, and the old ones are let go."""
  reads, real = [], EvalSet._read
  monkeypatch.setattr(EvalSet, "_read", lambda self: (reads.append(self.num_examples), real(self))[1])
  monkeypatch.setattr(held_out, "_shared", {})
  base, directories = config_of(data, eval_examples=70), (tmp_path / str(i) for i in itertools.count())

  def train(**changes) -> int:
    reads.clear()
    config = dataclasses.replace(base, train=dataclasses.replace(base.train, **changes))
    first = loop.train(config, next(directories), quiet=True)
    count = len(reads)
    held_out._shared.clear()
    assert loop.train(config, next(directories), quiet=True)["log_loss"] == first["log_loss"]  # the same numbers from batches read anew
    return count

  assert train() == 1
  assert train(seed=1) == 0 and train(num_examples=300, table_lr=0.3) == 0
  assert train(batch_size=32) == 1 and train(batch_size=32, eval_examples=60) == 1 and train() == 1
  reads.clear()
  loop.train(dataclasses.replace(base, steps_per_call=3), next(directories), quiet=True)
  assert len(reads) == 1  # three batches for each call
  fewer = dataclasses.replace(base, model=dataclasses.replace(base.model, num_tables=1))
  reads.clear()
  loop.train(fewer, next(directories), quiet=True)
  assert len(reads) == 1 and len(held_out._shared) == 1
  monkeypatch.setattr(evaluation, "KEPT_BYTES", 0)
  reads.clear()
  loop.train(fewer, next(directories), quiet=True)
  assert len(reads) > 2  # what takes too much memory is read for every evaluation


def test_planted_sets_are_shared_by_teacher():
  config = config_of("planted", eval_examples=256)
  source, other = Planted(config.planted), Planted(dataclasses.replace(config.planted, seed=1))
  learner = make_learner([config], source)
  (first,) = HeldOut(source, learner, config.train).sets(10)
  assert HeldOut(Planted(config.planted), learner, config.train).sets(10) == [first]
  assert HeldOut(other, learner, config.train).sets(10) != [first]
  assert LOG_ROWS > 0
