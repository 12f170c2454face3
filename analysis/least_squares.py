"""Bounded non-linear least squares in float64 for a batch of starts at once, and a law's best parameters found with it.

A fit has a dozen points and three parameters but needs many starts, and an interval needs many fits with one parameter held, so the
batch is the loop worth vectorising. Called by `analysis.fitting` and `analysis.uncertainty`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Real

from analysis.laws import Law

Array = np.ndarray
Evaluate = Callable[[Float[Array, "K P"]], tuple[Float[Array, "K n"], Float[Array, "K n P"]]]
_RESOLUTION = 1e-14  # relative error of one log residual in float64: a smaller residual is zero
_GAIN = 1e-13  # relative: the parameters are then within about 1e-6 of a standard error
_ROUNDS = ((1000, 20), (3, 20), (1, 300))  # of a race: how many starts go on, for how many steps at most
_NEAR = 1e-3  # a solution this close to a bound, in fitted coordinates, is compared with the best on the bound
_COSINE = 1e-10  # converged when the residual is this close to orthogonal to every free column: free of scale


@np.errstate(all="ignore")  # a trial step may overflow; its sum of squares is then infinite and it is refused
def levenberg_marquardt(
  evaluate: Evaluate, start_kp: Array, low_kp: Array, high_kp: Array, max_steps: int = 300, gain: float = _GAIN
) -> tuple[Array, Array]:
  """Minimises the sum of squared residuals from every start, within bounds (equal bounds hold a parameter).

  Marquardt's damping with MINPACK's running column scale; parameters on a bound that the gradient pushes outwards are left out of the step.

  Args:
    evaluate: residuals and their Jacobian at K parameter vectors.
    start_kp, low_kp, high_kp: starts and bounds.
    max_steps: evaluations per start at most.
    gain: a nearly undamped step that lowers the sum of squares by less than this share ends a start.

  Returns:
    Parameters [K, P] and sums of squares [K].
  """
  out_theta_kp, out_rss_k = np.clip(start_kp, low_kp, high_kp), np.full(len(start_kp), np.inf)
  alive = np.arange(len(start_kp))  # which problems the arrays below still hold
  theta_kp = out_theta_kp
  residual_kn, jacobian_knp = evaluate(theta_kp)
  rss_k = np.sum(residual_kn**2, axis=1)
  zero = residual_kn.shape[1] * _RESOLUTION**2
  damping_k, stalled_k = np.full(len(alive), 1e-3), np.zeros(len(alive), bool)
  scale_kp = np.full_like(theta_kp, 1e-300)
  eye = np.eye(theta_kp.shape[1])
  for _ in range(max_steps):
    transposed_kpn = jacobian_knp.transpose(0, 2, 1)
    gradient_kp = (transposed_kpn @ residual_kn[..., None])[..., 0]
    hessian_kpp = transposed_kpn @ jacobian_knp
    curvature_kp = np.diagonal(hessian_kpp, axis1=1, axis2=2)
    held_kp = ((theta_kp <= low_kp) & (gradient_kp >= 0)) | ((theta_kp >= high_kp) & (gradient_kp <= 0)) | (low_kp == high_kp)
    cosine_kp = np.abs(gradient_kp) / np.sqrt(np.maximum(curvature_kp * rss_k[:, None], 1e-300))
    done_k = ~np.isfinite(rss_k) | (rss_k <= zero) | stalled_k | (damping_k > 1e14) | np.all(held_kp | (cosine_kp <= _COSINE), axis=1)
    if done_k.any():
      out_theta_kp[alive[done_k]], out_rss_k[alive[done_k]] = theta_kp[done_k], np.where(np.isfinite(rss_k), rss_k, np.inf)[done_k]
      keep = ~done_k
      if not keep.any():
        return out_theta_kp, out_rss_k
      alive, theta_kp, low_kp, high_kp, scale_kp = alive[keep], theta_kp[keep], low_kp[keep], high_kp[keep], scale_kp[keep]
      residual_kn, jacobian_knp, rss_k, damping_k, held_kp = (
        residual_kn[keep],
        jacobian_knp[keep],
        rss_k[keep],
        damping_k[keep],
        held_kp[keep],
      )
      gradient_kp, hessian_kpp, curvature_kp = gradient_kp[keep], hessian_kpp[keep], curvature_kp[keep]
    scale_kp = np.maximum(scale_kp, curvature_kp)
    # Solved in units where every diagonal is 1, so that parameters of any magnitude are alike.
    unit_kp = np.where(held_kp, 0.0, 1 / np.sqrt(curvature_kp + damping_k[:, None] * scale_kp))
    system_kpp = hessian_kpp * unit_kp[:, :, None] * unit_kp[:, None, :]
    system_kpp = system_kpp * (1 - eye) + (1 + 1e-15) * eye
    step_kp = unit_kp * np.linalg.solve(system_kpp, (-gradient_kp * unit_kp)[..., None])[..., 0]
    trial_kp = np.clip(theta_kp + step_kp, low_kp, high_kp)
    trial_residual_kn, trial_jacobian_knp = evaluate(trial_kp)
    trial_rss_k = np.sum(trial_residual_kn**2, axis=1)
    better_k: Bool[Array, " K"] = trial_rss_k < rss_k
    stalled_k = (damping_k < 1e-2) & (np.abs(rss_k - trial_rss_k) <= gain * rss_k)
    theta_kp = np.where(better_k[:, None], trial_kp, theta_kp)
    residual_kn = np.where(better_k[:, None], trial_residual_kn, residual_kn)
    jacobian_knp = np.where(better_k[:, None, None], trial_jacobian_knp, jacobian_knp)
    rss_k = np.where(better_k, trial_rss_k, rss_k)
    damping_k = np.where(better_k, np.maximum(damping_k * 0.1, 1e-12), damping_k * 5)
  out_theta_kp[alive], out_rss_k[alive] = theta_kp, np.where(np.isfinite(rss_k), rss_k, np.inf)
  return out_theta_kp, out_rss_k


@dataclasses.dataclass(frozen=True)
class Problem:
  """Points of one curve in the scale they are fitted in: log x, and log y less its mean.

  The residual of a point is log f(x) - log y: a relative error, so that no loss scale enters. (Least squares on log(y - gamma) is a
  different problem whose optimum is gamma = 0 on most curves.)
  """

  law: Law
  log_x: Float[Array, " n"]
  log_y: Float[Array, " n"]
  log_y0: float

  @classmethod
  def of(cls, law: Law, x: Real[Array, " n"], y: Real[Array, " n"]) -> "Problem":
    log_y = np.log(np.asarray(y, np.float64))
    return cls(law, np.log(np.asarray(x, np.float64)), log_y - log_y.mean(), float(log_y.mean()))

  def evaluate(self, theta_kp: Float[Array, "K P"]) -> tuple[Float[Array, "K n"], Float[Array, "K n P"]]:
    log_f_kn, gradient_knp = self.law.log_value(theta_kp, self.log_x)
    return log_f_kn - self.log_y, gradient_knp

  def bounds(self, count: int) -> tuple[Float[Array, "K P"], Float[Array, "K P"]]:
    low, high = (np.array([getattr(p, side) for p in self.law.params]) for side in ("low", "high"))
    return np.tile(low, (count, 1)), np.tile(high, (count, 1))

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
    rss: sum of squared log residuals.
    on_bound: names of the parameters that sit on a bound of their domain.
  """

  theta: Float[Array, " P"]
  rss: float
  on_bound: tuple[str, ...]


