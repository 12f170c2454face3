"""`fit_law`: one law fitted to the points of one curve, with intervals, diagnostics and a held-out test, or refused with a reason.

Called by `analysis.fit` on anybody's points and by `analysis.study` on the curves of a sweep.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from analysis.laws import LAWS, Law
from analysis.least_squares import Problem, Solution, solve
from analysis.uncertainty import Interval, profile_interval, t_interval

Array = np.ndarray
_WIDE = 10.0  # an exponent whose interval spans more than this factor is called not identifiable
_HELD_OUT = 4  # the largest quarter of the distinct x is predicted from the rest
METHODS = {
  "per_seed_t": "95% t interval over per-seed fits; seeds share the teacher (or the log) and the evaluation examples",
  "profile_independent_points": "95% profile likelihood of one curve, points treated as independent: too narrow if they come from one pass",
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One parameter: best value, standard error, ends of the 95% interval (None: open, or not defined)."""

  estimate: float
  std_error: float | None
  ci_low: float | None
  ci_high: float | None


@dataclasses.dataclass(frozen=True)
class Fit:
  """One law fitted to one group of points.

  Attributes:
    params: by name; empty when refused.
    objective: sum of squared residuals of log y.
    status: `ok`, `on_bound` (a parameter sits on the edge of its domain), `not_identifiable` (the points do not determine it), or
      `refused: reason`.
    method: how the intervals were made, a key of `METHODS`; None when refused.
    note: what a reader must know, one sentence, or empty.
    extrapolation: the law fitted on the smaller x predicts the larger: relative errors there; None with too few points.
    x_min, x_max: the window that was fitted.
  """

  group: str
  law: str
  params: dict[str, Estimate]
  objective: float | None
  num_points: int
  num_seeds: int
  status: str
  method: str | None = None
  note: str = ""
  extrapolation: dict[str, float] | None = None
  x_min: float | None = None
  x_max: float | None = None

  @property
  def refused(self) -> bool:
    return self.status.startswith("refused")

  def value(self, name: str) -> float:
    """The estimate of one parameter; NaN when the fit was refused or the law has no such parameter."""
    return self.params[name].estimate if name in self.params else float("nan")

  def predict(self, x: Real[Array, " n"]) -> Float[Array, " n"]:
    """The fitted law at x."""
    return LAWS[self.law].predict({name: p.estimate for name, p in self.params.items()}, x)


def fit_law(
  x: Real[Array, " n"],
  y: Real[Array, " n"],
  law: str = "power",
  seed: Array | None = None,
  x_min: float | None = None,
  x_max: float | None = None,
  group: str = "all",
) -> Fit:
  """Fits `law` to points with x_min <= x <= x_max; points that allow no sound fit give a refusal with its reason, never an exception.

  Args:
    x, y: positive and finite.
    law: a key of `analysis.laws.LAWS`.
    seed: which points belong to one independent run; None when all are one curve.
    group: a name for the result.
  """
  form = LAWS[law]
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  seed = np.zeros(len(x), int) if seed is None else np.asarray(seed)
  inside = ~((x < (-np.inf if x_min is None else x_min)) | (x > (np.inf if x_max is None else x_max)))
  x, y, seed = x[inside], y[inside], seed[inside]
  seeds = np.unique(seed)
  blank = Fit(group, law, {}, None, len(x), len(seeds), "")
  if len(x):
    blank = dataclasses.replace(blank, x_min=float(np.min(x)), x_max=float(np.max(x)))
  reason = _refusal(form, x, y)
  if reason:
    return dataclasses.replace(blank, status=f"refused: {reason}")
  problem = Problem.of(form, x, y)
  solution = solve(problem)
  per_seed = [Problem.of(form, x[seed == s], y[seed == s]) for s in seeds]
  by_seed = len(seeds) > 1 and all(len(np.unique(p.log_x)) >= len(form.params) for p in per_seed)
  profiles: list[Interval | None] = [None] * len(form.params)
  if by_seed:
    intervals = _seed_intervals(problem, solution, per_seed)
    open_params = _not_identified(problem, solution, profiles, intervals)
    if not open_params and not form.linear:  # does any one set of points leave them open? (alpha is as open as its exponent)
      profiles = [None if param.log else profile_interval(problem, solution, i) for i, param in enumerate(form.params)]
      open_params = _not_identified(problem, solution, profiles, intervals)
  else:
    intervals = [profile_interval(problem, solution, i) for i in range(len(form.params))]
    profiles = list(intervals)
    open_params = _not_identified(problem, solution, profiles, intervals)
  status, note = "ok", ""
  if open_params:
    status, note = "not_identifiable", f"the points do not determine {' and '.join(open_params)}"
  elif solution.on_bound:
    shown = ", ".join(f"{n} = {problem.values(solution.theta)[n]:g}" for n in solution.on_bound)
    status, note = "on_bound", f"{shown} is the edge of its domain: the points want none of this term"
  return dataclasses.replace(
    blank,
    params=_estimates(problem, solution, intervals, profiles, open_params),
    objective=solution.rss,
    status=status,
    note=note,
    method="per_seed_t" if by_seed else "profile_independent_points",
    extrapolation=_extrapolate(form, x, y),
  )


