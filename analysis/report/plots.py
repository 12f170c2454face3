"""Figures of a sweep: one Altair spec each, used for SVG, PNG and the interactive page, legible on light and dark ground.

Called by `analysis.report`. Importing this module loads Altair, which is slow.
"""

from typing import Any

import altair as alt
import polars as pl
from altair.utils.schemapi import debug_mode

from analysis.fitting.result import STATUS_WORDS, estimate_text
from analysis.fitting.thinning import evenly
from analysis.load import SIZE_NAMES, Sweep, axes_of, on_data_curve
from analysis.questions.curves import ends, fitted
from analysis.questions.parts import FLOOR_OF
from analysis.questions.schemes import SchemeRow
from analysis.questions.sweep_laws import COLUMNS, LawRow
from analysis.report import efficiency, marks, unfitted
from analysis.report.marks import LEARNER_NAMES, X_NAMES
from dlrm_jax.common.axis_names import HARDWARE_AXES
from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.chart import SI_LABEL
from dlrm_jax.common.figures.render import Figure


@debug_mode(False)  # the checks of Altair's constructors take most of the time; the tests draw every figure
def figures(
  sweep: Sweep, data_rows: list[LawRow], size_rows: list[LawRow], schemes: list[SchemeRow], speeds: list[dict[str, Any]]
) -> list[Figure]:
  """Every figure that the sweep allows, in the order of the page.

  They are the headline data law, efficiency along data and compute, residuals, data curves by axis, final loss against size, and the
  figures of grids and hardware axes.
  """
  everything, frame = sweep.evaluations(), fitted(sweep)
  axes = axes_of(frame)
  trained = everything.filter(pl.col("axis").is_in(HARDWARE_AXES).not_() & on_data_curve())
  out = _headline(frame, data_rows) + efficiency.figures(trained, schemes, data_rows)
  for axis in axes:
    out += _data_curves(frame, data_rows, axis) if axis != "data" else []
  for axis in axes:
    out += _size_curves(frame, size_rows, axis)
  return out + unfitted.others(everything, speeds, axes_of(everything))


def _headline(frame: pl.DataFrame, rows: list[LawRow]) -> list[Figure]:
  """One panel a workload: loss against examples, each learner with its law and exponent, the ideal learner dashed."""
  panels = []
  for workload in dict.fromkeys(r.workload for r in rows):
    mine = [r for r in rows if r.workload == workload]
    chosen = [r for r in mine if r.axis == "data"] or [max(mine, key=lambda r: (r.fit.num_seeds, r.size or 0))]
    shown, points, fitted = frame.filter(workload=workload), [], []
    curves = [shown.filter(learner=r.learner, axis=r.axis, size=r.size) for r in chosen]
    for row, curve in zip(chosen, curves, strict=True):
      points += marks.points_of(curve, row.metric, row)
      fitted += marks.fitted_line(row)
    ideal = marks.ideal_line(pl.concat(curves))
    if not points:
      continue
    x = chart.log_axis(alt.X, "examples", "examples seen", [p["examples"] for p in points])
    y = marks.y_axis(chosen[0].metric, [p["value"] for p in points + ideal])
    learners = list(dict.fromkeys(p["learner"] for p in points))
    color = alt.Color("learner:N", title=None, scale=alt.Scale(domain=learners), legend=alt.Legend() if len(learners) > 1 else None)
    pick = chart.pick("learner")
    bands = [layer for row in chosen for layer in marks.band_layer(row, color, x, y, pick)]
    layers = [*bands, *marks.line_layers(fitted, ideal, color, x, y, pick), marks.point_layer(points, color, x, y, pick, 26)]
    named = [(LEARNER_NAMES.get(r.learner, r.learner), r) for r in chosen]
    labels = [{"text": f"{name}: {text}" if not i else text, "learner": name} for name, r in named for i, text in enumerate(law_texts(r))]
    for line, label in enumerate(labels):
      text = alt.Chart(chart.data([label])).mark_text(align="right", baseline="top", fontSize=12, fontWeight=600)
      layers.append(text.encode(text="text:N", color=color, x=alt.value(372), y=alt.value(6 + 17 * line)))
    theory = chosen[0].theory_beta
    subtitle = f"theory: exponent {theory:.3f}" if theory is not None else f"{chosen[0].axis}, size {chosen[0].size:g}"
    title = alt.TitleParams(marks.workload_text(workload), subtitle=subtitle)
    panels.append(alt.layer(*layers).properties(width=380, height=290, title=title))
  caption = (
    "Loss against examples seen; every point is one evaluation of one seed, faint before the fitted window. "
    "Lines: the fitted law, where one holds, with its 95% interval" + (IDEAL_CAPTION if frame["excess_ideal"].is_not_null().any() else ".")
  )
  return marks.figure("data_law", "The data law", caption, panels)


IDEAL_CAPTION = (
  "; dashed: the closed form of the ideal learner, an average over teachers that is exact for small logit errors only, so that a learner "
  "on one teacher may be a few per cent below it."
)


def law_texts(row: LawRow) -> list[str]:
  """What a figure says of a law, a line each: exponent and constant as the tables have them, or why there is no law."""
  if row.fit.refused:
    return ["no law: " + row.fit.status.removeprefix("refused: ")]
  if row.fit.status == "misfit":
    return ["no law: it " + STATUS_WORDS["misfit"]]
  constant = [f"constant {estimate_text(row.fit, 'gamma').split(' (')[0]}"] if "gamma" in row.fit.params else []
  return [f"β = {estimate_text(row.fit, 'beta')}", *constant]


