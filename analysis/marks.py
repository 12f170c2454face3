"""What the figures of a sweep share: axes by metric, layers for points and lines. Called by `analysis.plots`."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from analysis.study import LawRow
from dlrm_jax.figures import chart

METRIC_NAMES = {"excess_tail": "excess log loss, tail part (nats)", "excess": "excess log loss (nats)", "ne": "normalised entropy (NE)"}
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
    layers.append(alt.Chart(chart.data(ideal)).mark_line(style="theory", strokeWidth=1.5).encode(x=x, y=y, strokeDash=dash))
  if fitted:
    layers.append(
      alt.Chart(chart.data(fitted)).mark_line(strokeWidth=2).encode(x=x, y=y, color=color, strokeDash=dash, detail=["learner:N", "size:N"])
    )
  return layers
