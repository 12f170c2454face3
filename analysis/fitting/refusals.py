"""Why points allow no fit of a law. Called by `fit_law.py` and by comparisons of laws."""

import numpy as np
from jaxtyping import Float

from analysis.fitting.laws import Law
from analysis.fitting.result import CONSTANT, RISES

Array = np.ndarray
_RAY = 1e-4  # share of the spread of log x that must be across the line on which points lie, to tell columns apart


def refusal(law: Law, x: Float[Array, "n C"], y: Float[Array, " n"]) -> str:
  """Why these points allow no fit; empty when they allow one."""
  for name, values in (("x", x.ravel()), ("y", y)):
    bad = ~np.isfinite(values)
    if bad.any():
      return f"{bad.sum()} of {len(values)} values of {name} are not finite numbers"
    if (values <= 0).any():
      at = int(np.argmax(values <= 0))
      return f"{name} must be positive to be fitted on logarithms, {name}={values[at]:g}" + (f" at x={x[at, -1]:g}" if name == "y" else "")
  distinct = len(np.unique(x, axis=0)) if len(x) else 0
  if distinct < law.min_points:
    return f"{distinct} distinct x, law {law.name} needs at least {law.min_points}"
  least = 2 if law.bind else 3  # a term has two parameters, of which one may be borrowed
  if law.num_x > 1 and min(len(np.unique(column)) for column in x.T) < least:
    return f"a column of x has fewer than {least} distinct values, law {law.name} needs them in each"
  if np.ptp(np.log(y)) < 1e-12:
    return CONSTANT
  if law.num_x > 1 and (ray := one_ray(x, law.columns)):
    return ray
  if law.outside is not None and (outside := law.outside(x, y)):
    return outside
  columns = np.column_stack([np.log(x), np.ones(len(x))])
  slopes = np.linalg.lstsq(columns, np.log(y), rcond=None)[0][:-1]
  return f"{RISES} (slope {slopes.min():+.3g} on log-log axes)" if slopes.min() >= 0 else ""


def one_ray(x: Float[Array, "n C"], names: tuple[str, ...]) -> str:
  """Why the columns of x cannot be told apart: on logarithms all points lie on one line or plane. Empty where they do not.

  On such a ray, N and D in proportion for example, a law of one column explains the points as well as one of the other.
  """
  rows = np.unique(np.log(x), axis=0)
  spread = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
  if spread[-1] > _RAY * spread[0]:
    return ""
  if x.shape[1] > 2:
    return f"all runs vary {' and '.join(names)} together, which cannot be told apart"
  log_x, low, high = np.log(x), x[np.argmin(x[:, 0])], x[np.argmax(x[:, 0])]
  slope = float(np.polyfit(log_x[:, 0], log_x[:, 1], 1)[0])
  ratio = f"{names[1]}/{names[0]} = {low[1] / low[0]:.4g}"
  ratio += "" if abs(slope - 1) < 1e-3 else f" to {high[1] / high[0]:.4g}"
  return f"all runs are on one ray, {ratio}: {names[0]} and {names[1]} cannot be told apart; vary one of them alone"