def _refusal(law: Law, x: Array, y: Array) -> str:
  """Why these points allow no fit; empty when they do."""
  for name, values in (("x", x), ("y", y)):
    bad = ~np.isfinite(values)
    if bad.any():
      return f"{bad.sum()} of {len(values)} values of {name} are not finite numbers"
    if (values <= 0).any():
      at = int(np.argmax(values <= 0))
      return f"{name} must be positive to be fitted on logarithms, {name}={values[at]:g}" + (f" at x={x[at]:g}" if name == "y" else "")
  distinct = len(np.unique(x))
  if distinct < law.min_points:
    return f"{distinct} distinct x, law {law.name} needs at least {law.min_points}"
  if np.ptp(np.log(y)) < 1e-12:
    return "y is constant"
  slope = np.polyfit(np.log(x), np.log(y), 1)[0]
  return f"y does not fall with x (slope {slope:+.3g} on log-log axes)" if slope >= 0 else ""


def _seed_intervals(problem: Problem, solution: Solution, per_seed: list[Problem]) -> list[Interval]:
  """t intervals over seeds in fitted coordinates (alpha through its logarithm), around the estimate from all points."""
  thetas = []
  for one in per_seed:
    theta = solve(one).theta.copy()
    for i, param in enumerate(problem.law.params):  # into the scale of the joint problem
      if param.in_y_units:
        theta[i] = theta[i] + one.log_y0 - problem.log_y0 if param.log else theta[i] * np.exp(one.log_y0 - problem.log_y0)
    thetas.append(theta)
  return [t_interval(solution.theta[i], np.array(thetas)[:, i]) for i in range(len(problem.law.params))]


def _not_identified(problem: Problem, solution: Solution, profiles: list[Interval | None], intervals: list[Interval]) -> list[str]:
  """Names of the parameters that the points leave open: an exponent whose interval is open, spans a factor above `_WIDE` or holds 0."""
  names = []
  for param, theta, *pair in zip(problem.law.params, solution.theta, profiles, intervals, strict=True):
    if param.log or param.in_y_units:
      continue
    for interval in (i for i in pair if i is not None):
      low = theta if interval.low is None and theta == param.low else interval.low  # on its bound
      if low is None or interval.high is None or low <= 0 or interval.high > _WIDE * low:
        names.append(param.name)
        break
  if names:  # then a constant whose interval reaches its bound is open too
    pairs = zip(problem.law.params, profiles, intervals, strict=True)
    names += [p.name for p, *pair in pairs if p.in_y_units and not p.log and any(i and (i.low is None or i.low <= p.low) for i in pair)]
  return names


def _estimates(
  problem: Problem, solution: Solution, intervals: list[Interval], profiles: list[Interval | None], open_params: list[str]
) -> dict[str, Estimate]:
  """Parameters in the user's units, intervals cut to the domain; an end that the points leave open is None, not the domain's edge."""
  largest = problem.log_y.max()
  out = {}
  for i, param in enumerate(problem.law.params):
    interval, profile = intervals[i], profiles[i]
    ends: list[float | None] = []
    for side in ("low", "high"):
      end, edge = getattr(interval, side), getattr(param, side)
      cut = end is None or (end <= edge if side == "low" else end >= edge)
      if open_params:
        unprofiled = param.log and profile is None  # alpha over seeds: as open as the exponent
        above = param.in_y_units and not param.log and not cut and end > np.exp(largest)  # a constant above every loss is no limit
        cut = cut or unprofiled or above or (profile is not None and getattr(profile, side) is None)
      value = (None if open_params or not np.isfinite(edge) else edge) if cut else end
      ends.append(None if value is None else problem.in_units(i, value))
    estimate = problem.in_units(i, solution.theta[i])
    std_error = None if interval.std_error is None else interval.std_error * (estimate if param.log else problem.in_units(i, 1.0))
    out[param.name] = Estimate(estimate, std_error, *ends)
  return out


def _extrapolate(law: Law, x: Array, y: Array) -> dict[str, float] | None:
  """Fits on the smaller part in x and predicts the largest quarter: relative errors of the prediction, prediction / y - 1."""
  distinct = np.unique(x)
  kept = len(distinct) - max(1, len(distinct) // _HELD_OUT)
  held = x > distinct[kept - 1]
  if kept < law.min_points or _refusal(law, x[~held], y[~held]):
    return None
  problem = Problem.of(law, x[~held], y[~held])
  values = problem.values(solve(problem).theta)
  error = law.predict(values, x[held]) / y[held] - 1
  return {
    "fit_x_max": float(distinct[kept - 1]),
    "predict_x_max": float(distinct[-1]),
    "num_predicted": int(held.sum()),
    "relative_error": float(error[x[held] == distinct[-1]].mean()),
    "mean_abs_relative_error": float(np.abs(error).mean()),
    "beta": values["beta"],
  }


def as_dict(fit: Fit) -> dict[str, Any]:
  """A fit as the flat JSON object of `fits`."""
  return dataclasses.asdict(fit)
