"""Report pages in a real browser: drawn without an error and without any network, in both themes, with tooltips and legends that work."""

import altair as alt
import polars as pl
import pytest
from browser_case import Browser, missing, wait_until

from dlrm_jax.common.figures import chart, page, render

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"needs a browser, absent here: {missing()}")
BACKGROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}
OTHER = {"light": "dark", "dark": "light"}
SWEEPS = {"planted": "planted", "clicks": "real"}  # and the fixtures of conftest.py that report them


def _page(name: str, theme: str):
  return pytest.param((name, theme), id=f"{name}-{theme}", marks=[pytest.mark.slow] if name == "clicks" else [])


@pytest.fixture(scope="module", params=[_page(name, theme) for name in SWEEPS for theme in BACKGROUND])
def opened(request):
  """A report in a browser, drawn: its directory, its theme and the browser. One for all tests, since a start takes a second."""
  name, theme = request.param
  folder = request.getfixturevalue(SWEEPS[name]) / "report"
  with Browser(folder / "index.html", theme) as browser:
    browser.wait_for_charts()
    yield folder, theme, browser


def test_page_is_whole(opened):
  folder, _, browser = opened
  assert set(browser.charts()) == {path.stem for path in folder.glob("*.svg")}
  assert browser.fetched() == []
  assert browser.console_errors() == []


def test_background_is_that_of_the_theme(opened):
  _, theme, browser = opened
  assert browser.background() == BACKGROUND[theme]
  assert {browser.background(f"#chart-{name} svg") for name in browser.charts()} == {BACKGROUND[theme]}


def test_points_name_their_runs(opened):
  folder, _, browser = opened
  runs = set(pl.read_csv(folder / "points.csv", schema_overrides={"label": pl.String})["config_id"])
  for name in browser.charts():
    shown = dict(line.split(": ", 1) for line in browser.hover_mark(name).splitlines())
    assert "loss" in shown, (name, shown)
    means = name in ("data_efficiency", "compute", "compute_by")  # over seeds: they name the first one's run
    assert shown["first run" if means else "run"] in runs, (name, shown)
  assert browser.console_errors() == []


def dims_the_others(browser: Browser, name: str) -> None:
  """A click on the first entry of a chart's legend dims each mark of the other series, and none of its own."""
  series, before = browser.legend(name), browser.mark_opacities(name)
  assert len(series) > 1
  chosen = series.pop(browser.click_legend(name))
  wait_until(lambda: browser.mark_opacities(name) != before, 3, lambda: f"{name}: a click on its legend changes nothing")
  after = browser.mark_opacities(name)
  assert [colour for colour, _ in after] == [colour for colour, _ in before]
  for (colour, old), (_, new) in zip(before, after, strict=True):
    assert new < old if colour in series.values() else new == old or colour != chosen, (name, colour, old, new)


def test_legends_of_reports_choose_a_series(opened):
  _, _, browser = opened
  for name in browser.charts():
    if browser.legend(name):
      dims_the_others(browser, name)
  assert browser.console_errors() == []


def test_theme_follows_the_system(opened):
  """Last of those that share a page: the reader's system changes its mind, and the page is drawn anew."""
  _, theme, browser = opened
  for now in (OTHER[theme], theme):
    browser.set_theme(now)
    svgs = [f"#chart-{name} svg" for name in browser.charts()]
    wait_until(lambda now=now, svgs=svgs: {browser.background(svg) for svg in svgs} == {BACKGROUND[now]}, 10, lambda: "a chart stays")
    assert browser.background() == BACKGROUND[now]
  browser.wait_for_charts()
  assert browser.console_errors() == []


def small_page(path, html: str = "", **change):
  """A page of one chart of two series with a legend to click, and with whatever a test adds to it."""
  rows = [{"x": x, "y": x * k, "series": f"series {k}"} for k in (1, 2) for x in (1, 2, 3)]
  chosen = alt.selection_point(fields=["series"], bind="legend")
  opacity = alt.condition(chosen, alt.value(0.9), alt.value(0.1))
  base = alt.Chart(chart.data(rows)).encode(x="x:Q", y="y:Q", color="series:N", opacity=opacity)
  drawn = alt.layer(base.mark_line(), base.mark_point(size=60).encode(tooltip=["series:N", "y:Q"])).add_params(chosen)
  figure = render.Figure("small", "", "Two lines.", drawn.to_dict() | change)
  drawn_at = page.environment().get_template("parts.html").module.section(figure)
  path.write_text(page.page("A page", "of one chart", str(drawn_at) + html, [figure]))
  return path


def test_a_legend_that_works_is_seen_to(tmp_path):
  with Browser(small_page(tmp_path / "page.html")) as browser:
    browser.wait_for_charts()
    assert list(browser.legend("small")) == ["series 1", "series 2"]
    dims_the_others(browser, "small")
    assert "series 1" in browser.hover_mark("small")
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and browser.console_errors() == browser.fetched() == []


def test_what_a_page_does_wrong_is_seen(tmp_path):
  wrong = '<img src="http://example.invalid/a.png"><script>nowhere.to.be.found()</script>'
  with Browser(small_page(tmp_path / "page.html", wrong)) as browser:
    browser.wait_for_charts()
    assert browser.fetched() == ["http://example.invalid/a.png"]
    errors = browser.console_errors()
    assert len(errors) == 2 and any("nowhere is not defined" in e for e in errors) and any("a.png" in e for e in errors)
  empty = small_page(tmp_path / "page.html", data={"values": []}, layer=[{"mark": "point"}])
  with Browser(empty) as browser, pytest.raises(AssertionError, match="no marks in .*chart-small"):
    browser.wait_for_charts(1)
