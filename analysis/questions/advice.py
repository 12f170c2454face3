"""How to spend a budget: the loss that each way predicts, by the joint laws of all training passes of a sweep (`additive.py`).

There is no advice where the points contradict every law. Gains are against the base's measured loss. Intervals include the noise, the
disagreement of laws that predict equally well, how far they are from the measured ends, and how fast the errors of the same procedure grew
with the distance when it was fitted to the smaller points.

Called by `analysis.advise` and by the report.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.questions.additive import Model, Refused
from analysis.questions.backtest import Backtest
from analysis.questions.base_run import FACTOR_AXES
from analysis.questions.members import DRAWS

Array = np.ndarray
REFUSED, UNDECIDED = "refused", "undecided"
_LEVEL = 0.95
_TWO_SIDED = 1.96  # standard errors on each side of a 95% interval
_MOST = 1e6  # the largest budget tried for a target loss, times the base run's
_SPLITS = 41  # splits of the budget between examples and size that are tried, on a logarithmic scale
_FAR = 4.0  # a note warns of sizes and numbers of examples that are more than this many times beyond the trained ones


@dataclasses.dataclass(frozen=True)
class Option:
  """One way to spend the budget.

  Attributes:
    buy: `examples`, an axis, or `examples and AXIS` for the best split between the two.
    examples, size: the examples of the run, and its size on the axis, None for examples alone.
    loss, ci_low, ci_high: the predicted loss with its 95% interval.
    best_share: the share of the drawn sweeps in which nothing else bought alone gives a lower loss; None for a split.
    beyond: the examples or the size over the largest that was trained.
    axis: the axis that grows, None for examples alone.
    free: whether the axis costs no FLOPs (rows cost memory). Its size then grows as the budget does.
  """

  buy: str
  examples: float
  size: float | None
  loss: float
  ci_low: float
  ci_high: float
  best_share: float | None
  beyond: float
  axis: str | None = None
  free: bool = False


@dataclasses.dataclass(frozen=True)
class Advice:
  """How to spend a budget on one workload.

  Attributes:
    metric: the loss.
    base: the examples and FLOPs of the base run, with which the budget is compared, its loss by the law and as it was measured.
    times: the budget over the base run's FLOPs.
    options: those bought alone, the best first, then the splits.
    choice: the option to buy, `undecided`, or `refused`.
    verdict: a plain sentence.
    notes: what a reader must know.
    backtests: what the law, fitted to the smaller points, predicts for the largest measured ones, and what was measured.
    laws: the joint laws that predict the losses, the best first, each with its weight, formula and parameters.
  """

  workload: str
  metric: str
  base: dict[str, Any]
  times: float
  options: tuple[Option, ...]
  choice: str
  verdict: str
  notes: tuple[str, ...]
  backtests: tuple[Backtest, ...] = ()
  laws: tuple[dict[str, Any], ...] = ()

  def as_dict(self) -> dict[str, Any]:
    """The flat object of the JSON file."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Purchase:
  """A run that the budget may buy: a name, its examples, and its size on one axis. On the others it has the base's size."""

  buy: str
  examples: float
  axis: str | None = None
  size: float | None = None

  def losses(self, model: Model) -> Float[Array, " K"]:
    """The loss predicted by the fit, then by each drawn sweep."""
    return model.losses({} if self.axis is None or self.size is None else {self.axis: self.size}, self.examples)


