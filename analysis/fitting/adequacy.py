"""Whether measured points contradict a fitted law: a constant above them, a pattern in the residuals, ends that the law misses.

Each test adds columns to the law's gradient and asks, by an F test, whether they lower the cost by more than noise does. The noise is that
of seeds or repeats, and where these are few also the scatter that is left. A contradiction counts where it is significant at 1% and large:
more than 2% of the fall of the curve. Smaller ones are those of any smooth law, and intervals are wider for them. Called by `fit_law.py`.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from analysis.fitting.least_squares import Problem, Solution, solve

Array = np.ndarray
LEVEL = 0.01  # significance of each of four kinds of tests: constant, ends, bends, lack of fit
MATERIAL = 0.02  # a contradiction is this share of the curve's fall, in log loss, or more
_LEAST = 5e-4  # and this much of the loss
_ENOUGH = 8  # degrees of freedom of the noise from which the scatter around the law is not needed
_MOST_BENDS = 3  # polynomials of degree 2 to 4
_QUARTER = 4
_RANK = 1e-6


@dataclasses.dataclass(frozen=True)
class _Points:
  """The points of a fit, prepared for the tests.

  Attributes:
    residual: log f - log y, whitened, and weighted where the loss is robust.
    color: the matrix that did this to a column, [m, n].
    gradient: of log f by the free parameters, as it is, [n, p].
    basis: an orthonormal basis of the whitened gradient.
    place: the index of the distinct x of each point.
    mean: the mean log y at each distinct x.
    variance, free: the known noise of one whitened residual, and its degrees of freedom; 0 without seeds or repeats.
  """

  residual: Float[Array, " m"]
  color: Float[Array, "m n"]
  gradient: Float[Array, "n p"]
  basis: Float[Array, "m r"]
  place: Array
  mean: Float[Array, " d"]
  variance: float
  free: float

  @property
  def fall(self) -> float:
    """The range of the mean log losses."""
    return float(np.ptp(self.mean))

  @property
  def large(self) -> float:
    """The least difference in log loss that counts."""
    return max(MATERIAL * self.fall, _LEAST)

  @property
  def lack(self) -> int:
    """Distinct x beyond the free parameters."""
    return len(self.mean) - self.basis.shape[1]


@dataclasses.dataclass(frozen=True)
class _TestResult:
  """The result of a test: whether it is significant, the shift that the columns want at each point, and their coefficients."""

  significant: bool
  shift: Float[Array, " n"]
  coefficient: Float[Array, " k"]


def misses(problem: Problem, solution: Solution, variance: float, free: float, lack_of_fit: float | None, same_rows: bool = False) -> str:
  """How the points contradict the law, in words; empty where they do not.

  Args:
    problem, solution: the fit.
    variance: the variance of one whitened residual, estimated from seeds or repeats without the law; 0 where there are none.
    free: its degrees of freedom.
    lack_of_fit: the probability of such residuals if the law is right (`settings.Setting.misfit`).
    same_rows: whether all seeds are trained on the same rows in the same order.
  """
  points = _prepared(problem, solution, variance, free)
  if points.lack < 1:
    return ""
  if found := _constant(problem, solution, points):
    return found
  ends, shown = _ends(problem, solution, points)
  found = (ends if shown else "") or _bends(problem, points) or _lack(problem, solution, points, lack_of_fit, same_rows) or ends
  return f"{found}; {_furthest(problem, solution, points)}" if found else ""


def _lack(problem: Problem, solution: Solution, points: _Points, lack_of_fit: float | None, same_rows: bool) -> str:
  """That the points scatter around the law by more than seeds do, or empty."""
  if lack_of_fit is None or lack_of_fit >= LEVEL:
    return ""
  off = np.bincount(points.place, _log_residual(problem, solution)) / np.bincount(points.place)
  size = float(np.sqrt(max(np.mean(off**2 - np.diagonal(_mean_cov(problem, points, points.variance))), 0.0)))
  if size <= points.large:
    return ""
  alone = ", which are trained on the same rows and differ by initialisation only" if same_rows else ""
  return f"it is off by {_percent(size)} on average, more than the seeds differ{alone}"


def _prepared(problem: Problem, solution: Solution, variance: float, free: float) -> _Points:
  log_f, gradient = (a[0] for a in problem.law.log_value(solution.theta[None], problem.log_x))
  raw = log_f - problem.log_y
  color = np.eye(len(raw)) if problem.whiten is None else problem.whiten
  if problem.loss.delta is not None:  # a point far off counts as little as it does in the fit
    size = np.abs(raw)
    color = color * np.sqrt(np.minimum(1.0, problem.loss.delta / np.maximum(size, problem.loss.delta)))[:, None]
  kept = np.array([name not in solution.on_bound for name in problem.law.names])
  _, place = np.unique(problem.log_x, axis=0, return_inverse=True)
  place = place.reshape(-1)
  mean = np.bincount(place, problem.log_y) / np.bincount(place)
  basis = _basis(color @ gradient[:, kept])
  return _Points(color @ raw, color, gradient[:, kept], basis, place, mean, variance, free)


def _basis(columns: Float[Array, "m k"]) -> Float[Array, "m r"]:
  """An orthonormal basis of the columns, each of which counts alike."""
  length = np.linalg.norm(columns, axis=0)
  columns = columns[:, length > 0] / length[length > 0]
  u, s, _ = np.linalg.svd(columns, full_matrices=False)
  return u[:, s > _RANK * s.max()] if len(s) else u


def _log_residual(problem: Problem, solution: Solution) -> Float[Array, " n"]:
  return problem.law.log_value(solution.theta[None], problem.log_x)[0][0] - problem.log_y


def _beyond(points: _Points, columns: Float[Array, "n k"]) -> Float[Array, "m k"]:
  """The part of whitened columns that no change of the law's parameters follows; zero where it is small."""
  white = points.color @ columns
  rest = white - points.basis @ (points.basis.T @ white)
  small = np.linalg.norm(rest, axis=0) < _RANK * np.maximum(np.linalg.norm(white, axis=0), 1e-300)
  return np.where(small, 0.0, rest)


