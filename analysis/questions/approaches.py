"""The three ways of Hoffmann et al. 2022 (arXiv 2203.15556) to find how the best size grows with the budget, with 95% intervals.

Approach 1 takes the winners along training curves, approach 2 the minima of isoFLOP profiles, approach 3 a joint law. Called by
`analysis.optimum`.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.fitting.clustered import clustered
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import Law
from analysis.fitting.least_squares import SQUARES, Loss
from analysis.fitting.optimum_law import Budget, loss_law
from analysis.fitting.power_line import PowerLine, power_line
from analysis.fitting.result import Estimate, Fit
from analysis.questions.common_budgets import Compared, IsoFlops, compared
from analysis.questions.isoflop import Profiles, profiles_of
from analysis.questions.optimum import optimum, split_at
from analysis.questions.optimum_runs import Runs
from analysis.questions.winners import Envelope, Winner, envelope, winners
from dlrm_jax.common.text import number_of

Array = np.ndarray
NAMES = {1: "least loss along curves", 2: "isoFLOP profiles", 3: "joint law"}
_LEAST = 3  # winners or minima to which a power is fitted
_SCATTER = 0.01  # significance level at which a note says that minima scatter by more than their errors


@dataclasses.dataclass(frozen=True)
class _Best:
  """The least losses of some budgets. `independent`: whether their errors are; without that their law has no interval."""

  flops: Float[Array, " b"]
  loss: Float[Array, " b"]
  independent: bool


@dataclasses.dataclass(frozen=True)
class Approach:
  """What one approach finds.

  Attributes:
    number: 1, 2 or 3.
    points: what the power of the budget was fitted to.
    params: N, D, D_per_N and loss at the budget, and a, with which N grows as C^a; empty where `refused`. `loss` is absent where the least
      losses follow no law.
    notes: what a reader must know.
    refused: why there is no result, or empty.
  """

  number: int
  points: str
  params: dict[str, Estimate]
  notes: tuple[str, ...] = ()
  refused: str = ""

  def as_dict(self) -> dict[str, Any]:
    """An entry of `approaches` in the JSON file."""
    params = {name: vars(estimate) for name, estimate in self.params.items()}
    rest = {"points": self.points, "notes": list(self.notes), "refused": self.refused}
    return {"approach": self.number, "name": NAMES[self.number], "params": params, **rest}


def _from_line(number: int, points: str, size: PowerLine, best: _Best, budget: Budget, notes: list[str]) -> Approach:
  """The result of a power of the budget."""
  params = split_at(size.log_at(budget.flops), budget) | {"a": size.exponent}
  fit = fit_law(best.flops, best.loss, loss_law(budget.flops), points="independent")
  if fit.believed:
    loss = fit.params["loss"]
    params["loss"] = loss if best.independent else Estimate(loss.estimate, None, None, None)
  else:
    notes = [*notes, f"no loss is given, since that of {len(best.flops)} budgets follows no power and constant: {fit.reason}"]
  return Approach(number, points, params, tuple(notes))


def least_along_curves(runs: Runs, budget: Budget) -> tuple[Approach, Envelope | None, list[Winner]]:
  """Approach 1. The winners are weighted by the log of the budgets that they win."""
  if not runs.passes:
    return Approach(1, "", {}, refused="it takes training curves: name the passes with --run"), None, []
  found = envelope(runs)
  mine = winners(found)
  whole = [w for w in mine if not w.cut]
  used = whole if len(whole) >= _LEAST else mine
  points = f"winners of {number_of(len(used), 'size')}"
  if len(used) < _LEAST:
    return (
      Approach(1, points, {}, refused=f"{number_of(len(used), 'winner')} between smaller and larger sizes, {_LEAST} are needed"),
      found,
      mine,
    )
  notes = []
  if len(used) > len(whole):
    notes.append("curves end within the budgets of a winner: its middle is off")
  sizes = np.unique(runs.params)
  step = float(np.exp(np.log(sizes[-1] / sizes[0]) / (len(sizes) - 1)))
  notes.append(f"sizes are a factor of {step:.3g} apart: a size that wins is known to a factor of {np.sqrt(step):.3g}")
  flops = np.array([w.flops for w in used])
  errors = np.diag([1 / max(np.log(w.span), 1e-3) for w in used])
  size = power_line(flops, np.log([w.params for w in used]), errors)
  best = _Best(flops, np.exp([w.log_loss for w in used]), False)
  return _from_line(1, points, size, best, budget, notes), found, used


def isoflop(runs: Runs, budget: Budget, options: IsoFlops) -> tuple[Approach, Profiles | None, Compared]:
  """Approach 2. The power of the minima is weighted by their errors.

  Points of one pass at several budgets share their errors, so that intervals come from the residuals of whole runs (`clustered.py`).
  """
  given = compared(runs, options)
  if not given.groups:
    why = f"no budget has {options.least} sizes within {options.tolerance:.0%} of it"
    why = f"no run is within {options.tolerance:.0%} of a budget" if options.budgets else why
    why = "too few passes reach a common budget" if runs.passes else why
    return Approach(2, "", {}, refused=why), None, given
  found = profiles_of(given.log_c, given.log_n, given.log_l, given.groups, options.skewed, options.least)
  kept = found.kept
  points = f"{number_of(len(kept), 'budget')}, {number_of(sum(len(p.index) for p in kept), 'point' if runs.passes else 'run')}"
  if len(kept) < _LEAST:
    return (
      Approach(2, points, {}, refused=f"{len(kept)} of {len(found.every)} budgets have a minimum, {_LEAST} or more are needed"),
      found,
      given,
    )
  notes = []
  if any(p.beyond for p in found.every):
    notes.append("budgets whose minimum is beyond the sizes are left out, so that the other minima lean towards the middle of the sizes")
  best = _Best(np.array([p.flops for p in kept]), np.exp([p.loss for p in kept]), not runs.passes)
  size = power_line(best.flops, np.array([p.best for p in kept]), found.best_cov, found.free if found.best_cov is not None else 0.0)
  if runs.passes:
    run = given.run[found.rows]
    covariance, free = clustered(size.weights @ found.slopes, found.residual, found.design, found.inverse, run)
    size = dataclasses.replace(size, covariance=covariance, free=float(free.min()), scatter_p=None)
  elif size.scatter_p is not None and size.scatter_p < _SCATTER:
    notes.append("the minima scatter about their power by more than their errors, and the intervals are wider for it")
  return _from_line(2, points, size, best, budget, notes), found, given


def joint_law(runs: Runs, budget: Budget, loss: Loss = SQUARES, draws: int = 0) -> tuple[Approach, Fit]:
  """Approach 3: law `chinchilla` of all points.

  Args:
    runs: the points.
    budget: the FLOPs.
    loss: the loss of a log residual. With a robust one, points are taken as independent.
    draws: of the bootstrap that gives the intervals; 0: profile likelihood.
  """
  x, seed = np.column_stack([runs.params, runs.examples]), runs.seed
  kind = "curves" if runs.passes and loss.delta is None else "independent"

  def refit(law: Law | str) -> Fit:
    return fit_law(x, runs.loss, law, seed, points=kind, loss=loss, draws=draws)

  fit = refit("chinchilla")
  points = number_of(fit.num_points, "point")
  if not fit.believed:
    return Approach(3, points, {}, refused=fit.reason), fit
  return Approach(3, points, optimum(fit, refit, budget), tuple(filter(None, [fit.note]))), fit


def overlaps(found: list[Approach], name: str) -> list[tuple[int, int, bool]]:
  """For each pair of approaches with a result, whether their intervals of a quantity overlap; an open end is infinite."""
  out = []
  for one, other in itertools.combinations([a for a in found if not a.refused], 2):
    a, b = one.params[name], other.params[name]
    apart = any(x.ci_high is not None and y.ci_low is not None and x.ci_high < y.ci_low for x, y in ((a, b), (b, a)))
    out.append((one.number, other.number, not apart))
  return out
