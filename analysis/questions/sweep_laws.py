"""Which laws a sweep allows: loss against examples for every curve, final loss against size, parameters and FLOPs for every axis.

Called by `analysis.report`. Metric and law follow from the data: on planted data the excess, whose limit is 0, with `power`; on a real
click log NE with `power_constant`. Each fit carries the metric, law and window it was made with. Curves are training passes, whose noise
is told by the seeds of all configurations together; points over sizes are runs of their own. Grids get no law (one of one variable would
mix their axes), hardware axes neither: they change no loss. Where a learning rate runs out at a horizon, only the ends of curves count.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl

from analysis.fitting.fit_law import fit_law
from analysis.fitting.noise import Noise
from analysis.fitting.result import Fit, as_dict
from analysis.fitting.settings import noise_of, passes_of, repeated
from analysis.load import Sweep
from dlrm_jax.common.axis_names import AXES, HARDWARE_AXES

PLANTED_X_MIN = 2**17  # examples: earlier, a trained model still learns its bias and scale (the default window on planted data)
ROWS_LIMIT = 0.97  # share of the ideal excess owed to the rows, from which the rows law is read beside its theory
REAL_SPAN = 64  # on a click log the default window is the last factor of this in examples
LIMITED = ("rows", "tables", "all")  # axes on which the excess of planted data has a limit above 0: ids or fields that have no row
PART_OF = {"data": "excess_tail", "rows": "excess_tail", "dim": "excess_pairs", "overarch": "excess_scores", "mlp": "excess_dense"}
MIN_MOVE = 1.5  # an axis that moves parameters or FLOPs by a smaller factor says nothing about them
MIN_WINDOW_POINTS = 5  # evaluations that the default window must keep; else all are fitted


@dataclasses.dataclass(frozen=True)
class LawRow:
  """One fitted law and what it was fitted to.

  Attributes:
    workload, learner, axis: as in `sweep.json`.
    size: of the curve, for a fit against examples; None for a fit over the sizes of the axis.
    x: `examples`, `size`, `params` or `flops`.
    metric: the loss: `excess`, that of a part such as `excess_tail`, or `ne`.
    fit: the law.
    at_examples: examples seen where sizes are compared; None for a fit against examples.
    theory_beta, theory_gamma: what theory says on planted data, else None.
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
    own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "fit"}
    return as_dict(self.fit) | own


def total_metric(frame: pl.DataFrame) -> str:
  """The whole loss: the excess where it is known, else NE. What learning rates and schemes are compared by."""
  return "excess" if len(frame) and frame["excess"].is_not_null().all() else "ne"


