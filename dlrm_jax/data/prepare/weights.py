"""Logs that lack the column of weights of their data set: `prepare --like` and `predict` count all of their rows alike.

A mean over rows of one weight does not depend on that weight, so that 1 is as good as any other. It would not be beside rows that have
weights of their own. So the files of a log all have the column, or none has it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import delimited, read
from dlrm_jax.data.prepare.schema import Schema


def has_weights(path: Path, log_format: str, schema: Schema) -> bool | None:
  """Whether a file has the schema's column of weights; None if it has no rows. Raises UserError if it lacks another column."""
  if schema.weight is None:
    return False
  if schema.header is not None:
    return True  # by its place; lines with fewer cells are rejected
  if log_format == "parquet":
    return schema.weight in read.parquet_types(path) if read.parquet_rows(path) else None
  names = delimited.header_of(path, dataclasses.replace(schema, weight=None))
  return None if names is None else schema.weight in names


def all_or_none(found: Mapping[Path, bool | None], column: str) -> bool:
  """Whether files have the column of weights (`has_weights`), as they all must or none. Raises UserError where some have."""
  lacking = [path for path, has in found.items() if has is False]
  if lacking and any(found.values()):
    raise UserError(
      f"{lacking[0]}: lacks the column '{column}' of weights, which other files have: add it, or give the files with it and those "
      "without it apart"
    )
  return not lacking


def schema_of_log(files: Sequence[Path], log_format: str, schema: Schema) -> Schema:
  """The schema of a data set for the files of another log: without the column of weights where they lack it. Raises UserError."""
  if schema.weight is None or all_or_none({path: has_weights(path, log_format, schema) for path in files}, schema.weight):
    return schema
  return dataclasses.replace(schema, weight=None)
