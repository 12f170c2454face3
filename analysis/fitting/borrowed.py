"""Parameters of a law that are borrowed from elsewhere: held at a value, tied to one another, or with a Gaussian prior.

A family of two or three sizes determines few parameters. Choshen et al. 2024 (arXiv 2410.11840) borrow the others from another family.
`Borrowed.restrict` returns the law of the free parameters alone, which is fitted like any other. Called by `analysis.fit`, `fit_law.py`.
"""

import dataclasses
import functools
import re
from typing import no_type_check  # tests check types at run time; what a fit calls ten thousand times is left out

import numpy as np
from jaxtyping import Float

from analysis.fitting.laws import Law, Param, Prior
from analysis.fitting.result import Estimate
from dlrm_jax.common.flags import UserError

Array = np.ndarray
_PRIOR = re.compile(r"\s*(.+?)\s*~\s*([^~]+?)\s*(?:\+-|\+/-|±)\s*([^~]+?)\s*")  # a column's name may have blanks and a ~
_NARROW = 1e-9  # the least standard deviation of a prior, as a share of its mean; a narrower one is a fixed value
_LEAST = 1e-100  # the least one in any case: its square must not be 0


@dataclasses.dataclass(frozen=True)
class Borrowed:
  """What is borrowed, in the units of the user.

  Attributes:
    fixed: values by the names of the parameters that are held there.
    tied: sets of parameters that share one value; the first of each is the one that is fitted.
    priors: mean and standard deviation of a Gaussian prior, by the name of a parameter that is fitted. Where a parameter is fitted by its
      logarithm, the logarithm has the prior: mean log(mean), standard deviation deviation / mean.
  """

  fixed: dict[str, float] = dataclasses.field(default_factory=dict)
  tied: tuple[tuple[str, ...], ...] = ()
  priors: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

  def __bool__(self) -> bool:
    return bool(self.fixed or self.tied or self.priors)

  @property
  def leaders(self) -> dict[str, str]:
    """The fitted parameter of each one that is tied to it."""
    return {name: names[0] for names in self.tied for name in names[1:]}

  @property
  def words(self) -> dict[str, str]:
    """How each borrowed parameter is borrowed, by name."""
    tied = {name: f"tied to {leader}" for name, leader in self.leaders.items()}
    priors = {name: f"prior {mean:g} +- {deviation:g}" for name, (mean, deviation) in self.priors.items()}
    return dict.fromkeys(self.fixed, "fixed") | tied | priors

  def restrict(self, law: Law) -> Law:
    """The law of the free parameters. Its domain in a tied parameter is what all of its names allow."""
    if not self:
      return law
    return self._bound(law, 0.0)

  def _bound(self, law: Law, log_y0: float) -> Law:
    """The same where fitted losses are divided by exp(log_y0)."""
    leaders = self.leaders
    free = [p.name for p in law.params if p.name not in self.fixed and p.name not in leaders]
    members = [np.array([i for i, p in enumerate(law.params) if leaders.get(p.name, p.name) == name]) for name in free]
    held = np.array([_coordinate(p, self.fixed[p.name], log_y0) if p.name in self.fixed else 0.0 for p in law.params])
    params = []
    for at in members:
      same = [law.params[i] for i in at]
      params.append(dataclasses.replace(same[0], low=max(p.low for p in same), high=min(p.high for p in same)))
    priors = [Prior(free.index(name), *_prior(params[free.index(name)], *prior, log_y0)) for name, prior in self.priors.items()]
    return dataclasses.replace(
      law,
      params=tuple(params),
      log_value=functools.partial(_log_value, law=law, members=members, held=held),
      starts=functools.partial(_starts, law=law, members=members),
      priors=tuple(priors),
      bind=functools.partial(self._bound, law),
    )

  def completed(self, estimates: dict[str, Estimate], law: Law) -> dict[str, Estimate]:
    """The estimates of all parameters of a law from those of the free ones; a fixed one has no standard error and no interval."""
    fixed = {name: Estimate(value, None, None, None) for name, value in self.fixed.items()}
    tied = {name: estimates[leader] for name, leader in self.leaders.items()}
    every = estimates | fixed | tied
    return {name: every[name] for name in law.names}

  def refusal(self, law: Law, y: Float[Array, " n"]) -> str:
    """Why these losses allow no law with the borrowed values; empty where they do."""
    constants = [p.name for p in law.params if p.in_y_units and not p.log and p.name in self.fixed]
    above = [name for name in constants if len(y) and self.fixed[name] >= y.max()]
    return f"{above[0]} is fixed at {self.fixed[above[0]]:g}, above every loss (the largest is {y.max():.4g})" if above else ""


NOTHING = Borrowed()


def _coordinate(param: Param, value: float, log_y0: float) -> float:
  """A value in the user's units as a fitted coordinate."""
  if param.log:
    return float(np.log(value)) - (log_y0 if param.in_y_units else 0.0)
  return value * (float(np.exp(-log_y0)) if param.in_y_units else 1.0)


