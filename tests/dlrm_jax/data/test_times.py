"""The time column against Python's datetime: cells of every kind as moments, hours and weekdays, and what is refused."""

import datetime
import re
import zoneinfo
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import times
from dlrm_jax.data.prepare.times import MALFORMED, MISSING, OUTSIDE, TimeColumn, feature, iso, moment, moments

UTC = datetime.UTC
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
FIRST, END = datetime.datetime(1678, 1, 1, tzinfo=UTC), datetime.datetime(2262, 1, 1, tzinfo=UTC)
STAMPS = st.datetimes(datetime.datetime(1678, 1, 2), datetime.datetime(2261, 12, 30))
LOCAL = st.datetimes(datetime.datetime(1902, 1, 1), datetime.datetime(2037, 12, 30))  # Arrow's zones have no summer time after 2037
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]


def nanoseconds(stamp: datetime.datetime) -> int:
  """Of a stamp with a zone, by whole numbers."""
  return (stamp - EPOCH) // datetime.timedelta(microseconds=1) * 1000


def outcomes(column: TimeColumn, cells: pa.Array) -> list[int | str]:
  """The moment of each cell, or why it has none."""
  found = moments(column, cells)
  assert all(not found.time_n[bad_n].any() for bad_n, _ in found.faults)
  return [next((reason for bad_n, reason in found.faults if bad_n[i]), int(found.time_n[i])) for i in range(len(cells))]


def in_zone(stamp: datetime.datetime, zone: str) -> int | str:
  """The moment of a local time: the earlier one of two; none if the zone skips it."""
  local = stamp.replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=0)
  there = local.astimezone(UTC).astimezone(zoneinfo.ZoneInfo(zone)).replace(tzinfo=None) == stamp
  return nanoseconds(local) if there else MALFORMED


FAR = [
  datetime.datetime(1678, 1, 1),
  datetime.datetime(1700, 2, 28, 23),
  datetime.datetime(2100, 3, 1),
  datetime.datetime(2261, 12, 31, 23, 59),
]
# A leap day, the last second of a year, before 1970, and around changes of the clock in Berlin, New York and Lord Howe (half an hour).
TRICKY = [
  datetime.datetime(2024, 2, 29, 23, 59, 59, 999999),
  datetime.datetime(1999, 12, 31, 23, 59, 59),
  datetime.datetime(1969, 12, 31, 23, 59, 59, 1),
  *(datetime.datetime(2024, 3, 31, 1, 30) + datetime.timedelta(minutes=30 * i) for i in range(4)),
  *(datetime.datetime(2024, 10, 27, 1, 30) + datetime.timedelta(minutes=30 * i) for i in range(4)),
  *(datetime.datetime(2024, 3, 10, 1, 30) + datetime.timedelta(minutes=30 * i) for i in range(4)),
  *(datetime.datetime(2024, 11, 3, 0, 30) + datetime.timedelta(minutes=30 * i) for i in range(4)),
  *(datetime.datetime(2024, 10, 6, 1, 45) + datetime.timedelta(minutes=15 * i) for i in range(5)),
]


@settings(deadline=None)
@given(st.lists(LOCAL, min_size=1, max_size=20), st.sampled_from(ZONES))
@example(TRICKY, "Europe/Berlin")
@example(TRICKY, "America/New_York")
@example(TRICKY, "Australia/Lord_Howe")
@example(FAR, "UTC")
def test_text_and_timestamps_are_local_times_of_the_zone(stamps, zone):
  expected = [in_zone(stamp, zone) for stamp in stamps]
  assert outcomes(TimeColumn("t", zone=zone), pa.array([stamp.isoformat() for stamp in stamps])) == expected
  assert outcomes(TimeColumn("t", zone=zone), pa.array([stamp.isoformat(" ") for stamp in stamps])) == expected
  assert outcomes(TimeColumn("t", zone=zone), pa.array(stamps, pa.timestamp("us"))) == expected
  form = "%d.%m.%Y %H-%M-%S.%f"
  assert outcomes(TimeColumn("t", zone=zone, format=form), pa.array([stamp.strftime(form) for stamp in stamps])) == expected
  with_zone = [stamp.replace(tzinfo=UTC) for stamp in stamps]
  expected = [nanoseconds(stamp) for stamp in with_zone]
  assert outcomes(TimeColumn("t", zone=zone), pa.array(with_zone, pa.timestamp("us", "Asia/Tokyo"))) == expected
  assert outcomes(TimeColumn("t", zone=zone), pa.array([stamp.isoformat() for stamp in with_zone])) == expected


