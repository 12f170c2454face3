"""The ends of profile likelihood intervals: a search that brackets each end, and for laws of several optima looks beyond it.

The search ends in one of two ways. It has an end between two values a small step apart, one inside and one outside. Or the end is open:
the cost never rises to the limit, up to the edge of the domain or as far as a parameter can go. Called by `fit_law.py`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from analysis.fitting.least_squares import Problem, Solution, solve, solve_held_each
from analysis.fitting.uncertainty import Interval, unit_covariance

Array = np.ndarray
_FEW = 20  # starts of a law up to which each held fit tries all, not a quarter
_FLAT = 1e-4  # share of the limit: a step of the search that raises the root by less is on a plateau
_ROOT = 1e-3  # share of the limit: the error of the root at an end
_PLACE = 5e-3  # share of the distance from the optimum, or from the edge if that is less: the error that a flat profile may add to this
_WIDTH = 2e-3  # share of this distance: a bracket this narrow is an end, where the root jumps
_AT_EDGE = 1e-6  # share of the distance from the optimum: an end this close to the edge is on it
_HALVINGS = 3  # steps in which a bracket must halve; else it is cut in the middle
_FARTHEST = 700.0  # a logarithm this far from the optimum is as good as infinite
_MAX_STEPS = 200  # a bound that no search meets: a bracket of any width closes in 60 steps, and so does a way to `_FARTHEST`
_BEYOND = (
  1.02,
  1.1,
  1.25,
  1.5,
  2.0,
  3.0,
  5.0,
  10.0,
  30.0,
)  # distances beyond an end, in its own, at which laws of several optima are tried
_TO_EDGE = 10  # values tried between an end and the edge of its domain
_ROUNDS = 8  # times that an end may move outwards
_RESTARTS = 5  # times that a search for intervals may meet a lower cost
_LOWER = 1e-6  # relative difference of costs by which one optimum is lower than another


def profiled(
  problem: Problem, solution: Solution, judge: Callable[[Solution], tuple[Float[Array, " P"], Float[Array, " P"]]]
) -> tuple[Solution, Float[Array, " P"], list[Interval], str]:
  """The profile intervals of a solution. Where the search for them meets a lower cost, it begins anew from there.

  Args:
    judge: returns for a solution the limits of `profile_intervals` and the standard deviation of a residual, one value a parameter.

  Returns:
    The solution of lowest cost, its limits, and the intervals. Then a note, or an empty string: after `_RESTARTS` new solutions none is
    known to be the best fit, and all ends are open.
  """
  for _ in range(_RESTARTS):
    limits, deviations = judge(solution)
    unit = unit_covariance(problem, solution)
    found, lower = profile_intervals(problem, solution, limits, unit)
    if lower is None:
      scaled = [None if i.std_error is None else i.std_error * float(d) for i, d in zip(found, deviations, strict=True)]
      return solution, limits, [dataclasses.replace(i, std_error=s) for i, s in zip(found, scaled, strict=True)], ""
    solution = solve(problem, near=lower)
  open_ends = [Interval(None, None)] * len(solution.theta)
  return solution, judge(solution)[0], open_ends, "the best fit is not known: each search for the intervals met a lower cost"


def profile_intervals(
  problem: Problem, solution: Solution, limits: Float[Array, " P"], unit_cov: Float[Array, "P P"]
) -> tuple[list[Interval], Float[Array, " P"] | None]:
  """For each fitted coordinate, the range of its values whose best fit costs at most limit^2 more than the best of all.

  Where the best fits of a coordinate cost less than this on both sides of a value that costs more, the range includes the value.

  Args:
    limits: the square root of the significant cost increase: a quantile times the standard deviation of a residual.
    unit_cov: the result of `unit_covariance`, from which the search starts.

  Returns:
    The intervals, in which an end that the data leave open is None. Then better parameters than the solution's, where the search met
    some: the solution is then a local optimum, and the intervals are not valid.
  """
  low, high = (side[0] for side in problem.bounds(1))
  ends = []
  for i, value in enumerate(solution.theta):
    for sign, edge in ((-1, low[i]), (1, high[i])):
      if value != edge:
        log = problem.law.params[i].log
        ends.append(_End(solution.theta, i, sign, float(edge), float(limits[i]), unit_cov, _FARTHEST if log else np.inf))
  search = _Search(problem, solution, ends)
  search.follow()
  if problem.law.curved:
    for _ in range(_ROUNDS):
      if search.lower is not None or not search.look_beyond():
        break
      search.follow()
    else:
      for end in search.moved:
        end.end = None  # it moved each time: no end is known
  out = []
  for i, best in enumerate(solution.theta):
    mine = {end.sign: end for end in ends if end.index == i}
    seen = [(float(best), 0.0)] + [(v, root / end.limit) for end in mine.values() for v, root in end.seen if np.isfinite(root)]
    std_error = float(np.sqrt(unit_cov[i, i])) if np.isfinite(unit_cov[i, i]) else None
    low_end, high_end = (mine[sign].end if sign in mine else None for sign in (-1, 1))
    out.append(Interval(low_end, high_end, std_error, tuple(sorted(seen))))
  return out, search.lower


class _Search:
  """The fits with one parameter held that the ends of one solution ask for, a batch at a time."""

  def __init__(self, problem: Problem, solution: Solution, ends: "list[_End]") -> None:
    self.problem, self.solution, self.ends = problem, solution, ends
    # A held parameter may have optima on two branches, such as gamma = 0 and gamma > 0.
    self.more_kp = problem.starts if len(problem.starts) <= _FEW else problem.starts[::4]
    self.lower: Array | None = None
    self.lowest = solution.cost - _LOWER * solution.cost - len(problem.log_y) * 1e-28
    self.moved: list[_End] = []
    self.known: list[tuple[Array, float]] = []  # all held fits: parameters, and the root of the cost increase

  def fit(self, asked: "list[tuple[_End, float]]") -> list[tuple[Array, float]]:
    """The best fit with the end's parameter held at each value: parameters, and the root of the cost increase."""
    starts = [np.concatenate([end.starts(value), self.more_kp]) for end, value in asked]
    if self.problem.law.curved:  # the fits at other ends are starts on branches of their own
      others = np.unique(np.stack([theta for end in self.ends for theta in (end.inside, end.theta)]), axis=0)
      starts = [np.concatenate([others, s]) for s in starts]
    index_g, value_g = np.array([end.index for end, _ in asked]), np.array([value for _, value in asked])
    theta_gp, cost_g = solve_held_each(self.problem, index_g, value_g, np.stack(starts), gain=1e-8)
    best = int(np.argmin(cost_g))
    if cost_g[best] < self.lowest:
      self.lower, self.lowest = theta_gp[best], float(cost_g[best])
    found = [(theta, float(np.sqrt(max(cost - self.solution.cost, 0.0)))) for theta, cost in zip(theta_gp, cost_g, strict=True)]
    self.known += found if self.problem.law.curved else []
    return found

  def follow(self) -> None:
    """Follows all ends, side by side, until each is found or open."""
    for _ in range(_MAX_STEPS):
      searching = [end for end in self.ends if not end.found]
      if not searching:
        return
      for end, (theta, root) in zip(searching, self.fit([(end, end.value) for end in searching]), strict=True):
        end.tried(theta, root)
    for end in self.ends:
      end.end = end.end if end.found else None

  def look_beyond(self) -> bool:
    """Looks beyond each end. Where a value is inside after all, the search goes on from there; returns whether any does.

    A fit inside the limit with one parameter held tells of all others too. Where none is beyond an end, values there are tried.
    """
    self.moved = [end for end in self.ends if end.end is not None and end.reopened(end.outmost(self.known))]
    if self.moved:
      return True
    asked = [(end, value) for end in self.ends for value in end.beyond()]
    if not asked:
      return False
    found = self.fit(asked)
    for end in self.ends:
      mine = [(value, *fit) for (other, value), fit in zip(asked, found, strict=True) if other is end]
      if end.reopened(mine):
        self.moved.append(end)
    return bool(self.moved)


