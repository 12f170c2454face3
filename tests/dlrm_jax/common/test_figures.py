"""What charts and pages share, and the cache. The figures themselves are tested where they are made."""

import ast
import json
import re
import shutil
import subprocess

import altair as alt
import pytest
import vl_convert
from places import ROOT

from dlrm_jax.common import cache
from dlrm_jax.common.figures import chart, page, render
from dlrm_jax.common.terminal import Table

PACKAGE = ROOT / "dlrm_jax"


def test_cache_directory(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  assert cache.cache_dir() == tmp_path / "xdg" / "dlrm_jax" and cache.cache_dir().is_dir()
  monkeypatch.setenv("XDG_CACHE_HOME", "")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  assert cache.cache_dir() == tmp_path / "home" / ".cache" / "dlrm_jax" and cache.cache_dir().is_dir()


def test_javascript_is_kept_and_needs_no_cache(tmp_path, monkeypatch):
  monkeypatch.setattr(vl_convert, "javascript_bundle", lambda globals_text, vl_version: f"{globals_text} '</script>'")  # takes seconds
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  text = render.javascript()
  (kept,) = (tmp_path / "dlrm_jax").iterdir()
  assert kept.read_text() == text and "vegaEmbed" in text and "</script" not in text
  kept.write_text("kept")
  assert render.javascript() == "kept"
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no directory can be made there
  assert render.javascript() == text


def test_nothing_points_back():
  """dlrm_jax is below the sweeps, the analysis and the benchmarks."""
  for path in PACKAGE.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
      assert not [name for name in names if name.split(".")[0] in ("sweeps", "analysis", "benchmarks")], path


SCRIPT = PACKAGE / "common" / "figures" / "templates" / "page.js"


def checked_by_node(path):
  return subprocess.run(["node", "--check", str(path)], capture_output=True, text=True)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, which checks JavaScript; absent here")
def test_the_script_of_pages_is_javascript(tmp_path):
  done = checked_by_node(SCRIPT)
  assert done.returncode == 0, done.stderr
  (tmp_path / "broken.js").write_text(SCRIPT.read_text().replace("{", "", 1))
  assert "SyntaxError" in checked_by_node(tmp_path / "broken.js").stderr


def test_a_page_is_one_file_with_style_script_and_charts(monkeypatch):
  monkeypatch.setattr(page, "javascript", lambda: "window.vega = '<b>';")
  figure = render.Figure("small", "A & B", "Caption.", {"mark": "</script>"})
  text = page.page("T <1>", "sub", page.environment().get_template("parts.html").module.section(figure), [figure])
  assert "<title>T &lt;1&gt;</title>" in text and "<h2>A &amp; B</h2>" in text and '<a href="small.svg">SVG</a>' in text
  assert SCRIPT.read_text().strip() in text and SCRIPT.with_suffix(".css").read_text().strip() in text
  assert "<script>window.vega = '<b>';</script>" in text and text.count("</script>") == 3
  saved = json.loads(re.search(r'id="report">(.*?)</script>', text).group(1))
  assert saved == {"specs": {"small": figure.spec}, "themes": json.loads(json.dumps(chart.THEMES))}


def test_titles_and_captions_are_text(monkeypatch):
  monkeypatch.setattr(page, "javascript", lambda: "")
  figure = render.Figure("a", "a < b", "<b>c</b>", {})
  section = page.environment().get_template("parts.html").module.section(figure)
  assert "<h2>a &lt; b</h2>" in section and "&lt;b&gt;c&lt;/b&gt;" in section and "<b>" not in section
  made = page.page("<i>t</i>", "<i>s</i>", "", [])
  assert "<h1>&lt;i&gt;t&lt;/i&gt;</h1>" in made and "<title>&lt;i&gt;t" in made and "&lt;i&gt;s" in made and "<i>" not in made


def test_a_table_aligns_numbers_and_escapes_text():
  rows = [["a", "-1.5", "1"], ["<b>", "+2", "x"], ["c", "-", "-"]]
  table = Table("", ["name", "value", "mixed"], rows)
  text = page.environment().get_template("parts.html").module.cells(table, {1})
  assert [bool(kind) for kind in re.findall(r'<th class="(number)?">', text)] == [False, True, False]
  assert "&lt;b&gt;" in text and '<td class="number">-1.5</td>' in text and text.count('<tr class="key">') == 1


@pytest.mark.parametrize(
  ("low", "high", "values"),
  [(1, 2e4, [1, 10, 100, 1e3, 1e4]), (20, 2000, [30, 100, 300, 1000]), (20, 90, [20, 30, 40, 50, 60, 80]), (1, 2, [1, 1.5, 2])],
)
def test_ticks(low, high, values):
  assert chart.ticks(low, high) == values


def test_figures_are_written_as_svg_and_png(tmp_path):
  points = alt.Chart(chart.data([{"x": x, "y": x * x} for x in range(1, 9)])).mark_point().encode(x="x:Q", y="y:Q")
  specs = {"one": chart.finish([points], 1), "many": chart.small_multiples([points.properties(title=f"panel {n}") for n in range(5)], 2)}
  render.write_figures(tmp_path, [render.Figure(name, "", "", spec) for name, spec in specs.items()])
  assert {path.name for path in tmp_path.iterdir()} == {"one.svg", "one.png", "many.svg", "many.png"}
  many = (tmp_path / "many.svg").read_text()
  assert all(f"panel {n}" in many.replace("\u00a0", " ") for n in range(5))
  colour = chart.THEMES["light"]["mark"]["color"]
  assert colour in many and (tmp_path / "many.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
