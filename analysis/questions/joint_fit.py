"""`--law=joint` of `analysis.fit`: joint laws, weighted by how each, fitted to the smaller points, predicts the larger ones."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.fitting import one_pass, settings
from analysis.fitting.laws import Law, joint
from analysis.fitting.marquardt import SQUARES
from analysis.fitting.noise import Noise
from analysis.fitting.refusals import refusal
from analysis.fitting.result import Fit
from analysis.questions.ensemble import Ensemble, fit_all

Array = np.ndarray
JOINT = "joint"
FORMULA = "sums of terms, nested laws and smooth maxima of the columns, weighted by their errors on larger runs"
_TOO_FEW = "too few points to judge joint laws: no smaller part of them, along a column, allows a fit that predicts the others"


def fit_joint(
  x: Float[Array, "n C"],
  y: Float[Array, " n"],
  columns: tuple[str, ...],
  seed: Array,
  group: str,
  points: str,
  noise: Noise | None,
) -> tuple[Fit, Ensemble | None]:
  """The laws of the points, and the fit that describes them, with `laws` in place of parameters; no laws where it is refused or misses.

  Args:
    columns: the names of the columns of x.
    x, y, seed, group, points, noise: see `fit_law`.
  """
  blank = Fit(group, JOINT, {}, None, len(x), len(np.unique(seed)), "", columns=columns)
  if len(x):
    blank = dataclasses.replace(blank, x_min=float(x[:, -1].min()), x_max=float(x[:, -1].max()))
  simplest = joint(columns, "sum", False, False)
  reason = refusal(simplest, x, y)
  along = points == "curves"
  reason = reason or (settings.repeated(x, y, seed) if along else "")
  if reason:
    return _refused(blank, reason), None

  def setting_of(law: Law) -> settings.Setting:
    passes = settings.of_passes(law, x, y, seed, noise) if along else None
    return passes or settings.independent(law, x, y, SQUARES)

  plain = setting_of(simplest)
  if reason := refusal(simplest, np.exp(plain.problem.log_x), np.exp(plain.problem.log_y)):
    return _refused(blank, reason), None
  laws = fit_all(setting_of, columns, None)
  if isinstance(laws, str):
    return dataclasses.replace(blank, status="misfit", reason=f"every joint law misses the points: {laws}"), None
  if not laws.forecasts:
    return _refused(blank, _TOO_FEW), None
  notes = [*laws.notes]
  untested = [name for name in columns if name not in laws.growth]
  if untested:
    notes.append(f"{' and '.join(untested)}: too few values for a forecast of larger ones, so nothing beyond the points is predicted there")
  if along and plain.noise is None:
    notes.append(one_pass.ALONE)
  if along and not one_pass.of_seeds(plain):
    notes.append(one_pass.SCATTER)
  if plain.dropped:
    notes.append(f"{plain.dropped} points left out: not every seed has one there")
  return dataclasses.replace(blank, status="ok", note="; ".join(notes), laws=_rows(laws)), laws


def _refused(blank: Fit, reason: str) -> Fit:
  return dataclasses.replace(blank, status=f"refused: {reason}", reason=reason)


def _rows(laws: Ensemble) -> tuple[dict[str, Any], ...]:
  """The laws that are used, then those that the points contradict, with a weight of 0 and how."""
  used = [row | {"left_out": ""} for row in laws.as_rows()]
  return (*used, *({"law": name, "weight": 0.0, "formula": None, "params": {}, "left_out": missed} for name, missed in laws.left_out))
