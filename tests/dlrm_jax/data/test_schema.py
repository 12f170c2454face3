"""Schemas: their files, their JSON in dataset.json, and labels that compare a column."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.label import NULL_TOKENS, OPERATORS, Label, clicks
from dlrm_jax.data.prepare.schema import CRITEO, Bag, CategoricalColumn, Cross, DenseColumn, Schema
from dlrm_jax.data.prepare.schema_json import schema_as_json, schema_from_json
from dlrm_jax.data.prepare.times import TimeColumn

NASTY = st.text(st.characters(codec="utf-8"), max_size=8) | st.text(alphabet="\"'<>=! [],\\.\n\tab9é", max_size=8)


@st.composite
def fields(draw: st.DrawFn) -> dict:
  """The fields of a schema. Classes are called in the tests, because the checks of types draw random numbers of their own."""
  names = draw(st.lists(NASTY, min_size=6, max_size=6, unique=True))
  missing = draw(st.floats(allow_nan=False, allow_infinity=False))
  two = [(names[3], (names[4],), 7), ("x" + names[3], (names[5],))]
  how = st.sampled_from([{}, {"unit": "ms"}, {"format": "%Y-%m-%d"}])
  time = draw(how) | {"zone": draw(st.sampled_from(["UTC", "Asia/Kolkata"])), "order": draw(st.booleans())}
  time |= {"column": draw(NASTY), "features": draw(st.sampled_from([(), ("hour",), ("weekday", "hour")]))}
  return {
    "label": (names[0], *draw(COMPARISONS)),
    "dense": [(names[1], draw(st.sampled_from(["log1p", "none"])), missing, draw(st.booleans()))],
    "categorical": [(names[1],), (names[2], draw(st.booleans()))],
    "name": draw(st.none() | NASTY),
    "header": draw(st.none() | st.just(tuple(names))),
    "bags": draw(st.sampled_from([[], [(names[3], (names[4], names[5]))], two])),
    "time": draw(st.none() | st.just(time)),
    "crosses": draw(st.sampled_from([[], [("y" + names[3], (names[1], names[2])), (names[0] + "z", (names[2], "hour"))]])),
  }


def build(given: dict) -> Schema:
  """A schema of these fields; Criteo's where their names meet, such as a.0 and the first id of a."""
  columns = {"dense": DenseColumn, "categorical": CategoricalColumn, "bags": Bag, "crosses": Cross}
  made = {name: tuple(columns[name](*one) for one in value) if name in columns else value for name, value in given.items()}
  try:
    return Schema(**made | {"label": Label(*given["label"]), "time": given["time"] and TimeColumn(**given["time"])})
  except UserError:  # also where a cross needs the hour, and there is no time
    return CRITEO


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
COMPARISONS = st.just(()) | st.tuples(st.sampled_from(["==", "!="]), NASTY) | st.tuples(st.sampled_from(sorted(OPERATORS)), NUMBERS)


@settings(deadline=None)
@given(fields())
def test_a_schema_comes_back_from_its_json(given):
  schema = build(given)
  entry = json.loads(json.dumps(schema_as_json(schema)))
  again = schema_from_json(entry)
  assert again == schema
  assert schema_as_json(again) == entry


def test_the_json_of_data_sets_made_before_is_read_and_stays():
  old = {
    "label": "y",
    "dense": [{"name": "a", "transform": "none", "missing": 2.0, "integer": False}],
    "categorical": [{"name": "c", "hexadecimal": False}],
    "name": None,
    "header": None,
  }
  schema = schema_from_json(old)
  assert schema == Schema(Label("y"), (DenseColumn("a", "none", 2.0),), (CategoricalColumn("c"),))
  assert schema_as_json(schema) == old
  assert list(schema_as_json(CRITEO)) == ["label", "dense", "categorical", "name", "header", "delimiter", "quotes"]
  assert schema_as_json(CRITEO)["label"] == "label"


@pytest.mark.parametrize("change", [{"colour": 1}, {"dense": [{"nam": "a"}]}, {"dense": 3}, {"label": 3}])
def test_other_json_is_refused_in_one_line(change):
  with pytest.raises(UserError, match="the data set's schema was not made by") as error:
    schema_from_json(schema_as_json(CRITEO) | change)
  assert "\n" not in str(error.value)


@settings(deadline=None)
@given(NASTY, COMPARISONS)
def test_a_label_comes_back_from_its_text(column, comparison):
  label = Label(column, *comparison)
  assert Label.parse(label.text) == label


