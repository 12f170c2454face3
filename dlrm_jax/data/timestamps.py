"""Recognises time stamps among the numbers of a column: Unix times, and dates written as digits. Called by `prepare`, for its warnings."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64

_FIRST, _END = 946_684_800, 4_102_444_800  # Unix seconds of the years 2000 to 2099
_UNITS = {"Unix seconds": 1, "Unix milliseconds": 10**3, "Unix microseconds": 10**6, "Unix nanoseconds": 10**9}
_NEARLY_ALL = 0.99  # of the numbers: a few may mark something else, such as 0 for unknown


def _is_day(day_n: Int64[np.ndarray, " n"], first: int, last: int) -> Bool[np.ndarray, " n"]:
  """Which numbers are a year from `first` to `last`, a month and a day in digits."""
  year_n, month_n, date_n = day_n // 10_000, day_n // 100 % 100, day_n % 100
  return (year_n >= first) & (year_n <= last) & (month_n >= 1) & (month_n <= 12) & (date_n >= 1) & (date_n <= 31)


def _is_clock(clock_n: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
  return (clock_n // 10_000 < 24) & (clock_n // 100 % 100 < 60) & (clock_n % 100 < 60)


_DIGITS: dict[str, Callable[[Int64[np.ndarray, " n"]], Bool[np.ndarray, " n"]]] = {
  "dates as YYYYMMDD": lambda n: _is_day(n, 1900, 2100),
  "hours as YYYYMMDDHH": lambda n: _is_day(n // 100, 1900, 2100) & (n % 100 < 24),
  "hours as YYMMDDHH": lambda n: _is_day(n // 100, 1, 99) & (n % 100 < 24),
  "times as YYYYMMDDHHMMSS": lambda n: _is_day(n // 1_000_000, 1900, 2100) & _is_clock(n % 1_000_000),
}


def kind_of_time(number_n: Float64[np.ndarray, " n"]) -> str | None:
  """The kind of time stamps that nearly all of these numbers are, or None.

  Numbers that are no times are taken for dates as digits by chance alone, once in 27 numbers at most. All of them are such numbers only if
  they are few.
  """
  if not len(number_n):
    return None
  least = _NEARLY_ALL * len(number_n)
  inside_n = np.abs(number_n) < 2**62
  whole_n = np.where(inside_n, number_n, 0.0).astype(np.int64)
  if np.count_nonzero(inside_n & (whole_n == number_n)) >= least:
    for kind, matches in _DIGITS.items():
      if np.count_nonzero(inside_n & matches(whole_n)) >= least:
        return kind
  for kind, unit in _UNITS.items():
    if np.count_nonzero((number_n >= _FIRST * unit) & (number_n < _END * unit)) >= least:
      return kind
  return None
