"""How far a law's form errs beyond the points, from forecasts of measured points by fits to the smaller ones. Called by `ensemble.py`.

A forecast errs by noise and by the law's form. The standard deviation of the form's error is in proportion to the log distance. The factor
is the one of highest likelihood, over all errors along a column. Errors at neighbouring places are correlated. So the degrees of freedom
are the number of distances that do not overlap, and an interval widens faster than the distance.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from analysis.fitting.uncertainty import quantile
from analysis.questions.design import PRODUCT
from analysis.questions.origins import Origin

Array = np.ndarray
_FACTORS = np.geomspace(1e-5, 10.0, 300)  # standard deviations of the form for each unit of log distance that are tried
_LEAST = 1e-4  # the least standard error of a form for each unit of log distance
_ROUNDING = 1e-16


def growths(own: Sequence[Origin]) -> dict[str, float]:
  """For each column with forecasts of the procedure, the standard error of the form for each unit of log distance."""
  along = dict.fromkeys(origin.along for origin in own)
  return {name: float(np.hypot(_likeliest([o for o in own if o.along == name]), _LEAST)) for name in along}


def _likeliest(own: list[Origin]) -> float:
  """The factor of highest likelihood, 0 where noise explains the errors."""
  error, noise, distance = (
    np.concatenate([values(o) for o in own]) for values in (lambda o: o.errors[0], lambda o: o.noise[0], lambda o: o.distance)
  )
  factor = np.concatenate([[0.0], _FACTORS])
  variance = noise + factor[:, None] ** 2 * distance**2 + _ROUNDING
  return float(factor[np.argmin(np.sum(np.log(variance) + error**2 / variance, axis=1))])


def half_width(own: Sequence[Origin], growth: dict[str, float], names: Sequence[str], step: Float[Array, " C"]) -> float:
  """Half of the 95% interval of log y that the form causes at a step beyond the points; infinite without a forecast.

  Args:
    own, growth: the forecasts and the result of `growths`.
    names, step: the columns of x, and how far beyond the points the place is in each, in log x.
  """
  up = {name: float(d) for name, d in zip(names, step, strict=True) if d > 0}
  if not up:
    return 0.0
  if not set(up) <= set(growth):
    return float("inf")
  length = float(np.linalg.norm(list(up.values())))
  size = float(np.linalg.norm([growth[name] * d for name, d in up.items()]))
  if len(up) > 1 and PRODUCT in growth:
    size = max(size, growth[PRODUCT] * length)
  return size * quantile(max(1.0, min(float(len(own)), 1 + _tested(own, names) / length)))


def _tested(own: Sequence[Origin], names: Sequence[str]) -> float:
  """The log distance from the smallest fitted part to the largest forecast, summed over the columns."""
  out = 0.0
  for name in names:
    if mine := [o for o in own if o.along == name]:
      out += float(np.log(max(o.at.max() for o in mine) / min(o.fitted_to for o in mine)))
  return out
