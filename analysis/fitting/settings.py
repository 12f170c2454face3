"""Where points come from, and what that makes of them: the problem to solve, and which rise of its cost is significant.

Independent points are runs of their own (model axes, anybody's table): every point counts, by its noise where repeated x tell how that
changes, and a rise is judged by an F test against the residuals. The points of training passes are correlated: the mean over the seeds of
each configuration is fitted by generalised least squares with the covariance of `noise.py`. Called by `fit_law.py`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import special

from analysis.fitting import noise
from analysis.fitting.laws import Law
from analysis.fitting.least_squares import Loss, Problem, Solution
from analysis.fitting.noise import Block, Noise
from analysis.fitting.uncertainty import condition, free_parameters, quantile, unit_covariance

Array = np.ndarray
_RESOLUTION = 1e-12  # log residuals below this are rounding: the floor of the noise estimate
MISFIT = 0.01  # a law that misses the points by more than their noise at this level gets wider intervals
_FLAT = 1e12  # condition number above which no correction to the covariance is attempted
_PER_SEED = 2.0  # most degrees of freedom that a free seed gives: its points are correlated, Satterthwaite's may be more


@dataclasses.dataclass(frozen=True)
class Setting:
  """A problem and how its solutions are judged.

  Attributes:
    problem: the points as they are fitted.
    judge: of a solution: for each parameter the root of a rise that is significant, and what turns the standard error for residuals of
      variance 1 into its own.
    misfit: probability of missing the points by so much if the law were right; None where nothing tells.
    noise: of the passes; None for independent points.
    dropped: points left out because not all seeds have them.
  """

  problem: Problem
  judge: Callable[[Solution], tuple[Float[Array, " P"], Float[Array, " P"]]]
  misfit: Callable[[Solution], float | None]
  noise: Noise | None = None
  dropped: int = 0


def independent(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], loss: Loss) -> Setting:
  """Points that are runs of their own."""
  u = np.log(x[:, -1])
  tilt = noise.tilt_of(u, np.log(y)) if law.num_x == 1 and loss.delta is None else 0.0
  problem = Problem.of(law, x, y, np.diag(np.exp(-0.5 * tilt * (u - u.mean()))) if tilt else None, loss)
  free = len(y) - len(law.params)

  def judge(solution: Solution) -> tuple[Array, Array]:
    deviation = max(np.sqrt(solution.cost / free), _RESOLUTION)
    return np.full(len(law.params), quantile(free) * deviation), np.full(len(law.params), deviation)

  def misfit(solution: Solution) -> float | None:
    places, index = np.unique(x, axis=0, return_inverse=True)
    index = index.reshape(-1)
    within, lack = len(y) - len(places), len(places) - len(law.params)
    if within < 2 or lack < 1 or loss.delta is not None:
      return None
    residual = problem.evaluate(solution.theta[None])[0][0]
    weight = np.exp(-tilt * (u - u.mean()))
    mean = np.bincount(index, residual) / np.bincount(index)  # whitened alike at one x
    pure = float(np.sum((residual - mean[index]) ** 2))
    if pure <= len(y) * _RESOLUTION**2 * weight.mean():
      return None
    return float(special.fdtrc(lack, within, max(solution.cost - pure, 0.0) / lack / (pure / within)))

  return Setting(problem, judge, misfit)


def repeated(x: Float[Array, "n C"], seed: Array) -> str:
  """Why these points are no training passes: a seed with two points at one x; empty when they may be."""
  rows = np.column_stack([np.unique(seed, return_inverse=True)[1].reshape(-1).astype(np.float64), x])
  distinct, first, count = np.unique(rows, axis=0, return_index=True, return_counts=True)
  if not len(distinct) or count.max() == 1:
    return ""
  at = int(first[np.argmax(count)])
  return f"seed {seed[at]} has {count.max()} points at x={x[at, -1]:g}, a training pass has one (independent points may repeat)"


def passes_of(
  x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array
) -> tuple[list[tuple[Float[Array, "_m _C"], Float[Array, "_S _m"]]], int]:
  """The configurations of points along training passes: x that all seeds of one have, rising, and their log losses there.

  A configuration is the points that share every column of x but the last, along which a pass runs.

  Returns:
    The configurations, and how many points are left out because another seed has none there.
  """
  out, dropped = [], 0
  for place in np.unique(x[:, :-1], axis=0):
    mine = np.all(x[:, :-1] == place, axis=1)
    seeds = np.unique(seed[mine])
    tables = [dict(zip(x[mine & (seed == s), -1].tolist(), np.log(y[mine & (seed == s)]).tolist(), strict=True)) for s in seeds]
    shared = sorted(set(tables[0]).intersection(*tables[1:]))
    dropped += int(mine.sum()) - len(seeds) * len(shared)
    if shared:
      columns = np.column_stack([np.tile(place, (len(shared), 1)), shared])
      out.append((columns, np.array([[table[at] for at in shared] for table in tables])))
  return out, dropped


def noise_of(configurations: list[tuple[Float[Array, "_m _C"], Float[Array, "_S _m"]]]) -> Noise | None:
  """The covariance that the seeds of these configurations tell, or None where none has two seeds."""
  several = [(np.log(x[:, -1]), log_y) for x, log_y in configurations if len(log_y) > 1]
  return noise.estimate(noise.scatter_of(several)) if several else None


def of_passes(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array, pooled: Noise | None) -> Setting | None:
  """Points of training passes, judged by `pooled`, else by their own seeds; None where no seeds tell."""
  configurations, dropped = passes_of(x, y, seed)
  known = noise_of(configurations) if pooled is None else pooled
  if known is None or not configurations:
    return None
  blocks, start = [], 0
  for columns, log_y_sm in configurations:
    blocks.append(Block(start + np.arange(len(columns)), np.log(columns[:, -1]), len(log_y_sm)))
    start += len(columns)
  whiten = np.zeros((start, start))
  for b in blocks:
    whiten[np.ix_(b.at, b.at)] = noise.whitener(known.covariance(b.u) / b.seeds)
  means = np.concatenate([log_y_sm.mean(axis=0) for _, log_y_sm in configurations])
  problem = Problem.of(law, np.concatenate([columns for columns, _ in configurations]), np.exp(means), whiten)
  seeds_free = _PER_SEED * known.free

  def misfit(solution: Solution) -> float | None:
    lack = len(means) - len(law.params)
    return None if lack < 1 else float(special.fdtrc(lack, max(seeds_free, 1.0), solution.cost / lack))

  def judge(solution: Solution) -> tuple[Array, Array]:
    at_free = free_parameters(problem, solution)
    share, freedom = np.ones(len(at_free)), np.full(len(at_free), seeds_free)
    if condition(problem, solution) < _FLAT:
      jacobian = law.log_value(solution.theta[None], problem.log_x)[1][0][:, at_free]
      cov, free = noise.judge(known, blocks, jacobian)
      plain = np.diagonal(unit_covariance(problem, solution))[at_free]
      share[at_free] = np.clip(np.diagonal(cov) / plain, 1.0, 4.0)
      freedom[at_free] = np.clip(free, 1.0, seeds_free)
    probability = misfit(solution)
    misses = probability is not None and probability < MISFIT
    wider = max(1.0, solution.cost / max(len(means) - len(law.params), 1)) if misses else 1.0
    deviation = np.sqrt(share * wider)
    return np.array([quantile(f) for f in freedom]) * deviation, deviation

  return Setting(problem, judge, misfit, known, dropped)
