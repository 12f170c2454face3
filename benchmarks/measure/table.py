"""Rows of a benchmark as a table on standard output."""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlrm_jax.common import terminal

Row = dict[str, Any]
Columns = Mapping[str, str | Callable[[Row], str]]  # heading -> the name of a field, or a function that returns the text of a cell


def number(field: str, form: str, scale: float = 1) -> Callable[[Row], str]:
  """A cell for a number: the field times `scale`, written as format() writes it with `form`; "-" where it is None or NaN."""

  def text(row: Row) -> str:
    value = row[field]
    return "-" if value is None or math.isnan(value) else format(value * scale, form)

  return text


def counted(words: Sequence[str]) -> str:
  """("row", "row", "column") as "2 row, 1 column"."""
  return ", ".join(f"{count} {word}" for word, count in collections.Counter(words).most_common())


def show(title: str, columns: Columns, rows: Sequence[Row], subtitle: str = "") -> None:
  """Prints the rows under `title` and `subtitle`. Plain fields are aligned to the left, computed cells to the right."""
  table = terminal.Grid(title, subtitle)
  for heading, cell in columns.items():
    table.column(heading, justify="left" if isinstance(cell, str) else "right")
  for row in rows:
    table.row(*(row[cell] if isinstance(cell, str) else cell(row) for cell in columns.values()))
  terminal.console(200).print(table)
