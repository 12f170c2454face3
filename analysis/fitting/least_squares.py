"""The least squares problem of a law and its points, and the best parameters: over all starts, or with one parameter held.

A fit has a dozen points and three parameters, but it needs many starts. An interval needs many fits with one parameter held, a bootstrap
thousands with other weights. So the batch is the loop worth vectorising. Called by `fit_law.py`, `uncertainty.py` and `bootstrap.py`.
"""

import dataclasses
import functools
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from analysis.fitting.laws import Law, log_columns
from analysis.fitting.marquardt import GAIN, RESOLUTION, SQUARES, Loss, levenberg_marquardt
from analysis.fitting.whitening import EQUAL, Whitening

Array = np.ndarray
MANY = 4096  # of more points than this, some give the starts of a search
_ROUNDS = ((1000, 20), (3, 20), (1, 300))  # rounds of `_races`: how many starts go on, and for how many steps at most
_CLOSE_ROUNDS = ((1000, 3), (4, 12), (1, 300))  # the same when a start is close to the solution
_CURVED_ROUNDS = ((1000, 40), (64, 60), (6, 500))  # in a curved valley starts need longer to show what they are worth
_CLOSE_CURVED_ROUNDS = ((1000, 8), (6, 30), (2, 300))
_NEAR = 1e-3  # a solution this close to a bound, in fitted coordinates, is compared with the best one on the bound


@dataclasses.dataclass(frozen=True)
class Problem:
  """Points in the scale they are fitted in: log x, and log y less its mean.

  The residual of a point is log f(x) - log y, a relative error, so that no scale of the loss enters. (Least squares on log(y - gamma) is a
  different problem whose optimum is gamma = 0 on most curves.) Residuals are W (log f - log y), where `whiten` holds W. For points with
  unequal or correlated noise of covariance C, W'W = C^-1. A prior of the law adds a residual behind those of the points: the coordinate's
  distance from the prior's mean in its standard deviations, times `prior_weight`, the standard deviation of a whitened residual.
  """

  law: Law
  log_x: Float[Array, "n C"]
  log_y: Float[Array, " n"]
  log_y0: float
  whiten: Whitening = EQUAL
  loss: Loss = SQUARES
  prior_weight: float = 1.0

  @classmethod
  def of(cls, law: Law, x: Real[Array, "n *C"], y: Real[Array, " n"], whiten: Whitening = EQUAL, loss: Loss = SQUARES) -> "Problem":
    log_y = np.log(np.asarray(y, np.float64))
    log_y0 = float(log_y.mean())
    return cls(law.bind(log_y0) if law.bind else law, log_columns(x), log_y - log_y0, log_y0, whiten, loss)

  @property
  def many(self) -> bool:
    """Whether the points are so many that a fit to some of them finds where the search begins."""
    return len(self.log_y) > MANY

  @functools.cached_property
  def starts(self) -> Float[Array, "K P"]:
    """The law's starts for these points, or for some of many."""
    some = self.of_some() if self.many else self
    return self.law.starts(some.log_x, some.log_y)

  @property
  def _some(self) -> Bool[Array, " n"]:
    """At most `MANY` of the points, at even distances in the order of the columns of x."""
    order = np.lexsort(self.log_x.T[::-1])
    kept = np.zeros(len(order), bool)
    kept[order[np.linspace(0, len(order) - 1, MANY).round().astype(int)]] = True
    return kept

  def part(self, kept: Bool[Array, " n"]) -> "Problem":
    """The problem of the points that are kept, in the same scale."""
    return dataclasses.replace(self, log_x=self.log_x[kept], log_y=self.log_y[kept], whiten=self.whiten.part(kept))

  def of_some(self) -> "Problem":
    """The problem of some of many points."""
    return self.part(self._some)

  @no_type_check
  def evaluate(self, theta_kp: Float[Array, "K P"]) -> tuple[Float[Array, "K n"], Float[Array, "K n P"]]:
    log_f_kn, gradient_knp = self.law.log_value(theta_kp, self.log_x)
    residual_kn, jacobian_knp = self.whiten.rows(log_f_kn - self.log_y), self.whiten.apply(gradient_knp)
    if not self.law.priors:
      return residual_kn, jacobian_knp
    off_kq = np.stack([(theta_kp[:, p.index] - p.mean) * self.prior_weight / p.deviation for p in self.law.priors], axis=1)
    rows_kqp = np.tile(self.prior_rows, (len(theta_kp), 1, 1))
    return np.concatenate([residual_kn, off_kq], axis=1), np.concatenate([jacobian_knp, rows_kqp], axis=1)

  @property
  def prior_rows(self) -> Float[Array, "Q P"]:
    """The derivatives of the priors' residuals by the coordinates."""
    rows = np.zeros((len(self.law.priors), len(self.law.params)))
    for row, prior in zip(rows, self.law.priors, strict=True):
      row[prior.index] = self.prior_weight / prior.deviation
    return rows

  def minimise(
    self, starts_kp: Array, low_kp: Array, high_kp: Array, max_steps: int = 300, gain: float = GAIN, count_kn: Array | None = None
  ) -> tuple[Float[Array, "K P"], Float[Array, " K"]]:
    return levenberg_marquardt(self.evaluate, starts_kp, low_kp, high_kp, max_steps, gain, self.loss, count_kn, self.law.curved)

  def bounds(self, count: int) -> tuple[Float[Array, "K P"], Float[Array, "K P"]]:
    sides = [[getattr(p, side) for p in self.law.params] for side in ("low", "high")]
    for i, param in enumerate(self.law.params):
      if param.within_x:
        sides[0][i], sides[1][i] = float(self.log_x[:, 0].min()), float(self.log_x[:, 0].max())
    return np.tile(sides[0], (count, 1)), np.tile(sides[1], (count, 1))

  def values(self, theta_p: Float[Array, " P"]) -> dict[str, float]:
    """Named parameters in the user's units."""
    return {p.name: float(self.in_units(i, theta_p[i])) for i, p in enumerate(self.law.params)}

  def in_units(self, index: int, coordinate: float) -> float:
    """One fitted coordinate as the parameter's value in the user's units."""
    p = self.law.params[index]
    if p.log:
      return float(np.exp(np.minimum(coordinate + (self.log_y0 if p.in_y_units else 0.0), 700.0)))
    return float(coordinate * (np.exp(self.log_y0) if p.in_y_units else 1.0))