def solve(problem: Problem) -> Solution:
  """The global optimum over the law's starts; a face of the domain wins ties, so that a bound is never missed by rounding."""
  starts_kp = problem.law.starts(problem.log_x, problem.log_y)
  theta, rss = _race(problem, starts_kp, *problem.bounds(len(starts_kp)))
  for index, param in enumerate(problem.law.params):
    for bound in (param.low, param.high):
      if np.isfinite(bound) and abs(theta[index] - bound) < _NEAR:
        face_theta, face_rss = solve_held(problem, index, bound, np.concatenate([theta[None], starts_kp[::4]]))
        if face_rss <= rss * (1 + 1e-9) + len(problem.log_x) * _RESOLUTION**2:
          theta, rss = face_theta, face_rss
  on_bound = tuple(p.name for p, value in zip(problem.law.params, theta, strict=True) if value in (p.low, p.high))
  return Solution(theta, rss, on_bound)


def solve_held(
  problem: Problem, index: int, held: float, starts_kp: Float[Array, "K P"], gain: float = _GAIN
) -> tuple[Float[Array, " P"], float]:
  """The optimum with parameter `index` held at a value: parameters and sum of squares."""
  low_kp, high_kp = problem.bounds(len(starts_kp))
  low_kp[:, index] = high_kp[:, index] = held
  return _race(problem, starts_kp, low_kp, high_kp, gain)


def _race(problem: Problem, starts_kp: Array, low_kp: Array, high_kp: Array, gain: float = _GAIN) -> tuple[Float[Array, " P"], float]:
  """All starts for some steps, then the leaders to convergence: starts that creep along a far valley cost most and win nothing."""
  theta_kp, rss_k = starts_kp, np.zeros(len(starts_kp))
  for count, max_steps in _ROUNDS:
    top = np.argsort(rss_k, kind="stable")[:count]
    low_kp, high_kp = low_kp[top], high_kp[top]
    theta_kp, rss_k = levenberg_marquardt(problem.evaluate, theta_kp[top], low_kp, high_kp, max_steps, gain)
  best = int(np.argmin(rss_k))
  return theta_kp[best], float(rss_k[best])
