"""The figures of `describe`, one Altair spec each. Importing this module loads Altair, which is slow."""

from collections.abc import Sequence
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure
from dlrm_jax.data.describe.frequency import FIRST_RANK, LEAST_IDS, SEEN_ENOUGH
from dlrm_jax.data.describe.inventory import DenseColumn, Feature, Inventory, RateBin
from dlrm_jax.data.describe.tables import number, percent

MOST_PANELS = 60  # of a figure with a panel for each column
_MOST_IN_LEGEND = 40
_MOST_COLOURS = 5  # that the theme has; more features are shaded by their position in the legend
_COLUMNS = 4  # of panels
_BENDS = 0.2  # root mean square residual of log p
_CLOSE = 0.12  # names of splits that start closer than this share of the axis are stacked
_TOOLTIP = [
  alt.Tooltip("rank:Q", format=","),
  alt.Tooltip("seen:Q", title="times seen", format=","),
  alt.Tooltip("share:Q", format=".3~%"),
]


@debug_mode(False)  # the checks of Altair's constructors take most of the time; the tests draw every figure
def figures(found: Inventory, missing: Sequence[tuple[str, str, float]], starts: dict[str, int]) -> list[Figure]:
  """All figures that the data set allows.

  Args:
    found: the numbers.
    missing: kind, name and missing share of every column.
    starts: the first row of each split, in the order of the log.
  """
  out = [_base_rate(found.base_rate, starts)]
  seen = [feature for feature in found.features if feature.spectrum.distinct]
  if seen:
    out += [_together(seen), _one_by_one(seen)]
  out.append(_missing(missing))
  return [*out, _dense(found.dense)] if found.dense else out


def _shown(count: int, what: str) -> str:
  return f" The first {MOST_PANELS} of {count} {what}." if count > MOST_PANELS else ""


def _curve(feature: Feature) -> list[dict[str, Any]]:
  rank_r, seen_r = feature.spectrum.curve()
  return [
    {"feature": feature.name, "rank": rank, "seen": seen, "share": seen / feature.lookups, "what": "ids"}
    for rank, seen in zip(rank_r.tolist(), seen_r.tolist(), strict=True)
  ]


def _line(feature: Feature) -> list[dict[str, Any]]:
  """The two end points of the fitted law."""
  fit = feature.zipf
  ends = () if fit is None else (fit.first_rank, fit.last_rank)
  return [{"rank": rank, "share": fit.seen(rank) / feature.lookups, "what": "law"} for rank in ends if fit is not None]


def _rank_axes(features: Sequence[Feature]) -> tuple[Any, Any]:
  """The axes that contain all curves: rank, share of the ids."""
  most = max(feature.spectrum.distinct for feature in features)
  shares = [s for f in features for s in (f.top_share, int(f.spectrum.seen_c[-1]) / f.lookups)]
  x = chart.log_axis(alt.X, "rank", "rank of the id", [1, max(most, 2)])
  return x, chart.log_axis(alt.Y, "share", "share of the feature's ids", shares, label=chart.PERCENT)


def _together(features: Sequence[Feature]) -> Figure:
  """All curves in one panel. A click in the legend selects one."""
  x, y = _rank_axes(features)
  names = [feature.name for feature in sorted(features, key=lambda f: f.spectrum.distinct)]
  picked = alt.selection_point(name="picked", fields=["feature"], bind="legend")
  columns = 1 if len(names) <= 13 else 2
  legend = alt.Legend(columns=columns, symbolLimit=0, title="fewest ids first") if len(names) <= _MOST_IN_LEGEND else None
  lines = alt.Chart(chart.data([point for feature in features for point in _curve(feature)])).mark_line(strokeWidth=1.6)
  lines = lines.encode(
    x=x,
    y=y,
    color=alt.Color("feature:N" if len(names) <= _MOST_COLOURS else "feature:O", sort=names, legend=legend),
    opacity=alt.condition(picked, alt.value(0.9), alt.value(0.08)),
    tooltip=[alt.Tooltip("feature:N"), *_TOOLTIP],
  )
  spec = chart.finish([lines.add_params(picked).properties(width=620, height=400)], 1)
  caption = "How often ids occur, by rank of frequency, with a line for each feature. Click a name in the legend to see it alone."
  return Figure("id_frequency", "Id frequency by rank", caption, spec)


