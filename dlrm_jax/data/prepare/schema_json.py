"""A schema as it is in dataset.json, and a schema from there, for programs that read new rows as those of a data set were read."""

import dataclasses
import json
from typing import Any

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.dense import DenseColumn
from dlrm_jax.data.prepare.label import Label
from dlrm_jax.data.prepare.schema import CRITEO, Bag, CategoricalColumn, Cross, Schema
from dlrm_jax.data.prepare.times import TimeColumn

# The fields that the first data sets have. Later ones are left out at their default.
_ALWAYS = ("label", "dense", "categorical", "name", "header")
_WITH_HEADER = ("delimiter", "quotes")  # these stay, because in the first data sets a header without them was Criteo's
_LATER = ("indicator", "bins")  # of a dense column
# The fields that hold several of a dataclass.
_COLUMNS: dict[str, type] = {"dense": DenseColumn, "categorical": CategoricalColumn, "bags": Bag, "crosses": Cross}


def schema_as_json(schema: Schema) -> dict[str, Any]:
  """A schema as JSON, from which `schema_from_json` makes an equal one. The label is text, as in a schema file."""
  assert schema.label is not None
  out = json.loads(json.dumps(dataclasses.asdict(schema) | {"label": schema.label.text}))
  out["dense"] = [{key: value for key, value in column.items() if value is not None or key not in _LATER} for column in out["dense"]]
  defaults = {field.name: field.default for field in dataclasses.fields(schema)}
  always = _ALWAYS if schema.header is None else _ALWAYS + _WITH_HEADER
  return {name: value for name, value in out.items() if name in always or getattr(schema, name) != defaults[name]}


def schema_from_json(entry: dict[str, Any]) -> Schema:
  """The schema of a data set, from the entry `schema` of its dataset.json.

  Fields that are not there have their default, as in data sets of earlier versions. Raises UserError if it has other fields.
  """
  if entry.get("header") is not None and "delimiter" not in entry and "quotes" not in entry:
    entry = entry | {"delimiter": CRITEO.delimiter, "quotes": CRITEO.quotes}  # only Criteo's logs had a header then
  try:
    fields = {name: _value(name, value) for name, value in entry.items()}
    return Schema(**fields)
  except (TypeError, AttributeError, KeyError) as error:
    why = str(error).partition("\n")[0]
    raise UserError(f"the data set's schema was not made by this version of dlrm_jax.data.prepare, nor an earlier one ({why})") from None


def _value(name: str, value: Any) -> Any:
  """The value of a field of `Schema`."""
  if name == "label":
    return Label.parse(value)
  if name in _COLUMNS:
    return tuple(_COLUMNS[name](**{key: _tuples(one) for key, one in column.items()}) for column in value)
  if name == "time" and value is not None:
    return TimeColumn(**{key: _tuples(one) for key, one in value.items()})
  return _tuples(value)


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
