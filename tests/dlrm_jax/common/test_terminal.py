"""Consoles and tables: names from users are never markup, and there is one way to make a console."""

import ast
import io

import pytest
import rich.console
from nasty_names import ALL, CONTROLS, PLAIN
from places import ROOT
from rich.cells import cell_len

from dlrm_jax.common import progress, terminal
from dlrm_jax.common.text import visible

PACKAGES = ("dlrm_jax", "sweeps", "analysis", "benchmarks")


def test_only_one_file_makes_consoles_and_tables():
  """A console made elsewhere would take `[usd]` in a name for markup and drop it."""
  files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "terminal.py"]
  assert len(files) > 150
  for path in files:
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
      module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
      assert not module.startswith(("rich.console", "rich.table", "rich.text", "rich.markup")), path
      assert not (module == "rich" and {"print", "console", "table", "text"} & set(names)), path
      assert not [name for name in names if name in ("rich.console", "rich.table", "rich.text", "rich")], path
      if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "TextColumn":
        assert [keyword.arg for keyword in node.keywords if getattr(keyword.value, "value", None) is False] == ["markup"], path


def printed(monkeypatch: pytest.MonkeyPatch, *shown: object, width: int = 5000, terminal_like: bool = False) -> str:
  out = io.StringIO()
  if terminal_like:
    out.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
  monkeypatch.setattr("sys.stdout", out)
  console = terminal.console(width)
  for one in shown:
    console.print(one, soft_wrap=True)
  return out.getvalue()


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_is_printed_as_it_is(monkeypatch, name):
  grid = terminal.Grid(name)
  grid.column(name)
  grid.row(name)
  out = printed(monkeypatch, grid)
  if cell_len(name):  # rich leaves out a cell without anything to see
    title, _, head, _, cell, *_ = out.splitlines()
    assert title.strip() == name.strip() and head == f"┃ {name} ┃" and cell == f"│ {name} │"
  assert printed(monkeypatch, f"a {name} b") == f"a {name} b\n"


@pytest.mark.parametrize("name", CONTROLS)
def test_control_characters_are_shown(monkeypatch, capsys, name):
  grid = terminal.Grid(name)
  grid.column(name)
  grid.row(name)
  out = printed(monkeypatch, grid)
  assert visible(name) in out and len(out.splitlines()) == 6 and not set(out) & (set("".join(CONTROLS)) - set("\nabred[31m"))
  assert visible(visible(name)) == visible(name) != name
  progress.say(name)
  assert capsys.readouterr().err == visible(name, keep="\n") + "\n"


def test_a_terminal_gets_no_colours_in_names(monkeypatch):
  assert printed(monkeypatch, "rate[/s] 12 True :smile: http://x", terminal_like=True) == "rate[/s] 12 True :smile: http://x\n"


def test_a_long_name_is_cut_or_folded_but_not_changed(monkeypatch):
  name = "".join(f"[{i}]" for i in range(200))
  grid = terminal.Grid("t")
  grid.column("cut")
  grid.row(name)
  cut = printed(monkeypatch, grid, width=40).splitlines()
  whole = "".join(line.strip("│ ") for line in cut if line.startswith("│"))
  assert name.startswith(whole.rstrip("…")) or whole == name
  out = io.StringIO()
  monkeypatch.setattr("sys.stdout", out)
  terminal.show(terminal.console(40), "t", ["fold"], [[name]])
  assert "".join(line.strip("│ ") for line in out.getvalue().splitlines() if line.startswith("│")) == name


def test_bars_take_names_as_they_are(monkeypatch):
  out = io.StringIO()
  console = rich.console.Console(file=out, force_terminal=True, width=200, color_system=None)
  monkeypatch.setattr(terminal, "console", lambda *_, **__: console)
  with progress.Bar("rate[/s] :smile:", 10) as bar:
    bar(5)
    bar._bar.refresh()
  assert "rate[/s] :smile:" in out.getvalue()


def test_every_name_is_one_of_its_own():
  assert len(set(ALL)) == len(ALL)
