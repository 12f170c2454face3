"""The time column of a log: cells of any kind as moments, and hour and weekday as features. Used by `schema`, `parse` and `program`.

A moment is int64 nanoseconds since 1970-01-01 00:00 UTC.
"""

import dataclasses
import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import cells as cells_of

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}  # in nanoseconds
_LARGEST = {"s": 10**11, "ms": 10**14, "us": 10**17, "ns": 2**63}  # a number below it has this unit, unless the schema states one
FEATURES = ("hour", "weekday")
_DAY = 24 * 3600 * 10**9
# Moments from FIRST to below LAST fit int64 in any time zone.
FIRST, LAST = ((datetime.date(year, 1, 1) - datetime.date(1970, 1, 1)).days * _DAY for year in (1678, 2262))
_INTEGER = r"^-?([0-9]{1,18}|[1-8][0-9]{18}|9[01][0-9]{17}|92[01][0-9]{16})$"
# The day of an ISO 8601 text exists: 30 and 31 are checked by month, 29 February by the leap years.
_DATE = (
  r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
  r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
_ZONE = r"Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?"
ISO = rf"^(?P<date>{_DATE})(?:[T ](?P<clock>{_CLOCK})(?: ?(?P<zone>{_ZONE}))?)?$"
MISSING, MALFORMED, OUTSIDE = "time is missing", "not a time", "time is not from 1678 to 2261"


@dataclasses.dataclass(frozen=True)
class TimeColumn:
  """The column that says when a row happened. It is no input of the model, only its `features` are.

  Attributes:
    column: its name. It holds Parquet timestamps or dates, numbers since 1970, or text: numbers or ISO 8601, or text of `format`.
    unit: the unit of its numbers, one of `UNITS`; None: it is recognised by their size.
    format: its text is read by Python's `strptime` with this format; None: as above.
    zone: the time zone of times that state none, of hours and weekdays and of `--eval_from`: a name such as Europe/Berlin, or +02:00.
    order: whether the rows of the log are sorted by it.
    features: which of `FEATURES` are categorical features. Hours are 0 to 23, weekdays 0 (Monday) to 6.
  """

  column: str
  unit: str | None = None
  format: str | None = None
  zone: str = "UTC"
  order: bool = False
  features: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if self.unit is not None and self.unit not in UNITS:
      raise UserError(f"time: unit '{self.unit}' must be among {', '.join(UNITS)}")
    if self.unit is not None and self.format is not None:
      raise UserError("time: unit is for numbers and format for text: state one of them")
    for name in self.features:
      if name not in FEATURES:
        raise UserError(f"time: feature '{name}' must be among {', '.join(FEATURES)}")
    if len(set(self.features)) < len(self.features):
      raise UserError(f"time: features must differ: {', '.join(self.features)}")
    try:
      pc.assume_timezone(pa.scalar(0, pa.timestamp("ns")), self.zone)
    except (pa.ArrowException, ValueError):
      raise UserError(f"time: zone '{self.zone}' must be a name that this system knows, such as UTC or Europe/Berlin") from None
    if self.format is not None:
      _check_format(self.format)


def _check_format(form: str) -> None:
  """Raises UserError unless `strptime` finds the day again that `strftime` writes with this format."""
  day = datetime.datetime(2023, 11, 17, 13, 45, 56, tzinfo=datetime.UTC)
  try:
    found = datetime.datetime.strptime(day.strftime(form), form)
  except ValueError as error:
    raise UserError(f"time: format {form!r} must be one of Python's strptime, such as %d.%m.%Y %H:%M ({error})") from None
  if found.date() != day.date():
    raise UserError(f"time: format {form!r} must state year, month and day, such as %d.%m.%Y %H:%M")


@dataclasses.dataclass(frozen=True)
class Times:
  """The times of some cells.

  Attributes:
    time_n: nanoseconds since 1970 (UTC); 0 where there is a fault.
    faults: which cells hold no time, each with its reason.
    units: the units that were recognised by the size of numbers.
  """

  time_n: Int64[np.ndarray, " n"]
  faults: tuple[tuple[Bool[np.ndarray, " n"], str], ...]
  units: frozenset[str] = frozenset()


class _CellTimes:
  """The times of n cells that are not missing: filled in by kinds of cells."""

  def __init__(self, n: int):
    self.time_n, self.malformed_n, self.outside_n = np.zeros(n, np.int64), np.zeros(n, bool), np.zeros(n, bool)
    self.units: set[str] = set()

  def put(self, where_n: Bool[np.ndarray, " n"], found: "_CellTimes") -> None:
    """Fills in the cells at `where_n`."""
    self.time_n[where_n], self.malformed_n[where_n], self.outside_n[where_n] = found.time_n, found.malformed_n, found.outside_n
    self.units |= found.units


def moments(column: TimeColumn, cells: pa.Array) -> Times:
  """The times of raw cells."""
  cells = cells_of.plain(cells)
  if cells_of.is_text(cells.type):
    cells = cells_of.text(cells)[0]
  elif pa.types.is_floating(cells.type):
    cells = cells.cast(pa.float64())
    cells = pc.if_else(pc.is_nan(cells), None, cells)
  missing_n = cells.is_null().to_numpy(zero_copy_only=False)
  all_cells = _CellTimes(len(cells))
  all_cells.put(~missing_n, _read(column, cells.drop_null()))
  bad_n = missing_n | all_cells.malformed_n | all_cells.outside_n
  faults = ((missing_n, MISSING), (all_cells.malformed_n, MALFORMED), (all_cells.outside_n, OUTSIDE))
  return Times(np.where(bad_n, 0, all_cells.time_n), faults, frozenset(all_cells.units))


def _read(column: TimeColumn, cells: pa.Array) -> _CellTimes:
  """The times of cells without nulls."""
  kind = cells.type
  if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
    return _of_timestamps(column.zone, cells)
  if column.format is not None:
    return _of_format(column.format, column.zone, cells.cast(pa.string()))
  if pa.types.is_string(kind):
    return _of_text(column, cells)
  if pa.types.is_uint64(kind):
    cells = pc.min_element_wise(cells, pa.scalar(2**63 - 1, pa.uint64()))  # a number that is no time in any unit
  return _of_numbers(column.unit, (cells if pa.types.is_floating(kind) else cells.cast(pa.int64())).to_numpy(zero_copy_only=False))


def _of_numbers(stated: str | None, number_n: np.ndarray) -> _CellTimes:
  """Times of int64 or float64 numbers. 0 is the same moment in any unit, so that no unit is recognised by it."""
  found, size_n, lower = _CellTimes(len(number_n)), np.abs(number_n), 0  # of the lowest int64 it is negative, and no unit's
  found.outside_n[:] = True
  for unit, factor in UNITS.items():
    of_unit_n = (size_n >= lower) & (size_n < _LARGEST[unit]) if stated is None else np.full(len(number_n), unit == stated)
    of_unit_n &= (number_n >= FIRST // factor) & (number_n < LAST // factor)
    number_u, lower = number_n[of_unit_n], _LARGEST[unit]
    whole_u = number_u if number_u.dtype == np.int64 else np.floor(number_u)
    found.time_n[of_unit_n] = whole_u.astype(np.int64) * factor + np.rint((number_u - whole_u) * factor).astype(np.int64)
    found.outside_n[of_unit_n] = False
    if stated is None and number_u.any():
      found.units.add(unit)
  return found


def _of_text(column: TimeColumn, words: pa.StringArray) -> _CellTimes:
  """Times of text: numbers, and ISO 8601 unless a unit is stated. What a cell is does not depend on the others."""
  found, left_n = _CellTimes(len(words)), np.ones(len(words), bool)
  for pattern, kind in ((ISO, None), (_INTEGER, pa.int64()), (cells_of.NUMBER, pa.float64())):
    if (kind is None and column.unit is not None) or not left_n.any():
      continue
    these_n = left_n & cells_of.flags(pc.match_substring_regex(words, pattern))
    these = words.filter(pa.array(these_n))
    found.put(these_n, _of_iso(these, column.zone) if kind is None else _of_numbers(column.unit, these.cast(kind).to_numpy()))
    left_n &= ~these_n
  found.malformed_n |= left_n
  return found


def _of_iso(words: pa.StringArray, zone: str) -> _CellTimes:
  """Times of text that matches `ISO`."""
  found, parts = _CellTimes(len(words)), pc.extract_regex(words, ISO)
  date, clock, offset = (pc.struct_field(parts, name) for name in ("date", "clock", "zone"))
  year_n = pc.utf8_slice_codeunits(date, 0, 4).cast(pa.int64()).to_numpy()
  found.outside_n |= (year_n < 1678) | (year_n >= 2262)
  date = pc.if_else(pa.array(found.outside_n), "1970-01-01", date)
  clock = pc.if_else(pc.equal(clock, ""), "00:00", clock)
  local = pc.binary_join_element_wise(date, clock, "T").cast(pa.timestamp("ns"))
  coded = offset.dictionary_encode()
  ahead_d = np.array([_ahead(text) for text in coded.dictionary.to_pylist()] or [0], np.int64)
  stated_n = pc.not_equal(offset, "").to_numpy(zero_copy_only=False)
  time_n, skipped_n = _placed(local, zone)
  found.time_n = np.where(stated_n, local.cast(pa.int64()).to_numpy() - ahead_d[coded.indices.to_numpy()], time_n)
  found.malformed_n |= skipped_n & ~stated_n
  return found


def _ahead(zone: str) -> int:
  """How far a zone such as +05:30 is ahead of UTC, in nanoseconds."""
  digits = zone[1:].replace(":", "")
  seconds = 3600 * int(digits[:2]) + 60 * int(digits[2:] or 0) if digits else 0
  return (-1 if zone.startswith("-") else 1) * seconds * 10**9


def _placed(local: pa.Array, zone: str) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
  """The moments of local times of a zone, and which of them the zone skips. Of two moments with one local time it is the earlier."""
  if zone == "UTC":
    return local.cast(pa.int64()).to_numpy(), np.zeros(len(local), bool)
  moment = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest")
  skipped_n = pc.not_equal(pc.local_timestamp(moment), local).to_numpy(zero_copy_only=False)
  return moment.cast(pa.int64()).to_numpy(), skipped_n


def _of_timestamps(zone: str, cells: pa.Array) -> _CellTimes:
  """Times of Parquet timestamps and dates. Those without a zone, and the midnight of dates, are local times."""
  if pa.types.is_date(cells.type):
    cells = cells.cast(pa.timestamp("s" if pa.types.is_date32(cells.type) else "ms"))
  found, factor = _CellTimes(len(cells)), UNITS[cells.type.unit]
  count_n = cells.cast(pa.int64()).to_numpy()
  found.outside_n |= (count_n < FIRST // factor) | (count_n >= LAST // factor)
  found.time_n = np.where(found.outside_n, 0, count_n) * factor
  if cells.type.tz is None:
    found.time_n, found.malformed_n = _placed(pa.array(found.time_n).cast(pa.timestamp("ns")), zone)
  return found


def _of_format(form: str, zone: str, words: pa.StringArray) -> _CellTimes:
  """Times of text by Python's `strptime`, which reads every distinct text once."""
  coded, epoch = words.dictionary_encode(), datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
  distinct = _CellTimes(len(coded.dictionary))
  local_d = np.zeros(len(coded.dictionary), bool)
  for i, text in enumerate(coded.dictionary.to_pylist()):
    try:
      read = datetime.datetime.strptime(text, form)
    except ValueError:
      distinct.malformed_n[i] = True
      continue
    local_d[i] = read.tzinfo is None
    nanoseconds = ((read.replace(tzinfo=datetime.UTC) if local_d[i] else read) - epoch) // datetime.timedelta(microseconds=1) * 1000
    distinct.outside_n[i] = not FIRST <= nanoseconds < LAST
    distinct.time_n[i] = 0 if distinct.outside_n[i] else nanoseconds
  placed_d, skipped_d = _placed(pa.array(distinct.time_n).cast(pa.timestamp("ns")), zone)
  distinct.time_n = np.where(local_d, placed_d, distinct.time_n)
  distinct.malformed_n |= local_d & skipped_d
  found, index_n = _CellTimes(len(words)), coded.indices.to_numpy()
  found.time_n, found.malformed_n, found.outside_n = (x[index_n] for x in (distinct.time_n, distinct.malformed_n, distinct.outside_n))
  return found


def feature(name: str, time_n: Int64[np.ndarray, " n"], zone: str) -> pa.Array:
  """The hour (0 to 23) or weekday (0 to 6, Monday first) of moments, in a time zone."""
  local = pa.array(time_n).cast(pa.timestamp("ns", zone))
  return pc.hour(local) if name == "hour" else pc.day_of_week(local)


def moment(text: str, zone: str) -> int | None:
  """The moment that an ISO 8601 text states, such as 2024-05-01 or 2024-05-01T18:30; None if it is none."""
  words = pa.array([text], pa.string())
  if not pc.match_substring_regex(words, ISO)[0].as_py():
    return None
  found = _of_iso(words, zone)
  return None if found.malformed_n[0] or found.outside_n[0] else int(found.time_n[0])


def iso(moment: int) -> str:
  """A moment as ISO 8601 text in UTC."""
  seconds, rest = divmod(moment, 10**9)
  text = (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)).isoformat()
  return text + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"
