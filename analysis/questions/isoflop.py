"""IsoFLOP profiles: at each of several budgets, loss against size has a minimum; the minima follow a power of the budget.

This is approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556). There each profile is a parabola of loss in log N. Here it is one of log loss
in (N^skew - 1)/skew, with one skew for all budgets; 0 is log N. The terms of parameters and of examples have different exponents, so that
profiles are steeper on one side, and parabolas in log N put the minimum a few per cent off. Called by `approaches.py`.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from analysis.fitting.uncertainty import quantile
from dlrm_jax.common.text import number_of

Array = np.ndarray
_MOST_SKEW = 1.0  # alpha and beta differ by three times the skew
_LEAST_BEND = 2.0  # a curvature must be this many of its standard errors above 0
_BEYOND = "its minimum is beyond its"
_RESOLUTION = 1e-12  # of log losses
_ONE_BUDGET = 1e-6  # runs whose FLOPs differ by a smaller share have one budget
_SKEWS = 20  # skews tried on each side of 0


@dataclasses.dataclass(frozen=True)
class Profile:
  """The runs at one budget, and the minimum of their parabola.

  Attributes:
    flops: the budget.
    index: its runs among all.
    best: log N at the minimum; NaN where there is none.
    loss: log loss there.
    bend: (c, b, d) of log loss = c + b v + d v^2, v = ((N/N0)^skew - 1)/skew.
    origin: log N0.
    left_out: why the budget has no minimum, or empty.
  """

  flops: float
  index: Int[Array, " n"]
  best: float
  loss: float
  bend: tuple[float, float, float]
  origin: float
  left_out: str = ""

  @property
  def beyond(self) -> bool:
    """Whether its minimum is outside its sizes."""
    return self.left_out.startswith(_BEYOND)


@dataclasses.dataclass(frozen=True)
class Profiles:
  """The profiles of all budgets.

  Attributes:
    every: by rising budget.
    skew, skew_error: the skew of all, and its standard error.
    best_cov: the covariance of log N at the minima of `kept`; None without a degree of freedom for the noise.
    free: degrees of freedom of `best_cov`.
    noise: the standard deviation of a log loss around its profile.
    rows: the points of `kept`, group by group: indices among all.
    residual: log loss minus the fitted profile, at these points.
    design, inverse: the derivatives J of the fitted log losses by all that is fitted, and the inverse of J'J.
    slopes: the derivatives of log N at the minima by all that is fitted.
  """

  every: list[Profile]
  skew: float
  skew_error: float
  best_cov: Float[Array, "G G"] | None
  free: int
  noise: float
  rows: Int[Array, " n"]
  residual: Float[Array, " n"]
  design: Float[Array, "n P"]
  inverse: Float[Array, "P P"]
  slopes: Float[Array, "G P"]

  @property
  def kept(self) -> list[Profile]:
    """The budgets with a minimum."""
    return [p for p in self.every if not p.left_out]

  def entries(self) -> list[dict[str, Any]]:
    """Each budget as an entry of `profiles` in the JSON file: its points, and N and loss at the minimum with the 95% interval of N."""
    errors = iter(np.full(len(self.kept), np.nan) if self.best_cov is None else np.sqrt(np.diagonal(self.best_cov)))
    out = []
    for p in self.every:
      half = float("nan") if p.left_out else quantile(self.free) * float(next(errors)) if self.free else float("nan")
      ends = {"ci_low": float(np.exp(p.best - half)), "ci_high": float(np.exp(p.best + half))}
      found = {"N": float(np.exp(p.best)), **ends, "loss": float(np.exp(p.loss))}
      out.append({"flops": p.flops, "points": len(p.index), **found, "left_out": p.left_out})
    return out


def stretched(distance: Float[Array, " n"], skew: float) -> Float[Array, " n"]:
  """v = (exp(skew * distance) - 1)/skew of a distance in log N."""
  return distance if abs(skew) < 1e-9 else np.expm1(skew * distance) / skew


def profiles_of(
  log_c: Float[Array, " n"],
  log_n: Float[Array, " n"],
  log_l: Float[Array, " n"],
  groups: list[Int[Array, " _m"]],
  skewed: bool = True,
  least: int = 3,
) -> Profiles:
  """The profile of each group, with one skew for all.

  Runs of a group may differ from its budget a little: their losses are brought to it by one slope in log C for all groups.
  A budget is left out where it has fewer than `least` sizes, where its parabola opens downwards or is flat within its error, or where the
  minimum is outside its sizes.
  """
  counts = [len(np.unique(log_n[g])) for g in groups]
  reasons = {i: f"it has {number_of(count, 'size')}, {least} are needed" for i, count in enumerate(counts) if count < least}
  while True:
    mine = [g for i, g in enumerate(groups) if i not in reasons]
    fit = _Fit(log_c, log_n, log_l, mine, skewed) if mine else None
    if fit is None:
      break
    found = dict(zip([i for i in range(len(groups)) if i not in reasons], fit.left_out(), strict=True))
    bad = {i: why for i, why in found.items() if why}
    reasons |= bad
    if not bad:
      break
  every, minima = [], iter(zip(*fit.minima(), strict=True)) if fit is not None else iter(())
  for i, group in enumerate(groups):
    flops = float(np.exp(log_c[group].mean()))
    if i in reasons:
      nothing = float("nan")
      every.append(Profile(flops, group, nothing, nothing, (nothing,) * 3, nothing, reasons[i]))
    else:
      best, loss, (c, b, d), origin = next(minima)
      every.append(Profile(flops, group, float(best), float(loss), (float(c), float(b), float(d)), float(origin)))
  if fit is None:
    none = np.zeros((0, 0))
    return Profiles(every, 0.0, 0.0, None, 0, float("nan"), np.zeros(0, int), np.zeros(0), none, none, none)
  jacobian, inverse = fit.jacobian()
  slopes = fit.slopes()
  known = fit.free > 0 and fit.noise > _RESOLUTION
  best_cov = fit.noise**2 * slopes @ inverse @ slopes.T if known else None
  skew_error = fit.noise * float(np.sqrt(inverse[-1, -1])) if known and fit.skewed else 0.0
  rows = np.concatenate([groups[i] for i in range(len(groups)) if i not in reasons])
  return Profiles(every, fit.skew, skew_error, best_cov, fit.free, fit.noise, rows, fit.residual, jacobian, inverse, slopes)


class _Fit:
  """Parabolas of some groups with a shared skew and a shared slope along the budget, by least squares of log loss."""

  def __init__(self, log_c: Array, log_n: Array, log_l: Array, groups: list[Array], skewed: bool) -> None:
    self.count = len(groups)
    self.u = [log_n[g] for g in groups]
    ends = np.cumsum([len(g) for g in groups])
    self.rows = [slice(end - len(g), end) for g, end in zip(groups, ends, strict=True)]
    self.y = np.concatenate([log_l[g] for g in groups])
    self.away = np.concatenate([log_c[g] - log_c[g].mean() for g in groups])
    self.origins = [float((u.min() + u.max()) / 2) for u in self.u]
    count = len(self.y)
    self.sloped = bool(np.ptp(self.away) > _ONE_BUDGET) and count > 3 * self.count + 1
    self.skewed = skewed and count > 3 * self.count + self.sloped + 1
    self.free = count - 3 * self.count - self.sloped - self.skewed
    self.skew = 0.0
    if self.skewed:
      tried = np.linspace(-_MOST_SKEW, _MOST_SKEW, 2 * _SKEWS + 1)
      at = int(np.argmin([self._cost(float(s)) for s in tried]))
      ends_of = (float(tried[max(at - 1, 0)]), float(tried[min(at + 1, 2 * _SKEWS)]))
      self.skew = float(
        optimize.minimize_scalar(lambda s: self._cost(float(s)), bounds=ends_of, method="bounded", options={"xatol": 1e-9}).x
      )
    columns = self._columns(self.skew)
    self.theta = np.linalg.lstsq(columns, self.y, rcond=None)[0]
    self.residual = self.y - columns @ self.theta
    self.noise = float(np.sqrt(np.sum(self.residual**2) / self.free)) if self.free > 0 else 0.0

  def _parabola(self, group: int, skew: float) -> Array:
    v = stretched(self.u[group] - self.origins[group], skew)
    return np.column_stack([np.ones_like(v), v, v**2])

  def _columns(self, skew: float) -> Array:
    out = np.zeros((len(self.y), 3 * self.count + self.sloped))
    for i, rows in enumerate(self.rows):
      out[rows, 3 * i : 3 * i + 3] = self._parabola(i, skew)
    if self.sloped:
      out[:, -1] = self.away
    return out

  def _cost(self, skew: float) -> float:
    """The least sum of squares, group by group: the slope is fitted to what the parabolas leave of losses and budgets."""
    left = np.column_stack([self.y, self.away])
    for i, rows in enumerate(self.rows):
      q = np.linalg.qr(self._parabola(i, skew))[0]
      left[rows] -= q @ (q.T @ left[rows])
    y, away = left.T
    return float(y @ y - ((y @ away) ** 2 / (away @ away) if self.sloped else 0.0))

  def jacobian(self) -> tuple[Array, Array]:
    """The derivatives J of the fitted log losses by theta, and by the skew as the last where it is fitted; and the inverse of J'J."""
    jacobian = self._columns(self.skew)
    if self.skewed:
      step = 1e-5
      moved = (self._columns(self.skew + step) - self._columns(self.skew - step)) @ self.theta / (2 * step)
      jacobian = np.column_stack([jacobian, moved])
    scale = np.linalg.norm(jacobian, axis=0)
    scale = np.where(scale > 0, scale, 1.0)  # the skew of a constant loss has no effect
    gram = (jacobian / scale).T @ (jacobian / scale)
    return jacobian, np.linalg.pinv(gram, rcond=1e-13, hermitian=True) / np.outer(scale, scale)

  def left_out(self) -> list[str]:
    """For each group why it has no minimum, or empty."""
    inverse, out = self.jacobian()[1], []
    for i, u in enumerate(self.u):
      _, b, d = self.theta[3 * i : 3 * i + 3]
      error = self.noise * float(np.sqrt(max(inverse[3 * i + 2, 3 * i + 2], 0.0)))
      ends = stretched(np.array([u.min(), u.max()]) - self.origins[i], self.skew)
      if d <= 0:
        out.append("its parabola opens downwards")
      elif d <= _LEAST_BEND * error:
        out.append("its parabola is flat within its error")
      elif not ends[0] < -b / (2 * d) < ends[1]:
        side = "largest" if -b / (2 * d) >= ends[1] else "smallest"
        out.append(f"{_BEYOND} {side} size")
      else:
        out.append("")
    return out

  def minima(self) -> tuple[Array, Array, list[Array], list[float]]:
    """Of each group: log N and log loss at the minimum, its coefficients, and log N0."""
    c, b, d = self.theta[: 3 * self.count].reshape(-1, 3).T
    v = -b / (2 * d)
    best = self.origins + (v if abs(self.skew) < 1e-9 else np.log1p(self.skew * v) / self.skew)
    return best, c - b**2 / (4 * d), list(np.column_stack([c, b, d])), self.origins

  def slopes(self) -> Array:
    """The derivatives of log N at the minima by theta and the skew."""
    out = np.zeros((self.count, 3 * self.count + self.sloped + self.skewed))
    for i in range(self.count):
      _, b, d = self.theta[3 * i : 3 * i + 3]
      v, k = -b / (2 * d), self.skew
      turn = 1 / (1 + k * v)
      out[i, 3 * i + 1], out[i, 3 * i + 2] = -turn / (2 * d), turn * b / (2 * d**2)
      if self.skewed:  # the first two terms of the series where k is nearly 0
        out[i, -1] = -(v**2) / 2 + 2 * k * v**3 / 3 if abs(k) < 1e-4 else (v * turn - np.log1p(k * v) / k) / k
    return out
