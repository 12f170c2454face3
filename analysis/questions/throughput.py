"""Examples a second over the hardware axes of a sweep, devices and placement. They get no law of quality. Called by `analysis.report`."""

from typing import Any

import polars as pl

from analysis.load import Sweep, axes_of
from dlrm_jax.common.axis_names import HARDWARE_AXES


def throughput(sweep: Sweep) -> list[dict[str, Any]]:
  """One object for each (workload, learner, axis, size), with the median rate of its seeds.

  speedup: the rate over that of the first size: the fewest devices, or the first placement of the list.
  efficiency: for devices, the speedup over the ratio of devices, 1 where all of them help as much as the first; None for placements.
  """
  speeds = sweep.runs.filter(pl.col("status") == "done").select("config_id", "examples_per_s")
  frame = sweep.points.filter(pl.col("axis").is_in(HARDWARE_AXES)).join(speeds, on="config_id").drop_nulls("examples_per_s")
  out = []
  for (workload, learner, axis), group in frame.group_by("workload", "learner", "axis", maintain_order=True):
    table = group.group_by("size", "label").agg(pl.col("examples_per_s").median(), pl.len().alias("runs")).sort("size")
    first = table.row(0, named=True)
    for row in table.to_dicts():
      speedup = row["examples_per_s"] / first["examples_per_s"]
      efficiency = speedup * first["size"] / row["size"] if axis == "devices" else None
      shared = {"workload": workload, "learner": learner, "axis": axis, **row}
      out.append(shared | {"speedup": speedup, "efficiency": efficiency})
  order = axes_of(frame)
  return sorted(out, key=lambda e: order.index(e["axis"]))