class _End:
  """The search for one end: where the square root of the cost increase crosses `limit` on one side.

  For a linear law the root is a straight line through the optimum. So it is followed by secants, each fit starting from the last one. Once
  the end is between two values, a secant that closes in too slowly gives way to the middle.
  """

  def __init__(self, theta: Array, index: int, sign: int, edge: float, limit: float, cov: Array, farthest: float) -> None:
    self.index, self.sign, self.edge, self.limit, self.farthest = index, sign, edge, limit, farthest
    self.best, self.theta, self.inside = float(theta[index]), theta, theta  # the last fit, and the last one inside
    regular = bool(np.isfinite(cov[index, index]) and cov[index, index] > 0)
    step = float(np.sqrt(cov[index, index])) * limit if regular else 0.1 * max(abs(self.best), 1e-3)
    # How the other parameters follow this one near the optimum.
    self.slope = np.nan_to_num(cov[:, index]) / cov[index, index] if regular else np.eye(len(theta))[index]
    self.inner: tuple[float, float] = (self.best, 0.0)  # (value, root) below the limit
    self.outer: tuple[float, float] | None = None  # (value, root) above the limit
    self.seen: list[tuple[float, float]] = []
    self.widths: list[float] = []  # of the bracket, step by step
    self.end: float | None = None
    self.found, self.flat = False, 0
    self._go_to(self.best + sign * step)

  def _clipped(self, value: float) -> float:
    reach = self.best + self.sign * self.farthest
    limits = (self.edge, reach)
    return float(min(value, *limits) if self.sign > 0 else max(value, *limits))

  def _go_to(self, value: float) -> None:
    self.value = self._clipped(value)

  def starts(self, value: float) -> Float[Array, "2 P"]:
    return np.stack([self.theta + self.slope * (value - self.theta[self.index]), self.theta])

  def _scale(self, value: float) -> float:
    """The distance that errors of an end at `value` are compared with."""
    distance = abs(value - self.best)
    return max(min(distance, abs(self.edge - value)), _AT_EDGE / _WIDTH * distance)

  def _exact(self, value: float, root: float) -> bool:
    """Whether this value is the end: by its root, and by how far the end can be off at the profile's slope."""
    if abs(root - self.limit) > _ROOT * self.limit:
      return False
    other = self.outer if root < self.limit and self.outer is not None and np.isfinite(self.outer[1]) else self.inner
    rise = abs(other[1] - root)
    return rise > 0 and abs(root - self.limit) * abs(value - other[0]) <= _PLACE * rise * self._scale(value)

  def tried(self, held_theta: Array, root: float) -> None:
    """Takes the best fit at `value` and its root. Chooses the next value, or ends the search."""
    value, limit = self.value, self.limit
    self.seen.append((value, root))
    if self._exact(value, root):
      self.outer = (value, root)
      self.end, self.found = value, True
      return
    if root < limit:
      if value in (self.edge, self.best + self.sign * self.farthest):
        self.end, self.found = None, True  # open
        return
      self.flat = self.flat + 1 if self.outer is None and root - self.inner[1] < _FLAT * limit else 0
      self.inner, self.inside = (value, root), held_theta
      if self.flat == 2:
        self.end, self.found = None, True  # open: the root rises no more
        return
    else:
      self.outer = (value, root)
    if np.isfinite(root):
      if value != self.theta[self.index]:
        self.slope = (held_theta - self.theta) / (value - self.theta[self.index])
      self.theta = held_theta
    if self.outer is None:  # go on to 1.5 to 4 times the distance from the optimum
      self._go_to(self.best + (self.inner[0] - self.best) * float(np.clip(limit / max(root, 1e-300), 1.5, 4.0)))
      return
    width = abs(self.outer[0] - self.inner[0])
    self.widths.append(width)
    if width <= _WIDTH * self._scale(self.outer[0]):
      self.end, self.found = self.outer[0], True
      return
    slow = len(self.widths) > _HALVINGS and width > 0.5 * self.widths[-1 - _HALVINGS]
    share = (limit - self.inner[1]) / (self.outer[1] - self.inner[1]) if np.isfinite(self.outer[1]) and not slow else 0.5
    self._go_to(self.inner[0] + (self.outer[0] - self.inner[0]) * float(np.clip(share, 0.02, 0.98)))
    if self.value in (self.inner[0], self.outer[0]):  # no number is between them
      self.end, self.found = self.outer[0], True

  def outmost(self, known: list[tuple[Array, float]]) -> list[tuple[float, Array, float]]:
    """Of fits (parameters, root), the one inside the limit that is farthest beyond the end; a list of it alone, or empty."""
    assert self.end is not None
    distance = abs(self.end - self.best) * (1 + _WIDTH)
    beyond = [(self.sign * (float(theta[self.index]) - self.best), theta, root) for theta, root in known if root < self.limit]
    beyond = [point for point in beyond if point[0] > distance]
    if not beyond:
      return []
    _, theta, root = max(beyond, key=lambda point: point[0])
    return [(float(theta[self.index]), theta, root)]

  def beyond(self) -> list[float]:
    """Values outside the interval, rising in distance, at which the profile may be inside again."""
    at = self.inner[0] if self.end is None else self.end
    if self.end is None and (at == self.edge or not np.isfinite(at)):
      return []
    distance = abs(at - self.best)
    values = [self._clipped(self.best + self.sign * factor * distance) for factor in _BEYOND]
    if np.isfinite(self.edge):
      values += [float(v) for v in np.linspace(at, self.edge, _TO_EDGE + 1)[1:]]
    return sorted({v for v in values if v != at}, key=lambda v: abs(v - self.best))

  def reopened(self, tried: list[tuple[float, Array, float]]) -> bool:
    """Takes fits beyond the end, by rising distance: (value, parameters, root). Whether the end is farther out than it was."""
    inside = [i for i, (_, _, root) in enumerate(tried) if root < self.limit]
    if self.end is None:  # open on a plateau, unless the farthest values are outside
      if not tried or (inside and inside[-1] == len(tried) - 1):
        return False
    elif not inside:
      return False
    last = inside[-1] if inside else -1
    self.seen += [(value, root) for value, _, root in tried]
    if last >= 0:
      value, self.theta, root = tried[last]
      self.inner, self.inside = (value, root), self.theta
    self.outer = (tried[last + 1][0], tried[last + 1][2]) if last + 1 < len(tried) else None
    self.flat, self.widths, self.end, self.found = 0, [], None, False
    self.slope = np.eye(len(self.theta))[self.index]
    if self.inner[0] == self.edge:
      self.found = True
    elif self.outer is None:
      self._go_to(self.best + 1.5 * (self.inner[0] - self.best))
    else:
      self._go_to((self.inner[0] + self.outer[0]) / 2)
    return not self.found
