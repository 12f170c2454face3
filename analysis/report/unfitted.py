"""Figures without a law: the curves of a grid, and throughput over hardware axes. Called by `analysis.report.plots`."""

from typing import Any

import altair as alt
import polars as pl

from analysis.load import SIZE_NAMES
from analysis.questions.curves import total_metric
from analysis.report import marks
from dlrm_jax.common.axis_names import AXES, GRID
from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure


def grid_figure(frame: pl.DataFrame, axis: str) -> list[Figure]:
  """One panel a workload: loss against examples, one line a combination of sizes, mean over seeds."""
  panels = []
  for (workload,), group in frame.filter(axis=axis, learner="dlrm").group_by("workload", maintain_order=True):
    metric = total_metric(group)
    means = group.filter(pl.col(metric) > 0).group_by("size", "label", "examples").agg(pl.col(metric).mean().alias("value"))
    values = means.sort("size", "examples").to_dicts()
    if not values:
      continue
    x = chart.log_axis(alt.X, "examples", "examples seen", [v["examples"] for v in values])
    y = marks.y_axis(metric, [v["value"] for v in values])
    labels = list(dict.fromkeys(v["label"] for v in values))
    color = alt.Color("label:N", title=axis, sort=labels, scale=alt.Scale(scheme="turbo"))
    tooltip = marks.tooltip(("label", "size"), ("examples", "examples"), ("value", "loss"))
    line = alt.Chart(chart.data(values)).mark_line(strokeWidth=1.5, point=alt.OverlayMarkDef(size=14))
    panels.append(line.encode(x=x, y=y, color=color, tooltip=tooltip).properties(width=380, height=290, title=workload))
  caption = "Loss against examples seen, mean over seeds, one line for each combination of sizes; no law of one variable is fitted to them."
  return marks.figure(f"grid_{axis.replace(GRID, '_')}", f"Curves of the grid {axis}", caption, panels)


def throughput_figure(entries: list[dict[str, Any]], axis: str) -> list[Figure]:
  """One panel a workload and learner: examples/s against devices, with the line of perfect scaling; or a bar a placement."""
  panels = []
  mine = [e for e in entries if e["axis"] == axis]
  for workload, learner in dict.fromkeys((e["workload"], e["learner"]) for e in mine):
    values = [e for e in mine if (e["workload"], e["learner"]) == (workload, learner)]
    tooltip = marks.tooltip(("label", SIZE_NAMES[axis]), ("examples_per_s", "examples/s"), ("speedup", "speedup"))
    title = alt.TitleParams(workload, subtitle=marks.LEARNER_NAMES.get(learner, learner))
    if axis == "devices":
      ideal = [{"size": e["size"], "examples_per_s": values[0]["examples_per_s"] * e["size"] / values[0]["size"]} for e in values]
      x = chart.log_axis(alt.X, "size", "devices", [e["size"] for e in values], at=[e["size"] for e in values])
      y = chart.log_axis(alt.Y, "examples_per_s", "examples/s", [e["examples_per_s"] for e in values + ideal])
      measured = alt.Chart(chart.data(values)).mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=30)).encode(x=x, y=y, tooltip=tooltip)
      line = alt.Chart(chart.data(ideal)).mark_line(style="theory", strokeWidth=1.5, strokeDash=[5, 4]).encode(x=x, y=y)
      panel = alt.layer(measured, line)
    else:
      x = alt.X("label:N", title=SIZE_NAMES[axis], sort=[e["label"] for e in values], axis=alt.Axis(labelAngle=0))
      y = alt.Y("examples_per_s:Q", title="examples/s", axis=alt.Axis(format="~s"))
      panel = alt.layer(alt.Chart(chart.data(values)).mark_bar(width=30).encode(x=x, y=y, tooltip=tooltip))
    panels.append(panel.properties(width=300, height=230, title=title))
  caption = f"Training examples a second over the {axis} axis, median over seeds" + (
    "; dashed: as many times the first rate as there are times its devices." if axis == "devices" else "."
  )
  return marks.figure(f"throughput_{axis}", f"Throughput, {axis} axis", caption, panels)


def others(frame: pl.DataFrame, speeds: list[dict[str, Any]], axes: list[str]) -> list[Figure]:
  """All of these figures that a sweep allows."""
  grids = [figure for axis in axes if axis not in AXES for figure in grid_figure(frame, axis)]
  return grids + [figure for axis in dict.fromkeys(e["axis"] for e in speeds) for figure in throughput_figure(speeds, axis)]
