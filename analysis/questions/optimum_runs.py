"""Runs of many sizes and lengths, from which the compute optimum is found: read from a CSV file, or from one axis of a sweep.

Called by `analysis.optimum`.
"""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from analysis.fitting.optimum_law import Budget
from analysis.fitting.settings import usable
from analysis.load import load
from analysis.questions.csv_points import Columns, read_points
from analysis.questions.curves import default_x_min, fitted, total_metric
from analysis.questions.tuning import tuned
from dlrm_jax.common import flags

Array = np.ndarray
PARAMS = ("params_total", "params_dense", "params_embedding")  # columns of a sweep that may be N
_WIDTHS = ("overarch", "mlp", "overarch_depth", "mlp_depth")  # axes that change the dense parameters alone
_LEAST_POWER = 0.05  # FLOPs an example that grow more slowly than N to this have no compute optimum
_ROUGH = 0.1  # share by which FLOPs an example may be off their power of N before a note says so


@dataclasses.dataclass(frozen=True)
class Runs:
  """Points of training runs.

  Attributes:
    params, examples, flops, loss: N, D, C and the loss of each point; positive.
    run: the run of each point; None where each point is a run of its own.
    cost, power: FLOPs of an example, cost * N^power.
    names: what N, D and the loss are called.
    notes: what a reader must know.
  """

  params: Float[Array, " n"]
  examples: Float[Array, " n"]
  flops: Float[Array, " n"]
  loss: Float[Array, " n"]
  run: Shaped[Array, " n"] | None
  cost: float
  power: float
  names: tuple[str, str, str]
  notes: tuple[str, ...] = ()

  @property
  def passes(self) -> bool:
    """Whether points of one training pass are known as such."""
    return self.run is not None

  @property
  def seed(self) -> Shaped[Array, " n"] | None:
    """The number of each point's run among those of its size; None where each point is a run."""
    if self.run is None:
      return None
    out = np.zeros(len(self.run), int)
    for size in np.unique(self.params):
      mine = self.params == size
      out[mine] = np.unique(self.run[mine], return_inverse=True)[1].reshape(-1)
    return out

  def budget(self, flops: float) -> Budget:
    """A budget at these costs."""
    return Budget(flops, self.cost, self.power)


@dataclasses.dataclass(frozen=True)
class OptimumColumns(Columns):
  """The columns of `analysis.optimum`, whose flags have other names."""

  @property
  def wanted(self) -> list[tuple[str, str]]:
    """Pairs of a flag and the column that it names."""
    named = zip(("params", "examples", "flops"), self.x, strict=False)
    return [*named, ("loss", self.y), ("group", self.group), ("run", self.seed)]


def runs_of_csv(path: Path, params: str, examples: str, loss: str, flops: str, run: str, cost: float) -> Runs:
  """The runs of a CSV file. Raises UserError that names what is wrong.

  Args:
    path: the file.
    params, examples, loss: names of columns.
    flops: the column of training FLOPs, or empty: they are cost * N * D.
    run: the column that names training passes, or empty: each row is a run of its own.
    cost: FLOPs per parameter and example, where there is no column of FLOPs.
  """
  names = (params, examples, *([flops] if flops else []))
  (points,) = read_points(path, OptimumColumns(names, loss, "", run)).values()
  good = usable(points.x, points.y)
  if not good.all():
    raise flags.UserError(f"--input={path}: {len(good) - good.sum()} of {len(good)} rows have a value that is no positive finite number")
  n, d = points.x[:, 0], points.x[:, 1]
  c = points.x[:, 2] if flops else cost * n * d
  labels = points.seed if run else None
  for name in [] if labels is None else np.unique(labels):
    mine = labels == name
    if len(np.unique(n[mine])) > 1:
      raise flags.UserError(f"--run={run}: run {name} has {len(np.unique(n[mine]))} values of {params}, a run has one size")
    if len(np.unique(c[mine])) < mine.sum():
      raise flags.UserError(f"--run={run}: run {name} has two rows at one budget, a run has one")
  notes, power = [points.blank], 1.0
  if flops:
    cost, power = cost_of(n, c / d, f"--flops={flops}, --params={params}")
    notes.append(power_note(n, c / d, cost, power))
  return Runs(n, d, c, points.y, labels, cost, power, (params, examples, loss), tuple(filter(None, notes)))


