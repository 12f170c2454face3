"""The covariance of estimates from points that are correlated within clusters, such as the evaluations of one training pass.

Each cluster's residuals tell how its errors add up; nothing is assumed of their correlation. A cluster with much influence pulls the fit to
itself, so that its residuals are too small. Bell & McCaffrey (2002, Survey Methodology 28:169) correct for this, and give the degrees of
freedom of the result. Called by `analysis.questions.approaches`.
"""

import numpy as np
from jaxtyping import Float, Shaped

Array = np.ndarray
_SINGULAR = 1e-8  # a direction in which a cluster has no residual tells nothing
_SHARED = 0.9  # correlation within a cluster by which degrees of freedom are counted


def clustered(
  pull: Float[Array, "Q n"], residual: Float[Array, " n"], hat: Float[Array, "n n"], cluster: Shaped[Array, " n"]
) -> tuple[Float[Array, "Q Q"], float]:
  """The covariance of Q estimates, and the fewest degrees of freedom of their variances.

  Args:
    pull: the derivatives of the estimates by the value of each point.
    residual: of each point from the fit.
    hat: the derivatives of the fitted values by the values.
    cluster: of each point.
  """
  sums, ways, shared = [], [], []
  rest = np.eye(len(residual)) - hat
  for name in np.unique(cluster):
    mine = np.flatnonzero(cluster == name)
    values, vectors = np.linalg.eigh(rest[np.ix_(mine, mine)])
    scale = np.where(values > _SINGULAR, 1 / np.sqrt(np.maximum(values, _SINGULAR)), 0.0)
    moved = pull[:, mine] @ (vectors * scale) @ vectors.T
    sums.append(moved @ residual[mine])
    ways.append(rest[:, mine] @ moved.T)
    shared.append(cluster == name)
  ways_qnk, within_kn = np.stack(ways, axis=-1).transpose(1, 0, 2), np.array(shared, float)
  free = []
  for ways_nk in ways_qnk:  # its columns turn the errors of points into the corrected sum of each cluster
    product = (1 - _SHARED) * ways_nk.T @ ways_nk + _SHARED * (within_kn @ ways_nk).T @ (within_kn @ ways_nk)
    free.append(float(np.trace(product) ** 2 / np.sum(product**2)))
  sums_kq = np.array(sums)
  return sums_kq.T @ sums_kq, min(free)
