"""The scaling laws: formula, domain, parameters and source of each. A new law is an entry here.

Its formula is a function in `forms.py` or `curved_forms.py`. `LAWS` has the laws of fixed columns. Those of any columns are made by
`joint`, and `law_of` finds both by name.

`least_squares.py` fits log y in coordinates in which positive parameters are replaced by their logarithms. A law returns the logarithm of
its value and the gradient of that in these coordinates, for a whole batch of parameter vectors at once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from analysis.fitting import curved_forms, forms
from analysis.fitting import repeated as repeated_data

Array = np.ndarray
BETA_MAX = 10.0  # a curve with a larger exponent is a step at its first point, which determines no exponent
_WIDTHS = (0.05, 5.0)  # of a break, in units of log x: a narrower one is a corner, a wider one is no break
_DELTAS = (0.02, 10.0)  # of the M4 form


@dataclasses.dataclass(frozen=True)
class Param:
  """One parameter of a law.

  Attributes:
    name: its name in tables and in JSON.
    low, high: its closed domain.
    log: whether it is fitted through its logarithm. It is then positive, and `low` and `high` limit the logarithm.
    in_y_units: whether it scales with y.
    exponent: whether it is a power of x. It counts as determined only if its interval is closed and spans less than a factor of 10.
    within_x: whether its domain is the range of the points' x.
  """

  name: str
  low: float = -np.inf
  high: float = np.inf
  log: bool = False
  in_y_units: bool = False
  exponent: bool = False
  within_x: bool = False


@dataclasses.dataclass(frozen=True)
class Prior:
  """A Gaussian prior of one fitted coordinate: its index, mean and standard deviation."""

  index: int
  mean: float
  deviation: float


@dataclasses.dataclass(frozen=True)
class Law:
  """One scaling law, `K` parameter vectors of length P at `n` points of `C` columns of x.

  Attributes:
    name, formula, domain, source: for tables and for `--law`.
    params: in the order of the fitted coordinates.
    log_value: log f, and its gradient with respect to theta, from theta_kp and log_x_nc.
    starts: parameter vectors to start from, given log_x_nc and log_y_n (log y of mean zero).
    num_x: the number of columns of x.
    columns: their names.
    curved: whether its optima are in long curved valleys, so that the search takes steps of second order.
    outside: why points x, y are outside the law for all values of its parameters; empty where they are not. None: any points may be inside.
    priors: what is known of fitted coordinates.
    bind: for a law with borrowed parameters (`borrowed.py`), makes the law for losses that are divided by the exponential of a number.
  """

  name: str
  formula: str
  domain: str
  source: str
  params: tuple[Param, ...]
  log_value: Callable[[Float[Array, "K P"], Float[Array, "n C"]], tuple[Float[Array, "K n"], Float[Array, "K n P"]]]
  starts: Callable[[Float[Array, "n C"], Float[Array, " n"]], Float[Array, "K P"]]
  num_x: int = 1
  columns: tuple[str, ...] = ("x",)
  curved: bool = False
  outside: Callable[[Float[Array, "n C"], Float[Array, " n"]], str] | None = None
  priors: tuple[Prior, ...] = ()
  bind: "Callable[[float], Law] | None" = None

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

  def predict(self, values: dict[str, float], x: Real[Array, "n *C"]) -> Float[Array, " n"]:
    """The law's value at x > 0, [n] or [n, C], given named parameters."""
    return np.exp(self.log_value(self.to_coordinates(values)[None], log_columns(x))[0][0])


def log_columns(x: Real[Array, "n *C"]) -> Float[Array, "n C"]:
  """log x with one column a resource."""
  x = np.asarray(x, np.float64)
  return np.log(x[:, None] if x.ndim == 1 else x)


_ALPHA = Param("alpha", log=True, in_y_units=True)
_BETA = Param("beta", 0.0, BETA_MAX, exponent=True)
_GAMMA = Param("gamma", 0.0, in_y_units=True)

