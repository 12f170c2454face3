"""Metrics of a set of predictions, on the host in float64. What is not defined is NaN, never a default."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Metrics:
  """One evaluation. `excess` and `excess_tail` are None where the true probability is not known.

  Attributes:
    log_loss: mean binary cross-entropy, nats.
    ne: log loss over the entropy of the training split's click rate (He et al. 2014).
    roc_auc: area under the ROC curve, ties counted half; NaN with one class only.
    calibration: mean predicted probability over observed click rate; NaN without clicks.
    excess: mean KL divergence from the true click probability, nats.
    excess_tail: the tail's part of it (see `tail_excess`).
  """

  log_loss: float
  ne: float
  roc_auc: float
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


def roc_auc(score: np.ndarray, label: np.ndarray) -> float:
  """Probability that a click is scored above a non-click, ties half (Mann-Whitney); NaN with one class only."""
  clicks = label > 0.5
  num_pos, num_neg = int(clicks.sum()), int((~clicks).sum())
  if num_pos == 0 or num_neg == 0 or np.isnan(score).any():
    return math.nan
  _, place, count = np.unique(score, return_inverse=True, return_counts=True)
  ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # of equal scores the mean; scipy.stats has this too but takes a second to import
  return float((ranks[clicks].sum() - num_pos * (num_pos + 1) / 2) / (num_pos * num_neg))


def excess(logit: np.ndarray, true_logit: np.ndarray) -> float:
  """Mean KL from the true to the predicted click probability: softplus(q) - softplus(p) - sigmoid(p) (q - p)."""
  return float(np.mean(softplus(logit) - softplus(true_logit) - sigmoid(true_logit) * (logit - true_logit)))


def tail_excess(logit: np.ndarray, true_logit: np.ndarray, tail: np.ndarray) -> float:
  """The tail's part of the excess: `-c/2 * E[error * tail]`, c = E p(1-p), the logit error projected on the centred tail component.

  Errors of the other parts are uncorrelated with the tail and drop out; for a posterior-mean learner `-E[error * tail]` is the
  variance of the tail that is not learned (orthogonality of estimate and error).
  """
  prob = sigmoid(true_logit)
  centred = tail - tail.mean()
  return float(-0.5 * np.mean(prob * (1 - prob)) * np.mean((logit - true_logit) * centred))


def evaluate(
  logit: np.ndarray, label: np.ndarray, train_rate: float, true_logit: np.ndarray | None = None, tail: np.ndarray | None = None
) -> Metrics:
  """All metrics of N predictions; all NaN if one logit is not finite.

  Args:
    logit: predicted logits [N].
    label: 0 or 1 [N].
    train_rate: click rate of the training split, for NE.
    true_logit: true click logits [N] on planted data.
    tail: tail part of the true logit [N]; None where it is all there is to learn.
  """
  logit, label = np.asarray(logit, np.float64), np.asarray(label, np.float64)
  if not np.isfinite(logit).all():
    return Metrics(math.nan, math.nan, math.nan, math.nan)
  loss = float(np.mean(softplus(logit) - label * logit))
  rate = float(label.mean())
  calibration = float(sigmoid(logit).mean() / rate) if rate > 0 else math.nan
  known = true_logit is not None
  true = np.asarray(true_logit, np.float64) if known else None
  return Metrics(
    log_loss=loss,
    ne=loss / entropy(train_rate),
    roc_auc=roc_auc(logit, label),
    calibration=calibration,
    excess=excess(logit, true) if true is not None else None,
    excess_tail=tail_excess(logit, true, np.asarray(tail, np.float64)) if true is not None and tail is not None else None,
  )