@pytest.mark.parametrize(
  ("text", "label"),
  [
    ("clicked", Label("clicked")),
    ("is it a click?", Label("is it a click?")),
    ("it's", Label("it's")),
    ("delay > 15", Label("delay", ">", 15)),
    ("delay>=-1.5e1", Label("delay", ">=", -15.0)),
    (" arrival delay <= .5 ", Label("arrival delay", "<=", 0.5)),
    ("bought==1", Label("bought", "==", 1)),
    ("x!=3", Label("x", "!=", 3)),
    ('status == "paid"', Label("status", "==", "paid")),
    ("status != 'it''s'", Label("status", "!=", "it's")),
    ('"a > b" < 3', Label("a > b", "<", 3)),
    ('"say ""x""" == "a""b=c"', Label('say "x"', "==", 'a"b=c')),
    ('"a > b"', Label("a > b")),
    ("price[usd] > 10", Label("price[usd]", ">", 10)),
    ('seen != ""', Label("seen", "!=", "")),
  ],
)
def test_labels_are_read(text, label):
  assert Label.parse(text) == label


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("delay = 15", "must be a column, or a column compared by one of >=, <=, ==, !=, >, <"),
    ("delay > ", "'' must be a number, or text in quotes"),
    ("status == paid", "'paid' must be a number, or text in quotes"),
    ("delay > nan", "'nan' must be a number"),
    ("delay > 1e999", "'1e999' must be a number"),
    ("delay > 1_0", "'1_0' must be a number"),
    ("15 < delay < 30", "must be a column, or"),
    ("> 3", "must be a column, or"),
    ('grade >= "B"', "text is compared by == or !="),
  ],
)
def test_labels_that_are_refused(text, message):
  with pytest.raises(UserError, match=message) as error:
    Label.parse(text)
  assert "\n" not in str(error.value)


WORDS = ["0", "1", "1.0", "-0", "01", "2", "15", "15.5", "-3e1", "true", "TRUE", "False", "Yes", "no", "paid", "x", "+1", "0x1"]
CELLS = st.sampled_from([*WORDS, "", "NO ", *NULL_TOKENS])


def judged(label: Label, cell: str) -> bool | str:
  """Whether one text cell is a click, or why it is rejected."""
  if cell in ("", *NULL_TOKENS) and cell != label.value:
    return "label is missing"
  if isinstance(label.value, str):
    return (cell == label.value) == (label.operator == "==")
  if label.operator is None and cell.lower() in ("true", "yes", "false", "no"):
    return cell.lower() in ("true", "yes")
  number = None if cell in ("+1", "0x1") or cell.strip() != cell or cell[-1:].isalpha() else float(cell)
  if label.operator is None:
    return number == 1 if number in (0, 1) else "label is not 0 or 1"
  return "label is not a number" if number is None else bool(OPERATORS[label.operator](number, label.value))


def outcomes(label: Label, cells: pa.Array) -> list[bool | str]:
  click_n, faults = clicks(label, cells, strict=False)
  return [next((reason for bad_n, reason in faults if bad_n[i]), bool(click_n[i])) for i in range(len(cells))]


@settings(deadline=None, max_examples=200)
@given(
  st.sampled_from(
    [Label("y"), Label("y", "==", "paid"), Label("y", "!=", "NA"), Label("y", "!=", ""), Label("y", "==", "15")]
    + [Label("y", name, value) for name in OPERATORS for value in (15, 0.0)]
  ),
  st.lists(CELLS, max_size=12),
  st.booleans(),
)
def test_labels_of_text_cells(label, cells, encoded):
  column = pa.array([cell or None for cell in cells], pa.string())
  column = column.dictionary_encode() if encoded else column
  assert outcomes(label, column) == [judged(label, cell) for cell in cells]


def test_labels_of_columns_that_are_not_text():
  assert outcomes(Label("y"), pa.array([True, False, None])) == [True, False, "label is missing"]
  assert outcomes(Label("y", "==", "true"), pa.array([True, False, None])) == [True, False, "label is missing"]
  numbers = pa.array([1.0, 0.0, math.nan, math.inf, None, 0.5])
  assert outcomes(Label("y"), numbers) == [
    True,
    False,
    "label is missing",
    "label is not 0 or 1",
    "label is missing",
    "label is not 0 or 1",
  ]
  assert outcomes(Label("y", ">", 0.5), numbers) == [True, False, "label is missing", True, "label is missing", False]
  assert outcomes(Label("y", "<=", 0.5), numbers)[2] == "label is missing"  # NaN <= 0.5 is False, which is no label
  assert outcomes(Label("y", ">=", 3), pa.array([2, 3, None], pa.int16())) == [False, True, "label is missing"]
  assert outcomes(Label("y", "!=", "7"), pa.array([7, 8, None], pa.uint64())) == [False, True, "label is missing"]


def test_criteo_labels_stay_strict():
  click_n, faults = clicks(CRITEO.label, pa.array(["0", "1", "1.0", "true", None, "NA"]), CRITEO.strict)
  assert np.flatnonzero(~np.any([bad_n for bad_n, _ in faults], axis=0)).tolist() == [0, 1]
  assert click_n[:2].tolist() == [False, True]
