"""Whether NE follows the law of the excess on planted data: one law is fitted to the excess, and one to NE. Called by `analysis.report`.

NE is (excess + b)/H, where b is the loss of the true click probabilities and H the entropy of the click rate. So where the excess is a
power of examples with limit 0, NE must be a power plus a constant, with the exponent of the excess and the constant b/H. The paper fits
NE. On a real click log the excess is not known, so that only NE can be fitted.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl

from analysis.fitting.fit_law import fit_law
from analysis.fitting.result import Estimate, Fit, as_dict, interval_text
from analysis.load import same_rows
from analysis.questions.curves import Curve
from analysis.questions.sweep_laws import Noises, pooled_noise


@dataclasses.dataclass(frozen=True)
class NeLaw:
  """NE and excess of one curve.

  Attributes:
    workload, learner, axis, size: the curve.
    excess: law `power` of the whole excess.
    ne: law `power_constant` of NE.
    tail: law `power` of the tail's excess, where planted data has other parts; else None.
    bayes: the NE of the true click probabilities on the evaluation draws: the constant that NE must have.
  """

  workload: str
  learner: str
  axis: str
  size: float
  excess: Fit
  ne: Fit
  tail: Fit | None
  bayes: float

  @property
  def difference(self) -> tuple[float, float, float] | None:
    """The exponent of NE minus that of the excess, with its 95% interval (Zou & Donner 2008, from both intervals); None without both."""
    ne, excess = (_closed(fit.params.get("beta")) for fit in (self.ne, self.excess))
    if ne is None or excess is None:
      return None
    (b, low, high), (b0, low0, high0) = ne, excess
    return b - b0, b - b0 - float(np.hypot(b - low, high0 - b0)), b - b0 + float(np.hypot(high - b, b0 - low0))

  @property
  def agrees(self) -> bool | None:
    """Whether NE has the exponent of the excess and the constant that it must have; None where one of them has no law."""
    gamma, difference = _closed(self.ne.params.get("gamma")), self.difference
    if not self.excess.believed or not self.ne.believed or gamma is None or difference is None:
      return None
    return difference[1] <= 0 <= difference[2] and gamma[1] <= self.bayes <= gamma[2]

  @property
  def verdict(self) -> str:
    """Whether NE follows the law of the excess, with the numbers, in a sentence."""
    if self.ne.refused or self.ne.status == "misfit":
      return f"NE has no law: {self.ne.reason}"
    exponent, constant = (interval_text(self.ne.params.get(name), 3) for name in ("beta", "gamma"))
    if self.ne.status == "not_identifiable":
      return f"NE does not determine its exponent, {exponent}; the excess gives {interval_text(self.excess.params.get('beta'), 3)}"
    if self.excess.refused or self.excess.status == "misfit":
      tail = "" if self.tail is None else f", not that of the tail, {interval_text(self.tail.params.get('beta'), 3)}"
      said = f"the whole excess is no power of examples, so that the exponent of NE, {exponent}, is that of all parts together{tail}"
      gamma = _closed(self.ne.params.get("gamma"))
      wrong = gamma is not None and not gamma[1] <= self.bayes <= gamma[2]
      return said + (f"; nor is its constant, {constant}, that of theory, {self.bayes:.4f}" if wrong else "")
    if self.agrees is None or self.difference is None:
      return f"the exponent of NE is {exponent} with the constant {constant}; nothing to compare it with"
    numbers = f"exponent {exponent} where the excess has {interval_text(self.excess.params['beta'], 3)}, constant {constant} where "
    numbers += f"theory has {self.bayes:.4f}"
    if not self.agrees:
      value, low, high = self.difference
      return f"NE does not follow the law of the excess: {numbers}; the exponents differ by {value:.3f} [{low:.3f}, {high:.3f}]"
    return f"NE follows the law of the excess: {numbers}{self._wider}"

  @property
  def _wider(self) -> str:
    """How much wider the interval of NE's exponent is, or empty."""
    ne, excess = (_closed(fit.params.get("beta")) for fit in (self.ne, self.excess))
    if ne is None or excess is None or ne[2] - ne[1] < 2 * (excess[2] - excess[1]):
      return ""
    return f"; its interval is {(ne[2] - ne[1]) / (excess[2] - excess[1]):.0f} times as wide, since the constant is fitted too"

  def as_dict(self) -> dict[str, Any]:
    """The object of `laws.json`."""
    out: dict[str, Any] = {name: getattr(self, name) for name in ("workload", "learner", "axis", "size", "bayes", "agrees", "verdict")}
    return out | {
      name: None if fit is None else as_dict(fit) for name, fit in (("excess", self.excess), ("ne", self.ne), ("tail", self.tail))
    }


def _closed(estimate: Estimate | None) -> tuple[float, float, float] | None:
  """An estimate and the ends of its interval; None where an end is open."""
  if estimate is None or estimate.ci_low is None or estimate.ci_high is None:
    return None
  return estimate.estimate, estimate.ci_low, estimate.ci_high


def ne_laws(given: list[Curve]) -> list[NeLaw]:
  """One for each workload of planted data: the DLRM's curve on the data axis, or the largest of the first axis without one.

  Curves whose rows are limited have a constant in their excess and are left out.

  Args:
    given: the curves of a sweep (`curves.curves`).
  """
  mine = [c for c in given if c.learner == "dlrm" and not c.limited and len(c.points) and c.points["excess"].is_not_null().all()]
  mine = [c for c in mine if c.points["ne"].is_not_null().all()]
  chosen: dict[str, Curve] = {}
  for curve in sorted(mine, key=lambda c: (c.axis != "data", c.axis, -c.size)):
    chosen.setdefault(curve.workload, curve)
  wanted = {metric: pooled_noise([dataclasses.replace(c, metric=metric) for c in given]) for metric in ("excess", "excess_tail", "ne")}
  return [_of(curve, wanted) for curve in chosen.values()]


def _of(curve: Curve, noises: dict[str, Noises]) -> NeLaw:
  def fit(metric: str, law: str) -> Fit:
    x, y, seed = dataclasses.replace(curve, metric=metric).arrays
    noise = noises[metric].get((curve.workload, curve.learner, metric))
    return fit_law(x, y, law, seed, noise=noise, same_rows=same_rows(curve.points))

  tail = fit("excess_tail", "power") if curve.points["excess_tail"].is_not_null().all() else None
  bayes = float(curve.points.select((pl.col("ne") * (1 - pl.col("excess") / pl.col("log_loss"))).mean()).item())
  place = (curve.workload, curve.learner, curve.axis, curve.size)
  return NeLaw(*place, fit("excess", "power"), fit("ne", "power_constant"), tail, bayes)
