"""The covariance of a law's fitted parameters in the user's units. Called by `fit_law.py`.

It gives the error of any function of the parameters: to first order the variance is gradient' covariance gradient. Standard errors alone do
not, since the parameters of a law are strongly correlated.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analysis.fitting.least_squares import Problem, Solution
from analysis.fitting.uncertainty import Interval, unit_covariance

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Covariance:
  """A covariance matrix.

  Attributes:
    params: the names of its rows and columns.
    matrix: its rows. The row and the column of a parameter are None where it is on a bound of its domain, or where the points do not
      determine it. Fixed and tied parameters have no rows.
  """

  params: tuple[str, ...]
  matrix: tuple[tuple[float | None, ...], ...]

  def array(self) -> Float[Array, "P P"]:
    """The matrix with NaN for None."""
    return np.array(self.matrix, np.float64)

  @classmethod
  def of(cls, params: Sequence[str], matrix: Float[Array, "P P"]) -> "Covariance":
    """From an array with NaN for None."""
    return cls(tuple(params), tuple(tuple(float(v) if np.isfinite(v) else None for v in row) for row in matrix))


def of(
  problem: Problem, solution: Solution, intervals: Sequence[Interval], theta_kp: Float[Array, "K P"] | None, undetermined: Sequence[str]
) -> Covariance | None:
  """The covariance of a fit; None without intervals.

  Args:
    problem, solution: the fit.
    intervals: of its coordinates, with standard errors.
    theta_kp: coordinates fitted to drawn points, whose covariance is taken; None: that of Gauss-Newton, with the standard errors of
      `intervals` on its diagonal.
    undetermined: names of parameters that the points do not determine.
  """
  if not intervals:
    return None
  if theta_kp is None:
    unit = unit_covariance(problem, solution)
    errors = np.array([np.nan if interval.std_error is None else interval.std_error for interval in intervals])
    deviation = errors / np.sqrt(np.diagonal(unit))
    return _in_units(problem, solution, unit * np.outer(deviation, deviation), undetermined)
  logs = np.array([p.log for p in problem.law.params])
  matrix = np.cov(np.where(logs, np.exp(np.where(logs, theta_kp - solution.theta, 0.0)), theta_kp), rowvar=False)
  return _in_units(problem, solution, matrix, undetermined)


def _in_units(problem: Problem, solution: Solution, matrix: Float[Array, "P P"], undetermined: Sequence[str]) -> Covariance:
  params = problem.law.params
  unit = np.array([problem.in_units(i, solution.theta[i] if p.log else 1.0) for i, p in enumerate(params)])
  unknown = [p.name in undetermined or p.name in solution.on_bound for p in params]
  unit[unknown] = np.nan
  return Covariance.of(problem.law.names, matrix * np.outer(unit, unit))


def in_unit(covariance: Covariance, values: dict[str, float], per_unit: float) -> Covariance:
  """That of the same law of one x against x times `per_unit`. `values` are the parameters before.

  alpha is then alpha per_unit^beta, and places along x are multiplied by `per_unit`.
  """
  names = covariance.params
  change = np.diag([per_unit if name in ("x_break", "x_scale") else 1.0 for name in names])
  if "alpha" in names:
    at, scale = names.index("alpha"), per_unit ** values["beta"]
    change[at, at] = scale
    change[at, names.index("beta")] = values["alpha"] * scale * np.log(per_unit)
  matrix = covariance.array()
  unknown = np.isnan(np.diagonal(matrix))
  moved = change @ np.nan_to_num(matrix) @ change.T
  unknown = (np.abs(change) @ unknown) > 0  # what depends on an unknown parameter is unknown
  moved[unknown] = moved[:, unknown] = np.nan
  return Covariance.of(names, moved)
