"""Vega-Lite specs to SVG, PNG, and the JavaScript that draws them in a page without any network. Called by `analysis.report`."""

import contextlib
import os
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from analysis.chart import THEMES
from dlrm_jax import record

_GLOBALS = "window.vegaEmbed = vegaEmbed;"  # what the page's own script calls
PNG_SCALE = 2.0  # pixels per point: sharp on screens of today


def _version() -> str:
  """The Vega-Lite that Altair writes for, or the newest that the converter has."""
  wanted = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
  known = vl_convert.get_vegalite_versions()
  return wanted if wanted in known else known[-1]


def svg(spec: dict[str, Any]) -> str:
  """The chart in the light theme."""
  return vl_convert.vegalite_to_svg(spec, vl_version=_version(), config=THEMES["light"])


def png(svg_text: str) -> bytes:
  """The same chart as pixels."""
  return vl_convert.svg_to_png(svg_text, scale=PNG_SCALE)


def javascript() -> str:
  """Vega, Vega-Lite and Vega-Embed as one script for a `<script>` element.

  Bundling takes seconds and depends on versions alone, so the result is kept in the user's cache directory where that can be written.
  """
  version = f"{getattr(vl_convert, '__version__', '0')}-{_version()}"
  cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlrm_jax" / f"vega-{version}.js"
  if cache.exists():
    return cache.read_text()
  text = vl_convert.javascript_bundle(_GLOBALS, vl_version=_version()).replace("</script", "<\\/script")
  with contextlib.suppress(OSError):  # no home, or read-only: bundled again next time
    record.write_text(cache, text)
  return text
