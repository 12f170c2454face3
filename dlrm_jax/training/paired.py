"""Two predictions of the same examples compared: the standard error of the difference of their mean losses.

Most of the scatter of losses is common to both, because it comes from the labels. So sums of losses over blocks of consecutive examples are
kept, and the error follows from how the differences of these sums scatter. Called by `metrics`, `trajectory`, `baselines` and `lr_find`.
"""

import math

import numpy as np
from jaxtyping import Float, Num

MOST = 128  # blocks; a multiple of 2. Each holds equally many examples, so that at least half of them are in use


class LossSums:
  """Sums of losses, and of weights, over at most `MOST` blocks of consecutive examples. They do not depend on the batches.

  Attributes:
    sums: losses times weights, and weights; 0 in the blocks that are not in use.
  """

  def __init__(self) -> None:
    self.sums: Float[np.ndarray, "2 blocks"] = np.zeros((2, MOST))
    self._count, self._length = 0, 1

  def add(self, loss_n: Float[np.ndarray, " n"], weight_n: Num[np.ndarray, " n"] | None) -> None:
    """Adds the next examples; weights are 1 where they are None."""
    end = self._count + len(loss_n)
    while end > MOST * self._length:
      self._length *= 2
      self.sums = np.concatenate([self.sums.reshape(2, MOST // 2, 2).sum(axis=2), np.zeros((2, MOST // 2))], axis=1)
    block_n = np.arange(self._count, end) // self._length
    weight_n = np.ones(len(loss_n)) if weight_n is None else weight_n
    self.sums += np.stack([np.bincount(block_n, x_n, MOST) for x_n in (loss_n * weight_n, weight_n)])
    self._count = end


def difference_error(one: Float[np.ndarray, "2 blocks"] | None, other: Float[np.ndarray, "2 blocks"] | None) -> float:
  """The standard error of the difference of two mean losses, from `LossSums.sums`; NaN unless both are of the same examples."""
  if one is None or other is None or not np.array_equal(one[1], other[1]):
    return math.nan
  weight_k = one[1][one[1] > 0]
  if len(weight_k) < 2:
    return math.nan
  difference_k = (other[0] - one[0])[one[1] > 0]
  off_k = difference_k - weight_k * (difference_k.sum() / weight_k.sum())
  return math.sqrt(float(off_k @ off_k) * len(weight_k) / (len(weight_k) - 1)) / float(weight_k.sum())
