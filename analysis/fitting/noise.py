"""The noise of training passes: the covariance of log loss along a pass, estimated from seeds. Called by `settings.py`.

Neighbouring evaluations of one pass are correlated (.7 to .99 was measured), so the residuals of a curve say little about its error. The
differences of the seeds from the mean of their configuration do: they contain no law and no misfit. Pooled over configurations, they give
the covariance of log loss at u = log examples, by restricted maximum likelihood:

  C(u, v) = d(u) d(v) [offset + drift exp(-|u - v| / length) + nugget / count (u = v)],   d(u) = exp(tilt (u - origin) / 2)

These are an offset of the whole pass, an autoregressive part, and white noise; the tilt is the change of noise along the pass. A point may
be the mean of `count` neighbouring evaluations (`thinning.py`), which lowers its white noise alone. A law is then fitted to the mean over
seeds by generalised least squares. The variance of its parameters has Satterthwaite's degrees of freedom, and the first-order correction
for estimated covariances of Kenward & Roger (1997, Biometrics 53:983).
"""

import dataclasses
from collections.abc import Sequence
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from analysis.fitting.evidence import Evidence, Scatter

Array = np.ndarray
_STARTS = ((-1.0, -1.0, -1.0, 0.25), (-4.0, -4.0, 0.0, 0.25), (-3.0, 0.0, -3.0, 0.5))  # logs of shares of the variance; length in spans
_SHARE_MIN, _SHARE_MAX = -14.0, 3.0  # logs
_LENGTHS = (1 / 60, 1.0)  # shares of the span in log x: a drift longer than the span is an offset
_TILT_MAX = 1.5
_ABSENT = 1e-5  # a share of the variance below this counts as none, and its shape is not estimated
NUM_PARAMETERS = 5  # of the noise, in the order of `Noise.with_slopes`
_LIKELIHOOD_RATIO = 6.635  # chi-squared of one degree of freedom at 1%
_MOST_WORK = 4e6  # of one evaluation of the likelihood: the cubes of the lengths of sets of x
_RESOLUTION = 1e-24  # variance of log losses below which seeds are the same


@dataclasses.dataclass(frozen=True)
class Noise:
  """The covariance of one pass.

  Attributes:
    offset, drift, nugget: variances of log loss at `origin`.
    length: the correlation length of the drift, in log x.
    tilt: the slope of the log variance in log x.
    origin: the log x at which the tilt has no effect.
    scatters: the data it was estimated from.
  """

  offset: float
  drift: float
  nugget: float
  length: float
  tilt: float
  origin: float
  scatters: tuple[Evidence, ...]

  @property
  def of_seeds(self) -> bool:
    """Whether it was estimated from differences between seeds, without a law."""
    return all(s.of_seeds for s in self.scatters)

  @property
  def free(self) -> float:
    """Degrees of freedom: independent passes behind the estimate; without seeds, Satterthwaite's of the variance of a point."""
    if self.of_seeds:
      return float(sum(s.free for s in self.scatters if isinstance(s, Scatter)))
    cov, slopes = self.with_slopes(np.array([self.origin]))
    slope = np.array([d[0, 0] for d in slopes])
    return float(2 * cov[0, 0] ** 2 / max(slope @ _inverse(self.information()) @ slope, 1e-300))

  def covariance(self, u: Float[Array, " n"], count: Float[Array, " n"] | None = None) -> Float[Array, "n n"]:
    """The covariance of log loss at log x = u along one pass, of means of `count` evaluations."""
    return self.with_slopes(u, count)[0]

  @no_type_check
  def with_slopes(self, u: Array, count: Array | None = None) -> tuple[Array, list[Array]]:
    """The covariance and its derivatives by offset, drift, nugget, log length and tilt."""
    distance = np.abs(u[:, None] - u)
    scale = np.exp(0.5 * self.tilt * (u - self.origin))
    scale = scale[:, None] * scale
    decay = np.exp(-distance / self.length)
    white = np.diag(np.ones(len(u)) if count is None else 1 / count)
    cov = scale * (self.offset + self.drift * decay + self.nugget * white)
    turn = 0.5 * (u[:, None] + u - 2 * self.origin) * cov
    return cov, [scale, scale * decay, scale * white, scale * self.drift * decay * distance / self.length, turn]

  def information(self) -> Float[Array, "Q Q"]:
    """The expected information about the parameters, in the order of `with_slopes`.

    It is 0 for an offset that is left out and for the length of an absent drift.
    """
    info = np.zeros((NUM_PARAMETERS, NUM_PARAMETERS))
    for s in self.scatters:
      info += s.information(self)
    if self.drift <= _ABSENT * (self.offset + self.drift + self.nugget):
      info[3] = info[:, 3] = 0.0
    if self.offset == 0:
      info[0] = info[:, 0] = 0.0
    return info

  def correlation(self, step: float) -> float:
    """The correlation of two points of a pass that are `step` apart in log x."""
    return (self.offset + self.drift * float(np.exp(-step / self.length))) / (self.offset + self.drift + self.nugget)


