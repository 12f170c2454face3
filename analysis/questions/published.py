"""What is published of Ardalani et al. 2022 (arXiv 2208.08489), for tables that set ours beside it. Called by `analysis.report.tables`.

Second hand, from a public database of scaling exponents; normalised cross-entropy. Values by scheme could not be read and are not here.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
  """A published law L(x) = alpha x^-beta + gamma.

  Attributes:
    alpha, beta: None where only the constant is left: saturated.
    gamma: the constant, NE.
    x_min, x_max: the range it was fitted over: examples, parameters, FLOPs.
  """

  alpha: float | None
  beta: float | None
  gamma: float
  x_min: float
  x_max: float

  @property
  def text(self) -> str:
    return f"saturated, {self.gamma:g}" if self.beta is None else f"{self.alpha:g} x^-{self.beta:.2f} + {self.gamma:g}"


PAPER = {
  "data": Published(0.07, 0.10, 0.98, 5e6, 5.12e9),
  "compute": Published(0.11, 0.14, 0.98, 1e14, 5e18),
  "params": Published(None, None, 0.98, 4e6, 5e11),
}
