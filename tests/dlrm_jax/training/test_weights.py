"""Example weights and left-out negatives in training: losses, metrics and records.

The judge of weights is a log in which each row is repeated as often as its weight says, and numpy. The judges of left-out negatives are
closed forms: the logit of a model that knows the click rate alone, and the calibration of held-out rows on the log's own rate.
"""

import dataclasses
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from dlrm_jax.common import flags
from dlrm_jax.config import RunConfig
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.source import PreparedSource, open_source
from dlrm_jax.training import metrics, roc_auc
from dlrm_jax.training.loop import train

MODEL = ["--overarch=8,1", "--embed_dim=4", "--num_rows=64", "--rows_by=hash", "--warmup_examples=0"]


def made(directory: Path, rows: list[dict], *more: str, weight: bool = False, dense: bool = True) -> Path:
  """A data set of rows of y, c, d, x and perhaps w; ids by hash, so that repeated rows change none."""
  directory.mkdir()
  text = "y,c,d,x,w\n" + "".join(",".join(str(row.get(name, 1)) for name in ("y", "c", "d", "x", "w")) + "\n" for row in rows)
  (directory / "log.csv").write_text(text)
  keys = 'label = "y"\ncategorical = ["c", "d"]\n' + 'weight = "w"\n' * weight + '[dense]\nx = { transform = "log1p" }\n' * dense
  (directory / "s.toml").write_text(keys)
  words = ["prepare", "--format=csv", f"--input={directory}/log.csv", f"--schema={directory}/s.toml", f"--output={directory}/out"]
  prepare(flags.parse([*words, "--vocabulary=hash", "--workers=1", *more], PrepareConfig))
  return directory / "out"


def trained(directory: Path, data: Path, *more: str, corrected: bool = True) -> dict:
  words = ["train", f"--data={data}", f"--workdir={directory}", *MODEL, *more]
  source = open_source(flags.parse(words, RunConfig))
  assert isinstance(source, PreparedSource)
  config = flags.parse([*words, "--bottom=8,4"] if source.shape.num_dense else words, RunConfig)
  if not corrected:
    shape = dataclasses.replace(source.shape, negatives_kept=1.0)
    source = dataclasses.replace(source, dataset=dataclasses.replace(source.dataset, shape=shape))
  return train(config, directory, source, quiet=True)


def rows_with_weights(count: int, weights: list, seed: int = 0) -> list[dict]:
  rng = random.Random(seed)
  rows = []
  for i in range(count):
    c, x = rng.randrange(6), rng.randrange(50)
    rows.append({"y": int(rng.random() < 0.1 + 0.1 * c), "c": c, "d": rng.randrange(9), "x": x, "w": weights[i % len(weights)]})
  return rows


SAME = ("log_loss", "ne", "roc_auc", "calibration", "progressive_log_loss", "progressive_ne", "progressive_log_loss_recent", "base_rate")


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_a_weight_is_a_number_of_repeats(tmp_path, optimizer):
  """Batches of 64 rows with weights 1, 2, 0, 3, 2 (0 is left out) and of 128 repeated rows hold the same; so do all steps and metrics."""
  rows = rows_with_weights(64 * 5 * 5, [1, 2, 0, 3, 2])
  kept = [row for row in rows if row["w"]]
  repeated = [row for row in kept for _ in range(row["w"])]
  held_out, held_out_repeated = 64 * 3, 128 * 3
  more = [
    f"--table_optimizer={'rowwise_adagrad' if optimizer == 'adagrad' else 'sgd'}",
    f"--dense_optimizer={optimizer}",
    "--first_eval=128",
  ]
  weighted = made(tmp_path / "w", rows, f"--eval_rows={held_out}", weight=True)
  plain = made(tmp_path / "p", repeated, f"--eval_rows={held_out_repeated}")
  one = trained(tmp_path / "one", weighted, "--batch_size=64", f"--num_examples={len(kept) - held_out}", *more)
  two = trained(tmp_path / "two", plain, "--batch_size=128", f"--num_examples={len(repeated) - held_out_repeated}", *more)
  assert {name: one[name] for name in SAME} == pytest.approx({name: two[name] for name in SAME}, rel=2e-5)
  assert one["weight_column"] == "w"
  assert "weight_column" not in two
  assert abs(one["calibration"] - 1) > 1e-3


