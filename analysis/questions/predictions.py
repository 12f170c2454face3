"""Predicted losses at given places, with 95% intervals. Called by `analysis.fit` for `--predict_at`.

An interval is that of the mean loss of runs there. It has two parts. The noise of the points is estimated by fits to drawn points. The
error of the law's form is estimated from forecasts (`form_errors.py`): the same law, or the same choice among laws, is fitted to the
smaller points and predicts the larger ones.

The error of the form is assumed not to turn the predicted fall into a rise. So above the prediction it is at most that fall.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.fitting.fit_law import Hand
from analysis.fitting.least_squares import Solution
from analysis.fitting.result import Fit
from analysis.fitting.settings import Setting
from analysis.fitting.uncertainty import LEVEL
from analysis.questions.design import steps_beyond
from analysis.questions.ensemble import Ensemble, of_one
from analysis.questions.form_errors import half_width
from analysis.questions.members import Member, points_of

Array = np.ndarray
_TINY = 1e-9
_TWO_SIDED = 1.96  # standard errors on each side of a 95% interval


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A predicted loss.

  Attributes:
    group: the group of the points.
    at: the place, by column of x.
    y, ci_low, ci_high: the loss with its 95% interval; None where it is not predicted.
    beyond: how many times the place is beyond the points, in the column in which it is furthest; 1 within them.
    noise, form: half of the interval of log y that the noise of the points causes, and half of that of the law's form.
    reason: why nothing is predicted, or empty.
  """

  group: str
  at: dict[str, float]
  y: float | None = None
  ci_low: float | None = None
  ci_high: float | None = None
  beyond: float | None = None
  noise: float | None = None
  form: float | None = None
  reason: str = ""

  def as_dict(self) -> dict[str, Any]:
    """An entry of `predictions`; the place is under `at`."""
    return dataclasses.asdict(self)


def with_ensemble(fit_with: Callable[[Hand], Fit], wanted: bool) -> tuple[Fit, Ensemble | None]:
  """A fit of one law, and the ensemble of this law alone where it is wanted and the fit predicts.

  Args:
    fit_with: `fit_law` with all arguments but `hand`.
    wanted: whether anything is predicted.
  """
  solved: list[tuple[Setting, Solution, Float[Array, "K P"] | None]] = []
  fit = fit_with(lambda *given: solved.append(given))
  if not wanted or not fit.believed:
    return fit, None
  (setting, solution, theta_kp) = solved[0]
  return fit, of_one(Member(setting.problem.law, setting, solution, ""), theta_kp)


def predict(fit: Fit, laws: Ensemble | None, columns: tuple[str, ...], at: Float[Array, "T C"]) -> list[Prediction]:
  """The predictions of one law or of several; without losses, but with the reason, where the fit is not believed.

  Args:
    fit: says why nothing is predicted.
    laws: what was fitted (`with_ensemble`, `fit_joint`); None where it is not believed.
    columns: the user's names of the columns of x.
    at: x > 0.
  """
  places = [dict(zip(columns, map(float, place), strict=True)) for place in at]
  if laws is None:
    return [Prediction(fit.group, place, reason=fit.reason or fit.status) for place in places]
  log_at, misfit = np.log(at), _misfit(laws)
  steps = steps_beyond(laws.log_x, log_at)
  return [_one(fit.group, laws, *one, misfit) for one in zip(places, log_at, steps, strict=True)]


def _one(
  group: str, laws: Ensemble, place: dict[str, float], log_at: Float[Array, " C"], step: Float[Array, " C"], misfit: float
) -> Prediction:
  names, columns = list(place), laws.members[0].law.columns
  beyond = float(np.exp(step.max()))
  for i, name in enumerate(names):
    if log_at[i] < laws.log_x[:, i].min() - _TINY:
      least = float(np.exp(laws.log_x[:, i].min()))
      return Prediction(group, place, beyond=beyond, reason=f"{name}={place[name]:.4g} is below the points, which begin at {least:.4g}")
    if step[i] > 0 and columns[i] not in laws.growth:
      return Prediction(
        group, place, beyond=beyond, reason=f"beyond the points in {name}, which has too few values to test the law's form there"
      )
  values = laws.log_losses(log_at)
  center, (low, high) = float(values[0]), np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  form = float(np.hypot(half_width(laws.forecasts, laws.growth, columns, step), _TWO_SIDED * misfit))
  fall = float(laws.log_losses(log_at - step)[0]) - center
  down = float(np.hypot(max(center - low, 0.0), form))
  up = float(np.hypot(max(high - center, 0.0), min(form, max(fall, _TWO_SIDED * misfit))))
  noise = float(high - low) / 2
  y, ci_low, ci_high = (float(np.exp(min(v, 700.0))) for v in (center, center - down, center + up))
  return Prediction(group, place, y, ci_low, ci_high, beyond, noise, form)


def _misfit(laws: Ensemble) -> float:
  """How far the laws are from the points, as a root mean square in log y, beyond the noise."""
  points = points_of(laws.members)
  off = laws.predicted(points.log_x) - laws.log_y0 - points.log_y
  return float(np.sqrt(max(np.mean(off**2 - np.diagonal(points.cov)), 0.0)))
