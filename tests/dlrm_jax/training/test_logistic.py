"""The logistic regression against a slow one in plain Python, against scipy's optimum, and what it makes of odd columns."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from dlrm_jax.batch import Batch
from dlrm_jax.shape import DataShape
from dlrm_jax.training import logistic
from dlrm_jax.training.logistic import FtrlSettings, LogisticRegression

SHAPE = DataShape(2, ("a", "tags"), (5, 40), (1, 3), weighted=True)


def random_log(rows: int, seed: int = 0, shape: DataShape = SHAPE) -> Batch:
  """Examples whose clicks follow a logistic model; the last tenth is padding, and places of bags are empty."""
  rng = np.random.default_rng(seed)
  limits = [c for c, length in zip(shape.cardinalities, shape.bag_lengths, strict=True) for _ in range(length)]
  ids = np.stack([rng.integers(0, limit, rows) for limit in limits], axis=1).astype(np.int32)
  bag = (rng.uniform(size=ids.shape) < 0.7).astype(np.float32)
  dense = rng.normal((3.0, -1.0), (10.0, 0.01), (rows, 2)).astype(np.float32)
  effects = rng.normal(size=max(limits))
  logit = (effects[ids] * bag).sum(axis=1) - 1 + 0.5 * (dense[:, 0] - 3) / 10
  label = (rng.uniform(size=rows) < special.expit(logit)).astype(np.float32)
  weight = (np.arange(rows) < 0.9 * rows).astype(np.float32)
  return Batch(dense, ids, label, weight, bag)


def slow(log: Batch, settings: FtrlSettings) -> list[float]:
  """The logits before each step: McMahan et al. 2013, algorithm 1, weight by weight in a dict."""
  z: dict[object, float] = {}
  n: dict[object, float] = {}
  seen: list[np.ndarray] = []
  logits: list[float] = []
  for low in range(0, len(log.label_b), settings.batch_size):
    rows = range(low, min(low + settings.batch_size, len(log.label_b)))
    seen += [np.asarray(log.dense_bm[i], np.float64) for i in rows if log.weight_b[i]]
    mean, deviation = np.mean(seen, axis=0), np.std(seen, axis=0)
    w = {k: -z[k] / ((settings.beta + math.sqrt(n[k])) / settings.alpha + settings.l2) for k in z}
    gradient: dict[object, float] = {}
    for i in rows:
      inputs: dict[object, float] = {"bias": 1.0}
      for m in range(2):
        inputs["dense", m] = float((log.dense_bm[i][m] - mean[m]) / deviation[m])
      for place, (id_, factor) in enumerate(zip(log.ids_bl[i], log.bag_weight_bl[i], strict=True)):
        key = (min(place, 1), int(id_))
        inputs[key] = inputs.get(key, 0.0) + float(factor)
      logit = sum(w.get(k, 0.0) * x for k, x in inputs.items())
      logits.append(logit)
      for k, x in inputs.items():
        gradient[k] = gradient.get(k, 0.0) + float(log.weight_b[i]) * (special.expit(logit) - float(log.label_b[i])) * x
    for k, g in gradient.items():
      before = n.get(k, 0.0)
      n[k] = before + g * g
      z[k] = z.get(k, 0.0) + g - (math.sqrt(n[k]) - math.sqrt(before)) / settings.alpha * w.get(k, 0.0)
  return logits


@pytest.mark.parametrize("settings", [FtrlSettings(), FtrlSettings(alpha=0.7, beta=0.2, l2=0.0, batch_size=7)])
def test_it_is_ftrl_proximal(settings: FtrlSettings):
  log = random_log(600)
  got = LogisticRegression(SHAPE, settings, np.float64).learn(log)
  np.testing.assert_allclose(got, slow(log, settings), rtol=1e-9, atol=1e-9)
  rounded = LogisticRegression(SHAPE, settings).learn(log)  # its state is float32
  np.testing.assert_allclose(rounded, got, rtol=1e-3, atol=1e-4)


def test_many_passes_come_to_scipy_s_optimum():
  """Without l2 the optimum is that of the likelihood alone. The regularising learning rates fade as passes go by."""
  shape = DataShape(2, ("a", "b"), (5, 8), (1, 1))
  log = random_log(2000, seed=3, shape=shape)
  log = Batch(log.dense_bm, log.ids_bl, log.label_b, np.ones_like(log.weight_b))
  x = np.concatenate(
    [np.eye(5)[log.ids_bl[:, 0]], np.eye(8)[log.ids_bl[:, 1]], stats.zscore(log.dense_bm.astype(float)), np.ones((2000, 1))], 1
  )

  def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
    logit = x @ w
    return np.logaddexp(0, logit).mean() - (log.label_b * logit).mean(), x.T @ (special.expit(logit) - log.label_b) / len(x)

  best = optimize.minimize(objective, np.zeros(x.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8})
  regression = LogisticRegression(shape, FtrlSettings(l2=0.0), np.float64)
  for _ in range(150):
    regression.learn(log)
  logit = regression.predict(log)
  loss = np.logaddexp(0, logit).mean() - (log.label_b * logit).mean()
  assert best.fun <= loss < best.fun + 1e-4
  np.testing.assert_allclose(logit, x @ best.x, atol=0.05)


def test_the_unit_of_a_column_changes_nothing():
  log = random_log(1000)
  scaled = Batch(log.dense_bm * np.array([1e6, 1e-6], np.float32), log.ids_bl, log.label_b, log.weight_b, log.bag_weight_bl)
  a, b = (LogisticRegression(SHAPE, dtype=np.float64).learn(each) for each in (log, scaled))
  np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-20, 1e-6, 1e3, 1e20])
def test_the_unit_of_the_weights_changes_nothing(unit: float):
  log, rng = random_log(1000), np.random.default_rng(1)
  weight = (log.weight_b * rng.choice((0.5, 1.0, 3.0), 1000)).astype(np.float32)
  one, other = (Batch(log.dense_bm, log.ids_bl, log.label_b, w, log.bag_weight_bl) for w in (weight, weight * np.float32(unit)))
  a, b = (LogisticRegression(SHAPE).learn(each) for each in (one, other))
  assert np.std(a[-200:]) > 0.3  # it has learned
  np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_examples_of_weight_2_are_examples_seen_twice():
  """In the optimum, where the order of the examples does not matter."""
  shape = DataShape(2, ("a", "b"), (5, 8), (1, 1))
  log = random_log(1500, seed=5, shape=shape)
  twice = np.arange(1500) % 3 == 0
  row = np.concatenate([np.arange(1500), np.flatnonzero(twice)])
  weighted = Batch(log.dense_bm, log.ids_bl, log.label_b, np.where(twice, 2.0, 1.0).astype(np.float32))
  repeated = Batch(log.dense_bm[row], log.ids_bl[row], log.label_b[row], np.ones(len(row), np.float32))
  logits = []
  for each in (weighted, repeated):
    regression = LogisticRegression(shape, FtrlSettings(), np.float64)
    for _ in range(80):
      regression.learn(each)
    logits.append(regression.predict(log))
  np.testing.assert_allclose(*logits, atol=0.03)


def test_a_constant_column_is_no_input():
  log = random_log(1000)
  values = np.broadcast_to(np.array([1 / 3, 1e6 + 0.1], np.float32), log.dense_bm.shape)  # their means are rounded
  constant = Batch(values, log.ids_bl, log.label_b, log.weight_b, log.bag_weight_bl)
  without = Batch(np.zeros((1000, 0), np.float32), log.ids_bl, log.label_b, log.weight_b, log.bag_weight_bl)
  shape = DataShape(0, SHAPE.field_names, SHAPE.cardinalities, SHAPE.bag_lengths, weighted=True)
  np.testing.assert_allclose(LogisticRegression(SHAPE).learn(constant), LogisticRegression(shape).learn(without), atol=1e-12)


def test_ids_beyond_the_most_weights_share_them(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(logistic, "MAX_ROWS", 10)
  shape = DataShape(0, ("a", "b"), (None, 4), (1, 1))
  ids = np.array([[13, 1], [3, 1], [-7, 1], [4, 3]], np.int32)  # -7 is 2**32 - 7 of planted data: 9 modulo 10
  rest = np.zeros((4, 0), np.float32), ids, np.ones(4, np.float32), np.ones(4, np.float32)
  regression = LogisticRegression(shape)
  at = regression._inputs(Batch(*rest)).at_bl
  assert at.tolist() == [[3, 11], [3, 11], [9, 11], [4, 13]]
