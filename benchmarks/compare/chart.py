"""The chart of a comparison: one line a row and one mark a file on a logarithmic axis, labelled with values and ratios."""

from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from benchmarks.compare.results import ratio_text, value_text
from benchmarks.compare.side_by_side import Line
from dlrm_jax.common.figures import chart

MOST_LINES = 30  # more would not be readable
_WIDTH, _TEXT, _LANE, _GAP = 600, 90, 14, 12  # points: of the plot, of a value's text, of a mark, between rows
_MOST_LETTERS = 64  # in a row's label
_SHAPES = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross"]


def shortened(label: str) -> str:
  """The label, without its middle if it is long."""
  half = (_MOST_LETTERS - 1) // 2
  return label if len(label) <= _MOST_LETTERS else f"{label[:half]}…{label[-half:]}"


def drawable(lines: Sequence[Line]) -> list[Line]:
  """The lines with a value above 0, which a logarithmic axis can show."""
  return [line for line in lines if any(value is not None and value > 0 for value in line.values)]


def compare_chart(lines: Sequence[Line], files: Sequence[str], metric: str, better: str, subtitle: Sequence[str]) -> dict[str, Any]:
  """The Vega-Lite spec of the first MOST_LINES lines.

  Args:
    lines: matched rows that `drawable` returned.
    files: labels of the files, in the order of the values.
    metric: name of the values.
    better: "lower" or "higher".
    subtitle: lines under the title.
  """
  marks = _marks(lines[:MOST_LINES], files, metric)
  low, high = _domain([mark["value"] for mark in marks])
  expression = "format(datum.value, '.2~s') + 'B'" if "bytes" in metric else chart.SI
  rows = list(dict.fromkeys(mark["row"] for mark in marks))
  lane = alt.YOffset("file:N", sort=list(files), scale=alt.Scale(domain=list(files)))
  row = alt.Y(
    "row:N",
    sort=rows,
    title=None,
    scale=alt.Scale(paddingInner=_GAP / (_LANE * len(files) + _GAP), paddingOuter=0.1),
    axis=alt.Axis(
      labelExpr="slice(datum.label, 3)", labelLimit=420, grid=False, ticks=False, domain=False, labelPadding=8, labelFontSize=12
    ),
  )
  x = alt.X(
    "value:Q",
    title=metric.replace("_", " "),
    scale=alt.Scale(type="log", domain=[low, high], nice=False),
    axis=alt.Axis(values=chart.ticks(low, high), labelExpr=expression),
  )
  legend = alt.Legend(orient="bottom", direction="vertical", columns=1, labelLimit=760, labelFontSize=12, offset=14)
  color = alt.Color("file:N", sort=list(files), title=None, scale=alt.Scale(domain=list(files)), legend=legend)
  shapes = alt.Scale(domain=list(files), range=(_SHAPES * len(files))[: len(files)])
  shape = alt.Shape("file:N", sort=list(files), title=None, scale=shapes, legend=legend)
  base = alt.Chart(chart.data(marks)).encode(y=row, yOffset=lane, color=color)
  title = alt.TitleParams(
    f"{metric.replace('_', ' ')}: {better} is better; in brackets, the ratio to the first file", subtitle=list(subtitle)
  )
  layers = [
    base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(x=x, x2="first:Q"),
    base.mark_point(size=46, opacity=1).encode(x=x, shape=shape),
  ]
  sides: tuple[tuple[Literal["left", "right"], str], ...] = (("left", "datum.value >= datum.first"), ("right", "datum.value < datum.first"))
  for side, where in sides:  # text is placed away from the line
    text = base.transform_filter(where).mark_text(align=side, dx=8 if side == "left" else -8, fontSize=11)
    layers.append(text.encode(x=x, text="text:N"))
  height = max(70, len(rows) * (_LANE * len(files) + _GAP))
  return chart.finish([alt.layer(*layers).properties(width=_WIDTH, height=height, title=title)], 1)


def _marks(lines: Sequence[Line], files: Sequence[str], metric: str) -> list[dict[str, Any]]:
  """The data of the chart: one mark for each line and file with a value above 0. Numbers in front of the labels keep rows apart."""
  return [
    {
      "row": f"{number:03d}{shortened(line.label)}",
      "file": file,
      "value": value,
      "first": line.values[0] if line.values[0] is not None and line.values[0] > 0 else value,
      "text": value_text(metric, value) + (f"  ({ratio_text(ratio)})" if place and ratio is not None else ""),
    }
    for number, line in enumerate(lines)
    for place, (file, value, ratio) in enumerate(zip(files, line.values, line.ratios, strict=True))
    if value is not None and value > 0
  ]


def _domain(values: Sequence[float | int]) -> tuple[float, float]:
  """The ends of the axis. They span at least a factor of 2, so that a few per cent look small, and leave room for text on both sides."""
  low, high = min(values), max(values)
  wider = max(1.0, (2 * low / high) ** 0.5)
  low, high = low / wider, high * wider
  room = (high / low) ** (_TEXT / (_WIDTH - 2 * _TEXT))
  return low / room, high * room
