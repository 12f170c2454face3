"""Tables of results, for standard output and for pages, and the consoles of all programs. Called by programs that print results.

Names of columns, features and data sets come from users. So a console takes every text as it is: it knows no markup (`[bold]`), no emoji
codes (`:smile:`), and does not colour what looks like a number. Only control characters are shown as escapes, since a terminal obeys them.
No other file makes a `rich` console or table.
"""

import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from rich import box
from rich import table as rich_table
from rich.console import Console, JustifyMethod, OverflowMethod
from rich.text import Text

from dlrm_jax.common.text import visible


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of results.

  Attributes:
    title: its heading.
    columns, rows: names and cells.
    note: what the numbers mean.
    printed: whether the terminal shows it too.
  """

  title: str
  columns: list[str]
  rows: list[list[Any]]
  note: str = ""
  printed: bool = True


class _Console(Console):
  """A console that shows control characters, except the ends of lines."""

  def render_str(self, text: str, **settings: Any) -> Text:
    return super().render_str(visible(text, keep="\n"), **settings)


class Grid(rich_table.Table):
  """A table for a terminal, whose cells are texts as they are.

  Args:
    title, subtitle: its heading, in one line or two, at the left.
    simple: without lines between the columns.
  """

  def __init__(self, title: str, subtitle: str = "", simple: bool = False):
    heading = Text("\n".join(visible(line) for line in (title, subtitle) if line), style="table.title")
    super().__init__(title=heading, title_justify="left", box=box.SIMPLE if simple else box.HEAVY_HEAD)

  def column(self, name: str, justify: JustifyMethod = "left", overflow: OverflowMethod = "ellipsis", no_wrap: bool = False) -> None:
    """Adds a column. Cells that do not fit are cut (`overflow` "ellipsis") or go on in the next line ("fold")."""
    self.add_column(Text(visible(name)), justify=justify, overflow=overflow, no_wrap=no_wrap)

  def row(self, *cells: Any) -> None:
    """Adds a row."""
    self.add_row(*(Text(visible(str(cell))) for cell in cells))


def console(width: int | None = None, least: int = 0, stderr: bool = False) -> Console:
  """Standard output or standard error, as wide as the terminal.

  Args:
    width: how wide it is where it is no terminal; None: what the environment says, else 80.
    least: the fewest characters of a line, even if the terminal has less.
    stderr: standard error instead of standard output.
  """
  stream = sys.stderr if stderr else sys.stdout
  made = _Console(width=None if stream.isatty() else width, stderr=stderr, markup=False, emoji=False, highlight=False)
  if made.width < least:
    made.width = least
  return made


def show(to: Console, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
  """Prints a table, whose cells are folded where they do not fit."""
  grid = Grid(title)
  for column in columns:
    grid.column(column, overflow="fold")
  for row in rows:
    grid.row(*row)
  to.print(grid)
