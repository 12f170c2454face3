"""Helpers of figures: themes, axes with readable ticks, rows to a frame. Called by everything that draws a chart.

Specs hold no colours. Colours come from the theme (`THEMES`), which the page swaps with the reader's colour scheme.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from dlrm_jax.common.text import visible

_DIGITS = 7  # digits of the numbers in a chart, so that pages stay small
_FONT = "Inter, Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif"
PLAIN, PERCENT = "format(datum.value, '~g')", "format(datum.value, '.3~%')"  # labelExpr of an axis
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
    "mark": {"color": category[0]},
    "style": {"theory": {"color": faint, "stroke": faint}, "note": {"color": faint}},
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
  """Tick values of a logarithmic axis: powers of ten, with numbers between them where they are few; even steps in a narrow range."""
  decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
  for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
    values = [float(f"{m}e{d}") for d in decades for m in steps if low * 0.999 <= m * 10.0**d <= high * 1.001]
    if len(values) >= 4:
      break
  if len(values) >= 2:
    return values
  step = 10 ** np.floor(np.log10((high - low) / 2))
  step *= max(m for m in (1, 2, 5) if m * step <= (high - low) / 2)
  return [float(f"{k * step:.6g}") for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def log_axis(
  channel: Any, field: str, title: str, values: Sequence[float | int], at: Sequence[float | int] | None = None, label: str = SI
) -> Any:
  """A logarithmic axis around some values, with its ticks at `at` where they are given."""
  low, high = min(values), max(values)
  pad = max((high / low) ** 0.03, 1.01)
  axis = alt.Axis(values=at or ticks(low / pad, high * pad), labelExpr=label)
  return channel(f"{field}:Q", title=title, scale=alt.Scale(type="log", domain=[low / pad, high * pad], nice=False), axis=axis)


def data(rows: list[dict[str, Any]]) -> pl.DataFrame:
  """The data of a layer, with rounded numbers. It is a frame, because Altair copies lists over and over while it builds a chart.

  A column without any value, such as the ROC AUC of held-out rows of one class, is one of missing numbers. Altair refuses polars' type
  of such columns.
  """
  frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.selectors.by_dtype(pl.Null).cast(pl.Float64)).fill_nan(None)
  return frame.with_columns(pl.selectors.float().round_sig_figs(_DIGITS))


def pick(field: str) -> Any:
  """A selection of series by `field`, for `add_params`: a click on the legend shows one, with shift several, a double click all."""
  return alt.selection_point(name="pick", fields=[field], bind="legend")


def picked(selection: Any, value: Any) -> Any:
  """An opacity: `value` for the series that are picked, faint for the others."""
  return alt.when(selection).then(value).otherwise(alt.value(0.07))


def finish(panels: list[Any], columns: int, own_colors: bool = False) -> dict[str, Any]:
  """The spec of one panel, or of several in rows of `columns`. With `own_colors` each has its own colour scale and legend."""

  def draw() -> Any:
    drawn = panels[0] if len(panels) == 1 else alt.concat(*panels, columns=columns, spacing=36)
    return drawn.resolve_scale(color="independent") if own_colors else drawn

  return _spec(draw)


def small_multiples(panels: list[Any], columns: int) -> dict[str, Any]:
  """The spec of many small panels with aligned plot areas, and room for a title, a subtitle and axes between them."""
  return _spec(lambda: alt.concat(*panels, columns=columns, bounds="flush", spacing={"row": 84, "column": 54}))


def _spec(draw: Callable[[], Any]) -> dict[str, Any]:
  with alt.data_transformers.enable("default", max_rows=None), warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")  # one legend picks in all panels
    return _visible(draw().to_dict(validate=False))


def _visible(value: Any) -> Any:
  """A spec whose texts show control characters, which XML does not allow."""
  if isinstance(value, dict):
    return {_visible(name): _visible(entry) for name, entry in value.items()}
  return [_visible(entry) for entry in value] if isinstance(value, list) else visible(value) if isinstance(value, str) else value
