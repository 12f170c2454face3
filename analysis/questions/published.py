"""The published laws of Ardalani et al. 2022 (arXiv 2208.08489), for comparison with ours. Called by `analysis.report.paper_tables`.

They are second hand, from a public database of scaling exponents, and of normalised cross-entropy. Values by scheme could not be read.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
  """A published law L(x) = alpha x^-beta + gamma.

  Attributes:
    alpha, beta: None where the law is saturated and only the constant is left.
    gamma: the constant, NE.
    x_min, x_max: the fitted range of examples, parameters or FLOPs.
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