def _data_curves(frame: pl.DataFrame, rows: list[LawRow], axis: str) -> list[Figure]:
  """One panel a workload: loss against examples, one colour a size."""
  panels, any_ideal = [], False
  sizes = evenly(sorted(set(frame.filter(axis=axis)["size"])), marks.MOST_CURVES)
  for workload in dict.fromkeys(r.workload for r in rows if r.axis == axis):
    mine = [r for r in rows if (r.workload, r.axis, r.learner) == (workload, axis, "dlrm") and r.size in sizes]
    mine.sort(key=lambda r: r.size or 0)
    shown, points, fitted = frame.filter(workload=workload, axis=axis, learner="dlrm"), [], []
    for row in mine:
      points += marks.points_of(shown.filter(size=row.size), row.metric, row)
      fitted += marks.fitted_line(row)
    if not points:
      continue
    ideal = marks.ideal_line(shown.filter(size=mine[-1].size))
    any_ideal |= bool(ideal)
    x = chart.log_axis(alt.X, "examples", "examples seen", [p["examples"] for p in points])
    y = marks.y_axis(mine[0].metric, [p["value"] for p in points + ideal])
    color = alt.Color("size:O", title=SIZE_NAMES[axis], scale=alt.Scale(domain=sizes), legend=alt.Legend(labelExpr=SI_LABEL))
    pick = chart.pick("size")
    layers = [*marks.line_layers(fitted, ideal, color, x, y, pick), marks.point_layer(points, color, x, y, pick, 22)]
    panels.append(alt.layer(*layers).properties(width=380, height=290, title=marks.workload_text(workload)))
  caption = (
    f"Loss against examples seen, one colour for each size of the {axis} axis; lines are the fitted laws that hold over their windows, "
  )
  caption += "thick while more examples pay, thin where that saturates"
  caption += "; dashed: the ideal learner at the largest size." if any_ideal else "."
  return marks.figure(f"data_{axis}", f"Data curves, {axis} axis", caption, panels)


def _size_curves(frame: pl.DataFrame, rows: list[LawRow], axis: str) -> list[Figure]:
  """Final loss against size, parameters and FLOPs of an axis, at the same number of examples."""
  panels, note = [], ""
  for row in (r for r in rows if r.axis == axis and r.learner == "dlrm"):
    group = frame.filter(workload=row.workload, axis=axis, learner=row.learner)
    column = COLUMNS[row.x]
    last = ends(group, axis)[0].filter(pl.col(column).is_not_null() & pl.col(row.metric).is_not_null())
    shown = zip(marks.points_of(last, row.metric), last.sort("examples").to_dicts(), strict=True)
    points = [{**p, "at": float(e[column])} for p, e in shown]
    theory = []
    if row.x == "size" and axis in FLOOR_OF:
      floor = FLOOR_OF[axis]
      for e in last.filter(pl.col(floor) > 0).unique(column).sort(column).to_dicts():
        theory.append({"at": e[column], "value": e[floor], "line": "ideal learner, unlimited data"})
        if axis == "rows" and e["excess_ideal"]:
          theory.append({"at": e[column], "value": e["excess_ideal"], "line": "ideal learner, these examples"})
    title = SIZE_NAMES[axis] if row.x == "size" else X_NAMES[row.x]
    distinct = sorted({p["at"] for p in points})
    few = len(distinct) <= 8 and (row.x == "size" or distinct[-1] < 3 * distinct[0])
    x = chart.log_axis(alt.X, "at", title, distinct, at=distinct if few else None)
    y = marks.y_axis(row.metric, [p["value"] for p in points + theory])
    layers = []
    if theory:
      dash = alt.StrokeDash("line:N", title=None, scale=alt.Scale(domain=sorted({t["line"] for t in theory}), range=[[5, 4], [1, 3]]))
      layers.append(alt.Chart(chart.data(theory)).mark_line(style="theory", strokeWidth=1.5).encode(x=x, y=y, strokeDash=dash))
    color = alt.Color("learner:N", legend=None)
    fitted = marks.fitted_line(row, "at")
    if fitted:
      line = alt.Chart(chart.data(fitted)).mark_line(opacity=marks.law_opacity(row))
      layers.append(line.encode(x=x, y=y, color=color, strokeWidth=marks.regime_width(fitted), detail="segment:N"))
    dots = alt.Chart(chart.data(evenly(points, marks.MOST_POINTS))).mark_point(size=34, opacity=0.8)
    layers.append(dots.encode(x=x, y=y, color=color, tooltip=marks.tooltip(*marks.RUN_TOOLTIP)))
    heading = alt.TitleParams(marks.workload_text(row.workload), subtitle=law_texts(row))
    panels.append(alt.layer(*layers).properties(width=250, height=230, title=heading))
    note = f" after {row.at_examples:,} examples, the most that all its sizes were evaluated at" if row.at_examples else ""
  caption = (
    f"{'Loss' if note else 'Final loss'} of the {axis} axis{note}; each point is one seed, the line is the fitted law (power + constant: "
    "examples are limited). "
    "No line: the points allow no law, or contradict it."
  )
  return marks.figure(f"model_{axis}", f"Model scaling, {axis} axis", caption, panels, len({r.x for r in rows if r.axis == axis}))
