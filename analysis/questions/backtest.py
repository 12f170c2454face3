"""Backtests of the law behind advice: fitted to the smaller points of a sweep, it predicts the largest measured ones.

Called by `additive.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from analysis.fitting import settings
from analysis.fitting.laws import Law, additive
from analysis.fitting.least_squares import SQUARES, solve
from analysis.fitting.refusals import refusal

Array = np.ndarray
_FACTORS = (10.0, 4.0, 2.0)  # the evaluations up to the end over this are fitted: the first of these that leaves enough
_MIN_EXAMPLES = 4  # distinct numbers of examples that must be left
_MIN_SIZES = 3  # sizes of an axis that must be left


@dataclasses.dataclass(frozen=True)
class Backtest:
  """One prediction of what was measured.

  Attributes:
    along: `examples`, or the axis whose largest size was left out.
    fitted_to: the largest value there that was fitted.
    at: the value predicted for.
    predicted, measured: the losses; the measured one is the geometric mean over seeds.
  """

  along: str
  fitted_to: float
  at: float
  predicted: float
  measured: float

  @property
  def error(self) -> float:
    """Predicted over measured, less 1."""
    return self.predicted / self.measured - 1

  @property
  def text(self) -> str:
    what = "evaluations up to" if self.along == "examples" else f"{self.along} up to"
    unit = " examples" if self.along == "examples" else ""
    return (
      f"Backtest: fitted to {what} {self.fitted_to:,.4g}{unit}, the law predicts {self.predicted:.5g} at {self.at:,.4g}{unit}, where "
      f"{self.measured:.5g} was measured ({self.error:+.2%})"
    )


def backtests(
  law: Law, x: Float[Array, "n C"], y: Float[Array, " n"], seed: Array, base: Float[Array, " C"], of_ends: bool
) -> list[Backtest]:
  """The law fitted to the earlier evaluations of all passes, then without the largest size of each axis that is larger than the base's.

  Where only the ends of runs are known, the other sizes have no earlier ones. Then the term of the examples is fitted to the base's alone.

  Args:
    law: of the axes and then the examples (`laws.additive`).
    x, y, seed: the points.
    base: the base's sizes and the examples at its end.
    of_ends: whether the points are ends of runs.
  """
  out = []
  own = np.all(x[:, :-1] == base[:-1], axis=1) if of_ends else np.ones(len(x), bool)
  columns = slice(-1, None) if of_ends else slice(None)
  law_of_examples = additive(law.columns[-1:]) if of_ends else law
  for factor in _FACTORS:
    kept = own & (x[:, -1] <= base[-1] / factor)
    if len(np.unique(x[kept, -1])) >= _MIN_EXAMPLES:
      found = _one(law_of_examples, x[own, columns], y[own], seed[own], kept[own], base[columns], -1, of_ends)
      if found is not None:
        out.append(found)
        break
  for i in range(len(base) - 1):
    sizes = np.unique(x[:, i])
    if len(sizes) > _MIN_SIZES and sizes[-1] > base[i]:
      largest = base.copy()
      largest[i] = sizes[-1]
      mine = np.all(x[:, :-1] == largest[:-1], axis=1)
      if mine.any():
        largest[-1] = x[mine, -1].max()
        out += [found] if (found := _one(law, x, y, seed, x[:, i] < sizes[-1], largest, i, of_ends)) is not None else []
  return out


def _one(
  law: Law,
  x: Float[Array, "n C"],
  y: Float[Array, " n"],
  seed: Array,
  kept: Bool[Array, " n"],
  target: Float[Array, " C"],
  i: int,
  of_ends: bool,
) -> Backtest | None:
  """The prediction at `target` of a fit to the points `kept`, which are smaller in column i; None where they allow no fit."""
  there = np.all(x == target, axis=1)
  if not there.any() or refusal(law, x[kept], y[kept]):
    return None
  passes = None if of_ends else settings.of_passes(law, x[kept], y[kept], seed[kept], None)
  setting = passes or settings.independent(law, x[kept], y[kept], SQUARES)
  predicted = law.predict(setting.problem.values(solve(setting.problem).theta), target[None])
  return Backtest(law.columns[i], float(x[kept, i].max()), float(target[i]), float(predicted[0]), float(np.exp(np.log(y[there]).mean())))
