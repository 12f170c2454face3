"""The bootstrap over independent points: fits to points drawn with replacement, thousands at a time. Called by `fit_law.py`.

It needs many points that are separate runs. Over a handful of seeds its 95% intervals cover 60-77%, and over the correlated points of a
training pass far less. Both are refused (`refusal`).
"""

import numpy as np
from jaxtyping import Float

from analysis.fitting.least_squares import Problem, Solution
from dlrm_jax.common.progress import Bar

Array = np.ndarray
MIN_POINTS = 30
_CHUNK = 500  # draws fitted at once, at most
_NUMBERS = 2e6  # of the gradients that are held at once: fewer draws of many points
_GAIN = 1e-10


def refusal(num_points: int, correlated: bool) -> str:
  """Why these points cannot be bootstrapped; empty when they can."""
  if correlated:
    return "points of one training pass are correlated: a bootstrap over them is too narrow, and there are too few seeds for one"
  needs = f"{num_points} points: a bootstrap, from which a robust loss takes its intervals, needs at least {MIN_POINTS}"
  return needs if num_points < MIN_POINTS else ""


def bootstrap(problem: Problem, solution: Solution, draws: int, seed: int = 0) -> Float[Array, "K P"]:
  """The fitted coordinates of each of `draws` (K) draws of as many points, each fit started from the optimum of all points."""
  rng, n = np.random.default_rng(seed), len(problem.log_y)
  out, chunk = [], int(np.clip(_NUMBERS / (n * len(solution.theta)), 1, _CHUNK))
  with Bar("drawing points for a bootstrap", draws) as bar:
    for start in range(0, draws, chunk):
      size = min(chunk, draws - start)
      count_kn = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(size)]).astype(np.float64)
      theta_kp, _ = problem.minimise(np.tile(solution.theta, (size, 1)), *problem.bounds(size), gain=_GAIN, count_kn=count_kn)
      out.append(theta_kp)
      bar(size)
  return np.concatenate(out)
