"""The noise of training passes of which no two differ by their seed alone. Called by `fit_law.py` and by whoever pools noise over curves.

Without a second seed, noise is estimated from the scatter around a law, so that what the law misses counts as noise. A fitted law absorbs a
part of the noise. So the likelihood is restricted (Patterson & Thompson 1971, Biometrika 58:545): the gradient of the law at its optimum is
projected out of the residuals of all passes that share its parameters. Law and noise are fitted in turn. Degrees of freedom are those of
the projected residuals.

A few passes hardly determine the length of the drift and the change of noise along a pass. A weak prior of both (`Expected`) keeps them
near what was measured on passes with seeds.

A law of one pass absorbs an offset of the pass in its scale and constant. Where no law has two passes, the noise has no offset.
"""

import dataclasses
from collections.abc import Sequence
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Float

from analysis.fitting import settings
from analysis.fitting.evidence import Evidence
from analysis.fitting.laws import Law
from analysis.fitting.least_squares import Problem, Solution, solve
from analysis.fitting.marquardt import SQUARES
from analysis.fitting.noise import NUM_PARAMETERS, Noise, likeliest
from analysis.fitting.refusals import refusal
from analysis.fitting.settings import Setting
from analysis.fitting.thinning import evenly, pass_means

Array = np.ndarray
ALONE = "the noise of a pass cannot be estimated: points are taken as independent"
SCATTER = "no two passes differ by their seed alone: noise is estimated from how passes scatter around the law"
_ROUNDS = 2  # fits with the noise of the residuals before: the projected residuals hardly depend on the fit
_RANK = 1e-7  # singular values of the gradient, each column scaled to length 1, below this share of the largest count as none
_MOST = 256  # the noise is estimated from at most so many passes, and at most so many laws
_LENGTH = 0.3  # expected length of the drift over the span of the passes in log x
_LENGTH_ERROR = 1.0  # standard deviation of its logarithm
_TILT_ERROR = 0.5  # standard deviation of the tilt, whose expectation is 0; -.8 to -.1 was measured
_LEAST_FREE = 2  # values that must be left after the projection


@dataclasses.dataclass(frozen=True)
class Passes:
  """Points of training passes that follow one law.

  Attributes:
    law: the law.
    x: the resources; all columns but the last are constant along a pass.
    y: the losses.
    run: the name of each point's pass.
  """

  law: Law
  x: Float[Array, "n C"]
  y: Float[Array, " n"]
  run: Array


@dataclasses.dataclass(frozen=True)
class _Grid:
  """The residuals of passes with the same x.

  Attributes:
    u: log x of the points.
    count: the number of evaluations of which each point is the mean; None: one.
    rest: the residuals of S passes.
    basis: columns that span the gradient of the law, of all grids together.
  """

  u: Float[Array, " m"]
  count: Float[Array, " m"] | None
  rest: Float[Array, "m S"]
  basis: Float[Array, "m S r"]


@dataclasses.dataclass(frozen=True)
class Residuals(Evidence):
  """The residuals of a law fitted to passes. Only the part that is orthogonal to the law's gradient is used."""

  parts: tuple[_Grid, ...]

  @property
  def grids(self) -> tuple[Float[Array, " _n"], ...]:
    return tuple(g.u for g in self.parts)

  @property
  def rank(self) -> int:
    """The number of directions that the law follows."""
    return self.parts[0].basis.shape[2]

  @property
  def size(self) -> int:
    return sum(g.rest.size for g in self.parts) - self.rank

  @property
  def square(self) -> float:
    return float(sum(np.sum(g.rest**2) for g in self.parts))

  @no_type_check
  def cost(self, noise: Noise, total: float) -> tuple[float, Array]:
    r, value = self.rank, 0.0
    gram, pull, work = np.zeros((r, r)), np.zeros(r), []
    for g in self.parts:
      cov, slopes = noise.with_slopes(g.u, g.count)
      inverse = np.linalg.inv(cov)
      passes = g.rest.shape[1]
      weighted = (inverse @ g.basis.reshape(len(g.u), -1)).reshape(-1, r)
      gram += g.basis.reshape(-1, r).T @ weighted
      pull += weighted.T @ g.rest.reshape(-1)
      value += passes * (np.linalg.slogdet(cov)[1] - len(g.u) * np.log(total))
      work.append((g, slopes, inverse, weighted))
    solved = np.linalg.inv(gram)
    taken = solved @ pull
    value += np.linalg.slogdet(gram)[1] + r * np.log(total)
    gradient = np.zeros(len(work[0][1]))
    for g, slopes, inverse, weighted in work:
      clean = g.rest - (g.basis @ taken)
      scaled = inverse @ clean
      value += np.sum(scaled * clean)
      side = weighted.reshape(len(g.u), -1)
      half = 0.5 * (g.rest.shape[1] * inverse - (weighted @ solved).reshape(len(g.u), -1) @ side.T - scaled @ scaled.T)
      gradient += [np.sum(half * d) for d in slopes]
    return 0.5 * value, gradient

  def information(self, noise: Noise) -> Float[Array, "Q Q"]:
    r, count = self.rank, NUM_PARAMETERS
    found, first, second, gram = (np.zeros(s) for s in ((count, count), (count, r, r), (count, count, r, r), (r, r)))
    for g in self.parts:
      cov, slopes = noise.with_slopes(g.u, g.count)
      inverse = np.linalg.inv(cov)
      side = inverse @ g.basis.reshape(len(g.u), -1)
      moved = [d @ side for d in slopes]
      again = [inverse @ m for m in moved]
      scaled = [inverse @ d for d in slopes]
      gram += g.basis.reshape(-1, r).T @ side.reshape(-1, r)
      found += g.rest.shape[1] * np.array([[np.sum(a * b.T) for b in scaled] for a in scaled])
      first += np.array([side.reshape(-1, r).T @ m.reshape(-1, r) for m in moved])
      second += np.array([[m.reshape(-1, r).T @ a.reshape(-1, r) for a in again] for m in moved])
    solved = np.linalg.inv(gram)
    turned = solved @ first
    return 0.5 * (found - 2 * np.einsum("ab,jkba->jk", solved, second) + np.einsum("jab,kba->jk", turned, turned))


