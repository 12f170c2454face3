"""The run that a sweep varies, and what a size on an axis costs compared with it. Called by `additive.py` and by advice."""

import dataclasses

import numpy as np
import polars as pl

FACTOR_AXES = ("overarch", "mlp", "all")  # whose sizes are factors on the base


@dataclasses.dataclass(frozen=True)
class Base:
  """The run that a sweep varies.

  Attributes:
    examples: the number of examples at its end.
    flops: the FLOPs of training on them.
    sizes: its size on every axis.
    costs: for every axis, pairs (log size over the base's, log FLOPs an example over the base's), by rising size.
  """

  examples: float
  flops: float
  sizes: dict[str, float]
  costs: dict[str, tuple[tuple[float, float], ...]]

  def is_free(self, axis: str) -> bool:
    """Whether the axis changes no FLOPs."""
    return max(abs(cost) for _, cost in self.costs[axis]) < 1e-6

  def cost(self, axis: str, size: float) -> float:
    """FLOPs an example at a size, over the base's: interpolated as a power law, and extrapolated with the last slope."""
    log_size, log_cost = np.array(self.costs[axis]).T
    at = np.log(size / self.sizes[axis])
    if at <= log_size[-1]:
      return float(np.exp(np.interp(at, log_size, log_cost)))
    slope = (log_cost[-1] - log_cost[-2]) / (log_size[-1] - log_size[-2])
    return float(np.exp(log_cost[-1] + slope * (at - log_size[-1])))

  def grown(self, axis: str, times: float) -> float:
    """The size that takes `times` the FLOPs an example, but at most `times` the size.

    Where the axis causes few of the FLOPs, most of the budget is left over.
    """
    if self.cost(axis, self.sizes[axis] * times) <= times:
      return self.sizes[axis] * times
    low, high = 0.0, float(np.log(times))
    for _ in range(100):
      middle = 0.5 * (low + high)
      low, high = (middle, high) if self.cost(axis, self.sizes[axis] * np.exp(middle)) < times else (low, middle)
    return float(self.sizes[axis] * np.exp(high))


def base_run(group: pl.DataFrame) -> pl.DataFrame:
  """The evaluations of the base, all seeds: the longest run of the data axis, else the configuration that is on most axes."""
  data = group.filter(axis="data")
  if len(data):
    return data.filter(pl.col("size") == pl.col("size").max())
  counts = group.group_by("config_id").agg(pl.col("axis").n_unique(), pl.col("params_total").max())
  chosen = counts.sort("axis", "params_total", "config_id", descending=[True, True, False])["config_id"][0]
  place = group.filter(config_id=chosen).row(0, named=True)
  return group.filter(axis=place["axis"], size=place["size"])


def base_size(axis: str, base: pl.DataFrame, mine: pl.DataFrame) -> float | None:
  """The base's size on an axis; None where its records do not have it."""
  own = mine.filter(pl.col("config_id").is_in(base["config_id"].unique().to_list()))
  if len(own):
    return float(own["size"][0])
  return 1.0 if axis in FACTOR_AXES else base[axis][0]


def costs_of(mine: pl.DataFrame, base_size: float, base_flops: float) -> tuple[tuple[float, float], ...]:
  table = mine.group_by("size").agg(pl.col("flops_per_example").first()).sort("size")
  pairs = {float(np.log(size / base_size)): float(np.log(flops / base_flops)) for size, flops in table.rows()}
  return tuple(sorted((pairs | {0.0: 0.0}).items()))
