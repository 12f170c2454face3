"""The best loss that a budget buys: frontiers whose winner is picked on some seeds and measured on others.

Between the evaluations of a configuration its loss is interpolated, so that no winner has merely been evaluated nearest to a budget.
The minimum over noisy candidates is biased low, and more so with more candidates. A winner that is chosen without the seed it is measured
on has no such bias. Called by `analysis.questions.schemes`; fronts are called by `analysis.fit`.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from scipy import special

from analysis.fitting.fit_law import fit_law
from analysis.fitting.result import Fit

Array = np.ndarray
RESOURCES = {"data": "examples", "params": "params_total", "compute": "flops"}  # column of `evaluations` with `flops`
_BUDGETS = 12
_LEVEL = 0.05  # configurations are alike where a t test at this level does not tell their losses apart
_COMPLETE = 0.9  # a seed counts if at least this share of the candidates has its loss
SPAN = 256.0  # the frontier covers the last factor of this in the resource: earlier, models still learn their bias


@dataclasses.dataclass(frozen=True)
class Candidates:
  """`C` candidates with their costs, descriptions, and losses for each of S seeds; and the number left out for lack of a seed."""

  cost: Float[Array, " C"]
  what: list[dict[str, Any]]
  loss: Float[Array, "C S"]
  left_out: int = 0

  @property
  def one_pass(self) -> bool:
    """Whether all are evaluations of one configuration at different costs: there is nothing to choose between."""
    return len({(w["axis"], w["size"]) for w in self.what}) == 1 and len(np.unique(self.cost)) == len(self.cost)


@dataclasses.dataclass(frozen=True)
class Frontier:
  """The best that each budget buys.

  Attributes:
    budget: the budgets, rising.
    loss: for each seed, the loss of the winner among the other seeds. With one seed, that seed picks the winner too.
    winner: the winner on all seeds together.
    winner_loss: the loss of that winner, mean over seeds.
    agreement: the share of choices without one seed whose winner is one of `alike`.
    alike: the configurations that the seeds do not tell from the winner, each at its best for the budget: the winner, then by loss.
    crossed: whether winners were picked without the seed they are measured on, or nothing had to be picked.
    left_out: the number of candidates that lack a seed.
  """

  budget: Float[Array, " n"]
  loss: Float[Array, "S n"]
  winner: list[dict[str, Any]]
  winner_loss: Float[Array, " n"]
  agreement: Float[Array, " n"]
  crossed: bool
  left_out: int = 0
  alike: list[list[dict[str, Any]]] = dataclasses.field(default_factory=list)


def candidates(frame: pl.DataFrame, metric: str, resource: str) -> Candidates:
  """The evaluations of `frame` as candidates, on as many seeds as leave nine tenths of them; each has a loss for every seed.

  Args:
    frame: evaluations (`Sweep.evaluations`) of one workload and learner, with `flops`.
    metric: the loss.
    resource: a key of `RESOURCES`.
  """
  frame = frame.filter(pl.col(metric).is_not_null() & pl.col(RESOURCES[resource]).is_not_null())
  frame = frame.unique(["config_id", "examples"], maintain_order=True)  # one configuration may be on several axes
  keys = ["axis", "size", "label", "examples", RESOURCES[resource]]
  table = frame.pivot("seed", index=list(dict.fromkeys(keys)), values=metric, aggregate_function="first")
  counts = frame.group_by("seed").agg(pl.len()).sort("len", "seed", descending=[True, False])
  seeds = [str(seed) for seed in counts["seed"]]  # the seeds with the most evaluations first
  complete = [table.drop_nulls(seeds[:count]) for count in range(1, len(seeds) + 1)]
  most = max((count for count, rows in enumerate(complete, start=1) if len(rows) >= _COMPLETE * len(table)), default=min(2, len(seeds)))
  if not seeds or not len(complete[most - 1]):
    return Candidates(np.zeros(0), [], np.zeros((0, 0)), len(table))
  kept = complete[most - 1]
  what, loss = kept.select("axis", "size", "label", "examples").to_dicts(), kept.select(sorted(seeds[:most])).to_numpy().astype(float)
  return Candidates(kept[RESOURCES[resource]].to_numpy().astype(float), what, loss, len(table) - len(kept))


def frontier(given: Candidates, span: float = SPAN) -> Frontier | None:
  """The frontier over the costs of the candidates, or `_BUDGETS` log-spaced budgets; None with fewer than two.

  The frontier of one pass is its curve, point by point.

  Args:
    given: the candidates.
    span: budgets cover the last factor of this up to the largest cost; earlier on a pass, learning has only begun.
  """
  if len(given.cost) < 2:
    return None
  top = float(given.cost.max())
  low = max(float(given.cost.min()), top / span)
  distinct = np.unique(given.cost[given.cost >= low * (1 - 1e-9)])
  budget = distinct if len(distinct) <= _BUDGETS or given.one_pass else np.geomspace(low, top, _BUDGETS)
  if len(budget) < 2:
    return None
  seeds, mean = given.loss.shape[1], given.loss.mean(axis=1)
  if given.one_pass:
    at = [int(np.argmax(given.cost == cost)) for cost in budget]
    return Frontier(
      budget, given.loss[at].T, [given.what[i] for i in at], mean[at], np.ones(len(at)), True, given.left_out, [[given.what[i]] for i in at]
    )
  columns = [_at(given, float(b), seeds) for b in budget]
  return Frontier(
    budget,
    np.column_stack([c.loss for c in columns]),
    [c.alike[0] for c in columns],
    np.array([c.winner_loss for c in columns]),
    np.array([c.agreement for c in columns]),
    seeds > 1,
    given.left_out,
    [c.alike for c in columns],
  )


@dataclasses.dataclass(frozen=True)
class _Choice:
  """The frontier at one budget: its fields are those of `Frontier`."""

  loss: Float[Array, " S"]
  winner_loss: float
  agreement: float
  alike: list[dict[str, Any]]


def _at(given: Candidates, budget: float, seeds: int) -> _Choice:
  """The winner at one budget, among the evaluations within it and the configurations interpolated there."""
  within = given.cost <= budget * (1 + 1e-9)
  what, loss = [w for w, there in zip(given.what, within, strict=True) if there], given.loss[within]
  between, more = _interpolated(given, budget)
  what, loss = what + between, np.concatenate([loss, more])
  named = [(w["axis"], w["size"]) for w in what]
  mean = loss.mean(axis=1)
  winner = int(np.argmin(mean))
  best: dict[tuple[Any, ...], int] = {}  # of each configuration, its best
  for i in np.argsort(mean, kind="stable"):
    best.setdefault(named[i], int(i))
  alike = [i for i, same in zip(best.values(), _alike(loss[list(best.values())]), strict=True) if same]
  chosen = [int(np.argmin((np.delete(loss, s, axis=1) if seeds > 1 else loss).mean(axis=1))) for s in range(seeds)]
  agreement = np.mean([named[i] in {named[k] for k in alike} for i in chosen])
  return _Choice(loss[chosen, np.arange(seeds)], float(mean[winner]), float(agreement), [what[i] for i in alike])


def _interpolated(given: Candidates, budget: float) -> tuple[list[dict[str, Any]], Float[Array, "K S"]]:
  """The configurations that have evaluations before and after a budget, and none at it: interpolated on logarithms, each seed's pass."""
  what, losses = [], [np.empty((0, given.loss.shape[1]))]
  names = [(w["axis"], w["size"]) for w in given.what]
  for name in dict.fromkeys(names):
    at = np.array([i for i, other in enumerate(names) if other == name])
    at = at[np.argsort(given.cost[at], kind="stable")]
    cost = given.cost[at]
    if not cost[0] < budget < cost[-1] or np.any(np.isclose(cost, budget, rtol=1e-9)) or np.any(given.loss[at] <= 0):
      continue
    right = int(np.searchsorted(cost, budget))
    part = np.log(budget / cost[right - 1]) / np.log(cost[right] / cost[right - 1])
    low, high = given.loss[at[right - 1]], given.loss[at[right]]
    losses.append((low ** (1 - part) * high**part)[None])
    before = given.what[at[right - 1]]
    what.append(before | {"examples": round(before["examples"] * budget / float(cost[right - 1]))})
  return what, np.concatenate(losses)


