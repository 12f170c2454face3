"""The optimum that `solve` finds against a brute search: random points of each law, each fitted from random starts all over the domain.

`broken_power` has a search of its own (`test_broken_power.py`).
"""

import numpy as np
import pytest
from drawn_points import drawn_points

from analysis.fitting.laws import LAWS
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.marquardt import levenberg_marquardt

STARTS = 100
CLOSE = 1e-6  # relative difference of the objectives of one optimum


def brute_cost(problem: Problem, number: int) -> float:
  """The lowest cost from random starts, each scaled to the points and followed for up to 1,000 plain steps."""
  law, rng, log_x = problem.law, np.random.default_rng([8, number]), problem.log_x
  theta = np.empty((STARTS, len(law.params)))
  for i, param in enumerate(law.params):
    if param.exponent:
      theta[:, i] = np.exp(rng.uniform(np.log(0.01), np.log(3), STARTS))
    elif param.in_y_units and not param.log:
      theta[:, i] = np.exp(problem.log_y.min()) * np.where(rng.random(STARTS) < 0.2, 0, rng.uniform(0, 1, STARTS))
    elif param.name == "x_scale":
      theta[:, i] = rng.uniform(log_x.min() - 6, log_x.max() + 3, STARTS)
    elif param.name == "delta":
      theta[:, i] = np.exp(rng.uniform(np.log(0.02), np.log(10), STARTS))
  scales = [i for i, param in enumerate(law.params) if param.in_y_units and param.log]
  exponents = [i for i, param in enumerate(law.params) if param.exponent]
  for column, i in enumerate(scales):  # a term is the loss, or its share, in the middle of the points
    middle = 0.0 if law.name == "m4" else log_x[:, min(column, log_x.shape[1] - 1)].mean()
    theta[:, i] = theta[:, exponents[column]] * middle - np.log(len(scales)) + rng.normal(0, 0.5, STARTS)
  return float(levenberg_marquardt(problem.evaluate, theta, *problem.bounds(STARTS), max_steps=1000)[1].min())


def missed(name: str, numbers: range) -> list[tuple[int, float]]:
  """The numbers of the points whose fit costs more than the brute search, with the ratio of the costs."""
  out = []
  for number in numbers:
    problem = Problem.of(LAWS[name], *drawn_points(name, number))
    ratio = solve(problem).cost / brute_cost(problem, number)
    out += [(number, ratio)] if ratio > 1 + CLOSE else []
  return out


@pytest.mark.parametrize(("name", "count"), [("power", 4), ("power_constant", 8), ("chinchilla", 4), ("m4", 8)])
def test_the_fit_is_as_good_as_a_brute_search(name, count):
  assert missed(name, range(1000, 1000 + count)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["power", "power_constant", "chinchilla", "m4"])
def test_two_hundred_fits_are_as_good_as_a_brute_search(name):
  found = missed(name, range(1000, 1200))
  assert len(found) <= 1, found
