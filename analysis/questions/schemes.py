"""The questions of the paper: exponent, constant, efficiency and regime of every scheme along data, parameters and compute.

- data: loss against examples at the largest size of the scheme.
- params: final loss against parameters over its sizes, at the same examples.
- compute: the least loss for the FLOPs spent, over the sizes and evaluations of the scheme; for scheme data, along its curve.

`best` is the frontier over all schemes together. The frontier of one configuration is its curve, with the law of that. The laws of
parameters and compute are fitted to the whole loss, so that schemes can be compared. The laws of data are fitted to the tail's part of it
where planted data has several. Called by `analysis.report`.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl

from analysis.fitting import covariance
from analysis.fitting.result import Estimate, Fit, row_as_dict
from analysis.load import Sweep, axes_of, on_data_curve, same_rows
from analysis.questions.curves import final_points, fitted, total_metric
from analysis.questions.drift import drift_of
from analysis.questions.frontier import SPAN, Frontier, candidates, frontier, frontier_law
from analysis.questions.regimes import regime_at
from analysis.questions.sweep_laws import LawRow

BEST = "best"
_BISECTIONS = 60


@dataclasses.dataclass(frozen=True)
class SchemeRow:
  """One scheme along one resource.

  Attributes:
    workload: as in `sweep.json`.
    scheme: an axis, or `best` for all of them.
    resource: `data`, `params` or `compute`.
    metric: the loss.
    fit: its law.
    regime: the regime at the end of the window, see `analysis.questions.regimes`.
    efficiency: the resource that the cheapest scheme needs for the loss that all of them reach, over what this one needs. It follows the
      fitted laws inside their windows; None without a law or a second scheme.
    theory_beta: theory's exponent on planted data, else None.
    frontier: the frontier of compute, or of `best`; else None.
  """

  workload: str
  scheme: str
  resource: str
  metric: str
  fit: Fit
  regime: str
  efficiency: float | None = None
  theory_beta: float | None = None
  frontier: Frontier | None = None

  def as_dict(self) -> dict[str, Any]:
    """The flat object of `laws.json`."""
    out = row_as_dict(self, "frontier")
    if self.frontier is not None:
      names = ["budget", "loss", "winner_loss", "scheme", "size", "examples", "agreement", "alike"]
      columns = [self.frontier.budget, self.frontier.loss.mean(axis=0), self.frontier.winner_loss]
      columns += [[w[name] for w in self.frontier.winner] for name in ("axis", "label", "examples")]
      columns += [self.frontier.agreement, [[f"{w['axis']} {w['label']}" for w in alike] for alike in self.frontier.alike]]
      out["frontier"] = [dict(zip(names, (_plain(v) for v in row), strict=True)) for row in zip(*columns, strict=True)]
      out["winner_picked_on_other_seeds"] = self.frontier.crossed
    return out


def _plain(value: Any) -> Any:
  return value.item() if isinstance(value, np.generic) else value


def scheme_rows(sweep: Sweep, rows: list[LawRow], sizes: list[LawRow], law: str) -> list[SchemeRow]:
  """The rows of every workload with the DLRM trained on it.

  Args:
    sweep: its runs.
    rows, sizes: its data laws and those over sizes (`sweep_laws.data_laws`, `sweep_laws.size_laws`).
    law: `auto`, or the law of every row.
  """
  frame = fitted(sweep).filter((pl.col("learner") == "dlrm") & on_data_curve())
  frame = frame.with_columns(flops=pl.col("flops_per_example") * pl.col("examples"))
  out: list[SchemeRow] = []
  for (workload,), group in frame.group_by("workload", maintain_order=True):
    metric, planted = total_metric(group), bool(group["planted"].any())
    drift = drift_of(group)
    refuse = drift.short if drift is not None else ""
    constant = "power_constant" if law == "auto" else law
    without = "power" if law == "auto" and planted and metric == "excess" else constant
    largest = {r.axis: r for r in rows if (r.workload, r.learner) == (workload, "dlrm")}  # they come in order of size
    mine = [_law_row(r, "data") for r in largest.values()]
    mine += [_law_row(r, "params") for r in sizes if (r.workload, r.learner, r.x) == (workload, "dlrm", "params") and r.axis != "data"]
    passes = list(largest.values())
    for scheme in axes_of(group):
      mine += _frontier_row(workload, scheme, "compute", metric, group.filter(axis=scheme), constant, passes, refuse)
    mine += _frontier_row(workload, BEST, "data", metric, group, without, passes, refuse)
    data = pl.col("axis") == "data"
    short = data & (pl.col("size") < pl.col("size").filter(data).max())  # shorter runs of the base
    mine += _frontier_row(workload, BEST, "params", metric, final_points(group.filter(~short))[0], constant, passes)
    mine += _frontier_row(workload, BEST, "compute", metric, group, constant, passes, refuse)
    out += _with_efficiency(mine)
  order = ("data", "params", "compute")
  return sorted(out, key=lambda r: (r.workload, order.index(r.resource)))


def _law_row(row: LawRow, resource: str) -> SchemeRow:
  return SchemeRow(
    row.workload, row.axis, resource, row.metric, row.fit, regime_at(row.fit, row.fit.x_max or 1.0), theory_beta=row.theory_beta
  )


def _frontier_row(
  workload: str, scheme: str, resource: str, metric: str, frame: pl.DataFrame, law: str, passes: list[LawRow], refuse: str = ""
) -> list[SchemeRow]:
  """The frontier of some evaluations and its law. Where they are one of `passes`, with the same loss, its data law is the law."""
  span = np.inf if resource == "params" else SPAN  # every model has its parameters from the start
  if not len(frame):
    return []
  given = candidates(frame, metric, resource)
  found = frontier(given, span)
  if found is None:  # this scheme does not change that resource
    return []
  group = f"{workload} / {scheme} / {resource}"
  only = (given.what[0]["axis"], given.what[0]["size"]) if given.one_pass else None
  law_of_pass = next((r for r in passes if (r.axis, r.size, r.metric) == (*only, metric)), None) if only else None
  if law_of_pass is None:
    fit = frontier_law(found, law, group, refuse, same_rows(frame))
  else:
    fit = dataclasses.replace(in_unit(law_of_pass.fit, float(given.cost[0] / given.what[0]["examples"])), group=group)
  return [SchemeRow(workload, scheme, resource, metric, fit, regime_at(fit, fit.x_max or 1.0), frontier=found)]


def in_unit(fit: Fit, per_unit: float) -> Fit:
  """A law of one x, against x times `per_unit`: exponents, constants and status stay. The interval of alpha is left out."""
  if per_unit == 1.0:
    return fit
  moved = None if fit.covariance is None else covariance.in_unit(fit.covariance, fit.estimates, per_unit)
  params = dict(fit.params)
  if "alpha" in params:
    params["alpha"] = Estimate(params["alpha"].estimate * per_unit ** fit.value("beta"), None, None, None)
  for name in ("x_break", "x_scale"):
    if name in params:
      p = params[name]
      error, low, high = (None if v is None else v * per_unit for v in (p.std_error, p.ci_low, p.ci_high))
      params[name] = Estimate(p.estimate * per_unit, error, low, high)
  low, high = (None if v is None else v * per_unit for v in (fit.x_min, fit.x_max))
  band = tuple((x * per_unit, below, above) for x, below, above in fit.band)
  return dataclasses.replace(fit, params=params, x_min=low, x_max=high, band=band, covariance=moved)


def _with_efficiency(rows: list[SchemeRow]) -> list[SchemeRow]:
  """The rows of one workload with their efficiencies, compared by resource and loss."""
  out = []
  for row in rows:
    peers = [r for r in rows if (r.resource, r.metric) == (row.resource, row.metric) and r.scheme != BEST and _known(r.fit)]
    if row not in peers or len(peers) < 2:
      out.append(row)
      continue
    target = max(float(p.fit.predict(np.array([p.fit.x_max]))[0]) for p in peers)  # a loss that all of them reach
    needs = [_needed(p.fit, target) for p in peers]
    mine = _needed(row.fit, target)
    known = [n for n in needs if n is not None]
    out.append(dataclasses.replace(row, efficiency=None if mine is None or not known else min(known) / mine))
  return out


def _known(fit: Fit) -> bool:
  return not fit.refused and fit.status not in ("not_identifiable", "misfit")


def _needed(fit: Fit, target: float) -> float | None:
  """The x inside its window at which a fitted law reaches a loss; the window's start where it is lower throughout."""
  if fit.x_min is None or fit.x_max is None or float(fit.predict(np.array([fit.x_max]))[0]) > target * (1 + 1e-9):
    return None
  low, high = np.log(fit.x_min), np.log(fit.x_max)
  for _ in range(_BISECTIONS):
    middle = 0.5 * (low + high)
    low, high = (middle, high) if float(fit.predict(np.exp([middle]))[0]) > target else (low, middle)
  return float(np.exp(high))
