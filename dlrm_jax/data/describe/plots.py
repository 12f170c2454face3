"""The figures of `describe`, one Altair spec each. Importing this module loads Altair, which is slow."""

from collections.abc import Sequence
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure
from dlrm_jax.data.describe.frequency import FIRST_RANK, LEAST_IDS, SEEN_ENOUGH
from dlrm_jax.data.describe.inventory import Feature, Inventory
from dlrm_jax.data.describe.panels import COLUMNS, MOST_PANELS, dense_figure, panel_title, shown_of
from dlrm_jax.data.describe.tables import percent

_MOST_COLOURS = 5  # that the theme has; more features are grey
_BENDS = 0.2  # root mean square residual of log p
_CLOSE = 0.12  # names of splits that start closer than this share of the axis are stacked
_TOOLTIP = [
  alt.Tooltip("rank:Q", format=","),
  alt.Tooltip("seen:Q", title="times seen", format=","),
  alt.Tooltip("share:Q", format=".3~%"),
]


@debug_mode(False)  # the checks of Altair's constructors take most of the time; the tests draw every figure
def figures(
  found: Inventory, missing: Sequence[tuple[str, str, float]], starts: dict[str, int], unseen: str, thinned: bool = False
) -> list[Figure]:
  """All figures that the data set allows.

  Args:
    found: the numbers.
    missing: kind, name and missing share of every column.
    starts: the first row of each split, in the order of the log.
    unseen: what `Feature.unseen_share` counts, "id 0" or "unseen".
    thinned: whether negatives of the training rows are left out.
  """
  out = [_base_rate(found, starts, thinned)]
  seen = [feature for feature in found.features if feature.spectrum.distinct]
  held_out = [feature for feature in found.features if feature.unseen_share is not None]
  if held_out:
    out.append(_unseen(held_out, unseen))
  if seen:
    out += [_together(seen), _one_by_one(seen)]
  out.append(_missing(missing))
  return [*out, dense_figure(found.dense)] if found.dense else out


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
  """All curves in one panel: those with the most ids in colour, the others in grey. A click in the legend selects one."""
  x, y = _rank_axes(features)
  largest = sorted(features, key=lambda f: -f.spectrum.distinct)
  coloured, others = largest[:_MOST_COLOURS], largest[_MOST_COLOURS:]
  names = [feature.name for feature in coloured]
  picked = chart.pick("feature")
  tooltip = [alt.Tooltip("feature:N"), *_TOOLTIP]
  layers = []
  if others:
    grey = alt.Chart(chart.data([point for feature in others for point in _curve(feature)])).mark_line(style="theory", strokeWidth=1)
    layers.append(grey.encode(x=x, y=y, detail="feature:N", opacity=alt.value(0.45), tooltip=tooltip))
  lines = alt.Chart(chart.data([point for feature in coloured for point in _curve(feature)])).mark_line(strokeWidth=1.9)
  color = alt.Color("feature:N", sort=names, scale=alt.Scale(domain=names), legend=alt.Legend(title="most ids first", labelLimit=260))
  lines = lines.encode(x=x, y=y, color=color, opacity=chart.picked(picked, alt.value(0.9)), tooltip=tooltip)
  layers.append(lines.add_params(picked))
  spec = chart.finish([alt.layer(*layers).properties(width=620, height=400)], 1)
  which = f" The {len(coloured)} features with the most ids are in colour; the mouse names the others." if others else ""
  caption = f"How often ids occur, by rank of frequency, with a line for each feature.{which} Click a name in the legend to see it alone."
  return Figure("id_frequency", "Id frequency by rank", caption, spec)


