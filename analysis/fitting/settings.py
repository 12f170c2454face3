"""How points were produced, and what follows from it: the problem to solve, and which increase of its cost is significant.

Independent points are separate runs (model axes, anybody's table). Every point counts, weighted by its noise where repeated x show how the
noise changes. A cost increase is judged by an F test against the residuals.

Points of one training run are correlated. The mean over the seeds of each configuration is fitted by generalised least squares with the
covariance of `noise.py`. Called by `fit_law.py`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from analysis.fitting import noise
from analysis.fitting.evidence import scatter_of
from analysis.fitting.laws import Law
from analysis.fitting.least_squares import Problem, Solution, solve
from analysis.fitting.marquardt import Loss
from analysis.fitting.noise import Block, Noise
from analysis.fitting.priors import with_sigma
from analysis.fitting.thinning import CELLS, CURVED_CELLS, cell_means, cells, pass_means
from analysis.fitting.uncertainty import condition, free_parameters, quantile, unit_covariance
from analysis.fitting.whitening import EQUAL, Blocks, Weights

Array = np.ndarray
_RESOLUTION = 1e-12  # log residuals below this are rounding errors: the least standard deviation of the noise
MISFIT = 0.01  # significance level: a law that misses the points by more than their noise gets wider intervals
_FLAT = 1e12  # condition number above which the covariance is not corrected
_PER_SEED = 2.0  # most degrees of freedom of a seed: its points are correlated, and Satterthwaite's estimate may be larger


@dataclasses.dataclass(frozen=True)
class Setting:
  """A problem and how its solutions are judged.

  Attributes:
    problem: the points as they are fitted.
    judge: `judge(solution)` returns two arrays, one value a parameter: the square root of the cost increase that counts as significant at
      95%, and the factor from the unit-variance standard error to the actual one.
    misfit: the probability of residuals this large if the law is right; None where it cannot be estimated.
    noise: the noise of the passes; None for independent points.
    dropped: the number of points left out because not all seeds have them.
    known_variance, known_free: the variance of one whitened residual, estimated from seeds, repeats or the scatter of passes, and its
      degrees of freedom; 0 where there are none of these.
    averaged: a note on points that are fitted as means of neighbours, or empty.
    total: the cost of a solution over all points, where means are fitted in their place; None: it is the solution's.
    count: the number of points that `total` is over; 0: those of the problem.
  """

  problem: Problem
  judge: Callable[[Solution], tuple[Float[Array, " P"], Float[Array, " P"]]]
  misfit: Callable[[Solution], float | None]
  noise: Noise | None = None
  dropped: int = 0
  known_variance: float = 0.0
  known_free: float = 0.0
  averaged: str = ""
  total: Callable[[Solution], float] | None = None
  count: int = 0

  def cost(self, solution: Solution) -> float:
    """The cost of a solution over all points."""
    return solution.cost if self.total is None else self.total(solution)


def usable(x: Float[Array, "n C"], y: Float[Array, " n"]) -> Bool[Array, " n"]:
  """Which points can be fitted on logarithms: those that are positive and finite."""
  return np.all(np.isfinite(x) & (x > 0), axis=1) & np.isfinite(y) & (y > 0)


def inside(x: Float[Array, "n C"], x_min: float | None, x_max: float | None) -> Bool[Array, " n"]:
  """Which points have x_min <= x <= x_max in the last column; None: no limit. A point without a number is inside."""
  return ~((x[:, -1] < (-np.inf if x_min is None else x_min)) | (x[:, -1] > (np.inf if x_max is None else x_max)))


def independent(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], loss: Loss, average: bool = True) -> Setting:
  """The setting of points that are separate runs.

  Many points are fitted as means of neighbours (`thinning.cells`), unless `average` is false or the loss is robust. Intervals are judged by
  the scatter of all points.
  """
  u = np.log(x[:, -1])
  tilt = noise.tilt_of(u, np.log(y)) if law.num_x == 1 and loss.delta is None else 0.0
  weight = np.exp(-0.5 * tilt * (u - u.mean()))
  every = Problem.of(law, x, y, Weights(weight) if tilt else EQUAL, loss)
  cell = _cells(every) if average else None
  problem, determined = _of_points(every, cell, weight)
  averaged = "" if cell is None else _averaged(len(y), len(problem.log_y), "in log x")
  free = len(y) - determined
  places, index = np.unique(x, axis=0, return_inverse=True)
  index = index.reshape(-1)
  within, lack = len(y) - len(places), len(places) - len(law.params)
  mean = np.bincount(index, np.log(y)) / np.bincount(index)
  pure = float(np.sum((weight * (np.log(y) - mean[index])) ** 2))
  repeats = within >= 2 and loss.delta is None and pure > _RESOLUTION**2 * np.sum(weight**2)

  def total(solution: Solution) -> float:
    return solution.cost if problem is every else float(np.sum(every.evaluate(solution.theta[None])[0][0, : len(y)] ** 2))

  def judge(solution: Solution) -> tuple[Array, Array]:
    deviation = max(np.sqrt(total(solution) / free), _RESOLUTION)
    return np.full(len(law.params), quantile(free) * deviation), np.full(len(law.params), deviation)

  def misfit(solution: Solution) -> float | None:
    if not repeats or lack < 1:
      return None
    return float(special.fdtrc(lack, within, max(total(solution) - pure, 0.0) / lack / (pure / within)))

  known = (pure / within, float(within)) if repeats else (0.0, 0.0)
  return Setting(problem, judge, misfit, known_variance=known[0], known_free=known[1], averaged=averaged, total=total, count=len(y))


def unweighted(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], loss: Loss) -> Problem:
  """The problem of points that all count alike, of which many are fitted as means of neighbours."""
  every = Problem.of(law, x, y, loss=loss)
  return _of_points(every, _cells(every), np.ones(len(y)))[0]


def _cells(every: Problem) -> Int[Array, " n"] | None:
  """The cells in which points are averaged; None for few points and for a robust loss."""
  return cells(every.log_x, CURVED_CELLS if every.law.curved else CELLS) if every.loss.delta is None else None


def _of_points(every: Problem, cell: Int[Array, " n"] | None, weight: Float[Array, " n"]) -> tuple[Problem, float]:
  """The problem of independent points or of the means of their cells, with priors weighted by the noise that is left.

  Then the number of parameters that the points determine.
  """
  if cell is None:
    return with_sigma(every)
  found = with_sigma(_of_cells(every, cell, weight))
  if every.law.priors:  # the means have the optimum of all points for one weight of the priors
    found = with_sigma(_of_cells(dataclasses.replace(every, prior_weight=found[0].prior_weight), cell, weight))
  return found


def _of_cells(every: Problem, cell: Int[Array, " n"], weight: Float[Array, " n"]) -> Problem:
  """The problem of the means of each cell, with the optimum of all points.

  The law is curved within cells, and the spread of x within them is information, too. So each mean is moved. Its residual at the optimum of
  all points is then the mean residual of its points, but for a change that gives the cost the gradient which it has over all points.
  """
  square = weight**2
  log_x = cell_means(every.log_x, cell, square)
  whiten = Weights(np.sqrt(np.bincount(cell, square)))
  problem = dataclasses.replace(every, log_x=log_x, log_y=cell_means(every.log_y, cell, square), whiten=whiten)
  low, high = every.bounds(1)
  theta = every.minimise(solve(problem).theta[None], low, high)[0]
  residual, jacobian = (a[0, : len(weight)] for a in every.evaluate(theta))
  rest = cell_means(every.law.log_value(theta, every.log_x)[0][0] - every.log_y, cell, square)
  log_f, gradient = (a[0] for a in every.law.log_value(theta, log_x))
  free = (theta[0] > low[0]) & (theta[0] < high[0])
  white = whiten.columns(np.column_stack([gradient[:, free], rest]))
  scale = np.linalg.norm(white[:, :-1], axis=0)
  unit = white[:, :-1] / scale
  excess = unit.T @ white[:, -1] - (jacobian[:, free] / scale).T @ residual
  rest -= gradient[:, free] / scale @ (np.linalg.pinv(unit.T @ unit, hermitian=True) @ excess)
  return dataclasses.replace(problem, log_y=log_f - rest)


def first_of_copies(x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array) -> Bool[Array, " n"]:
  """Which points are the first with their x, y and seed. The others are copies, as of a file that was concatenated twice."""
  rows = np.column_stack([np.unique(seed, return_inverse=True)[1].reshape(-1).astype(np.float64), x, y])
  kept = np.zeros(len(y), bool)
  kept[np.unique(rows, axis=0, return_index=True)[1]] = True
  return kept


def repeated(x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array) -> str:
  """Why these points cannot be training passes: a seed has two losses at one x. Empty when they can."""
  x, seed = (a[first_of_copies(x, y, seed)] for a in (x, seed))
  rows = np.column_stack([np.unique(seed, return_inverse=True)[1].reshape(-1).astype(np.float64), x])
  distinct, first, count = np.unique(rows, axis=0, return_index=True, return_counts=True)
  if not len(distinct) or count.max() == 1:
    return ""
  at = int(first[np.argmax(count)])
  return f"seed {seed[at]} has {count.max()} points at x={x[at, -1]:g}, a training pass has one (independent points may repeat)"


def passes_of(
  x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array, apart: bool = False
) -> tuple[list[tuple[Float[Array, "_m _C"], Float[Array, "_S _m"]]], int]:
  """The configurations among points of training passes. A configuration has one value in every column of x but the last.

  With `apart`, each pass counts as a configuration of its own.

  Returns:
    For each configuration the x that all of its seeds have, rising, and their log losses there. Then the number of points left out
    because another seed has none at that x.
  """
  out, dropped = [], 0
  places, index = np.unique(x[:, :-1], axis=0, return_inverse=True)
  order = np.argsort(index.reshape(-1), kind="stable")
  for place, mine in zip(places, np.split(order, np.cumsum(np.bincount(index.reshape(-1)))[:-1]), strict=True):
    of_seed = [mine[seed[mine] == s] for s in np.unique(seed[mine])]
    tables = [dict(zip(x[at, -1].tolist(), np.log(y[at]).tolist(), strict=True)) for at in of_seed]
    for alike in [[table] for table in tables] if apart else [tables]:
      shared = sorted(set(alike[0]).intersection(*alike[1:]))
      dropped += sum(len(table) for table in alike) - len(alike) * len(shared)
      if shared:
        columns = np.column_stack([np.tile(place, (len(shared), 1)), shared])
        out.append((columns, np.array([[table[at] for at in shared] for table in alike])))
  return out, dropped


def noise_of(configurations: list[tuple[Float[Array, "_m _C"], Float[Array, "_S _m"]]]) -> Noise | None:
  """The covariance estimated from the seeds of these configurations; None where no configuration has two."""
  several = [pass_means(*configuration) for configuration in configurations if len(configuration[1]) > 1]
  scatters = scatter_of([(np.log(x[:, -1]), log_y) for x, log_y, _ in several], [count for *_, count in several])
  return noise.estimate(scatters) if several else None


def of_passes(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array, pooled: Noise | None) -> Setting | None:
  """The setting of points of training passes, with the noise `pooled` or that of their own seeds; None where no noise can be estimated."""
  configurations, dropped = passes_of(x, y, seed, apart=pooled is not None and not pooled.of_seeds)
  known = noise_of(configurations) if pooled is None else pooled
  if known is None or not configurations:
    return None
  shorter = [pass_means(*configuration) for configuration in configurations]
  blocks, start = [], 0
  for columns, log_y_sm, count in shorter:
    blocks.append(Block(start + np.arange(len(columns)), np.log(columns[:, -1]), len(log_y_sm), count))
    start += len(columns)
  whiten = Blocks.of([([b.at for b in same], known.covariance(same[0].u, same[0].count) / same[0].seeds) for same in noise.alike(blocks)])
  means = np.concatenate([log_y_sm.mean(axis=0) for _, log_y_sm, _ in shorter])
  problem = Problem.of(law, np.concatenate([columns for columns, *_ in shorter]), np.exp(means), whiten)
  averaged = _averaged(sum(log_y_sm.size for _, log_y_sm in configurations), sum(log_y_sm.size for _, log_y_sm, _ in shorter), "of a pass")
  most_free = _PER_SEED * known.free if known.of_seeds else float(sum(s.size for s in known.scatters))

  beyond = len(means) + len(problem.law.priors) - len(law.params)  # degrees of freedom of the residuals

  def misfit(solution: Solution) -> float | None:
    return None if beyond < 1 or not known.of_seeds else float(special.fdtrc(beyond, max(most_free, 1.0), solution.cost / beyond))

  def judge(solution: Solution) -> tuple[Array, Array]:
    at_free = free_parameters(problem, solution)
    share, freedom = np.ones(len(at_free)), np.full(len(at_free), most_free)
    if condition(problem, solution) < _FLAT:
      jacobian = problem.law.log_value(solution.theta[None], problem.log_x)[1][0][:, at_free]
      rows = problem.prior_rows[:, at_free]
      cov, free = noise.judge(known, blocks, jacobian, rows.T @ rows)
      plain = np.diagonal(unit_covariance(problem, solution))[at_free]
      share[at_free] = np.clip(np.diagonal(cov) / plain, 1.0, 4.0)
      freedom[at_free] = np.clip(free, 1.0, most_free)
    probability = misfit(solution)
    misses = probability is not None and probability < MISFIT
    wider = max(1.0, solution.cost / max(beyond, 1)) if misses else 1.0
    deviation = np.sqrt(share * wider)
    return np.array([quantile(f) for f in freedom]) * deviation, deviation

  known_free = max(most_free if known.of_seeds else known.free, 1.0)
  return Setting(problem, judge, misfit, known, dropped, 1.0, known_free, averaged)


def _averaged(points: int, means: int, which: str) -> str:
  """A note on points that are fitted as means, or empty."""
  return f"{points} points are fitted as {means} means of neighbours {which}" if means < points else ""
