"""The joint laws of a sweep, weighted by how well each one, fitted to the smaller part, predicts the larger part. Called by `additive.py`.

No form of law is known to hold for loss against examples and sizes together. Several are fitted to all points. Those that the points
contradict are left out. A weight is the likelihood of a law's errors on larger runs (`origins.py`), one independent error an origin with
unknown variance: the product over origins of 1/RMS. Predictions are weighted means of log losses, and draws are shared out by weight, so
that intervals include the disagreement of laws that predict equally well.

How fast the error of the form grows with the distance is estimated from the same procedure's own errors: at each origin, laws are weighted
by the earlier origins alone. What the noise of the points explains of these errors is subtracted. Fits to less than half of the base's pass
are left out, since they err more than the fit to all of it will.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.fitting import adequacy
from analysis.fitting.laws import Law, joint
from analysis.fitting.least_squares import Problem, Solution, solve
from analysis.fitting.marquardt import levenberg_marquardt
from analysis.fitting.refusals import refusal
from analysis.fitting.settings import Setting
from analysis.fitting.uncertainty import quantile
from analysis.questions.origins import Origin, Points, origins
from dlrm_jax.common.progress import Bar

Array = np.ndarray
DRAWS = 200
FORMS = (  # shape, one exponent for all, constant
  ("sum", False, True),
  ("sum", False, False),
  ("nested", False, True),
  ("nested", False, False),
  ("fitted", False, True),
  ("fitted", False, False),
  ("fitted", True, True),
  ("fitted", True, False),
)
_LEAST_WEIGHT = 0.05  # a law of a smaller weight is left out
_MANY = 1e6  # degrees of freedom of noise that is not estimated
_LEAST_GROWTH = 4e-4  # no form is taken to hold better than by this, in log loss, for each unit of log distance beyond the points


@dataclasses.dataclass(frozen=True)
class Member:
  """One law fitted to all points.

  Attributes:
    setting, solution: the fit.
    missed: how the points contradict the law; empty where they do not.
  """

  law: Law
  setting: Setting
  solution: Solution
  missed: str

  @property
  def deviation(self) -> float:
    """The standard deviation of a whitened residual, at least 1 where seeds tell the noise: the misfit counts as noise."""
    free = max(len(self.setting.problem.log_y) - len(self.law.params), 1)
    found = float(np.sqrt(self.solution.cost / free))
    return max(found, 1.0) if self.setting.noise else found


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Laws with their weights.

  Attributes:
    members: the laws that are used, the best first.
    weights: their weights, which sum to 1.
    draws: for each, its coordinates fitted to sweeps drawn from it, [K, P]; `DRAWS` in all.
    forecasts: predictions of larger measured runs, with errors of one law: the ensemble.
    growth: by `examples` or axis, the standard error of the form for each unit of log distance.
    log_y0: the log loss that the laws' log losses are relative to.
    notes: which laws were compared and why these are used.
  """

  members: tuple[Member, ...]
  weights: tuple[float, ...]
  draws: tuple[Float[Array, "_K _P"], ...]
  forecasts: tuple[Origin, ...]
  growth: dict[str, float]
  log_y0: float
  notes: tuple[str, ...]

  def log_losses(self, log_x: Float[Array, " C"]) -> Float[Array, " K"]:
    """The log loss predicted by the ensemble, then by each draw."""
    best = self.predicted(log_x[None])[0]
    drawn = [m.law.log_value(k, log_x[None])[0][:, 0] + self.log_y0 for m, k in zip(self.members, self.draws, strict=True)]
    return np.concatenate([[best], *drawn])

  def predicted(self, log_x: Float[Array, "n C"]) -> Float[Array, " n"]:
    """The log losses predicted at some points."""
    values = [m.law.log_value(m.solution.theta[None], log_x)[0][0] for m in self.members]
    return self.log_y0 + np.asarray(self.weights) @ np.array(values)

  def as_rows(self) -> tuple[dict[str, Any], ...]:
    """Name, weight, formula and parameters of each law, for JSON."""
    return tuple(
      {"law": m.law.name, "weight": weight, "formula": m.law.formula, "params": m.setting.problem.values(m.solution.theta)}
      for m, weight in zip(self.members, self.weights, strict=True)
    )

  def form_error(self, along: str, distance: float) -> float:
    """Half of the 95% interval that the form of the laws adds at a log distance beyond the sweep; 0 along an axis without forecasts."""
    return self.growth.get(along, 0.0) * quantile(max(len(self.forecasts), 1)) * max(distance, 0.0)


