"""Regimes of a curve, by the elasticity e(x) = -d ln L / d ln x of its fitted law: how much more of the resource still lowers the loss.

The measured points decide first. A curve is called saturated only where its last measured points are flat too, within their noise. A law
that the points contradict gives no regime: then the slopes of the first and last measured points are compared, if they tell.

For a power law plus constant e = beta (L - gamma)/L. The thresholds, stated on every page that uses them (`TEXT`):

- power law: e is at least half of its value at the start of the window.
- saturated: e is below a tenth of that value, or ten times the resource would lower the loss by less than 0.1%. That is the smallest
  difference in log loss that click models are usually compared by (He et al. 2014; Zhang et al. 2024, arXiv 2403.02545).
- transition: between the two.

Called by `analysis.questions.schemes` and `analysis.report.plots`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Real

from analysis.fitting.measured import Slopes
from analysis.fitting.result import Fit

Array = np.ndarray
POWER_SHARE, SATURATED_SHARE = 0.5, 0.1  # of the elasticity at the start of the window
SATURATED_GAIN = 0.001  # relative fall of the loss by ten times the resource
POWER, TRANSITION, SATURATED, UNKNOWN = "power law", "transition", "saturated", "cannot tell"
STEEPENING, RISING = "steepening", "rises"  # of the measured points, where no law holds
TEXT = (
  f"Regimes by elasticity e = -dlnL/dlnx along the fitted law: power law while e is at least {POWER_SHARE:.0%} of its value at the start "
  f"of the window; saturated below {SATURATED_SHARE:.0%} of it, or where ten times the resource buys less than {SATURATED_GAIN:.1%}; "
  "transition between. The curve itself is known in its window even where its exponent is not. A curve is saturated only where its last "
  "measured points (a third of them, of four at least) are flat too, or do not fall beyond their noise. Where the points contradict the "
  "law or allow none, their own slopes over the first and last third are compared: saturated, steepening where they fall faster at the "
  "end, else cannot tell."
)
_FLAT = -float(np.log10(1 - SATURATED_GAIN))  # the elasticity of a curve that ten times the resource lowers by that much
_ALLOWANCE = 1.5  # a straight line through the last third of a bent curve is steeper than the curve between its ends
_STEP = 1e-4  # in log x, for the slope
_GRID = 60


@dataclasses.dataclass(frozen=True)
class Segment:
  """A stretch of a curve in one regime."""

  regime: str
  x_from: float
  x_to: float


def elasticity(fit: Fit, x: Real[Array, " n"]) -> Float[Array, " n"]:
  """-d ln L / d ln x of a fitted law of one x."""
  x = np.asarray(x, np.float64)
  return (np.log(fit.predict(x * np.exp(-_STEP))) - np.log(fit.predict(x * np.exp(_STEP)))) / (2 * _STEP)


def regime_at(fit: Fit, x: float) -> str:
  """The regime of a curve at x; where no law holds, what its measured points show at the end, or `cannot tell`."""
  if fit.refused or fit.status == "misfit":
    return _without_law(fit.slopes)
  if fit.form.num_x != 1 or fit.x_min is None:
    return UNKNOWN
  start, here = map(float, elasticity(fit, np.array([fit.x_min, x])))
  return _measured(_regime(start, here), fit)


def _regime(start: float, here: float) -> str:
  """The regime by the elasticity at the start of the window and at a place."""
  if here < SATURATED_SHARE * start or 1 - 10**-here < SATURATED_GAIN:
    return SATURATED
  return POWER if here >= POWER_SHARE * start else TRANSITION


def _measured(regime: str, fit: Fit) -> str:
  """The regime of a law, unless the last measured points contradict it."""
  if regime != SATURATED:
    return regime
  if fit.slopes is None:  # too few points to have a flat end
    return UNKNOWN
  if fit.slopes.steepening:
    return STEEPENING
  return SATURATED if flat_end(fit.slopes, _ALLOWANCE) else TRANSITION


def flat_end(slopes: Slopes, allowance: float) -> bool:
  """Whether the last measured points are as flat as a saturated curve, or level within noise that excludes half of the first slope.

  Level: ten times the resource would lower the loss by less than `SATURATED_GAIN`. A fall beyond the noise is none of it.

  Args:
    slopes: of the measured points.
    allowance: how many times the slope of a saturated curve counts as flat.
  """
  flat = max(SATURATED_SHARE * slopes.start, _FLAT)
  return slopes.end <= allowance * flat or (slopes.end_low <= _FLAT and slopes.end_high <= POWER_SHARE * slopes.start)


def _without_law(slopes: Slopes | None) -> str:
  if slopes is None:
    return UNKNOWN
  if slopes.steepening:
    return STEEPENING
  if slopes.end_high < -_FLAT:
    return RISING
  level = max(abs(slopes.start), abs(slopes.before), abs(slopes.end)) <= _FLAT
  return SATURATED if level or (slopes.start > _FLAT and flat_end(slopes, 1.0)) else UNKNOWN


def segments(fit: Fit) -> list[Segment]:
  """The regimes of a curve over its window, from small x to large; one `cannot tell` where the points contradict the law."""
  if fit.refused or fit.x_min is None or fit.x_max is None or fit.form.num_x != 1:
    return []
  grid = np.geomspace(fit.x_min, fit.x_max, _GRID)
  found: list[Segment] = []
  along = elasticity(fit, grid)
  for x, here in zip(map(float, grid), map(float, along), strict=True):
    regime = UNKNOWN if fit.status == "misfit" else _measured(_regime(float(along[0]), here), fit)
    if found and found[-1].regime == regime:
      found[-1] = dataclasses.replace(found[-1], x_to=x)
    else:
      found.append(Segment(regime, found[-1].x_to if found else x, x))
  return found
