"""`fit_law`: one law fitted to the points of one curve, with intervals, diagnostics and a held-out test, or refused with a reason.

Called by `analysis.fit` on anybody's points and by `analysis.questions.sweep_laws` on the curves of a sweep.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Real

from analysis.fitting import adequacy, covariance, measured, one_pass, settings
from analysis.fitting.bootstrap import MIN_POINTS, bootstrap
from analysis.fitting.bootstrap import refusal as bootstrap_refusal
from analysis.fitting.borrowed import NOTHING, Borrowed
from analysis.fitting.contradicted import contradiction
from analysis.fitting.diagnostics import aicc, band_of, extrapolate
from analysis.fitting.laws import Law, law_of
from analysis.fitting.least_squares import Problem, Solution, solve
from analysis.fitting.marquardt import SQUARES, Loss
from analysis.fitting.noise import Noise
from analysis.fitting.profiles import profiled
from analysis.fitting.refusals import refusal
from analysis.fitting.result import Estimate, Fit
from analysis.fitting.status import constant_open, not_identified, status_of
from analysis.fitting.uncertainty import LEVEL, Interval, condition, t_interval

Array = np.ndarray
POINTS = ("independent", "curves")
Hand = Callable[[settings.Setting, Solution, Float[Array, "K P"] | None], None]
_BARE = f"a robust loss takes its intervals from a bootstrap, which needs at least {MIN_POINTS}; the estimates have none"


def fit_law(
  x: Real[Array, "n *C"],
  y: Real[Array, " n"],
  law: str | Law = "power",
  seed: Array | None = None,
  *,
  x_min: float | None = None,
  x_max: float | None = None,
  group: str = "all",
  points: str = "curves",
  noise: Noise | None = None,
  loss: Loss = SQUARES,
  draws: int = 0,
  refuse: str = "",
  same_rows: bool = False,
  borrowed: Borrowed = NOTHING,
  hand: Hand | None = None,
) -> Fit:
  """Fits `law` to points with x_min <= x <= x_max. Points that allow no sound fit give a refusal with its reason, never an exception.

  How intervals are computed depends on how the points were produced: see `settings.py`.

  Args:
    x, y: positive and finite; x [n], or [n, C] for a law of C resources.
    law: a law, or the name of one that is not of any columns.
    seed: the seed of each point; None when it is not known.
    x_min, x_max: limits of the last column of x.
    group: a name for the result.
    points: `curves`: points of one seed that differ only in the last x belong to one training pass, where its noise can be estimated;
      `independent`: each point is a separate run.
    noise: the noise of the passes, pooled over more than these points (`one_pass.pooled`); None: it is estimated from these.
    loss: the loss of a log residual. With a robust one, points are taken as independent and intervals come from a bootstrap.
    draws: the number of bootstrap draws for the intervals; 0: profile likelihood. With a robust loss and fewer points than a bootstrap
      needs, the result has estimates without intervals.
    refuse: why the caller allows no law of these points, or empty.
    same_rows: whether all seeds are trained on the same rows in the same order; a lack of fit found by their differences says so.
    borrowed: parameters of the law that are fixed, tied or have a prior.
    hand: is called with the setting, the solution and the coordinates of the bootstrap's draws (or None), unless the fit is refused.
  """
  whole = law if isinstance(law, Law) else law_of(law)
  form = borrowed.restrict(whole)
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  x = x[:, None] if x.ndim == 1 else x
  known_seeds = seed is not None
  seed = np.zeros(len(x), int) if seed is None else np.asarray(seed)
  window = settings.inside(x, x_min, x_max)
  x, y, seed = x[window], y[window], seed[window]
  first = settings.first_of_copies(x, y, seed)
  copies = f"{np.sum(~first)} points are exact copies of others (x, y and seed are the same) and count once" if not first.all() else ""
  x, y, seed = x[first], y[first], seed[first]
  blank = Fit(group, form.name, {}, None, len(x), len(np.unique(seed)), "", note=copies, columns=form.columns, borrowed=borrowed.words)
  if len(x):
    blank = dataclasses.replace(blank, x_min=float(np.min(x[:, -1])), x_max=float(np.max(x[:, -1])))
  reason = refuse or refusal(form, x, y) or borrowed.refusal(whole, y)
  along = points == "curves" and (known_seeds or noise is not None) and not reason
  reason = reason or (settings.repeated(x, y, seed) if along else "")
  if along and not reason and noise is None:
    noise = one_pass.pooled([one_pass.Passes(form, x, y, seed)])
  setting = settings.of_passes(form, x, y, seed, noise) if along and not reason and noise is not None else None
  if setting is not None:
    reason = refusal(form, np.exp(setting.problem.log_x), np.exp(setting.problem.log_y))
    reason += " (of those that all seeds have)" if reason and setting.dropped else ""
  bare = draws > 0 and loss.delta is not None and setting is None and len(x) < MIN_POINTS
  if draws and not bare and not reason:
    reason = bootstrap_refusal(len(x), setting is not None)
  if form.num_x == 1 and len(x) and settings.usable(x, y).all():
    blank = dataclasses.replace(blank, slopes=measured.slopes_of(measured.means_of(setting, x, y)))
  if reason:
    return dataclasses.replace(blank, status=f"refused: {reason}", reason=reason)
  method = None if bare else "bootstrap" if draws else "profile_independent_points" if setting is None else one_pass.method(setting)
  alone = along and setting is None
  setting = setting or settings.independent(form, x, y, loss, average=not draws)
  problem, solution = setting.problem, solve(setting.problem)
  lower, theta_kp = "", None
  if draws:
    theta_kp = None if bare else bootstrap(problem, solution, draws)
    limits, intervals = setting.judge(solution)[0], [] if theta_kp is None else _drawn(problem, solution, theta_kp)
  else:
    solution, limits, intervals, lower = profiled(problem, solution, setting.judge)
  if hand is not None:
    hand(setting, solution, theta_kp)
  open_params = [] if bare else not_identified(problem, solution, intervals)
  misfit = setting.misfit(solution)
  missed = adequacy.misses(problem, solution, setting.known_variance, setting.known_free, misfit, same_rows, alone)
  estimates = borrowed.completed(_estimates(problem, solution, intervals, open_params), whole)
  contradicted = ("", "")
  if borrowed:
    contradicted = contradiction(setting, solution, whole, borrowed, {name: e.estimate for name, e in estimates.items()})
  missed = missed or contradicted[0]
  unknown = constant_open(problem, estimates)
  status, notes = status_of(problem, solution, open_params, missed, unknown, f"{len(x)} points: {_BARE}" if bare else "")
  reason = notes[0] if notes else ""
  if not missed and misfit is not None and misfit < settings.MISFIT:
    notes.append("the law misses the points by more than their noise" + (", intervals are wider for it" if method == "gls" else ""))
  notes += [text for text in (lower, contradicted[1], copies) if text]
  if alone:
    notes.append(one_pass.ALONE)
  notes += one_pass.notes(form, setting)
  if setting.averaged:
    notes.append(setting.averaged)
  if setting.dropped:
    notes.append(f"{setting.dropped} points left out: not every seed has one there")
  return dataclasses.replace(
    blank,
    params=estimates,
    covariance=covariance.of(problem, solution, intervals, theta_kp, open_params),
    objective=setting.cost(solution) if loss.delta is None else solution.cost / 2,
    status=status,
    note="; ".join(notes),
    reason=reason,
    method=method,
    extrapolation=extrapolate(form, x, y, loss),
    condition_number=condition(problem, solution),
    misfit_p=misfit,
    aicc=aicc(setting, solution),
    profiles={p.name: interval.profile for p, interval in zip(form.params, intervals, strict=not bare) if p.exponent and interval.profile},
    per_seed=_per_seed(problem, solution, x, y, seed) if points == "curves" and one_pass.of_seeds(setting) else {},
    band=() if draws else band_of(problem, solution, limits),
  )


def _drawn(problem: Problem, solution: Solution, theta_kp: Float[Array, "K P"]) -> list[Interval]:
  """Percentile intervals of draws. The standard error is computed in the user's units and converted to fitted coordinates."""
  out = []
  for i, param in enumerate(problem.law.params):
    low, high = np.quantile(theta_kp[:, i], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    spread = float(np.exp(theta_kp[:, i] - solution.theta[i]).std(ddof=1) if param.log else theta_kp[:, i].std(ddof=1))
    out.append(Interval(float(low), float(high), spread))
  return out


def _estimates(problem: Problem, solution: Solution, intervals: list[Interval], open_params: list[str]) -> dict[str, Estimate]:
  """Parameters in the user's units, with intervals cut to the domain. An end that the points leave open is None, not the domain's edge."""
  if not intervals:
    return {p.name: Estimate(problem.in_units(i, solution.theta[i]), None, None, None) for i, p in enumerate(problem.law.params)}
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


def _per_seed(problem: Problem, solution: Solution, x: Array, y: Array, seed: Array) -> dict[str, dict[str, float]]:
  """The t interval of each exponent over the fits to each seed, around their mean."""
  law, out = problem.law, {}
  parts = [(x[seed == s], y[seed == s]) for s in np.unique(seed)]
  if len(parts) < 2 or any(len(np.unique(at, axis=0)) < len(law.params) for at, _ in parts):
    return {}
  thetas = np.array([solve(settings.unweighted(law, *part, SQUARES), near=solution.theta).theta for part in parts])
  for i, param in enumerate(law.params):
    if param.exponent:
      interval = t_interval(float(thetas[:, i].mean()), thetas[:, i])
      out[param.name] = {
        "estimate": float(thetas[:, i].mean()),
        "ci_low": float(interval.low or 0.0),
        "ci_high": float(interval.high or 0.0),
      }
  return out
