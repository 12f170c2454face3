"""Runs of many sizes and lengths, from which the compute optimum is found, and how they are read from a CSV file.

Called by `analysis.optimum`.
"""

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from analysis.fitting.optimum_law import Budget
from analysis.fitting.settings import usable
from analysis.questions.csv_points import Columns, read_points
from dlrm_jax.common import flags

Array = np.ndarray
PARAMS = ("params_total", "params_dense", "params_embedding")  # columns of a sweep that may be N
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
    return [*named, ("loss", self.y), ("group", self.group), ("seed", self.seed), ("run", self.run)]


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
  (points,) = read_points(path, OptimumColumns(names, loss, run=run)).values()
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
