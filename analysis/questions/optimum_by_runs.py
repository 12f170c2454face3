"""The compute optimum of a joint law with intervals from passes of one seed each, where no two seeds tell how a pass scatters.

Called by `approaches.py`.
"""

import numpy as np

from analysis.fitting.clustered import clustered
from analysis.fitting.least_squares import Problem
from analysis.fitting.optimum_law import Budget, coordinates, optimum_law
from analysis.fitting.result import Estimate, Fit
from analysis.fitting.uncertainty import quantile
from analysis.questions.optimum import split_at
from analysis.questions.optimum_runs import Runs


def optimum_by_runs(fit: Fit, runs: Runs, budget: Budget) -> dict[str, Estimate]:
  """The split as `optimum` has it, with t intervals from the residuals of whole runs.

  Args:
    fit: of `chinchilla` to all points of the runs.
    runs: the passes.
    budget: the FLOPs.
  """
  assert runs.run is not None
  problem = Problem.of(optimum_law(budget), np.column_stack([runs.params, runs.examples]), runs.loss)
  a, b, e, alpha, beta = (fit.estimates[name] for name in ("A", "B", "E", "alpha", "beta"))
  scale = np.exp(-problem.log_y0)
  theta = coordinates(np.array([[np.log(a * scale), np.log(b * scale), e * scale, alpha, beta]]), budget)[0]
  residual, jacobian = (found[0] for found in problem.evaluate(theta[None]))
  free = np.array([True, True, e > 0, True, True])  # a constant on its bound is held
  design = jacobian[:, free]
  size = np.linalg.norm(design, axis=0)
  inverse = np.linalg.inv((design / size).T @ (design / size)) / np.outer(size, size)
  estimates = np.eye(5)[[1, 0, 4]][:, free]  # log N*, log L*, b
  covariance, degrees = clustered(estimates, residual, design, inverse, runs.run)
  errors = np.sqrt(np.diagonal(covariance))
  halves = [quantile(float(f)) * float(s) for f, s in zip(degrees, errors, strict=True)]
  n, level, share = (
    Estimate(float(theta[i]), float(s), float(theta[i] - half), float(theta[i] + half))
    for i, s, half in zip((1, 0, 4), errors, halves, strict=True)
  )
  loss, low, high = (float(np.exp(problem.log_y0 + v)) for v in (level.estimate, level.ci_low, level.ci_high) if v is not None)
  p = budget.power
  exponent = Estimate(*(v / p for v in (share.estimate, share.std_error, share.ci_low, share.ci_high) if v is not None))
  return split_at(n, budget) | {"loss": Estimate(loss, loss * float(errors[1]), low, high), "a": exponent}
