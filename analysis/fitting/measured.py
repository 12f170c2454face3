"""What the points of a curve show before any law is fitted: their means, the noise of these, and the slopes at both ends.

Called by `fit_law.py`; regimes compare a law's slope with these.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from analysis.fitting.settings import Setting
from analysis.fitting.uncertainty import quantile
from analysis.fitting.whitening import Weights, Whitening

Array = np.ndarray
_MIN_POINTS = 4  # then both ends have two points of their own
_END = 3  # an end of a curve is this part of its points: the first and the last third
_STEEPER = 1.25  # a curve is called steepening where its last slope is this many times the slope before, beyond the noise
_LEAST = 1e-3  # and where the difference of the slopes is at least this
_NO_NOISE = 1e-300  # the least variance
_MAX_DEGREE = 3  # of the polynomial around which points without repeats scatter


@dataclasses.dataclass(frozen=True)
class Means:
  """The mean log losses of a curve at its distinct x.

  Attributes:
    u, log_y: log x, rising, and the mean of log y there.
    noise: the whitening of the noise of the means.
    free: its degrees of freedom.
  """

  u: Float[Array, " n"]
  log_y: Float[Array, " n"]
  noise: Whitening
  free: float


@dataclasses.dataclass(frozen=True)
class Slopes:
  """Elasticities -d ln L / d ln x of the measured points, by straight lines on logarithms.

  Attributes:
    start, end: over the first and over the last third of the distinct x, at least two each.
    before: over all points up to where the last third begins.
    end_low, end_high: the 95% interval of `end`.
    steepening: whether the last third falls faster than the points before, beyond the noise and by a quarter.
  """

  start: float
  before: float
  end: float
  end_low: float
  end_high: float
  steepening: bool


def means_of(setting: Setting | None, x: Float[Array, "n 1"], y: Float[Array, " n"]) -> Means:
  """The means of a curve. Their noise is that of the passes where the setting has it, else that of `of_points`."""
  if setting is None or setting.noise is None:
    return of_points(x[:, 0], y)
  problem = setting.problem
  return Means(problem.log_x[:, 0], problem.log_y + problem.log_y0, problem.whiten, setting.known_free)


def of_points(x: Float[Array, " n"], y: Float[Array, " n"]) -> Means:
  """The means of independent points.

  The variance of a point comes from repeated x. Without two degrees of freedom of these, it comes from the scatter around a polynomial in
  log x of degree 3 at most, which follows any smooth curve.
  """
  at, index = np.unique(x, return_inverse=True)
  index = index.reshape(-1)
  log_y, count = np.log(y), np.bincount(index)
  mean = np.bincount(index, log_y) / count
  free, u = len(y) - len(at), np.log(at)
  if free >= 2:
    variance = float(np.sum((log_y - mean[index]) ** 2)) / free
  else:
    degree = min(_MAX_DEGREE, (len(at) - 1) // 2)
    free = len(at) - degree - 1
    scaled = (u - u.mean()) / (np.ptp(u) or 1.0)
    columns = np.vander(scaled, degree + 1)
    rest = mean - columns @ np.linalg.lstsq(columns, mean, rcond=None)[0]
    variance = float(np.sum(rest**2)) / free if free > 0 else np.inf
  return Means(u, mean, Weights(np.sqrt(count / max(variance, _NO_NOISE))), float(max(free, 1)))


def slopes_of(means: Means) -> Slopes | None:
  """The slopes at the ends; None with fewer than four distinct x."""
  n = len(means.u)
  if n < _MIN_POINTS:
    return None
  take = max(2, round(n / _END))
  start, end = _weights(means.u, np.arange(take)), _weights(means.u, np.arange(n - take, n))
  before = _weights(means.u, np.arange(n - take + 1))
  factor = quantile(means.free)

  def half(weights: Array) -> float:
    return factor * float(np.sqrt(means.noise.variance_of(weights)))

  at_start, at_end, earlier = (float(weights @ means.log_y) for weights in (start, end, before))
  more = at_end - earlier
  steepening = more > max(half(end - before), _LEAST) and at_end > _STEEPER * earlier
  return Slopes(at_start, earlier, at_end, at_end - half(end), at_end + half(end), bool(steepening))


def _weights(u: Float[Array, " n"], at: Array) -> Float[Array, " n"]:
  """Weights of the points whose weighted sum is minus the slope of a straight line through those at `at`."""
  out = np.zeros(len(u))
  centered = u[at] - u[at].mean()
  out[at] = -centered / np.sum(centered**2)
  return out
