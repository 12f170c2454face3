"""Examples a second over the hardware axes of a sweep, devices and placement: what gets no law of quality. Called by `analysis.report`."""

from typing import Any

import polars as pl

from analysis.load import Sweep, axes_of
from dlrm_jax.common.axis_names import HARDWARE_AXES


def throughput(sweep: Sweep) -> list[dict[str, Any]]:
  """One object a (workload, learner, axis, size): the median rate of its seeds, beside the axis' first size.

  speedup: the rate over that of the first size (of devices, the fewest; of placements, the first of the list).
  efficiency: of devices, the speedup over that of the devices, 1 where all of them help as much as the first; None of placements.
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