def advise(model: Model | Refused, times: float) -> Advice:
  """The best use of `times` the base run's FLOPs, times > 1; without options where there is no law to predict by."""
  if isinstance(model, Refused):
    return Advice(model.workload, model.metric, {}, times, (), REFUSED, f"No advice: {model.reason}.", model.notes)
  base = model.base
  purchases = [Purchase("examples", base.examples * times)]
  purchases += [Purchase(axis, base.examples, axis, base.grown(axis, times)) for axis in model.axes]
  losses = {purchase.buy: purchase.losses(model) for purchase in purchases}
  winner = np.argmin(np.stack([losses[purchase.buy][1:] for purchase in purchases]), axis=0)
  alone = [_option(model, purchase, losses[purchase.buy], float(np.mean(winner == i))) for i, purchase in enumerate(purchases)]
  alone.sort(key=lambda o: o.loss)
  splits = [_best_split(model, axis, times) for axis in model.axes]
  splits = [o for o in splits if o.size is not None and o.axis is not None and o.size > base.sizes[o.axis] * 1.001]  # else examples alone
  now = Purchase("", base.examples).losses(model)
  choice, verdict = _verdict(model, alone, losses, now)
  notes = [*(test.text for test in model.backtests), *model.notes]
  far = [o.buy for o in alone if o.beyond > _FAR]
  if far:
    notes.append(f"{', '.join(far)}: more than {_FAR:g} times beyond what was trained, where the law is a guess")
  shown = {"examples": base.examples, "flops": base.flops, "loss": float(now[0]), "measured_loss": model.measured}
  shown |= {f"size_{axis}": base.sizes[axis] for axis in model.axes}
  return Advice(
    model.workload, model.metric, shown, times, (*alone, *splits), choice, verdict, tuple(notes), model.backtests, model.laws.as_rows()
  )


def _option(model: Model, purchase: Purchase, losses: Array, best_share: float | None) -> Option:
  fall = float(np.log(Purchase("", model.base.examples).losses(model)[0] / losses[0]))
  loss, low, high = _interval(model, losses, _extrapolation(model, purchase), fall)
  beyond, free = purchase.examples / model.base.examples, False
  if purchase.axis is not None and purchase.size is not None:
    beyond, free = max(beyond, purchase.size / model.largest[purchase.axis]), model.base.is_free(purchase.axis)
  bought = (purchase.buy, purchase.examples, purchase.size)
  return Option(*bought, loss, low, high, best_share, float(beyond), purchase.axis, free)


def _best_split(model: Model, axis: str, times: float) -> Option:
  """The split between examples and the size of one axis with the least loss. With a free axis, all FLOPs go to examples."""
  base, purchases = model.base, []
  for share in [1.0] if base.is_free(axis) else np.linspace(0, 1, _SPLITS):
    size = base.grown(axis, times**share)
    purchases.append(Purchase(f"examples and {axis}", base.examples * times / base.cost(axis, size), axis, size))
  losses = [purchase.losses(model) for purchase in purchases]
  best = int(np.argmin([predicted[0] for predicted in losses]))
  return _option(model, purchases[best], losses[best], None)


def _verdict(model: Model, alone: list[Option], losses: dict[str, Array], now: Array) -> tuple[str, str]:
  """The option to buy and a sentence; `undecided` where the data cannot tell it from another one, or from no gain at all.

  Gains are against the measured base, never against the law's own. Where these disagree by more than the law's interval, that is said
  instead.
  """
  best = alone[0]
  name = _named(model, best.buy)
  if best.buy not in model.seen:
    return UNDECIDED, f"The data cannot tell whether {name}, which looks best, lowers the loss at all."
  gain, gain_low, gain_high = _gain(model, best)
  if gain_low <= 0:
    return (
      UNDECIDED,
      f"The data cannot tell whether {name}, which looks best, makes the loss lower than the measured {model.measured:.5g}.",
    )
  amounts = f"{gain:.2%} lower [{gain_low:.2%}, {gain_high:.2%}] than the measured {model.measured:.5g}"
  law_now, low, high = _interval(model, now)
  error = _TWO_SIDED * model.measured_error
  agrees = low * float(np.exp(-error)) <= model.measured <= high * float(np.exp(error))
  if not agrees:
    given = f"the law gives {law_now:.5g} [{low:.5g}, {high:.5g}] for the base run, where {model.measured:.5g} was measured"
    amounts = f"no gain is stated, since {given}"
  others = [o.buy for o in alone[1:] if o.buy in model.seen]  # an option without an effect is no rival
  rivals = [buy for buy in others if np.quantile(losses[buy][1:] - losses[best.buy][1:], (1 - _LEVEL) / 2) <= 0]
  if rivals:
    others = [_named(model, buy) for buy in rivals]
    return UNDECIDED, f"The data cannot tell {name} from {' or '.join(others)}; {best.buy} looks best, {amounts}."
  what = f"{best.examples:,.3g} {name}" if best.size is None else f"{best.buy} {best.size:,.4g}"
  cost = " (it costs memory, no FLOPs)" if best.free else ""
  makes = f"makes the loss {best.loss:.5g}, {amounts}," if agrees else "promises a loss"
  tail = "less than anything else bought alone" if agrees else f"below anything else bought alone; {amounts}"
  return best.buy, f"Buy {best.buy}: {what}{cost} {makes} {tail}."


