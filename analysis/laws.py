"""The table of scaling laws: formula, domain, gradient, starts and source of each. A new law is one entry of `LAWS`.

Fitting (`analysis.least_squares`) works on log y, in coordinates where positive parameters stand as their logarithm; a law gives the
logarithm of its value and the gradient of that in these coordinates, for a whole batch of parameter vectors at once.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Real

Array = np.ndarray
BETA_MAX = 10.0  # beyond it the curve is a step at its first point: no exponent can be read off


@dataclasses.dataclass(frozen=True)
class Param:
  """One parameter of a law.

  Attributes:
    name: as it is printed and written to JSON.
    low, high: its closed domain.
    log: fitted through its logarithm (then positive, and `low`, `high` hold for the logarithm).
    in_y_units: scales with y.
  """

  name: str
  low: float = -np.inf
  high: float = np.inf
  log: bool = False
  in_y_units: bool = False


@dataclasses.dataclass(frozen=True)
class Law:
  """One scaling law, `K` parameter vectors of length P at `n` points.

  Attributes:
    name, formula, domain, source: for tables and for `--law`.
    params: in the order of the fitted coordinates.
    log_value: log f, and its gradient with respect to theta, from theta_kp and log_x_n.
    starts: parameter vectors to start from, given log_x_n and log_y_n (log y of mean zero).
    linear: log f is linear in the coordinates: one optimum, every parameter identifiable from two distinct x.
  """

  name: str
  formula: str
  domain: str
  source: str
  params: tuple[Param, ...]
  log_value: Callable[[Float[Array, "K P"], Float[Array, " n"]], tuple[Float[Array, "K n"], Float[Array, "K n P"]]]
  starts: Callable[[Float[Array, " n"], Float[Array, " n"]], Float[Array, "K P"]]
  linear: bool = False

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(p.name for p in self.params)

  @property
  def min_points(self) -> int:
    """Fewest distinct x that leave a degree of freedom to judge the fit by."""
    return len(self.params) + 1

  def to_coordinates(self, values: dict[str, float]) -> Float[Array, " P"]:
    """Named parameters as the vector that is fitted."""
    return np.array([np.log(values[p.name]) if p.log else values[p.name] for p in self.params])

  def predict(self, values: dict[str, float], x: Real[Array, " n"]) -> Float[Array, " n"]:
    """The law's value at x > 0, given named parameters."""
    return np.exp(self.log_value(self.to_coordinates(values)[None], np.log(np.asarray(x, np.float64)))[0][0])


def _power(theta_kp: Array, log_x_n: Array) -> tuple[Array, Array]:
  gradient_knp = np.ones((len(theta_kp), len(log_x_n), 2))
  gradient_knp[..., 1] = -log_x_n
  return theta_kp[:, :1] - theta_kp[:, 1:2] * log_x_n, gradient_knp


def _power_starts(log_x_n: Array, log_y_n: Array) -> Array:
  slope, intercept = np.polyfit(log_x_n, log_y_n, 1)
  return np.array([[intercept, -slope]])


def _power_constant(theta_kp: Array, log_x_n: Array) -> tuple[Array, Array]:
  term_kn = theta_kp[:, :1] - theta_kp[:, 1:2] * log_x_n  # log of the power term
  with np.errstate(divide="ignore"):  # gamma = 0 is allowed: log 0 = -inf adds nothing
    log_f_kn = np.logaddexp(term_kn, np.log(theta_kp[:, 2:3]))
  share_kn = np.exp(term_kn - log_f_kn)  # the power term's share of f
  return log_f_kn, np.stack([share_kn, -share_kn * log_x_n, np.exp(-log_f_kn)], axis=-1)


def _power_constant_starts(log_x_n: Array, log_y_n: Array) -> Array:
  """For each exponent of a grid, the relative least squares for (alpha, gamma), which is linear; gamma clipped at 0."""
  middle = log_x_n.mean()
  starts = []
  for beta in np.geomspace(0.01, 4.0, 16):
    columns_n2 = np.stack([np.exp(-beta * (log_x_n - middle) - log_y_n), np.exp(-log_y_n)], axis=-1)
    a, gamma = np.linalg.lstsq(columns_n2, np.ones_like(log_y_n), rcond=None)[0]
    if gamma < 0 or a <= 0:  # the face gamma = 0
      a, gamma = np.exp(np.mean(log_y_n + beta * (log_x_n - middle))), 0.0
    starts.append([np.log(a) + beta * middle, beta, gamma])
  slope, intercept = np.polyfit(log_x_n, log_y_n, 1)
  return np.array([*starts, [intercept, max(-slope, 0.0), 0.0]])


_ALPHA = Param("alpha", log=True, in_y_units=True)

LAWS = {
  law.name: law
  for law in (
    Law(
      name="power",
      formula="L(x) = alpha * x**-beta",
      domain="alpha > 0, beta > 0; for a loss whose limit is known to be 0 (excess on planted data)",
      source="Hestness et al. 2017, arXiv 1712.00409",
      params=(_ALPHA, Param("beta")),
      log_value=_power,
      starts=_power_starts,
      linear=True,
    ),
    Law(
      name="power_constant",
      formula="L(x) = alpha * x**-beta + gamma",
      domain=f"alpha > 0, 0 <= beta <= {BETA_MAX:g}, gamma >= 0",
      source="Ardalani et al. 2022, arXiv 2208.08489",
      params=(_ALPHA, Param("beta", 0.0, BETA_MAX), Param("gamma", 0.0, in_y_units=True)),
      log_value=_power_constant,
      starts=_power_constant_starts,
    ),
  )
}