def fit_all(
  setting_of: Callable[[Law], Setting], columns: tuple[str, ...], base: Float[Array, " C"], same_rows: bool, of_ends: bool = False
) -> Ensemble | str:
  """The ensemble, or how the points contradict the law that predicts larger runs best.

  Args:
    setting_of: the points as a law is fitted to them.
    columns: their names, the examples last.
    base: log sizes of the base and log examples at its end.
    same_rows: see `adequacy.misses`.
    of_ends: whether the points are ends of runs. Sizes are then known at one number of examples, so that sums of terms alone are fitted,
      and forecasts along the examples are those of the base's own points.
  """
  members: list[Member] = []
  forms = [form for form in FORMS if form[0] == "sum"] if of_ends else FORMS
  with Bar("comparing laws", len(forms)) as bar:
    for form in forms:
      law = joint(columns, *form)
      setting = setting_of(law)
      problem = setting.problem
      if not refusal(law, np.exp(problem.log_x), np.exp(problem.log_y)):
        solution = solve(problem)
        lack = setting.misfit(solution)
        missed = adequacy.misses(problem, solution, setting.known_variance, setting.known_free, lack, same_rows)
        members.append(Member(law, setting, solution, missed))
      bar(1)
  points = _points(members)
  forecasts = origins(points, [(m.law, m.solution.theta) for m in members], base, of_ends)
  scores = _weights(forecasts, [True] * len(members))
  allowed = [not m.missed for m in members]
  if not any(allowed):
    return members[int(np.argmax(scores))].missed
  weights = _weights(forecasts, allowed)
  weights = np.where(weights >= min(_LEAST_WEIGHT, weights.max()), weights, 0.0)
  weights /= weights.sum()
  own = [o for o in _own_forecasts(forecasts, allowed, weights) if o.along != "examples" or o.fitted_to >= _later_half(points, base)]
  order = [int(i) for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
  used, shares = tuple(members[i] for i in order), tuple(float(weights[i]) for i in order)
  rng = np.random.default_rng(0)
  counts = np.diff(np.round(np.concatenate([[0.0], np.cumsum(shares)]) * DRAWS)).astype(int)
  draws = tuple(_draw(m.setting.problem, m.solution.theta, _spread(m), int(count), rng) for m, count in zip(used, counts, strict=True))
  growth = {along: _growth([o for o in own if o.along == along]) for along in dict.fromkeys(o.along for o in own)}
  return Ensemble(used, shares, draws, tuple(own), growth, points.log_y0, _notes(used, shares, members, forecasts))


def _points(members: Sequence[Member]) -> Points:
  """The means of the members' points at each x, with the noise of the seeds, or that of the residuals where there is none."""
  problem = members[0].setting.problem
  cov = problem.whiten.covariance(len(problem.log_y))
  if members[0].setting.noise is None:
    cov = cov * max(min(m.deviation for m in members), 1e-12) ** 2
  log_x, index = np.unique(problem.log_x, axis=0, return_inverse=True)
  mean = np.zeros((len(log_x), len(problem.log_y)))
  mean[index.reshape(-1), np.arange(len(problem.log_y))] = 1.0
  mean /= mean.sum(axis=1, keepdims=True)
  return Points(log_x, mean @ problem.log_y, problem.log_y0, mean @ cov @ mean.T)


def _weights(forecasts: Sequence[Origin], allowed: Sequence[bool]) -> Float[Array, " L"]:
  """The weights of laws by their errors; equal ones without forecasts. A law that an origin allows no fit of counts there as the worst."""
  kept = np.asarray(allowed, bool)
  log_weight = np.zeros(len(kept))
  for origin in forecasts:
    if len(origin.at):
      square = np.mean(origin.errors**2 + origin.floor, axis=1)
      log_weight -= 0.5 * np.log(np.where(np.isnan(square), np.nanmax(square), np.maximum(square, 1e-16)))
  log_weight = np.where(kept, log_weight, -np.inf)
  weight = np.exp(log_weight - log_weight.max())
  return weight / weight.sum()


def _own_forecasts(forecasts: list[Origin], allowed: Sequence[bool], weights: Float[Array, " L"]) -> list[Origin]:
  """The forecasts of the procedure itself: along the examples, laws are weighted by earlier origins and what had been measured then.

  Without earlier origins, and along an axis, the laws have their weights of the end.
  """
  out = []
  for origin in forecasts:
    earlier = [o.up_to(origin.fitted_to) for o in forecasts if o.along == origin.along == "examples" and o.fitted_to < origin.fitted_to]
    w = _weights(earlier, allowed) if any(len(o.at) for o in earlier) else weights
    there = ~np.isnan(origin.errors[:, 0])
    w = np.where(there, w, 0.0)
    if w.sum() > 0:
      w = w / w.sum()
      error, deviation = w[there] @ origin.errors[there], w[there] @ np.sqrt(origin.noise[there])
      out.append(dataclasses.replace(origin, errors=error[None], noise=deviation[None] ** 2))
  return out


def _later_half(points: Points, base: Float[Array, " C"]) -> float:
  """The middle of the base's pass in log examples: fits to less of it say little about fits to all of it."""
  return float(np.exp(0.5 * (points.log_x[:, -1].min() + base[-1])) * (1 - 1e-9))


def _growth(own: list[Origin]) -> float:
  """The standard error of the form for each unit of log distance, beyond what noise explains."""
  square = sum(float(np.sum(o.errors[0] ** 2 - o.noise[0])) for o in own)
  distance = sum(float(np.sum(o.distance**2)) for o in own)
  return float(np.hypot(np.sqrt(max(square, 0.0) / distance), _LEAST_GROWTH))


def _spread(member: Member) -> float:
  """The deviation of drawn noise: that of the residuals, and wider where few seeds tell the noise."""
  free = member.setting.known_free if member.setting.noise else _MANY
  return member.deviation * quantile(max(free, 1.0)) / quantile(_MANY)


def _draw(problem: Problem, theta: Float[Array, " P"], deviation: float, count: int, rng: np.random.Generator) -> Float[Array, "K P"]:
  """Fits to sweeps drawn from the law, with noise that has this standard deviation when whitened. All are computed together."""
  log_f = problem.law.log_value(theta[None], problem.log_x)[0][0]
  drawn_kn = log_f + deviation * problem.whiten.color(rng.standard_normal((count, len(log_f))))

  def evaluate(numbered_kq: Array) -> tuple[Array, Array]:
    """Residuals and gradient. The last column, which is held, is the number of the drawn sweep."""
    log_f_kn, gradient_knp = problem.law.log_value(numbered_kq[:, :-1], problem.log_x)
    rest_kn = log_f_kn - drawn_kn[numbered_kq[:, -1].astype(int)]
    white_knp = np.concatenate([problem.whiten.apply(gradient_knp), np.zeros((*rest_kn.shape, 1))], axis=-1)
    return problem.whiten.rows(rest_kn), white_knp

  number = np.arange(count, dtype=np.float64)
  start = np.column_stack([np.tile(theta, (count, 1)), number])
  low, high = (np.column_stack([side, number]) for side in problem.bounds(count))
  return levenberg_marquardt(evaluate, start, low, high, max_steps=60, gain=1e-7)[0][:, :-1]


def _notes(used: tuple[Member, ...], shares: tuple[float, ...], members: Sequence[Member], forecasts: Sequence[Origin]) -> tuple[str, ...]:
  """Which law, and how it was chosen."""
  names = " and ".join(f"{m.law.name} ({share:.0%})" for m, share in zip(used, shares, strict=True))
  out = sum(bool(m.missed) for m in members)
  ruled = f", {out} of which the points contradict" if out else ""
  how = "by their errors on larger runs than those fitted" if forecasts else "without a larger run to judge them by, all alike"
  return (f"law: {names}, chosen among {len(members)}{ruled}, {how}",)
