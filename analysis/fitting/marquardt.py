"""Levenberg and Marquardt's method in float64 for a batch of starts at once, with squared or robust loss. Called by `least_squares.py`."""

import dataclasses
from collections.abc import Callable
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray
Evaluate = Callable[[Float[Array, "K P"]], tuple[Float[Array, "K n"], Float[Array, "K n P"]]]
RESOLUTION = 1e-14  # relative error of one log residual in float64: a smaller residual is zero
GAIN = 1e-13  # relative gain at which a fit stops: the parameters are then within about 1e-6 of a standard error
_AHEAD = 0.1  # share of a step at which the second derivative along it is measured
_TURN = 0.375  # a correction of second order longer than this share of the step is not taken
_COSINE = 1e-10  # a fit has converged when the cosine between the residual and every free column is this small


@dataclasses.dataclass(frozen=True)
class Loss:
  """The loss of a residual r: r^2, or with `delta` twice Huber's function, r^2 within delta and delta (2|r| - delta) beyond."""

  delta: float | None = None

  @no_type_check
  def cost(self, r: Array) -> Array:
    if self.delta is None:
      return r**2
    size = np.abs(r)
    return np.where(size <= self.delta, r**2, self.delta * (2 * size - self.delta))

  @no_type_check
  def slope(self, r: Array) -> Array:
    """Half the derivative of `cost`."""
    return r if self.delta is None else np.clip(r, -self.delta, self.delta)

  @no_type_check
  def bend(self, r: Array, least: Array) -> Array:
    """Half the second derivative, but at least the share `least` of slope / r, the curvature of a parabola above the cost."""
    if self.delta is None:
      return np.ones_like(r)
    size = np.abs(r)
    return np.where(size <= self.delta, 1.0, least * self.delta / np.maximum(size, self.delta))


SQUARES = Loss()


