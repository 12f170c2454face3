"""Forecasts of measured losses from the smaller part of a sweep: laws are fitted up to some size, and predict the larger measured points.

Along the examples the end of the fitted part is moved through the base's pass (rolling origins). Along an axis the sizes above the base's
are left out. The errors say which law predicts larger runs, and how fast its error grows with the distance. Called by `ensemble.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from analysis.fitting.laws import Law, joint
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.marquardt import SQUARES, Loss
from analysis.fitting.refusals import refusal
from analysis.fitting.thinning import evenly
from analysis.fitting.whitening import EQUAL, correlated

Array = np.ndarray
Fits = list[tuple[Law, Float[Array, " _P"]]]  # laws with their coordinates
_MIN_EXAMPLES = 4  # distinct numbers of examples that must be left
_MIN_SIZES = 3  # sizes of an axis that must be left
_MOST_ORIGINS = 10  # ends of the fitted part that are tried along the examples
_MOST_CUTS = 3  # the same along an axis
_CONSTANTS = (1.0, 0.0, 0.5)  # a fit starts at that to all points, and with these shares of its constant


@dataclasses.dataclass(frozen=True)
class Origin:
  """The forecasts of the laws fitted to one smaller part.

  Attributes:
    along: `examples`, or the axis.
    fitted_to: the largest value there that was fitted.
    at: the values predicted for, rising.
    measured: the log losses there, means over the seeds.
    errors: log predicted less log measured, by law; NaN where the part allows no fit.
    noise: the variances of these errors that the noise of the points explains, to first order.
    floor: the variances of the measured losses.
    away: how far beyond the fitted part the predicted points are, in log x; None: as far as the values are.
  """

  along: str
  fitted_to: float
  at: Float[Array, " T"]
  measured: Float[Array, " T"]
  errors: Float[Array, "L T"]
  noise: Float[Array, "L T"]
  floor: Float[Array, " T"]
  away: Float[Array, " T"] | None = None

  @property
  def distance(self) -> Float[Array, " T"]:
    """How far beyond the fitted part the predicted points are, in log x."""
    return np.log(self.at / self.fitted_to) if self.away is None else self.away

  def up_to(self, at: float) -> "Origin":
    """The forecasts of values up to `at`."""
    kept = self.at <= at
    fields = {name: getattr(self, name)[..., kept] for name in ("at", "measured", "errors", "noise", "floor")}
    return dataclasses.replace(self, **fields, away=self.distance[kept])


@dataclasses.dataclass(frozen=True)
class Points:
  """The points that laws are fitted to: log x, log y (means over seeds), and the covariance of log y. A robust `loss` weighs all alike."""

  log_x: Float[Array, "n C"]
  log_y: Float[Array, " n"]
  log_y0: float
  cov: Float[Array, "n n"]
  loss: Loss = SQUARES

  def part(self, law: Law, kept: Bool[Array, " n"]) -> Problem:
    """The problem of fitting a law to some of the points."""
    whiten = correlated(self.cov[np.ix_(kept, kept)]) if self.loss.delta is None else EQUAL
    return Problem(law, self.log_x[kept], self.log_y[kept], self.log_y0, whiten, self.loss)


def origins(points: Points, laws: Fits, base: Float[Array, " C"], of_ends: bool = False) -> list[Origin]:
  """The forecasts along the examples, by rising origin, then along each axis.

  Args:
    points: those of the sweep.
    laws: each with its coordinates fitted to all points.
    base: log sizes of the base and log examples at its end.
    of_ends: whether the points are ends of runs, so that other sizes than the base's are not known at fewer examples. Then the terms of the
      examples alone are fitted to the base's points. The laws must be sums.
  """
  log_x, out = points.log_x, []
  names = laws[0][0].columns
  at_base = np.all(np.abs(log_x[:, :-1] - base[:-1]) < 1e-9, axis=1)
  seen = np.unique(log_x[at_base, -1] if of_ends else log_x[:, -1])
  alone = dataclasses.replace(points, log_x=log_x[:, -1:])
  cuts = [cut for cut in np.unique(log_x[at_base, -1])[:-1] if np.sum(seen <= cut + 1e-9) >= _MIN_EXAMPLES]
  for cut in evenly(cuts, _MOST_ORIGINS):
    earlier = log_x[:, -1] <= cut + 1e-9
    targets = np.flatnonzero(at_base & ~earlier)
    if of_ends:
      out += forecast(alone, [_of_examples(*law) for law in laws], at_base & earlier, targets, 0, cut)
    else:
      out += forecast(points, laws, earlier, targets, len(names) - 1, cut)
  for i in range(len(names) - 1):
    sizes = np.unique(log_x[:, i])
    cuts = [c for c in sizes[_MIN_SIZES - 1 : -1] if c >= base[i] - 1e-9]
    for cut in cuts[-_MOST_CUTS:]:
      kept = log_x[:, i] <= cut + 1e-9
      ends = [_end(log_x, i, size) for size in sizes if size > cut + 1e-9]
      out += forecast(points, laws, kept, np.array(ends), i, cut)
  return out


def _of_examples(law: Law, theta: Float[Array, " P"]) -> tuple[Law, Float[Array, " _P"]]:
  """The term of the examples of a sum, with its constant."""
  constant = any(p.name == "E" for p in law.params)
  own = joint(law.columns[-1:], "sum", False, constant)
  return own, np.array([theta[law.names.index(name)] for name in own.names])


def _value(log_x: float) -> float:
  """The size of a logarithm, without its rounding error."""
  return float(f"{np.exp(log_x):.12g}")


def _end(log_x: Float[Array, "n C"], column: int, size: float) -> int:
  """The last point of the pass of one size."""
  mine = np.flatnonzero(np.abs(log_x[:, column] - size) < 1e-9)
  return int(mine[np.argmax(log_x[mine, -1])])


def forecast(
  points: Points,
  laws: Fits,
  kept: Bool[Array, " n"],
  targets: Array,
  column: int,
  cut: float,
  away: Float[Array, " T"] | None = None,
) -> list[Origin]:
  """One origin, or none where no law can be fitted to the points `kept`. `away` as in `Origin`."""
  errors, explained = np.full((2, len(laws), len(targets)), np.nan)
  for number, (law, near) in enumerate(laws):
    if not refusal(law, np.exp(points.log_x[kept]), np.exp(points.log_y[kept])):
      errors[number], explained[number] = _errors(points, law, near, kept, targets)
  if np.isnan(errors).all():
    return []
  at = np.array([_value(log) for log in points.log_x[targets, column]])
  measured = points.log_y0 + points.log_y[targets]
  return [Origin(law.columns[column], _value(cut), at, measured, errors, explained, np.diagonal(points.cov)[targets], away)]


def _errors(
  points: Points, law: Law, near: Float[Array, " P"], kept: Bool[Array, " n"], targets: Array
) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
  """The errors of a law fitted to the points `kept` at `targets`, and their variances by noise."""
  problem = points.part(law, kept)
  constant = np.array([p.in_y_units and not p.log for p in law.params])
  starts = np.stack([near * np.where(constant, share, 1.0) for share in (_CONSTANTS if constant.any() else (1.0,))])
  low, high = problem.bounds(len(starts))
  if law.curved:  # optima of its own for every part
    theta = solve(problem, near=near).theta
  else:
    thetas, costs = problem.minimise(starts, low, high, max_steps=100, gain=1e-9)
    theta = thetas[np.argmin(costs)]
  log_f, gradient = (a[0] for a in law.log_value(theta[None], points.log_x))
  free = (theta > low[0]) & (theta < high[0])
  # To first order a fit moves by `moved` times the noise of the kept points.
  white = problem.whiten.columns(np.column_stack([gradient[kept][:, free], np.eye(int(kept.sum()))]))
  moved = np.linalg.pinv(white[:, : free.sum()], rcond=1e-9) @ white[:, free.sum() :]
  follows = np.zeros((len(targets), len(log_f)))
  follows[:, kept] = gradient[targets][:, free] @ moved
  follows[np.arange(len(targets)), targets] -= 1.0
  return log_f[targets] - points.log_y[targets], np.einsum("ti,ij,tj->t", follows, points.cov, follows)
