"""Tables on standard output. Called by programs that print results."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table


def console(width: int) -> Console:
  """Standard output, as wide as the terminal; where it is no terminal, of this width. Square brackets are text."""
  return Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False)


def show(to: Console, title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
  """Prints a table, whose cells are folded where they do not fit."""
  table = Table(title=title)
  for column in columns:
    table.add_column(column, overflow="fold")
  for row in rows:
    table.add_row(*map(str, row))
  to.print(table)
