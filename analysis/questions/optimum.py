"""The compute optimum of a law of parameters and examples, with 95% intervals. Called by `analysis.fit` and `analysis.optimum`.

The law is fitted again in coordinates that are the optimum itself (`optimum_law.py`), so that its intervals are computed like those of any
parameter: by profile likelihood, or as percentiles over the draws of a bootstrap. They hold only where the law does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from analysis.fitting.laws import Law
from analysis.fitting.optimum_law import Budget, optimum_law, optimum_of
from analysis.fitting.result import Estimate, Fit, interval_text

FLOPS_PER_PARAM = 6.0  # of a transformer: training FLOPs per parameter and example
_WIDE = 10.0  # an interval of N that spans more than this factor is too wide to plan with
_MOST = 700.0  # logarithm of the largest number


def optimum(fit: Fit, refit: Callable[[Law], Fit], budget: Budget) -> dict[str, Estimate]:
  """The best split of a budget: N, D, D_per_N, loss, and a, with which N grows as C^a. An end that the points leave open is None.

  Args:
    fit: of law `chinchilla`.
    refit: fits another law to the same points in the same way.
    budget: the FLOPs.
  """
  best = optimum_of(fit.estimates, budget)
  found = refit(optimum_law(budget)).params
  n, loss, share = found["N"], found["loss"], found["b"]
  ends = [None if end is None else float(np.log(end)) for end in (n.ci_low, n.ci_high)]
  size = Estimate(float(np.log(best["N"])), None if n.std_error is None else n.std_error / n.estimate, *ends)
  a = (None if v is None else v / budget.power for v in (share.std_error, share.ci_low, share.ci_high))
  loss = Estimate(best["loss"], loss.std_error, loss.ci_low, loss.ci_high)
  found_all = split_at(size, budget) | {"loss": loss, "a": Estimate(best["a"], *a)}
  return {name: _holding(estimate) for name, estimate in found_all.items()}


def _holding(found: Estimate) -> Estimate:
  """The estimate without an end that excludes it: at budgets of a hundred decades beyond the points, the search for it ends in rounding."""
  low, high = found.ci_low, found.ci_high
  low, high = (None if low is None or low > found.estimate else low), (None if high is None or high < found.estimate else high)
  return dataclasses.replace(found, ci_low=low, ci_high=high)


def split_at(log_size: Estimate, budget: Budget) -> dict[str, Estimate]:
  """N, D and D_per_N of a budget by the estimate of log N."""
  spent, p = float(np.log(budget.flops / budget.cost)), budget.power
  return {"N": _power(log_size, 1.0, 0.0), "D": _power(log_size, -p, spent), "D_per_N": _power(log_size, -p - 1, spent)}


def _power(log: Estimate, power: float, shift: float) -> Estimate:
  """The estimate of exp(shift + power * v) from that of v."""

  def value(v: float) -> float:
    return float(np.exp(np.clip(shift + power * v, -_MOST, _MOST)))

  ends = [None if end is None else value(end) for end in (log.ci_low, log.ci_high)]
  best = value(log.estimate)
  return Estimate(best, None if log.std_error is None else abs(power) * log.std_error * best, *(ends if power > 0 else ends[::-1]))


def width(split: Mapping[str, Estimate]) -> str:
  """A sentence on an interval of N that is too wide to plan with, or empty."""
  low, high = split["N"].ci_low, split["N"].ci_high
  if low is None or high is None:
    return "The points leave the interval of N open: they do not determine the split."
  return f"The interval of N spans a factor of {high / low:.3g}: the points hardly determine the split." if high > _WIDE * low else ""


def beyond(budget: Budget, reach: float, held: str = "the law") -> str:
  """A sentence on a budget far beyond the FLOPs of the most expensive point, `reach`; or empty. `held`: what must hold up to there."""
  if budget.flops <= 2 * reach:
    return ""
  return f"The largest point has {reach:.3g} FLOPs: so far beyond the points the intervals hold only if {held} does."


@dataclasses.dataclass(frozen=True)
class Split:
  """The best split of a budget by the law of one group.

  Attributes:
    group: its name.
    budget: the FLOPs.
    params: see `optimum`.
    reach: the FLOPs of the group's most expensive point.
    columns: the user's names of parameters and examples, N and D.
  """

  group: str
  budget: Budget
  params: Mapping[str, Estimate]
  reach: float
  columns: tuple[str, ...] = ("N", "D")

  @property
  def sentence(self) -> str:
    """The split with its 95% intervals, and what a reader must know."""
    n, d, ratio, a = (interval_text(self.params[name]) for name in ("N", "D", "D_per_N", "a"))
    loss = interval_text(self.params["loss"], 5)
    names = [letter if name == letter else f"{letter} ({name})" for letter, name in zip("ND", self.columns, strict=True)]
    text = f"{self.budget.flops:.4g} FLOPs are best spent as {names[0]} {n}, {names[1]} {d}, D/N {ratio}; the loss is then {loss}."
    return " ".join(filter(None, [text, f"N grows as C^a with a = {a}.", width(self.params), beyond(self.budget, self.reach)]))

  def as_dict(self) -> dict[str, Any]:
    """An entry of `compute_optimal`: the best values, and under `params` their standard errors and 95% intervals."""
    values = {name: estimate.estimate for name, estimate in self.params.items()}
    params = {name: vars(estimate) for name, estimate in self.params.items()}
    return {"group": self.group, "flops": self.budget.flops, "flops_per_param": self.budget.cost, **values, "params": params}