def _one_by_one(features: Sequence[Feature]) -> Figure:
  """A panel for each feature, with its fitted law. All panels have the same axes."""
  shown = features[:MOST_PANELS]
  x, y = _rank_axes(shown)
  color = alt.Color("what:N", scale=alt.Scale(domain=["ids", "law"]), legend=None)
  panels = []
  for place, feature in enumerate(shown):
    fit = feature.zipf
    if fit is None:
      law = f"no slope: {feature.spectrum.often} ids seen {SEEN_ENOUGH} times"
    else:
      law = f"slope {fit.slope:.3f}, ranks {fit.first_rank} to {fit.last_rank:,}" + ("; bends" if fit.error > _BENDS else "")
    x_title = "rank of the id" if place + _COLUMNS >= len(shown) else None
    y_title = "share of the ids" if place % _COLUMNS == 0 else None
    axes = {"x": x.copy().title(x_title), "y": y.copy().title(y_title), "color": color}
    layers = [alt.Chart(chart.data(_curve(feature))).mark_point(size=9, opacity=0.8).encode(**axes, tooltip=_TOOLTIP)]
    if fit is not None:
      layers.append(alt.Chart(chart.data(_line(feature))).mark_line(strokeWidth=1.5).encode(**axes))
    panels.append(alt.layer(*layers).properties(width=200, height=140, title=_panel_title(feature.name, law)))
  caption = (
    "The same for each feature, with the fitted Zipf law p ~ rank^-slope as a line. It is fitted to the ranks from "
    f"{FIRST_RANK} to the last id that was seen {SEEN_ENOUGH} times. A feature with fewer than {LEAST_IDS} such ids gets no slope. "
    f"Bends: the points are {_BENDS:.0%} off the line (root mean square), so that one slope does not describe them. "
    "Steps at the right are ids that were seen a few times; their order is chance." + _shown(len(features), "features")
  )
  return Figure("id_frequency_by_feature", "Zipf slopes", caption, chart.small_multiples(panels, _COLUMNS))


def _panel_title(name: str, subtitle: str) -> alt.TitleParams:
  return alt.TitleParams(name, subtitle=subtitle, fontSize=12, subtitleFontSize=11, offset=6)


def _missing(missing: Sequence[tuple[str, str, float]]) -> Figure:
  rows = [  # a column may be both dense and categorical: its position makes the label distinct
    {"column": f"{place:04d}{name}", "kind": kind, "share": value, "text": percent(value)}
    for place, (kind, name, value) in enumerate(missing)
  ]
  end = min(1.12 * max(0.01, *(value for _, _, value in missing)), 1.12)
  scale = alt.Scale(domain=[0, end], nice=False)
  base = alt.Chart(chart.data(rows)).encode(
    x=alt.X("share:Q", title="share of empty cells", scale=scale, axis=alt.Axis(labelExpr=chart.PERCENT, tickCount=6)),
    y=alt.Y(
      "column:N",
      title=None,
      sort=[str(row["column"]) for row in rows],
      axis=alt.Axis(labelExpr="slice(datum.label, 4)", grid=False, ticks=False, domain=False, labelLimit=200),
    ),
  )
  kinds = list(dict.fromkeys(kind for kind, _, _ in missing))
  legend = alt.Legend(symbolType="square") if len(kinds) > 1 else None
  bars = base.mark_bar(height=9).encode(color=alt.Color("kind:N", title=None, sort=kinds, legend=legend))
  text = base.mark_text(align="left", dx=5, fontSize=10.5, style="note").encode(text="text:N")
  spec = chart.finish([alt.layer(bars, text).properties(width=620, height=max(60, 17 * len(rows)))], 1)
  return Figure("missing", "Missing values", "Share of empty cells in the whole log, by column.", spec)


