"""The Pareto front of points of cost and loss. Called by `analysis.fit`."""

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray


def pareto_front(cost: Float[Array, " n"], loss: Float[Array, " n"]) -> Int[Array, " m"]:
  """Indices of the points that no other beats in both cost and loss, by rising cost."""
  order = np.lexsort((loss, cost))
  best, front = np.inf, []
  for i in order:
    if loss[i] < best:
      best = float(loss[i])
      front.append(int(i))
  return np.array(front, int)
