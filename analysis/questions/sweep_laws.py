"""The laws of a sweep: loss against examples for every curve, final loss against size, parameters and FLOPs for every axis.

Metric and law follow from the data. On planted data `power` is fitted to the excess, whose limit is 0; on a real click log `power_constant`
is fitted to NE. Each fit carries its metric, law and window. Curves are training passes: their noise is estimated from the seeds of all
configurations together. Points over sizes are separate runs. Grids get no law, since a law of one variable would mix their axes. Hardware
axes get none, since they change no loss. Where a learning rate runs out at a horizon, only the ends of curves count.

Called by `analysis.report` and by the other questions.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl

from analysis.fitting.fit_law import fit_law
from analysis.fitting.noise import Noise
from analysis.fitting.result import Fit, row_as_dict
from analysis.fitting.settings import noise_of, passes_of, repeated, usable
from analysis.load import Sweep, on_data_curve
from dlrm_jax.common.axis_names import AXES, HARDWARE_AXES

PLANTED_X_MIN = 2**17  # examples, the start of the default window on planted data: earlier, a model still learns its bias and scale
ROWS_LIMIT = 0.97  # share of the ideal excess that the rows cause, from which the rows law is compared with its theory
REAL_SPAN = 64  # on a click log the default window is the last factor of this in examples
LIMITED = ("rows", "tables", "all")  # axes on which ids or fields without a row keep the excess of planted data above 0
COLUMNS = {"size": "size", "params": "params_total", "flops": "flops"}  # of `ends`, by what a law over sizes is fitted against
PART_OF = {"data": "excess_tail", "rows": "excess_tail", "dim": "excess_pairs", "overarch": "excess_scores", "mlp": "excess_dense"}
MIN_MOVE = 1.5  # an axis that changes parameters or FLOPs by a smaller factor gets no law of them
MIN_WINDOW_POINTS = 5  # evaluations that the default window must keep; else all are fitted


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


def total_metric(frame: pl.DataFrame) -> str:
  """The whole loss, by which learning rates and schemes are compared: the excess where it is known, else NE."""
  return "excess" if len(frame) and frame["excess"].is_not_null().all() else "ne"


def part_metric(frame: pl.DataFrame, axis: str) -> str:
  """The excess of the part of planted data that an axis can affect, where there are several parts; else the whole loss.

  Examples affect the tail, whatever the model. While other parts are being learned the whole loss falls faster than the tail's law.
  """
  part = PART_OF.get(axis)
  return part if part and len(frame) and frame[part].is_not_null().all() else total_metric(frame)


def final_points(frame: pl.DataFrame) -> tuple[pl.DataFrame, int | None]:
  """The evaluations at the largest number of examples that every curve of `frame` has, with `flops` up to there; empty if there is none."""
  common = set.intersection(*(set(group["examples"]) for _, group in frame.group_by("config_id")))
  if not common:
    return frame.clear().with_columns(flops=pl.lit(None, pl.Float64)), None
  at = max(common)
  return frame.filter(pl.col("examples") == at).with_columns(flops=pl.col("flops_per_example") * at), at


def last_points(frame: pl.DataFrame) -> pl.DataFrame:
  """The last evaluation of every run, with its `flops`."""
  last = frame.filter(pl.col("examples") == pl.col("examples").max().over("config_id"))
  return last.with_columns(flops=pl.col("flops_per_example") * pl.col("examples"))


def ends(group: pl.DataFrame, axis: str) -> tuple[pl.DataFrame, int | None]:
  """The evaluations by which the sizes of an axis are compared: the last ones on the data axis, else `final_points`."""
  return (last_points(group), None) if axis == "data" else final_points(group)


def fitted(sweep: Sweep) -> pl.DataFrame:
  """The evaluations of the axes that get laws."""
  return sweep.evaluations().filter(pl.col("axis").is_in(AXES) & ~pl.col("axis").is_in(HARDWARE_AXES))


@dataclasses.dataclass(frozen=True)
class Curve:
  """The evaluations of one configuration over its seeds, in the window that its law is fitted to.

  Attributes:
    workload, learner, axis, size: as in `sweep.json`.
    metric: the loss.
    law: the law to fit.
    points: evaluations in the window, one a seed and number of examples.
    short: on planted data, whether all evaluations are fitted because too few come after `PLANTED_X_MIN` examples.
    limited: on planted data, whether the excess has a limit above 0. It has on an axis of `LIMITED`, except the base run, which is on other
      axes too.
  """

  workload: str
  learner: str
  axis: str
  size: float
  metric: str
  law: str
  points: pl.DataFrame
  short: bool
  limited: bool

  @property
  def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples, losses, seeds."""
    x, y = (self.points[name].to_numpy().astype(np.float64) for name in ("examples", self.metric))
    return x, y, self.points["seed"].to_numpy()

  @property
  def runs(self) -> tuple[str, ...]:
    """Its runs and its loss: the same for the curves of one configuration on several axes."""
    return (*sorted(set(self.points["config_id"])), self.metric)

  @property
  def fittable(self) -> bool:
    """Whether a law can be fitted to its points: some, all positive and finite, one for each seed and number of examples."""
    x, y, seed = self.arrays
    return len(y) > 0 and bool(usable(x[:, None], y).all()) and not repeated(x[:, None], seed)


