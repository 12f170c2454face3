"""The formulas of the laws: value, gradient and starts of each, for a batch of parameter vectors at once. Entries of `laws.py`.

Every function takes theta_kp, K vectors of fitted coordinates, and log_x_nc, the logarithms of n points in C columns of x. It returns
log f [K, n] and its gradient with respect to theta [K, n, P]. A start function takes log_x_nc and log_y_n (log y of mean zero).

Coefficients in which a law is linear are projected out of its starts (Golub & Pereyra 1973). For each point of a grid of the other
parameters, they are the non-negative least squares solution of f/y - 1. So the grid covers only the non-linear parameters.
"""

import itertools
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Float

Array = np.ndarray
_SMALL = 1e-4  # share of y for the start of a coefficient that is fitted through its logarithm and whose projection is 0
_NEWTON_STEPS = 60
_SPAN = 40.0  # of log x, 17 decades
_MOST_GAPS = 24  # places of a break to start from, at most
_WIDTHS_TRIED = np.array([0.05, 0.3, 1.0, 3.0])  # of a break, in units of log x
_GAMMA_SHARES = np.array([0.0, 0.5, 0.8, 0.93, 0.98, 0.999])  # of the lowest y
_GRID_SIDES = {2: 9, 3: 5}  # exponents tried in each column, by the number of columns
_SHARPNESS = (1.5, 4.0, 10.0)  # p tried of a smooth maximum
_ALPHA_MIN = 1e-6  # a smaller exponent counts as this where it is divided by
_KEPT_STARTS = 24  # of a smooth maximum


def project(basis_knt: Float[Array, "K n T"], log_y_n: Float[Array, " n"]) -> Float[Array, "K T"]:
  """Coefficients >= 0 of T positive functions with the least squares of sum_t c_t basis_t / y - 1, for every k."""
  relative_knt = basis_knt * np.exp(-log_y_n)[:, None]
  count, _, terms = basis_knt.shape
  scale_kt = np.linalg.norm(relative_knt, axis=1)
  unit_knt = relative_knt / scale_kt[:, None]
  best_kt, best_k = np.zeros((count, terms)), np.full(count, np.inf)
  for size in range(1, terms + 1):  # the optimum is the plain least squares of its positive coefficients: try every set of them
    for chosen in itertools.combinations(range(terms), size):
      columns = unit_knt[:, :, chosen]
      inverse = np.linalg.pinv(columns, rcond=1e-12)
      c_kt = inverse.sum(axis=2)
      rss_k = np.sum(((columns @ c_kt[..., None])[..., 0] - 1) ** 2, axis=1)
      better_k = (rss_k < best_k) & np.all(c_kt > 0, axis=1)
      best_k = np.where(better_k, rss_k, best_k)
      full_kt = np.zeros((count, terms))
      full_kt[:, chosen] = c_kt
      best_kt = np.where(better_k[:, None], full_kt, best_kt)
  return best_kt / scale_kt


def _log_of(c_k: Array, log_basis_kn: Array) -> Array:
  """The logarithm of a term's coefficients; a coefficient of 0 is raised to a small share of y."""
  with np.errstate(divide="ignore"):
    return np.maximum(np.log(c_k), np.log(_SMALL) - log_basis_kn.mean(axis=1))


def _reach(log_x_n: Array) -> float:
  """How many times log x spans `_SPAN`, at least 1. Exponents to start from are for `_SPAN` and are divided by this."""
  return max(float(np.ptp(log_x_n)) / _SPAN, 1.0)


def _grid(*values: Array) -> Float[Array, "K Q"]:
  return np.stack([v.ravel() for v in np.meshgrid(*values, indexing="ij")], axis=1)


