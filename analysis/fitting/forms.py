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
_SPAN = 40.0  # of log x, 17 decades
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


def log_of(c_k: Array, log_basis_kn: Array) -> Array:
  """The logarithm of a term's coefficients; a coefficient of 0 is raised to a small share of y."""
  with np.errstate(divide="ignore"):
    return np.maximum(np.log(c_k), np.log(_SMALL) - log_basis_kn.mean(axis=1))


def reach_of(log_x_n: Array) -> float:
  """How many times log x spans `_SPAN`, at least 1. Exponents to start from are for `_SPAN` and are divided by this."""
  return max(float(np.ptp(log_x_n)) / _SPAN, 1.0)


def grid_of(*values: Array) -> Float[Array, "K Q"]:
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
  middle, beta_k = log_x_n.mean(), np.geomspace(0.01, 4.0, 16) / reach_of(log_x_n)
  log_term_kn = -beta_k[:, None] * (log_x_n - middle)
  c_kt = project(np.stack([np.exp(log_term_kn), np.ones_like(log_term_kn)], axis=-1), log_y_n)
  starts = np.stack([log_of(c_kt[:, 0], log_term_kn) + beta_k * middle, beta_k, c_kt[:, 1]], axis=1)
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
  reach = [reach_of(log_x_n) for log_x_n in log_x_nc.T]
  exponents_kc = grid_of(*[np.geomspace(0.03, 2.0, _GRID_SIDES.get(columns, 3))] * columns) / reach
  log_term_knc = -exponents_kc[:, None] * (log_x_nc - middle)
  c_kt = project(np.concatenate([np.exp(log_term_knc), np.ones((*log_term_knc.shape[:2], 1))], axis=-1), log_y_n)
  log_a = [log_of(c_kt[:, c], log_term_knc[..., c]) + exponents_kc[:, c] * middle[c] for c in range(columns)]
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
