"""The law of repeated data of Muennighoff et al. 2023 (arXiv 2305.16264): its formula, and when points are outside it. See `laws.py`.

U unique examples are trained on for e epochs. The first epoch counts in full, and later ones less and less:

  L = B * D**-beta + E,   D = U * (min(e, 1) + R_star * (1 - exp(-R/R_star))),   R = max(e - 1, 0)

The effective examples D are at most U (1 + R_star). The law never rises with epochs. The loss of a model that remembers its examples does,
so such points are refused.
"""

from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Float
from scipy import special

from analysis.fitting.forms import grid_of, log_of, project, reach_of

Array = np.ndarray
R_STAR = (0.02, 1000.0)  # at the low end repeated examples teach nothing, at the high end as much as new ones
_STARTS = (0.1, 0.5, 2.0, 8.0, 40.0)  # of R_star
UNREPEATED = 0.005  # a rise of log loss that counts where no point is repeated: seeds of one model differ by tenths of a per cent
_SIGNIFICANT = 0.01  # level of the t test for a rise where points are repeated


@no_type_check
def repeated(theta_kp: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """The law above; coordinates log B, E, beta, log R_star; columns log U, log e."""
  log_b, e_k1, beta, log_r = (theta_kp[:, i : i + 1] for i in range(4))
  log_d_kn, by_r_kn = _effective(log_r, log_x_nc)
  term_kn = log_b - beta * log_d_kn
  with np.errstate(divide="ignore"):  # E = 0 is allowed
    log_f_kn = np.logaddexp(term_kn, np.log(e_k1))
  share_kn = np.exp(term_kn - log_f_kn)  # of f
  return log_f_kn, np.stack([share_kn, np.exp(-log_f_kn), -share_kn * log_d_kn, -share_kn * beta * by_r_kn], axis=-1)


@no_type_check
def _effective(log_r_k1: Array, log_x_nc: Array) -> tuple[Array, Array]:
  """The logarithm of the effective examples [K, n], and its derivative by log R_star."""
  epochs_n, r_k1 = np.exp(log_x_nc[:, 1]), np.exp(log_r_k1)
  ratio_kn = np.maximum(epochs_n - 1, 0.0) / r_k1
  passes_kn = np.minimum(epochs_n, 1.0) - r_k1 * np.expm1(-ratio_kn)
  return log_x_nc[:, 0] + np.log(passes_kn), r_k1 * (-np.expm1(-ratio_kn) - ratio_kn * np.exp(-ratio_kn)) / passes_kn


def repeated_starts(log_x_nc: Float[Array, "n 2"], log_y_n: Float[Array, " n"]) -> Float[Array, "K 4"]:
  """A grid of beta and R_star, each with its best B and E."""
  beta_k, log_r_k = grid_of(np.geomspace(0.02, 2.0, 9) / reach_of(log_x_nc[:, 0]), np.log(_STARTS)).T
  log_d_kn = _effective(log_r_k[:, None], log_x_nc)[0]
  middle_k = log_d_kn.mean(axis=1)
  log_term_kn = -beta_k[:, None] * (log_d_kn - middle_k[:, None])
  c_kt = project(np.stack([np.exp(log_term_kn), np.ones_like(log_term_kn)], axis=-1), log_y_n)
  return np.stack([log_of(c_kt[:, 0], log_term_kn) + beta_k * middle_k, c_kt[:, 1], beta_k, log_r_k], axis=1)


def rises(x: Float[Array, "n 2"], y: Float[Array, " n"]) -> str:
  """Why points are outside the law: at some number of unique examples the loss rises with epochs. Empty where it does not.

  Where points repeat, as those of several seeds do, the loss after the most epochs is compared with the lowest one by a t test, the scatter
  pooled over all points. Else a rise of half a per cent counts, from the loss after the fewest epochs that are not below 1.
  """
  places, index = np.unique(x, axis=0, return_inverse=True)
  index = index.reshape(-1)
  count = np.bincount(index)
  mean = np.bincount(index, np.log(y)) / count
  free = len(y) - len(places)
  deviation = float(np.sqrt(np.sum((np.log(y) - mean[index]) ** 2) / free)) if free else 0.0
  for unique in np.unique(places[:, 0]):
    at = np.flatnonzero((places[:, 0] == unique) & (places[:, 1] >= 1))
    if len(at) < 2:
      continue
    last, low = at[-1], at[mean[at].argmin()] if free else at[0]
    limit = special.stdtrit(free, 1 - _SIGNIFICANT) * deviation * np.sqrt(1 / count[last] + 1 / count[low]) if free else UNREPEATED
    if mean[last] - mean[low] > limit:
      before, after = (f"{np.exp(mean[i]):.4g} after {places[i, 1]:.3g}" for i in (low, last))
      return f"the loss rises when {unique:.4g} unique examples are repeated, from {before} to {after} epochs; this law only falls"
  return ""