def part_metric(frame: pl.DataFrame, axis: str) -> str:
  """The excess of the part of planted data that answers to an axis, where there are several parts; else the whole loss.

  Examples are what the tail answers to, whatever the model: while other parts are being learned the whole falls faster than its law.
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
    short: planted data, and too few evaluations from `PLANTED_X_MIN` examples on: all are taken.
    limited: planted data, and a limit above 0 is left of its excess: an axis of `LIMITED`, but for the base run that other axes have, too.
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
  def fittable(self) -> bool:
    """Whether a law can be fitted to its points: some, all positive and finite, one for each seed and number of examples."""
    x, y, seed = self.arrays
    return len(y) > 0 and bool(np.all(np.isfinite(y) & (y > 0))) and not repeated(x[:, None], seed)


def largest(given: list[Curve]) -> list[Curve]:
  """The curve of the largest size of each axis, workload and learner."""
  return list({(c.workload, c.learner, c.axis): c for c in sorted(given, key=lambda c: c.size)}.values())


def curves(sweep: Sweep, law: str, x_min: float | None, x_max: float | None, whole: bool = False) -> list[Curve]:
  """The curves of a sweep that get a data law, of every (workload, learner, axis, size).

  Args:
    sweep: its runs.
    law: `auto` or the law of every curve.
    x_min, x_max: the window in examples; None: its default start, no end.
    whole: the whole excess also where the tail's part of it is known.
  """
  out = []
  frame = fitted(sweep).filter(~pl.col("horizon"))
  free = set(frame.filter(~pl.col("axis").is_in(LIMITED))["config_id"])
  longest = frame.filter(axis="data").group_by("workload", "learner").agg(pl.col("size").max())
  longest_of = {(w, learner): size for w, learner, size in longest.rows()}
  for (workload, learner, axis, size), curve in frame.group_by("workload", "learner", "axis", "size", maintain_order=True):
    if axis == "data" and size != longest_of[workload, learner]:
      continue  # shorter runs of the same model are points of the fit over sizes below
    planted, metric = bool(curve["planted"].any()), total_metric(curve) if whole else part_metric(curve, "data")
    # Limited rows leave a constant that is not known; without it the excess falls to 0.
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
  """How passes scatter, by workload, learner and metric: told by the seeds of all their curves."""
  groups: dict[tuple[str, str, str], list[Any]] = {}
  seen = set()
  for curve in given:
    key = (*sorted(set(curve.points["config_id"])), curve.metric)
    if key not in seen and curve.fittable:  # one configuration may stand on several axes
      x, y, seed = curve.arrays
      groups.setdefault((curve.workload, curve.learner, curve.metric), []).extend(passes_of(x[:, None], y, seed)[0])
    seen.add(key)
  found = {key: noise_of(members) for key, members in groups.items()}
  return {key: noise for key, noise in found.items() if noise is not None}


def data_laws(given: list[Curve], noises: Noises) -> list[LawRow]:
  """Loss against examples for every curve, over its seeds."""
  rows, cache = [], {}
  for curve in given:
    key = (*sorted(set(curve.points["config_id"])), curve.law, curve.metric)
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
  """Where the window of data laws starts unless one is asked for; None where too few evaluations would be left."""
  start = float(PLANTED_X_MIN if planted else examples.max() / REAL_SPAN)
  return start if np.sum(examples >= start) >= MIN_WINDOW_POINTS else None


def size_laws(sweep: Sweep, law: str) -> list[LawRow]:
  """Final loss against the axis' size, the parameters and the FLOPs, for every (workload, learner, axis) of at least two sizes."""
  frame, rows = fitted(sweep), []
  law = "power_constant" if law == "auto" else law  # examples are limited, so there is a constant on planted data too
  for (workload, learner, axis), group in frame.group_by("workload", "learner", "axis", maintain_order=True):
    if group["size"].n_unique() < 2:
      continue
    if axis == "data":  # runs of their own at each size: their last evaluations
      last, at = group.filter(pl.col("examples") == pl.col("examples").max().over("config_id")), None
      last = last.with_columns(flops=pl.col("flops_per_example") * pl.col("examples"))
    else:
      last, at = final_points(group)
    planted = bool(group["planted"].any())
    columns = {"size": "size", "params": "params_total", "flops": "flops"}
    for x, column in columns.items():
      # A size is held against its own part, what it costs against the whole loss.
      metric = part_metric(last, axis) if x == "size" and axis != "data" else total_metric(last)
      chosen = "power" if axis == "data" and planted and metric != "ne" else law
      points = last.filter(pl.col(column).is_not_null() & pl.col(metric).is_not_null())
      if points[column].n_unique() < 2 or (x == "size" and axis == "data" and points[column].n_unique() < 3):
        continue
      values = points[column].to_numpy()
      if x != "size" and values.max() < MIN_MOVE * values.min():
        continue  # this axis does not move that resource
      fit = fit_law(values, points[metric].to_numpy(), chosen, points["seed"].to_numpy(), points="independent")
      fit = dataclasses.replace(fit, group=f"{workload} / {learner} / {axis} / final loss against {x}")
      known = x == "size" and axis in ("rows", "data")
      if axis == "rows":  # theory is for unlimited data: apt where the rows are what limits
        known &= bool(((points["rows_floor"] / points["excess_ideal"]).fill_null(0) > ROWS_LIMIT).all())
      beta = _number(points[f"beta_{axis}"].max()) if known else None
      rows.append(LawRow(workload, learner, axis, None, x, metric, fit, at, beta))
  return rows
