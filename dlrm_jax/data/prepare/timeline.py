"""The times of a log after the first pass: whether its rows are in order, and how many come before a moment. Used by `program`."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dlrm_jax.common import progress
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import times
from dlrm_jax.data.prepare.part_files import Part, times_of
from dlrm_jax.data.prepare.parts import TaskResult
from dlrm_jax.data.prepare.times import TimeColumn

_DATES = 19_000_101 * 10**9, 21_001_231 * 10**9  # numbers such as 20240501, read as seconds
_YEAR_1980 = 3652 * 24 * 3600 * 10**9


@dataclasses.dataclass(frozen=True)
class Timeline:
  """The times of a log, in the order of its files.

  Attributes:
    parts: the parts of the log.
    lowest_p, highest_p: the first and the last time in each part.
    rows: the number of rows.
    earlier_rows: how many of them are earlier than a row before them.
  """

  parts: tuple[Part, ...]
  lowest_p: tuple[int, ...]
  highest_p: tuple[int, ...]
  rows: int
  earlier_rows: int

  @property
  def first(self) -> int:
    """The first time in the log."""
    return min(self.lowest_p)

  @property
  def last(self) -> int:
    """The last time in the log."""
    return max(self.highest_p)

  def rows_before(self, moment: int) -> int:
    """The number of rows before a moment. It reads the times of parts that hold rows on both sides."""
    count = 0
    for part, lowest, highest in zip(self.parts, self.lowest_p, self.highest_p):
      count += int(np.count_nonzero(times_of(part) < moment)) if lowest < moment <= highest else part.rows * (highest < moment)
    return count


def timeline(parts: Sequence[Part], results: Sequence[TaskResult]) -> Timeline:
  """The timeline of a log's parts, from the results of its pieces. It reads the times of parts that are not in order."""
  entries = [entry for result in results for entry in result.times]
  latest, earlier = times.FIRST, 0
  for part, (lowest, highest, ascending) in zip(parts, entries, strict=True):
    if not ascending or lowest < latest:
      time_n = times_of(part)
      earlier += int(np.count_nonzero(time_n < np.maximum.accumulate(np.concatenate([[latest], time_n[:-1]]))))
    latest = max(latest, highest)
  lowest_p, highest_p = (tuple(entry[i] for entry in entries) for i in (0, 1))
  return Timeline(tuple(parts), lowest_p, highest_p, sum(part.rows for part in parts), earlier)


def check_units(column: TimeColumn, results: Sequence[TaskResult], log: Timeline) -> None:
  """Raises UserError if the size of numbers does not tell their unit. Warns of a log that ends before 1980."""
  units = [unit for unit in times.UNITS if any(unit in result.units for result in results)]
  where = f"time column '{column.column}'"
  if len(units) > 1:
    raise UserError(f"{where}: numbers look like {' in some rows and like '.join(units)} in others; state unit in [time]")
  if units == ["s"] and _DATES[0] <= log.first and log.last <= _DATES[1]:
    raise UserError(
      f'{where}: numbers from {log.first // 10**9} to {log.last // 10**9} look like dates; state format = "%Y%m%d" in [time], or unit = "s"'
    )
  if log.last < _YEAR_1980:
    progress.say(
      f"{where}: the log runs from {times.iso(log.first)} to {times.iso(log.last)}; if that is wrong, state unit or format in [time]"
    )


def say_order(column: TimeColumn, log: Timeline) -> None:
  """Reports how many rows are not in the order of their time, where the schema does not sort them."""
  if log.earlier_rows and not column.order:
    share = f"{log.earlier_rows:,} of {log.rows:,} rows ({log.earlier_rows / log.rows:.2%}) are earlier than a row before them"
    progress.say(f"time column '{column.column}': {share}. Rows keep the order of the files; order = true in [time] sorts them")
