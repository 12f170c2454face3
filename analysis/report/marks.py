"""Helpers of a sweep's figures: axes by metric, layers for points and lines. Called by `analysis.report.plots`."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from analysis import load
from analysis.fitting.thinning import evenly
from analysis.questions import regimes
from analysis.questions.sweep_laws import LawRow
from analysis.run_rows import PART_METRICS
from dlrm_jax.common.figures import chart
from dlrm_jax.common.figures.render import Figure

METRIC_NAMES = {"excess": "excess log loss (nats)", "ne": "normalised entropy (NE)"}
METRIC_NAMES |= {name: f"excess log loss, {name.removeprefix('excess_')} part (nats)" for name in PART_METRICS}
LEARNER_NAMES = {"dlrm": "DLRM", "per_id": "per-id estimator"}
X_NAMES = {"params": "parameters", "flops": "training FLOPs", "examples": "examples seen"}


def y_axis(metric: str, values: Sequence[float | int]) -> Any:
  """Logarithmic for excess, whose law is a straight line there; linear for NE, whose constant would squash a logarithmic axis."""
  if metric == "ne":
    low, high = min(values), max(values)
    pad = 0.04 * (high - low or high)
    return alt.Y("value:Q", title=METRIC_NAMES[metric], scale=alt.Scale(domain=[low - pad, high + pad], nice=False, zero=False))
  return chart.log_axis(alt.Y, "value", METRIC_NAMES[metric], values, label=chart.PLAIN)


def tooltip(*fields: tuple[str, str]) -> list[alt.Tooltip]:
  """The tooltip of a mark: pairs (field, title) in order."""
  kinds: dict[str, Any] = {"run": "nominal", "learner": "nominal", "workload": "nominal", "axis": "nominal", "label": "nominal"}
  formats = {"examples": ",", "size": "~g", "params": ",", "flops": ".3~s", "value": ".5~g", "roc_auc": ".4f", "residual": "+.3~%"}
  return [
    alt.Tooltip(name, title=title, type=kinds.get(name, "quantitative"), format=formats.get(name, alt.Undefined)) for name, title in fields
  ]


_RUN = (("run", "run"), ("learner", "learner"), ("axis", "axis"), ("label", "size"), ("seed", "seed"), ("lr_factor", "learning rate x"))
RUN_TOOLTIP = (*_RUN, ("params", "parameters"), ("examples", "examples"), ("value", "loss"), ("roc_auc", "ROC AUC"))
_LAW_POINTS = 40  # of a fitted line
# Points that a panel draws, and curves of an axis in it, at most. So pages of thousands of runs open at once.
MOST_POINTS, MOST_CURVES = 450, 24


def some_sizes(frame: pl.DataFrame) -> pl.DataFrame:
  """The evaluations at no more than `MOST_CURVES` sizes of each axis."""
  kept = [load.some_sizes(frame.filter(axis=axis), MOST_CURVES) for axis in frame["axis"].unique(maintain_order=True)]
  return pl.concat(kept) if kept else frame


def points_of(frame: pl.DataFrame, metric: str, row: LawRow | None = None) -> list[dict[str, Any]]:
  """Chart points of evaluations. `fitted` says whether the fit used them."""
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
      "axis": e["axis"],
      "label": e["label"],
      "lr_factor": e["lr_factor"],
      "roc_auc": e["roc_auc"],
      "params": e["params_total"],
      "flops": e.get("flops"),
      "fitted": "in the window" if e["examples"] >= low else "before it",
    }
    for e in keep.to_dicts()
  ]


def figure(name: str, title: str, caption: str, panels: list[Any], columns: int = 2, own_colors: bool = False) -> list[Figure]:
  """One figure of these panels (see `chart.finish`); nothing where there are none."""
  return [Figure(name, title, caption, chart.finish(panels, columns, own_colors))] if panels else []


def workload_text(workload: str) -> str:
  """A workload as a heading."""
  return f"Planted clicks, {workload.replace('=', ' = ')}" if workload.startswith("s=") else workload


def law_opacity(row: LawRow) -> float:
  """The opacity of a law's line: faint where the points do not determine its exponent."""
  return 0.35 if row.fit.status == "not_identifiable" else 1.0


