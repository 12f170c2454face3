"""Figures with a panel for each column, and the histograms of dense columns. Called by `plots`."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure
from dlrm_jax.data.describe.dense_columns import DenseSummary
from dlrm_jax.data.describe.histogram import Histogram
from dlrm_jax.data.describe.tables import number

MOST_PANELS = 60  # of a figure
COLUMNS = 4  # of panels
_NARROW = 0.02  # width of a histogram over the size of its numbers, below which its axis counts from its first edge


def shown_of(count: int, what: str) -> str:
  """A sentence on the columns that have no panel."""
  return f" The first {MOST_PANELS} of {count} {what}." if count > MOST_PANELS else ""


def panel_title(name: str, subtitle: str, limit: int) -> alt.TitleParams:
  """The title of a small panel. A longer name than `limit` points is cut."""
  return alt.TitleParams(name, subtitle=subtitle, fontSize=12, subtitleFontSize=11, offset=6, limit=limit)


def dense_figure(columns: Sequence[DenseSummary]) -> Figure:
  """A histogram for each column."""
  panels = []
  for column in columns[:MOST_PANELS]:
    title = panel_title(column.name, f"median {number(column.number)}", 210)
    panels.append(_histogram(column.histogram).properties(width=180, height=120, title=title))
  caption = (
    "Share of the rows that were read, by the number in the log before its transform. Missing cells have the number that fills them. If "
    "the extremes are far out, the lowest and the highest thousandth are not drawn; the table has them. Every bar holds whole steps "
    "between neighbouring numbers. Where bars differ in width, their areas are the shares, and the axis is that of the narrowest."
    + shown_of(len(columns), "columns")
  )
  return Figure("dense", "Dense columns", caption, chart.small_multiples(panels, COLUMNS))


def _histogram(of: Histogram) -> alt.Chart:
  """The bars of a column: over log(1 + x) if `of.log`, else over x, or over x less the first edge if that is far from 0."""
  edge_e, count_b = np.array(of.edges), np.array(of.counts)
  narrow = not of.log and len(count_b) > 1 and edge_e[-1] - edge_e[0] < _NARROW * abs(edge_e).max()
  origin = float(f"{edge_e[0]:.7g}") if narrow else 0.0
  at_e = np.log1p(edge_e) if of.log else edge_e - origin
  share_b, width_b = count_b / max(count_b.sum(), 1), np.diff(at_e)
  height_b = share_b if width_b.max() < 1.01 * width_b.min() else share_b * width_b.min() / width_b
  bars = [
    {"from": a, "to": b, "height": height, "share": share, "first": first, "last": last}
    for a, b, height, share, first, last in zip(
      *(x.tolist() for x in (at_e[:-1], at_e[1:], height_b, share_b, edge_e[:-1], edge_e[1:])), strict=True
    )
  ]
  ticks: Any = alt.Undefined
  if of.log:
    ticks = [math.log1p(tick) for tick in _log_ticks(edge_e[0], edge_e[-1])]
  elif len(count_b) == 1:
    ticks = [float(at_e.mean())]
  axis = alt.Axis(tickCount=5, grid=False, values=ticks, labelExpr=_number("exp(datum.value) - 1" if of.log else "datum.value"))
  title = f"above {origin:.10g}" if origin else None
  heights = alt.Axis(labelExpr=chart.PERCENT, tickCount=4)
  tooltip = [
    alt.Tooltip("first:Q", title="from", format=".7~g"),
    alt.Tooltip("last:Q", title="to", format=".7~g"),
    alt.Tooltip("share:Q", format=".3~%"),
  ]
  return (
    alt.Chart(chart.data(bars))
    .mark_bar(binSpacing=0.5)
    .encode(
      x=alt.X("from:Q", bin="binned", title=title, scale=alt.Scale(domain=[at_e[0], at_e[-1]], nice=False), axis=axis),
      x2="to:Q",
      y=alt.Y("height:Q", title=None, scale=alt.Scale(nice=4), axis=heights),
      tooltip=tooltip,
    )
  )


def _number(value: str) -> str:
  """The expression that writes a number of any size in little room."""
  size = f"abs({value})"
  return f"{size} < 1000 || {size} >= 1e15 ? format({value}, '.4~g') : replace(format({value}, '.4~s'), 'G', 'B')"


def _log_ticks(low: float, high: float) -> list[float]:
  """0 and powers of ten, with numbers between them where they are few."""
  decades = [10.0**k for k in range(math.ceil(math.log10(high + 1)) + 1)]
  for steps in ((1,), (1, 3), (1, 2, 5)):
    found = [tick for tick in (0.0, *(m * decade for decade in decades for m in steps)) if low <= tick <= high]
    if len(found) >= 4:
      break
  return found[:: max(1, len(found) // 5)]
