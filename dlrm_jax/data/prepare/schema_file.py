"""Reads a schema from a TOML file. Called by `program`.

label = "clicked"                          # 0 or 1, true or false, yes or no; or a comparison: "delay > 15", 'status == "paid"'
categorical = ["user_id", "item_id", "age"]
name = "my-log"                            # optional; the name of the output directory otherwise
null = ["NA", "NULL"]                      # optional; texts that mean a missing value, besides the empty one (labels: NULL_TOKENS, too)
delimiter = ";"                            # optional; of text files; a comma by default
header = ["clicked", "user_id", ...]       # optional; the names of all columns of text files without a header line
quotes = false                             # optional; a quote in a text file is a character like others
weight = "times_seen"                      # optional; a column of numbers from 0 on: how much each row counts in training and metrics

[dense]                                    # optional; a column may be dense and categorical at once
age = { missing = 40, bins = 16 }          # all options: dense.py
views = {}

[bags]                                     # optional; features of several values, which follow those of `categorical`
genres = ["genre_1", "genre_2", "genre_3"] # columns that share one vocabulary
tags = { column = "tags", length = 5 }     # a list column (Parquet): the first 5 values of each list

[time]                                     # optional; no input of the model
column = "ts"                              # Parquet timestamps or dates; numbers since 1970; ISO 8601; or a strptime `format` = "%d.%m.%Y"
unit = "ms"                                # of numbers: s, ms, us, ns; by default it is recognised by their size
zone = "Europe/Berlin"                     # of times that state none, and of hours and weekdays; UTC by default
order = true                               # whether rows are sorted by it; false by default
features = ["hour", "weekday"]             # categorical features, after those of `categorical`; none by default

[crosses]                                  # optional; features whose value is a pair of values, after those of [time]
user_hour = ["user_id", "hour"]

The tables of keys below say which keys there are and what a value may be. A key has the name of a field of `schema`'s dataclasses, whose
defaults hold where it is left out and which check what a kind cannot.
"""

import dataclasses
import math
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import inputs
from dlrm_jax.data.prepare.dense import DenseColumn
from dlrm_jax.data.prepare.label import Label
from dlrm_jax.data.prepare.schema import Bag, CategoricalColumn, Cross, Schema
from dlrm_jax.data.prepare.times import TimeColumn


@dataclasses.dataclass(frozen=True)
class Kind:
  """What the value of a key may be. `what` completes the sentence "KEY must be"."""

  what: str
  fits: Callable[[Any], bool]


def _is_names(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Kind("text", lambda value: isinstance(value, str))
NUMBER = Kind("a finite number", _is_number)
COUNT = Kind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
YES = Kind("true or false", lambda value: isinstance(value, bool))
NAMES = Kind('a list of column names, such as ["user_id", "item_id"]', _is_names)
COLUMNS = Kind(
  'a table of columns, such as [dense] and then age = { transform = "none" }',
  lambda value: isinstance(value, dict) and all(isinstance(options, dict) for options in value.values()),
)
FEATURES = Kind(
  'a table of features, such as [bags] and then genres = ["genre_1", "genre_2"]',
  lambda value: isinstance(value, dict),
)

TABLE = Kind('a table, such as [time] and then column = "ts"', lambda value: isinstance(value, dict))
PAIRS = Kind(
  'a table of features, such as [crosses] and then user_hour = ["user_id", "hour"]',
  lambda value: isinstance(value, dict) and all(_is_names(names) for names in value.values()),
)
TOKENS = Kind('a list of texts that mean a missing value, such as ["NA", "NULL"]', _is_names)
HEADER = Kind("a list of the names of all columns, for text files without a header line", _is_names)

KEYS = {"label": TEXT, "categorical": NAMES, "dense": COLUMNS, "bags": FEATURES, "name": TEXT, "time": TABLE, "crosses": PAIRS}
KEYS |= {"delimiter": TEXT, "header": HEADER, "quotes": YES, "null": TOKENS, "weight": TEXT}
DENSE = {"transform": TEXT, "missing": NUMBER, "indicator": YES, "bins": COUNT}
TIME = {"column": TEXT, "unit": TEXT, "format": TEXT, "zone": TEXT, "order": YES, "features": NAMES}


def checked(table: Mapping[str, Any], keys: Mapping[str, Kind], where: str) -> Mapping[str, Any]:
  """Returns `table`. Raises UserError if it has a key that is not in `keys`, or a value that does not fit its kind."""
  for key, value in table.items():
    if key not in keys:
      raise UserError(f"{where}unknown key '{key}'; there are {', '.join(keys)}")
    if not keys[key].fits(value):
      shown = key if isinstance(value, list | dict) else f"{key} = {value!r}"
      raise UserError(f"{where}{shown} must be {keys[key].what}")
  return table


def _dense(name: str, options: dict[str, Any]) -> DenseColumn:
  return DenseColumn(name, **checked(options, DENSE, f"dense column '{name}': "))


def _bag(name: str, entry: Any) -> Bag:
  """A bag from its entry in the file, which is a list of columns, or a table with a list column and a length."""
  if isinstance(entry, dict):
    for key in entry:
      if key not in ("column", "length"):
        raise UserError(f"bag '{name}': unknown key '{key}'; there are column, length")
    column, length = entry.get("column"), entry.get("length")
    if isinstance(column, str) and isinstance(length, int) and not isinstance(length, bool):
      return Bag(name, (column,), length)
  elif _is_names(entry):
    return Bag(name, tuple(entry))
  raise UserError(f"bag '{name}' must be a list of column names, or {{ column = \"name\", length = 5 }} for a list column")


def _time(options: dict[str, Any]) -> TimeColumn:
  checked(options, TIME, "time: ")
  if "column" not in options:
    raise UserError('time: no column; write column = "name of the column with the time of a row"')
  return TimeColumn(**options | {"features": tuple(options.get("features", ()))})


def _schema(table: dict[str, Any]) -> Schema:
  checked(table, KEYS, "")
  if "label" not in table:
    raise UserError('no label; write label = "name of the column that holds 0 or 1", or a comparison such as label = "delay > 15"')
  return Schema(
    label=Label.parse(table["label"]),
    dense=tuple(_dense(name, options) for name, options in table.get("dense", {}).items()),
    categorical=tuple(CategoricalColumn(name) for name in table.get("categorical", [])),
    name=table.get("name"),
    bags=tuple(_bag(name, entry) for name, entry in table.get("bags", {}).items()),
    time=_time(table["time"]) if "time" in table else None,
    crosses=tuple(Cross(name, tuple(columns)) for name, columns in table.get("crosses", {}).items()),
    header=tuple(table["header"]) if "header" in table else None,
    delimiter=table.get("delimiter", ","),
    quotes=table.get("quotes", True),
    weight=table.get("weight"),
    null=tuple(dict.fromkeys(token for token in table.get("null", []) if token)),
  )


def load_schema(path: str) -> Schema:
  """Reads a schema file. Raises UserError in one line that names the file and the fault."""
  try:
    with inputs.open_stream(path, "schema") as file:
      table = tomllib.load(file)
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: not valid TOML ({error})") from None
  try:
    return _schema(table)
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