def _base_rate(bins: Sequence[RateBin], starts: dict[str, int]) -> Figure:
  rows = [
    {
      "row": b.first_row + b.rows / 2,
      "rate": b.rate,
      "low": b.low,
      "high": b.high,
      "rows": b.rows,
      "clicks": b.clicks,
      "first": b.first_row,
    }
    for b in bins
  ]
  end = bins[-1].first_row + bins[-1].rows
  x = alt.X("row:Q", title="row of the log", scale=alt.Scale(domain=[0, end], nice=False), axis=alt.Axis(labelExpr=chart.SI, tickCount=8))
  low, high = min(b.low for b in bins), max(b.high for b in bins)
  pad = 0.08 * (high - low)
  scale = alt.Scale(domain=[max(0.0, low - pad), min(1.0, high + pad)], nice=False, zero=False)
  y = alt.Y("rate:Q", title="base rate", scale=scale, axis=alt.Axis(labelExpr=chart.PERCENT, tickCount=6))
  base = alt.Chart(chart.data(rows))
  tooltip = [
    alt.Tooltip("first:Q", title="first row", format=","),
    alt.Tooltip("rows:Q", format=","),
    alt.Tooltip("clicks:Q", format=","),
    alt.Tooltip("rate:Q", format=".4%"),
    alt.Tooltip("low:Q", title="95% from", format=".4%"),
    alt.Tooltip("high:Q", title="to", format=".4%"),
  ]
  borders = alt.Chart(chart.data(_borders(starts, end)))
  layers = [
    base.mark_area(opacity=0.25).encode(x=x, y=alt.Y("low:Q", scale=scale, title="base rate"), y2="high:Q"),
    base.mark_line(strokeWidth=1.6, strokeJoin="round", point=alt.OverlayMarkDef(size=12)).encode(x=x, y=y, tooltip=tooltip),
    borders.mark_rule(style="theory", strokeDash=[5, 4]).encode(x=x),
    borders.mark_text(style="note", align="left", baseline="bottom", dx=3, dy=-3, fontSize=11).encode(
      x=x, y=alt.Y("above:Q", scale=None), text="text:N"
    ),
  ]
  caption = (
    f"Share of label 1 in {len(bins)} equal bins of the log, in its order (time, if the log is sorted by time), "
    "with a 95% interval for each bin (Wilson). Dashed lines: starts of splits."
  )
  return Figure("base_rate", "Base rate over the log", caption, chart.finish([alt.layer(*layers).properties(width=620, height=260)], 1))


def _borders(starts: dict[str, int], end: int) -> list[dict[str, Any]]:
  """The starts of splits. `above` is a height in points, so that names close to each other do not overlap."""
  rows: list[dict[str, Any]] = []
  for name, row in starts.items():
    close = rows and row - rows[-1]["row"] < _CLOSE * end
    rows.append({"row": row, "text": f"{name} →", "above": rows[-1]["above"] - 14 if close else 0})
  return rows


def _dense(columns: Sequence[DenseColumn]) -> Figure:
  panels = []
  for column in columns[:MOST_PANELS]:
    total = max(sum(column.counts), 1)
    bars = [
      {"from": low, "to": high, "share": count / total}
      for low, high, count in zip(column.edges, column.edges[1:], column.counts, strict=False)
    ]
    plot = (
      alt.Chart(chart.data(bars))
      .mark_bar(binSpacing=0.5)
      .encode(
        x=alt.X(
          "from:Q",
          bin="binned",
          title=None,
          scale=alt.Scale(domain=[column.edges[0], column.edges[-1]], nice=False),
          axis=alt.Axis(tickCount=5, grid=False),
        ),
        x2="to:Q",
        y=alt.Y("share:Q", title=None, scale=alt.Scale(nice=4), axis=alt.Axis(labelExpr=chart.PERCENT, tickCount=4)),
        tooltip=[alt.Tooltip("from:Q", format=".4~g"), alt.Tooltip("to:Q", format=".4~g"), alt.Tooltip("share:Q", format=".3~%")],
      )
    )
    subtitle = f"median {number(column.median)}, mean {number(column.mean)}"
    panels.append(plot.properties(width=180, height=120, title=_panel_title(column.name, subtitle)))
  caption = (
    "Share of the rows that were read, by value after the transform. Missing cells have the value that fills them. If the extremes are "
    "far out, the lowest and the highest thousandth are not drawn; the table has them." + _shown(len(columns), "columns")
  )
  return Figure("dense", "Dense columns", caption, chart.small_multiples(panels, _COLUMNS))
