"""A page in a real browser: Debian's chromium without a window, driven by selenium, light or dark, and with no network to reach.

Used by the tests of pages. `missing()` names the programs that this machine lacks.
"""

import base64
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
_FLAGS = (
  *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000", "--force-device-scale-factor=1"),
  "--proxy-server=127.0.0.1:9",  # nobody listens there: whatever a page asks of the network fails, and the console says so
)
_MARKS = ".role-mark.mark-symbol path, .role-mark.mark-line path, .role-mark.mark-rect path"
# Functions of the scripts below. The colour of a mark is its fill, or its stroke where it is not filled.
_SHARED = """
const chart = name => document.getElementById("chart-" + name);
const seen = colour => colour !== "none" && colour !== "transparent" && colour !== "rgba(0, 0, 0, 0)";
const look = mark => {
  const style = getComputedStyle(mark), filled = seen(style.fill);
  return [filled ? style.fill : style.stroke, style.opacity * (filled ? style.fillOpacity : style.strokeOpacity)];
};
const marks = chart => [...chart.querySelectorAll("MARKS")].filter(mark => mark.getAttribute("d"));
const entries = name => {  // of the first legend that tells series apart by colour
  for (const legend of chart(name).querySelectorAll(".role-legend")) {
    const symbols = [...legend.querySelectorAll(".role-legend-symbol path")];
    const labels = [...legend.querySelectorAll(".role-legend-label text")];
    if (new Set(symbols.map(symbol => look(symbol)[0])).size > 1)
      return symbols.map((symbol, i) => ({ label: labels[i], text: labels[i].textContent, colour: look(symbol)[0] }));
  }
  return [];
};
""".replace("MARKS", _MARKS)


def missing() -> str:
  """The missing ones among chromium, its driver and selenium; "" if all are here."""
  absent = [f"{path} (Debian: {package})" for path, package in ((CHROMIUM, "chromium"), (DRIVER, "chromium-driver")) if not path.exists()]
  return ", ".join(absent + ([] if importlib.util.find_spec("selenium") else ["selenium"]))


class Browser:
  """A context in which one page is open. Charts have the names of their figures: `data_law` is drawn in `#chart-data_law`."""

  def __init__(self, path: Path, theme: str = "light"):
    self.address, self.theme, self.started = path.resolve().as_uri(), theme, 0.0
    self._errors: list[str] = []

  def __enter__(self) -> "Browser":
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in _FLAGS:
      options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
      self.set_theme(self.theme)
      self.started = time.monotonic()
      self.driver.get(self.address)
    except BaseException:
      self.driver.quit()
      raise
    return self

  def __exit__(self, *_: object) -> None:
    self.driver.quit()

  def script(self, text: str, *arguments: Any) -> Any:
    """What a function body in JavaScript returns; `arguments[0]` and so on are what is given."""
    return self.driver.execute_script(_SHARED + text, *arguments)

  def set_theme(self, theme: str) -> None:
    """What the reader's system prefers from now on."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

  def charts(self) -> list[str]:
    return self.script("return [...document.querySelectorAll('div.chart')].map(chart => chart.id.replace('chart-', ''))")

  def wait_for_charts(self, timeout: float = 30.0) -> float:
    """Seconds from asking for the page until every chart has marks. Raises AssertionError naming those that have none in time."""
    without = "return [...document.querySelectorAll('div.chart')].filter(chart => !marks(chart).length).map(chart => chart.id)"
    assert self.charts(), "the page has no chart"
    wait_until(lambda: not self.script(without), timeout, lambda: f"no marks in {self.script(without)}: {self.console_errors()}")
    return time.monotonic() - self.started

  def console_errors(self) -> list[str]:
    """The page's errors so far: on the console, uncaught exceptions, rejected promises, failed fetches."""
    self._errors += [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
    return list(self._errors)

  def fetched(self) -> list[str]:
    """The addresses that the page fetched since the last call, without its own and without embedded data."""
    messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if url != self.address and not url.startswith(("data:", "blob:"))]

  def background(self, selector: str = "body") -> str:
    """The background of an element as the browser computes it: `rgb(255, 255, 255)`."""
    return self.script("return getComputedStyle(document.querySelector(arguments[0])).backgroundColor", selector)

  def hover_mark(self, name: str, timeout: float = 5.0) -> str:
    """Moves the mouse onto a point of a chart and returns the tooltip, with lines such as `loss: 0.6`."""
    self._show(name)
    self._mouse(lambda mouse: mouse.w3c_actions.pointer_action.move_to_location(1, 1))  # away, so that no tooltip is left over
    tooltip = """
      const cells = row => [...row.cells].map(cell => cell.textContent).join(": ");
      return [...document.querySelectorAll("#vg-tooltip-element.visible tr")].map(cells).join("\\n")"""
    wait_until(lambda: not self.script(tooltip), timeout, lambda: f"{name}: a tooltip where no mark is")
    on_top = """
      return marks(chart(arguments[0])).filter(mark => mark.closest(".mark-symbol, .mark-rect")).find(mark => {
        const box = mark.getBoundingClientRect();
        return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === mark;
      })"""
    mark = self.script(on_top, name)
    assert mark is not None, f"{name}: no point that the mouse can reach"
    self._mouse(lambda mouse: mouse.move_to_element(mark))
    wait_until(lambda: self.script(tooltip), timeout, lambda: f"{name}: no tooltip")
    return self.script(tooltip)

  def legend(self, name: str) -> dict[str, str]:
    """Colours by label, of the first legend of a chart that tells series apart by colour; nothing where there is none."""
    return {entry["text"]: entry["colour"] for entry in self.script("return entries(arguments[0])", name)}

  def click_legend(self, name: str) -> str:
    """Clicks the label of the first entry of that legend, and returns the label."""
    self._show(name)
    entry = self.script("return entries(arguments[0])", name)[0]
    self._mouse(lambda mouse: mouse.move_to_element(entry["label"]).click())
    return entry["text"]

  def mark_opacities(self, name: str) -> list[tuple[str, float]]:
    """The colour and the opacity of every point, line and bar of a chart, in the order in which they are drawn."""
    return [(colour, opacity) for colour, opacity in self.script("return marks(chart(arguments[0])).map(look)", name)]

  def screenshot(self, path: Path) -> None:
    """The whole page, as high as it is, as a PNG."""
    shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": self._size()})
    path.write_bytes(base64.b64decode(shot["data"]))

  def _size(self) -> dict[str, float]:
    whole = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    return {"x": 0, "y": 0, "width": whole["width"], "height": whole["height"], "scale": 1}

  def _show(self, name: str) -> None:
    self.script("chart(arguments[0]).scrollIntoView({ block: 'center', behavior: 'instant' })", name)

  def _mouse(self, move: Callable[[Any], Any]) -> None:
    from selenium.webdriver import ActionChains

    actions = ActionChains(self.driver, duration=0)
    move(actions)
    actions.perform()


def wait_until(what: Callable[[], Any], timeout: float, otherwise: Callable[[], str]) -> None:
  """Waits until `what` is true. Raises AssertionError with the message of `otherwise` after the timeout."""
  until = time.monotonic() + timeout
  while not what():
    assert time.monotonic() < until, otherwise()
    time.sleep(0.05)
