"""Intervals for fitted parameters: a t interval over seeds, and profile likelihood on one curve. Called by `analysis.fitting`.

The points of one training pass are correlated, so an interval from the residuals of one curve is too narrow; where there are two seeds
or more, the spread of per-seed fits is used instead. A bootstrap over a handful of seeds covers far less than it says and is not offered.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import special

from analysis.least_squares import Problem, Solution, solve_held

Array = np.ndarray
LEVEL = 0.95
_RESOLUTION = 1e-12  # log residuals below this are rounding: the floor of the noise estimate
_MAX_SECANTS = 40


@dataclasses.dataclass(frozen=True)
class Interval:
  """An interval in the units of what it was computed for; an open end is None."""

  low: float | None
  high: float | None
  std_error: float | None = None


def t_interval(center: float, values: Float[Array, " S"]) -> Interval:
  """The 95% t interval of a mean from S >= 2 independent values, df = S - 1, placed around `center`."""
  values = np.asarray(values, np.float64)
  std_error = float(values.std(ddof=1) / np.sqrt(len(values)))
  half = float(special.stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * std_error
  return Interval(center - half, center + half, std_error)


def noise_variance(problem: Problem, solution: Solution) -> float:
  """Variance of a log residual, n - P degrees of freedom."""
  n, p = len(problem.log_x), len(problem.law.params)
  return max(solution.rss / (n - p), _RESOLUTION**2)


def covariance(problem: Problem, solution: Solution) -> Float[Array, "P P"]:
  """Gauss-Newton covariance of the fitted coordinates; NaN where a parameter is on a bound or has no effect."""
  p = len(problem.law.params)
  free = np.array([name not in solution.on_bound for name in problem.law.names])
  jacobian = problem.evaluate(solution.theta[None])[1][0][:, free]
  scale = np.linalg.norm(jacobian, axis=0)
  out = np.full((p, p), np.nan)
  if np.all(scale > 0):
    gram = (jacobian / scale).T @ (jacobian / scale)
    if np.linalg.cond(gram) < 1e14:
      out[np.ix_(free, free)] = noise_variance(problem, solution) * np.linalg.inv(gram) / np.outer(scale, scale)
  return out


def profile_interval(problem: Problem, solution: Solution, index: int) -> Interval:
  """Values of one fitted coordinate whose best fit is not significantly worse (F test, 1 and n - P degrees of freedom).

  Points are treated as independent. An end that the data leave open, up to the edge of the domain, is None.
  """
  n, p = len(problem.log_x), len(problem.law.params)
  limit = float(special.stdtrit(n - p, (1 + LEVEL) / 2)) * np.sqrt(noise_variance(problem, solution))
  cov = covariance(problem, solution)
  variance = cov[index, index]
  low, high = (_profile_end(problem, solution, index, sign, limit, cov) for sign in (-1, 1))
  return Interval(low, high, float(np.sqrt(variance)) if np.isfinite(variance) else None)


def _profile_end(problem: Problem, solution: Solution, index: int, sign: int, limit: float, cov: Array) -> float | None:
  """Where the root of the rise in the sum of squares crosses `limit` on one side, or None where it never does.

  The root is a straight line through the optimum when the law is linear, so it is followed by secants, each fit starting from the last.
  """
  param, theta = problem.law.params[index], solution.theta
  edge = param.low if sign < 0 else param.high
  if theta[index] == edge:
    return None
  slope = cov[:, index] / cov[index, index]  # of the valley at the optimum
  regular = bool(np.all(np.isfinite(slope))) and cov[index, index] > 0
  step = float(np.sqrt(cov[index, index] / noise_variance(problem, solution))) * limit if regular else 0.1 * max(abs(theta[index]), 1e-3)
  if not regular:
    slope = np.eye(len(theta))[index]
  inner, outer = (float(theta[index]), 0.0), None  # (value, root) below and above the limit
  value = inner[0] + sign * step
  more_kp = problem.law.starts(problem.log_x, problem.log_y)[::4]  # a held parameter may have optima on two branches
  for _ in range(_MAX_SECANTS):
    value = float(min(value, edge) if sign > 0 else max(value, edge))
    starts_kp = np.concatenate([[theta + slope * (value - theta[index]), theta], more_kp])
    held_theta, rss = solve_held(problem, index, value, starts_kp, gain=1e-8)
    root = float(np.sqrt(max(rss - solution.rss, 0.0)))
    if abs(root - limit) <= 1e-3 * limit:
      return value
    if root < limit:
      if value == edge:
        return None
      inner = (value, root)
    else:
      outer = (value, root)
    if np.isfinite(root):
      slope, theta = (held_theta - theta) / (value - theta[index]) if value != theta[index] else slope, held_theta
    if outer is None:  # farther out, at least half as far again and at most four times
      value = solution.theta[index] + (inner[0] - solution.theta[index]) * float(np.clip(limit / max(root, 1e-300), 1.5, 4.0))
    else:
      share = (limit - inner[1]) / (outer[1] - inner[1]) if np.isfinite(outer[1]) else 0.5
      value = inner[0] + (outer[0] - inner[0]) * float(np.clip(share, 0.02, 0.98))
  return None if outer is None else value