def _alike(loss: Float[Array, "K S"]) -> Bool[Array, " K"]:
  """Which of some configurations, the best first, the seeds do not tell from the first: each mean difference against its own scatter.

  The scatter of the differences between seeds is pooled over the configurations. With one seed the first is named alone.
  """
  count, seeds = loss.shape
  first = np.arange(count) == 0
  if seeds < 2 or count < 2:
    return first
  rest = loss - loss.mean(axis=1, keepdims=True)
  rest = rest - rest.mean(axis=0)  # what all configurations share with a seed is in no difference
  free = (count - 1) * (seeds - 1)
  error = np.sqrt(2 * float(np.sum(rest**2)) / free / seeds)
  return first | (loss.mean(axis=1) - loss[0].mean() <= special.stdtrit(free, 1 - _LEVEL / 2) * error)


def frontier_law(found: Frontier, law: str, group: str, refuse: str = "", same_rows: bool = False) -> Fit:
  """The law of a frontier, whose seeds are curves over the same budgets. `refuse`, `same_rows`: as in `fit_law`."""
  seeds, count = found.loss.shape
  points = (np.tile(found.budget, seeds), found.loss.ravel(), law, np.repeat(np.arange(seeds), count))
  fit = fit_law(*points, group=group, refuse=refuse, same_rows=same_rows)
  notes = [fit.note] if fit.note else []
  if not found.crossed:
    notes.append("one seed: the winner is measured on the noise it was picked by, the frontier is too low")
  if found.left_out:
    notes.append(f"{found.left_out} evaluations left out: they lack a seed that most have")
  return dataclasses.replace(fit, note="; ".join(notes))
