"""What a trial of the search for learning rates trains on and is compared by, and runs whose decay is found."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from epochs_case import config_of, prepared_log

from dlrm_jax import train
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import FIRST_DECAY, FOUND, RunConfig
from dlrm_jax.data.prepare import program
from dlrm_jax.data.source import open_source, resolved
from dlrm_jax.training import loop, trials
from dlrm_jax.training.learner import make_learner

FALLING = {"lr_schedule": "inverse_sqrt", "decay_examples": FOUND}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return prepared_log(tmp_path_factory.mktemp("data"))


def with_train(config: RunConfig, **changes: object) -> RunConfig:
  return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def trials_of(config: RunConfig) -> trials.Trials:
  source = open_source(config)
  return trials.Trials(resolved(config, source), source, quiet=True)


def test_the_examples_of_a_trial_are_stretches_spread_over_the_run(data: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(trials, "LEAST", 512)
  monkeypatch.setattr(trials, "PIECES", 4)
  some = trials_of(config_of(data, num_examples=0))
  rows = np.concatenate([np.expm1(batch.dense_bm[:, 0].astype(np.float64)).round().astype(int) for batch in some._batches])
  assert rows.tolist() == [row for first in (0, 657, 1314, 1972) for row in range(first, first + 128)]
  assert (some.length, some.loss_examples) == (512, 256)


def test_a_short_run_is_its_own_trial(data: Path):
  config = config_of(data)
  some, source = trials_of(config), open_source(config)
  for ours, its in zip(some._batches, source.train_batches(0, 64, 1500), strict=True):
    np.testing.assert_array_equal(ours.ids_bl, its.ids_bl)
    np.testing.assert_array_equal(ours.label_b, its.label_b)
  assert some.length == 1500


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_its_losses_are_those_of_rows_that_the_model_has_not_seen(data: Path, steps_per_call: int):
  """A judge that takes one step at a time, predicts a whole tenth before it, and sums in float64."""
  config = dataclasses.replace(with_train(config_of(data), **FALLING | {"decay_examples": 400}), steps_per_call=steps_per_call)
  some = trials_of(config)
  (found,) = some.losses([config])
  batches, (learner, state) = some._batches, (make_learner([config], open_source(config)), None)
  state, losses, edges = learner.start(), [], [round(len(batches) * i / 10) for i in range(11)]
  for number, batch in enumerate(batches):
    if number in edges[5:]:
      for later in batches[number : edges[edges.index(number) + 1]]:
        logit_b = np.asarray(learner.predict(state, later)[0], np.float64)
        loss_b = np.log1p(np.exp(logit_b)) - later.label_b * logit_b
        losses.append(((loss_b * later.weight_b).sum(), later.weight_b.sum()))
    state = learner.train(state, [(batch,)])
  sums = np.array(losses)
  tenths = [np.arange(low, high) - edges[5] for low, high in zip(edges[5:-1], edges[6:], strict=True)]
  want = [sums[part, 0].sum() / max(sums[part, 1].sum(), 1) for tenth in tenths for part in _parts(tenth) if len(part)]
  assert len(found) == len(want) == 12  # batches of the later half of 24
  assert found == pytest.approx(want, rel=2e-5)


def _parts(tenth: np.ndarray) -> list[np.ndarray]:
  cuts = [len(tenth) * i // trials.PARTS for i in range(trials.PARTS + 1)]
  return [tenth[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def test_rates_that_follow_the_latest_rows_do_not_win(tmp_path: Path):
  """An item's click rate is drawn anew every 200 rows. Large steps predict the next batch best, small ones later rows."""
  rng = np.random.default_rng(0)
  rows, items = 8000, 5
  item, block = rng.integers(0, items, rows), np.arange(rows) // 200
  label = rng.uniform(size=rows) < np.where(rng.uniform(size=(block[-1] + 1, items)) < 0.5, 0.9, 0.1)[block, item]
  (tmp_path / "log.csv").write_text("y,item,same\n" + "".join(f"{int(y)},i{i},a\n" for y, i in zip(label, item, strict=True)))
  (tmp_path / "log.toml").write_text('label = "y"\ncategorical = ["item", "same"]\n')
  words = ["--format=csv", f"--input={tmp_path}/log.csv", f"--schema={tmp_path}/log.toml", f"--output={tmp_path}/set", "--eval_rows=200"]
  program.main(flags.parse(["prepare", "--workers=1", *words], program.PrepareConfig))
  rates = {"table_optimizer": "sgd", "dense_optimizer": "sgd", "table_lr": 2.0, "dense_lr": 0.05}
  config = with_train(config_of(tmp_path / "set", num_examples=0, batch_size=10), **rates, **FALLING)
  source = open_source(config)
  config = resolved(config, source)
  fast, slow = (with_train(config, decay_examples=n) for n in (100_000, 10))
  after_fast, after_slow = (loop.train(run, tmp_path / str(run.train.decay_examples), source, quiet=True) for run in (fast, slow))
  assert after_fast["progressive_log_loss_recent"] < 0.9 * after_slow["progressive_log_loss_recent"]
  of_fast, of_slow = (math.fsum(parts) for parts in trials_of(config).losses([fast, slow]))
  assert of_fast > 1.05 * of_slow


def test_a_run_finds_its_decay_and_keeps_its_rates(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  """The run is that of the same number given as a flag; a run that goes on from its checkpoint takes it from there."""
  base = dataclasses.replace(with_train(config_of(data), **FALLING), checkpoint=True, workdir=str(tmp_path / "found"))
  with pytest.raises(UserError, match="--decay_examples=found: dlrm_jax.train and sweeps.run find it before a run begins"):
    loop.train(base, tmp_path / "loop")
  train.main(base)
  out = record.read_json(tmp_path / "found" / "record.json")
  settings, tried = out["config"]["train"], out["lr_find"]["tried"]
  assert settings["decay_examples"] == out["lr_find"]["picked"]["decay_examples"] > 0
  assert (settings["table_lr"], settings["dense_lr"]) == (0.1, base.train.dense_lr) and tried[0]["decay_examples"] == FIRST_DECAY
  assert {(trial["table_lr"], trial["dense_lr"]) for trial in tried} == {(0.1, base.train.dense_lr)}
  assert f"--decay_examples={settings['decay_examples']}" in capsys.readouterr().err
  given = with_train(base, decay_examples=settings["decay_examples"])
  same = loop.train(given, tmp_path / "given")
  assert (same["config_id"], same["log_loss"]) == (out["config_id"], out["log_loss"])
  later = dataclasses.replace(with_train(base, num_examples=2000), restore=str(tmp_path / "found"), workdir=str(tmp_path / "later"))
  train.main(later)
  went_on = record.read_json(tmp_path / "later" / "record.json")
  assert went_on["config"]["train"]["decay_examples"] == settings["decay_examples"]
  assert not (tmp_path / "later" / "lr_find.json").exists()
