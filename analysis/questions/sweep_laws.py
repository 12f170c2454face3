"""The laws of a sweep: loss against examples for every curve, final loss against size, parameters and FLOPs for every axis.

Metric and law follow from the data. On planted data `power` is fitted to the excess, whose limit is 0; on a real click log `power_constant`
is fitted to NE. Each fit carries its metric, law and window. Curves are training passes: their noise is estimated from the seeds of all
configurations together. Points over sizes are separate runs. Grids get no law, since a law of one variable would mix their axes. Hardware
axes get none, since they change no loss. Where the log drifts, its passes are no data curves and get none (`drift.py`).

Called by `analysis.report` and by the other questions.
"""

import dataclasses
from typing import Any

import polars as pl

from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS
from analysis.fitting.noise import Noise
from analysis.fitting.one_pass import Passes, pooled
from analysis.fitting.result import Fit, row_as_dict
from analysis.load import Sweep, same_rows
from analysis.questions.curves import PLANTED_X_MIN, Curve, distinct, ends, fitted, part_metric, total_metric
from analysis.questions.drift import drift_of
from dlrm_jax.common.axis_names import AXES

ROWS_LIMIT = 0.97  # share of the ideal excess that the rows cause, from which the rows law is compared with its theory
COLUMNS = {"size": "size", "params": "params_total", "flops": "flops"}  # of `ends`, by what a law over sizes is fitted against
MIN_MOVE = 1.5  # an axis that changes parameters or FLOPs by a smaller factor is not fitted against them
MIN_SPAN = 3.0  # and by a smaller factor than this, the law is refused: a part that stays makes any exponent of them


@dataclasses.dataclass(frozen=True)
class LawRow:
  """One fitted law and what it was fitted to.

  Attributes:
    workload, learner, axis: as in `sweep.json`.
    size: the size of the curve, for a fit against examples; None for a fit over the sizes of the axis.
    x: `examples`, `size`, `params` or `flops`.
    metric: the loss: `excess`, the excess of a part such as `excess_tail`, or `ne`.
    fit: the law.
    at_examples: the number of examples at which sizes are compared; None for a fit against examples.
    theory_beta, theory_gamma: theory's exponent and constant on planted data, else None.
  """

  workload: str
  learner: str
  axis: str
  size: float | None
  x: str
  metric: str
  fit: Fit
  at_examples: int | None = None
  theory_beta: float | None = None
  theory_gamma: float | None = None

  def as_dict(self) -> dict[str, Any]:
    """The flat object of `laws.json`."""
    return row_as_dict(self)


Noises = dict[tuple[str, str, str], Noise]


def pooled_noise(given: list[Curve]) -> Noises:
  """The noise of passes by workload, learner and metric, estimated from the seeds of all their curves (`one_pass.pooled`)."""
  groups: dict[tuple[str, str, str], list[Passes]] = {}
  for curve in distinct(given):
    x, y, seed = curve.arrays
    groups.setdefault((curve.workload, curve.learner, curve.metric), []).append(Passes(LAWS[curve.law], x[:, None], y, seed))
  found = {key: pooled(members) for key, members in groups.items()}
  return {key: noise for key, noise in found.items() if noise is not None}


def data_laws(given: list[Curve], noises: Noises) -> list[LawRow]:
  """Loss against examples for every curve, over its seeds."""
  rows, cache = [], {}
  for curve in given:
    key = (curve.runs, curve.law)
    if key not in cache:
      x, y, seed = curve.arrays
      refuse = curve.drift.short if curve.drift is not None else ""
      noise = noises.get((curve.workload, curve.learner, curve.metric))
      fit = fit_law(x, y, curve.law, seed, noise=noise, refuse=refuse, same_rows=same_rows(curve.points))
      if refuse and curve.drift is not None:
        fit = dataclasses.replace(fit, reason=curve.drift.reason)
      if curve.short and fit.status == "ok":
        fit = dataclasses.replace(fit, status="short_window", note=f"too few evaluations from {PLANTED_X_MIN} examples on: all were fitted")
      cache[key] = fit
    beta = None if curve.limited else _number(curve.points["beta_data"].max())
    floor = _number(curve.points["rows_floor"].max()) if curve.axis == "rows" and curve.learner == "dlrm" and curve.limited else None
    group = f"{curve.workload} / {curve.learner} / {curve.axis} / {curve.size:g}"
    fit = dataclasses.replace(cache[key], group=group)
    rows.append(LawRow(curve.workload, curve.learner, curve.axis, curve.size, "examples", curve.metric, fit, None, beta, floor))
  workloads, axes = list(dict.fromkeys(row.workload for row in rows)), list(AXES)
  return sorted(rows, key=lambda r: (axes.index(r.axis), workloads.index(r.workload), r.learner, r.size))


def _number(value: Any) -> float | None:
  return None if value is None else float(value)


def size_laws(sweep: Sweep, law: str) -> list[LawRow]:
  """Final loss against the axis' size, the parameters and the FLOPs, for every (workload, learner, axis) of at least two sizes."""
  frame, rows = fitted(sweep), []
  law = "power_constant" if law == "auto" else law  # examples are limited, so planted data have a constant too
  for (workload, learner, axis), group in frame.group_by("workload", "learner", "axis", maintain_order=True):
    if group["size"].n_unique() < 2:
      continue
    (last, at), planted = ends(group, axis), bool(group["planted"].any())
    drift = drift_of(frame.filter(workload=workload, learner=learner)) if axis == "data" else None
    for x, column in COLUMNS.items():
      # The law of a size is fitted to the part that it affects, the laws of its costs to the whole loss.
      metric = part_metric(last, axis) if x == "size" and axis != "data" else total_metric(last)
      chosen = "power" if axis == "data" and planted and metric != "ne" else law
      points = last.filter(pl.col(column).is_not_null() & pl.col(metric).is_not_null())
      if points[column].n_unique() < 2 or (x == "size" and axis == "data" and points[column].n_unique() < 3):
        continue
      values = points[column].to_numpy()
      if x != "size" and values.max() < MIN_MOVE * values.min():
        continue  # this axis does not change that resource
      refuse = drift.short if drift is not None else ""
      if axis == "data" and (points["epochs"].fill_null(0) > 1).any():
        refuse = "rows were trained on more than once"
      if x != "size" and axis != "data" and (span := values.max() / values.min()) < MIN_SPAN:
        refuse = f"{x} span a factor of {span:.2g}, an exponent against them needs {MIN_SPAN:g}"
      y, seed, same = points[metric].to_numpy(), points["seed"].to_numpy(), same_rows(points)
      fit = fit_law(values, y, chosen, seed, points="independent", refuse=refuse, same_rows=same)
      fit = dataclasses.replace(fit, reason=drift.reason) if drift is not None and drift.drifts else fit
      fit = dataclasses.replace(fit, group=f"{workload} / {learner} / {axis} / final loss against {x}")
      known = x == "size" and axis in ("rows", "data")
      if axis == "rows":  # theory assumes unlimited data: it applies where the rows are the limit
        known &= bool(((points["rows_floor"] / points["excess_ideal"]).fill_null(0) > ROWS_LIMIT).all())
      beta = _number(points[f"beta_{axis}"].max()) if known else None
      rows.append(LawRow(workload, learner, axis, None, x, metric, fit, at, beta))
  return rows
