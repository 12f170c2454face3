"""What the seeds say of each axis: whether the measured losses of its sizes differ by more than seeds do. No law is involved.

Called by `additive.py`.
"""

import dataclasses

import numpy as np
import polars as pl
from scipy import special

_LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Effect:
  """The measured losses along an axis, or along the examples of the base's pass.

  Attributes:
    name: the axis, or `examples`.
    sizes: its smallest and largest.
    losses: the geometric means over the seeds there.
    p: the probability of differences as large as those between the sizes if only seeds differed (F test of one-way analysis of variance on
      log losses); None where no configuration has two seeds.
  """

  name: str
  sizes: tuple[float, float]
  losses: tuple[float, float]
  p: float | None

  @property
  def seen(self) -> bool | None:
    """Whether the sizes differ beyond the noise; None where nothing tells."""
    return None if self.p is None else self.p < _LEVEL

  @property
  def falls(self) -> bool:
    """Whether the largest has a lower loss than the smallest."""
    return self.losses[1] < self.losses[0]

  @property
  def note(self) -> str:
    """What a reader must know, or empty."""
    if self.seen is None:
      return ""
    if not self.seen:
      return f"{self.name}: no effect on the loss beyond the noise"
    if not self.falls:
      low, high = (f"{loss:.4g} at {size:.4g}" for loss, size in zip(self.losses, self.sizes, strict=True))
      return f"{self.name}: the measured loss does not fall, {low} and {high}"
    return ""


def effects(points: pl.DataFrame, axes: tuple[str, ...], base: dict[str, float], metric: str) -> list[Effect]:
  """The effect of every axis at the largest number of examples that all configurations have, and that of the examples on the base.

  Args:
    points: one row an evaluation, with `at_AXIS` for every axis, `examples`, `seed` and the metric.
    axes: axes with a term.
    base: the base's size on each.
    metric: the loss.
  """
  columns = [f"at_{axis}" for axis in axes]
  points = points.with_columns(pl.col(metric).log().alias("log_loss_of_size"))
  common = set.intersection(*(set(group["examples"]) for _, group in points.group_by(columns))) if len(points) else set()
  if not common:
    return []
  last = points.filter(pl.col("examples") == max(common))
  within, free = _within(last, columns)
  out = []
  for axis in axes:
    others = [pl.col(f"at_{name}") == base[name] for name in axes if name != axis]
    out.append(_effect(axis, last.filter(*others) if others else last, f"at_{axis}", within, free))
  passes = points.filter(*(pl.col(f"at_{axis}") == base[axis] for axis in axes))
  ends = passes.filter(pl.col("examples").is_in([passes["examples"].min(), passes["examples"].max()])) if len(passes) else passes
  out.append(_effect("examples", ends, "examples", *_within(ends, ["examples"])))
  return [effect for effect in out if effect is not None]


def _within(points: pl.DataFrame, columns: list[str]) -> tuple[float, int]:
  """The sum of squares of log losses around the mean of their configuration, and its degrees of freedom."""
  if not len(points):
    return 0.0, 0
  rest = points.with_columns((pl.col("log_loss_of_size") - pl.col("log_loss_of_size").mean().over(columns)).alias("rest"))
  return float((rest["rest"] ** 2).sum()), len(points) - points.select(columns).n_unique()


def _effect(name: str, mine: pl.DataFrame, column: str, within: float, free: int) -> Effect | None:
  table = mine.group_by(column).agg(pl.col("log_loss_of_size").mean().alias("mean"), pl.len().alias("count")).sort(column)
  if len(table) < 2:
    return None
  size, mean, count = (table[c].to_numpy().astype(np.float64) for c in (column, "mean", "count"))
  p = None
  if free > 0 and within > 0:
    between = float(np.sum(count * (mean - np.average(mean, weights=count)) ** 2)) / (len(mean) - 1)
    p = float(special.fdtrc(len(mean) - 1, free, between / (within / free)))
  return Effect(name, (float(size[0]), float(size[-1])), (float(np.exp(mean[0])), float(np.exp(mean[-1]))), p)
