"""Laws compared on the same points: AICc, and prediction errors at larger x of fits to the smaller x.

Called by `analysis.report` for one curve of each axis.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.fitting import adequacy, settings
from analysis.fitting.diagnostics import aicc
from analysis.fitting.laws import LAWS, Law
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.marquardt import SQUARES
from analysis.fitting.noise import Noise
from analysis.fitting.refusals import refusal
from analysis.fitting.uncertainty import condition
from analysis.questions.curves import Curve, distinct, largest
from analysis.questions.sweep_laws import Noises

Array = np.ndarray
DISTANCES = (2.0, 4.0, 8.0, 16.0)  # predicted x over the largest fitted x: up to 2, from there up to 4, ...
_MOST_CUTS = 4  # smaller ranges of x that a law is fitted to, at most


@dataclasses.dataclass(frozen=True)
class Compared:
  """One law on one curve.

  Attributes:
    group: the curve.
    law: its name.
    status: empty, why there is no fit, or `misfit` where the points contradict the law.
    on_bound: parameters on the edge of their domain.
    aicc, behind: Akaike's criterion for small samples, and its distance from the best law's; None with too few points.
    condition_number: the condition number of the fit.
    errors: for each of `DISTANCES`, the root mean square relative error of predictions at that distance; NaN where there are none.
  """

  group: str
  law: str
  status: str
  on_bound: tuple[str, ...] = ()
  aicc: float | None = None
  behind: float | None = None
  condition_number: float | None = None
  errors: tuple[float, ...] = (float("nan"),) * len(DISTANCES)

  def as_dict(self) -> dict[str, Any]:
    """The flat object of `laws.json`."""
    errors = [{"distance": d, "rms_relative_error": None if np.isnan(e) else e} for d, e in zip(DISTANCES, self.errors, strict=True)]
    return dataclasses.asdict(self) | {"errors": errors}


def compare_largest(given: list[Curve], noises: Noises) -> list[Compared]:
  """All laws on the DLRM's curve of the largest size of each axis; the run that is on several axes once."""
  out: list[Compared] = []
  for curve in distinct(largest([c for c in given if c.learner == "dlrm"])):
    group, noise = f"{curve.workload} / {curve.axis} / {curve.size:g}", noises.get((curve.workload, "dlrm", curve.metric))
    if curve.drifts and curve.drift is not None:
      out += [Compared(group, law.name, f"refused: {curve.drift.short}") for law in LAWS.values() if law.num_x == 1]
    else:
      out += compare(*curve.arrays, noise, group)
  return out


def compare(x: Float[Array, " n"], y: Float[Array, " n"], seed: Array, noise: Noise | None, group: str) -> list[Compared]:
  """Every law of one x, fitted to the points of one curve and to the smaller ranges of it; the lowest AICc first."""
  out = [_one(law, x, y, seed, noise, group) for law in LAWS.values() if law.num_x == 1]
  known = [c.aicc for c in out if c.aicc is not None]
  out = [c if c.aicc is None else dataclasses.replace(c, behind=c.aicc - min(known)) for c in out]
  return sorted(out, key=lambda c: np.inf if c.behind is None else c.behind)


def _one(law: Law, x: Array, y: Array, seed: Array, noise: Noise | None, group: str) -> Compared:
  reason = refusal(law, x[:, None], y)
  if reason:
    return Compared(group, law.name, f"refused: {reason}")
  along = settings.of_passes(law, x[:, None], y, seed, noise)
  setting = along or settings.independent(law, x[:, None], y, SQUARES)
  problem, solution = setting.problem, solve(setting.problem)
  lack = setting.misfit(solution)
  missed = adequacy.misses(problem, solution, setting.known_variance, setting.known_free, lack, alone=along is None)
  criterion = aicc(setting, solution)
  errors = errors_by_distance(law.name, x, y)
  return Compared(group, law.name, "misfit" if missed else "", solution.on_bound, criterion, None, condition(problem, solution), errors)


def errors_by_distance(law: str, x: Float[Array, " n"], y: Float[Array, " n"]) -> tuple[float, ...]:
  """Root mean square relative errors of predictions at x by fits to the points up to x_c, by the distance x / x_c.

  There are up to `_MOST_CUTS` x_c; each leaves enough points to fit and some to predict.
  """
  form = LAWS[law]
  at = np.unique(x)
  mean = np.array([np.exp(np.mean(np.log(y[x == v]))) for v in at])
  squares: list[list[float]] = [[] for _ in DISTANCES]
  for last in np.unique(np.linspace(form.min_points, len(at) - 1, _MOST_CUTS).round().astype(int)):
    if not form.min_points <= last < len(at):
      continue
    problem = Problem.of(form, at[:last], mean[:last])
    predicted = form.predict(problem.values(solve(problem).theta), at[last:])
    for distance, error in zip(at[last:] / at[last - 1], predicted / mean[last:] - 1, strict=True):
      place = int(np.searchsorted(DISTANCES, distance * (1 - 1e-9)))
      if place < len(DISTANCES):
        squares[place].append(float(error) ** 2)
  return tuple(float(np.sqrt(np.mean(s))) if s else float("nan") for s in squares)