def fitted_line(row: LawRow, key: str = "examples", extra: dict[str, Any] | None = None) -> list[dict[str, Any]]:
  """Chart points of the fitted law over its window, in segments of one regime; none where the points contradict the law."""
  shared = {"size": row.size, "learner": LEARNER_NAMES.get(row.learner, row.learner), "line": "fitted law"} | (extra or {})
  out: list[dict[str, Any]] = []
  if row.fit.x_min is None or row.fit.x_max is None or row.fit.status == "misfit":
    return out
  span = np.log(row.fit.x_max / row.fit.x_min)
  for number, segment in enumerate(regimes.segments(row.fit)):
    x = np.geomspace(segment.x_from, segment.x_to, max(2, round(_LAW_POINTS * np.log(segment.x_to / segment.x_from) / span)))
    values = zip(x, row.fit.predict(x), strict=True)
    out += [{key: float(a), "value": float(b), "regime": segment.regime, "segment": number, **shared} for a, b in values]
  return out


def band_layer(row: LawRow, color: Any, x: Any, y: Any, pick: Any) -> list[Any]:
  """The layer of a law's 95% interval, where the points determine it."""
  if not row.fit.band or not row.fit.believed:
    return []
  shared = {"learner": LEARNER_NAMES.get(row.learner, row.learner), "size": row.size}
  values = [{"examples": at, "value": low, "high": high, **shared} for at, low, high in row.fit.band]
  area = alt.Chart(chart.data(values)).mark_area(strokeWidth=0)
  return [area.encode(x=x, y=y, y2="high:Q", color=color, opacity=chart.picked(pick, alt.value(0.18)))]


def ideal_line(frame: pl.DataFrame) -> list[dict[str, Any]]:
  """Chart points of the ideal learner."""
  known = frame.filter(pl.col("excess_ideal") > 0).unique("examples").sort("examples")
  return [{"examples": e["examples"], "value": e["excess_ideal"], "line": "ideal learner (theory)"} for e in known.to_dicts()]


_LINE_KINDS = alt.Scale(domain=["fitted law", "ideal learner (theory)"], range=[[1, 0], [5, 4]])
_REGIMES = {regimes.POWER: 3.4, regimes.TRANSITION: 1.7, regimes.SATURATED: 0.7, regimes.STEEPENING: 3.4}


def regime_width(points: list[dict[str, Any]]) -> Any:
  """Line widths by regime, thick while the resource pays, with a legend where there are several."""
  there = {p["regime"] for p in points}
  several, shown = len(there) > 1, [name for name in _REGIMES if name in there or name != regimes.STEEPENING]
  scale = alt.Scale(domain=shown, range=[_REGIMES[name] for name in shown])
  return alt.StrokeWidth("regime:N", title="regime", scale=scale, legend=alt.Legend() if several else None)


def line_layers(fitted: list[dict[str, Any]], ideal: list[dict[str, Any]], color: Any, x: Any, y: Any, pick: Any) -> list[Any]:
  """Layers of fitted laws and of the ideal learner."""
  dash = alt.StrokeDash("line:N", title=None, scale=_LINE_KINDS if ideal else alt.Scale(domain=["fitted law"], range=[[1, 0]]))
  layers = []
  if ideal:
    layers.append(alt.Chart(chart.data(ideal)).mark_line(style="theory", strokeWidth=1.5).encode(x=x, y=y, strokeDash=dash))
  if fitted:
    line = alt.Chart(chart.data(fitted)).mark_line()
    encoded = line.encode(
      x=x, y=y, color=color, strokeDash=dash, strokeWidth=regime_width(fitted), opacity=chart.picked(pick, alt.value(1))
    )
    layers.append(encoded.encode(detail=["learner:N", "size:N", "segment:N"]))
  return layers


def point_layer(points: list[dict[str, Any]], color: Any, x: Any, y: Any, pick: Any, size: int) -> Any:
  """The layer of evaluations, faint before the fitted window. Hovering shows the run; a click on the legend picks a series."""
  window = alt.Opacity("fitted:O", scale=alt.Scale(domain=["before it", "in the window"], range=[0.22, 0.85]), legend=None)
  layer = alt.Chart(chart.data(evenly(points, MOST_POINTS))).mark_point(size=size, strokeWidth=1.2)
  return layer.encode(x=x, y=y, color=color, opacity=chart.picked(pick, window), tooltip=tooltip(*RUN_TOOLTIP)).add_params(pick)
