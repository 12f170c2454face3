"""A power law without a constant, y = y0 (x/x0)^exponent, rising or falling: a straight line on logarithms with t intervals.

Such laws describe how the best size grows with the budget. They have a closed form, so that no search is needed, and the exponent may have
either sign. Called by `minima.py` and by `analysis.questions`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import special

from analysis.fitting.result import Estimate
from analysis.fitting.uncertainty import quantile

Array = np.ndarray
_HETEROGENEOUS = 0.2  # significance level at which points scatter about their line by more than their errors: few points show little


@dataclasses.dataclass(frozen=True)
class PowerLine:
  """A fitted line on logarithms.

  Attributes:
    log_x0: log x in the middle of the points.
    theta: log y at `log_x0`, and the exponent.
    covariance: of `theta`.
    free: degrees of freedom of this covariance.
    weights: theta is `weights` times the log y of the points.
    scatter_p: the probability of points that miss the line by so much if they had their errors alone; None where it is not known.
  """

  log_x0: float
  theta: Float[Array, "2"]
  covariance: Float[Array, "2 2"]
  free: float
  weights: Float[Array, "2 n"]
  scatter_p: float | None = None

  @property
  def exponent(self) -> Estimate:
    """The exponent with its standard error and 95% t interval."""
    return self._along(np.array([0.0, 1.0]))

  def log_at(self, x: float) -> Estimate:
    """log y of the line at x, with its 95% t interval there."""
    return self._along(np.array([1.0, np.log(x) - self.log_x0]))

  def at(self, x: float) -> Estimate:
    """y of the line at x, with its 95% interval there. `std_error` is that of log y."""
    found = self.log_at(x)
    assert found.ci_low is not None and found.ci_high is not None  # a line has both ends
    return Estimate(float(np.exp(found.estimate)), found.std_error, float(np.exp(found.ci_low)), float(np.exp(found.ci_high)))

  def _along(self, row: Float[Array, "2"]) -> Estimate:
    value, error = float(row @ self.theta), float(np.sqrt(max(row @ self.covariance @ row, 0.0)))
    half = quantile(self.free) * error
    return Estimate(value, error, value - half, value + half)


def power_line(
  x: Float[Array, " n"], log_y: Float[Array, " n"], covariance: Float[Array, "n n"] | None = None, free: float = 0.0
) -> PowerLine:
  """The line by generalised least squares.

  Where errors are known up to a factor, the factor is estimated from the scatter about the line. Where they are known and the scatter is
  larger than they explain (F test at 20%), the errors of the line are those of the scatter. Else both are pooled.

  Args:
    x, log_y: the points, n >= 2; n >= 3 where errors are known up to a factor.
    covariance: of log_y, positive definite; None: all errors are equal.
    free: degrees of freedom of the covariance; 0: it is known up to a factor.
  """
  errors = np.eye(len(x)) if covariance is None else covariance
  whiten = np.linalg.inv(np.linalg.cholesky(errors))
  log_x, ones = np.log(x), whiten @ np.ones(len(x))
  log_x0 = float(ones @ whiten @ log_x / (ones @ ones))  # where level and exponent are independent
  columns = np.column_stack([ones, whiten @ (log_x - log_x0)])
  plain, lack = np.linalg.inv(columns.T @ columns), len(x) - 2
  weights = plain @ columns.T @ whiten
  theta = weights @ log_y
  squares = float(np.sum((whiten @ log_y - columns @ theta) ** 2))
  if not free:
    return PowerLine(log_x0, theta, plain * squares / lack, float(lack), weights)
  p = float(special.fdtrc(lack, min(free, 1e9), squares / lack)) if lack else None
  if p is not None and p < _HETEROGENEOUS:
    return PowerLine(log_x0, theta, plain * squares / lack, float(lack), weights, p)
  factor = 1.0 if np.isinf(free) else (free + squares) / (free + lack)
  return PowerLine(log_x0, theta, plain * factor, free + lack, weights, p)