def test_weights_change_what_is_learned(tmp_path):
  """Rows that contradict the others count little by their weight; without it they are half of the log."""
  rows = [{"y": int((i % 2 == 0) == (i % 4 < 2)), "c": i % 2, "d": 0, "x": 1, "w": 10 if i % 4 < 2 else 0.1} for i in range(4000)]
  data = made(tmp_path / "w", rows, "--eval_rows=400", weight=True)
  plain = made(tmp_path / "p", rows, "--eval_rows=400")
  weighted = trained(tmp_path / "one", data, "--batch_size=40", "--table_lr=0.1", "--dense_lr=0.05", "--num_examples=3600")
  alike = trained(tmp_path / "two", plain, "--batch_size=40", "--table_lr=0.1", "--dense_lr=0.05", "--num_examples=3600")
  assert weighted["log_loss"] < 0.2 < 0.6 < alike["log_loss"]
  assert weighted["roc_auc"] > 0.95


@pytest.mark.parametrize("seed", range(4))
def test_weighted_metrics_are_those_of_numpy_and_of_repeated_rows(seed):
  rng = np.random.default_rng(seed)
  logit = np.round(rng.normal(-1, 1, 3000) * 3) / 3 if seed % 2 else rng.normal(-1, 1, 3000)
  logit, label = logit.astype(np.float32), (rng.random(3000) < special.expit(logit)).astype(np.float32)
  weight = rng.integers(1, 5, 3000).astype(np.float32)
  stream = metrics.Accumulator(0.2, block=int(rng.integers(1, 2000)))
  cuts = [0, *np.sort(rng.integers(0, 3001, 8)).tolist(), 3000]
  for low, high in zip(cuts, cuts[1:]):
    stream.add(logit[low:high], label[low:high], weight_n=weight[low:high])
  got, times = stream.metrics(), weight.astype(int)
  repeated = metrics.evaluate(np.repeat(logit, times), np.repeat(label, times), 0.2)
  known = {name: value for name, value in dataclasses.asdict(repeated).items() if value is not None and name != "losses"}
  assert {name: getattr(got, name) for name in known} == pytest.approx(known, rel=1e-9)
  prob, label64, weight64 = special.expit(logit.astype(float)), label.astype(float), weight.astype(float)
  loss = np.average(-np.where(label == 1, np.log(prob), np.log1p(-prob)), weights=weight64)
  assert got.log_loss == pytest.approx(loss, rel=1e-9)
  assert got.losses is not None and got.losses.sum(axis=1) == pytest.approx([loss * weight64.sum(), weight64.sum()], rel=1e-9)
  assert got.ne == pytest.approx(loss / stats.bernoulli(0.2).entropy(), rel=1e-9)
  assert got.calibration == pytest.approx(np.average(prob, weights=weight64) / np.average(label64, weights=weight64), rel=1e-9)
  pairs = weight[label == 1][:, None] * weight[label == 0]
  above = (logit[label == 1][:, None] > logit[label == 0]) + 0.5 * (logit[label == 1][:, None] == logit[label == 0])
  assert got.roc_auc == pytest.approx((pairs * above).sum() / pairs.sum(), rel=1e-9)
  with pytest.raises(ValueError, match="with some predictions and not with others"):
    stream.add(logit, label)


def test_a_weighted_roc_auc_of_bins_is_within_its_error():
  rng = np.random.default_rng(7)
  score, label, weight = rng.normal(size=2000), rng.integers(0, 2, 2000), rng.exponential(size=2000)
  exact, coarse = roc_auc.RocAuc(), roc_auc.RocAuc(40)
  for some in np.split(np.arange(2000), 10):
    exact.add(score[some], label[some], weight[some])
    coarse.add(score[some], label[some], weight[some])
  assert exact.error() == 0
  assert 0 < abs(exact.value() - coarse.value()) <= coarse.error() < 0.1


def constant_log(count: int, rate: float, seed: int = 0) -> list[dict]:
  rng = random.Random(seed)
  return [{"y": int(rng.random() < rate), "c": 0, "d": 0, "x": 1} for _ in range(count)]