def _scale(points: _Points, rest: float, rest_free: float) -> tuple[float, float]:
  """The variance of a whitened residual and its degrees of freedom: the known one, or with few degrees pooled with what is left."""
  if points.free >= _ENOUGH:
    return points.variance, points.free
  freedom = points.free + max(rest_free, 0)
  return ((points.variance * points.free + rest) / freedom if freedom > 0 else np.inf), freedom


def _test(points: _Points, columns: Float[Array, "n k"], level: float) -> _TestResult:
  """Whether these columns, added to the law, lower the cost by more than noise does."""
  rest_columns = _beyond(points, columns)
  basis = _basis(rest_columns) if np.any(rest_columns) else np.zeros((len(rest_columns), 0))
  clean = points.residual - points.basis @ (points.basis.T @ points.residual)
  count = basis.shape[1]
  gain = float(np.sum((basis.T @ clean) ** 2))
  left = max(float(np.sum(clean**2)) - gain, 0.0)
  variance, freedom = _scale(points, left, len(clean) - points.basis.shape[1] - count)
  if not count or freedom < 1 or not np.isfinite(variance):
    return _TestResult(False, np.zeros(len(columns)), np.zeros(columns.shape[1]))
  ratio = gain / count / max(variance, 1e-300)
  coefficient = np.linalg.lstsq(rest_columns, clean, rcond=_RANK)[0]
  wanted = columns @ coefficient
  followed = np.linalg.lstsq(points.color @ points.gradient, points.color @ wanted, rcond=_RANK)[0]
  return _TestResult(float(special.fdtrc(count, freedom, ratio)) < level, wanted - points.gradient @ followed, coefficient)


def _mean_cov(problem: Problem, points: _Points, variance: float) -> Float[Array, "d d"]:
  """The covariance of the mean log losses at the distinct x."""
  square = problem.whiten.T @ problem.whiten if problem.whiten is not None else np.eye(len(points.place))
  cov = variance * np.linalg.inv(square)
  mean = np.zeros((len(points.mean), len(points.place)))
  mean[points.place, np.arange(len(points.place))] = 1.0
  mean /= mean.sum(axis=1, keepdims=True)
  return mean @ cov @ mean.T


def _constant(problem: Problem, solution: Solution, points: _Points) -> str:
  """The law's constant against the lowest measured losses."""
  index = [i for i, p in enumerate(problem.law.params) if p.in_y_units and not p.log]
  if not index or solution.theta[index[0]] <= 0:
    return ""
  constant = float(np.log(solution.theta[index[0]]))
  columns = np.column_stack(
    [*(family for _, family in _families(problem, points)), *(at.astype(float) for at, _ in _last(problem, points))]
  )
  extra = _basis(_beyond(points, columns)) if columns.size else np.zeros((len(points.residual), 0))
  clean = points.residual - points.basis @ (points.basis.T @ points.residual)
  left = float(np.sum((clean - extra @ (extra.T @ clean)) ** 2))
  left_free = len(clean) - points.basis.shape[1] - extra.shape[1]
  variance, freedom = _scale(points, left, left_free) if left_free > 0 or points.free else (np.inf, 0.0)
  if freedom < 1 or not np.isfinite(variance):
    return ""
  below = constant - points.mean
  limit = special.stdtrit(freedom, 1 - LEVEL / len(below)) * np.sqrt(np.diagonal(_mean_cov(problem, points, variance)))
  worst = int(np.argmax(below - limit))
  if below[worst] <= max(limit[worst], points.large):
    return ""
  value, measured = (np.exp(problem.log_y0 + v) for v in (constant, points.mean[worst]))
  return f"its constant {value:.4g} is above the measured {measured:.4g} at {_place_text(problem, points, worst)}"


