"""Fewer points in place of many: means of neighbouring evaluations of a pass, and of neighbouring independent points.

A fit to a hundred thousand points costs as many evaluations of the law as one to a thousand, each a hundred times longer. The law changes
little between neighbours, so that their mean holds what the fit can use. Called by `settings.py` and `diagnostics.py`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray
PASS_MEANS = 64  # a pass of more evaluations is fitted as at most this many block means
CELLS = 1024  # independent points of more than twice this number are fitted as at most this many means
CURVED_CELLS = 128  # the same for a law whose search takes many starts


def evenly(values: list[Any], most: int) -> list[Any]:
  """At most `most` of the values, at even distances, with the first and the last."""
  return values if len(values) <= most else [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def pass_means(
  x: Float[Array, "n C"], log_y_sn: Float[Array, "S n"]
) -> tuple[Float[Array, "m C"], Float[Array, "S m"], Float[Array, " m"]]:
  """The block means of a pass of more than `PASS_MEANS` evaluations: of log y, at the mean log x of the block.

  The blocks have equal lengths in log x; the last column of x rises along the pass, and the others are constant. A block without an
  evaluation is left out.

  Returns:
    x and log y of the means, and the number of evaluations in each. A shorter pass is returned as it is, with counts of 1.
  """
  if len(x) <= PASS_MEANS:
    return x, log_y_sn, np.ones(len(x))
  u = np.log(x[:, -1])
  index = _bins(u, PASS_MEANS)
  first = np.flatnonzero(np.diff(index, prepend=-1))
  count = np.diff(first, append=len(u)).astype(np.float64)
  out = x[first].copy()
  out[:, -1] = np.exp(np.add.reduceat(u, first) / count)
  return out, np.add.reduceat(log_y_sn, first, axis=1) / count, count


def cells(log_x: Float[Array, "n C"], most: int = CELLS) -> Int[Array, " n"] | None:
  """The number of the cell of each independent point, `most` cells at most; None for few points, each of which is fitted.

  Where there are at most `most` distinct x, points of one x are a cell. Otherwise cells have equal sides in log x. A column of few distinct
  values has a side for each of them, which leaves more sides for the other columns.
  """
  if len(log_x) <= 2 * most:
    return None
  values = [np.unique(column, return_inverse=True) for column in log_x.T]
  left, indices = float(most), np.zeros(len(log_x), int)
  for done, i in enumerate(sorted(range(len(values)), key=lambda i: len(values[i][0]))):  # columns of few values first
    side = max(int(left ** (1 / (len(values) - done)) + 1e-9), 1)
    distinct, index = values[i]
    index = index.reshape(-1) if len(distinct) <= side else _bins(log_x[:, i], side)
    sides = int(index.max()) + 1
    indices, left = indices * sides + index, left / sides
  return np.unique(indices, return_inverse=True)[1].reshape(-1)


def _bins(u: Float[Array, " n"], count: int) -> Int[Array, " n"]:
  """The number of the interval of each value, of `count` intervals of equal length."""
  low, span = u.min(), float(np.ptp(u)) or 1.0
  return np.minimum((count * (u - low) / span).astype(int), count - 1)


def cell_means(values: Float[Array, "n *C"], index: Int[Array, " n"], weight: Float[Array, " n"]) -> Float[Array, "d *C"]:
  """The weighted means of the values of each cell."""
  total = np.bincount(index, weight)
  if values.ndim == 1:
    return np.bincount(index, weight * values) / total
  return np.stack([np.bincount(index, weight * column) / total for column in values.T], axis=1)
