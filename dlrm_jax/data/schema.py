"""The columns of a click log: which is the label, which are dense, which categorical. Read by `prepare` from a TOML file.

A schema file:

    label = "clicked"                          # 0 or 1
    categorical = ["user_id", "item_id", "age"]
    name = "my-log"                            # optional; the name of the output directory otherwise

    [dense]                                    # optional; a column may be dense and categorical at once
    age = { transform = "none", missing = 40 }
    views = {}                                 # transform = "log1p", missing = 0
"""

import dataclasses
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from dlrm_jax.flags import UserError

TRANSFORMS = ("log1p", "none")


@dataclasses.dataclass(frozen=True)
class DenseColumn:
  """A number given to the bottom MLP.

  Attributes:
    name: the column's name in the log.
    transform: "log1p" is log(1 + max(x, 0)), so negative numbers become 0; "none" keeps x.
    missing: what an empty cell becomes, after the transform.
    integer: whether text other than a decimal integer is rejected.
  """

  name: str
  transform: str = "log1p"
  missing: float = 0.0
  integer: bool = False

  def __post_init__(self) -> None:
    if self.transform not in TRANSFORMS:
      raise UserError(f"dense column '{self.name}': transform '{self.transform}' must be among {', '.join(TRANSFORMS)}")
    if not math.isfinite(self.missing):
      raise UserError(f"dense column '{self.name}': missing = {self.missing} must be a finite number")

  def apply(self, number_n: Float64[np.ndarray, " n"], missing_n: Bool[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """The column as the model sees it; numbers too large for float32 come out infinite."""
    if self.transform == "log1p":
      number_n = np.log1p(np.maximum(number_n, 0.0))
    with np.errstate(over="ignore"):
      return np.where(missing_n, self.missing, number_n).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
  """A value that is looked up in a table. Text, integers or booleans; never floats, which merge large ids.

  Attributes:
    name: the column's name in the log.
    hexadecimal: whether text other than 8 hexadecimal digits is rejected.
  """

  name: str
  hexadecimal: bool = False


@dataclasses.dataclass(frozen=True)
class Schema:
  """The columns of a click log, in the order in which the model sees them.

  Attributes:
    label: the column that holds 0 or 1.
    dense: dense columns.
    categorical: categorical columns, at least one.
    name: a name for the data set, or None.
    header: the names of all columns of files without a header line, or None where files have one.
  """

  label: str
  dense: tuple[DenseColumn, ...]
  categorical: tuple[CategoricalColumn, ...]
  name: str | None = None
  header: tuple[str, ...] | None = None

  def __post_init__(self) -> None:
    if not self.categorical:
      raise UserError("a schema needs at least one categorical column")
    for kind, names in (("dense", self.dense_names), ("categorical", self.categorical_names)):
      _refuse_repeats(names, f"a schema's {kind} columns")
      if self.label in names:
        raise UserError(f"the label column '{self.label}' cannot be a {kind} column too")

  @property
  def dense_names(self) -> tuple[str, ...]:
    return tuple(column.name for column in self.dense)

  @property
  def categorical_names(self) -> tuple[str, ...]:
    return tuple(column.name for column in self.categorical)

  @property
  def columns(self) -> tuple[str, ...]:
    """Every column that is read, once each."""
    return tuple(dict.fromkeys((self.label, *self.dense_names, *self.categorical_names)))

  def check_present(self, present: Iterable[str], path: str) -> None:
    """Raises UserError unless the columns of the file at `path` are distinct and include those of the schema."""
    present = list(present)
    _refuse_repeats(present, f"{path}: the header's columns")
    absent = [name for name in self.columns if name not in present]
    if absent:
      raise UserError(f"{path}: no column '{absent[0]}', which the schema names; the file has {', '.join(present)}")


def _refuse_repeats(names: Iterable[str], what: str) -> None:
  names = list(names)
  repeated = [name for name in names if names.count(name) > 1]
  if repeated:
    raise UserError(f"{what} must differ: '{repeated[0]}' is there twice")


def _refuse_unknown(table: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
  for key in table:
    if key not in allowed:
      raise UserError(f"{where}: unknown key '{key}'; there are {', '.join(allowed)}")


def load_schema(path: str) -> Schema:
  """Reads a schema file. Raises UserError in one line naming the file and what is wrong in it."""
  try:
    with Path(path).open("rb") as file:
      table = tomllib.load(file)
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: not valid TOML ({error})") from None
  except FileNotFoundError:
    raise UserError(f"--schema={path}: no such file") from None
  _refuse_unknown(table, ("label", "categorical", "dense", "name"), path)
  if "label" not in table:
    raise UserError(f'{path}: no label; write label = "name of the column that holds 0 or 1"')
  categorical, dense = table.get("categorical", []), table.get("dense", {})
  if not isinstance(categorical, list) or not all(isinstance(name, str) for name in categorical):
    raise UserError(f'{path}: categorical must be a list of column names, such as ["user_id", "item_id"]')
  if not isinstance(dense, dict) or not all(isinstance(options, dict) for options in dense.values()):
    raise UserError(f'{path}: dense must be a table of columns, such as [dense] and then age = {{ transform = "none" }}')
  for key in ("label", "name"):
    if not isinstance(table.get(key, ""), str):
      raise UserError(f"{path}: {key} must be text")
  for name, options in dense.items():
    _refuse_unknown(options, ("transform", "missing"), f"{path}: dense column '{name}'")
    for key, kind, what in (("transform", str, "text"), ("missing", (int, float), "a finite number")):
      if key in options and (isinstance(options[key], bool) or not isinstance(options[key], kind)):
        raise UserError(f"{path}: dense column '{name}': {key} = {options[key]!r} must be {what}")
  try:
    return Schema(
      label=table["label"],
      dense=tuple(
        DenseColumn(name, options.get("transform", "log1p"), float(options.get("missing", 0.0))) for name, options in dense.items()
      ),
      categorical=tuple(CategoricalColumn(name) for name in categorical),
      name=table.get("name"),
    )
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