LAWS = {
  law.name: law
  for law in (
    Law(
      name="power",
      formula="L(x) = alpha * x**-beta",
      domain="alpha > 0, beta > 0; for a loss whose limit is known to be 0 (excess on planted data)",
      source="Hestness et al. 2017, arXiv 1712.00409",
      params=(_ALPHA, Param("beta", exponent=True)),
      log_value=forms.power,
      starts=forms.power_starts,
    ),
    Law(
      name="power_constant",
      formula="L(x) = alpha * x**-beta + gamma",
      domain=f"alpha > 0, 0 <= beta <= {BETA_MAX:g}, gamma >= 0",
      source="Ardalani et al. 2022, arXiv 2208.08489",
      params=(_ALPHA, _BETA, _GAMMA),
      log_value=forms.power_constant,
      starts=forms.power_constant_starts,
    ),
    Law(
      name="chinchilla",
      formula="L(N, D) = A * N**-alpha + B * D**-beta + E",
      domain=f"two columns of x; A, B > 0, 0 <= alpha, beta <= {BETA_MAX:g}, E >= 0",
      source="Hoffmann et al. 2022, arXiv 2203.15556; Besiroglu et al. 2024, arXiv 2404.10102",
      params=(
        Param("A", log=True, in_y_units=True),
        Param("B", log=True, in_y_units=True),
        Param("E", 0.0, in_y_units=True),
        Param("alpha", 0.0, BETA_MAX, exponent=True),
        _BETA,
      ),
      log_value=forms.additive,
      starts=forms.additive_starts,
      num_x=2,
      columns=("N", "D"),
    ),
    Law(
      name="broken_power",
      formula="L(x) = alpha * x**-beta * (1 + (x/x_break)**(1/width))**(-delta*width) + gamma",
      domain=f"exponent beta before the break, beta + delta behind; |delta| <= {BETA_MAX:g}, x_break within the points, "
      f"{_WIDTHS[0]:g} <= width <= {_WIDTHS[1]:g}, else as power_constant",
      source="Caballero et al. 2023, arXiv 2210.14891, one break",
      params=(
        _ALPHA,
        _BETA,
        _GAMMA,
        Param("delta", -BETA_MAX, BETA_MAX),
        Param("x_break", log=True, within_x=True),
        Param("width", float(np.log(_WIDTHS[0])), float(np.log(_WIDTHS[1])), log=True),
      ),
      log_value=curved_forms.broken_power,
      starts=curved_forms.broken_power_starts,
      curved=True,
    ),
    Law(
      name="m4",
      formula="(L - gamma)/span = ((gamma + span - L)/span)**delta * (x/x_scale)**-beta",
      domain=f"gamma < L < gamma + span, the loss before training; {_DELTAS[0]:g} <= delta <= {_DELTAS[1]:g}, else as power_constant",
      source="Alabdulmohsin et al. 2022, arXiv 2209.06640, M4 with its scale written as x_scale",
      params=(Param("span", log=True, in_y_units=True), _BETA, _GAMMA, Param("delta", *_DELTAS), Param("x_scale", log=True)),
      log_value=curved_forms.m4,
      starts=curved_forms.m4_starts,
      curved=True,
    ),
    Law(
      name="repeated",
      formula="L(U, e) = B * D**-beta + E, D = U * (1 + R_star * (1 - exp(-(e-1)/R_star))) for U unique examples, e >= 1 epochs",
      domain=f"two columns of x: unique examples, epochs; before the end of the first epoch D = U * e; B > 0, 0 <= beta <= {BETA_MAX:g}, "
      f"E >= 0, {repeated_data.R_STAR[0]:g} <= R_star <= {repeated_data.R_STAR[1]:g}; a loss that rises with epochs is outside the law",
      source="Muennighoff et al. 2023, arXiv 2305.16264, for one model size",
      params=(
        Param("B", log=True, in_y_units=True),
        Param("E", 0.0, in_y_units=True),
        _BETA,
        Param("R_star", float(np.log(repeated_data.R_STAR[0])), float(np.log(repeated_data.R_STAR[1])), log=True),
      ),
      log_value=repeated_data.repeated,
      starts=repeated_data.repeated_starts,
      num_x=2,
      columns=("U", "e"),
      outside=repeated_data.rises,
    ),
  )
}

