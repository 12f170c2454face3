"""Metrics against hand-computed cases and brute force; undefined is NaN."""

import math

import numpy as np
import pytest

from dlrm_jax import metrics


def test_log_loss_ne_and_calibration_by_hand():
  logit = np.log([3.0, 1 / 3, 1.0])  # probabilities .75, .25, .5
  got = metrics.evaluate(logit, np.array([1, 0, 1]), train_rate=0.25)
  loss = -(math.log(0.75) + math.log(0.75) + math.log(0.5)) / 3
  assert got.log_loss == pytest.approx(loss)
  assert got.ne == pytest.approx(loss / -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
  assert got.calibration == pytest.approx(0.5 / (2 / 3))
  assert got.excess is None
  assert got.excess_tail is None


def test_roc_auc_equals_all_pairs_with_ties_half():
  rng = np.random.default_rng(0)
  score, label = rng.integers(0, 6, 200).astype(float), rng.integers(0, 2, 200).astype(float)
  pos, neg = score[label == 1], score[label == 0]
  brute = np.mean((pos[:, None] > neg) + 0.5 * (pos[:, None] == neg))
  assert metrics.roc_auc(score, label) == pytest.approx(brute, abs=1e-12)


def test_undefined_is_nan_never_a_default():
  one_class = metrics.evaluate(np.array([0.1, -0.3]), np.zeros(2), train_rate=0.0)
  assert math.isnan(one_class.roc_auc)
  assert math.isnan(one_class.calibration)
  assert math.isnan(one_class.ne)


def test_excess_is_the_mean_kl():
  rng = np.random.default_rng(1)
  p, q = rng.uniform(0.05, 0.95, 50), rng.uniform(0.05, 0.95, 50)
  kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
  logit = lambda x: np.log(x / (1 - x))  # noqa: E731
  assert metrics.excess(logit(q), logit(p)) == pytest.approx(kl.mean(), rel=1e-12)
  assert metrics.excess(logit(p), logit(p)) == pytest.approx(0, abs=1e-15)


def test_extreme_logits_stay_finite():
  got = metrics.evaluate(np.array([800.0, -800.0]), np.array([1.0, 0.0]), 0.5)
  assert got.log_loss == 0.0
  assert metrics.evaluate(np.array([-800.0, 800.0]), np.array([1.0, 0.0]), 0.5).log_loss == 800.0


def test_tail_excess_sees_the_unlearned_tail_and_not_the_other_parts():
  """Half of the ids learned, the rest at their prior mean; another part's error, uncorrelated with the tail, must not count."""
  rng = np.random.default_rng(2)
  size, sigma = 400_000, 0.3
  learned, lost, other = (rng.normal(0, sigma, size) for _ in range(3))
  tail = learned + lost
  true = -1 + tail + other
  got = metrics.tail_excess(-1 + learned, true, tail)
  prob = metrics.sigmoid(true)
  assert got == pytest.approx(0.5 * np.mean(prob * (1 - prob)) * sigma**2, rel=0.02)
  assert metrics.excess(-1 + learned, true) > 1.8 * got
