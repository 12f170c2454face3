"""The ends of profile likelihood intervals: a search that brackets each end, and for laws of several optima looks beyond it.

The search ends in one of two ways. It has an end between two values a small step apart, one inside and one outside. Or the end is open:
the cost never rises to the limit, up to the edge of the domain or as far as a parameter can go. Called by `fit_law.py`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from analysis.fitting.least_squares import Problem, Solution, solve, solve_held_each
from analysis.fitting.profile_ends import End
from analysis.fitting.uncertainty import Interval, unit_covariance

Array = np.ndarray
_FEW = 20  # starts of a law up to which each held fit tries all, not a quarter
_FARTHEST = 700.0  # a logarithm this far from the optimum is as good as infinite
_MAX_STEPS = 200  # a bound that no search meets: a bracket of any width closes in 60 steps, and so does a way to `_FARTHEST`
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
        ends.append(End(solution.theta, i, sign, float(edge), float(limits[i]), unit_cov, _FARTHEST if log else np.inf))
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

  def __init__(self, problem: Problem, solution: Solution, ends: "list[End]") -> None:
    self.problem, self.solution, self.ends = problem, solution, ends
    # A held parameter may have optima on two branches, such as gamma = 0 and gamma > 0.
    # Of many points the fits are followed alone: they leave no room for a second optimum.
    self.more_kp = problem.starts if len(problem.starts) <= _FEW else problem.starts[::4]
    self.more_kp = self.more_kp[:0] if problem.many else self.more_kp
    self.lower: Array | None = None
    self.lowest = solution.cost - _LOWER * solution.cost - len(problem.log_y) * 1e-28
    self.moved: list[End] = []
    self.known: list[tuple[Array, float]] = []  # all held fits: parameters, and the root of the cost increase

  def fit(self, asked: "list[tuple[End, float]]") -> list[tuple[Array, float]]:
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
