"""Which evaluations of a sweep a law is fitted to: the curves of its configurations, and the ends by which sizes are compared.

Where a learning rate runs out at a horizon, only the ends of curves count. Called by `sweep_laws.py` and by the other questions.
"""

import dataclasses

import numpy as np
import polars as pl

from analysis.fitting.settings import repeated, usable
from analysis.load import Sweep, on_data_curve
from analysis.questions.drift import Drift, drift_of
from dlrm_jax.common.axis_names import AXES, HARDWARE_AXES

PLANTED_X_MIN = 2**17  # examples, the start of the default window on planted data: earlier, a model still learns its bias and scale
REAL_SPAN = 64  # on a click log the default window is the last factor of this in examples
LIMITED = ("rows", "tables", "all")  # axes on which ids or fields without a row keep the excess of planted data above 0
PART_OF = {"data": "excess_tail", "rows": "excess_tail", "dim": "excess_pairs", "overarch": "excess_scores", "mlp": "excess_dense"}
MIN_WINDOW_POINTS = 5  # evaluations that the default window must keep; else all are fitted


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
    drift: how losses go along the log of its workload; None on planted data, which has no time, and with too few evaluations.
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
  drift: Drift | None

  @property
  def drifts(self) -> bool:
    """Whether it is no data curve, because the log drifts."""
    return self.drift is not None and self.drift.drifts

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
    return len(y) > 0 and bool(usable(x[:, None], y).all()) and not repeated(x[:, None], y, seed)


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
  drifts = {key: drift_of(log) for key, log in frame.group_by("workload", "learner")}
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
    out.append(Curve(workload, learner, axis, size, metric, chosen, curve, short, limited, drifts[workload, learner]))
  return out


def default_x_min(examples: np.ndarray, planted: bool) -> float | None:
  """The default start of the window of data laws; None where too few evaluations would be left."""
  start = float(PLANTED_X_MIN if planted else examples.max() / REAL_SPAN)
  return start if np.sum(examples >= start) >= MIN_WINDOW_POINTS else None
