"""The ends of profile intervals against a fine grid of constrained fits, for random points of each law."""

import numpy as np
import pytest
from drawn_points import drawn_points

from analysis.fitting import settings
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS
from analysis.fitting.least_squares import Problem, Solution, solve
from analysis.fitting.marquardt import SQUARES, levenberg_marquardt
from analysis.fitting.profiles import profile_intervals, profiled
from analysis.fitting.uncertainty import Interval, unit_covariance

Array = np.ndarray
CLOSE = 0.02  # of the distance from the end to the best value, or to the edge of the domain if that is less
NEAR = (0.9, 0.96, 0.98, 0.99, 1.01, 1.02, 1.04, 1.08, 1.15)  # the grid around an end, in its distance
FAR = np.geomspace(1.3, 30, 9)


def held_fits(problem: Problem, index: int, values: Array, starts_kp: Array) -> Array:
  """The costs of the best fits with one parameter held at each value: from all starts, then from the fits at the neighbouring values."""
  count, width = len(values), starts_kp.shape[1]

  def minimise(theta_gkp: Array, steps: int) -> tuple[Array, Array]:
    theta_gkp = theta_gkp.copy()
    theta_gkp[..., index] = values[:, None]
    low, high = (side.reshape(theta_gkp.shape) for side in problem.bounds(theta_gkp.shape[0] * theta_gkp.shape[1]))
    low[..., index] = high[..., index] = values[:, None]
    flat = (a.reshape(-1, width) for a in (theta_gkp, low, high))
    theta, cost = levenberg_marquardt(problem.evaluate, *flat, max_steps=steps, gain=1e-10)
    return theta.reshape(theta_gkp.shape), cost.reshape(theta_gkp.shape[:2])

  theta, cost = minimise(np.tile(starts_kp, (count, 1, 1)), 25)
  best = np.argsort(cost, axis=1)[:, :4]
  theta, cost = minimise(np.take_along_axis(theta, best[..., None], axis=1), 400)
  theta, cost = theta[np.arange(count), cost.argmin(axis=1)], cost.min(axis=1)
  for _ in range(6):
    before = cost
    for shift in (1, -1):
      other, other_cost = (a[:, 0] for a in minimise(np.roll(theta, shift, axis=0)[:, None], 200))
      theta, cost = np.where((other_cost < cost)[:, None], other, theta), np.minimum(cost, other_cost)
    if np.all(cost >= before * (1 - 1e-6)):
      break
  return cost


def followed(problem: Problem, index: int, values: Array, theta: Array) -> Array:
  """The costs of the fits with one parameter held at values ever farther out, each from the last two fits in a straight line."""
  low, high = problem.bounds(1)
  before, last, costs = theta, theta, []
  for value in values:
    share = (value - last[index]) / (last[index] - before[index]) if last[index] != before[index] else 0.0
    starts = np.stack([last, last + share * (last - before)])
    starts[:, index] = value
    low[:, index] = high[:, index] = value
    found, cost = levenberg_marquardt(problem.evaluate, starts, low.repeat(2, 0), high.repeat(2, 0), gain=1e-10, curved=problem.law.curved)
    before, last = last, found[cost.argmin()]
    costs.append(cost.min())
  return np.array(costs)


def wrong_end(problem: Problem, solution: Solution, limit: float, index: int, sign: int, interval: Interval, spread: float) -> str:
  """What is wrong with one end of an interval; empty when it is right.

  The grid goes from .9 of the end's distance to the edge of the domain, or to 30 times the distance. Its end is where it leaves the limit
  for the last time; values that the search itself has fitted inside the limit count too. An open end must not leave it, up to the edge or
  300 times the distance at which an end is expected.
  """
  best, claim = float(solution.theta[index]), interval.high if sign > 0 else interval.low
  edge = abs(float(problem.bounds(1)[sign > 0][0, index]) - best)
  if claim is None:
    distance = np.geomspace(min(spread, edge / 2), min(edge, 300 * spread), 30)
  else:
    mine = abs(claim - best)
    distance = mine * np.concatenate([NEAR, FAR])
    if np.isfinite(edge):
      distance = np.concatenate([distance, edge - (edge - mine) * np.array(NEAR), mine + (edge - mine) * np.linspace(0.1, 1, 10)])
  distance = np.unique(distance[(distance > 0) & (distance <= min(edge, 600.0))])
  around = solution.theta + np.random.default_rng(index).standard_normal((12, len(solution.theta))) * np.maximum(
    0.1 * np.abs(solution.theta), 0.05
  )
  starts = np.concatenate([solution.theta[None], around, problem.starts[::2]])
  cost = held_fits(problem, index, best + sign * distance, starts)
  if claim is None:
    cost = np.minimum(cost, followed(problem, index, best + sign * distance, solution.theta))
  root = np.sqrt(np.maximum(cost - solution.cost, 0)) / limit
  if claim is None:
    return "" if root[-1] < 1.01 else f"open, but the root is {root[-1]:.3g} of the limit at distance {distance[-1]:.4g}"
  inside = np.flatnonzero(root <= 1)
  if len(inside) and inside[-1] == len(distance) - 1:
    return "" if root[-1] > 0.99 else f"at distance {mine:.4g}, but the grid is inside up to {distance[-1]:.4g}"
  last = int(inside[-1]) if len(inside) else 0
  end = float(np.interp(1.0, root[last : last + 2], distance[last : last + 2])) if len(inside) else float(distance[0])
  end = max([end] + [abs(v - best) for v, rise in interval.profile if (v - best) * sign > 0 and rise <= 1])
  close = CLOSE * max(min(max(end, mine), edge - mine), 1e-4 * mine)
  return "" if abs(end - mine) <= close else f"at distance {mine:.4g}, by the grid at {end:.4g}"


