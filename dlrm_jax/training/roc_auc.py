"""The area under the ROC curve of a stream of scores, in memory that does not grow with it. Called by `metrics`."""

import math

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Num, UInt32

MAX_BINS = 2**22  # most rows of the table behind the ROC AUC: 0.1 GB, 0.4 GB while it is merged


def sort_keys(score_n: Float32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
  """Unsigned numbers in the order of the scores, equal where scores are equal (-0.0 is 0.0).

  They are the bits of positive scores with the sign set, and all bits of negative ones flipped.
  """
  bits_n = (score_n + np.float32(0)).view(np.uint32)
  return np.where(bits_n >> 31, ~bits_n, bits_n | np.uint32(1 << 31))


class RocAuc:
  """Probability that a click is scored above a non-click, ties half (Mann-Whitney), of a stream of scores taken as float32.

  Scores may have weights: a pair of a click and a non-click then counts as the product of theirs.

  A table counts the clicks and non-clicks of every score seen. It is exact while it has at most `max_bins` rows. Beyond that, scores that
  are equal but for their lowest mantissa bits share a row, a bin; as few bits are dropped as need be. Pairs inside a bin count half.

  `error` bounds what that changes: half the pairs of click and non-click in bins of several scores, over all pairs. It is attained where
  all clicks of each bin are above its non-clicks. Errors are far smaller where clicks and non-clicks of a bin are spread alike.
  """

  def __init__(self, max_bins: int = MAX_BINS):
    if max_bins < 2:
      raise ValueError(f"max_bins={max_bins} must be at least 2")
    self._max_bins, self._shift, self._any_nan = max_bins, 0, False
    self._low_k: UInt32[np.ndarray, " k"] = np.zeros(0, np.uint32)  # lowest and highest key of each bin, bins in order
    self._high_k: UInt32[np.ndarray, " k"] = np.zeros(0, np.uint32)
    self._count_k2: Num[np.ndarray, "k 2"] = np.zeros((0, 2), np.int64)  # of non-clicks and clicks, or the sums of their weights
    self._waiting: list[tuple[UInt32[np.ndarray, " n"], Bool[np.ndarray, " n"], Float[np.ndarray, " n"] | None]] = []
    self._num_waiting = 0

  def add(self, score_n: Num[np.ndarray, " n"], label_n: Num[np.ndarray, " n"], weight_n: Float[np.ndarray, " n"] | None = None) -> None:
    """Adds scores and their labels, 0 or 1, with weights above 0 always or never."""
    self._any_nan |= bool(np.isnan(score_n).any())
    with np.errstate(over="ignore"):  # beyond float32 there is infinity, and it sorts right
      self._waiting.append((sort_keys(score_n.astype(np.float32)), label_n > 0.5, weight_n))
    self._num_waiting += len(score_n)
    if self._num_waiting >= self._max_bins // 4:  # seldom: a merge reads all of the table
      self._merge()

  def value(self) -> float:
    """The area; NaN with one class only, or if a score was NaN."""
    non_k, click_k = self._counts()
    lower_k = np.cumsum(non_k) - non_k
    return self._over_all_pairs(click_k * (lower_k + non_k / 2))

  def error(self) -> float:
    """The largest error that `value` may have; 0 while it is exact."""
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
    """Merges the scores that wait into the table, and drops mantissa bits until it fits."""
    keys, clicks, weights = zip(*self._waiting, strict=True)
    key_n, clicked_n = np.concatenate(keys), np.concatenate(clicks)
    weight_n = None if weights[0] is None else np.concatenate(weights)
    self._waiting, self._num_waiting = [], 0
    lows, highs, counts = [self._low_k], [self._high_k], [self._count_k2]
    for label in (0, 1):
      of_label = clicked_n == label
      if weight_n is None:
        key_u, count_u = np.unique(key_n[of_label], return_counts=True)
      else:
        key_u, place_n = np.unique(key_n[of_label], return_inverse=True)
        count_u = np.bincount(place_n, weight_n[of_label], len(key_u))
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
  """The position where each different value begins."""
  return np.flatnonzero(np.concatenate([[True], sorted_n[1:] != sorted_n[:-1]]))
