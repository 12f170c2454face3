"""`fit_law`: one law fitted to the points of one curve, with intervals, diagnostics and a held-out test, or refused with a reason.

Called by `analysis.fit` on anybody's points and by `analysis.questions.sweep_laws` on the curves of a sweep.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Real

from analysis.fitting import settings
from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.bootstrap import refusal as bootstrap_refusal
from analysis.fitting.laws import LAWS, Law
from analysis.fitting.least_squares import SQUARES, Loss, Problem, Solution, solve
from analysis.fitting.noise import Noise
from analysis.fitting.result import CONSTANT, RISES, Estimate, Fit
from analysis.fitting.uncertainty import LEVEL, Interval, condition, profile_intervals, t_interval, unit_covariance

Array = np.ndarray
POINTS = ("independent", "curves")
_WIDE = 10.0  # an exponent whose interval spans more than this factor is called not identifiable
_BAND = 25  # x at which the interval of the law's value is computed
_HELD_OUT = 4  # the largest quarter of the distinct x is predicted by a fit to the other points


def fit_law(
  x: Real[Array, "n *C"],
  y: Real[Array, " n"],
  law: str = "power",
  seed: Array | None = None,
  x_min: float | None = None,
  x_max: float | None = None,
  group: str = "all",
  points: str = "curves",
  noise: Noise | None = None,
  loss: Loss = SQUARES,
  draws: int = 0,
) -> Fit:
  """Fits `law` to points with x_min <= x <= x_max. Points that allow no sound fit give a refusal with its reason, never an exception.

  How intervals are computed depends on how the points were produced: see `settings.py`.

  Args:
    x, y: positive and finite; x [n], or [n, C] for a law of C resources.
    law: a key of `analysis.fitting.laws.LAWS`.
    seed: the seed of each point; None when it is not known.
    x_min, x_max: limits of the last column of x.
    group: a name for the result.
    points: `curves`: points of one seed that differ only in the last x belong to one training pass, where seeds allow to estimate its
      noise; `independent`: each point is a separate run.
    noise: the noise of the passes, pooled over more than these points; None: it is estimated from these.
    loss: the loss of a log residual. With a robust one, points are taken as independent and intervals come from a bootstrap.
    draws: the number of bootstrap draws for the intervals; 0: profile likelihood.
  """
  form = LAWS[law]
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  x = x[:, None] if x.ndim == 1 else x
  known_seeds = seed is not None
  seed = np.zeros(len(x), int) if seed is None else np.asarray(seed)
  window = settings.inside(x, x_min, x_max)
  x, y, seed = x[window], y[window], seed[window]
  blank = Fit(group, law, {}, None, len(x), len(np.unique(seed)), "")
  if len(x):
    blank = dataclasses.replace(blank, x_min=float(np.min(x[:, -1])), x_max=float(np.max(x[:, -1])))
  reason = refusal(form, x, y)
  along = points == "curves" and (known_seeds or noise is not None) and not reason
  reason = reason or (settings.repeated(x, seed) if along else "")
  setting = settings.of_passes(form, x, y, seed, noise) if along and not reason else None
  if setting is not None:
    reason = refusal(form, np.exp(setting.problem.log_x), np.exp(setting.problem.log_y))
    reason += " (of those that all seeds have)" if reason and setting.dropped else ""
  if draws and not reason:
    reason = bootstrap_refusal(len(x), setting is not None)
  if reason:
    return dataclasses.replace(blank, status=f"refused: {reason}")
  method = "bootstrap" if draws else "gls" if setting is not None else "profile_independent_points"
  alone = along and setting is None
  setting = setting or settings.independent(form, x, y, loss)
  problem, solution = setting.problem, solve(setting.problem)
  limits, deviations = setting.judge(solution)
  intervals = _drawn(problem, solution, draws) if draws else _profiled(problem, solution, limits, deviations)
  open_params = _not_identified(problem, solution, intervals)
  status, notes = "ok", []
  if open_params:
    status, notes = "not_identifiable", [f"the points do not determine {' and '.join(open_params)}"]
  elif solution.on_bound:
    shown = ", ".join(f"{n} = {problem.values(solution.theta)[n]:g}" for n in solution.on_bound)
    none = ": the points want no constant" if set(solution.on_bound) <= {"gamma", "E"} else ""
    status, notes = "on_bound", [f"{shown} at the edge of the domain{none}"]
  misfit = setting.misfit(solution)
  if misfit is not None and misfit < settings.MISFIT:
    notes.append("the law misses the points by more than their noise" + (", intervals are wider for it" if method == "gls" else ""))
  if alone:
    notes.append("no two seeds have the same x, so nothing tells how a pass scatters: points are taken as independent")
  if setting.dropped:
    notes.append(f"{setting.dropped} points left out: not every seed has one there")
  return dataclasses.replace(
    blank,
    params=_estimates(problem, solution, intervals, open_params),
    objective=solution.cost if loss.delta is None else solution.cost / 2,
    status=status,
    note="; ".join(notes),
    method=method,
    extrapolation=extrapolate(form, x, y, loss),
    condition_number=condition(problem, solution),
    misfit_p=misfit,
    aicc=aicc(problem, solution, known_noise=method == "gls"),
    profiles={p.name: interval.profile for p, interval in zip(form.params, intervals, strict=True) if p.exponent and interval.profile},
    per_seed=_per_seed(problem, solution, x, y, seed) if points == "curves" else {},
    band=() if draws else _band(problem, solution, limits),
  )


def refusal(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"]) -> str:
  """Why these points allow no fit; empty when they allow one."""
  for name, values in (("x", x.ravel()), ("y", y)):
    bad = ~np.isfinite(values)
    if bad.any():
      return f"{bad.sum()} of {len(values)} values of {name} are not finite numbers"
    if (values <= 0).any():
      at = int(np.argmax(values <= 0))
      return f"{name} must be positive to be fitted on logarithms, {name}={values[at]:g}" + (f" at x={x[at, -1]:g}" if name == "y" else "")
  distinct = len(np.unique(x, axis=0)) if len(x) else 0
  if distinct < law.min_points:
    return f"{distinct} distinct x, law {law.name} needs at least {law.min_points}"
  if law.num_x > 1 and min(len(np.unique(column)) for column in x.T) < 3:
    return f"a column of x has fewer than 3 distinct values, law {law.name} needs them in each"
  if np.ptp(np.log(y)) < 1e-12:
    return CONSTANT
  columns = np.column_stack([np.log(x), np.ones(len(x))])
  slopes = np.linalg.lstsq(columns, np.log(y), rcond=None)[0][:-1]
  return f"{RISES} (slope {slopes.min():+.3g} on log-log axes)" if slopes.min() >= 0 else ""


def _profiled(problem: Problem, solution: Solution, limits: Array, deviations: Array) -> list[Interval]:
  unit = unit_covariance(problem, solution)
  found = profile_intervals(problem, solution, limits, unit)
  return [
    interval if interval.std_error is None else dataclasses.replace(interval, std_error=interval.std_error * float(deviation))
    for interval, deviation in zip(found, deviations, strict=True)
  ]


def _drawn(problem: Problem, solution: Solution, draws: int) -> list[Interval]:
  """Percentile intervals. The standard error is computed in the user's units and converted to fitted coordinates."""
  theta_kp, out = bootstrap(problem, solution, draws), []
  for i, param in enumerate(problem.law.params):
    low, high = np.quantile(theta_kp[:, i], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    spread = float(np.exp(theta_kp[:, i] - solution.theta[i]).std(ddof=1) if param.log else theta_kp[:, i].std(ddof=1))
    out.append(Interval(float(low), float(high), spread))
  return out


def _not_identified(problem: Problem, solution: Solution, intervals: list[Interval]) -> list[str]:
  """Names of undetermined parameters: an exponent whose interval is open, spans a factor above `_WIDE` or contains 0."""
  names = []
  for param, theta, interval in zip(problem.law.params, solution.theta, intervals, strict=True):
    if param.exponent:
      low = theta if interval.low is None and theta == param.low else interval.low  # on its bound
      if low is None or interval.high is None or low <= 0 or interval.high > _WIDE * low:
        names.append(param.name)
  if names:  # then a constant whose interval reaches its bound is open too
    constants = [(p, i) for p, i in zip(problem.law.params, intervals, strict=True) if p.in_y_units and not p.log]
    names += [p.name for p, i in constants if i.low is None or i.low <= p.low]
  shapes = [(p, i) for p, i in zip(problem.law.params, intervals, strict=True) if not p.in_y_units and not p.exponent]
  return names + [p.name for p, i in shapes if p.name not in solution.on_bound and (i.low is None or i.high is None)]


def _estimates(problem: Problem, solution: Solution, intervals: list[Interval], open_params: list[str]) -> dict[str, Estimate]:
  """Parameters in the user's units, with intervals cut to the domain. An end that the points leave open is None, not the domain's edge."""
  largest = problem.log_y.max()
  out = {}
  for i, (param, interval) in enumerate(zip(problem.law.params, intervals, strict=True)):
    ends: list[float | None] = []
    for side in ("low", "high"):
      end, edge = getattr(interval, side), getattr(param, side)
      cut = end is None or (end <= edge if side == "low" else end >= edge)
      if open_params and param.in_y_units and not param.log and not cut:
        cut = side == "high" and end > np.exp(largest)  # a limit above every loss limits nothing
      value = (None if open_params or not np.isfinite(edge) else edge) if cut else end
      ends.append(None if value is None else problem.in_units(i, value))
    estimate = problem.in_units(i, solution.theta[i])
    std_error = None if interval.std_error is None else interval.std_error * (estimate if param.log else problem.in_units(i, 1.0))
    out[param.name] = Estimate(estimate, std_error, *ends)
  return out


def aicc(problem: Problem, solution: Solution, known_noise: bool) -> float | None:
  """-2 log likelihood + 2 k n / (n - k - 1), up to a constant of the points; None with too few points."""
  n, k = len(problem.log_y), len(problem.law.params) + (not known_noise)  # an unknown variance is a parameter too
  if n - k - 1 <= 0 or problem.loss.delta is not None:
    return None
  misfit = solution.cost if known_noise else n * np.log(max(solution.cost, 1e-300) / n)
  return float(misfit + 2 * k * n / (n - k - 1))


def _band(problem: Problem, solution: Solution, limits: Array) -> tuple[tuple[float, float, float], ...]:
  """The interval of the law's value by the delta method: each parameter's limit times its standard error, with their correlations."""
  if problem.law.num_x > 1:
    return ()
  log_x = np.linspace(problem.log_x.min(), problem.log_x.max(), _BAND)
  log_f, gradient = (a[0] for a in problem.law.log_value(solution.theta[None], log_x[:, None]))
  spread = np.nan_to_num(unit_covariance(problem, solution)) * np.outer(limits, limits)  # a parameter on a bound has no spread
  half = np.sqrt(np.maximum(np.einsum("np,pq,nq->n", gradient, spread, gradient), 0.0))
  low, high = (np.exp(np.minimum(problem.log_y0 + log_f + sign * half, 700.0)) for sign in (-1, 1))
  return tuple((float(a), float(b), float(c)) for a, b, c in zip(np.exp(log_x), low, high, strict=True))


def _per_seed(problem: Problem, solution: Solution, x: Array, y: Array, seed: Array) -> dict[str, dict[str, float]]:
  """The t interval of each exponent over the fits to each seed, around their mean."""
  law, out = problem.law, {}
  parts = [(x[seed == s], y[seed == s]) for s in np.unique(seed)]
  if len(parts) < 2 or any(len(np.unique(at, axis=0)) < len(law.params) for at, _ in parts):
    return {}
  thetas = np.array([solve(Problem.of(law, *part), near=solution.theta).theta for part in parts])
  for i, param in enumerate(law.params):
    if param.exponent:
      interval = t_interval(float(thetas[:, i].mean()), thetas[:, i])
      out[param.name] = {
        "estimate": float(thetas[:, i].mean()),
        "ci_low": float(interval.low or 0.0),
        "ci_high": float(interval.high or 0.0),
      }
  return out


def extrapolate(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], loss: Loss = SQUARES) -> dict[str, float] | None:
  """Fits the smaller x (the product of the columns) and predicts the largest quarter: relative errors, prediction / y - 1."""
  size = np.log(x).sum(axis=1)
  distinct = np.unique(size)
  kept = len(distinct) - max(1, len(distinct) // _HELD_OUT)
  held = size > distinct[kept - 1]
  if kept < law.min_points or refusal(law, x[~held], y[~held]):
    return None
  problem = Problem.of(law, x[~held], y[~held], loss=loss)
  theta = solve(problem).theta

  def place(s: float) -> float:
    return float(x[np.argmax(size == s), 0]) if x.shape[1] == 1 else float(np.exp(s))

  error = np.exp(problem.log_y0 + law.log_value(theta[None], np.log(x[held]))[0][0] - np.log(y[held])) - 1
  return {
    "fit_x_max": place(distinct[kept - 1]),
    "predict_x_max": place(distinct[-1]),
    "num_predicted": int(held.sum()),
    "relative_error": float(error[size[held] == distinct[-1]].mean()),
    "mean_abs_relative_error": float(np.abs(error).mean()),
    "beta": problem.values(theta)["beta"],
  }