SHAPES = {  # how the terms of a joint law are joined: what it is called in text, and its source
  "sum": ("sum of terms", "Hoffmann et al. 2022, arXiv 2203.15556, a term for each resource"),
  "nested": ("nested law", "Kaplan et al. 2020, arXiv 2001.08361, equation 1.5, a term for each resource"),
  "fitted": ("smooth maximum", "the p-norm of the terms of Hoffmann et al. 2022, arXiv 2203.15556"),
}
_P_MAX = 50.0  # of a smooth maximum: a larger p is a maximum


OF_ANY_COLUMNS = {"additive": "sum", "nested": "nested", "smooth_max": "fitted"}  # laws by name, with the shape of each
_GENERAL = {  # their formulas where no columns are known
  "additive": "L(x, z, ...) = A_x * x**-alpha_x + A_z * z**-alpha_z + ... + E",
  "nested": "L(x, ..., z) = (sum of (A_x * x**-alpha_x) ** (1/alpha_z), z the last column) ** alpha_z + E",
  "smooth_max": "L(x, z, ...) = (sum of (A_x * x**-alpha_x) ** p) ** (1/p) + E",
}
NAMES = (*LAWS, *OF_ANY_COLUMNS)


def formula_of(name: str) -> str:
  """The formula of a law, in general where it is one of any columns."""
  return _GENERAL[name] if name in _GENERAL else LAWS[name].formula


def law_of(name: str, columns: tuple[str, ...] = ()) -> Law:
  """The law of a name in `NAMES`. One of `OF_ANY_COLUMNS` is made for these columns, whose names its parameters have."""
  if name in LAWS:
    return LAWS[name]
  return dataclasses.replace(joint(columns, OF_ANY_COLUMNS[name], False, True), name=name)


def joint(columns: tuple[str, ...], shape: str, tied: bool, constant: bool) -> Law:
  """A law of any number of resources: their terms A_c c^-alpha_c, joined by a p-norm, with or without a constant.

  Args:
    columns: the resources. The nested law takes its outer exponent from the last one.
    shape: a key of `SHAPES`: p = 1, p = 1/alpha of the last column, or p fitted.
    tied: whether all terms have one exponent.
    constant: whether there is a constant.
  """
  power = {"sum": "", "nested": f" ** (1/{'alpha' if tied else f'alpha_{columns[-1]}'})", "fitted": " ** p"}[shape]
  terms = " + ".join(f"(A_{c} * {c}**-{'alpha' if tied else f'alpha_{c}'}){power}" for c in columns)
  root = {"sum": "", "nested": f" ** {'alpha' if tied else f'alpha_{columns[-1]}'}", "fitted": " ** (1/p)"}[shape]
  exponents = [Param("alpha" if tied else f"alpha_{c}", 0.0, BETA_MAX, exponent=True) for c in (columns[:1] if tied else columns)]
  kind: dict[str, Any] = {"power": shape, "tied": tied, "constant": constant}
  return Law(
    name=" ".join([SHAPES[shape][0], *(["of one exponent"] if tied else []), "with a constant" if constant else "without a constant"]),
    formula=f"({terms}){root}{' + E' if constant else ''}",
    domain=f"A > 0, 0 <= alpha <= {BETA_MAX:g}, 1 <= p <= {_P_MAX:g}, E >= 0",
    source=SHAPES[shape][1],
    params=(
      *(Param(f"A_{c}", log=True, in_y_units=True) for c in columns),
      *([Param("E", 0.0, in_y_units=True)] if constant else []),
      *exponents,
      *([Param("p", 0.0, float(np.log(_P_MAX)), log=True)] if shape == "fitted" else []),
    ),
    log_value=functools.partial(forms.smooth_max, **kind),
    starts=functools.partial(forms.smooth_max_starts, **kind),
    num_x=len(columns),
    columns=columns,
  )