def runs_of_sweep(workdir: str, axis: str, params: str, workload: str) -> Runs:
  """The passes of one axis of a sweep: every evaluation in the default window of its data laws.

  Args:
    workdir: of the sweep.
    axis: the axis whose sizes are compared; empty: the only one.
    params: a name of `PARAMS`; empty: the dense parameters on axes of widths and depths, else all.
    workload: the workload; empty: the only one.
  """
  sweep, _ = tuned(load(workdir))
  frame = fitted(sweep).filter((pl.col("learner") == "dlrm") & ~pl.col("horizon") & (pl.col("epochs").fill_null(0) <= 1))
  there = [name for name in dict.fromkeys(frame["axis"]) if name != "data"]
  if not axis and len(there) != 1:
    raise flags.UserError(f"--axis is required: must be among {', '.join(there)}" if there else f"--workdir={workdir}: has no model axis")
  axis = axis or there[0]
  if axis not in there:
    raise flags.UserError(f"--axis={axis}: must be among {', '.join(there)}")
  frame = frame.filter(axis=axis)
  workloads = frame["workload"].unique(maintain_order=True).to_list()
  if workload not in (workloads if workload or len(workloads) > 1 else ["", *workloads]):
    raise flags.UserError(f"--workload={workload}: must be among {', '.join(workloads)}")
  frame = frame.filter(workload=workload or workloads[0])
  column = params or ("params_dense" if axis in _WIDTHS else "params_total")
  metric = total_metric(frame)
  frame = frame.filter(pl.col(metric).is_not_null() & pl.col("flops_per_example").is_not_null() & pl.col(column).is_not_null())
  frame = frame.unique(["config_id", "examples"], maintain_order=True)
  start = default_x_min(frame["examples"].unique().to_numpy(), bool(frame["planted"].any())) if len(frame) else None
  frame = frame.filter((pl.col("examples") >= (start or 0)) & (pl.col(metric) > 0))
  if not len(frame):
    raise flags.UserError(f"--workdir={workdir}: axis {axis} has no evaluation along a pass that has a loss and FLOPs")
  n, d, each, loss = (frame[name].to_numpy().astype(np.float64) for name in (column, "examples", "flops_per_example", metric))
  cost, power = cost_of(n, each, f"{column} of axis {axis}")
  notes = [note for note in (power_note(n, each, cost, power),) if note]
  return Runs(n, d, each * d, loss, frame["config_id"].to_numpy().astype(str), cost, power, (column, "examples", metric), tuple(notes))


def cost_of(params: Float[Array, " n"], each: Float[Array, " n"], name: str) -> tuple[float, float]:
  """FLOPs of an example as cost * N^power, over the distinct sizes. Raises UserError where they do not grow with N."""
  sizes, first = np.unique(params, return_index=True)
  if len(sizes) < 2:
    raise flags.UserError(f"{name}: all runs have one size, {sizes[0]:g}; two or more are needed")
  power, level = np.polyfit(np.log(sizes), np.log(each[first]), 1)
  if power < _LEAST_POWER:
    raise flags.UserError(f"{name}: the FLOPs of an example do not grow with it (as its power {power:.2g}): no size is best for a budget")
  return float(np.exp(level)), float(power)


def power_note(params: Float[Array, " n"], each: Float[Array, " n"], cost: float, power: float) -> str:
  """How far the FLOPs of an example are from cost * N^power, where that matters."""
  off = float(np.abs(np.log(each / (cost * params**power))).max())
  return f"FLOPs of an example are taken as {cost:.3g} N^{power:.3g}, which is up to {np.expm1(off):.0%} off" if off > _ROUGH else ""
