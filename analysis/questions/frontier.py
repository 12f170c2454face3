"""The best loss that a budget buys: Pareto fronts of points, and frontiers whose winner is picked on some seeds and measured on others.

The minimum over noisy candidates is biased low, and more so with more candidates. A winner that is chosen without the seed it is measured
on has no such bias. Called by `analysis.questions.schemes`; fronts and the optimum of a joint law are called by `analysis.fit`.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from analysis.fitting.fit_law import fit_law
from analysis.fitting.result import Fit

Array = np.ndarray
RESOURCES = {"data": "examples", "params": "params_total", "compute": "flops"}  # column of `evaluations` with `flops`
_BUDGETS = 12
_COMPLETE = 0.9  # a seed counts if at least this share of the candidates has its loss
SPAN = 256.0  # the frontier covers the last factor of this in the resource: earlier, models still learn their bias


def pareto_front(cost: Float[Array, " n"], loss: Float[Array, " n"]) -> Int[Array, " m"]:
  """Indices of the points that no other beats in both cost and loss, by rising cost."""
  order = np.lexsort((loss, cost))
  best, front = np.inf, []
  for i in order:
    if loss[i] < best:
      best = float(loss[i])
      front.append(int(i))
  return np.array(front, int)


def joint_optimum(values: dict[str, float], budget: float, cost: float = 6.0) -> dict[str, float]:
  """The split of FLOPs C = cost N D that minimises A N^-alpha + B D^-beta + E (Hoffmann et al. 2022, equation 4).

  Args:
    values: A, B, E, alpha, beta of law `chinchilla`.
    budget: C.
    cost: FLOPs per parameter and example, 6 for a transformer.

  Returns:
    `N`, `D` and `loss`.
  """
  alpha, beta = values["alpha"], values["beta"]
  ratio = (alpha * values["A"] / (beta * values["B"])) ** (1 / (alpha + beta))
  n = ratio * (budget / cost) ** (beta / (alpha + beta))
  d = budget / cost / n
  return {"N": n, "D": d, "loss": values["A"] * n**-alpha + values["B"] * d**-beta + values["E"]}


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
    agreement: the share of choices without one seed whose winner is on the same axis.
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
    return Frontier(budget, given.loss[at].T, [given.what[i] for i in at], mean[at], np.ones(len(at)), True, given.left_out)
  allowed = given.cost[:, None] <= budget * (1 + 1e-9)
  overall = np.argmin(np.where(allowed, mean[:, None], np.inf), axis=0)
  loss, same = np.empty((seeds, len(budget))), np.zeros((seeds, len(budget)))
  axes = np.array([w["axis"] for w in given.what])
  for s in range(seeds):
    others = np.delete(given.loss, s, axis=1) if seeds > 1 else given.loss
    winner = np.argmin(np.where(allowed, others.mean(axis=1)[:, None], np.inf), axis=0)
    loss[s], same[s] = given.loss[winner, s], axes[winner] == axes[overall]
  return Frontier(budget, loss, [given.what[i] for i in overall], mean[overall], same.mean(axis=0), seeds > 1, given.left_out)


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
