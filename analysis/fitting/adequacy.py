"""Whether measured points contradict a fitted law: a constant above them, a pattern in the residuals, ends that the law misses.

Each test adds columns to the law's gradient and asks, by an F test, whether they lower the cost by more than noise does. The noise is that
of seeds or repeats, and where these are few also the scatter that is left. A contradiction counts where it is significant at 1% and large:
more than 2% of the fall of the curve. Every smooth law has smaller ones, and intervals are wider for them.

Where no x repeats, noise cannot be distinguished from a misfit, so that intervals are too narrow. There a smooth pattern counts from .25%
of the fall, in laws of one x. Called by `fit_law.py`.
"""

import itertools

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from analysis.fitting.added_columns import Points, basis_of, beyond, f_test, prepared, scale
from analysis.fitting.least_squares import Problem, Solution, solve

Array = np.ndarray
LEVEL = 0.01  # significance of each of four kinds of tests: constant, ends, bends, lack of fit
_MOST_BENDS = 3  # polynomials of degree 2 to 4
_FINE_BENDS = 7  # and of degree 2 to 8, where no x repeats and there are points enough
_QUARTER = 4


def misses(
  problem: Problem,
  solution: Solution,
  variance: float,
  free: float,
  lack_of_fit: float | None,
  same_rows: bool = False,
  alone: bool = False,
) -> str:
  """How the points contradict the law, in words; empty where they do not.

  Args:
    problem, solution: the fit.
    variance: the variance of one whitened residual, estimated from seeds or repeats without the law; 0 where there are none.
    free: its degrees of freedom.
    lack_of_fit: the probability of such residuals if the law is right (`settings.Setting.misfit`).
    same_rows: whether all seeds are trained on the same rows in the same order.
    alone: whether the points are of training passes whose noise cannot be estimated. The noise of a pass is smooth, too, so that a small
      smooth pattern is no misfit there.
  """
  points = prepared(problem, solution, variance, free)
  if points.lack < 1:
    return ""
  if found := _constant(problem, solution, points):
    return found
  ends, shown = _ends(problem, solution, points)
  found = (ends if shown else "") or _bends(problem, points, alone) or _lack(problem, solution, points, lack_of_fit, same_rows) or ends
  return f"{found}; {_furthest(problem, solution, points)}" if found else ""


def _lack(problem: Problem, solution: Solution, points: Points, lack_of_fit: float | None, same_rows: bool) -> str:
  """That the points scatter around the law by more than seeds do, or empty."""
  if lack_of_fit is None or lack_of_fit >= LEVEL:
    return ""
  off = np.bincount(points.place, _log_residual(problem, solution)) / np.bincount(points.place)
  size = float(np.sqrt(max(float(np.mean(off**2 - points.variance * problem.whiten.variances(points.place))), 0.0)))
  if size <= points.large:
    return ""
  alone = ", which are trained on the same rows and differ by initialisation only" if same_rows else ""
  return f"it is off by {_percent(size)} on average, more than the seeds differ{alone}"


def _constant(problem: Problem, solution: Solution, points: Points) -> str:
  """The law's constant against the lowest measured losses."""
  index = [i for i, p in enumerate(problem.law.params) if p.in_y_units and not p.log]
  if not index or solution.theta[index[0]] <= 0:
    return ""
  constant = float(np.log(solution.theta[index[0]]))
  columns = np.column_stack(
    [*(family for _, family in _families(problem, points)), *(at.astype(float) for at, _ in _last(problem, points))]
  )
  extra = basis_of(beyond(points, columns)) if columns.size else np.zeros((len(points.residual), 0))
  clean = points.residual - points.basis @ (points.basis.T @ points.residual)
  left = float(np.sum((clean - extra @ (extra.T @ clean)) ** 2))
  left_free = len(clean) - points.basis.shape[1] - extra.shape[1]
  variance, freedom = scale(points, left, left_free) if left_free > 0 or points.free else (np.inf, 0.0)
  if freedom < 1 or not np.isfinite(variance):
    return ""
  below = constant - points.mean
  limit = special.stdtrit(freedom, 1 - LEVEL / len(below)) * np.sqrt(variance * problem.whiten.variances(points.place))
  worst = int(np.argmax(below - limit))
  if below[worst] <= max(limit[worst], points.large):
    return ""
  value, measured = (np.exp(problem.log_y0 + v) for v in (constant, points.mean[worst]))
  return f"its constant {value:.4g} is above the measured {measured:.4g} at {_place_text(problem, points, worst)}"


