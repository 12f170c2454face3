"""Minima of measured scans, each by a parabola or a cubic with its error, and the weighted power law that they follow.

A scan is the loss at several values of one setting with everything else fixed, such as learning rates at one model size. `minima` finds the
setting of least loss of every scan. `power_of_minima` finds how it depends on the size. Called by `analysis.questions.rate_laws`. IsoFLOP
profiles have minima of their own, with a skew (`analysis.questions.isoflop`).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped
from scipy import special

from analysis.fitting.power_line import PowerLine, power_line
from analysis.fitting.uncertainty import quantile

Array = np.ndarray
SIDE = 2  # settings on each side of the lowest one to which a curve is fitted: far from the minimum a loss is no cubic
_RESOLUTION = 1e-12  # standard deviations below this are rounding errors
_EXACT = 1e-6  # share of the tried range below which an interval is that of the delta method: its ends are a double root to rounding
_UNEVEN = 0.01  # significance level of the F test for cubics


@dataclasses.dataclass(frozen=True)
class Scan:
  """Losses at several settings.

  Attributes:
    log_x: log of the setting.
    y: what is minimised, usually log loss. Its noise must be equal in all scans of one call.
    seed: the seed of each point. Where every seed is at two or more settings, each has a level of its own, so that an offset of a seed is
      no noise. None: points are separate runs.
  """

  log_x: Float[Array, " n"]
  y: Float[Array, " n"]
  seed: Shaped[Array, " n"] | None = None


@dataclasses.dataclass(frozen=True)
class Minimum:
  """The minimum of a scan.

  Attributes:
    log_x: the log setting of least y; None where the scan has none.
    std_error: its standard error; None where the noise of y cannot be estimated.
    low, high: its 95% interval by Fieller's theorem; None with `std_error`.
    y: the curve's value there.
    free: degrees of freedom of the errors, shared by all scans of one call.
    reason: why the scan has no minimum, or empty.
    end: -1 or 1 where y is least at or beyond the smallest or largest setting, else 0.
  """

  log_x: float | None
  std_error: float | None = None
  low: float | None = None
  high: float | None = None
  y: float | None = None
  free: float = 0.0
  reason: str = ""
  end: int = 0


@dataclasses.dataclass(frozen=True)
class _Curve:
  """level + c_1 v + c_2 v^2 (+ c_3 v^3) with v = log x - center, by least squares, and the covariance of c for y of variance 1."""

  center: float
  level: float
  c: Float[Array, " d"]
  unit: Float[Array, "d d"]
  rss: float
  free: int


def minima(scans: Sequence[Scan], side: int | None = SIDE) -> list[Minimum]:
  """The minimum of each scan: of a parabola, or of a cubic where an F test over all scans finds a cubic term (at 1%).

  The variance of y about these curves is pooled over all scans.

  Args:
    scans: each of three or more settings, else it has no minimum. A cubic needs four.
    side: how many settings on each side of the one with the lowest mean y the curve is fitted to; None: all.
  """
  near = [_near(scan, side) for scan in scans]
  given = [scan for scan in near if isinstance(scan, Scan)]
  curves = [_curve(scan, 2) for scan in given]
  uneven = [_curve(scan, 3 if len(np.unique(scan.log_x)) > 3 else 2) for scan in given]
  if _better(curves, uneven):
    curves = uneven
  free = sum(curve.free for curve in curves)
  deviation = max(float(np.sqrt(sum(curve.rss for curve in curves) / free)), _RESOLUTION) if free else None
  left = iter(curves)
  out = []
  for whole, part in zip(scans, near, strict=True):
    out.append(_minimum(part, next(left), deviation, free) if isinstance(part, Scan) else Minimum(None, reason=part, end=_end(whole)))
  return out


def _better(curves: list[_Curve], uneven: list[_Curve]) -> bool:
  """Whether cubics leave less of the points than chance would."""
  (rss, free), (rest, left) = ((sum(c.rss for c in given), sum(c.free for c in given)) for given in (curves, uneven))
  if not left or free == left:
    return False
  return float(special.fdtrc(free - left, left, (rss - rest) / (free - left) / max(rest / left, _RESOLUTION**2))) < _UNEVEN


def _means(scan: Scan) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
  """The distinct log x and the mean y at each."""
  places, index = np.unique(scan.log_x, return_inverse=True)
  return places, np.bincount(index, scan.y) / np.bincount(index)


def _end(scan: Scan) -> int:
  """-1 or 1 where the lowest mean is at the smallest or largest x of several, else 0."""
  mean = _means(scan)[1]
  return 0 if len(mean) < 2 else {0: -1, len(mean) - 1: 1}.get(int(mean.argmin()), 0)


def _near(scan: Scan, side: int | None) -> Scan | str:
  """The points around the lowest mean, or why there is no minimum among them."""
  places, mean = _means(scan)
  if len(places) < 3:
    return f"{len(places)} tried, a minimum needs 3"
  if end := _end(scan):
    return f"least at the {'largest' if end > 0 else 'smallest'} tried"
  if side is None:
    return scan
  at = int(mean.argmin())
  low, high = places[max(at - side, 0)], places[min(at + side, len(places) - 1)]
  inside = (scan.log_x >= low) & (scan.log_x <= high)
  return Scan(scan.log_x[inside], scan.y[inside], None if scan.seed is None else scan.seed[inside])


def _curve(scan: Scan, degree: int) -> _Curve:
  """The least squares polynomial, with a level for each seed where every seed is at two or more x."""
  center = float(scan.log_x.mean())
  v = scan.log_x - center
  levels = np.ones((len(v), 1))
  if scan.seed is not None:
    names, index = np.unique(scan.seed, return_inverse=True)
    if all(len(np.unique(scan.log_x[index == i])) > 1 for i in range(len(names))):
      levels = np.eye(len(names))[index]
  design = np.column_stack([v[:, None] ** np.arange(1, degree + 1), levels])
  values = np.linalg.lstsq(design, scan.y, rcond=None)[0]
  inverse = np.linalg.pinv(design.T @ design, hermitian=True)
  rss, level = float(np.sum((scan.y - design @ values) ** 2)), float(levels.mean(axis=0) @ values[degree:])
  free = len(v) - int(np.linalg.matrix_rank(design))
  return _Curve(center, level, values[:degree], inverse[:degree, :degree], rss, free)


def _minimum(scan: Scan, curve: _Curve, deviation: float | None, free: int) -> Minimum:
  """Where the curve's slope is 0 and rises, with its error, or why there is no such place among the settings."""
  powers = np.arange(len(curve.c))
  slope = np.polynomial.Polynomial((powers + 1) * curve.c)
  tried = scan.log_x - curve.center
  places = [v for v in _real_roots(slope) if slope.deriv()(v) > 0]
  if not places:
    return Minimum(None, reason="the loss does not rise on both sides")
  v = min(places, key=abs)
  if not tried.min() < v < tried.max():
    return Minimum(None, reason=f"least beyond the {'largest' if v > 0 else 'smallest'} tried", end=1 if v > 0 else -1)
  at, least = float(curve.center + v), float(curve.level + v ** (powers + 1) @ curve.c)
  if deviation is None:
    return Minimum(at, y=least)  # three settings of one seed
  unit = np.outer(powers + 1, powers + 1) * curve.unit  # of the slope's coefficients
  std_error = deviation * float(np.sqrt(v**powers @ unit @ v**powers) / slope.deriv()(v))
  half = quantile(free) * std_error
  if half < _EXACT * np.ptp(tried):
    return Minimum(at, std_error, at - half, at + half, least, free)
  # Fieller: the interval holds every v at which the slope is not significant. It is open where the curvature is not.
  variance = np.polynomial.Polynomial([np.sum(np.fliplr(unit).diagonal(len(powers) - 1 - k)) for k in range(2 * len(powers) - 1)])
  ends = _real_roots(slope**2 - (quantile(free) * deviation) ** 2 * variance)
  below, above = [end for end in ends if end <= v], [end for end in ends if end >= v]
  if not below or not above:
    return Minimum(None, reason="the noise hides the minimum")
  return Minimum(at, std_error, float(curve.center + max(below)), float(curve.center + min(above)), least, free)