def wrong_ends(name: str, number: int) -> list[str]:
  """The ends of one fit that are wrong, with parameter and side."""
  setting = settings.independent(LAWS[name], *drawn_points(name, number), SQUARES)
  problem = setting.problem
  solution, limits, intervals, note = profiled(problem, solve(problem), setting.judge)
  assert note == ""
  cov, out = unit_covariance(problem, solution), []
  for i, interval in enumerate(intervals):
    known = np.isfinite(cov[i, i]) and cov[i, i] > 0
    spread = float(np.sqrt(cov[i, i]) * limits[i]) if known else 0.1 * max(abs(float(solution.theta[i])), 1e-3)
    for sign in (-1, 1):
      if solution.theta[i] != problem.bounds(1)[sign > 0][0, i]:
        wrong = wrong_end(problem, solution, float(limits[i]), i, sign, interval, spread)
        out += [f"{name} {number}, {'high' if sign > 0 else 'low'} end of {problem.law.names[i]}: {wrong}"] if wrong else []
  return out


@pytest.mark.parametrize(
  ("name", "numbers"),
  [
    ("power", range(6)),
    ("power_constant", range(6)),
    ("chinchilla", range(3)),
    ("repeated", range(3)),
    ("broken_power", (2, 5, 7, 47, 63)),
    ("m4", (0, 23)),
  ],
)
def test_ends_are_where_a_fine_grid_of_constrained_fits_puts_them(name, numbers):
  """With secants alone the fits of `broken_power` and the first of `m4` in this list have wrong ends."""
  assert [wrong for number in numbers for wrong in wrong_ends(name, number)] == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("name", LAWS)
def test_ends_of_five_hundred_fits(name, part):
  assert [wrong for number in range(100 * part, 100 * part + 100) for wrong in wrong_ends(name, number)] == []


def test_a_search_that_meets_a_lower_cost_begins_anew():
  """From a local optimum of `broken_power`, the search for its intervals finds the global one and its intervals."""
  setting = settings.independent(LAWS["broken_power"], *drawn_points("broken_power", 5), SQUARES)
  problem, best = setting.problem, solve(setting.problem)
  theta, cost = problem.minimise(problem.starts, *problem.bounds(len(problem.starts)))
  other = int(np.argmin(np.where(cost > best.cost * 1.05, cost, np.inf)))
  local = Solution(theta[other], float(cost[other]), ())
  _, lower = profile_intervals(problem, local, setting.judge(local)[0], unit_covariance(problem, local))
  assert lower is not None and problem.minimise(lower[None], *problem.bounds(1))[1][0] < local.cost
  found, _, intervals, note = profiled(problem, local, setting.judge)
  np.testing.assert_allclose(found.cost, best.cost, rtol=1e-9)
  want = profiled(problem, best, setting.judge)[2]
  np.testing.assert_allclose([i.high or np.nan for i in intervals], [i.high or np.nan for i in want], rtol=1e-2)
  assert note == ""


def test_an_end_that_jumps_is_found(monkeypatch):
  """A root that jumps over the limit, where secants crawl: the bracket closes all the same."""
  x = 2.0 ** np.arange(16, 28)
  setting = settings.independent(
    LAWS["power"], x[:, None], 3.0 * x**-0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(12)), SQUARES
  )
  problem = setting.problem
  solution = solve(problem)
  wall = float(solution.theta[1]) + 1e-3

  def fits(problem, index, held, starts, gain):
    far = (index == 1) & (held > wall)
    return starts[:, 0], solution.cost + np.where(far, np.inf, 1e-12 * (held - solution.theta[index]) ** 2)

  monkeypatch.setattr("analysis.fitting.profiles.solve_held_each", fits)
  found, lower = profile_intervals(problem, solution, np.full(2, 0.01), unit_covariance(problem, solution))
  assert lower is None
  np.testing.assert_allclose(found[1].high - solution.theta[1], 1e-3, rtol=2.1e-3)
  assert found[1].low is None and found[0].low is None and found[0].high is None  # there the root never rises


def test_intervals_of_points_without_noise_close():
  """Where the limit is a rounding error, the bracket ends between two neighbouring numbers."""
  x = np.geomspace(1e-100, 1e100, 41)
  fit = fit_law(x, LAWS["power_constant"].predict({"alpha": 5.0, "beta": 0.3, "gamma": 0.7}, x), "power_constant")
  assert fit.status == "ok" and len(fit.profiles["beta"]) < 40
  beta = fit.params["beta"]
  assert 0.3 - 1e-13 < beta.ci_low <= beta.estimate <= beta.ci_high < 0.3 + 1e-13
