"""Runs of several epochs, on windows, and after a pass that ended inside a batch: the right rows, the same bits after a stop, and what is
left out in the record."""

import dataclasses
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from epochs_case import EVAL_ROWS, TRAIN_ROWS, config_of, prepared_log
from hypothesis import given
from hypothesis import strategies as st
from resume_case import assert_same_run

from dlrm_jax import train
from dlrm_jax.batch import Batch
from dlrm_jax.common import record, stopping
from dlrm_jax.common.flags import UserError, parse, words
from dlrm_jax.config import ALL, RunConfig
from dlrm_jax.data.source import open_source, resolved
from dlrm_jax.identity import base_id, config_id
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import loop, trajectory
from dlrm_jax.training.coverage import Coverage, coverage_of
from dlrm_jax.training.learner import make_learner


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return prepared_log(tmp_path_factory.mktemp("data"))


def examples_of(config: RunConfig) -> Batch:
  """All training examples of a run in order, as one batch of numpy arrays without padding."""
  source, settings = open_source(config), config.train
  batches = list(source.train_batches(settings.seed, 1, settings.total_examples))
  return jax.tree.map(lambda *x: np.concatenate([np.asarray(part) for part in x]), *batches)


def cut(examples: Batch, low: int, high: int, size: int) -> Batch:
  """Examples `low .. high - 1` as one batch, padded with zeros."""
  return jax.tree.map(lambda x: np.concatenate([x[low:high], np.zeros((size - (high - low), *x.shape[1:]), x.dtype)]), examples)


def state_after(config: RunConfig, ends: list[int]) -> Any:
  """The state after training step by step, in batches that begin anew after each of the counts `ends`."""
  examples, size = examples_of(config), config.train.batch_size
  learner = make_learner([config], open_source(config))
  state = learner.start()
  for first, end in itertools.pairwise([0, *ends]):
    for low in range(first, end, size):
      state = learner.train(state, [(learner.put(cut(examples, low, min(low + size, end), size)),)])
  return learner, state


@pytest.mark.parametrize("kind", ["time", "shuffled", "epochs", "planted", "planted epochs"])
def test_a_run_goes_on_after_a_pass_that_ended_inside_a_batch(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """At the next row, in batches cut anew: the state is that of these steps by hand, also after two such passes."""
  monkeypatch.setattr(trajectory, "_CHECK_EVERY", 5)
  changes: dict[str, Any] = {"shuffled": {"order": "shuffled", "seed": 2}, "epochs": {"epochs": 2, "num_examples": 750}}.get(
    kind.split()[-1], {}
  )
  base = dataclasses.replace(config_of("planted" if "planted" in kind else data, **changes), checkpoint=True)
  schedule = dataclasses.replace(base.train, lr_schedule="inverse_sqrt", decay_examples=300)  # learning rates follow the steps
  base = dataclasses.replace(base, train=schedule)
  ends, restore = ([750, 1500] if "epochs" in kind else [333, 340, 1500]), None
  for end in ends:
    part = {"epochs": 1 if end == 750 else 2} if "epochs" in kind else {"num_examples": end}
    config = dataclasses.replace(base, train=dataclasses.replace(base.train, **part), restore=restore)
    out = loop.train(config, tmp_path / str(end), quiet=True)
    restore = str(tmp_path / str(end) / "checkpoint")
  assert (out["examples"], out["restored_examples"]) == (1500, ends[-2])
  learner, state = state_after(base, ends)
  assert learner.restore is not None and learner.snapshot is not None
  kept = learner.snapshot(learner.restore(tmp_path / "1500" / "checkpoint" / f"{1500:012d}"), 0)
  for (path, ours), (_, by_hand) in zip(
    jax.tree.leaves_with_path(kept.arrays), jax.tree.leaves_with_path(learner.snapshot(state, 0).arrays), strict=True
  ):
    if "progress" not in jax.tree_util.keystr(path):  # its sums are read on the way
      np.testing.assert_array_equal(ours, by_hand, err_msg=jax.tree_util.keystr(path))
  rows = record.read_curve(tmp_path / "1500" / "curve.jsonl")
  assert [(row["examples"] - ends[-2]) % 64 for row in rows[:-1]] == [0] * (len(rows) - 1) and rows[-1]["examples"] == 1500


@pytest.mark.parametrize(
  "changes", [{"epochs": 3}, {"epochs": 3, "order": "shuffled"}, {"epochs": 2, "window": "recent", "order": "shuffled"}]
)
def test_a_run_of_several_epochs_stopped_anywhere_is_the_run_without_a_stop(changes: dict, data: Path, tmp_path: Path):
  config = config_of(data, num_examples=500, **changes)
  calls = itertools.count(1)
  loop.train(config, tmp_path / "whole", quiet=True)
  stops, rng = 0, np.random.default_rng(len(changes))

  def make(configs, source):
    learner, stop_at = make_learner(configs, source), next(calls) and int(rng.integers(2, 8))
    steps = itertools.count(1)

    def step(state, batches):
      if next(steps) == stop_at:
        os.kill(os.getpid(), signal.SIGTERM)
      return learner.train(state, batches)

    return dataclasses.replace(learner, train=step)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "make_learner", make)
    while not (tmp_path / "stopped" / "record.json").exists():
      with stopping.installed():
        try:
          loop.train(config, tmp_path / "stopped", quiet=True)
        except stopping.Stopped:
          stops += 1
  assert stops >= 3
  assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_every_epoch_trains_on_the_rows_once(data: Path, tmp_path: Path):
  """Rows that are seen again are predicted better than new ones; the curve says in which epoch it is."""
  config = config_of(data, num_examples=300, epochs=8, table_lr=0.5)
  out = loop.train(config, tmp_path / "run", quiet=True)
  rows = record.read_curve(tmp_path / "run" / "curve.jsonl")
  assert (out["examples"], out["epochs"]) == (2400, 8.0)
  assert [row["epochs"] for row in rows] == [row["examples"] / 300 for row in rows]
  assert rows[-1]["progressive_log_loss_recent"] < rows[0]["progressive_log_loss_recent"] - 0.05
  numbers = examples_of(dataclasses.replace(config, train=dataclasses.replace(config.train, order="shuffled"))).dense_bm[:, 0]
  epochs = numbers.reshape(8, 300)
  assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 8