@settings(deadline=None)
@given(st.lists(LOCAL, min_size=1, max_size=20), st.sampled_from(ZONES))
@example(TRICKY, "Europe/Berlin")
@example(TRICKY, "Australia/Lord_Howe")
@example(FAR, "UTC")
def test_hours_and_weekdays_are_those_of_the_zone(stamps, zone):
  with_zone = [stamp.replace(tzinfo=UTC) for stamp in stamps]
  time_n = np.array([nanoseconds(stamp) for stamp in with_zone])
  local = [stamp.astimezone(zoneinfo.ZoneInfo(zone)) for stamp in with_zone]
  assert feature("hour", time_n, zone).to_pylist() == [stamp.hour for stamp in local]
  assert feature("weekday", time_n, zone).to_pylist() == [stamp.weekday() for stamp in local]


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("2024-05-01", datetime.datetime(2024, 5, 1, tzinfo=UTC)),
    ("2024-05-01T18:30", datetime.datetime(2024, 5, 1, 18, 30, tzinfo=UTC)),
    ("2024-05-01 18:30:07.25", datetime.datetime(2024, 5, 1, 18, 30, 7, 250_000, tzinfo=UTC)),
    ("2024-05-01T18:30:00Z", datetime.datetime(2024, 5, 1, 18, 30, tzinfo=UTC)),
    ("2024-05-01 18:30:00+00", datetime.datetime(2024, 5, 1, 18, 30, tzinfo=UTC)),
    ("2024-05-01T18:30:00+05:30", datetime.datetime(2024, 5, 1, 13, 0, tzinfo=UTC)),
    ("2024-05-01T18:30:00-0800", datetime.datetime(2024, 5, 2, 2, 30, tzinfo=UTC)),
    ("2024-05-01 18:30:00 +0100", datetime.datetime(2024, 5, 1, 17, 30, tzinfo=UTC)),
    ("1900-02-28", datetime.datetime(1900, 2, 28, tzinfo=UTC)),
    ("2000-02-29", datetime.datetime(2000, 2, 29, tzinfo=UTC)),
    ("1714588200", datetime.datetime(2024, 5, 1, 18, 30, tzinfo=UTC)),
    ("1714588200.5", datetime.datetime(2024, 5, 1, 18, 30, 0, 500_000, tzinfo=UTC)),
    ("1.7145882e9", datetime.datetime(2024, 5, 1, 18, 30, tzinfo=UTC)),
    ("1714588200250", datetime.datetime(2024, 5, 1, 18, 30, 0, 250_000, tzinfo=UTC)),
    ("1714588200000001", datetime.datetime(2024, 5, 1, 18, 30, 0, 1, tzinfo=UTC)),
    ("1714588200000001000", datetime.datetime(2024, 5, 1, 18, 30, 0, 1, tzinfo=UTC)),
    ("-1", datetime.datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ("0", EPOCH),
    ("1677-12-31", OUTSIDE),
    ("2262-01-01", OUTSIDE),
    ("0000-01-01", OUTSIDE),
    ("9999-12-31T23:59:59Z", OUTSIDE),
    ("9300000000000000000", OUTSIDE),
    ("1e300", OUTSIDE),
    ("", MISSING),
    *((text, MALFORMED) for text in ["2023-02-29", "1900-02-29", "2100-02-29", "2024-04-31", "2024-13-01", "2024-00-10", "2024-01-00"]),
    *((text, MALFORMED) for text in ["2024-05-01T24:00", "2024-05-01T23:60", "2024-05-01T23:59:60", "2024-5-1", "24-05-01", "2024-05-01T"]),
    *(
      (text, MALFORMED)
      for text in ["2024-05-01\n", " 2024-05-01", "2024-05-01x", "+1714588200", "nan", "NA", "noon", "2024-05-01T18:30+1", "٢٠٢٤-05-01"]
    ),
  ],
)
def test_cells_of_text(text, expected):
  """Every cell also beside others of other kinds, which change nothing."""
  expected = nanoseconds(expected) if isinstance(expected, datetime.datetime) else expected
  assert outcomes(TimeColumn("t"), pa.array([text])) == [expected]
  beside = pa.array(["2024-05-01", text, None, "bad", "1714588200", "1714588200.25"]).dictionary_encode()
  assert outcomes(TimeColumn("t"), beside)[1] == expected


