"""Metrics of a set of predictions, on the host in float64, in memory that does not grow with the set. An undefined metric is NaN.

`evaluation` adds batch after batch. `evaluate` is for predictions that are all there at once.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

from dlrm_jax.common.arrays import sigmoid, softplus
from dlrm_jax.training.paired import LossSums
from dlrm_jax.training.roc_auc import MAX_BINS, RocAuc

_BLOCK = 2**14  # predictions that are summed at once


@dataclasses.dataclass(frozen=True)
class Metrics:
  """One evaluation. Excess is None where the true probability is not known. That of a part is also None where it is the only part.

  If examples have weights, every mean, rate and pair below is weighted by them.

  Attributes:
    log_loss: mean binary cross-entropy, nats.
    ne: log loss over the entropy of the training split's click rate (He et al. 2014).
    roc_auc: area under the ROC curve, ties counted half; NaN with one class only.
    roc_auc_error: the largest error that `roc_auc` may have: 0 up to 2^22 different logits (see `RocAuc`).
    calibration: mean predicted probability over observed click rate; NaN without clicks.
    base_rate_log_loss: log loss of the same examples where the training split's click rate is always predicted, nats.
    excess: mean KL divergence from the true click probability, nats.
    excess_tail, excess_pairs, excess_dense, excess_scores: what a part of the planted logit costs (see `PartsExcess`), nats.
    losses: `paired.LossSums.sums` of the examples; None where a logit is not finite. Curves and records do not hold it.
  """

  log_loss: float
  ne: float
  roc_auc: float
  roc_auc_error: float
  calibration: float
  base_rate_log_loss: float = math.nan
  excess: float | None = None
  excess_tail: float | None = None
  excess_pairs: float | None = None
  excess_dense: float | None = None
  excess_scores: float | None = None
  losses: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

  def row(self) -> dict[str, float | None]:
    """The metrics by name, as curves and records hold them."""
    return {name: getattr(self, name) for name in NAMES}


NAMES = tuple(field.name for field in dataclasses.fields(Metrics) if field.name != "losses")


def entropy(rate: float) -> float:
  """Entropy of a click rate in nats: the log loss of always predicting it."""
  return constant_log_loss(rate, rate)


def constant_log_loss(rate: float, click_rate: float) -> float:
  """Log loss (nats) of always predicting `rate` where clicks have the rate `click_rate`; NaN unless 0 < rate < 1."""
  if not 0 < rate < 1:
    return math.nan
  return -(click_rate * math.log(rate) + (1 - click_rate) * math.log1p(-rate))


class PartsExcess:
  """The excess that each part of the logit costs: `-c/2 * E[error * part]`, c = E p(1-p), the logit error projected on the centred part.

  Errors of the other parts are uncorrelated with it and drop out. For an ideal learner's posterior mean, `-E[error * part]` is the
  variance of the part that is not learned (orthogonality of estimate and error).

  The logit is first brought to the scale at which its errors are least. The logit of a mean probability is smaller than the mean logit. So
  what is unknown of one part shrinks what is known of all, and would be charged to them. After that the parts sum to
  c/2 * variance of the true logit * (1 - correlation^2).

  Means and products about them are merged batch by batch (Chan, Golub and LeVeque 1979): a large mean costs no digits.

  Args:
    names: the names of the parts.
  """

  def __init__(self, names: Sequence[str]):
    self.names = tuple(names)
    self._count, self._curvature = 0, 0.0
    self._mean = np.zeros(2 + len(self.names))  # of predicted logit, true one, parts
    self._products = np.zeros((len(self._mean), len(self._mean)))

  def add(self, logit_n: Float[np.ndarray, " n"], true_logit_n: Float[np.ndarray, " n"], *part_n: Float[np.ndarray, " n"]) -> None:
    """Adds predicted and true click logits, and the parts of the true one; n > 0."""
    prob_n, before, n = sigmoid(true_logit_n), self._count, len(logit_n)
    all_kn = np.stack([logit_n, true_logit_n, *part_n])
    mean = all_kn.mean(axis=1)
    all_kn -= mean[:, None]
    self._count += n
    self._curvature += float((prob_n * (1 - prob_n)).sum())
    self._products += all_kn @ all_kn.T + np.outer(mean - self._mean, mean - self._mean) * (before * n / self._count)
    self._mean += (mean - self._mean) * n / self._count

  def values(self) -> dict[str, float]:
    """The excess by part, in nats; NaN before there are predictions."""
    if not self._count:
      return dict.fromkeys(self.names, math.nan)
    (spread, shared), known_k, true_k = self._products[0, :2], self._products[0, 2:], self._products[1, 2:]
    scale = shared / spread if spread > 0 else 0.0  # of the logit, so that its errors are least; a constant one knows nothing
    rest_k = 0.5 * (self._curvature / self._count) * (true_k - scale * known_k) / self._count
    return dict(zip(self.names, rest_k.tolist(), strict=True))


def excess(logit_n: Float[np.ndarray, " n"], true_logit_n: Float[np.ndarray, " n"]) -> float:
  """Mean KL from the true to the predicted click probability: softplus(q) - softplus(p) - sigmoid(p) (q - p)."""
  kl_n = softplus(logit_n) - softplus(true_logit_n) - sigmoid(true_logit_n) * (logit_n - true_logit_n)
  return float(np.mean(kl_n))


class Accumulator:
  """All metrics of a stream of predictions; all NaN once one logit is not finite.

  Args:
    train_rate: click rate of the training split, for NE.
    max_bins: most rows of the ROC AUC's table.
    block: predictions that are summed at once.
  """

  def __init__(self, train_rate: float, max_bins: int = MAX_BINS, block: int = _BLOCK):
    self._count, self._block = 0, block
    self._waiting: list[tuple[np.ndarray, ...]] = []  # summed up many at a time: small batches cost more
    self._num_waiting, self._train_rate, self._finite = 0, train_rate, True
    self._loss = self._clicks = self._prob = self._excess = 0.0  # sums over examples, each times its weight
    self._weight: float = 0  # the sum of weights
    self._weighted: bool | None = None
    self._auc, self._losses = RocAuc(max_bins), LossSums()
    self._names: tuple[str, ...] | None = None  # of the true logits given: "" the whole, then its parts
    self._parts = PartsExcess(())

  def add(
    self,
    logit_n: Num[np.ndarray, " n"],
    label_n: Num[np.ndarray, " n"],
    true_logit_n: Num[np.ndarray, " n"] | None = None,
    parts: dict[str, np.ndarray] | None = None,
    weight_n: Num[np.ndarray, " n"] | None = None,
  ) -> None:
    """Adds predictions.

    Args:
      logit_n: predicted logits; ranked as float32.
      label_n: 0 or 1.
      true_logit_n: true click logits on planted data.
      parts: parts of the true logit by name, each [n]; None where there is only one. Give it always or never, as `true_logit_n`.
      weight_n: how much each prediction counts, above 0; None: 1. Give it always or never, and not with true logits.
    """
    truths = {} if true_logit_n is None else {"": true_logit_n} | (parts or {})
    if self._names not in (None, tuple(truths)):
      raise ValueError("true logits and their parts: given with some predictions and not with others")
    if self._weighted not in (None, weight_n is not None) or (weight_n is not None and truths):
      raise ValueError("weights: given with some predictions and not with others, or with true logits")
    self._weighted = weight_n is not None
    if self._names is None:
      self._names, self._parts = tuple(truths), PartsExcess(list(truths)[1:])
    self._finite &= bool(np.isfinite(logit_n).all())
    self._waiting.append((logit_n, label_n, *([] if weight_n is None else [weight_n]), *truths.values()))
    self._num_waiting += len(logit_n)
    if self._num_waiting >= self._block:
      self._sum_up()

  def _sum_up(self) -> None:
    logit_n, label_n, *truth = (np.concatenate([x.astype(np.float64) for x in column]) for column in zip(*self._waiting, strict=True))
    self._waiting, self._num_waiting = [], 0
    weight_n = truth.pop(0) if self._weighted else None
    if not len(logit_n) or not self._finite:
      return
    self._count += len(logit_n)
    each = (softplus(logit_n) - label_n * logit_n, label_n, sigmoid(logit_n))
    loss, clicks, prob = (float(x_n.sum() if weight_n is None else weight_n @ x_n) for x_n in each)
    self._loss, self._clicks, self._prob = self._loss + loss, self._clicks + clicks, self._prob + prob
    self._weight += len(logit_n) if weight_n is None else float(weight_n.sum())
    self._auc.add(logit_n, label_n, weight_n)
    self._losses.add(each[0], weight_n)
    if truth:
      self._excess += excess(logit_n, truth[0]) * len(logit_n)
      if self._parts.names:
        self._parts.add(logit_n, *truth)

  def metrics(self) -> Metrics:
    """The metrics of all predictions so far."""
    if self._waiting:
      self._sum_up()
    if not self._finite or not self._count or self._names is None:
      return Metrics(math.nan, math.nan, math.nan, math.nan, math.nan)
    loss = self._loss / self._weight
    return Metrics(
      log_loss=loss,
      ne=loss / entropy(self._train_rate),
      roc_auc=self._auc.value(),
      roc_auc_error=self._auc.error(),
      calibration=self._prob / self._clicks if self._clicks else math.nan,
      base_rate_log_loss=constant_log_loss(self._train_rate, self._clicks / self._weight),
      excess=self._excess / self._count if self._names else None,
      losses=self._losses.sums.copy(),
      **{f"excess_{name}": value for name, value in self._parts.values().items()},
    )


def evaluate(
  logit_n: Num[np.ndarray, " n"],
  label_n: Num[np.ndarray, " n"],
  train_rate: float,
  true_logit_n: Num[np.ndarray, " n"] | None = None,
  parts: dict[str, np.ndarray] | None = None,
  weight_n: Num[np.ndarray, " n"] | None = None,
) -> Metrics:
  """All metrics of n predictions; the arguments are those of `Accumulator`."""
  accumulator = Accumulator(train_rate)
  accumulator.add(logit_n, label_n, true_logit_n, parts, weight_n)
  return accumulator.metrics()
