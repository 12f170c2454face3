"""The figure of the study: excess of the tail against examples for every scheme, and the excess that each size leaves of its part.

Called by `analysis.publish`.
"""

from typing import Any

import altair as alt
import polars as pl

from analysis.questions.parts import ideal
from analysis.report import marks
from analysis.report.analysis import Analysis
from dlrm_jax.common.figures import chart

_AXES = ["data", "rows", "dim", "overarch", "mlp"]
_NAMES = {"rows": "rows of a table", "dim": "embedding dim", "overarch": "overarch, x base", "mlp": "bottom MLP, x base"}


def study_figure(paper: Analysis, tail: Analysis) -> dict[str, Any]:
  """The Vega-Lite spec.

  Args:
    paper: the sweep of all parts.
    tail: the sweep of the tail alone, whose exact estimator is shown for comparison.
  """
  panels = [_data_panel(paper, tail)] + [_size_panel(paper, axis) for axis in _AXES[1:]]
  return chart.finish([panels[0], alt.concat(*panels[1:], columns=2)], 2, own_colors=True)


def _data_panel(paper: Analysis, tail: Analysis) -> Any:
  """The excess of the tail against examples: the mean over seeds at the largest size of each scheme, and the ideal learner."""
  points: list[dict[str, Any]] = []
  frame = paper.sweep.evaluations()
  exponents = [e.window for e in paper.exponents]
  for row in exponents:
    curve = frame.filter(axis=row.axis, size=row.size, workload=row.workload, learner=row.learner)
    mean = curve.group_by("examples").agg(pl.col(row.metric).mean(), pl.col("config_id").first())
    label = f"{row.axis}: {row.fit.value('beta'):.3f}"
    points += [
      {"examples": e["examples"], "value": e[row.metric], "scheme": label, "run": e["config_id"]}
      for e in mean.filter(pl.col("examples") >= 2**15).sort("examples").to_dicts()
    ]
  learner = marks.ideal_line(frame.filter(axis="data", workload=exponents[0].workload).filter(pl.col("examples") >= 2**15))
  x = chart.log_axis(alt.X, "examples", "examples seen", [p["examples"] for p in points])
  y = chart.log_axis(alt.Y, "value", "excess log loss, tail part (nats)", [p["value"] for p in points + learner], label=chart.PLAIN)
  labels = list(dict.fromkeys(p["scheme"] for p in points))
  legend = alt.Legend(title="largest size, exponent", orient="bottom-left", direction="vertical", symbolType="stroke", offset=8)
  color = alt.Color("scheme:N", scale=alt.Scale(domain=labels), legend=legend)
  line = alt.Chart(chart.data(points)).mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=1.4).encode(x=x, y=y, color=color)
  theory = alt.Chart(chart.data(learner)).mark_line(style="theory", strokeWidth=1.8, strokeDash=[5, 4]).encode(x=x, y=y)
  per_id = next((e.window for e in tail.exponents if e.window.learner == "per_id" and e.window.workload == exponents[0].workload), None)
  exact = "" if per_id is None else f"; exact per-id estimator {per_id.fit.value('beta'):.3f}"
  title = alt.TitleParams("Data: one exponent for every scheme", subtitle=f"theory {exponents[0].theory_beta:.3f}, dashed{exact}")
  return alt.layer(theory, line).properties(width=360, height=330, title=title)


def _size_panel(paper: Analysis, axis: str) -> Any:
  """The excess that each size leaves of its part, and its floor."""
  rows = [p for p in paper.parts if p["axis"] == axis]
  points = [{"size": p["size"], "value": p["excess"], "label": p["label"]} for p in rows]
  floors = [{"size": p["size"], "value": ideal(p)} for p in rows if (ideal(p) or 0) > 0]
  x = chart.log_axis(alt.X, "size", _NAMES[axis], [p["size"] for p in points])
  y = chart.log_axis(alt.Y, "value", "left (nats)", [p["value"] for p in points + floors], label=chart.PLAIN)
  color = alt.Color(datum=axis, scale=alt.Scale(domain=_AXES), legend=None)
  layers = [alt.Chart(chart.data(points)).mark_point(size=40, filled=True).encode(x=x, y=y, color=color)]
  if floors:
    layers.insert(0, alt.Chart(chart.data(floors)).mark_line(style="theory", strokeWidth=1.6, strokeDash=[5, 4]).encode(x=x, y=y))
  part = rows[0]["metric"].removeprefix("excess_")
  return alt.layer(*layers).properties(width=165, height=120, title=alt.TitleParams(f"{axis}: {part} part", fontSize=11))
