"""Backtests of the laws behind advice: fitted to the smaller points of a sweep, they predict the largest measured ones.

Called by `additive.py`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from analysis.questions.origins import Origin

_FACTORS = (10.0, 4.0, 2.0)  # the evaluations up to the end over this are fitted: the first of these that leaves enough
_ROUNDING = 1e-9


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


def backtests(forecasts: Sequence[Origin], examples: float) -> list[Backtest]:
  """What was predicted for the base's end by fits to its earlier evaluations, and for the largest size of each axis by fits to the others.

  Args:
    forecasts: of the laws behind advice.
    examples: those of the base at its end.
  """
  out, along = [], [o for o in forecasts if o.along == "examples"]
  for factor in _FACTORS:
    if earlier := [o for o in along if o.fitted_to <= examples / factor * (1 + _ROUNDING)]:
      out.append(_of(earlier[-1]))
      break
  last = {o.along: o for o in forecasts if o.along != "examples"}
  return out + [_of(origin) for origin in last.values()]


def _of(origin: Origin) -> Backtest:
  """The forecast of the largest value."""
  measured, error = float(origin.measured[-1]), float(origin.errors[0, -1])
  at, fitted_to = float(origin.at[-1]), origin.fitted_to
  return Backtest(origin.along, fitted_to, at, float(np.exp(measured + error)), float(np.exp(measured)))
