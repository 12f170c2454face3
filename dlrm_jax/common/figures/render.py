"""Draws Vega-Lite specs as SVG and PNG, and bundles the JavaScript that draws them in an offline page. Called by everything that draws."""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from dlrm_jax.common import cache, record
from dlrm_jax.common.figures.chart import THEMES

_GLOBALS = "window.vegaEmbed = vegaEmbed;"  # the page's own script calls it
PNG_SCALE = 2.0  # pixels per point: sharp on screens of today


@dataclasses.dataclass(frozen=True)
class Figure:
  """One figure: file stem, heading, caption, and its Vega-Lite spec as a dict."""

  name: str
  title: str
  caption: str
  spec: dict[str, Any]


def _version() -> str:
  """The version of Vega-Lite that Altair writes for, or the newest that the converter has."""
  wanted = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
  known = vl_convert.get_vegalite_versions()
  return wanted if wanted in known else known[-1]


def svg(spec: dict[str, Any]) -> str:
  """The chart in the light theme."""
  return vl_convert.vegalite_to_svg(spec, vl_version=_version(), config=THEMES["light"])


def png(svg_text: str) -> bytes:
  """The same chart as pixels."""
  return vl_convert.svg_to_png(svg_text, scale=PNG_SCALE)


def write_figures(directory: Path, figures: Iterable[Figure]) -> None:
  """Writes NAME.svg and NAME.png of each figure."""
  for figure in figures:
    drawn = svg(figure.spec)
    record.write_text(directory / f"{figure.name}.svg", drawn)
    record.write_bytes(directory / f"{figure.name}.png", png(drawn))


def javascript() -> str:
  """Vega, Vega-Lite and Vega-Embed as one script for a `<script>` element.

  Bundling takes seconds and depends only on versions. So the result is kept in the user's cache directory, where that can be written.
  """
  kept = None
  with contextlib.suppress(OSError):  # no home, or read-only: bundled again next time
    kept = cache.cache_dir() / f"vega-{getattr(vl_convert, '__version__', '0')}-{_version()}.js"
    if kept.exists():
      return kept.read_text()
  text = vl_convert.javascript_bundle(_GLOBALS, vl_version=_version()).replace("</script", "<\\/script")
  if kept is not None:
    with contextlib.suppress(OSError):
      record.write_text(kept, text)
  return text
