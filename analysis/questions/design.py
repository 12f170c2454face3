"""Forecasts of measured losses from the smaller part of any points: grids, sizes that vary one at a time, scattered runs, single curves.

Along each column of x, the points up to a cut are fitted and those beyond it are predicted. At each value of the column beyond the cut,
only the points are predicted that no other one there exceeds in all other columns: predictions ask for large runs, and small ones have
small errors. Where points exceed the others in several columns at once, there are forecasts along the product of the columns, too.
Called by `ensemble.py` and `predictions.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from analysis.fitting.thinning import evenly
from analysis.questions.origins import Fits, Origin, Points, forecast

Array = np.ndarray
PRODUCT = "product"
_MIN_VALUES = 4  # distinct values of the column, or of the product, that must be left
_MIN_OF_SEVERAL = 3  # the same where there are several columns
_MOST_CUTS = 8  # along each column
_TINY = 1e-9


def steps_beyond(log_x: Float[Array, "n C"], at: Float[Array, "T C"]) -> Float[Array, "T C"]:
  """How far beyond the points each of some others is, in log x, column by column: the shortest step up from one of the points.

  It is zero for a place that one of the points reaches or exceeds in all columns.
  """
  up = np.maximum(at[:, None] - log_x[None], 0.0)
  up[up < _TINY] = 0.0
  nearest = np.argmin(np.sum(up**2, axis=2), axis=1)
  return up[np.arange(len(at)), nearest]


def forecasts_of(points: Points, laws: Fits) -> list[Origin]:
  """The forecasts along each column, then along the product, by rising cut.

  Args:
    points: means over seeds.
    laws: each with its coordinates fitted to all points.
  """
  log_x, out = points.log_x, []
  count = log_x.shape[1]
  for column in range(count):
    out += _along(points, laws, log_x[:, column], column, _largest_runs(log_x, column))
  if count > 1:
    size = log_x.sum(axis=1)
    for origin_size in _cuts(size, count):
      kept = size <= origin_size + _TINY
      steps = steps_beyond(log_x[kept], log_x[~kept])
      targets = np.flatnonzero(~kept)[np.sum(steps > 0, axis=1) > 1]
      if len(targets):
        away = np.linalg.norm(steps_beyond(log_x[kept], log_x[targets]), axis=1)
        found = forecast(points, laws, kept, targets, 0, origin_size, away)
        out += [dataclasses.replace(one, along=PRODUCT, at=np.exp(size[targets])) for one in found]
  return out


def _along(points: Points, laws: Fits, value: Float[Array, " n"], column: int, large: Bool[Array, " n"]) -> list[Origin]:
  """The forecasts along one column."""
  out = []
  for cut in _cuts(value, points.log_x.shape[1]):
    kept = value <= cut + _TINY
    targets = np.flatnonzero(~kept & large)
    targets = targets[np.argsort(value[targets], kind="stable")]
    out += forecast(points, laws, kept, targets, column, cut)
  return out


def _cuts(value: Float[Array, " n"], columns: int) -> list[float]:
  """The values up to which points are fitted."""
  distinct = np.unique(np.round(value, 9))
  least = _MIN_OF_SEVERAL if columns > 1 else _MIN_VALUES
  return evenly([float(v) for v in distinct[least - 1 : -1]], _MOST_CUTS)


def _largest_runs(log_x: Float[Array, "n C"], column: int) -> Bool[Array, " n"]:
  """Which points no other one of the same value in a column reaches in all other columns and exceeds in one."""
  others = np.delete(log_x, column, axis=1)
  out = np.ones(len(log_x), bool)
  for v in np.unique(np.round(log_x[:, column], 9)):
    at = np.flatnonzero(np.abs(log_x[:, column] - v) < 1e-8)
    mine = others[at]
    beaten = np.all(mine[None] >= mine[:, None] - _TINY, axis=2) & np.any(mine[None] > mine[:, None] + _TINY, axis=2)
    out[at] = ~beaten.any(axis=1)
  return out
