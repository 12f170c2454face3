"""The law `chinchilla` in coordinates of its compute optimum, so that profile likelihood gives the intervals of the optimum itself.

A budget C = cost N^p D is best split where the two terms fall equally fast: alpha A N^-alpha = p beta B D^-beta (Hoffmann et al. 2022,
equation 4, for p = 1). With N*, D* and L* there, the share e = E/L* of the constant, s = alpha + p beta and the share b = p beta/s:

  L(N, D) = L* (e + (1 - e) (b (N/N*)^(-s (1-b)) + (1 - b) (D/D*)^(-s b/p))),   N* grows as C^a with a = b/p

So N*, L* and b are coordinates of the same law, and every interval is one of a coordinate. Along the best splits the loss is a power of the
budget plus a constant. `loss_law` is that law with the loss at one budget as a coordinate. Called by `analysis.questions`.
"""

import dataclasses
import functools
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Float

from analysis.fitting.laws import BETA_MAX, LAWS, Law, Param

Array = np.ndarray
_LEAST = 1e-12  # shares and exponents are kept this far from the edges at which the optimum is at 0 or infinity


@dataclasses.dataclass(frozen=True)
class Budget:
  """A budget of FLOPs, C = cost N^power D.

  Attributes:
    flops: C.
    cost: FLOPs per parameter and example where `power` is 1; 6 for a transformer.
    power: how the FLOPs per example grow with the parameters.
  """

  flops: float
  cost: float = 6.0
  power: float = 1.0

  def examples(self, params: float) -> float:
    """The examples that the budget pays for at a size."""
    return self.flops / (self.cost * params**self.power)


def optimum_of(values: dict[str, float], budget: Budget) -> dict[str, float]:
  """The best split of a budget by parameters of `chinchilla`: N, D, D_per_N, loss, and a, with which N grows as C^a."""
  with np.errstate(all="ignore"):
    alpha, beta, p = np.float64(values["alpha"]), np.float64(values["beta"]), budget.power
    steep = np.log(budget.flops / budget.cost)
    ratio = np.log(alpha * values["A"] / (p * beta * values["B"]))
    n = np.exp((ratio + beta * steep) / (alpha + p * beta))
    d = np.exp(steep - p * np.log(n))
    loss = values["A"] * n**-alpha + values["B"] * d**-beta + values["E"]
    found = {"N": n, "D": d, "D_per_N": d / n, "loss": loss, "a": beta / (alpha + p * beta)}
  return {name: float(value) for name, value in found.items()}


def optimum_law(budget: Budget) -> Law:
  """`chinchilla` in the coordinates log L*, log N*, e, s, b."""
  return Law(
    name="chinchilla",
    formula=LAWS["chinchilla"].formula,
    domain=LAWS["chinchilla"].domain,
    source=LAWS["chinchilla"].source,
    params=(
      Param("loss", log=True, in_y_units=True),
      Param("N", log=True),
      Param("share", 0.0, 1.0 - _LEAST),
      Param("s", _LEAST, (1 + budget.power) * BETA_MAX, exponent=True),
      Param("b", _LEAST, 1.0 - _LEAST),
    ),
    log_value=functools.partial(_log_value, budget=budget),
    starts=functools.partial(_starts, budget=budget),
    num_x=2,
    columns=("N", "D"),
  )


@no_type_check
def _log_value(theta_kp: Array, log_x_nc: Array, budget: Budget) -> tuple[Array, Array]:
  """The logarithm of the law and its gradient by log L*, log N*, e, s, b."""
  log_l, log_n, share, s, b = (theta_kp[:, i : i + 1] for i in range(5))
  p = budget.power
  log_d = np.log(budget.flops / budget.cost) - p * log_n
  from_n, from_d = log_x_nc[:, 0] - log_n, log_x_nc[:, 1] - log_d
  term_n = np.log(b) - s * (1 - b) * from_n
  term_d = np.log1p(-b) - s * b / p * from_d
  with np.errstate(divide="ignore"):
    log_rest = np.logaddexp(term_n, term_d)
    log_f = np.logaddexp(np.log(share), np.log1p(-share) + log_rest)
  rest = np.exp(log_rest - log_f)
  n, d = (np.exp(np.log1p(-share) + term - log_f) for term in (term_n, term_d))
  columns = [
    np.ones_like(log_f),
    s * ((1 - b) * n - b * d),
    np.exp(-log_f) - rest,
    -(1 - b) * from_n * n - b / p * from_d * d,
    n * (1 / b + s * from_n) - d * (1 / (1 - b) + s / p * from_d),
  ]
  return log_l + log_f, np.stack(columns, axis=-1)


def coordinates(theta_kp: Float[Array, "K 5"], budget: Budget) -> Float[Array, "K 5"]:
  """The fitted coordinates of `chinchilla` (log A, log B, E, alpha, beta) as those of `optimum_law`, in the same scale of y."""
  log_a, log_b, e, alpha, beta = theta_kp.T
  p, steep = budget.power, np.log(budget.flops / budget.cost)
  alpha, beta = np.maximum(alpha, _LEAST), np.maximum(beta, _LEAST)
  s = alpha + p * beta
  log_n = (np.log(alpha / (p * beta)) + log_a - log_b + beta * steep) / s
  log_l = np.logaddexp(log_a - alpha * log_n, log_b - beta * (steep - p * log_n))
  with np.errstate(divide="ignore"):
    log_l = np.logaddexp(log_l, np.log(e))
  return np.column_stack([log_l, log_n, np.minimum(e * np.exp(-log_l), 1 - _LEAST), s, p * beta / s])


def _starts(log_x_nc: Float[Array, "n 2"], log_y_n: Float[Array, " n"], budget: Budget) -> Float[Array, "K 5"]:
  return coordinates(LAWS["chinchilla"].starts(log_x_nc, log_y_n), budget)


def loss_law(flops: float) -> Law:
  """`power_constant` in the coordinates log L at a budget, the share e of the constant there, and beta: L (e + (1 - e) (C/flops)^-beta)."""
  plain = LAWS["power_constant"]
  params = (Param("loss", log=True, in_y_units=True), Param("share", 0.0, 1.0 - _LEAST), Param("beta", 0.0, BETA_MAX, exponent=True))
  log_value, starts = functools.partial(_loss_value, flops=flops), functools.partial(_loss_starts, flops=flops)
  return dataclasses.replace(plain, params=params, log_value=log_value, starts=starts)


@no_type_check
def _loss_value(theta_kp: Array, log_x_nc: Array, flops: float) -> tuple[Array, Array]:
  log_l, share, beta = (theta_kp[:, i : i + 1] for i in range(3))
  away = log_x_nc[:, 0] - np.log(flops)
  with np.errstate(divide="ignore"):
    log_f = np.logaddexp(np.log(share), np.log1p(-share) - beta * away)
  term = np.exp(-beta * away - log_f)
  return log_l + log_f, np.stack([np.ones_like(log_f), np.exp(-log_f) - term, -(1 - share) * away * term], axis=-1)


def _loss_starts(log_x_nc: Float[Array, "n 1"], log_y_n: Float[Array, " n"], flops: float) -> Float[Array, "K 3"]:
  log_alpha, beta, gamma = LAWS["power_constant"].starts(log_x_nc, log_y_n).T
  with np.errstate(divide="ignore"):
    log_l = np.logaddexp(log_alpha - beta * np.log(flops), np.log(gamma))
  return np.column_stack([log_l, np.minimum(gamma * np.exp(-log_l), 1 - _LEAST), beta])