@dataclasses.dataclass(frozen=True)
class Solution:
  """The best parameters of one problem.

  Attributes:
    theta: fitted coordinates.
    cost: sum of squared (whitened) log residuals, or of the robust loss.
    on_bound: names of the parameters on a bound of their domain.
  """

  theta: Float[Array, " P"]
  cost: float
  on_bound: tuple[str, ...]


def solve(problem: Problem, near: Float[Array, " P"] | None = None) -> Solution:
  """The global optimum over the law's starts. A bound of the domain wins ties, so that rounding hides none.

  Args:
    near: the optimum of nearly the same points. The search then begins there and at a quarter of the starts. Where points are many, it
      begins there alone, and without `near` at the optimum of some of them.
  """
  if near is None and problem.many:
    near = solve(problem.of_some()).theta
  starts_kp = problem.starts if near is None else near[None] if problem.many else np.concatenate([near[None], problem.starts[::4]])
  bounds = problem.bounds(len(starts_kp))
  theta_gp, cost_g = _races(problem, starts_kp[None], bounds[0][None], bounds[1][None], close=near is not None)
  theta, cost = theta_gp[0], float(cost_g[0])
  for index in range(len(problem.law.params)):
    for bound in (float(bounds[0][0, index]), float(bounds[1][0, index])):
      if np.isfinite(bound) and abs(theta[index] - bound) < _NEAR:
        face_theta, face_cost = solve_held(problem, index, bound, np.concatenate([theta[None], starts_kp[::4]]))
        if face_cost <= cost * (1 + 1e-9) + len(problem.log_x) * RESOLUTION**2:
          theta, cost = face_theta, face_cost
  low, high = (side[0] for side in bounds)
  return Solution(theta, cost, tuple(p.name for i, p in enumerate(problem.law.params) if theta[i] in (low[i], high[i])))


def solve_held(
  problem: Problem, index: int, held: float, starts_kp: Float[Array, "K P"], gain: float = GAIN
) -> tuple[Float[Array, " P"], float]:
  """The optimum with parameter `index` held at a value: parameters and cost."""
  theta_gp, cost_g = solve_held_each(problem, np.array([index]), np.array([held]), starts_kp[None], gain)
  return theta_gp[0], float(cost_g[0])


def solve_held_each(
  problem: Problem, index_g: Int[Array, " G"], held_g: Float[Array, " G"], starts_gkp: Float[Array, "G K P"], gain: float = GAIN
) -> tuple[Float[Array, "G P"], Float[Array, " G"]]:
  """The optima of G problems, each with one parameter held, computed together: parameters and costs."""
  low_gkp, high_gkp = (side.reshape(starts_gkp.shape) for side in problem.bounds(starts_gkp.shape[0] * starts_gkp.shape[1]))
  each = np.arange(len(index_g))
  low_gkp[each, :, index_g] = high_gkp[each, :, index_g] = held_g[:, None]
  return _races(problem, starts_gkp, low_gkp, high_gkp, gain, close=True)


def _races(
  problem: Problem, starts_gkp: Array, low_gkp: Array, high_gkp: Array, gain: float = GAIN, close: bool = False
) -> tuple[Array, Array]:
  """Runs all starts of each problem for some steps, then only the leading ones to convergence. Slow starts far away win nothing."""
  rounds = {(0, 0): _ROUNDS, (0, 1): _CLOSE_ROUNDS, (1, 0): _CURVED_ROUNDS, (1, 1): _CLOSE_CURVED_ROUNDS}[problem.law.curved, close]
  groups, count, p = starts_gkp.shape
  theta_gkp, cost_gk = starts_gkp, np.zeros((groups, count))
  for kept, max_steps in rounds:
    top_gk = np.argsort(cost_gk, axis=1, kind="stable")[:, :kept]
    theta_gkp, low_gkp, high_gkp = (np.take_along_axis(a, top_gk[..., None], axis=1) for a in (theta_gkp, low_gkp, high_gkp))
    theta_kp, low_kp, high_kp = (a.reshape(-1, p) for a in (theta_gkp, low_gkp, high_gkp))
    theta_kp, cost_k = problem.minimise(theta_kp, low_kp, high_kp, max_steps, gain)
    theta_gkp, cost_gk = theta_kp.reshape(groups, -1, p), cost_k.reshape(groups, -1)
  best_g = np.argmin(cost_gk, axis=1)
  each = np.arange(groups)
  return theta_gkp[each, best_g], cost_gk[each, best_g]
