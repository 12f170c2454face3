"""Metrics of a set of predictions, on the host in float64, in memory that does not grow with the set. What is not defined is NaN.

Called by `evaluation`, batch after batch, and by whoever has all predictions at once (`evaluate`).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Num, UInt32

_TOGETHER = 2**14  # predictions
MAX_BINS = 2**22  # of the table behind the ROC AUC: 0.1 GB, 0.4 GB while it is merged


@dataclasses.dataclass(frozen=True)
class Metrics:
  """One evaluation. `excess` and `excess_tail` are None where the true probability is not known.

  Attributes:
    log_loss: mean binary cross-entropy, nats.
    ne: log loss over the entropy of the training split's click rate (He et al. 2014).
    roc_auc: area under the ROC curve, ties counted half; NaN with one class only.
    roc_auc_error: how far off `roc_auc` may be at most: 0 up to 2^22 different logits (see `RocAuc`).
    calibration: mean predicted probability over observed click rate; NaN without clicks.
    excess: mean KL divergence from the true click probability, nats.
    excess_tail: the tail's part of it (see `TailExcess`).
  """

  log_loss: float
  ne: float
  roc_auc: float
  roc_auc_error: float
  calibration: float
  excess: float | None = None
  excess_tail: float | None = None


def softplus(x: np.ndarray) -> np.ndarray:
  return np.logaddexp(0.0, x)


def sigmoid(x: np.ndarray) -> np.ndarray:
  return np.exp(-softplus(-x))


def entropy(rate: float) -> float:
  """Entropy of a click rate in nats: the log loss of always predicting it."""
  if not 0 < rate < 1:
    return math.nan
  return -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))


def sort_keys(score_n: Float32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
  """Unsigned numbers in the order of the scores, equal where these are (-0.0 is 0.0): the bits, all flipped where the sign is set."""
  bits_n = (score_n + np.float32(0)).view(np.uint32)
  return np.where(bits_n >> 31, ~bits_n, bits_n | np.uint32(1 << 31))


class RocAuc:
  """Probability that a click is scored above a non-click, ties half (Mann-Whitney), of a stream of scores taken as float32.

  A table counts the clicks and non-clicks of every score seen: exact while it has at most `max_bins` rows. Beyond that scores share a
  row, a bin, if they are equal but for their lowest mantissa bits, as few as need be; pairs inside a bin count half. `error` bounds
  what that changes: half the pairs of click and non-click in bins of several scores, over all pairs. It is attained where all clicks of
  each bin are above its non-clicks; where a bin's clicks and non-clicks lie alike, errors are far smaller.
  """

  def __init__(self, max_bins: int = MAX_BINS):
    if max_bins < 2:
      raise ValueError(f"max_bins={max_bins} must be at least 2")
    self._max_bins, self._shift, self._any_nan = max_bins, 0, False
    self._low_k: UInt32[np.ndarray, " k"] = np.zeros(0, np.uint32)  # lowest and highest key of each bin, bins in order
    self._high_k: UInt32[np.ndarray, " k"] = np.zeros(0, np.uint32)
    self._count_k2: Int64[np.ndarray, "k 2"] = np.zeros((0, 2), np.int64)  # of non-clicks and clicks
    self._waiting: list[tuple[UInt32[np.ndarray, " n"], Bool[np.ndarray, " n"]]] = []
    self._num_waiting = 0

  def add(self, score_n: Num[np.ndarray, " n"], label_n: Num[np.ndarray, " n"]) -> None:
    """Scores and their labels, 0 or 1."""
    self._any_nan |= bool(np.isnan(score_n).any())
    with np.errstate(over="ignore"):  # beyond float32 there is infinity, and it sorts right
      self._waiting.append((sort_keys(score_n.astype(np.float32)), label_n > 0.5))
    self._num_waiting += len(score_n)
    if self._num_waiting >= self._max_bins // 4:  # seldom: a merge reads all of the table
      self._merge()

  def value(self) -> float:
    """The area; NaN with one class only, or if a score was NaN."""
    non_k, click_k = self._counts()
    lower_k = np.cumsum(non_k) - non_k
    return self._over_all_pairs(click_k * (lower_k + non_k / 2))

  def error(self) -> float:
    """The most that `value` is off by; 0 while it is exact."""
    non_k, click_k = self._counts()
    return self._over_all_pairs(np.where(self._low_k < self._high_k, click_k * non_k / 2, 0))

  def _counts(self) -> Float[np.ndarray, "2 k"]:
    if self._waiting:
      self._merge()
    return self._count_k2.T.astype(np.float64)

  def _over_all_pairs(self, pairs_k: Float[np.ndarray, " k"]) -> float:
    non, click = (float(x) for x in self._count_k2.sum(axis=0))
    return math.nan if self._any_nan or non * click == 0 else float(pairs_k.sum() / (non * click))

  def _merge(self) -> None:
    """Brings what waits into the table, which is coarsened until it fits."""
    key_n, clicked_n = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
    self._waiting, self._num_waiting = [], 0
    lows, highs, counts = [self._low_k], [self._high_k], [self._count_k2]
    for label in (0, 1):
      key_u, count_u = np.unique(key_n[clicked_n == label], return_counts=True)
      lows.append(key_u)
      highs.append(key_u)
      counts.append(count_u[:, None] * (np.arange(2) == label))
    low_k = np.concatenate(lows)
    order_k = np.argsort(low_k, kind="stable")  # three sorted runs: merged, not sorted anew
    low_k = low_k[order_k]
    while len(first := _firsts(low_k >> np.uint32(self._shift))) > self._max_bins:
      self._shift += 1
    self._low_k = low_k[first]
    self._high_k = np.maximum.reduceat(np.concatenate(highs)[order_k], first)
    self._count_k2 = np.add.reduceat(np.concatenate(counts)[order_k], first, axis=0)


def _firsts(sorted_n: UInt32[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
  """Where each different value begins."""
  return np.flatnonzero(np.concatenate([[True], sorted_n[1:] != sorted_n[:-1]]))


class TailExcess:
  """The tail's part of the excess: `-c/2 * E[error * tail]`, c = E p(1-p), the logit error projected on the centred tail component.

  Errors of the other parts are uncorrelated with the tail and drop out; for a posterior-mean learner `-E[error * tail]` is the
  variance of the tail that is not learned (orthogonality of estimate and error). Means and the sum of products about them are merged
  batch by batch (Chan, Golub and LeVeque 1979), so that a mean error beside a small covariance costs no digits.
  """

  def __init__(self):
    self._count, self._curvature, self._error, self._tail, self._products = 0, 0.0, 0.0, 0.0, 0.0

  def add(self, logit_n: Float[np.ndarray, " n"], true_logit_n: Float[np.ndarray, " n"], tail_n: Float[np.ndarray, " n"]) -> None:
    """Predicted and true click logits, and the tail part of the true one; n > 0."""
    prob_n, error_n, before, n = sigmoid(true_logit_n), logit_n - true_logit_n, self._count, len(logit_n)
    error, tail = error_n.mean(), tail_n.mean()
    self._count += n
    self._curvature += (prob_n * (1 - prob_n)).sum()
    self._products += ((error_n - error) * (tail_n - tail)).sum() + (error - self._error) * (tail - self._tail) * before * n / self._count
    self._error += (error - self._error) * n / self._count
    self._tail += (tail - self._tail) * n / self._count

  def value(self) -> float:
    """In nats."""
    return float(-0.5 * (self._curvature / self._count) * (self._products / self._count))


def excess(logit_n: Float[np.ndarray, " n"], true_logit_n: Float[np.ndarray, " n"]) -> float:
  """Mean KL from the true to the predicted click probability: softplus(q) - softplus(p) - sigmoid(p) (q - p)."""
  kl_n = softplus(logit_n) - softplus(true_logit_n) - sigmoid(true_logit_n) * (logit_n - true_logit_n)
  return float(np.mean(kl_n))


class Accumulator:
  """All metrics of a stream of predictions; all NaN once one logit is not finite.

  Args:
    train_rate: click rate of the training split, for NE.
    max_bins: of the ROC AUC's table.
  """

  def __init__(self, train_rate: float, max_bins: int = MAX_BINS):
    self._count = 0
    self._waiting: list[tuple[np.ndarray | None, ...]] = []  # summed up many at a time: small batches cost more
    self._num_waiting, self._train_rate, self._finite = 0, train_rate, True
    self._loss = self._clicks = self._prob = self._excess = 0.0  # sums over examples
    self._auc, self._tail = RocAuc(max_bins), TailExcess()
    self._known: tuple[bool, bool] | None = None  # whether true logits and tails are given

  def add(
    self,
    logit_n: Num[np.ndarray, " n"],
    label_n: Num[np.ndarray, " n"],
    true_logit_n: Num[np.ndarray, " n"] | None = None,
    tail_n: Num[np.ndarray, " n"] | None = None,
  ) -> None:
    """Some more predictions.

    Args:
      logit_n: predicted logits; ranked as float32.
      label_n: 0 or 1.
      true_logit_n: true click logits on planted data.
      tail_n: tail part of the true logit; None where it is all there is to learn. As `true_logit_n`, given always or never.
    """
    known = (true_logit_n is not None, tail_n is not None)
    if self._known not in (None, known):
      raise ValueError("true logits and tails: given with some predictions and not with others")
    self._known = known
    self._finite &= bool(np.isfinite(logit_n).all())
    self._waiting.append((logit_n, label_n, true_logit_n, tail_n))
    self._num_waiting += len(logit_n)
    if self._num_waiting >= _TOGETHER:
      self._sum_up()

  def _sum_up(self) -> None:
    columns = [[x.astype(np.float64) for x in column if x is not None] for column in zip(*self._waiting, strict=True)]
    logit_n, label_n, true_logit_n, tail_n = (np.concatenate(column) if column else None for column in columns)
    self._waiting, self._num_waiting = [], 0
    if logit_n is None or label_n is None or not len(logit_n) or not self._finite:
      return
    self._count += len(logit_n)
    self._loss += float((softplus(logit_n) - label_n * logit_n).sum())
    self._clicks += float(label_n.sum())
    self._prob += float(sigmoid(logit_n).sum())
    self._auc.add(logit_n, label_n)
    if true_logit_n is not None:
      self._excess += excess(logit_n, true_logit_n) * len(logit_n)
      if tail_n is not None:
        self._tail.add(logit_n, true_logit_n, tail_n)

  def metrics(self) -> Metrics:
    """Of all predictions so far."""
    if self._waiting:
      self._sum_up()
    if not self._finite or not self._count or self._known is None:
      return Metrics(math.nan, math.nan, math.nan, math.nan, math.nan)
    loss, (true_known, tail_known) = self._loss / self._count, self._known
    return Metrics(
      log_loss=loss,
      ne=loss / entropy(self._train_rate),
      roc_auc=self._auc.value(),
      roc_auc_error=self._auc.error(),
      calibration=self._prob / self._clicks if self._clicks else math.nan,
      excess=self._excess / self._count if true_known else None,
      excess_tail=self._tail.value() if tail_known else None,
    )


def evaluate(
  logit_n: Num[np.ndarray, " n"],
  label_n: Num[np.ndarray, " n"],
  train_rate: float,
  true_logit_n: Num[np.ndarray, " n"] | None = None,
  tail_n: Num[np.ndarray, " n"] | None = None,
) -> Metrics:
  """All metrics of n predictions at hand; arguments as those of `Accumulator`."""
  accumulator = Accumulator(train_rate)
  accumulator.add(logit_n, label_n, true_logit_n, tail_n)
  return accumulator.metrics()
