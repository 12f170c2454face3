"""Diagnostics of a fitted law: Akaike's criterion, the interval of its value, predictions at larger x by fits to the smaller x.

Called by `fit_law.py`, by comparisons of laws and by advice.
"""

import numpy as np
from jaxtyping import Float

from analysis.fitting.laws import Law
from analysis.fitting.least_squares import Problem, Solution, solve
from analysis.fitting.marquardt import SQUARES, Loss
from analysis.fitting.refusals import refusal
from analysis.fitting.settings import Setting, unweighted
from analysis.fitting.uncertainty import unit_covariance

Array = np.ndarray
_BAND = 25  # x at which the interval of the law's value is computed
_HELD_OUT = 4  # the largest quarter of the distinct x is predicted by a fit to the other points


def aicc(setting: Setting, solution: Solution) -> float | None:
  """Akaike's criterion for small samples, -2 log likelihood + 2 k n / (n - k - 1), up to a constant of the points.

  None with too few points, with a robust loss and with priors.

  Where means are fitted in place of many points, it is that of all points, so that laws with other means can be compared.
  """
  law, cost, n = setting.problem.law, setting.cost(solution), setting.count or len(setting.problem.log_y)
  k = len(law.params) + (setting.noise is None)  # an unknown variance is a parameter too
  if n - k - 1 <= 0 or setting.problem.loss.delta is not None or law.priors:
    return None
  misfit = n * np.log(max(cost, 1e-300) / n) if setting.noise is None else cost
  return float(misfit + 2 * k * n / (n - k - 1))


def band_of(problem: Problem, solution: Solution, limits: Array) -> tuple[tuple[float, float, float], ...]:
  """The interval of the law's value by the delta method: each parameter's limit times its standard error, with their correlations."""
  if problem.law.num_x > 1:
    return ()
  log_x = np.linspace(problem.log_x.min(), problem.log_x.max(), _BAND)
  log_f, gradient = (a[0] for a in problem.law.log_value(solution.theta[None], log_x[:, None]))
  spread = np.nan_to_num(unit_covariance(problem, solution)) * np.outer(limits, limits)  # a parameter on a bound has no spread
  half = np.sqrt(np.maximum(np.einsum("np,pq,nq->n", gradient, spread, gradient), 0.0))
  low, high = (np.exp(np.minimum(problem.log_y0 + log_f + sign * half, 700.0)) for sign in (-1, 1))
  return tuple((float(a), float(b), float(c)) for a, b, c in zip(np.exp(log_x), low, high, strict=True))


def extrapolate(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], loss: Loss = SQUARES) -> dict[str, float] | None:
  """Fits the smaller x (the product of the columns) and predicts the largest quarter: relative errors, prediction / y - 1."""
  size = np.log(x).sum(axis=1)
  distinct = np.unique(size)
  kept = len(distinct) - max(1, len(distinct) // _HELD_OUT)
  held = size > distinct[kept - 1]
  if kept < law.min_points or refusal(law, x[~held], y[~held]):
    return None
  problem = unweighted(law, x[~held], y[~held], loss)
  theta = solve(problem).theta

  def place(s: float) -> float:
    return float(x[np.argmax(size == s), 0]) if x.shape[1] == 1 else float(np.exp(s))

  error = np.exp(problem.log_y0 + problem.law.log_value(theta[None], np.log(x[held]))[0][0] - np.log(y[held])) - 1
  exponent = {name: value for name, value in problem.values(theta).items() if name == "beta"}
  return exponent | {
    "fit_x_max": place(distinct[kept - 1]),
    "predict_x_max": place(distinct[-1]),
    "num_predicted": int(held.sum()),
    "relative_error": float(error[size[held] == distinct[-1]].mean()),
    "mean_abs_relative_error": float(np.abs(error).mean()),
  }
