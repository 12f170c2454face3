"""What intervals of fitted parameters are made of: covariance, quantiles, the t interval over seeds. Ends of profiles: `profiles.py`.

Which increase of the cost is significant depends on how the points were produced: see `settings.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from analysis.fitting.least_squares import Problem, Solution

Array = np.ndarray
LEVEL = 0.95
_SINGULAR = 1e14  # condition number of the normal equations above which the points do not determine the parameters


@dataclasses.dataclass(frozen=True)
class Interval:
  """An interval in the units of the quantity it was computed for; an open end is None.

  Attributes:
    profile: pairs (value, rise), by rising value. `rise` is the square root of the cost increase of the best fit with the parameter held
      at `value`, scaled to 1 at the interval's ends.
  """

  low: float | None
  high: float | None
  std_error: float | None = None
  profile: tuple[tuple[float, float], ...] = ()


def quantile(free: float) -> float:
  """The value that |t| with this many degrees of freedom exceeds in 5% of cases."""
  return float(special.stdtrit(free, (1 + LEVEL) / 2))


def t_interval(center: float, values: Float[Array, " S"]) -> Interval:
  """The 95% t interval of a mean from S >= 2 independent values, df = S - 1, placed around `center`."""
  values = np.asarray(values, np.float64)
  std_error = float(values.std(ddof=1) / np.sqrt(len(values)))
  half = quantile(len(values) - 1) * std_error
  return Interval(center - half, center + half, std_error)


def free_parameters(problem: Problem, solution: Solution) -> Bool[Array, " P"]:
  """Which parameters are not on a bound."""
  return np.array([name not in solution.on_bound for name in problem.law.names])


def condition(problem: Problem, solution: Solution) -> float:
  """The condition number of the fit: of the normal equations of the free parameters, every column scaled to length 1."""
  jacobian = problem.evaluate(solution.theta[None])[1][0][:, free_parameters(problem, solution)]
  if not jacobian.shape[1]:  # every parameter is on a bound
    return 1.0
  scale = np.linalg.norm(jacobian, axis=0)
  return float(np.linalg.cond(jacobian / scale) ** 2) if np.all(scale > 0) else float("inf")


def unit_covariance(problem: Problem, solution: Solution) -> Float[Array, "P P"]:
  """Gauss-Newton covariance of the coordinates for residuals of variance 1; NaN where a parameter is on a bound or has no effect."""
  p = len(problem.law.params)
  free = free_parameters(problem, solution)
  jacobian = problem.evaluate(solution.theta[None])[1][0][:, free]
  out = np.full((p, p), np.nan)
  if condition(problem, solution) < _SINGULAR:
    scale = np.linalg.norm(jacobian, axis=0)
    gram = (jacobian / scale).T @ (jacobian / scale)
    out[np.ix_(free, free)] = np.linalg.inv(gram) / np.outer(scale, scale)
  return out
