"""Reads a schema from a TOML file. Called by `program`.

label = "clicked"                          # 0 or 1
categorical = ["user_id", "item_id", "age"]
name = "my-log"                            # optional; the name of the output directory otherwise

[dense]                                    # optional; a column may be dense and categorical at once
age = { transform = "none", missing = 40 }
views = {}                                 # transform = "log1p", missing = 0

[bags]                                     # optional; features of several values, which follow those of `categorical`
genres = ["genre_1", "genre_2", "genre_3"] # columns that share one vocabulary
tags = { column = "tags", length = 5 }     # a list column (Parquet): the first 5 values of each list
"""

import tomllib
from pathlib import Path
from typing import Any

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare.schema import Bag, CategoricalColumn, DenseColumn, Schema


def _refuse_unknown(table: dict[str, Any], allowed: tuple[str, ...], where: str) -> None:
  for key in table:
    if key not in allowed:
      raise UserError(f"{where}: unknown key '{key}'; there are {', '.join(allowed)}")


def _bag(name: str, entry: Any) -> Bag:
  """A bag from its entry in the file, which is a list of columns, or a table with a list column and a length."""
  if isinstance(entry, dict):
    _refuse_unknown(entry, ("column", "length"), f"bag '{name}'")
    column, length = entry.get("column"), entry.get("length")
    if isinstance(column, str) and isinstance(length, int) and not isinstance(length, bool):
      return Bag(name, (column,), length)
  elif isinstance(entry, list) and all(isinstance(column, str) for column in entry):
    return Bag(name, tuple(entry))
  raise UserError(f"bag '{name}' must be a list of column names, or {{ column = \"name\", length = 5 }} for a list column")


def load_schema(path: str) -> Schema:
  """Reads a schema file. Raises UserError in one line that names the file and the fault."""
  try:
    with Path(path).open("rb") as file:
      table = tomllib.load(file)
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: not valid TOML ({error})") from None
  except FileNotFoundError:
    raise UserError(f"--schema={path}: no such file") from None
  _refuse_unknown(table, ("label", "categorical", "dense", "bags", "name"), path)
  if "label" not in table:
    raise UserError(f'{path}: no label; write label = "name of the column that holds 0 or 1"')
  categorical, dense, bags = table.get("categorical", []), table.get("dense", {}), table.get("bags", {})
  if not isinstance(categorical, list) or not all(isinstance(name, str) for name in categorical):
    raise UserError(f'{path}: categorical must be a list of column names, such as ["user_id", "item_id"]')
  if not isinstance(dense, dict) or not all(isinstance(options, dict) for options in dense.values()):
    raise UserError(f'{path}: dense must be a table of columns, such as [dense] and then age = {{ transform = "none" }}')
  if not isinstance(bags, dict):
    raise UserError(f'{path}: bags must be a table of features, such as [bags] and then genres = ["genre_1", "genre_2"]')
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
      bags=tuple(_bag(name, entry) for name, entry in bags.items()),
    )
  except UserError as error:
    raise UserError(f"{path}: {error}") from None
