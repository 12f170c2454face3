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

from analysis.fitting import fit_law
from analysis.load import Sweep
from analysis.noise import Noise
from analysis.result import Fit, as_dict
from analysis.settings import noise_of, passes_of, repeated
from dlrm_jax.record import AXES, HARDWARE_AXES

PLANTED_X_MIN = 2**17  # examples: earlier, a trained model still learns its bias and scale (the default window on planted data)
ROWS_LIMIT = 0.9  # share of the ideal excess owed to the rows, from which the rows law is read beside its theory
REAL_SPAN = 64  # on a click log the default window is the last factor of this in examples
LIMITED = ("rows", "tables", "all")  # axes on which the excess of planted data has a limit above 0: ids or fields that have no row
MIN_WINDOW_POINTS = 5  # evaluations that the default window must keep; else all are fitted


@dataclasses.dataclass(frozen=True)
class LawRow:
  """One fitted law and what it was fitted to.

  Attributes:
    workload, learner, axis: as in `sweep.json`.
    size: of the curve, for a fit against examples; None for a fit over the sizes of the axis.
    x: `examples`, `size`, `params` or `flops`.
    metric: the loss: `excess_tail`, `excess` or `ne`.
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


def choose_metric(frame: pl.DataFrame) -> str:
  """The loss that answers to the axis of `frame`, which holds one axis.

  `excess` on planted data, `ne` else. Where other parts than the tail are planted, the data and rows axes are read on `excess_tail`:
  while those parts are being learned the total falls faster than the tail's law. The other axes answer to just those parts.
  """
  tail = set(frame["axis"]) <= {"data", "rows"}
  names = ("excess_tail", "excess") if tail else ("excess",)
  return next((name for name in names if frame[name].is_not_null().all() and len(frame)), "ne")


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
    metric: the loss that answers to the axis.
    law: the law to fit.
    points: evaluations in the window, one a seed and number of examples.
    short: planted data, and too few evaluations from `PLANTED_X_MIN` examples on: all are taken.
  """

  workload: str
  learner: str
  axis: str
  size: float
  metric: str
  law: str
  points: pl.DataFrame
  short: bool

  @property
  def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples, losses, seeds."""
    x, y = (self.points[name].to_numpy().astype(np.float64) for name in ("examples", self.metric))
    return x, y, self.points["seed"].to_numpy()


def curves(sweep: Sweep, law: str, x_min: float | None, x_max: float | None) -> list[Curve]:
  """The curves of a sweep that get a data law, of every (workload, learner, axis, size)."""
  out = []
  frame = fitted(sweep).filter(~pl.col("horizon"))
  longest = frame.filter(axis="data").group_by("workload", "learner").agg(pl.col("size").max())
  longest_of = {(w, learner): size for w, learner, size in longest.rows()}
  for (workload, learner, axis, size), curve in frame.group_by("workload", "learner", "axis", "size", maintain_order=True):
    if axis == "data" and size != longest_of[workload, learner]:
      continue  # shorter runs of the same model are points of the fit over sizes below
    planted, metric = bool(curve["planted"].any()), choose_metric(curve)
    # Limited rows leave a constant that is not known; without it the excess falls to 0.
    chosen = law if law != "auto" else "power" if planted and axis not in LIMITED else "power_constant"
    curve = curve.filter(pl.col(metric).is_not_null()).unique(["config_id", "examples"], maintain_order=True)
    low = x_min
    if x_min is None and len(curve):
      low = default_x_min(curve["examples"].unique().to_numpy(), planted)
    short = planted and low is None
    curve = curve.filter((pl.col("examples") >= (low or 0)) & (pl.col("examples") <= (np.inf if x_max is None else x_max)))
    out.append(Curve(workload, learner, axis, size, metric, chosen, curve, short))
  return out


Noises = dict[tuple[str, str, str], Noise]


def pooled_noise(given: list[Curve]) -> Noises:
  """How passes scatter, by workload, learner and metric: told by the seeds of all their curves."""
  groups: dict[tuple[str, str, str], list[Any]] = {}
  seen = set()
  for curve in given:
    key = (*sorted(set(curve.points["config_id"])), curve.metric)
    x, y, seed = curve.arrays
    if (
      key not in seen and len(y) and np.all(np.isfinite(y) & (y > 0)) and not repeated(x[:, None], seed)
    ):  # one configuration may stand on several axes
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
    beta = _number(curve.points["beta_data"].max()) if curve.axis not in LIMITED else None  # they bend the curve
    floor = _number(curve.points["rows_floor"].max()) if curve.axis == "rows" and curve.learner == "dlrm" else None
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
    metric, planted = choose_metric(last), bool(group["planted"].any())
    chosen = "power" if axis == "data" and planted and metric != "ne" else law
    columns = {"size": "size", "params": "params_total", "flops": "flops"}
    for x, column in columns.items():
      points = last.filter(pl.col(column).is_not_null() & pl.col(metric).is_not_null())
      if points[column].n_unique() < 2 or (x == "size" and axis == "data" and points[column].n_unique() < 3):
        continue  # this axis does not move that resource
      fit = fit_law(points[column].to_numpy(), points[metric].to_numpy(), chosen, points["seed"].to_numpy(), points="independent")
      fit = dataclasses.replace(fit, group=f"{workload} / {learner} / {axis} / final loss against {x}")
      known = x == "size" and axis in ("rows", "data")
      if axis == "rows":  # theory is for unlimited data: apt where the rows are what limits
        known &= bool(((points["rows_floor"] / points["excess_ideal"]).fill_null(0) > ROWS_LIMIT).all())
      beta = _number(points[f"beta_{axis}"].max()) if known else None
      rows.append(LawRow(workload, learner, axis, None, x, metric, fit, at, beta))
  return rows


def saturation(sweep: Sweep) -> list[dict[str, Any]]:
  """The rows axis on planted data: final excess beside what theory gives so many rows, with unlimited data and with these examples."""
  frame = sweep.evaluations().filter((pl.col("axis") == "rows") & pl.col("planted"))
  out = []
  for (workload, learner), group in frame.group_by("workload", "learner", maintain_order=True):
    last, at = final_points(group)
    metric = choose_metric(last)
    table = last.group_by("size").agg(
      pl.col(metric).mean().alias("excess"),
      pl.col(metric).std().alias("std"),
      pl.col("seed").n_unique().alias("seeds"),
      pl.col("rows_floor").first(),
      pl.col("excess_ideal").mean(),
    )
    shared = {"workload": workload, "learner": learner, "examples": at, "metric": metric}
    out += [shared | row for row in table.sort("size").to_dicts()]
  return out