KIND = r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"


@settings(deadline=None)
@given(st.text(alphabet="0123456789-:TZ +.", max_size=26) | st.from_regex(rf"\A{KIND}\Z"))
def test_iso_texts_are_those_that_python_reads(text):
  """Python reads more kinds of ISO 8601; of the kinds that are documented, each text is accepted by both or by none."""
  if not re.fullmatch(KIND, text, re.ASCII):
    assert moment(text, "UTC") is None or re.search(r"[0-9] [Z+-]|\.[0-9]{7,9}", text)
    return
  try:
    stamp = datetime.datetime.fromisoformat(text.replace("T24", "Tx").replace(" 24", " x"))  # Python 3.13 reads the hour 24
    stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
    expected = nanoseconds(stamp) if FIRST.replace(tzinfo=None) <= stamp.replace(tzinfo=None) < END.replace(tzinfo=None) else None
  except ValueError:
    expected = None
  assert moment(text, "UTC") == expected


@settings(deadline=None)
@given(
  st.sampled_from(sorted(times.UNITS)),
  st.lists(STAMPS.filter(lambda s: s.year < 1966 or s.year > 1973), min_size=1, max_size=20),
  st.sampled_from([pa.int64(), pa.float64()]),
)
def test_numbers_are_recognised_by_their_size_or_read_as_stated(unit, stamps, kind):
  counts = [nanoseconds(stamp.replace(tzinfo=UTC)) // times.UNITS[unit] for stamp in stamps]
  numbers = pa.array([float(count) if kind == pa.float64() else count for count in counts], kind)
  expected = [round(Fraction(count) * times.UNITS[unit]) for count in numbers.to_pylist()]
  found = moments(TimeColumn("t"), numbers)
  assert found.time_n.tolist() == expected
  assert found.units == {unit}
  found = moments(TimeColumn("t", unit=unit), numbers)
  assert (found.time_n.tolist(), found.units) == (expected, frozenset())
  if kind == pa.int64():
    assert outcomes(TimeColumn("t"), pa.array([str(count) for count in counts])) == expected
    if min(counts) >= 0:
      assert outcomes(TimeColumn("t"), numbers.cast(pa.uint64())) == expected


@settings(deadline=None)
@given(st.lists(st.floats(-9e9, 9e9), min_size=1, max_size=20))
def test_float_seconds(seconds):
  """To a nanosecond: the fraction of a second is rounded once."""
  found = moments(TimeColumn("t", unit="s"), pa.array(seconds, pa.float64()))
  for time, second in zip(found.time_n.tolist(), seconds):
    assert abs(time - Fraction(second) * 10**9) <= Fraction(1, 2) + Fraction(1, 1000)
  ascending = np.argsort(seconds, kind="stable")
  assert found.time_n[ascending].tolist() == sorted(found.time_n.tolist())


def test_numbers_outside_of_all_times():
  inf, nan = float("inf"), float("nan")
  assert outcomes(TimeColumn("t"), pa.array([inf, -inf, nan, None, 1e19])) == [OUTSIDE, OUTSIDE, MISSING, MISSING, OUTSIDE]
  assert outcomes(TimeColumn("t"), pa.array([2**64 - 1, None, 5], pa.uint64())) == [OUTSIDE, MISSING, 5 * 10**9]
  assert outcomes(TimeColumn("t"), pa.array([-(2**63), 2**63 - 1], pa.int64())) == [OUTSIDE, OUTSIDE]
  assert outcomes(TimeColumn("t", unit="s"), pa.array([1714588200000, 2**63 - 1])) == [OUTSIDE, OUTSIDE]  # these are ms
  assert outcomes(TimeColumn("t", unit="ms"), pa.array(["2024-05-01", "1714588200000"])) == [MALFORMED, 1714588200 * 10**9]
  assert outcomes(TimeColumn("t"), pa.array([5, 2**31 - 1], pa.int32())) == [5 * 10**9, (2**31 - 1) * 10**9]


def test_the_sizes_at_which_units_change():
  """Every unit is recognised from March 1973 on, and before as the larger one."""
  numbers = [10**11 - 1, 10**11, 10**14 - 1, 10**14, 10**17 - 1, 10**17]
  expected = [OUTSIDE, 10**17, OUTSIDE, 10**17, OUTSIDE, 10**17]
  assert outcomes(TimeColumn("t"), pa.array(numbers)) == expected
  assert outcomes(TimeColumn("t"), pa.array([str(number) for number in numbers])) == expected
  assert outcomes(TimeColumn("t"), pa.array([-number for number in numbers])) == [e if e == OUTSIDE else -e for e in expected]


def test_mixed_units_are_found():
  assert moments(TimeColumn("t"), pa.array([0, 1714588200, 1714588200000])).units == {"s", "ms"}
  assert moments(TimeColumn("t"), pa.array([0, 1714588200000])).units == {"ms"}
  assert moments(TimeColumn("t"), pa.array(["1714588200", "1714588200000.5"])).units == {"s", "ms"}


def test_parquet_dates_and_timestamps_of_every_unit():
  stamp = datetime.datetime(2024, 5, 1, 18, 30, tzinfo=UTC)
  for unit in times.UNITS:
    assert outcomes(TimeColumn("t"), pa.array([stamp, None]).cast(pa.timestamp(unit))) == [nanoseconds(stamp), MISSING]
  days = [datetime.date(2024, 2, 29), datetime.date(1600, 1, 1), None, datetime.date(1969, 12, 31)]
  expected = [nanoseconds(datetime.datetime(2024, 2, 29, tzinfo=UTC)), OUTSIDE, MISSING, -86400 * 10**9]
  for kind in (pa.date32(), pa.date64()):
    assert outcomes(TimeColumn("t"), pa.array(days, kind)) == expected
  assert outcomes(TimeColumn("t"), pa.array([1714588200123456789], pa.timestamp("ns"))) == [1714588200123456789]
  assert outcomes(TimeColumn("t"), pa.array([2**62], pa.timestamp("s"))) == [OUTSIDE]


def test_formats():
  assert outcomes(TimeColumn("t", format="%Y%m%d"), pa.array([20240501, 20230229, None])) == [
    nanoseconds(datetime.datetime(2024, 5, 1, tzinfo=UTC)),
    MALFORMED,
    MISSING,
  ]
  found = outcomes(TimeColumn("t", format="%d %b %Y %I:%M %p %z", zone="Asia/Kolkata"), pa.array(["01 May 2024 06:30 PM +0200", "x", ""]))
  assert found == [nanoseconds(datetime.datetime(2024, 5, 1, 16, 30, tzinfo=UTC)), MALFORMED, MISSING]
  assert outcomes(TimeColumn("t", format="%Y-%m-%d"), pa.array(["1600-01-01", "9999-12-31", "2024-05-01"]))[:2] == [OUTSIDE, OUTSIDE]


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"unit": "min"}, "time: unit 'min' must be among s, ms, us, ns"),
    ({"zone": "Europe/Atlantis"}, "time: zone 'Europe/Atlantis' must be a name that this system knows"),
    ({"features": ("day",)}, "time: feature 'day' must be among hour, weekday"),
    ({"features": ("hour", "hour")}, "time: features must differ"),
    ({"unit": "s", "format": "%Y-%m-%d"}, "state one of them"),
    ({"format": "%H:%M"}, "must state year, month and day"),
    ({"format": "%d/%m"}, "must state year, month and day"),
    ({"format": "%Q"}, "must be one of Python's strptime"),
    ({"format": "YYYY-MM-DD"}, "must state year, month and day"),
  ],
)
def test_time_columns_that_are_refused(fields, message):
  with pytest.raises(UserError, match=message) as error:
    TimeColumn("t", **fields)
  assert "\n" not in str(error.value)


def test_moments_are_shown_as_iso():
  for text in ("1970-01-01T00:00:00Z", "2024-05-01T18:30:00.000000001Z", "1969-12-31T23:59:59.5Z", "1678-01-01T00:00:00Z"):
    assert iso(moment(text, "UTC")) == text
  assert moment("2024-05-01", "Europe/Berlin") == nanoseconds(datetime.datetime(2024, 4, 30, 22, tzinfo=UTC))
  assert moment("2024-03-31T02:30", "Europe/Berlin") is None  # skipped
  assert moment("1714588200", "UTC") is None
