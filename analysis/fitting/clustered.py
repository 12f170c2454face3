"""The covariance of estimates from points that are correlated within clusters, such as the evaluations of one training pass.

The covariance is estimated from the sums of each cluster's residuals, without an assumption about their correlation. A cluster with much
influence pulls the fit towards itself, so that its residuals are too small. Bell & McCaffrey (2002, Survey Methodology 28:169) correct for
this, and give the degrees of freedom of the result. Called by `analysis.questions`.
"""

import numpy as np
from jaxtyping import Float, Shaped

Array = np.ndarray
_SINGULAR = 1e-8  # a direction in which a cluster has no residual is left out
_SHARED = 0.9  # the correlation within a cluster that the degrees of freedom assume


def clustered(
  estimates: Float[Array, "Q P"],
  residual: Float[Array, " n"],
  design: Float[Array, "n P"],
  inverse: Float[Array, "P P"],
  cluster: Shaped[Array, " n"],
) -> tuple[Float[Array, "Q Q"], Float[Array, " Q"]]:
  """The covariance of Q estimates, and the degrees of freedom of the variance of each.

  Args:
    estimates: their derivatives by the parameters of a fit by least squares.
    residual: of each point from the fit.
    design: the derivatives of the fitted values by the parameters.
    inverse: the inverse of design' design.
    cluster: the name of each point's cluster.
  """
  names = np.unique(cluster)
  sums_kq, spans_kpq = np.zeros((len(names), len(estimates))), np.zeros((len(names), len(inverse), len(estimates)))
  squares_kq, totals_kq, totals_kp = (np.zeros((len(names), size)) for size in (len(estimates), len(estimates), len(inverse)))
  for k, name in enumerate(names):
    mine = cluster == name
    rows = design[mine]
    q, r = np.linalg.qr(rows)
    leverage, vectors = np.linalg.eigh(r @ inverse @ r.T)
    rest = 1 - leverage
    scale = np.where(rest > _SINGULAR, 1 / np.sqrt(np.maximum(rest, _SINGULAR)), 0.0) - 1  # of (I - H)^(-1/2) - I, H of this cluster
    pull = rows @ inverse @ estimates.T
    turn = q @ vectors
    moved = pull + turn @ (scale[:, None] * (turn.T @ pull))
    sums_kq[k] = residual[mine] @ moved
    spans_kpq[k] = inverse @ (rows.T @ moved)
    squares_kq[k], totals_kq[k], totals_kp[k] = np.sum(moved**2, axis=0), moved.sum(axis=0), rows.sum(axis=0)
  gram, free = design.T @ design, []
  for i in range(len(estimates)):  # how the corrected sums of the clusters follow the errors of the points
    spans_kp = spans_kpq[:, :, i]
    apart = np.diag(squares_kq[:, i]) - spans_kp @ gram @ spans_kp.T
    shared = np.diag(totals_kq[:, i]) - totals_kp @ spans_kp.T
    product = (1 - _SHARED) * apart + _SHARED * shared.T @ shared
    free.append(float(np.trace(product) ** 2 / np.sum(product**2)))
  return sums_kq.T @ sums_kq, np.array(free)