@no_type_check
def power(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """alpha x^-beta; coordinates log alpha, beta."""
  log_x_n = log_x_nc[:, 0]
  gradient_knp = np.ones((len(theta_kp), len(log_x_n), 2))
  gradient_knp[..., 1] = -log_x_n
  return theta_kp[:, :1] - theta_kp[:, 1:2] * log_x_n, gradient_knp


def power_starts(log_x_nc: Array, log_y_n: Array) -> Array:
  slope, intercept = np.polyfit(log_x_nc[:, 0], log_y_n, 1)
  return np.array([[intercept, -slope]])


@no_type_check
def power_constant(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """alpha x^-beta + gamma; coordinates log alpha, beta, gamma."""
  log_x_n = log_x_nc[:, 0]
  term_kn = theta_kp[:, :1] - theta_kp[:, 1:2] * log_x_n  # log of the power term
  with np.errstate(divide="ignore"):  # gamma = 0 is allowed: log 0 = -inf adds nothing
    log_f_kn = np.logaddexp(term_kn, np.log(theta_kp[:, 2:3]))
  share_kn = np.exp(term_kn - log_f_kn)  # the power term's share of f
  return log_f_kn, np.stack([share_kn, -share_kn * log_x_n, np.exp(-log_f_kn)], axis=-1)


def power_constant_starts(log_x_nc: Array, log_y_n: Array) -> Array:
  log_x_n = log_x_nc[:, 0]
  middle, beta_k = log_x_n.mean(), np.geomspace(0.01, 4.0, 16) / _reach(log_x_n)
  log_term_kn = -beta_k[:, None] * (log_x_n - middle)
  c_kt = project(np.stack([np.exp(log_term_kn), np.ones_like(log_term_kn)], axis=-1), log_y_n)
  starts = np.stack([_log_of(c_kt[:, 0], log_term_kn) + beta_k * middle, beta_k, c_kt[:, 1]], axis=1)
  slope, intercept = np.polyfit(log_x_n, log_y_n, 1)
  return np.concatenate([starts, [[intercept, max(-slope, 0.0), 0.0]]])


@no_type_check
def additive(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """sum over the C columns of x of A_c x_c^-alpha_c, + E; coordinates log A_1 .. log A_C, E, alpha_1 .. alpha_C."""
  columns = log_x_nc.shape[1]
  log_a_kc, e_k1, alpha_kc = theta_kp[:, :columns], theta_kp[:, columns : columns + 1], theta_kp[:, columns + 1 :]
  term_knc = log_a_kc[:, None] - alpha_kc[:, None] * log_x_nc
  with np.errstate(divide="ignore"):
    log_f_kn = np.logaddexp(np.logaddexp.reduce(term_knc, axis=2), np.log(e_k1))
  share_knc = np.exp(term_knc - log_f_kn[..., None])  # of f
  return log_f_kn, np.concatenate([share_knc, np.exp(-log_f_kn)[..., None], -share_knc * log_x_nc], axis=-1)


def additive_starts(log_x_nc: Array, log_y_n: Array) -> Array:
  columns, middle = log_x_nc.shape[1], log_x_nc.mean(axis=0)
  reach = [_reach(log_x_n) for log_x_n in log_x_nc.T]
  exponents_kc = _grid(*[np.geomspace(0.03, 2.0, _GRID_SIDES.get(columns, 3))] * columns) / reach
  log_term_knc = -exponents_kc[:, None] * (log_x_nc - middle)
  c_kt = project(np.concatenate([np.exp(log_term_knc), np.ones((*log_term_knc.shape[:2], 1))], axis=-1), log_y_n)
  log_a = [_log_of(c_kt[:, c], log_term_knc[..., c]) + exponents_kc[:, c] * middle[c] for c in range(columns)]
  return np.column_stack([*log_a, c_kt[:, columns], exponents_kc])


@no_type_check
def smooth_max(theta_kp: Array, log_x_nc: Array, power: str, tied: bool, constant: bool) -> tuple[Array, Array]:
  """(sum over the C columns of x of (A_c x_c^-alpha_c)^p)^(1/p) + E: the largest term where p is large, their sum where p = 1.

  Coordinates are log A_1 .. log A_C, then E with `constant`, alpha_1 .. alpha_C or with `tied` one alpha, and log p with `power` fitted.
  With `power` nested, p is 1/alpha_C: Kaplan et al. 2020's ((A/R)^(a/b) + B/N)^b, b = alpha_C.
  """
  columns, at = log_x_nc.shape[1], log_x_nc.shape[1] + constant
  log_a_kc, e_k1 = theta_kp[:, :columns], theta_kp[:, columns:at] if constant else np.zeros((len(theta_kp), 1))
  alpha_kc = np.repeat(theta_kp[:, at : at + 1], columns, axis=1) if tied else theta_kp[:, at : at + columns]
  p_k1 = {"sum": np.ones_like(e_k1), "nested": 1 / np.maximum(alpha_kc[:, -1:], _ALPHA_MIN), "fitted": np.exp(theta_kp[:, -1:])}[power]
  term_knc = log_a_kc[:, None] - alpha_kc[:, None] * log_x_nc
  raised_knc = p_k1[:, None] * term_knc
  total_kn = np.logaddexp.reduce(raised_knc, axis=2)
  weight_knc = np.exp(raised_knc - total_kn[..., None])  # of the terms; they sum to 1
  with np.errstate(divide="ignore"):
    log_f_kn = np.logaddexp(total_kn / p_k1, np.log(e_k1))
  share_kn = np.exp(total_kn / p_k1 - log_f_kn)  # of f
  by_a_knc = share_kn[..., None] * weight_knc
  by_alpha_knc = -by_a_knc * log_x_nc
  by_p_kn = share_kn * ((weight_knc * term_knc).sum(axis=2) - total_kn / p_k1) / p_k1
  if power == "nested":
    by_alpha_knc[..., -1] -= by_p_kn * p_k1**2
  gradient = [by_a_knc, *([np.exp(-log_f_kn)[..., None]] if constant else [])]
  gradient.append(by_alpha_knc.sum(axis=2, keepdims=True) if tied else by_alpha_knc)
  return log_f_kn, np.concatenate(gradient + ([(by_p_kn * p_k1)[..., None]] if power == "fitted" else []), axis=-1)


def smooth_max_starts(log_x_nc: Array, log_y_n: Array, power: str, tied: bool, constant: bool) -> Array:
  """The best of the additive law's starts, and of those in which every term is the loss at the smallest sizes of its column."""
  columns = log_x_nc.shape[1]
  plain = additive_starts(log_x_nc, log_y_n)
  log_a_kc, e_k1, alpha_kc = plain[:, :columns], plain[:, columns : columns + 1], plain[:, columns + 1 :]
  alone_kc = np.empty_like(log_a_kc)
  for c, log_x_n in enumerate(log_x_nc.T):
    small = log_x_n == log_x_n.min()
    alone_kc[:, c] = log_y_n[small].mean() + alpha_kc[:, c] * log_x_n.min()
  out = []
  for p in _SHARPNESS if power == "fitted" else (1.0,):
    for scales_kc, limit_k1 in ((log_a_kc, e_k1), (alone_kc, np.zeros_like(e_k1))):
      exponents = alpha_kc[:, -1:] if tied else alpha_kc
      parts = [scales_kc, *([limit_k1] if constant else []), exponents, *([np.full_like(e_k1, np.log(p))] if power == "fitted" else [])]
      out.append(np.concatenate(parts, axis=1))
  starts_kp = np.concatenate(out)
  off_kn = smooth_max(starts_kp, log_x_nc, power, tied, constant)[0] - log_y_n
  return starts_kp[np.argsort(np.nan_to_num(np.sum(off_kn**2, axis=1), nan=np.inf), kind="stable")[:_KEPT_STARTS]]


@no_type_check
def broken_power(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """alpha x^-beta (1 + (x/x_break)^(1/width))^(-delta width) + gamma; coordinates log alpha, beta, gamma, delta, log x_break, log width."""
  log_x_n = log_x_nc[:, 0]
  a, beta, gamma, delta, at, log_width = (theta_kp[:, i : i + 1] for i in range(6))
  width = np.exp(log_width)
  z_kn = (log_x_n - at) / width
  bend_kn = width * np.logaddexp(0.0, z_kn)  # rises from 0 to log(x/x_break)
  past_kn = np.exp(-np.logaddexp(0.0, -z_kn))  # rises from 0 before the break to 1 after it
  term_kn = a - beta * log_x_n - delta * bend_kn
  with np.errstate(divide="ignore"):
    log_f_kn = np.logaddexp(term_kn, np.log(gamma))
  share_kn = np.exp(term_kn - log_f_kn)
  columns = [share_kn, -share_kn * log_x_n, np.exp(-log_f_kn), -share_kn * bend_kn, share_kn * delta * past_kn]
  return log_f_kn, np.stack([*columns, -share_kn * delta * (bend_kn - width * z_kn * past_kn)], axis=-1)


def broken_power_starts(log_x_nc: Array, log_y_n: Array) -> Array:
  """Starts on a grid of the break's place, its width and gamma. Log alpha, beta and delta follow by linear least squares.

  A narrow break between two points is an optimum of its own, so the grid has a place in every gap, `_MOST_GAPS` at most. Each place and
  width keeps two starts: the best gamma, and gamma = 0, because a search moves along gamma slowly. The best starts come first.
  """
  log_x_n, lowest = log_x_nc[:, 0], log_y_n.min()
  at_k, log_width_k, share_k = _grid(_break_places(log_x_n), np.log(_WIDTHS_TRIED * _reach(log_x_n)), _GAMMA_SHARES).T
  width_k1 = np.exp(log_width_k)[:, None]
  bend_kn = width_k1 * np.logaddexp(0.0, (log_x_n - at_k[:, None]) / width_k1)
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
def _log_sigmoid(u: Array) -> Array:
  return -np.logaddexp(0.0, -u)


@no_type_check
def _m4_place(q_kn: Array, delta: Array) -> Array:
  """The u with log sigmoid(u) - delta log sigmoid(-u) = q, by Newton's method.

  The left side rises and is convex (delta > 1) or concave throughout. The start is where an asymptote equals q, on the side from which
  Newton's method cannot overshoot, so it converges.
  """
  u = np.where(delta <= 1, np.maximum(q_kn, q_kn / delta), np.minimum(q_kn, q_kn / delta))
  for _ in range(_NEWTON_STEPS):
    past = np.exp(_log_sigmoid(u))
    step = (_log_sigmoid(u) - delta * _log_sigmoid(-u) - q_kn) / (1 - past + delta * past)
    u = u - step
    if np.all(np.abs(step) <= 1e-13 * (1 + np.abs(u))):
      break
  return u


@no_type_check
def m4(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """((L - gamma)/span) / ((gamma + span - L)/span)^delta = (x/x_scale)^-beta; coordinates log span, beta, gamma, delta, log x_scale."""
  log_span, beta, gamma, delta, log_scale = (theta_kp[:, i : i + 1] for i in range(5))
  distance_kn = log_x_nc[:, 0] - log_scale
  u_kn = _m4_place(-beta * distance_kn, delta)
  below_kn, above_kn = np.exp(_log_sigmoid(u_kn)), np.exp(_log_sigmoid(-u_kn))
  with np.errstate(divide="ignore"):
    log_f_kn = np.logaddexp(np.log(gamma), log_span + _log_sigmoid(u_kn))
  share_kn = np.exp(log_span + _log_sigmoid(u_kn) - log_f_kn)
  move_kn = share_kn * above_kn / (above_kn + delta * below_kn)  # d log f / dq
  columns = [share_kn, -move_kn * distance_kn, np.exp(-log_f_kn), move_kn * _log_sigmoid(-u_kn), move_kn * beta]
  return log_f_kn, np.stack(columns, axis=-1)


def m4_starts(log_x_nc: Array, log_y_n: Array) -> Array:
  log_x_n = log_x_nc[:, 0]
  reach = _reach(log_x_n)
  scales = np.quantile(log_x_n, [0.0, 0.5]) - np.array([3.0, 0.0]) * reach
  beta_k, delta_k, log_scale_k = _grid(np.geomspace(0.05, 2.0, 6) / reach, np.array([0.1, 0.5, 1.0, 3.0]), scales).T
  log_term_kn = _log_sigmoid(_m4_place(-beta_k[:, None] * (log_x_n - log_scale_k[:, None]), delta_k[:, None]))
  c_kt = project(np.stack([np.exp(log_term_kn), np.ones_like(log_term_kn)], axis=-1), log_y_n)
  return np.column_stack([_log_of(c_kt[:, 0], log_term_kn), beta_k, c_kt[:, 1], delta_k, log_scale_k])