def _last(problem: Problem, points: Points) -> list[tuple[Bool[Array, " n"], str]]:
  """Which points are the last ones, with a name: one, two and a quarter of them; with more columns, the largest of the last."""
  if problem.law.num_x > 1:
    last = problem.log_x[:, -1]
    at = last == last.max()
    return [(at, f"the points at the largest {problem.law.columns[-1]}")] if not at.all() else []
  count = len(points.mean)
  takes = sorted({1, 2, count // _QUARTER} - {0}) if count >= 2 * _QUARTER else [1]
  return [(points.place >= count - take, "the last point" if take == 1 else f"the last {take} points") for take in takes]


def _ends(problem: Problem, solution: Solution, points: Points) -> tuple[str, bool]:
  """How the last points contradict the law, or empty; and whether a fit to the other points shows it.

  The test gives the last points a shift of their own. It may be significant because of noise that neighbours share.
  """
  last = _last(problem, points)
  for at, name in reversed(last):
    found = f_test(points, at[:, None].astype(float), LEVEL / len(last))
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
  return _log_residual(problem, solve(problem.part(~out), near=solution.theta))


def _furthest(problem: Problem, solution: Solution, points: Points) -> str:
  """Where the mean of the points is furthest from the law, and by how much."""
  off = np.bincount(points.place, _log_residual(problem, solution)) / np.bincount(points.place)
  worst = int(np.argmax(np.abs(off)))
  side = "above" if off[worst] > 0 else "below"
  return (
    f"the law of all points is furthest off at {_place_text(problem, points, worst)}, {_percent(abs(np.expm1(off[worst])))} {side} them"
  )


def _families(problem: Problem, points: Points) -> list[tuple[str, Float[Array, "n k"]]]:
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


def _fine_bends(problem: Problem, points: Points) -> list[tuple[str, Float[Array, "n k"]]]:
  """More columns for laws of one x where the noise is not known from seeds or repeats: for waves and sharp breaks."""
  if problem.law.num_x > 1 or points.free or points.lack < 2 * _FINE_BENDS:
    return []
  u = 2 * (problem.log_x[:, 0] - problem.log_x.min()) / np.ptp(problem.log_x) - 1
  return [("its residuals bend", np.polynomial.legendre.legvander(u, _FINE_BENDS + 1)[:, 2:])]


def _bends(problem: Problem, points: Points, alone: bool) -> str:
  families = _families(problem, points) + ([] if alone else _fine_bends(problem, points))
  worst, text = points.visible if problem.law.num_x == 1 and not alone else points.large, ""
  for name, columns in families:
    found = f_test(points, columns, LEVEL / len(families))
    size = float(np.sqrt(np.mean(found.shift**2)))
    if found.significant and size > worst:
      worst, text = (
        size,
        f"{name}: a smooth curve is off by {_percent(size)} of the loss on average, {_percent(np.abs(found.shift).max())} at most",
      )
  return text


def _place_text(problem: Problem, points: Points, place: int) -> str:
  x = np.exp(problem.log_x[int(np.argmax(points.place == place))])
  return ", ".join(f"{name}={value:.4g}" for name, value in zip(problem.law.columns, x, strict=True))


def _percent(share: float) -> str:
  return f"{100 * share:.2g}%"


def _log_residual(problem: Problem, solution: Solution) -> Float[Array, " n"]:
  return problem.law.log_value(solution.theta[None], problem.log_x)[0][0] - problem.log_y
