"""Figures after those of Ardalani et al. 2022, and the residuals of the data laws. Called by `analysis.report.plots`.

Data efficiency with the Pareto curve is their figure 4; compute efficiency by scheme, by data and by model size is their figure 5.
"""

from typing import Any

import altair as alt
import numpy as np
import polars as pl

from analysis.fitting.thinning import evenly
from analysis.load import axes_of
from analysis.questions.curves import total_metric
from analysis.questions.schemes import BEST, SchemeRow
from analysis.questions.sweep_laws import LawRow
from analysis.report import marks
from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure

_SPAN = 256  # a panel shows the last factor of this in examples
_MEANS = 700  # mean points that a panel draws at most
_BEST_LINES = {"best for the budget": [5, 4], "its law": [1, 0]}  # dashes


def figures(frame: pl.DataFrame, schemes: list[SchemeRow], rows: list[LawRow]) -> list[Figure]:
  """All of these figures that a sweep allows.

  Args:
    frame: evaluations of the axes that change what is learned. Curves are drawn of some sizes; the best is that of all.
    schemes: the result of `schemes.scheme_rows`.
    rows: the data laws.
  """
  every = frame.filter(pl.col("learner") == "dlrm")
  frame = marks.some_sizes(every)
  curves = _by_scheme(frame, every, schemes, "data") + _by_scheme(frame, every, schemes, "compute")
  return curves + _by_resource(frame, every, schemes) + _residuals(frame, rows)


def _means(group: pl.DataFrame, metric: str) -> list[dict[str, Any]]:
  """The mean over seeds of every evaluation in the span that is shown."""
  group = group.filter((pl.col(metric) > 0) & pl.col("flops_per_example").is_not_null())
  group = group.filter(pl.col("examples") >= pl.col("examples").max() / _SPAN)
  table = group.group_by("axis", "size", "label", "examples").agg(
    pl.col(metric).mean().alias("value"),
    (pl.col("flops_per_example").first() * pl.col("examples").first()).alias("flops"),
    pl.col("params_total").first().alias("params"),
    pl.col("config_id").first().alias("run"),
    pl.len().alias("seeds"),
  )
  return table.sort("axis", "size", "examples").to_dicts()


