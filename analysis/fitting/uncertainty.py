"""Intervals for fitted parameters: profile likelihood, and a t interval over seeds as a cross-check. Called by `fit_law.py`.

Which increase of the cost is significant depends on how the points were produced: see `settings.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from analysis.fitting.least_squares import Problem, Solution, solve_held_each

Array = np.ndarray
LEVEL = 0.95
_MAX_SECANTS = 40
_FLAT = 1e-4  # share of the limit: a step of the search that raises the root by less is on a plateau
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


def profile_intervals(problem: Problem, solution: Solution, limits: Float[Array, " P"], unit_cov: Float[Array, "P P"]) -> list[Interval]:
  """For each fitted coordinate, its values whose best fit costs at most limit^2 more than the best of all.

  Args:
    limits: the square root of the significant cost increase: a quantile times the standard deviation of a residual.
    unit_cov: the result of `unit_covariance`, from which the search starts.

  An end that the data leave open, up to the edge of the domain, is None.
  """
  low, high = (side[0] for side in problem.bounds(1))
  ends = []
  for i, value in enumerate(solution.theta):
    for sign, edge in ((-1, low[i]), (1, high[i])):
      if value != edge:
        ends.append(_End(solution.theta, i, sign, float(edge), float(limits[i]), unit_cov))
  more_kp = problem.starts[::4]  # a held parameter may have optima on two branches
  for _ in range(_MAX_SECANTS):
    searching = [end for end in ends if not end.found]
    if not searching:
      break
    starts_gkp = np.stack([np.concatenate([end.starts(), more_kp]) for end in searching])
    index_g, value_g = np.array([end.index for end in searching]), np.array([end.value for end in searching])
    theta_gp, cost_g = solve_held_each(problem, index_g, value_g, starts_gkp, gain=1e-8)
    for end, theta, cost in zip(searching, theta_gp, cost_g, strict=True):
      end.tried(theta, float(np.sqrt(max(cost - solution.cost, 0.0))))
  out = []
  for i, best in enumerate(solution.theta):
    mine = {end.sign: end for end in ends if end.index == i}
    seen = [(float(best), 0.0)] + [(v, root / end.limit) for end in mine.values() for v, root in end.seen if np.isfinite(root)]
    std_error = float(np.sqrt(unit_cov[i, i])) if np.isfinite(unit_cov[i, i]) else None
    low_end, high_end = (mine[sign].end if sign in mine else None for sign in (-1, 1))
    out.append(Interval(low_end, high_end, std_error, tuple(sorted(seen))))
  return out


class _End:
  """The search for one end: where the square root of the cost increase crosses `limit` on one side.

  For a linear law the root is a straight line through the optimum. So it is followed by secants, each fit starting from the last one.
  """

  def __init__(self, theta: Array, index: int, sign: int, edge: float, limit: float, cov: Array) -> None:
    self.index, self.sign, self.edge, self.limit = index, sign, edge, limit
    self.best, self.theta = float(theta[index]), theta
    regular = bool(np.isfinite(cov[index, index]) and cov[index, index] > 0)
    step = float(np.sqrt(cov[index, index])) * limit if regular else 0.1 * max(abs(self.best), 1e-3)
    # How the other parameters follow this one near the optimum.
    self.slope = np.nan_to_num(cov[:, index]) / cov[index, index] if regular else np.eye(len(theta))[index]
    self.inner: tuple[float, float] = (self.best, 0.0)  # (value, root) below the limit
    self.outer: tuple[float, float] | None = None  # (value, root) above the limit
    self.seen: list[tuple[float, float]] = []
    self.end: float | None = None
    self.found, self.flat = False, 0
    self._go_to(self.best + sign * step)

  def _go_to(self, value: float) -> None:
    self.value = float(min(value, self.edge) if self.sign > 0 else max(value, self.edge))

  def starts(self) -> Float[Array, "2 P"]:
    return np.stack([self.theta + self.slope * (self.value - self.theta[self.index]), self.theta])

  def tried(self, held_theta: Array, root: float) -> None:
    """Takes the best fit at `value` and its root. Chooses the next value, or ends the search."""
    value, limit = self.value, self.limit
    self.seen.append((value, root))
    if abs(root - limit) <= 1e-3 * limit:
      self.end, self.found = value, True
      return
    if root < limit:
      if value == self.edge:
        self.found = True  # open
        return
      self.flat = self.flat + 1 if self.outer is None and root - self.inner[1] < _FLAT * limit else 0
      self.inner = (value, root)
      if self.flat == 2:
        self.found = True  # open: the root rises no more
        return
    else:
      self.outer = (value, root)
      self.end = value  # the result if the steps run out
    if np.isfinite(root):
      if value != self.theta[self.index]:
        self.slope = (held_theta - self.theta) / (value - self.theta[self.index])
      self.theta = held_theta
    if self.outer is None:  # go on to 1.5 to 4 times the distance from the optimum
      self._go_to(self.best + (self.inner[0] - self.best) * float(np.clip(limit / max(root, 1e-300), 1.5, 4.0)))
    else:
      share = (limit - self.inner[1]) / (self.outer[1] - self.inner[1]) if np.isfinite(self.outer[1]) else 0.5
      self._go_to(self.inner[0] + (self.outer[0] - self.inner[0]) * float(np.clip(share, 0.02, 0.98)))
