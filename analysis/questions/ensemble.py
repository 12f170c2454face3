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
from analysis.fitting.least_squares import solve
from analysis.fitting.refusals import refusal
from analysis.fitting.settings import Setting
from analysis.fitting.uncertainty import quantile
from analysis.questions.design import PRODUCT, forecasts_of
from analysis.questions.form_errors import growths
from analysis.questions.members import DRAWS, FORMS, Member, points_of
from analysis.questions.origins import Origin, origins
from dlrm_jax.common.progress import Bar

Array = np.ndarray
_LEAST_WEIGHT = 0.05  # a law of a smaller weight is left out
_LEAST_GROWTH = 4e-4  # no form is taken to hold better than by this, in log loss, for each unit of log distance beyond the points


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Laws with their weights.

  Attributes:
    members: the laws that are used, the best first.
    weights: their weights, which sum to 1.
    draws: for each, its coordinates fitted to sweeps drawn from it, [K, P]; `DRAWS` in all.
    forecasts: predictions of larger measured runs, with errors of one law: the ensemble.
    growth: by column of x, the standard error of the form for each unit of log distance.
    log_x: the points that the laws are fitted to.
    log_y0: the log loss that the laws' log losses are relative to.
    notes: which laws were compared and why these are used.
    left_out: names of the laws that the points contradict, and how.
  """

  members: tuple[Member, ...]
  weights: tuple[float, ...]
  draws: tuple[Float[Array, "_K _P"], ...]
  forecasts: tuple[Origin, ...]
  growth: dict[str, float]
  log_x: Float[Array, "n C"]
  log_y0: float
  notes: tuple[str, ...] = ()
  left_out: tuple[tuple[str, str], ...] = ()

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


def widest(columns: tuple[str, ...]) -> Law:
  """The law that contains all the others: noise that is estimated from its residuals has none of their misfit."""
  return joint(columns, "fitted", False, True)


def fit_all(
  setting_of: Callable[[Law], Setting],
  columns: tuple[str, ...],
  base: Float[Array, " C"] | None,
  same_rows: bool = False,
  of_ends: bool = False,
) -> Ensemble | str:
  """The ensemble, or how the points contradict the law that predicts larger runs best.

  Args:
    setting_of: the points as a law is fitted to them. One law or more must allow a fit.
    columns: their names, the examples last.
    base: log sizes of the base of a sweep and log examples at its end; None for other points, which may be anywhere (`design.py`).
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
  points = points_of(members)
  fits = [(m.law, m.solution.theta) for m in members]
  forecasts = forecasts_of(points, fits) if base is None else origins(points, fits, base, of_ends)
  scores = _weights(forecasts, [True] * len(members))
  allowed = [not m.missed for m in members]
  if not any(allowed):
    return members[int(np.argmax(scores))].missed
  weights = _weights(forecasts, allowed)
  weights = np.where(weights >= min(_LEAST_WEIGHT, weights.max()), weights, 0.0)
  weights /= weights.sum()
  rolling, half = (columns, _halves(points.log_x, columns)) if base is None else (columns[-1:], _half_of_pass(points.log_x, base))
  own = [o for o in _own_forecasts(forecasts, allowed, weights, rolling) if o.fitted_to >= half.get(o.along, 0.0)]
  order = [int(i) for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
  used, shares = tuple(members[i] for i in order), tuple(float(weights[i]) for i in order)
  rng = np.random.default_rng(0)
  counts = np.diff(np.round(np.concatenate([[0.0], np.cumsum(shares)]) * DRAWS)).astype(int)
  draws = tuple(m.drawn(int(count), rng) for m, count in zip(used, counts, strict=True))
  left_out = tuple((m.law.name, m.missed) for m in members if m.missed)
  notes = _notes(used, shares, members, forecasts)
  growth = growths(own) if base is None else {a: _growth([o for o in own if o.along == a]) for a in {o.along for o in own}}
  return Ensemble(used, shares, draws, tuple(own), growth, points.log_x, points.log_y0, notes, left_out)


def of_one(member: Member, draws: Float[Array, "K P"] | None = None) -> Ensemble:
  """One law as an ensemble: its draws and how its own forecasts erred.

  Args:
    member: the law fitted to all points.
    draws: its coordinates fitted to drawn points; None: points are drawn from the law.
  """
  points = points_of([member])
  half = _halves(points.log_x, member.law.columns)
  own = [o for o in forecasts_of(points, [(member.law, member.solution.theta)]) if o.fitted_to >= half.get(o.along, 0.0)]
  drawn = member.drawn(DRAWS, np.random.default_rng(0)) if draws is None else draws
  return Ensemble((member,), (1.0,), (drawn,), tuple(own), growths(own), points.log_x, points.log_y0)


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


def _own_forecasts(
  forecasts: list[Origin], allowed: Sequence[bool], weights: Float[Array, " L"], rolling: tuple[str, ...] = ("examples",)
) -> list[Origin]:
  """The forecasts of the procedure itself: along `rolling` columns, laws are weighted by earlier origins and what was measured then.

  Without earlier origins, and along other columns, the laws have their weights of the end.
  """
  out = []
  for origin in forecasts:
    earlier = [o.up_to(origin.fitted_to) for o in forecasts if o.along == origin.along in rolling and o.fitted_to < origin.fitted_to]
    w = _weights(earlier, allowed) if any(len(o.at) for o in earlier) else weights
    there = ~np.isnan(origin.errors[:, 0])
    w = np.where(there, w, 0.0)
    if w.sum() > 0:
      w = w / w.sum()
      error, deviation = w[there] @ origin.errors[there], w[there] @ np.sqrt(origin.noise[there])
      out.append(dataclasses.replace(origin, errors=error[None], noise=deviation[None] ** 2))
  return out


def _half_of_pass(log_x: Float[Array, "n C"], base: Float[Array, " C"]) -> dict[str, float]:
  """The middle of the base's pass in log examples: fits to less of it say little about fits to all of it."""
  return {"examples": float(np.exp(0.5 * (log_x[:, -1].min() + base[-1])) * (1 - 1e-9))}


def _halves(log_x: Float[Array, "n C"], columns: tuple[str, ...]) -> dict[str, float]:
  """The same for any points: the middle of each column, and of their product."""
  values = {PRODUCT: log_x.sum(axis=1)} | {name: log_x[:, i] for i, name in enumerate(columns)}
  return {name: float(np.exp(0.5 * (v.min() + v.max())) * (1 - 1e-9)) for name, v in values.items()}


def _growth(own: list[Origin]) -> float:
  """The standard error of the form for each unit of log distance, beyond what noise explains."""
  square = sum(float(np.sum(o.errors[0] ** 2 - o.noise[0])) for o in own)
  distance = sum(float(np.sum(o.distance**2)) for o in own)
  return float(np.hypot(np.sqrt(max(square, 0.0) / distance), _LEAST_GROWTH))


def _notes(used: tuple[Member, ...], shares: tuple[float, ...], members: Sequence[Member], forecasts: Sequence[Origin]) -> tuple[str, ...]:
  """Which law, and how it was chosen."""
  names = " and ".join(f"{m.law.name} ({share:.0%})" for m, share in zip(used, shares, strict=True))
  out = sum(bool(m.missed) for m in members)
  ruled = f", {out} of which the points contradict" if out else ""
  how = "by their errors on larger runs than those fitted" if forecasts else "without a larger run to judge them by, all alike"
  return (f"law: {names}, chosen among {len(members)}{ruled}, {how}",)