def distinct(given: list[Curve]) -> list[Curve]:
  """The curves that a law can be fitted to, those of one configuration on several axes once."""
  first: dict[tuple[str, ...], Curve] = {}
  for curve in given:
    first.setdefault(curve.runs, curve)
  return [curve for curve in first.values() if curve.fittable]


def largest(given: list[Curve]) -> list[Curve]:
  """The curve of the largest size of each axis, workload and learner."""
  return list({(c.workload, c.learner, c.axis): c for c in sorted(given, key=lambda c: c.size)}.values())


def curves(sweep: Sweep, law: str, x_min: float | None, x_max: float | None, whole: bool = False) -> list[Curve]:
  """The curves of a sweep that get a data law, one for each (workload, learner, axis, size).

  Args:
    sweep: its runs.
    law: `auto` or the law of every curve.
    x_min, x_max: the window in examples; None: its default start, no end.
    whole: take the whole excess also where the tail's part of it is known.
  """
  out = []
  frame = fitted(sweep).filter(on_data_curve())
  free = set(frame.filter(~pl.col("axis").is_in(LIMITED))["config_id"])
  longest = frame.filter(axis="data").group_by("workload", "learner").agg(pl.col("size").max())
  longest_of = {(w, learner): size for w, learner, size in longest.rows()}
  for (workload, learner, axis, size), curve in frame.group_by("workload", "learner", "axis", "size", maintain_order=True):
    if axis == "data" and size != longest_of[workload, learner]:
      continue  # shorter runs of the same model are points of `size_laws`
    planted, metric = bool(curve["planted"].any()), total_metric(curve) if whole else part_metric(curve, "data")
    # Limited rows leave an unknown constant; with rows for all ids the excess falls to 0.
    limited = planted and axis in LIMITED and not free & set(curve["config_id"])
    chosen = law if law != "auto" else "power" if planted and not limited else "power_constant"
    curve = curve.filter(pl.col(metric).is_not_null()).unique(["config_id", "examples"], maintain_order=True)
    low = x_min
    if x_min is None and len(curve):
      low = default_x_min(curve["examples"].unique().to_numpy(), planted)
    short = planted and low is None
    curve = curve.filter((pl.col("examples") >= (low or 0)) & (pl.col("examples") <= (np.inf if x_max is None else x_max)))
    out.append(Curve(workload, learner, axis, size, metric, chosen, curve, short, limited))
  return out


Noises = dict[tuple[str, str, str], Noise]


def pooled_noise(given: list[Curve]) -> Noises:
  """The noise of passes by workload, learner and metric, estimated from the seeds of all their curves."""
  groups: dict[tuple[str, str, str], list[Any]] = {}
  for curve in distinct(given):
    x, y, seed = curve.arrays
    groups.setdefault((curve.workload, curve.learner, curve.metric), []).extend(passes_of(x[:, None], y, seed)[0])
  found = {key: noise_of(members) for key, members in groups.items()}
  return {key: noise for key, noise in found.items() if noise is not None}


def data_laws(given: list[Curve], noises: Noises) -> list[LawRow]:
  """Loss against examples for every curve, over its seeds."""
  rows, cache = [], {}
  for curve in given:
    key = (curve.runs, curve.law)
    if key not in cache:
      x, y, seed = curve.arrays
      fit = fit_law(x, y, curve.law, seed, noise=noises.get((curve.workload, curve.learner, curve.metric)))
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


def default_x_min(examples: np.ndarray, planted: bool) -> float | None:
  """The default start of the window of data laws; None where too few evaluations would be left."""
  start = float(PLANTED_X_MIN if planted else examples.max() / REAL_SPAN)
  return start if np.sum(examples >= start) >= MIN_WINDOW_POINTS else None


def size_laws(sweep: Sweep, law: str) -> list[LawRow]:
  """Final loss against the axis' size, the parameters and the FLOPs, for every (workload, learner, axis) of at least two sizes."""
  frame, rows = fitted(sweep), []
  law = "power_constant" if law == "auto" else law  # examples are limited, so planted data have a constant too
  for (workload, learner, axis), group in frame.group_by("workload", "learner", "axis", maintain_order=True):
    if group["size"].n_unique() < 2:
      continue
    (last, at), planted = ends(group, axis), bool(group["planted"].any())
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
      fit = fit_law(values, points[metric].to_numpy(), chosen, points["seed"].to_numpy(), points="independent")
      fit = dataclasses.replace(fit, group=f"{workload} / {learner} / {axis} / final loss against {x}")
      known = x == "size" and axis in ("rows", "data")
      if axis == "rows":  # theory assumes unlimited data: it applies where the rows are the limit
        known &= bool(((points["rows_floor"] / points["excess_ideal"]).fill_null(0) > ROWS_LIMIT).all())
      beta = _number(points[f"beta_{axis}"].max()) if known else None
      rows.append(LawRow(workload, learner, axis, None, x, metric, fit, at, beta))
  return rows