@dataclasses.dataclass(frozen=True)
class Expected(Evidence):
  """A normal prior of log length and tilt of the noise.

  Attributes:
    length: the expected length of the drift, in log x.
  """

  length: float
  grids = ()
  size, square = 0, 0.0

  @no_type_check
  def cost(self, noise: Noise, total: float) -> tuple[float, Array]:
    off = np.array([0.0, 0.0, 0.0, np.log(noise.length / self.length) / _LENGTH_ERROR, noise.tilt / _TILT_ERROR])
    return 0.5 * float(off @ off), off / [1.0, 1.0, 1.0, _LENGTH_ERROR, _TILT_ERROR]

  def information(self, noise: Noise) -> Float[Array, "Q Q"]:
    return np.diag([0.0, 0.0, 0.0, _LENGTH_ERROR**-2, _TILT_ERROR**-2])


def pooled(groups: Sequence[Passes], runs: bool = False) -> Noise | None:
  """The noise of passes, pooled over groups of one law each; None where it cannot be estimated.

  It is estimated from the differences between seeds where a configuration has two seeds. Otherwise it is estimated from the residuals of
  the laws.

  Args:
    groups: the points of each law.
    runs: whether `run` names passes and not seeds, so that no two passes count as seeds of one configuration.
  """
  groups = [g for g in groups if not settings.repeated(g.x, g.y, g.run)]
  configurations = [c for g in groups for c in settings.passes_of(g.x, g.y, g.run)[0]]
  if not runs and (known := settings.noise_of(configurations)) is not None:
    return known
  groups = evenly([g for g in groups if not refusal(g.law, g.x, g.y)], _MOST)
  several = [len(settings.passes_of(g.x, g.y, g.run, apart=True)[0]) > 1 for g in groups]
  known = None
  thetas: list[Array | None] = [None] * len(groups)
  for _ in range(_ROUNDS):
    found = []
    for i, g in enumerate(groups):
      setting: Setting | None = None if known is None else settings.of_passes(g.law, g.x, g.y, g.run, known)
      problem = settings.unweighted(g.law, g.x, g.y, SQUARES) if setting is None else setting.problem
      solution = solve(problem, near=thetas[i])
      thetas[i] = solution.theta
      found.append(residuals(g, problem, solution))
    found = [e for e in found if e.size >= _LEAST_FREE]
    spans = [float(np.ptp(u)) for e in found for u in e.grids if len(u) > 1]
    if not spans:
      return None
    known = likeliest([*found, Expected(_LENGTH * max(spans))], offset=any(several), near=known)
  return known


def residuals(passes: Passes, problem: Problem, solution: Solution) -> Residuals:
  """The residuals of a law at `solution`, pass by pass, with a basis of its gradient by all parameters."""
  law = problem.law  # and not that of the passes, whose fixed values are in the units of y
  found: dict[tuple[bytes, bytes], tuple[Array, Array, list[Array], list[Array]]] = {}
  for columns, log_y_sm in evenly(settings.passes_of(passes.x, passes.y, passes.run, apart=True)[0], _MOST):
    x, log_y, count = pass_means(columns, log_y_sm)
    log_f, gradient = (a[0] for a in law.log_value(solution.theta[None], np.log(x)))
    u = np.log(x[:, -1])
    _, _, rest, rows = found.setdefault((u.tobytes(), count.tobytes()), (u, count, [], []))
    rest.append(log_y[0] - problem.log_y0 - log_f)
    rows.append(gradient)
  every = np.concatenate([np.stack(rows, axis=1).reshape(-1, len(law.params)) for *_, rows in found.values()])
  length = np.linalg.norm(every, axis=0)
  left, size, _ = np.linalg.svd(every / np.where(length > 0, length, 1.0), full_matrices=False)
  basis, start, parts = left[:, size > _RANK * size.max()], 0, []
  for u, count, rest, _ in found.values():
    stop = start + len(u) * len(rest)
    mine = basis[start:stop].reshape(len(u), len(rest), -1)
    parts.append(_Grid(u, None if np.all(count == 1) else count, np.stack(rest, axis=1), mine))
    start = stop
  return Residuals(tuple(parts))


def of_seeds(setting: Setting) -> bool:
  """Whether the noise is estimated from the differences between seeds, or not at all."""
  return setting.noise is None or setting.noise.of_seeds


def method(setting: Setting) -> str:
  """How intervals of correlated points are computed, a key of `result.METHODS`."""
  return "gls" if of_seeds(setting) else "gls_residuals"


def notes(law: Law, setting: Setting) -> list[str]:
  """What a reader must know of a fit whose noise comes from residuals."""
  if of_seeds(setting) or setting.noise is None:
    return []
  if setting.noise.offset > 0 or law.num_x > 1:
    return [SCATTER]
  moved = " and ".join(p.name for p in law.params if p.in_y_units)
  known = "one pass: noise is estimated from how its points scatter around the law, which does not show an offset of the whole pass"
  return [f"{known}; another seed may move {moved} by one factor beyond these intervals, exponents not"]