def test_windows_are_the_two_ends_of_the_log(data: Path, tmp_path: Path):
  for window, order in itertools.product(("oldest", "recent"), ("time", "shuffled")):
    numbers = np.expm1(examples_of(config_of(data, num_examples=500, window=window, order=order)).dense_bm[:, 0]).round().astype(int)
    if order == "time":
      assert numbers.tolist() == list(range(500) if window == "oldest" else range(TRAIN_ROWS - 500, TRAIN_ROWS))
    elif window == "recent":
      assert sorted(numbers) == list(range(TRAIN_ROWS - 500, TRAIN_ROWS)) != numbers.tolist()
    else:
      assert len(set(numbers)) == 500 and numbers.max() > TRAIN_ROWS - 500  # drawn from the whole log


@pytest.mark.parametrize(
  ("first", "then", "message"),
  [
    (
      {"window": "recent"},
      {"window": "recent", "num_examples": 1600},
      "its epochs have 1500 rows and a window of another length begins at",
    ),
    ({"window": "recent"}, {"window": "oldest", "num_examples": 1600}, "its train.window is recent, this run's is oldest"),
    ({"num_examples": 600, "epochs": 2}, {"num_examples": 1600}, "its epochs have 600 rows and it is past its first epoch"),
    ({"num_examples": 1000}, {"num_examples": 600, "epochs": 3}, "its epochs have 1000 rows and it is past its first epoch, or this run"),
    ({}, {"num_examples": 700, "epochs": 2}, "--num_examples=700 --epochs=2: the checkpoint has seen 1500: nothing is left to train on"),
  ],
)
def test_a_run_that_would_read_other_rows_than_its_checkpoint_is_refused(first: dict, then: dict, message: str, data: Path, tmp_path: Path):
  loop.train(dataclasses.replace(config_of(data, **first), checkpoint=True), tmp_path / "first", quiet=True)
  config = dataclasses.replace(config_of(data, **then), restore=str(tmp_path / "first" / "checkpoint"))
  if "nothing is left" in message:
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, num_examples=700, epochs=2))
  with pytest.raises(UserError) as error:
    loop.train(config, tmp_path / "then", quiet=True)
  assert message in str(error.value) and "\n" not in str(error.value)
  assert not (tmp_path / "then" / "record.json").exists()


def test_all_is_a_number_of_examples(data: Path, tmp_path: Path):
  """Its run is the run of that number: the same id and the same curve."""
  for flag in ("all", "0"):
    config = parse(["train", f"--num_examples={flag}", f"--data={data}"], RunConfig, PRESETS)
    assert config.train.num_examples == ALL
    assert parse(["train", *words(config)], RunConfig, PRESETS) == config
  by_number, by_word = (config_of(data, num_examples=count) for count in (TRAIN_ROWS, ALL))
  source = open_source(by_word)
  assert resolved(by_word, source) == resolved(by_number, source) == resolved(config_of(data, num_examples=10**9), source) == by_number
  assert base_id(by_word, source.digest) == base_id(by_number, source.digest)
  outs = [loop.train(config, tmp_path / str(i), quiet=True) for i, config in enumerate((by_number, by_word))]
  assert outs[0]["config_id"] == outs[1]["config_id"] == config_id(by_number, source.digest)
  assert outs[1]["config"]["train"]["num_examples"] == TRAIN_ROWS


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (["--num_examples=-1"], "--num_examples=-1: must be at least 0"),
    (["--num_examples=everything"], "flag --num_examples=everything: expected an integer or all"),
    (["--num_examples=all"], "--num_examples=all: planted examples have no end; give a number, or a data set with --data=DIR"),
    (["--preset=click_log"], "--num_examples=all: planted examples have no end"),
    (["--eval_examples=all"], "--eval_examples=all: planted examples have no end"),
    (["--epochs=2", f"--num_examples={2**31 + 1}"], "at most 2147483648 with --epochs=2 on planted data"),
    (["--epochs=2", "--learner=per_id"], "--epochs=2: must be 1 with --learner=per_id, which takes every example for a new one"),
    (["--window=recent"], "--window=recent: planted examples are independent draws, without an order; leave it out"),
    (["--window=newest"], "--window=newest: must be among oldest, recent"),
    (["--epochs=0"], "--epochs=0: must be at least 1"),
  ],
)
def test_what_has_no_meaning_is_refused(given: list[str], message: str, tmp_path: Path, refusal: Callable[..., str]):
  shown = refusal(train.main, RunConfig, PRESETS, [f"--workdir={tmp_path}/run", *given])
  assert message in shown, shown
  assert not (tmp_path / "run").exists()