@np.errstate(all="ignore")  # a trial step may overflow; its cost is then infinite and it is refused
def levenberg_marquardt(
  evaluate: Evaluate,
  start_kp: Array,
  low_kp: Array,
  high_kp: Array,
  max_steps: int = 300,
  gain: float = GAIN,
  loss: Loss = SQUARES,
  count_kn: Array | None = None,
  curved: bool = False,
) -> tuple[Array, Array]:
  """Minimises the summed loss of the residuals from every start, within bounds (equal bounds hold a parameter).

  Marquardt's damping with MINPACK's running column scale. Parameters on a bound that the gradient pushes outwards are left out of the step.
  With a robust loss, the damping also moves from reweighted least squares, safe far away, to Newton's method (Madsen & Nielsen 1990).

  Args:
    evaluate: residuals and their Jacobian at K parameter vectors.
    start_kp, low_kp, high_kp: starts and bounds.
    max_steps: evaluations per start at most.
    gain: a start ends when a nearly undamped step lowers the cost by less than this share.
    loss: the loss of a residual.
    count_kn: how often each residual counts in each problem; once when None.
    curved: whether steps follow a curved valley to second order, by geodesic acceleration (Transtrum & Sethna 2012, arXiv 1201.5885).

  Returns:
    Parameters [K, P] and costs [K].
  """
  out_theta_kp, out_cost_k = np.clip(start_kp, low_kp, high_kp), np.full(len(start_kp), np.inf)
  alive = np.arange(len(start_kp))  # which problems the arrays below still hold
  theta_kp, residual_kn, jacobian_knp = out_theta_kp, *evaluate(out_theta_kp)
  count_kn = np.ones((len(start_kp), 1)) if count_kn is None else count_kn

  @no_type_check
  def total(r_kn: Array, c_kn: Array) -> Array:
    return np.sum(c_kn * loss.cost(r_kn), axis=1)

  cost_k = total(residual_kn, count_kn)
  zero = residual_kn.shape[1] * RESOLUTION**2
  damping_k, stalled_k = np.full(len(alive), 1e-3), np.zeros(len(alive), bool)
  scale_kp = np.full_like(theta_kp, 1e-300)
  eye = np.eye(theta_kp.shape[1])
  for _ in range(max_steps):
    slope_kn = count_kn * loss.slope(residual_kn)
    least_k1 = np.minimum(damping_k, 1.0)[:, None]
    transposed_kpn = jacobian_knp.transpose(0, 2, 1)
    gradient_kp = (transposed_kpn @ slope_kn[..., None])[..., 0]
    weighted_kpn = transposed_kpn * (count_kn * loss.bend(residual_kn, least_k1))[:, None]
    hessian_kpp = weighted_kpn @ jacobian_knp
    curvature_kp = np.diagonal(hessian_kpp, axis1=1, axis2=2)
    held_kp = ((theta_kp <= low_kp) & (gradient_kp >= 0)) | ((theta_kp >= high_kp) & (gradient_kp <= 0)) | (low_kp == high_kp)
    size_k = np.sum(slope_kn * residual_kn, axis=1)
    cosine_kp = np.abs(gradient_kp) / np.sqrt(np.maximum(curvature_kp * size_k[:, None], 1e-300))
    done_k = ~np.isfinite(cost_k) | (cost_k <= zero) | stalled_k | (damping_k > 1e14) | np.all(held_kp | (cosine_kp <= _COSINE), axis=1)
    if done_k.any():
      out_theta_kp[alive[done_k]], out_cost_k[alive[done_k]] = theta_kp[done_k], np.where(np.isfinite(cost_k), cost_k, np.inf)[done_k]
      keep = ~done_k
      if not keep.any():
        return out_theta_kp, out_cost_k
      alive, theta_kp, low_kp, high_kp, scale_kp = alive[keep], theta_kp[keep], low_kp[keep], high_kp[keep], scale_kp[keep]
      residual_kn, jacobian_knp, cost_k, damping_k = residual_kn[keep], jacobian_knp[keep], cost_k[keep], damping_k[keep]
      gradient_kp, hessian_kpp, curvature_kp, held_kp = gradient_kp[keep], hessian_kpp[keep], curvature_kp[keep], held_kp[keep]
      count_kn, weighted_kpn = count_kn[keep], weighted_kpn[keep]
    scale_kp = np.maximum(scale_kp, curvature_kp)
    # Solved in units in which every diagonal element is 1, so that the magnitude of a parameter does not matter.
    unit_kp = np.where(held_kp, 0.0, 1 / np.sqrt(curvature_kp + damping_k[:, None] * scale_kp))
    system_kpp = hessian_kpp * unit_kp[:, :, None] * unit_kp[:, None, :]
    system_kpp = system_kpp * (1 - eye) + (1 + 1e-15) * eye
    step_kp = unit_kp * np.linalg.solve(system_kpp, (-gradient_kp * unit_kp)[..., None])[..., 0]
    if curved:
      ahead_kp = np.clip(theta_kp + _AHEAD * step_kp, low_kp, high_kp)
      second_kn = 2 / _AHEAD * ((evaluate(ahead_kp)[0] - residual_kn) / _AHEAD - (jacobian_knp @ step_kp[..., None])[..., 0])
      push_kp = (weighted_kpn @ second_kn[..., None])[..., 0]
      turn_kp = -0.5 * unit_kp * np.linalg.solve(system_kpp, (unit_kp * np.nan_to_num(push_kp))[..., None])[..., 0]
      near_k = np.sum(turn_kp**2 * scale_kp, axis=1) <= _TURN**2 * np.sum(step_kp**2 * scale_kp, axis=1)
      step_kp = np.where(near_k[:, None], step_kp + turn_kp, step_kp)
    trial_kp = np.clip(theta_kp + step_kp, low_kp, high_kp)
    trial_residual_kn, trial_jacobian_knp = evaluate(trial_kp)
    trial_cost_k = total(trial_residual_kn, count_kn)
    better_k: Bool[Array, " K"] = trial_cost_k < cost_k
    stalled_k = (damping_k < 1e-2) & (np.abs(cost_k - trial_cost_k) <= gain * cost_k)
    theta_kp = np.where(better_k[:, None], trial_kp, theta_kp)
    residual_kn = np.where(better_k[:, None], trial_residual_kn, residual_kn)
    jacobian_knp = np.where(better_k[:, None, None], trial_jacobian_knp, jacobian_knp)
    cost_k = np.where(better_k, trial_cost_k, cost_k)
    damping_k = np.where(better_k, np.maximum(damping_k * 0.1, 1e-12), damping_k * 5)
  out_theta_kp[alive], out_cost_k[alive] = theta_kp, np.where(np.isfinite(cost_k), cost_k, np.inf)
  return out_theta_kp, out_cost_k