def _named(model: Model, buy: str) -> str:
  """An option in a sentence: examples with which rows they are."""
  return buy.replace("examples", f"examples {model.rows}", 1) if model.rows else buy


def _interval(model: Model, losses: Array, further: float = 0.0, fall: float = np.inf) -> tuple[float, float, float]:
  """A predicted loss with its 95% interval: the draws' spread, the law's distance from the measured ends, and `further`, in log loss.

  Upwards `further` is at most the predicted fall of the log loss: what is bought may help less than the law says, but it does no harm.
  """
  loss, (low, high) = float(losses[0]), np.quantile(losses[1:], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
  down, up = max(float(np.log(loss / low)), 0.0), max(float(np.log(high / loss)), 0.0)
  down = float(np.linalg.norm([down, _TWO_SIDED * model.misfit, further]))
  up = float(np.linalg.norm([up, _TWO_SIDED * model.misfit, min(further, max(fall, 0.0))]))
  return loss, loss * float(np.exp(-down)), loss * float(np.exp(up))


def _extrapolation(model: Model, purchase: Purchase) -> float:
  """What the form of the laws adds to half of the 95% interval beyond what was trained, in log loss: see `Ensemble.form_error`."""
  out = model.laws.form_error("examples", float(np.log(purchase.examples / model.base.examples)))
  if purchase.axis is None or purchase.size is None:
    return out
  return float(np.hypot(out, model.laws.form_error(purchase.axis, float(np.log(purchase.size / model.largest[purchase.axis])))))


def _gain(model: Model, option: Option) -> tuple[float, float, float]:
  """How much lower than the measured base an option's loss is, as a share, with its 95% interval."""
  ratio, error = option.loss / model.measured, _TWO_SIDED * model.measured_error
  up = float(np.hypot(np.log(option.ci_high / option.loss), error))
  down = float(np.hypot(np.log(option.loss / option.ci_low), error))
  return 1 - ratio, 1 - ratio * float(np.exp(up)), 1 - ratio * float(np.exp(-down))


def to_reach(model: Model, target: float) -> str:
  """A sentence on the least budget whose best option or split reaches a loss."""

  def best(times: float) -> Option:
    return min(advise(model, times).options, key=lambda o: o.loss)

  if target >= model.measured:
    return f"{target:g} is reached by the base run (measured {model.measured:.5g})."
  top = best(_MOST)
  if top.loss > target:
    reach = "out of reach" if top.ci_low > target else "perhaps out of reach"
    return f"{target:g} is {reach}: {_MOST:g} times the budget gives {top.loss:.5g} [{top.ci_low:.5g}, {top.ci_high:.5g}]."
  low, high = 0.0, float(np.log(_MOST))
  for _ in range(30):
    middle = 0.5 * (low + high)
    low, high = (middle, high) if best(float(np.exp(middle))).loss > target else (low, middle)
  found = best(float(np.exp(high)))
  cost = f"{target:g} takes about {np.exp(high):,.3g} times the base run's FLOPs, spent on {_named(model, found.buy)}"
  return f"{cost}; the loss is then {found.loss:.5g} [{found.ci_low:.5g}, {found.ci_high:.5g}]."


def option_rows(advice: Advice) -> tuple[list[str], list[list[str]]]:
  """The options as a table of text."""
  columns = ["buy", "examples", "size", "loss [95% interval]", "best in", "beyond what was trained"]
  rows = []
  for o in advice.options:
    factor = o.axis in FACTOR_AXES  # of the base's widths
    size = "-" if o.size is None else f"{o.size:,.4g}" + (" x the widths" if factor else "") + (" (no FLOPs)" if o.free else "")
    share = "-" if o.best_share is None else f"{o.best_share:.0%} of {DRAWS} draws"
    rows.append([o.buy, f"{o.examples:,.4g}", size, f"{o.loss:.5g} [{o.ci_low:.5g}, {o.ci_high:.5g}]", share, f"{o.beyond:.3g}x"])
  return columns, rows
