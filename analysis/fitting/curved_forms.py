"""The formulas of `broken_power` and `m4`, whose cost has long curved valleys. The conventions are those of `forms.py`."""

from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np

from analysis.fitting.forms import grid_of, log_of, project, reach_of

Array = np.ndarray
_NEWTON_STEPS = 60
_MOST_GAPS = 24  # places of a break to start from, at most
_WIDTHS_TRIED = np.array([0.05, 0.3, 1.0, 3.0])  # of a break, in units of log x
_GAMMA_SHARES = np.array([0.0, 0.5, 0.8, 0.93, 0.98, 0.999])  # of the lowest y


@no_type_check
def _softplus(z: Array) -> Array:
  """log(1 + e^z): as exact as np.logaddexp(0, z) to an absolute 1e-16, in a fifth of its time."""
  return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


@no_type_check
def _plus_constant(log_term_kn: Array, constant_k1: Array) -> Array:
  """log(term + constant), with a constant of 0 or more."""
  with np.errstate(divide="ignore", invalid="ignore"):
    log_constant_k1 = np.log(constant_k1)
    return np.maximum(log_term_kn, log_constant_k1) + np.log1p(np.exp(-np.abs(log_term_kn - log_constant_k1)))


@no_type_check
def _gradient(columns: list[Array]) -> Array:
  """The columns of the gradient as [K, n, P], each of them contiguous in memory: products with it are faster."""
  return np.stack(columns, axis=1).transpose(0, 2, 1)