def test_fields_at_their_default_keep_the_id_of_a_run():
  base = RunConfig(data="here")
  for name, value in (("epochs", 2), ("window", "recent"), ("eval_examples", ALL)):
    changed, same = (dataclasses.replace(base, train=dataclasses.replace(base.train, **{name: x})) for x in (value, default_of(name)))
    assert config_id(changed, "digest") != config_id(base, "digest") == config_id(same, "digest")


def default_of(name: str) -> Any:
  return {"epochs": 1, "window": "oldest", "eval_examples": 65_536}[name]


LINES = {
  (): [],
  ("num_examples=500",): [
    (
      "training on the oldest 500 of 2,100 training rows; the newest 1,600 are left out (--num_examples=all takes all, --window=recent "
      "the newest)"
    )
  ],
  ("num_examples=500", "window=recent"): [
    "training on the newest 500 of 2,100 training rows; the oldest 1,600 are left out (--num_examples=all takes all)"
  ],
  ("num_examples=500", "order=shuffled"): [
    "training on 500 of 2,100 training rows, drawn from the whole log by --seed; 1,600 are left out (--num_examples=all takes all)"
  ],
  ("num_examples=3000",): ["--num_examples=3000: the data has 2,100 training rows; all of them are used"],
  ("epochs=2",): [
    (
      "2 epochs: the rows are repeated after 2,100 examples; repeated rows teach less than new ones (Muennighoff et al. 2023), so that "
      "later points are no data curve"
    )
  ],
  ("eval_examples=100",): ["evaluating the first 100 of 900 held-out rows (--eval_examples=all takes all)"],
}


@pytest.mark.parametrize("given", LINES)
def test_what_is_left_out_is_said_and_recorded(given: tuple[str, ...], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  known: dict[str, Any] = {"num_examples": ALL, "eval_examples": 900}
  for word in given:
    name, _, value = word.partition("=")
    known[name] = int(value) if value.isdecimal() else value
  out = loop.train(config_of(data, **known), tmp_path)
  shown = capsys.readouterr().err.splitlines()
  assert [line for line in shown if line in LINES[given]] == LINES[given] == out["coverage"]["left_out"]
  if not given:
    assert not [line for line in shown if "training rows" in line or "held-out" in line]
  assert (out["coverage"]["training_rows"], out["coverage"]["held_out_rows"]) == (TRAIN_ROWS, EVAL_ROWS)
  assert out["coverage"]["trained_rows"] == out["config"]["train"]["num_examples"]
  assert out["coverage"]["asked"] == known["num_examples"]
  assert out["coverage"]["evaluated"] == out["eval_examples"]
  assert record.read_json(tmp_path / "record.json")["coverage"] == out["coverage"]


def test_early_evaluations_are_said(data: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr("dlrm_jax.training.eval_plan.LEAST", 64)
  config = config_of(data, eval_examples=ALL)
  coverage = coverage_of(config, open_source(config))
  assert coverage is not None
  assert coverage.lines()[-1] == "evaluating 113 of 900 held-out rows, evenly spread, and all of them at the end"


def test_planted_data_leave_nothing_out(tmp_path: Path):
  config = config_of("planted")
  assert coverage_of(config, open_source(config)) is None
  assert loop.train(config, tmp_path, quiet=True)["coverage"] is None


@given(
  rows=st.integers(1, 10**9), asked=st.integers(0, 10**9), held_out=st.integers(1, 10**6), evaluated=st.integers(1, 10**6),
  order=st.sampled_from(["time", "shuffled"]), window=st.sampled_from(["oldest", "recent"]),
)  # fmt: skip
def test_rows_left_out_are_always_said(rows: int, asked: int, held_out: int, evaluated: int, order: str, window: str):
  trained, evaluated = min(asked, rows) or rows, min(evaluated, held_out)
  lines = Coverage(rows, trained, asked, order, window, 1, held_out, evaluated, evaluated).lines()
  assert any("left out" in line for line in lines) == (trained < rows)
  assert any("held-out" in line for line in lines) == (evaluated < held_out)
  assert any("all of them are used" in line for line in lines) == (asked > rows)
  assert all("\n" not in line for line in lines)
