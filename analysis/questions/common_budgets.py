"""Which runs are compared at which budget: rows of nearly one budget, or passes interpolated at common budgets.

Called by `approaches.py`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from analysis.questions.optimum_runs import Runs
from analysis.questions.winners import along

Array = np.ndarray
_BUDGETS = 8  # at which passes are compared


@dataclasses.dataclass(frozen=True)
class IsoFlops:
  """How isoFLOP profiles are made.

  Attributes:
    tolerance: the distance from a budget, as a share, up to which runs count as of this budget.
    least: the fewest sizes of a budget.
    budgets: the budgets; empty: those that the runs show, or log-spaced ones along passes.
    skewed: whether the profiles of all budgets share a skew; else they are parabolas in log N.
  """

  tolerance: float
  least: int
  budgets: tuple[float, ...]
  skewed: bool


@dataclasses.dataclass(frozen=True)
class Compared:
  """Losses of runs at common budgets: log C, log N, log loss and run of each, the indices of each budget, and budgets without any."""

  log_c: Float[Array, " n"]
  log_n: Float[Array, " n"]
  log_l: Float[Array, " n"]
  run: np.ndarray
  groups: list[np.ndarray]
  missing: tuple[float, ...] = ()


def compared(runs: Runs, options: IsoFlops) -> Compared:
  """The runs by budget: rows of nearly one budget, or passes interpolated at common budgets."""
  log_c, log_n, log_l = np.log(runs.flops), np.log(runs.params), np.log(runs.loss)
  if not runs.passes:
    if not options.budgets:
      return Compared(log_c, log_n, log_l, np.arange(len(log_c)), budgets_of(log_c, log_n, options.tolerance, options.least))
    width = np.log1p(options.tolerance)
    near = {b: np.flatnonzero(np.abs(log_c - np.log(b)) <= width) for b in sorted(options.budgets)}
    missing = tuple(b for b, group in near.items() if not len(group))
    return Compared(log_c, log_n, log_l, np.arange(len(log_c)), [group for group in near.values() if len(group)], missing)
  flops = np.array(sorted(options.budgets)) if options.budgets else _common_budgets(runs, options.least)
  sizes, names, losses = along(runs, flops)
  run, at = np.nonzero(np.isfinite(losses))
  groups = [np.flatnonzero(at == b) for b in range(len(flops)) if np.any(at == b)]
  missing = tuple(float(c) for b, c in enumerate(flops) if not np.any(at == b))
  return Compared(np.log(flops)[at], np.log(sizes)[run], losses[run, at], np.array(names)[run], groups, missing)


def _common_budgets(runs: Runs, least: int) -> Float[Array, " b"]:
  """Budgets at which so many sizes have a loss, as evenly spaced on logarithms as these allow."""
  flops = np.geomspace(runs.flops.min(), runs.flops.max(), 50 * _BUDGETS)
  sizes, _, losses = along(runs, flops)
  count = np.array([len(np.unique(sizes[np.isfinite(column)])) for column in losses.T])
  enough = flops[count >= least]
  if not len(enough):
    return enough
  wanted = np.log(np.geomspace(enough[0], enough[-1], _BUDGETS))
  return enough[np.unique(np.abs(np.log(enough)[:, None] - wanted).argmin(axis=0))]


def budgets_of(log_c: Float[Array, " n"], log_n: Float[Array, " n"], tolerance: float, least: int) -> list[Int[Array, " _m"]]:
  """Groups of runs of nearly one budget: the most runs within the tolerance of one budget first, while a group has enough sizes.

  Args:
    log_c, log_n: log FLOPs and log parameters of the runs.
    tolerance: the largest distance from the middle of a group, as a share of the budget.
    least: the fewest distinct sizes of a group.
  """
  left, out = np.argsort(log_c, kind="stable"), []
  width = 2 * np.log1p(tolerance)
  while len(left):
    at = log_c[left]
    ends = np.searchsorted(at, at + width * (1 + 1e-12), side="right")
    spans = at[ends - 1] - at
    start = int(np.lexsort((spans, np.arange(len(at)) - ends))[0])  # the most runs, then the narrowest
    group = left[start : ends[start]]
    if len(np.unique(log_n[group])) < least:
      break
    out.append(group)
    left = np.delete(left, np.arange(start, ends[start]))
  return sorted(out, key=lambda group: float(log_c[group].mean()))