def _real_roots(polynomial: np.polynomial.Polynomial) -> list[float]:
  return [float(root.real) for root in np.asarray(polynomial.roots(), complex) if abs(root.imag) < _EXACT * (1 + abs(root.real))]


def power_of_minima(size: Float[Array, " K"], found: Sequence[Minimum]) -> PowerLine | str:
  """The power law of minima over sizes, weighted by their errors; scans without a minimum are left out.

  Where the minima scatter about the law by more than their errors explain (F test at 20%), the errors are those of the scatter. Else both
  are pooled.

  Args:
    size: of each scan.
    found: the scans' minima, of one call of `minima`.

  Returns:
    The law, or in words why there is none.
  """
  kept = [(s, m.log_x, m.std_error) for s, m in zip(size, found, strict=True) if m.log_x is not None]
  if len({s for s, *_ in kept}) < 2:
    return f"{len(kept)} of {len(found)} sizes have a minimum, a power needs 2"
  free = max(m.free for m in found)
  known = free > 0
  lack = len(kept) - 2
  if not known and lack < 1:
    return "2 sizes without repeated seeds have no error"
  errors = np.diag([max(error or 0.0, _RESOLUTION) ** 2 for *_, error in kept])
  return power_line(np.array([s for s, *_ in kept]), np.array([v for _, v, _ in kept]), errors if known else None, free)