def _unseen(features: Sequence[Feature], unseen: str) -> Figure:
  """A bar for each feature: the share of the held-out ids that were not seen in training."""
  shares = [("held out", feature.name, feature.unseen_share or 0.0) for feature in features]
  if unseen == "unseen":
    spec = _bars(shares, "share of held-out ids")
    return Figure("unseen", "Unseen ids", "Share of the ids of the held-out rows that are not in the training rows, by feature.", spec)
  spec = _bars(shares, "share of held-out ids", [f"; in training {percent(feature.zero_share)}" for feature in features])
  caption = (
    "Share of the ids of the held-out rows that are id 0, by feature: values that are rare in the training rows or not in them. In the "
    "training rows id 0 stands for rare values."
  )
  return Figure("unseen", "Rare or unseen ids", caption, spec)


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
    x_title = "rank of the id" if place + COLUMNS >= len(shown) else None
    y_title = "share of the ids" if place % COLUMNS == 0 else None
    axes = {"x": x.copy().title(x_title), "y": y.copy().title(y_title), "color": color}
    layers = [alt.Chart(chart.data(_curve(feature))).mark_point(size=9, opacity=0.8).encode(**axes, tooltip=_TOOLTIP)]
    if fit is not None:
      layers.append(alt.Chart(chart.data(_line(feature))).mark_line(strokeWidth=1.5).encode(**axes))
    panels.append(alt.layer(*layers).properties(width=200, height=140, title=panel_title(feature.name, law, 220)))
  caption = (
    "The same for each feature, with the fitted Zipf law p ~ rank^-slope as a line. It is fitted to the ranks from "
    f"{FIRST_RANK} to the last id that was seen {SEEN_ENOUGH} times. A feature with fewer than {LEAST_IDS} such ids gets no slope. "
    f"Bends: the points are {_BENDS:.0%} off the line (root mean square), so that one slope does not describe them. "
    "Steps at the right are ids that were seen a few times; their order is chance." + shown_of(len(features), "features")
  )
  return Figure("id_frequency_by_feature", "Zipf slopes", caption, chart.small_multiples(panels, COLUMNS))


def _missing(missing: Sequence[tuple[str, str, float]]) -> Figure:
  spec = _bars(missing, "share of empty cells")
  return Figure("missing", "Missing values", "Share of empty cells in the whole log, by column.", spec)


def _bars(shares: Sequence[tuple[str, str, float]], title: str, more: Sequence[str] = ()) -> dict[str, Any]:
  """A bar for each (kind, name, share), in order, with a colour for each kind. Its text is the share and what `more` has for it.

  A name may be there once for each kind: a column may be both dense and categorical. Its position makes the label distinct.
  """
  rows = [
    {"column": f"{place:05d}{name}", "kind": kind, "share": value, "text": percent(value) + text}
    for place, ((kind, name, value), text) in enumerate(zip(shares, more or [""] * len(shares), strict=True))
  ]
  end = min(1.12 * max(0.01, *(value for _, _, value in shares)), 1.12)
  scale = alt.Scale(domain=[0, end], nice=False)
  base = alt.Chart(chart.data(rows)).encode(
    x=alt.X("share:Q", title=title, scale=scale, axis=alt.Axis(labelExpr=chart.PERCENT, tickCount=6)),
    y=alt.Y(
      "column:N",
      title=None,
      sort=[str(row["column"]) for row in rows],
      axis=alt.Axis(labelExpr="slice(datum.label, 5)", grid=False, ticks=False, domain=False, labelLimit=200),
    ),
  )
  kinds = list(dict.fromkeys(kind for kind, _, _ in shares))
  legend = alt.Legend(symbolType="square") if len(kinds) > 1 else None
  bars = base.mark_bar(height=9).encode(color=alt.Color("kind:N", title=None, sort=kinds, legend=legend))
  text = base.mark_text(align="left", dx=5, fontSize=10.5, style="note").encode(text="text:N")
  return chart.finish([alt.layer(bars, text).properties(width=620, height=max(60, 17 * len(rows)))], 1)


def _base_rate(found: Inventory, starts: dict[str, int], thinned: bool) -> Figure:
  bins = found.base_rate
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
  days = "" if found.bin_days is None else f" A bin is about {found.bin_days} day{'s' * (found.bin_days > 1)} long."
  caption = (
    f"Share of label 1 in {len(bins)} bins of equally many rows of the log, in its order (time, if the log is sorted by time).{days} The"
    " band is a 95% interval for each bin (Wilson): what chance alone does to its share. Dashed lines: starts of splits."
    + (" Negatives are left out of the training rows alone, so that the line falls where held-out rows begin." if thinned else "")
  )
  return Figure("base_rate", "Base rate over the log", caption, chart.finish([alt.layer(*layers).properties(width=620, height=260)], 1))


def _borders(starts: dict[str, int], end: int) -> list[dict[str, Any]]:
  """The starts of splits. `above` is a height in points, so that names close to each other do not overlap."""
  rows: list[dict[str, Any]] = []
  for name, row in starts.items():
    close = rows and row - rows[-1]["row"] < _CLOSE * end
    rows.append({"row": row, "text": f"{name} →", "above": rows[-1]["above"] - 14 if close else 0})
  return rows
