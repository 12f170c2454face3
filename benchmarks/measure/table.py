"""Rows of a benchmark as a table on standard output."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def number(field: str, form: str, scale: float = 1) -> Callable[[Row], str]:
  """How a cell shows a number of a row: `form` as in format(), of the value times `scale`; "-" where it is not known."""

  def text(row: Row) -> str:
    value = row[field]
    return "-" if value is None or math.isnan(value) else format(value * scale, form)

  return text


def show(title: str, columns: Mapping[str, str | Callable[[Row], str]], rows: Sequence[Row]) -> None:
  """Prints the rows.

  Args:
    title: above the table.
    columns: heading -> how a row shows there; a field's name alone: its value as it is, to the left.
    rows: of the results.
  """
  table = Table(title=title)
  for heading, cell in columns.items():
    table.add_column(heading, justify="left" if isinstance(cell, str) else "right")
  for row in rows:
    table.add_row(*(str(row[cell]) if isinstance(cell, str) else cell(row) for cell in columns.values()))
  Console(width=None if sys.stdout.isatty() else 200).print(table)
