"""Laws fitted to all points, with fits to points drawn from each: the members of an ensemble. Called by `ensemble.py`, `predictions.py`."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analysis.fitting.laws import Law
from analysis.fitting.least_squares import Problem, Solution
from analysis.fitting.marquardt import levenberg_marquardt
from analysis.fitting.settings import Setting
from analysis.fitting.uncertainty import quantile
from analysis.questions.origins import Points

Array = np.ndarray
DRAWS = 200
FORMS = (  # shape, one exponent for all, constant
  ("sum", False, True),
  ("sum", False, False),
  ("nested", False, True),
  ("nested", False, False),
  ("fitted", False, True),
  ("fitted", False, False),
  ("fitted", True, True),
  ("fitted", True, False),
)
_MANY = 1e6  # degrees of freedom of noise that is not estimated
_LEAST_NOISE = 1e-12
_BENDS = 4  # polynomials of degree 2 to 4 along each column
_RANK = 1e-6
_LEAST_FREE = 3  # the fewest degrees of freedom from which a scatter is estimated
_QUARTILE = 0.6745  # the upper quartile of a normal distribution


@dataclasses.dataclass(frozen=True)
class Member:
  """One law fitted to all points.

  Attributes:
    setting, solution: the fit.
    missed: how the points contradict the law; empty where they do not.
  """

  law: Law
  setting: Setting
  solution: Solution
  missed: str

  @property
  def free(self) -> int:
    """Points beyond the law's parameters."""
    return max(len(self.setting.problem.log_y) - len(self.law.params), 1)

  @property
  def deviation(self) -> float:
    """The standard deviation of a whitened residual, at least 1 where the noise is that of seeds; a misfit counts as noise."""
    found = float(np.sqrt(self.solution.cost / self.free))
    return max(found, 1.0) if self.setting.noise else found

  @property
  def spread(self) -> float:
    """The standard deviation of drawn noise: that of the residuals, larger where few seeds or few points determine it."""
    free = self.setting.known_free if self.setting.noise else self.free
    return self.deviation * quantile(max(free, 1.0)) / quantile(_MANY)

  @property
  def scatter(self) -> float:
    """The standard deviation of a whitened point's noise: 1 where it is that of seeds, else that of `scatter`."""
    if self.setting.noise:
      return 1.0
    found, robust = scatter(self.setting.problem, self.solution), self.setting.problem.loss.delta is not None
    return found if robust else min(self.deviation, found)

  def drawn(self, count: int, rng: np.random.Generator) -> Float[Array, "K P"]:
    """Coordinates fitted to points drawn from the law."""
    return draw(self.setting.problem, self.solution.theta, self.spread, count, rng)


def points_of(members: Sequence[Member]) -> Points:
  """The means of the members' points at each x, with the noise of the seeds, or that of the residuals where there is none."""
  problem = members[0].setting.problem
  cov = problem.whiten.covariance(len(problem.log_y))
  cov = cov * max(min(m.scatter for m in members), _LEAST_NOISE) ** 2
  log_x, index = np.unique(problem.log_x, axis=0, return_inverse=True)
  mean = np.zeros((len(log_x), len(problem.log_y)))
  mean[index.reshape(-1), np.arange(len(problem.log_y))] = 1.0
  mean /= mean.sum(axis=1, keepdims=True)
  return Points(log_x, mean @ problem.log_y, problem.log_y0, mean @ cov @ mean.T, problem.loss)


def scatter(problem: Problem, solution: Solution) -> float:
  """The standard deviation of whitened residuals around the law and smooth columns that it may lack; infinite with too few points."""
  log_f, gradient = (a[0] for a in problem.law.log_value(solution.theta[None], problem.log_x))
  span = np.ptp(problem.log_x, axis=0)
  u = 2 * (problem.log_x - problem.log_x.min(axis=0)) / np.where(span > 0, span, 1.0) - 1
  bends = [np.polynomial.legendre.legvander(column, _BENDS)[:, 2:] for column in u.T]
  pairs = [u[:, [i]] * u[:, [j]] for i, j in itertools.combinations(range(u.shape[1]), 2)]
  columns = problem.whiten.columns(np.hstack([gradient, *bends, *pairs]))
  residual = problem.whiten.rows((log_f - problem.log_y)[None])[0]
  basis, size, _ = np.linalg.svd(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300), full_matrices=False)
  basis = basis[:, size > _RANK * size.max()]
  rest, free = residual - basis @ (basis.T @ residual), len(residual) - basis.shape[1]
  if free < _LEAST_FREE:
    return float("inf")
  if problem.loss.delta is not None:
    return float(np.median(np.abs(rest)) / _QUARTILE * np.sqrt(len(rest) / free))
  return float(np.sqrt(np.sum(rest**2) / free))


def draw(problem: Problem, theta: Float[Array, " P"], deviation: float, count: int, rng: np.random.Generator) -> Float[Array, "K P"]:
  """Fits to points drawn from the law, with noise that has this standard deviation when whitened. All are computed together.

  The mean of a prior is drawn, too.
  """
  log_f, (n, priors) = problem.law.log_value(theta[None], problem.log_x)[0], (len(problem.log_y), len(problem.law.priors))
  drawn_kn = problem.whiten.rows(log_f - problem.log_y) + deviation * rng.standard_normal((count, n))
  shift_km = np.concatenate([drawn_kn, problem.prior_weight * rng.standard_normal((count, priors))], axis=1)

  def evaluate(numbered_kq: Array) -> tuple[Array, Array]:
    """Residuals and gradient. The last column, which is held, is the number of the drawn sweep."""
    residual_km, jacobian_kmp = problem.evaluate(numbered_kq[:, :-1])
    residual_km = residual_km - shift_km[numbered_kq[:, -1].astype(int)]
    return residual_km, np.concatenate([jacobian_kmp, np.zeros((*residual_km.shape, 1))], axis=-1)

  number = np.arange(count, dtype=np.float64)
  start = np.column_stack([np.tile(theta, (count, 1)), number])
  low, high = (np.column_stack([side, number]) for side in problem.bounds(count))
  return levenberg_marquardt(evaluate, start, low, high, max_steps=60, gain=1e-7)[0][:, :-1]
