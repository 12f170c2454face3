"""Columns added to a law's gradient, and an F test of whether they lower the cost by more than noise does. Called by `adequacy.py`.

The noise is that of seeds or repeats, and where these are few also the scatter that is left.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import special

from analysis.fitting.least_squares import Problem, Solution
from analysis.fitting.whitening import Weights, Whitening

Array = np.ndarray
MATERIAL = 0.02  # a contradiction is this share of the curve's fall, in log loss, or more
_FINE = 0.0025  # the same for a smooth pattern where no x repeats: intervals take such a pattern for noise of independent points
_LEAST = 5e-4  # a contradiction is also at least this share of the loss
_ENOUGH = 8  # with this many degrees of freedom the noise of seeds or repeats is used without the scatter around the law
_RANK = 1e-6  # singular values below this share of the largest count as 0


@dataclasses.dataclass(frozen=True)
class Points:
  """The points of a fit, prepared for the tests.

  Attributes:
    residual: log f - log y, whitened, and weighted where the loss is robust.
    white: the whitening, which is applied to columns, too.
    gradient: of log f by the free parameters, not whitened, [n, p].
    basis: an orthonormal basis of the whitened gradient.
    place: the index of the distinct x of each point.
    mean: the mean log y at each distinct x.
    variance, free: the known noise of one whitened residual, and its degrees of freedom; 0 without seeds or repeats.
  """

  residual: Float[Array, " n"]
  white: Whitening
  gradient: Float[Array, "n p"]
  basis: Float[Array, "n r"]
  place: Array
  mean: Float[Array, " d"]
  variance: float
  free: float

  @property
  def fall(self) -> float:
    """The range of the mean log losses."""
    return float(np.ptp(self.mean))

  @property
  def large(self) -> float:
    """The least difference in log loss that counts."""
    return max(MATERIAL * self.fall, _LEAST)

  @property
  def visible(self) -> float:
    """The same for a smooth pattern in the residuals."""
    return self.large if self.free else max(_FINE * self.fall, _LEAST)

  @property
  def lack(self) -> int:
    """Distinct x beyond the free parameters."""
    return len(self.mean) - self.basis.shape[1]


@dataclasses.dataclass(frozen=True)
class FTest:
  """The result of a test.

  Attributes:
    significant: whether the columns lower the cost by more than noise does.
    shift: the change of log f at each point if the columns are fitted together with the parameters.
    coefficient: of each column.
  """

  significant: bool
  shift: Float[Array, " n"]
  coefficient: Float[Array, " k"]


def prepared(problem: Problem, solution: Solution, variance: float, free: float) -> Points:
  """The points of a fit as the tests need them; see `Points` for `variance` and `free`."""
  log_f, gradient = (a[0] for a in problem.law.log_value(solution.theta[None], problem.log_x))
  raw = log_f - problem.log_y
  white, delta = problem.whiten, problem.loss.delta
  if delta is not None:  # with a robust loss, points are independent, and one that is far off has the weight that it has in the fit
    white = Weights(np.sqrt(delta / np.maximum(np.abs(raw), delta)))
  kept = np.array([name not in solution.on_bound for name in problem.law.names])
  _, place = np.unique(problem.log_x, axis=0, return_inverse=True)
  place = place.reshape(-1)
  mean = np.bincount(place, problem.log_y) / np.bincount(place)
  basis = basis_of(white.columns(gradient[:, kept]))
  return Points(white.columns(raw[:, None])[:, 0], white, gradient[:, kept], basis, place, mean, variance, free)


def basis_of(columns: Float[Array, "m k"]) -> Float[Array, "m r"]:
  """An orthonormal basis of the columns, which are first scaled to length 1."""
  length = np.linalg.norm(columns, axis=0)
  columns = columns[:, length > 0] / length[length > 0]
  u, s, _ = np.linalg.svd(columns, full_matrices=False)
  return u[:, s > _RANK * s.max()] if len(s) else u


def beyond(points: Points, columns: Float[Array, "n k"]) -> Float[Array, "m k"]:
  """The part of whitened columns that no change of the law's parameters follows; zero where it is small."""
  white = points.white.columns(columns)
  rest = white - points.basis @ (points.basis.T @ white)
  small = np.linalg.norm(rest, axis=0) < _RANK * np.maximum(np.linalg.norm(white, axis=0), 1e-300)
  return np.where(small, 0.0, rest)


def scale(points: Points, rest: float, rest_free: float) -> tuple[float, float]:
  """The variance of a whitened residual and its degrees of freedom.

  They are those of `points`. Where these have fewer than `_ENOUGH` degrees of freedom, they are pooled with the residual sum of squares
  `rest`, which has `rest_free` degrees of freedom.
  """
  if points.free >= _ENOUGH:
    return points.variance, points.free
  freedom = points.free + max(rest_free, 0)
  return ((points.variance * points.free + rest) / freedom if freedom > 0 else np.inf), freedom


def f_test(points: Points, columns: Float[Array, "n k"], level: float) -> FTest:
  """Whether these columns, added to the law, lower the cost by more than noise does."""
  rest_columns = beyond(points, columns)
  basis = basis_of(rest_columns) if np.any(rest_columns) else np.zeros((len(rest_columns), 0))
  clean = points.residual - points.basis @ (points.basis.T @ points.residual)
  count = basis.shape[1]
  gain = float(np.sum((basis.T @ clean) ** 2))
  left = max(float(np.sum(clean**2)) - gain, 0.0)
  variance, freedom = scale(points, left, len(clean) - points.basis.shape[1] - count)
  if not count or freedom < 1 or not np.isfinite(variance):
    return FTest(False, np.zeros(len(columns)), np.zeros(columns.shape[1]))
  ratio = gain / count / max(variance, 1e-300)
  coefficient = np.linalg.lstsq(rest_columns, clean, rcond=_RANK)[0]
  wanted = columns @ coefficient
  followed = np.linalg.lstsq(points.white.columns(points.gradient), points.white.columns(wanted[:, None])[:, 0], rcond=_RANK)[0]
  return FTest(float(special.fdtrc(count, freedom, ratio)) < level, wanted - points.gradient @ followed, coefficient)