def envelope(means: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
  """The least loss that each budget buys, by the curves of all configurations: (budget, loss) at every budget that one was measured at.

  Between its points a curve is straight on logarithms; beyond its end, the budget still buys its least loss. One curve is its own envelope.

  Args:
    means: the result of `_means`.
    key: the budget, `examples` or `flops`.
  """
  curves: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
  for entry in means:
    curves.setdefault((entry["axis"], entry["size"]), []).append(entry)
  budget = np.unique([entry[key] for entry in means]).astype(np.float64)
  values = [
    np.interp(np.log(budget), np.log([e[key] for e in curve]), np.log([e["value"] for e in curve]), left=np.inf, right=np.inf)
    for curve in curves.values()
  ]
  least = np.min(values, axis=0)
  if len(curves) > 1:
    least = np.minimum.accumulate(least)
  return [(float(b), float(v)) for b, v in zip(budget, np.exp(least), strict=True) if np.isfinite(v)]


def _best_layers(row: SchemeRow | None, means: list[dict[str, Any]], key: str, x: Any, y: Any) -> list[Any]:
  """The layers of the envelope of all curves, dashed, and of the law of the frontier over all schemes."""
  if row is None or row.frontier is None:
    return []
  found, lines = row.frontier, []
  for budget, value in envelope(means, key):
    if budget >= found.budget[0] * (1 - 1e-9):
      lines.append({key: budget, "value": value, "line": "best for the budget"})
  fit = row.fit
  if not fit.refused and fit.status != "misfit" and fit.x_min is not None and fit.x_max is not None:
    at = np.geomspace(fit.x_min, fit.x_max, 60)
    lines += [{key: float(a), "value": float(b), "line": "its law"} for a, b in zip(at, fit.predict(at), strict=True)]
  shown = [name for name in _BEST_LINES if any(entry["line"] == name for entry in lines)]
  dash = alt.StrokeDash("line:N", title=None, scale=alt.Scale(domain=shown, range=[_BEST_LINES[name] for name in shown]))
  drawn = alt.Chart(chart.data(lines)).mark_line(style="theory", strokeWidth=1.8, clip=True)
  return [drawn.encode(x=x, y=y, strokeDash=dash)]


_RESOURCES = {"data": ("examples", "examples seen"), "compute": ("flops", "training FLOPs")}
_TOOLTIP = (
  *(("run", "first run"), ("axis", "axis"), ("label", "size")),
  *(("params", "parameters"), ("examples", "examples"), ("flops", "FLOPs")),
)


def _by_scheme(frame: pl.DataFrame, every: pl.DataFrame, schemes: list[SchemeRow], resource: str) -> list[Figure]:
  """One panel a workload: the curves of `frame` along a resource, one colour a scheme, and the best of `every` configuration."""
  key, title = _RESOURCES[resource]
  panels, axes = [], axes_of(frame)
  for (workload,), group in frame.group_by("workload", maintain_order=True):
    metric = total_metric(group)
    values = _means(group, metric)
    if len({v[key] for v in values}) < 2:
      continue
    best = next((r for r in schemes if (r.workload, r.scheme, r.resource) == (workload, BEST, resource)), None)
    x = chart.log_axis(alt.X, key, title, [v[key] for v in values])
    y = marks.y_axis(metric, [v["value"] for v in values])
    color = alt.Color("axis:N", title="scheme", scale=alt.Scale(domain=axes))
    pick = chart.pick("axis")
    line = alt.Chart(chart.data(values)).mark_line(strokeWidth=1.2)
    point = alt.Chart(chart.data(evenly(values, _MEANS))).mark_point(size=16)
    encoded = line.encode(x=x, y=y, color=color, detail="size:N", opacity=chart.picked(pick, alt.value(0.6)))
    tooltip = marks.tooltip(*_TOOLTIP, ("value", "loss"))
    dots = point.encode(x=x, y=y, color=color, opacity=chart.picked(pick, alt.value(0.85)), tooltip=tooltip).add_params(pick)
    lower = _best_layers(best, _means(every.filter(workload=workload), metric), key, x, y)
    panels.append(alt.layer(encoded, *lower, dots).properties(width=380, height=290, title=marks.workload_text(workload)))
  caption = (
    f"Loss against {title}, mean over seeds, one line for each configuration; dashed: the least of these that the budget buys. Where it is "
    "picked from several, noise makes it a little too low: its law, where one holds, is fitted to winners that were picked on other seeds "
    "than they are measured on."
  )
  name = {"data": "data_efficiency", "compute": "compute"}[resource]
  return marks.figure(name, f"{resource.capitalize()} efficiency by scheme", caption, panels)


def _by_resource(frame: pl.DataFrame, every: pl.DataFrame, schemes: list[SchemeRow]) -> list[Figure]:
  """Two panels a workload: loss against FLOPs, coloured by examples and by parameters."""
  panels = []
  for (workload,), group in frame.group_by("workload", maintain_order=True):
    metric = total_metric(group)
    values, means = evenly(_means(group, metric), _MEANS), _means(every.filter(workload=workload), metric)
    if len({v["flops"] for v in values}) < 2 or len({v["params"] for v in values}) < 2:
      continue
    best = next((r for r in schemes if (r.workload, r.scheme, r.resource) == (workload, BEST, "compute")), None)
    x = chart.log_axis(alt.X, "flops", "training FLOPs", [v["flops"] for v in values])
    y = marks.y_axis(metric, [v["value"] for v in values])
    for key, title in (("examples", "examples"), ("params", "parameters")):
      color = alt.Color(f"{key}:Q", title=title, scale=alt.Scale(type="log", scheme="viridis"), legend=alt.Legend(format="~s", tickCount=4))
      points = alt.Chart(chart.data(values)).mark_point(size=26, opacity=0.9)
      layer = points.encode(x=x, y=y, color=color, tooltip=marks.tooltip(*_TOOLTIP, ("value", "loss")))
      heading = alt.TitleParams(marks.workload_text(workload), subtitle=f"by {title}")
      panels.append(alt.layer(*_best_layers(best, means, "flops", x, y), layer).properties(width=380, height=290, title=heading))
  caption = (
    "The same evaluations, coloured by the examples seen and by the model's parameters: where along the frontier either should grow."
  )
  return marks.figure("compute_by", "Compute efficiency, by data and by model size", caption, panels, own_colors=True)


def _residuals(frame: pl.DataFrame, rows: list[LawRow]) -> list[Figure]:
  """One panel a workload: the residual of each evaluation from its data law, for the largest size of every axis."""
  largest = {(r.workload, r.axis): r for r in rows if r.learner == "dlrm" and not r.fit.refused}  # in order of size
  panels = []
  for workload in dict.fromkeys(w for w, _ in largest):
    points: list[dict[str, Any]] = []
    for (_, axis), row in ((key, r) for key, r in largest.items() if key[0] == workload):
      curve = frame.filter(workload=workload, axis=axis, size=row.size).filter(pl.col(row.metric) > 0)
      inside = curve.filter((pl.col("examples") >= row.fit.x_min) & (pl.col("examples") <= row.fit.x_max))
      mine = marks.points_of(inside, row.metric, row)
      predicted = row.fit.predict(np.array([p["examples"] for p in mine])) if mine else np.zeros(0)
      points += [p | {"residual": float(p["value"] / at - 1)} for p, at in zip(mine, predicted, strict=True)]
    if not points:
      continue
    axes = list(dict.fromkeys(p["axis"] for p in points))
    x = chart.log_axis(alt.X, "examples", "examples seen", [p["examples"] for p in points])
    y = alt.Y("residual:Q", title="loss over its law, less 1", axis=alt.Axis(format="+.2~%"))
    pick = chart.pick("axis")
    color = alt.Color("axis:N", title="largest size of", scale=alt.Scale(domain=axes))
    tooltip = marks.tooltip(*marks.RUN_TOOLTIP, ("residual", "residual"))
    zero = alt.Chart(chart.data([{"residual": 0.0}])).mark_rule(style="theory").encode(y=y)
    dots = alt.Chart(chart.data(evenly(points, marks.MOST_POINTS))).mark_point(size=22).encode(x=x, y=y, color=color, tooltip=tooltip)
    dots = dots.encode(opacity=chart.picked(pick, alt.value(0.8))).add_params(pick)
    panels.append(alt.layer(zero, dots).properties(width=380, height=200, title=marks.workload_text(workload)))
  caption = (
    "Residuals of the data laws in their windows, every seed. The noise of neighbours along a pass is correlated, which the intervals "
    "account for. A bend that all seeds share is the law's misfit."
  )
  return marks.figure("residuals", "Residuals", caption, panels)