def estimate(scatters: tuple[Scatter, ...]) -> Noise:
  """The noise by the differences between seeds. Raises ValueError where no configuration has two.

  Every set of x costs the cube of its length. Of very many long ones, as many as cost `_MOST_WORK` are used, at even distances.
  """
  if not sum(s.free for s in scatters):
    raise ValueError("no configuration has two seeds")
  share = sum(len(s.u) ** 3 for s in scatters) / _MOST_WORK
  if share > 1:
    scatters = tuple(scatters[i] for i in np.unique(np.linspace(0, len(scatters) - 1, max(int(len(scatters) / share), 1)).astype(int)))
  return likeliest(scatters)


def likeliest(scatters: Sequence[Evidence], offset: bool = True, near: Noise | None = None) -> Noise:
  """The covariance of highest restricted likelihood, over several starts.

  Args:
    scatters: the data that it is estimated from.
    offset: whether a pass may have an offset of its own.
    near: the noise estimated from nearly the same data, from which the search then starts.
  """
  total = sum(s.square for s in scatters) / sum(s.size for s in scatters)
  total = max(total, _RESOLUTION)
  grids = [u for s in scatters for u in s.grids]
  origin, span = float(np.concatenate(grids).mean()), float(max(np.ptp(u) for u in grids)) or 1.0

  @no_type_check
  def noise(p: Array) -> Noise:
    variances = total * np.exp(p[:3])
    level, drift, nugget = map(float, variances)
    return Noise(level if offset else 0.0, drift, nugget, float(span * np.exp(p[3])), float(p[4] / span), origin, tuple(scatters))

  @no_type_check
  def cost(p: Array) -> tuple[float, Array]:
    """Minus the restricted log likelihood, and its gradient."""
    now, value, gradient = noise(p), 0.0, np.zeros(NUM_PARAMETERS)
    for s in scatters:
      more, slope = s.cost(now, total)
      value += more
      gradient += slope
    return value, gradient * [now.offset, now.drift, now.nugget, 1.0, 1 / span]

  lengths, tilts = (float(np.log(_LENGTHS[0])), float(np.log(_LENGTHS[1]))), (-_TILT_MAX * span, _TILT_MAX * span)
  bounds = [(_SHARE_MIN, _SHARE_MAX)] * 3 + [lengths, tilts]
  starts = [[*start[:3], np.log(start[3]), 0.0] for start in _STARTS]
  if near is not None:
    shares = np.maximum(np.array([near.offset, near.drift, near.nugget]) / total, np.exp(_SHARE_MIN))
    starts = [[*np.log(shares), np.log(near.length / span), near.tilt * span]]
  found = [optimize.minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
  return noise(min(found, key=lambda f: f.fun).x)


def tilt_of(u_n: Float[Array, " n"], log_y_n: Float[Array, " n"]) -> float:
  """The slope of the log variance of independent points in log x, estimated from repeated x by restricted maximum likelihood.

  It is 0 unless a likelihood ratio test finds it at 1%.
  """
  at, index, count = np.unique(u_n, return_inverse=True, return_counts=True)
  rest = log_y_n - (np.bincount(index.reshape(-1), log_y_n) / count)[index.reshape(-1)]
  scale = np.bincount(index.reshape(-1), rest**2)[count > 1]
  freedom, place = (count - 1)[count > 1], at[count > 1]
  if len(place) < 3 or not np.all(scale > _RESOLUTION):
    return 0.0
  place = place - place.mean()

  def cost(tilt: float) -> float:  # -2 log likelihood, maximised over the level of the variance
    return float(freedom.sum() * np.log(np.sum(scale * np.exp(-tilt * place))) + tilt * np.sum(freedom * place))

  found = optimize.minimize_scalar(cost, bounds=(-_TILT_MAX, _TILT_MAX), method="bounded")
  return float(found.x) if cost(0.0) - found.fun > _LIKELIHOOD_RATIO else 0.0


@dataclasses.dataclass(frozen=True)
class Block:
  """The means over one configuration's seeds among the points of a fit.

  Attributes:
    at: the indices of the points.
    u: their log x.
    seeds: the number of seeds.
    count: the number of evaluations of one pass of which each point is the mean; None: one.
  """

  at: Int[Array, " n"]
  u: Float[Array, " n"]
  seeds: int
  count: Float[Array, " n"] | None = None


def alike(blocks: Sequence[Block]) -> list[list[Block]]:
  """The blocks by the covariance of their points: those of the same x, counts and number of seeds together."""
  out: dict[tuple[bytes, bytes, int], list[Block]] = {}
  for block in blocks:
    out.setdefault((block.u.tobytes(), b"" if block.count is None else block.count.tobytes(), block.seeds), []).append(block)
  return list(out.values())


def judge(
  noise: Noise, blocks: Sequence[Block], jacobian: Float[Array, "N P"], known: Float[Array, "P P"] | None = None
) -> tuple[Float[Array, "P P"], Float[Array, " P"]]:
  """The uncertainty of parameters fitted by generalised least squares.

  Args:
    noise: the noise of one pass.
    blocks: the rows of `jacobian` that are means of one configuration. Their covariance is the pass's over the number of seeds.
    jacobian: the derivative of log f at all points by the free parameters, of full rank together with `known`.
    known: the information about the free parameters that does not come from the points.

  Returns:
    The covariance of the parameters, corrected for the estimated covariance of the noise. Then the degrees of freedom of each variance.
  """
  count, p = NUM_PARAMETERS, jacobian.shape[1]
  total = np.zeros((p, p)) if known is None else known.copy()
  first, second = np.zeros((count, p, p)), np.zeros((count, count, p, p))
  for same in alike(blocks):
    b = same[0]
    cov, slopes = noise.with_slopes(b.u, b.count)
    inverse = b.seeds * np.linalg.inv(cov)
    # The columns of all blocks side by side, [m, G P].
    rows = jacobian[np.stack([block.at for block in same])].transpose(1, 0, 2).reshape(len(b.u), -1)
    weighted = inverse @ rows
    moved = [slope @ weighted / b.seeds for slope in slopes]
    again = [inverse @ m for m in moved]
    total += _summed(rows, weighted, p)
    for j in range(count):
      first[j] -= _summed(weighted, moved[j], p)
      for k in range(count):
        second[j, k] += _summed(moved[j], again[k], p)
  plain = np.linalg.inv(total)
  spread = _inverse(noise.information())
  change = np.einsum("jk,jkab->ab", spread, second - np.einsum("jab,bc,kcd->jkad", first, plain, first))
  corrected = plain + 2 * plain @ change @ plain
  gradient = -np.einsum("ab,jbc,ca->aj", plain, first, plain)  # the derivative of each parameter's variance
  variance = np.einsum("aj,jk,ak->a", gradient, spread, gradient)
  return corrected, 2 * np.diagonal(plain) ** 2 / np.maximum(variance, 1e-300)


def _inverse(information: Float[Array, "Q Q"]) -> Float[Array, "Q Q"]:
  """The covariance of parameters with this information; 0 for those without information."""
  unit = np.sqrt(np.maximum(np.diagonal(information), 0.0))  # scales all parameters alike
  unit = np.divide(1.0, unit, out=np.zeros_like(unit), where=unit > 0)
  return np.linalg.pinv(information * np.outer(unit, unit), rcond=1e-10, hermitian=True) * np.outer(unit, unit)


def _summed(left: Float[Array, "m Q"], right: Float[Array, "m Q"], p: int) -> Float[Array, "p p"]:
  """The sum over blocks of left' right, for blocks of `p` columns each."""
  return left.reshape(-1, p).T @ right.reshape(-1, p)