def _last(problem: Problem, points: _Points) -> list[tuple[Bool[Array, " n"], str]]:
  """Which points are the last ones, with a name: one, two and a quarter of them; with more columns, the largest of the last."""
  if problem.law.num_x > 1:
    last = problem.log_x[:, -1]
    at = last == last.max()
    return [(at, f"the points at the largest {problem.law.columns[-1]}")] if not at.all() else []
  count = len(points.mean)
  takes = sorted({1, 2, count // _QUARTER} - {0}) if count >= 2 * _QUARTER else [1]
  return [(points.place >= count - take, "the last point" if take == 1 else f"the last {take} points") for take in takes]


def _ends(problem: Problem, solution: Solution, points: _Points) -> tuple[str, bool]:
  """How the last points contradict the law, or empty; and whether a fit to the other points shows it.

  The test gives the last points a shift of their own. What it finds may be a wiggle of the other points, which neighbours share.
  """
  last = _last(problem, points)
  for at, name in reversed(last):
    found = _test(points, at[:, None].astype(float), LEVEL / len(last))
    if found.significant and abs(float(found.coefficient[0])) > points.large:
      where = f" ({_place_text(problem, points, len(points.mean) - 1)})" if problem.law.num_x == 1 else ""
      miss = float(np.mean((_without(problem, solution, at))[at]))
      if abs(miss) <= points.large:
        return f"{name}{where} and the other points do not fit one law", False
      side = "too high" if miss > 0 else "too low"
      return f"fitted to the other points, it predicts {name}{where} {_percent(abs(np.expm1(miss)))} {side}", True
  return "", False


def _without(problem: Problem, solution: Solution, out: Bool[Array, " n"]) -> Float[Array, " n"]:
  """log f - log y of all points by the law fitted to those that are not `out`."""
  kept, whiten = ~out, problem.whiten
  if whiten is not None:
    cov = np.linalg.inv(whiten.T @ whiten)[np.ix_(kept, kept)]
    whiten = np.linalg.cholesky(np.linalg.inv(cov)).T
  other = dataclasses.replace(problem, log_x=problem.log_x[kept], log_y=problem.log_y[kept], whiten=whiten)
  return _log_residual(problem, solve(other, near=solution.theta))


def _furthest(problem: Problem, solution: Solution, points: _Points) -> str:
  """Where the mean of the points is furthest from the law, and by how much."""
  off = np.bincount(points.place, _log_residual(problem, solution)) / np.bincount(points.place)
  worst = int(np.argmax(np.abs(off)))
  side = "above" if off[worst] > 0 else "below"
  return (
    f"the law of all points is furthest off at {_place_text(problem, points, worst)}, {_percent(abs(np.expm1(off[worst])))} {side} them"
  )


def _families(problem: Problem, points: _Points) -> list[tuple[str, Float[Array, "n k"]]]:
  """Smooth columns by name: what a law may lack along each x, and between two of them."""
  span = np.ptp(problem.log_x, axis=0)
  u = 2 * (problem.log_x - problem.log_x.min(axis=0)) / np.where(span > 0, span, 1.0) - 1
  count, names = u.shape[1], problem.law.columns
  out = []
  for i in range(count):
    room = min(points.lack, len(np.unique(u[:, i])) - 2)
    most = min(_MOST_BENDS, room if points.free >= 2 else room // 2)
    if most > 0:
      along = f" along {names[i]}" if count > 1 else ""
      out.append((f"its residuals bend{along}", np.polynomial.legendre.legvander(u[:, i], most + 1)[:, 2:]))
  for i, j in itertools.combinations(range(count), 2):
    out.append((f"{names[i]} and {names[j]} act on each other", (u[:, i] * u[:, j])[:, None]))
  return out


def _bends(problem: Problem, points: _Points) -> str:
  families = _families(problem, points)
  worst, text = 0.0, ""
  for name, columns in families:
    found = _test(points, columns, LEVEL / len(families))
    size = float(np.sqrt(np.mean(found.shift**2)))
    if found.significant and size > max(points.large, worst):
      worst, text = (
        size,
        f"{name}: a smooth curve is off by {_percent(size)} of the loss on average, {_percent(np.abs(found.shift).max())} at most",
      )
  return text


def _place_text(problem: Problem, points: _Points, place: int) -> str:
  x = np.exp(problem.log_x[int(np.argmax(points.place == place))])
  return ", ".join(f"{name}={value:.4g}" for name, value in zip(problem.law.columns, x, strict=True))


def _percent(share: float) -> str:
  return f"{100 * share:.2g}%"
