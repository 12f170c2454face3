"""The noise of independent points where parameters have priors. Called by `settings.py`.

The cost of a fit is the sum of squared residuals, and a prior adds ((theta - mean) sigma / deviation)^2, in which sigma is the standard
deviation of a residual. For independent points sigma is estimated with the fit: sigma^2 is the sum of squared residuals over the
points less the number of parameters that the points determine (MacKay 1992, Neural Computation 4:415).
"""

import dataclasses

import numpy as np

from analysis.fitting.least_squares import Problem, Solution, solve

Array = np.ndarray
_ROUNDS = 50
_CLOSE = 1e-9  # relative change of sigma at which it is found
_LEAST = 1e-12  # the least sigma: rounding errors


def with_sigma(problem: Problem) -> tuple[Problem, float]:
  """The problem with priors weighted by the sigma of its residuals, and the number of parameters that the points determine.

  Without priors it is the problem as it is, and the number of its parameters.
  """
  count = float(len(problem.law.params))
  if not problem.law.priors:
    return problem, count
  n = len(problem.log_y)
  solution = solve(dataclasses.replace(problem, law=dataclasses.replace(problem.law, priors=())))
  sigma = max(float(np.sqrt(solution.cost / max(n - count, 1.0))), _LEAST)
  for _ in range(_ROUNDS):
    problem = dataclasses.replace(problem, prior_weight=sigma)
    solution = solve(problem, near=solution.theta)
    determined = _determined(problem, solution)
    residual = problem.evaluate(solution.theta[None])[0][0, :n]
    before, sigma = sigma, max(float(np.sqrt(residual @ residual / (n - determined))), _LEAST)
    if abs(sigma - before) <= _CLOSE * before:
      break
  return dataclasses.replace(problem, prior_weight=sigma), determined


def _determined(problem: Problem, solution: Solution) -> float:
  """The trace of the points' share of the information about the parameters."""
  jacobian = problem.evaluate(solution.theta[None])[1][0]
  scale = np.linalg.norm(jacobian, axis=0)
  unit = jacobian[:, scale > 0] / scale[scale > 0]
  points = unit[: len(problem.log_y)]
  return float(np.trace(np.linalg.pinv(unit.T @ unit, hermitian=True) @ (points.T @ points)))