@pytest.mark.parametrize("corrected", [True, False])
def test_left_out_negatives_by_a_closed_form(tmp_path, corrected):
  """A model that sees one value learns the click rate. That of the log has odds of clicks over kept negatives, times the share kept.

  Without the correction it learns the rate among the kept rows, which is several times too high.
  """
  rows, share = constant_log(22_000, 0.05), 0.1
  data = made(tmp_path / "d", rows, "--eval_rows=2000", f"--keep_negatives={share}", dense=False)
  options = [
    "--batch_size=10",
    "--num_examples=100000",
    "--table_lr=0.05",
    "--dense_lr=0.05",
    "--table_optimizer=sgd",
    "--dense_optimizer=sgd",
  ]
  record = trained(tmp_path / "run", data, *options, corrected=corrected)
  clicks = sum(row["y"] for row in rows[:-2000])
  odds = clicks / (record["examples"] - clicks) * (share if corrected else 1)
  assert special.logit(record["calibration"] * sum(row["y"] for row in rows[-2000:]) / 2000) == pytest.approx(math.log(odds), abs=0.15)
  assert record["base_rate"] == pytest.approx(clicks / 20_000)
  if corrected:
    assert record["negatives_kept"] == share
    assert record["calibration"] == pytest.approx(1, abs=0.2)
    clicked = sum(row["y"] for row in rows[-2000:]) / 2000
    expected = metrics.constant_log_loss(float(special.expit(math.log(odds))), clicked) / metrics.entropy(clicks / 20_000)
    assert record["ne"] == pytest.approx(expected, abs=0.01)
    assert record["progressive_log_loss"] == pytest.approx(stats.bernoulli(clicks / 20_000).entropy(), rel=0.15)  # that of the log
  else:
    assert record["calibration"] > 4


def test_left_out_negatives_of_a_log_with_something_to_learn(tmp_path):
  """Held-out rows are as well calibrated as without, on the rate of the log."""
  rng = random.Random(3)
  rows = []
  for _ in range(60_000):
    c = rng.randrange(8)
    rows.append({"y": int(rng.random() < 0.01 * (1 + 3 * c)), "c": c, "d": rng.randrange(5), "x": rng.randrange(9)})
  options = ["--batch_size=20", "--num_examples=100000", "--table_lr=0.05", "--dense_lr=0.05", "--first_logit=base_rate"]
  whole = trained(tmp_path / "whole", made(tmp_path / "w", rows, "--eval_rows=10000"), *options)
  some = trained(tmp_path / "some", made(tmp_path / "s", rows, "--eval_rows=10000", "--keep_negatives=0.25"), *options)
  assert some["examples"] < whole["examples"] / 2.5
  assert some["base_rate"] == whole["base_rate"]
  assert some["calibration"] == pytest.approx(whole["calibration"], abs=0.03) == pytest.approx(1, abs=0.05)
  for name, within in (("ne", 0.01), ("progressive_ne", 0.01), ("logistic_ne", 0.02)):
    assert some[name] == pytest.approx(whole[name], abs=within), name


def test_progressive_losses_of_several_looks_are_weighted(tmp_path):
  """Weights and clicks increase along the log, whose rows are alike otherwise. The model does not change: it always predicts one rate."""
  rows = [{"y": int(i % 12 < 1 + i // 512), "c": 0, "d": 0, "x": 1, "w": 1 + i // 512} for i in range(2560)]
  data = made(tmp_path / "w", rows, "--eval_rows=256", weight=True)
  frozen = ["--table_lr=1e-30", "--dense_lr=1e-30"]
  record = trained(tmp_path / "run", data, "--batch_size=128", "--num_examples=2304", "--first_eval=256", *frozen)
  weight, label = (np.array([row[name] for row in rows[:2304]], float) for name in ("w", "y"))
  rate, predicted = np.average(label, weights=weight), record["calibration"] * np.mean([row["y"] for row in rows[2304:]])
  assert abs(rate - label.mean()) > 0.02
  assert record["base_rate"] == pytest.approx(rate, rel=1e-9)
  expected = metrics.constant_log_loss(predicted, rate)
  assert record["progressive_log_loss"] == pytest.approx(expected, rel=1e-5)
  assert record["progressive_ne"] == pytest.approx(expected / stats.bernoulli(rate).entropy(), rel=1e-5)
