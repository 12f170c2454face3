"""The other laws on the points of one fit, by AICc and by the error of their predictions at larger x. Called by `analysis.fit`.

They are compared by default, since a law that fits may still be the wrong one. They get estimates without intervals. Many points are
replaced by means of neighbours. So a group takes a fifth of a second.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.fitting import settings
from analysis.fitting.diagnostics import aicc, extrapolate
from analysis.fitting.laws import LAWS, OF_ANY_COLUMNS, Law, law_of
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.marquardt import Loss
from analysis.fitting.noise import Noise
from analysis.fitting.refusals import refusal
from analysis.fitting.result import Fit
from analysis.fitting.thinning import CURVED_CELLS, cell_means, cells
from analysis.fitting.whitening import Weights

Array = np.ndarray
BEHIND = 10.0  # a law whose AICc is higher by more than this describes the points clearly worse
HALF = 0.5  # another law's held-out error below this share of the law's is clearly better
_EXACT = 1e-6  # relative errors below this are those of rounded points
_SAME = {"additive": "chinchilla"}  # two names of one law, where there are two columns
_OF_OTHER_COLUMNS = ("repeated",)  # laws whose columns mean something else than those of the other laws


@dataclasses.dataclass(frozen=True)
class Rival:
  """One law on the points of a group.

  Attributes:
    group, law: their names.
    asked: whether it is the law of the fit.
    num_params: the number of its parameters.
    aicc, behind: Akaike's criterion for small samples, and its distance from the best law's; None with too few points or a robust loss.
    held_out_error: the mean of |prediction / y - 1| at the largest quarter of x, by a fit to the smaller x; None with too few points.
    reason: why there is no fit, or empty.
  """

  group: str
  law: str
  asked: bool
  num_params: int
  aicc: float | None = None
  behind: float | None = None
  held_out_error: float | None = None
  reason: str = ""

  def as_dict(self) -> dict[str, Any]:
    """The flat object of the JSON file."""
    return dataclasses.asdict(self)


def laws_beside(law: Law) -> list[Law]:
  """The law and the others of its columns; none where no other law describes these columns."""
  if law.name in _OF_OTHER_COLUMNS:
    return []
  if law.num_x == 1:
    return [other for other in LAWS.values() if other.num_x == 1]
  names = [_SAME.get(name, name) if law.num_x == 2 and law.name != name else name for name in OF_ANY_COLUMNS]
  return [law if name == law.name else law_of(name, law.columns) for name in names]


def rivals(fit: Fit, x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array, noise: Noise | None, loss: Loss) -> list[Rival]:
  """Every law of the fit's columns on its points, the lowest AICc first; empty where the fit is refused or has borrowed parameters.

  Args:
    x, y, seed: the points in the window of the fit.
    noise: of the training passes, pooled over all groups.
    loss: the loss of the fit.
  """
  if fit.refused or fit.borrowed:
    return []
  first = settings.first_of_copies(x, y, seed)
  x, y, seed = x[first], y[first], seed[first]
  passes = settings.of_passes(fit.form, x, y, seed, noise) if fit.method in ("gls", "gls_residuals") else None
  alone = settings.independent(fit.form, x, y, loss, average=False)
  fewer = _means(alone.problem)
  setting = passes or dataclasses.replace(alone, problem=fewer, total=None, count=0)
  x, y = np.exp(fewer.log_x), np.exp(fewer.log_y + fewer.log_y0)
  found = [_one(law, fit, setting, x, y) for law in laws_beside(fit.form)]
  best = min((rival.aicc for rival in found if rival.aicc is not None), default=None)
  found = [r if r.aicc is None or best is None else dataclasses.replace(r, behind=r.aicc - best) for r in found]
  return sorted(found, key=lambda r: np.inf if r.behind is None else r.behind)


def _means(problem: Problem) -> Problem:
  """Means of neighbours in place of many points, the same ones for all laws."""
  cell = cells(problem.log_x, CURVED_CELLS)
  if cell is None:
    return problem
  square = problem.whiten.weight**2 if isinstance(problem.whiten, Weights) else np.ones(len(cell))
  log_x, log_y = (cell_means(values, cell, square) for values in (problem.log_x, problem.log_y))
  return dataclasses.replace(problem, log_x=log_x, log_y=log_y, whiten=Weights(np.sqrt(np.bincount(cell, square))))


def _one(law: Law, fit: Fit, setting: settings.Setting, x: Array, y: Array) -> Rival:
  rival = Rival(fit.group, law.name, law.name == fit.law, len(law.params))
  problem, loss = dataclasses.replace(setting.problem, law=law), setting.problem.loss
  if reason := refusal(law, np.exp(problem.log_x), np.exp(problem.log_y)):
    return dataclasses.replace(rival, reason=reason)
  criterion = None
  if loss.delta is None:
    solution = solve(problem)
    if setting.noise is None:
      solution = dataclasses.replace(solution, cost=max(solution.cost, len(problem.log_y) * _EXACT**2))
    criterion = aicc(dataclasses.replace(setting, problem=problem), solution)
  held_out = extrapolate(law, x, y, loss)
  error = held_out["mean_abs_relative_error"] if held_out else None
  return dataclasses.replace(rival, aicc=criterion, held_out_error=error)


def better_law(found: list[Rival]) -> str:
  """One sentence on the laws that are clearly better than the law of the fit; empty where none is."""
  asked = next((rival for rival in found if rival.asked), None)
  if asked is None:
    return ""
  others = [rival for rival in found if not rival.asked]
  said = []
  known = [r for r in others if r.aicc is not None and asked.aicc is not None and asked.aicc - r.aicc > BEHIND]
  if known:
    best = min(known, key=lambda r: r.aicc or 0.0)
    said.append(f"{best.law} describes the points better than {asked.law} (AICc {(asked.aicc or 0.0) - (best.aicc or 0.0):.3g} lower)")
  own = asked.held_out_error
  closer = [r for r in others if r.held_out_error is not None and own is not None and r.held_out_error + _EXACT < HALF * own]
  if closer and own is not None:
    best = min(closer, key=lambda r: r.held_out_error or 0.0)
    said.append(
      f"fitted to the smaller x, {best.law} predicts the largest quarter within {best.held_out_error:.2%}, {asked.law} within {own:.2%}"
    )
  return ", and ".join(said)
