"""The inverse square root of the covariance of a fit's residuals, without a matrix of all points by all points.

A whitening W of n points with noise of covariance C has W'W = C^-1. There are three kinds. With `EQUAL` the noise is independent and has
variance 1. With `Weights` it is independent and differs from point to point. With `Blocks` it is correlated within some sets of points,
such as the passes of a sweep. Fits (`least_squares.py`) and tests of fits use all of them alike.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Bool, Float, Int

Array = np.ndarray


class Whitening(abc.ABC):
  """The operations that fits and their tests need. Arrays of points have n entries in the order of the fit's points."""

  @abc.abstractmethod
  def apply(self, values_knp: Float[Array, "K n P"]) -> Float[Array, "K n P"]:
    """W times each column [n] of K matrices."""

  @abc.abstractmethod
  def color(self, values_kn: Float[Array, "K n"]) -> Float[Array, "K n"]:
    """W^-1 times each of K rows: independent noise of variance 1 becomes noise of covariance C."""

  @abc.abstractmethod
  def variance_of(self, weight_n: Float[Array, " n"]) -> float:
    """The variance of a weighted sum of the points' noise."""

  @abc.abstractmethod
  def covariance(self, count: int) -> Float[Array, "n n"]:
    """The covariance of all points, `count` in number, as one matrix: for few points only."""

  @abc.abstractmethod
  def part(self, kept: Bool[Array, " n"]) -> "Whitening":
    """The whitening of the points that are kept."""

  @abc.abstractmethod
  def variances(self, place: Int[Array, " n"]) -> Float[Array, " d"]:
    """The variance of the mean noise of the points of each place 0 .. d - 1."""

  @no_type_check
  def rows(self, values_kn: Float[Array, "K n"]) -> Float[Array, "K n"]:
    """W times each of K rows."""
    return self.apply(values_kn[..., None])[..., 0]

  @no_type_check
  def columns(self, values_nk: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """W times each of k columns."""
    return self.apply(values_nk[None])[0]


class _Equal(Whitening):
  """Independent noise of variance 1."""

  @no_type_check
  def apply(self, values_knp: Array) -> Array:
    return values_knp

  def color(self, values_kn: Array) -> Array:
    return values_kn

  def variance_of(self, weight_n: Array) -> float:
    return float(weight_n @ weight_n)

  def covariance(self, count: int) -> Array:
    return np.eye(count)

  def part(self, kept: Array) -> Whitening:
    return self

  def variances(self, place: Array) -> Array:
    return 1.0 / np.bincount(place)


EQUAL = _Equal()


@dataclasses.dataclass(frozen=True)
class Weights(Whitening):
  """Independent noise. `weight` is 1 / its standard deviation, one value a point."""

  weight: Float[Array, " n"]

  @no_type_check
  def apply(self, values_knp: Array) -> Array:
    return values_knp * self.weight[:, None]

  def color(self, values_kn: Array) -> Array:
    return values_kn / self.weight

  def variance_of(self, weight_n: Array) -> float:
    used = weight_n != 0  # a point without weight has infinite variance, which counts where the point is used
    with np.errstate(divide="ignore"):
      return float(np.sum((weight_n[used] / self.weight[used]) ** 2))

  def covariance(self, count: int) -> Array:
    return np.diag(self.weight**-2)

  def part(self, kept: Array) -> Whitening:
    return Weights(self.weight[kept])

  def variances(self, place: Array) -> Array:
    return np.bincount(place, self.weight**-2) / np.bincount(place) ** 2


@dataclasses.dataclass(frozen=True)
class Alike:
  """Blocks of the same number of points: their indices, and the lower triangular W of each."""

  at: Int[Array, "G m"]
  white: Float[Array, "G m m"]


@dataclasses.dataclass(frozen=True)
class Blocks(Whitening):
  """Noise that is correlated within blocks. Every point is in one block."""

  groups: tuple[Alike, ...]

  @classmethod
  def of(cls, covariances: Sequence[tuple[Sequence[Int[Array, " _m"]], Float[Array, "_m _m"]]]) -> "Blocks":
    """From each covariance, with the indices of the blocks that have it."""
    sizes: dict[int, tuple[list[Array], list[Array]]] = {}
    for blocks, cov in covariances:
      at, white = sizes.setdefault(len(cov), ([], []))
      at += blocks
      white += [np.linalg.inv(np.linalg.cholesky(cov))] * len(blocks)
    return cls(tuple(Alike(np.stack(at), np.stack(white)) for at, white in sizes.values()))

  @no_type_check
  def apply(self, values_knp: Array) -> Array:
    out = np.empty_like(values_knp)
    for group in self.groups:
      out[:, group.at] = group.white @ values_knp[:, group.at]
    return out

  def color(self, values_kn: Array) -> Array:
    out = np.empty_like(values_kn)
    for group in self.groups:
      out[:, group.at] = np.linalg.solve(group.white, values_kn[:, group.at][..., None])[..., 0]
    return out

  def variance_of(self, weight_n: Array) -> float:
    return float(sum(weight_n[block] @ cov @ weight_n[block] for block, cov in self._covariances()))

  def covariance(self, count: int) -> Array:
    out = np.zeros((count, count))
    for block, cov in self._covariances():
      out[np.ix_(block, block)] = cov
    return out

  def part(self, kept: Array) -> Whitening:
    if kept.all():
      return self
    number = np.cumsum(kept) - 1
    parts = [(number[block[kept[block]]], cov[np.ix_(kept[block], kept[block])]) for block, cov in self._covariances()]
    return Blocks.of([([at], cov) for at, cov in parts if len(at)])

  def variances(self, place: Array) -> Array:
    out = np.zeros(int(place.max()) + 1)
    for block, cov in self._covariances():
      mine = place[block]
      np.add.at(out, mine, np.sum(cov * (mine[:, None] == mine), axis=1))
    return out / np.bincount(place) ** 2

  def _covariances(self) -> list[tuple[Array, Array]]:
    """The indices and the covariance of each block."""
    out = []
    for group in self.groups:
      color = np.linalg.inv(group.white)
      out += list(zip(group.at, color @ color.transpose(0, 2, 1), strict=True))
    return out


def correlated(cov: Float[Array, "n n"]) -> Blocks:
  """The whitening of one block of all points."""
  return Blocks.of([([np.arange(len(cov))], cov)])
