"""Metrics against hand-computed cases, brute force and scipy, at once and as a stream; undefined is NaN."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy import special, stats

from dlrm_jax.training import metrics, roc_auc


def test_log_loss_ne_and_calibration_by_hand():
  logit = np.log([3.0, 1 / 3, 1.0])  # probabilities .75, .25, .5
  got = metrics.evaluate(logit, np.array([1, 0, 1]), train_rate=0.25)
  loss = -(math.log(0.75) + math.log(0.75) + math.log(0.5)) / 3
  assert got.log_loss == pytest.approx(loss)
  assert got.ne == pytest.approx(loss / -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
  assert got.calibration == pytest.approx(0.5 / (2 / 3))
  assert got.excess is None
  assert got.excess_tail is None


def brute_auc(score: np.ndarray, label: np.ndarray) -> float:
  """All pairs, ties half."""
  pos, neg = score[label == 1], score[label == 0]
  return float(np.mean((pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)))


def in_batches(add: Callable[..., None], rng: np.random.Generator, *arrays: np.ndarray | dict[str, np.ndarray]) -> None:
  """Adds the arrays cut at random places, sometimes nothing."""
  size = len(arrays[0])
  cuts = np.sort(rng.integers(0, size + 1, 12))
  for low, high in zip([0, *cuts], [*cuts, size]):
    add(*({k: v[low:high] for k, v in x.items()} if isinstance(x, dict) else x[low:high] for x in arrays))


def test_roc_auc_equals_all_pairs_with_ties_half():
  rng = np.random.default_rng(0)
  score, label = rng.integers(0, 6, 200).astype(float), rng.integers(0, 2, 200).astype(float)
  auc = roc_auc.RocAuc()
  auc.add(score, label)
  assert auc.value() == pytest.approx(brute_auc(score, label), abs=1e-12)
  assert auc.error() == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_gives_what_other_formulas_give_at_once(seed: int):
  """Judges: scipy's rank test, logistic function and entropy, numpy's covariance; logits of few and of many values."""
  rng = np.random.default_rng(seed)
  true = rng.normal(-1.5, 1, 3000)
  logit = np.round((true + rng.normal(0, 0.5, 3000)) * (4 if seed % 2 else 1e9)) / (4 if seed % 2 else 1e9)
  logit, tail = logit.astype(np.float32), rng.normal(0.3, 0.4, 3000) + 0.1 * (true - logit)
  label = (rng.uniform(size=3000) < special.expit(true)).astype(np.float32)
  stream = metrics.Accumulator(0.2, block=int(rng.integers(1, 2000)))
  in_batches(stream.add, rng, logit, label, true, {"tail": tail})
  got, wide = stream.metrics(), logit.astype(np.float64)
  prob, right = special.expit(wide), special.expit(true)
  pos, neg = wide[label == 1], wide[label == 0]
  loss = -np.mean(np.where(label == 1, np.log(prob), np.log1p(-prob)))
  kl = special.rel_entr(right, prob) + special.rel_entr(1 - right, 1 - prob)
  expected = metrics.Metrics(
    log_loss=loss,
    ne=loss / stats.bernoulli(0.2).entropy(),
    roc_auc=stats.mannwhitneyu(pos, neg).statistic / (len(pos) * len(neg)),
    roc_auc_error=0,
    calibration=prob.mean() / label.mean(dtype=np.float64),
    base_rate_log_loss=-np.log(np.where(label == 1, 0.2, 0.8)).mean(),
    excess=kl.mean(),
    excess_tail=-0.5 * np.mean(right * (1 - right)) * np.cov(stats.linregress(wide, true).slope * wide - true, tail, ddof=0)[0, 1],
  )
  known = {name: value for name, value in expected.row().items() if value is not None}
  assert {name: value for name, value in got.row().items() if value is not None} == pytest.approx(known, rel=1e-9)
  at_once = metrics.evaluate(logit, label, 0.2, true, {"tail": tail})
  assert not stream._waiting and stream._count == 3000
  assert {name: getattr(at_once, name) for name in known} == pytest.approx({name: getattr(got, name) for name in known}, rel=1e-12)


def test_keys_sort_as_the_scores_do():
  rng = np.random.default_rng(3)
  score = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)  # every kind of number, subnormal ones too
  score = np.concatenate([score[~np.isnan(score)], np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45], np.float32)])
  key = roc_auc.sort_keys(score).astype(np.int64)
  order = np.argsort(score)
  np.testing.assert_array_equal(np.sign(np.diff(key[order])), np.sign(np.diff(score[order])))


def coarse(score: np.ndarray, max_bins: int) -> np.ndarray:
  """The bins by another way: sign and magnitude, with as few low bits dropped as leave at most `max_bins` of them."""
  for dropped in range(32):
    step = 1 << dropped
    bins = [(value < 0, int(np.float32(abs(value)).view(np.uint32)) // step) for value in score.tolist()]
    if len(set(bins)) <= max_bins:
      return np.array([-1 - magnitude if negative else magnitude for negative, magnitude in bins])
  raise AssertionError


@pytest.mark.parametrize("seed", range(6))
def test_a_coarsened_roc_auc_is_that_of_its_bins_and_within_its_error(seed: int):
  rng = np.random.default_rng(seed)
  score = rng.normal(-2 if seed % 2 else 0, 1, 1500).astype(np.float32)
  score = np.where(rng.uniform(size=1500) < 0.3, np.round(score), score)  # some are met often: ties are no error
  label = (rng.uniform(size=1500) < special.expit(score)).astype(np.float32)
  max_bins = int(rng.integers(20, 120))
  auc = roc_auc.RocAuc(max_bins)
  in_batches(auc.add, rng, score, label)
  bins = coarse(score, max_bins)
  several = [b for b in np.unique(bins) if len(np.unique(score[bins == b])) > 1]
  pairs = sum((label[bins == b] == 1).sum() * (label[bins == b] == 0).sum() for b in several)
  assert auc.value() == pytest.approx(brute_auc(bins, label), abs=1e-12)
  assert auc.error() == pytest.approx(0.5 * pairs / ((label == 1).sum() * (label == 0).sum()), rel=1e-12)
  assert auc.value() != brute_auc(score, label)
  assert abs(auc.value() - brute_auc(score, label)) <= auc.error() < 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_the_error_of_a_coarsened_roc_auc_can_be_met(sign: int):
  """Where the clicks of every bin are above its non-clicks (or below), the bound is the error: no smaller one would do."""
  rng = np.random.default_rng(4)
  place = rng.integers(0, 64, 2000)
  label = rng.integers(0, 2, 2000).astype(np.float32)
  score = (1 + (place + 0.5) / 64 + sign * label / 1024).astype(np.float32)  # of 2^23 steps from 1 to 2, bins are 2^17
  auc = roc_auc.RocAuc(64)
  in_batches(auc.add, rng, score, label)
  assert auc.error() > 0.001
  assert brute_auc(score, label) - auc.value() == pytest.approx(sign * auc.error(), rel=1e-9)


def test_the_table_never_outgrows_its_limit():
  rng, auc = np.random.default_rng(5), roc_auc.RocAuc(1000)
  score, label = rng.normal(size=12_000).astype(np.float32), rng.integers(0, 2, 12_000).astype(np.float32)
  for low in range(0, 12_000, 100):
    auc.add(score[low : low + 100], label[low : low + 100])
    assert len(auc._low_k) == len(auc._high_k) == len(auc._count_k2) <= 1000
    assert sum(len(key) for key, *_ in auc._waiting) < 250
  assert auc._count_k2.sum() + sum(len(key) for key, *_ in auc._waiting) == 12_000
  assert auc.value() == pytest.approx(brute_auc(score, label), abs=auc.error())
  assert 500 < len(auc._low_k) <= 1000  # no coarser than need be


def test_a_large_mean_error_costs_the_excess_of_a_part_no_digits():
  """E[xy] - E[x]E[y] would lose them all; the judge is exact arithmetic. The true logit moves as much as the tail does."""
  rng = np.random.default_rng(6)
  tail = 1e6 + rng.normal(0, 1e-3, 500)
  logit = 1e6 + rng.normal(0, 1e-3, 500) - 0.5 * (tail - 1e6)
  true = tail - 1e6 + rng.normal(0, 1e-3, 500)
  columns = [[Fraction(x) for x in column] for column in (logit, true, tail)]
  centred = [[x - sum(column) / 500 for x in column] for column in columns]
  cov = {(i, j): float(sum(x * y for x, y in zip(centred[i], centred[j], strict=True))) / 500 for i in range(3) for j in range(3)}
  got = metrics.PartsExcess(["tail"])
  for low in range(0, 500, 7):
    got.add(logit[low : low + 7], true[low : low + 7], tail[low : low + 7])
  expected = 0.125 * (cov[1, 2] - cov[0, 1] / cov[0, 0] * cov[0, 2])  # c = 1/4: all true probabilities are near 1/2
  assert got.values() == {"tail": pytest.approx(expected, rel=1e-6)}


def test_a_logit_that_is_not_finite_makes_all_undefined_whenever_it_comes():
  for bad in (np.nan, np.inf):
    stream = metrics.Accumulator(0.5)
    for value in (0.5, bad, 0.25):
      stream.add(np.array([value, -value], np.float32), np.array([1.0, 0.0]), np.zeros(2), None)
    assert all(math.isnan(x) for x in (stream.metrics().log_loss, stream.metrics().roc_auc, stream.metrics().calibration))
  assert math.isnan(metrics.Accumulator(0.5).metrics().log_loss)
  auc = roc_auc.RocAuc()
  auc.add(np.array([0.5, np.nan, 1.0]), np.array([1.0, 0.0, 0.0]))
  assert math.isnan(auc.value())


def test_truth_is_given_always_or_never():
  stream = metrics.Accumulator(0.5)
  stream.add(np.zeros(2), np.zeros(2), np.zeros(2))
  with pytest.raises(ValueError, match="given with some predictions and not with others"):
    stream.add(np.zeros(2), np.zeros(2))


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
  stream = metrics.PartsExcess(["tail", "other"])
  stream.add(-1 + learned, true, tail, other)
  got = stream.values()["tail"]
  prob = metrics.sigmoid(true)
  assert got == pytest.approx(0.5 * np.mean(prob * (1 - prob)) * sigma**2, rel=0.02)
  assert metrics.excess(-1 + learned, true) > 1.8 * got
  assert stream.values()["other"] == pytest.approx(got, rel=0.02)
  constant = metrics.PartsExcess(["tail"])
  constant.add(np.full(size, -1.0), true, tail)
  assert constant.values()["tail"] == pytest.approx(2 * got, rel=0.02)  # nothing is learned


def test_what_is_unknown_of_one_part_is_not_charged_to_another():
  """The best click probability without a part is a mean over it, its logit flatter: the known part is known all the same, and all parts
  together cost what the whole costs (to second order: small logits)."""
  rng = np.random.default_rng(3)
  known, lost = rng.normal(0, 0.4, 200_000), rng.normal(0, 1.0, 200_000)
  at, weight = np.polynomial.hermite_e.hermegauss(40)
  prob = special.expit(known[:, None] + at) @ (weight / weight.sum())
  stream = metrics.PartsExcess(["known", "lost"])
  stream.add(special.logit(prob), known + lost, known, lost)
  got, right = stream.values(), special.expit(known + lost)
  half = 0.5 * np.mean(right * (1 - right))
  error = special.logit(prob) - known - lost
  assert -half * np.mean(error * known) > 0.1 * half * np.var(known)  # as it stands, a tenth of the known part seems lost
  assert abs(got["known"]) < 0.01 * half * np.var(known)
  assert got["lost"] == pytest.approx(half * np.var(lost), rel=0.01)
