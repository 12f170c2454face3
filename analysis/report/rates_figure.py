"""The figure of the best learning rates: each minimum with its interval against the size, and the power law. For `analysis.report`."""

import altair as alt
import numpy as np
from altair.utils.schemapi import debug_mode

from analysis.questions.rate_laws import RateLaw
from analysis.report import marks
from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure

_LINE = 25  # points of a law's line
_CUT = 3.0  # intervals are drawn up to this factor beyond the minima


@debug_mode(False)
def figures(laws: list[RateLaw]) -> list[Figure]:
  """One panel a workload, learner and axis that has at least two minima."""
  panels = []
  for law in (law for law in laws if len(law.kept) > 1 and law.law is not None):
    assert law.law is not None
    sizes = [law.sizes[i] for i in law.kept]
    best = [float(np.exp(law.found[i].log_x or 0.0)) for i in law.kept]
    edges, points, ends = (min(best) / _CUT, max(best) * _CUT), [], best.copy()
    for i, size, rate in zip(law.kept, sizes, best, strict=True):
      low, high = (None if v is None else float(np.clip(np.exp(v), *edges)) for v in (law.found[i].low, law.found[i].high))
      ends += [v for v in (low, high) if v is not None]
      points.append({"at": size, "rate": rate, "low": low, "high": high, "label": law.labels[i]})
    at = [float(v) for v in np.geomspace(sizes[0], sizes[-1], _LINE)]
    line = [{"at": size, "rate": law.law.at(size).estimate} for size in at]
    x = chart.log_axis(alt.X, "at", law.along, sizes, at=sizes if len(sizes) <= 8 and law.axis != "data" else None)
    name = f"best {law.rate.replace('factor', 'factor of the rates')}"
    y = chart.log_axis(alt.Y, "rate", name, ends + [p["rate"] for p in line])
    layers = [alt.Chart(chart.data(line)).mark_line(strokeWidth=1.5).encode(x=x, y=y)]
    if all(p["low"] is not None for p in points):
      layers.append(alt.Chart(chart.data(points)).mark_rule().encode(x=x, y=alt.Y("low:Q", title=name), y2="high:Q"))
    tooltip = marks.tooltip(("label", "size"), ("rate", "best rate"), ("low", "from"), ("high", "to"))
    layers.append(alt.Chart(chart.data(points)).mark_point(size=40, filled=True).encode(x=x, y=y, tooltip=tooltip))
    text = law.verdict if law.exponent is None else law.verdict.split(": ", 1)[1].split(", x")[0]
    title = alt.TitleParams(marks.workload_text(law.workload), subtitle=text)
    panels.append(alt.layer(*layers).properties(width=250, height=230, title=title))
  caption = (
    "The learning rate of least loss at each size with its 95% interval, cut at 3 times the largest and a third of the smallest, and the "
    "power law of these. Sizes without a minimum are left out."
  )
  return marks.figure("learning_rates", "The best learning rate", caption, panels, 3)
