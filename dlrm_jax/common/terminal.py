"""Tables of results, for standard output and for pages. Called by programs that print results."""

import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from rich import table as rich_table
from rich.console import Console


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


def console(width: int) -> Console:
  """Standard output, as wide as the terminal; where it is no terminal, of this width. Square brackets are text."""
  return Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False)


def show(to: Console, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
  """Prints a table, whose cells are folded where they do not fit."""
  table = rich_table.Table(title=title)
  for column in columns:
    table.add_column(column, overflow="fold")
  for row in rows:
    table.add_row(*map(str, row))
  to.print(table)