def _prior(param: Param, mean: float, deviation: float, log_y0: float) -> tuple[float, float]:
  """Mean and standard deviation of a prior in fitted coordinates."""
  scale = 1 / mean if param.log else float(np.exp(-log_y0)) if param.in_y_units else 1.0
  return _coordinate(param, mean, log_y0), deviation * scale


@no_type_check
def _log_value(theta_kf: Array, log_x_nc: Array, law: Law, members: list[Array], held: Array) -> tuple[Array, Array]:
  """The whole law's value, and its gradient by the free coordinates."""
  theta_kp = np.tile(held, (len(theta_kf), 1))
  for f, at in enumerate(members):
    theta_kp[:, at] = theta_kf[:, f : f + 1]
  log_f_kn, gradient_knp = law.log_value(theta_kp, log_x_nc)
  if not members:
    return log_f_kn, gradient_knp[..., :0]
  return log_f_kn, np.stack([gradient_knp[..., at].sum(axis=-1) for at in members], axis=-1)


def _starts(log_x_nc: Array, log_y_n: Array, law: Law, members: list[Array]) -> Float[Array, "K F"]:
  """The whole law's starts; one of tied parameters is their mean."""
  starts_kp = law.starts(log_x_nc, log_y_n)
  return np.stack([starts_kp[:, at].mean(axis=1) for at in members], axis=1)


def parsed(law: Law, fix: tuple[str, ...], tie: tuple[str, ...], prior: tuple[str, ...]) -> Borrowed:
  """The borrowed parameters that flags of `analysis.fit` name. Raises UserError that names flag, value and what is allowed."""
  params = {p.name: p for p in law.params}

  def known(flag: str, text: str, name: str) -> Param:
    if name not in params:
      raise UserError(f"--{flag}={text}: law {law.name} has no parameter {name}, it has {', '.join(params)}")
    return params[name]

  fixed: dict[str, float] = {}
  for text in fix:
    name, sign, number = (part.strip() for part in text.rpartition("="))
    if not sign:
      raise UserError(f"--fix={text}: must be a parameter and its value, such as alpha=0.34")
    param = known("fix", text, name)
    if name in fixed:
      raise UserError(f"--fix={text}: {name} is fixed twice")
    fixed[name] = _number("fix", text, number)
    _check_domain("fix", text, param, fixed[name])
  tied: list[tuple[str, ...]] = []
  for text in tie:
    names = tuple(name.strip() for name in text.split(":"))
    if len(names) < 2:
      raise UserError(f"--tie={text}: must be two parameters or more, such as alpha:beta")
    kinds = [known("tie", text, name) for name in names]
    for name in names:
      if name in fixed or names.count(name) > 1 or any(name in other for other in tied):
        raise UserError(f"--tie={text}: {name} is {'fixed' if name in fixed else 'tied'} already")
    if len({(p.log, p.in_y_units, p.exponent, p.within_x) for p in kinds}) > 1:
      raise UserError(f"--tie={text}: must be parameters of one kind, such as exponents or scales")
    tied.append(names)
  leaders = {name: names[0] for names in tied for name in names}
  priors: dict[str, tuple[float, float]] = {}
  for text in prior:
    found = _PRIOR.fullmatch(text)
    if not found:
      raise UserError(f"--prior={text}: must be a parameter, a mean and a standard deviation, such as alpha~0.3+-0.1")
    param = known("prior", text, found[1])
    mean, deviation = (_number("prior", text, found[i]) for i in (2, 3))
    _check_domain("prior", text, param, mean)
    if deviation <= 0:
      raise UserError(f"--prior={text}: the standard deviation must be above 0")
    if deviation < max(_NARROW * abs(mean), _LEAST):
      raise UserError(f"--prior={text}: the standard deviation must be {_NARROW:g} of the mean or more; --fix holds {found[1]} at a value")
    name = leaders.get(found[1], found[1])
    if name in fixed or name in priors:
      raise UserError(f"--prior={text}: {found[1]} {'is fixed' if name in fixed else 'has a prior'} already")
    priors[name] = mean, deviation
  if len(fixed) == len(params):
    raise UserError(f"--fix={','.join(fix)}: no parameter of law {law.name} is left to fit")
  return Borrowed(fixed, tuple(tied), priors)


def _number(flag: str, text: str, number: str) -> float:
  try:
    value = float(number)
  except ValueError:
    value = float("nan")
  if not np.isfinite(value):
    raise UserError(f"--{flag}={text}: {number or 'nothing'} is not a finite number")
  return value


def _check_domain(flag: str, text: str, param: Param, value: float) -> None:
  low, high = (float(np.exp(side)) if param.log else side for side in (param.low, param.high))
  if (param.log and value <= 0) or not low * (1 - 1e-12) <= value <= high * (1 + 1e-12):
    allowed = "above 0" if param.log and low == 0 else f"from {low:g}"
    raise UserError(f"--{flag}={text}: {param.name} must be {allowed}{f' to {high:g}' if np.isfinite(high) else ''}")
