"""Data from which the noise of training passes is estimated: differences between seeds, with their restricted likelihood.

Residuals of a law are the other kind of such data (`one_pass.py`). Called by `noise.py`.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
  from analysis.fitting.noise import Noise

Array = np.ndarray


class Evidence(abc.ABC):
  """Data from which the noise is estimated: the differences between seeds (`Scatter`), or the residuals of a law (`one_pass.Residuals`).

  `of_seeds` says whether it contains no law. `grids` are its sets of log x. `size` counts the degrees of freedom of all its values, and
  `square` is the sum of their squares.
  """

  of_seeds: bool = False

  @property
  @abc.abstractmethod
  def grids(self) -> tuple[Float[Array, " _n"], ...]: ...

  @property
  @abc.abstractmethod
  def size(self) -> int: ...

  @property
  @abc.abstractmethod
  def square(self) -> float: ...

  @abc.abstractmethod
  @no_type_check
  def cost(self, noise: "Noise", total: float) -> tuple[float, Float[Array, " Q"]]:
    """Minus the restricted log likelihood for values relative to the variance `total`, and its gradient, as in `Noise.with_slopes`."""

  @abc.abstractmethod
  @no_type_check
  def information(self, noise: "Noise") -> Float[Array, "Q Q"]:
    """The expected information about the parameters of the noise."""


@dataclasses.dataclass(frozen=True)
class Scatter(Evidence):
  """The differences between the seeds of configurations with the same x.

  Attributes:
    u: log x.
    sum: the sum of products of the differences from each configuration's mean.
    free: degrees of freedom: seeds - 1, summed over the configurations.
    count: the number of evaluations of which each point is the mean; None: one.
  """

  u: Float[Array, " n"]
  sum: Float[Array, "n n"]
  free: int
  count: Float[Array, " n"] | None = None
  of_seeds = True

  @property
  def grids(self) -> tuple[Float[Array, " _n"], ...]:
    return (self.u,)

  @property
  def size(self) -> int:
    return self.free * len(self.u)

  @property
  def square(self) -> float:
    return float(np.trace(self.sum))

  @no_type_check
  def cost(self, noise: "Noise", total: float) -> tuple[float, Array]:
    cov, slopes = noise.with_slopes(self.u, self.count)
    inverse = np.linalg.inv(cov)
    inner = inverse @ self.sum @ inverse
    value = 0.5 * (self.free * (np.linalg.slogdet(cov)[1] - len(self.u) * np.log(total)) + np.sum(inverse * self.sum))
    half = 0.5 * (self.free * inverse - inner)
    return value, np.array([np.sum(half * d) for d in slopes])

  @no_type_check
  def information(self, noise: "Noise") -> Float[Array, "Q Q"]:
    cov, slopes = noise.with_slopes(self.u, self.count)
    scaled = [np.linalg.solve(cov, d) for d in slopes]
    return 0.5 * self.free * np.array([[np.sum(a * b.T) for b in scaled] for a in scaled])


def scatter_of(
  passes: Sequence[tuple[Float[Array, " _n"], Float[Array, "_S _n"]]], counts: Sequence[Float[Array, " _n"]] | None = None
) -> tuple[Scatter, ...]:
  """One scatter for each set of x. A configuration is given by its log x, rising, and the log losses of S >= 2 seeds there.

  `counts` has for each configuration the number of evaluations of which each point is the mean; None: one.
  """
  sums: dict[tuple[bytes, bytes], Scatter] = {}
  for i, (u, log_y_sn) in enumerate(passes):
    u, count = np.asarray(u, np.float64), None if counts is None or np.all(counts[i] == 1) else counts[i]
    rest = log_y_sn - log_y_sn.mean(axis=0)
    key = u.tobytes(), b"" if count is None else count.tobytes()
    before = sums.get(key, Scatter(u, np.zeros((len(u), len(u))), 0, count))
    sums[key] = dataclasses.replace(before, sum=before.sum + rest.T @ rest, free=before.free + len(log_y_sn) - 1)
  return tuple(sums.values())
