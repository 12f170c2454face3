"""What the figures share: themes, axes with readable ticks, layers for points and lines. Called by `analysis.plots`.

Colours are not written into the specs but come from the theme (`THEMES`), which the page swaps with the reader's colour scheme.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from analysis.study import LawRow

_FONT = "Inter, Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"
METRIC_NAMES = {"excess_tail": "excess log loss, tail part (nats)", "excess": "excess log loss (nats)", "ne": "normalised entropy (NE)"}
LEARNER_NAMES = {"dlrm": "DLRM", "per_id": "per-id estimator"}
X_NAMES = {"params": "parameters", "flops": "training FLOPs", "examples": "examples seen"}
SI, SI_LABEL = (f"{v} < 1000 ? format({v}, '~g') : replace(format({v}, '.3~s'), 'G', 'B')" for v in ("datum.value", "datum.label"))


def _theme(background: str, text: str, faint: str, grid: str, category: list[str], ordinal: list[str]) -> dict[str, Any]:
  axis = {"labelColor": faint, "titleColor": text, "gridColor": grid, "domainColor": faint, "tickColor": faint, "titleFontWeight": "normal"}
  return {
    "background": background,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": axis | {"labelFontSize": 11, "titleFontSize": 12, "titlePadding": 8, "tickSize": 4, "labelOverlap": "greedy"},
    "legend": {
      "labelColor": text,
      "titleColor": faint,
      "labelFontSize": 11,
      "titleFontSize": 11,
      "titleFontWeight": "normal",
      "symbolOpacity": 1,
    },
    "title": {
      "color": text,
      "subtitleColor": faint,
      "fontSize": 14,
      "subtitleFontSize": 12,
      "anchor": "start",
      "fontWeight": 600,
      "offset": 10,
    },
    "range": {"category": category, "ordinal": {"scheme": ordinal}},
    "style": {"theory": {"color": faint, "stroke": faint}},
    "point": {"filled": True},
  }


THEMES = {
  "light": _theme(
    "white",
    "#1d2733",
    "#5b6876",
    "#e6eaee",
    ["#1f66b5", "#d9622b", "#2b8a6b", "#8a4fb0", "#b08a12"],
    ["#7cc7c4", "#3f93bd", "#2e5aa6", "#3a2076"],
  ),
  "dark": _theme(
    "#14181e",
    "#dfe5ec",
    "#93a0ae",
    "#29313b",
    ["#6cb0ff", "#ff9a62", "#5fd0aa", "#cf9cf2", "#e3c04f"],
    ["#4a6fc4", "#45a5c9", "#7fd6ac", "#f4ee9c"],
  ),
}


def ticks(low: float | int, high: float | int) -> list[float]:
  """Tick values of a logarithmic axis: powers of ten, with 2 and 5 between them when there are few."""
  decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
  for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
    values = [float(f"{m}e{d}") for d in decades for m in steps if low * 0.999 <= m * 10.0**d <= high * 1.001]
    if len(values) >= 4:
      break
  return values


def log_axis(
  channel: Any, field: str, title: str, values: Sequence[float | int], at: Sequence[float | int] | None = None, si: bool = True
) -> Any:
  low, high = min(values), max(values)
  pad = max((high / low) ** 0.03, 1.01)
  axis = alt.Axis(values=at or ticks(low / pad, high * pad), labelExpr=SI if si else "format(datum.value, '~g')")
  return channel(f"{field}:Q", title=title, scale=alt.Scale(type="log", domain=[low / pad, high * pad], nice=False), axis=axis)


def y_axis(metric: str, values: Sequence[float | int]) -> Any:
  """Logarithmic for excess, whose law is a straight line there; linear for NE, whose constant would squash a logarithmic axis."""
  if metric == "ne":
    low, high = min(values), max(values)
    pad = 0.04 * (high - low or high)
    return alt.Y("value:Q", title=METRIC_NAMES[metric], scale=alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False))
  return log_axis(alt.Y, "value", METRIC_NAMES[metric], values, si=False)


def data(rows: list[dict[str, Any]]) -> pl.DataFrame:
  """Rows of a layer. A frame, because Altair copies lists over and over while it builds a chart."""
  return pl.DataFrame(rows, infer_schema_length=None).fill_nan(None)


def tooltip(*fields: tuple[str, str]) -> list[alt.Tooltip]:
  kinds: dict[str, Any] = {"run": "nominal", "learner": "nominal", "workload": "nominal", "axis": "nominal"}
  formats = {"examples": ",", "size": "~g", "params": ",", "flops": ".3~s", "value": ".5~g", "roc_auc": ".4f"}
  return [
    alt.Tooltip(name, title=title, type=kinds.get(name, "quantitative"), format=formats.get(name, alt.Undefined)) for name, title in fields
  ]


def points_of(frame: pl.DataFrame, metric: str, row: LawRow | None = None) -> list[dict[str, Any]]:
  """Chart points of evaluations, with whether the fit used them."""
  low = row.fit.x_min if row is not None and row.fit.x_min is not None else 0.0
  keep = frame.filter(pl.col(metric).is_not_null() & (pl.col(metric) > 0)).sort("examples")
  return [
    {
      "examples": e["examples"],
      "value": e[metric],
      "size": e["size"],
      "seed": e["seed"],
      "learner": LEARNER_NAMES.get(e["learner"], e["learner"]),
      "run": e["config_id"],
      "roc_auc": e["roc_auc"],
      "params": e["params_total"],
      "flops": e.get("flops"),
      "fitted": "in the window" if e["examples"] >= low else "before it",
    }
    for e in keep.to_dicts()
  ]


def law_opacity(row: LawRow) -> float:
  """A line whose exponent the points do not determine is drawn faint."""
  return 0.35 if row.fit.status == "not_identifiable" else 1.0


def fitted_line(row: LawRow, key: str = "examples", extra: dict[str, Any] | None = None) -> list[dict[str, Any]]:
  """The fitted law over its window."""
  if row.fit.refused or row.fit.x_min is None or row.fit.x_max is None:
    return []
  x = np.geomspace(row.fit.x_min, row.fit.x_max, 60)
  shared = {"size": row.size, "learner": LEARNER_NAMES.get(row.learner, row.learner), "line": "fitted law"} | (extra or {})
  return [{key: float(a), "value": float(b), **shared} for a, b in zip(x, row.fit.predict(x), strict=True)]


def ideal_line(frame: pl.DataFrame) -> list[dict[str, Any]]:
  known = frame.filter(pl.col("excess_ideal") > 0).unique("examples").sort("examples")
  return [{"examples": e["examples"], "value": e["excess_ideal"], "line": "ideal learner (theory)"} for e in known.to_dicts()]


_LINE_KINDS = alt.Scale(domain=["fitted law", "ideal learner (theory)"], range=[[1, 0], [5, 4]])


def line_layers(fitted: list[dict], ideal: list[dict], color: Any, x: Any, y: Any) -> list[Any]:
  dash = alt.StrokeDash("line:N", title=None, scale=_LINE_KINDS if ideal else alt.Scale(domain=["fitted law"], range=[[1, 0]]))
  layers = []
  if ideal:
    layers.append(alt.Chart(data(ideal)).mark_line(style="theory", strokeWidth=1.5).encode(x=x, y=y, strokeDash=dash))
  if fitted:
    layers.append(
      alt.Chart(data(fitted)).mark_line(strokeWidth=2).encode(x=x, y=y, color=color, strokeDash=dash, detail=["learner:N", "size:N"])
    )
  return layers


def finish(panels: list[Any], columns: int) -> dict[str, Any]:
  chart = panels[0] if len(panels) == 1 else alt.concat(*panels, columns=columns, spacing=36)
  with alt.data_transformers.enable("default", max_rows=None):
    return chart.to_dict(validate=False)