@no_type_check
def broken_power(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """alpha x^-beta (1 + (x/x_break)^(1/width))^(-delta width) + gamma; coordinates log alpha, beta, gamma, delta, log x_break, log width."""
  log_x_n = log_x_nc[:, 0]
  a, beta, gamma, delta, at, log_width = (theta_kp[:, i : i + 1] for i in range(6))
  width = np.exp(log_width)
  z_kn = (log_x_n - at) / width
  soft_kn = _softplus(z_kn)
  bend_kn = width * soft_kn  # rises from 0 to log(x/x_break)
  past_kn = np.exp(z_kn - soft_kn)  # rises from 0 before the break to 1 after it
  term_kn = a - beta * log_x_n - delta * bend_kn
  log_f_kn = _plus_constant(term_kn, gamma)
  share_kn = np.exp(term_kn - log_f_kn)
  columns = [share_kn, -share_kn * log_x_n, np.exp(-log_f_kn), -share_kn * bend_kn, share_kn * delta * past_kn]
  return log_f_kn, _gradient([*columns, -share_kn * delta * (bend_kn - width * z_kn * past_kn)])


def broken_power_starts(log_x_nc: Array, log_y_n: Array) -> Array:
  """Starts on a grid of the break's place, its width and gamma. Log alpha, beta and delta follow by linear least squares.

  A narrow break between two points is an optimum of its own, so the grid has a place in every gap, `_MOST_GAPS` at most. Each place and
  width keeps two starts: the best gamma, and gamma = 0, because a search moves along gamma slowly. The best starts come first.
  """
  log_x_n, lowest = log_x_nc[:, 0], log_y_n.min()
  at_k, log_width_k, share_k = grid_of(_break_places(log_x_n), np.log(_WIDTHS_TRIED * reach_of(log_x_n)), _GAMMA_SHARES).T
  width_k1 = np.exp(log_width_k)[:, None]
  bend_kn = width_k1 * _softplus((log_x_n - at_k[:, None]) / width_k1)
  gamma_k = share_k * np.exp(lowest)
  above_kn = np.exp(log_y_n) - gamma_k[:, None]
  weight_kn = above_kn * np.exp(-log_y_n)  # turns an error of log(y - gamma) into one of log y
  middle = log_x_n.mean()
  ones_kn = np.ones_like(bend_kn)
  columns_knt = np.stack([ones_kn, (middle - log_x_n) * ones_kn, -bend_kn], axis=-1) * weight_kn[..., None]
  wanted_kn = weight_kn * np.log(above_kn)
  c_kt = (np.linalg.pinv(columns_knt, rcond=1e-10) @ wanted_kn[..., None])[..., 0]
  cost_k = np.sum(((columns_knt @ c_kt[..., None])[..., 0] - wanted_kn) ** 2, axis=1)
  starts = np.column_stack([c_kt[:, 0] + c_kt[:, 1] * middle, c_kt[:, 1], gamma_k, c_kt[:, 2], at_k, log_width_k])
  cells = cost_k.reshape(-1, len(_GAMMA_SHARES))
  first = np.arange(len(cells)) * len(_GAMMA_SHARES)
  best = np.unique(np.concatenate([first, first + cells.argmin(axis=1)]))
  return starts[best[np.argsort(cost_k[best], kind="stable")]]


def _break_places(log_x_n: Array) -> Array:
  """Places of a break to start from: the middle of every gap between points, or quantiles of these where there are many."""
  at = np.unique(log_x_n)
  middles = (at[1:] + at[:-1]) / 2
  return middles if len(middles) <= _MOST_GAPS else np.quantile(middles, np.linspace(0, 1, _MOST_GAPS))


@no_type_check
def _m4_place(q_kn: Array, delta: Array) -> tuple[Array, Array]:
  """The u with log sigmoid(u) - delta log sigmoid(-u) = q, by Newton's method: log sigmoid(u) and log sigmoid(-u).

  The left side rises and is convex (delta > 1) or concave throughout. The start is where an asymptote equals q, on the side from which
  Newton's method cannot overshoot, so it converges.
  """
  u = np.where(delta <= 1, np.maximum(q_kn, q_kn / delta), np.minimum(q_kn, q_kn / delta))
  for _ in range(_NEWTON_STEPS):
    above = -_softplus(u)  # log sigmoid(-u)
    below = above + u
    step = (below - delta * above - q_kn) / (np.exp(above) + delta * np.exp(below))
    u = u - step
    if np.all(np.abs(step) <= 1e-13 * (1 + np.abs(u))):
      break
  above = -_softplus(u)
  return above + u, above


@no_type_check
def m4(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """((L - gamma)/span) / ((gamma + span - L)/span)^delta = (x/x_scale)^-beta; coordinates log span, beta, gamma, delta, log x_scale."""
  log_span, beta, gamma, delta, log_scale = (theta_kp[:, i : i + 1] for i in range(5))
  distance_kn = log_x_nc[:, 0] - log_scale
  log_below_kn, log_above_kn = _m4_place(-beta * distance_kn, delta)
  below_kn, above_kn = np.exp(log_below_kn), np.exp(log_above_kn)
  term_kn = log_span + log_below_kn
  log_f_kn = _plus_constant(term_kn, gamma)
  share_kn = np.exp(term_kn - log_f_kn)
  move_kn = share_kn * above_kn / (above_kn + delta * below_kn)  # d log f / dq
  columns = [share_kn, -move_kn * distance_kn, np.exp(-log_f_kn), move_kn * log_above_kn, move_kn * beta]
  return log_f_kn, _gradient(columns)


def m4_starts(log_x_nc: Array, log_y_n: Array) -> Array:
  log_x_n = log_x_nc[:, 0]
  reach = reach_of(log_x_n)
  scales = np.quantile(log_x_n, [0.0, 0.5]) - np.array([3.0, 0.0]) * reach
  beta_k, delta_k, log_scale_k = grid_of(np.geomspace(0.05, 2.0, 6) / reach, np.array([0.1, 0.5, 1.0, 3.0]), scales).T
  log_term_kn = _m4_place(-beta_k[:, None] * (log_x_n - log_scale_k[:, None]), delta_k[:, None])[0]
  c_kt = project(np.stack([np.exp(log_term_kn), np.ones_like(log_term_kn)], axis=-1), log_y_n)
  return np.column_stack([log_of(c_kt[:, 0], log_term_kn), beta_k, c_kt[:, 1], delta_k, log_scale_k])
