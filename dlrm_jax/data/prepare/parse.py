"""Raw columns to values: labels, dense numbers, cells of categories. Rows with a bad cell are rejected with a reason.

`REASONS` states every rule, and a slow reference in the tests checks it line by line. Used by `rows`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int64, UInt8

from dlrm_jax.data import transform
from dlrm_jax.data.prepare import times
from dlrm_jax.data.prepare.cells import NUMBER, as_text, hexadecimal, list_columns, nulled, numbers, plain
from dlrm_jax.data.prepare.label import MISSING, NULL_TEXTS, NULL_TOKENS, Label, clicks
from dlrm_jax.data.prepare.read import Chunk, shown
from dlrm_jax.data.prepare.rejects import NO_REMEDY, Reject
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.transform import Numbers

# Reason of a reject -> the cells that are accepted. Decimal numbers must not have blanks or a leading plus.
REASONS = {
  "label is missing": "a cell that is not empty, nor one of `label.NULL_TOKENS` that the label does not compare with",
  "label is not 0 or 1": "a number equal to 0 or 1 (an integer in Criteo's logs); elsewhere also true, false, yes and no in any case",
  "label is not a number": "a decimal number, where the label compares with a number",
  "weight is not 0 or from 1e-20 to 1e20": "a number that is",
  "time is missing": "a cell that is not empty, null or NaN",
  "not a time": "a number, or ISO 8601 text of a day that exists; or what unit and format state; a local time that the zone has",
  "time is not from 1678 to 2261": "a moment that fits int64 nanoseconds",
  "not an integer": "-?[0-9]{1,18}, or empty",
  "not a number": "-?[0-9]*.?[0-9]* with at least one digit and an optional exponent, or empty",
  "not finite": "a number that fits float32 (float64 if its transform is log1p)",
  "not 8 hexadecimal digits": "[0-9a-fA-F]{8}, or empty",
}


NO_LABEL = 2  # in place of a label
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-20, 1e20  # sums of losses times weights stay in the range of float32


@dataclasses.dataclass(frozen=True)
class Rows:
  """The accepted rows of a chunk.

  Attributes:
    line_n: the line number of each row.
    label_n: 0 or 1, or `NO_LABEL`, if rows without a label are kept.
    dense: one column of raw numbers per dense column of the schema, with missing cells marked (`transform.pack`).
    missing: number of missing cells of each dense column.
    cells: one column per id of a row (`Schema.lookups`): text, integers, booleans, or uint32 for hexadecimal digits; null if missing.
    truncated: for each bag of a list column, the number of rows with a longer list.
    time_n: nanoseconds since 1970, if the log has a time column.
    units: units of time that were recognised by the size of numbers.
    weight_n: how much each row counts, above 0, or from 0 on in a log to score; None if the schema has no weight.
    weightless: number of rows of weight 0 that are left out.
  """

  line_n: Int64[np.ndarray, " n"]
  label_n: UInt8[np.ndarray, " n"]
  dense: tuple[Numbers, ...]
  missing: tuple[int, ...]
  cells: tuple[pa.Array, ...]
  truncated: dict[str, int]
  time_n: Int64[np.ndarray, " n"] | None = None
  units: frozenset[str] = frozenset()
  weight_n: Float32[np.ndarray, " n"] | None = None
  weightless: int = 0


@dataclasses.dataclass(frozen=True)
class Features:
  """The categorical features of some rows.

  Attributes:
    cells: as in `Rows`.
    faults: which rows have a bad cell, with the reason and the column.
    longer: for each bag of a list column, which rows have a longer list.
    moments: the times of the rows, if the log has a time column.
  """

  cells: list[pa.Array]
  faults: list[tuple[Bool[np.ndarray, " n"] | None, str, str]]
  longer: dict[str, Bool[np.ndarray, " n"]]
  moments: times.Times | None


def joined(chunks: Sequence[Rows]) -> Rows:
  """The rows of several chunks of one log without a time column, in the order of lines."""
  line_n = np.concatenate([rows.line_n for rows in chunks])
  order = np.argsort(line_n, kind="stable")
  cells = [pa.chunked_array(columns).combine_chunks() for columns in zip(*(rows.cells for rows in chunks))]
  return Rows(
    line_n[order],
    np.concatenate([rows.label_n for rows in chunks])[order],
    tuple(transform.joined(columns)[order] for columns in zip(*(rows.dense for rows in chunks))),
    tuple(map(sum, zip(*(rows.missing for rows in chunks)))),
    tuple(column.take(pa.array(order)) for column in cells),
    {name: sum(rows.truncated[name] for rows in chunks) for name in chunks[0].truncated},
  )


def _labels(chunk: Chunk, schema: Schema) -> tuple[UInt8[np.ndarray, " n"], list[tuple[Bool[np.ndarray, " n"], str]]]:
  """`Rows.label_n`, and which rows have no good label, each with its reason."""
  label = schema.label
  if label is None:
    return np.full(len(chunk.line_n), NO_LABEL, np.uint8), []
  click_n, faults = clicks(label, chunk.columns[label.column], schema.strict)
  label_n = click_n.astype(np.uint8)
  if label.optional:
    without_n = np.logical_or.reduce([bad_n for bad_n, reason in faults if reason == MISSING])
    label_n[without_n] = NO_LABEL
    faults = [(bad_n & ~without_n, reason) for bad_n, reason in faults]
  return label_n, faults


def _remedy(reason: str, name: str, cell: Any, schema: Schema) -> tuple[str, str]:
  """`Reject.remedy` of a row whose cell in the column `name` is bad."""
  if schema.strict:
    return "", ""  # Criteo's logs have no schema of their own
  if reason in ("not a number", "not an integer") and cell in NULL_TEXTS:
    return "null", cell
  if reason == MISSING and cell in NULL_TOKENS:
    return NO_REMEDY, cell
  if reason == "label is not 0 or 1" and re.fullmatch(NUMBER, str(cell)):
    return "label", Label(name, ">", 15).text
  return "", ""


def features_of(columns: Mapping[str, pa.Array], schema: Schema) -> Features:
  """The features of rows, from the raw cells of the schema's columns alone: no row depends on another, or on the rest of the log."""
  cells: dict[str, pa.Array] = {}
  faults: list[tuple[Bool[np.ndarray, " n"] | None, str, str]] = []
  moments = None
  if schema.time is not None:
    moments = times.moments(schema.time, columns[schema.time.column])
    faults += [(bad_n, reason, schema.time.column) for bad_n, reason in moments.faults]
  for category in schema.categorical:
    values, bad_n = hexadecimal(columns[category.name]) if category.hexadecimal else (plain(columns[category.name]), None)
    faults.append((bad_n, "not 8 hexadecimal digits", category.name))
    cells[category.name] = values
  if schema.time is not None and moments is not None:
    cells |= {name: times.feature(name, moments.time_n, schema.time.zone) for name in schema.time.features}
  cells |= {cross.name: crossed(*(cells[name] for name in cross.columns)) for cross in schema.crosses}
  out, longer = list(cells.values()), {}
  for bag in schema.bags:
    if bag.list_length is None:
      out.extend(plain(columns[name]) for name in bag.columns)
    else:
      lists, longer[bag.name] = list_columns(columns[bag.columns[0]], bag.length)
      out.extend(lists)
  return Features(out, faults, longer, moments)


def crossed(left: pa.Array, right: pa.Array) -> pa.Array:
  """The pairs of two columns' values as text, null where both are missing. The length of the left one comes first, so that pairs differ."""
  a, b = (as_text(cells).fill_null("") for cells in (left, right))
  pair = pc.binary_join_element_wise(pc.binary_length(a).cast(pa.string()), a, b, ":")
  return pc.if_else(pc.equal(pair, "0::"), None, pair)


def parse(chunk: Chunk, schema: Schema) -> tuple[Rows, list[Reject]]:
  """The rows of a chunk that are good in every column, and the rejects of the chunk in the order of lines.

  A row with several bad cells is rejected for the first of them: label, weight, dense, time, then categorical columns.
  """
  if schema.null:
    chunk = dataclasses.replace(chunk, columns={name: nulled(cells, schema.null) for name, cells in chunk.columns.items()})
  num_rows = len(chunk.line_n)
  faults: list[tuple[str, str]] = [("", "")]
  fault_n = np.zeros(num_rows, np.int32)

  def mark(bad_n: Bool[np.ndarray, " n"] | None, reason: str, column: str) -> None:
    if bad_n is not None and bad_n.any():
      fault_n[bad_n & (fault_n == 0)] = len(faults)
      faults.append((reason, column))

  label_n, label_faults = _labels(chunk, schema)
  for without_n, reason in label_faults:
    mark(without_n, reason, schema.label.column if schema.label else "")
  weight_n = None
  if schema.weight is not None:
    number_n, missing_n, malformed_n = numbers(chunk.columns[schema.weight], integer=False)
    fits_n = (number_n == 0) | ((number_n >= _LEAST_WEIGHT) & (number_n <= _MOST_WEIGHT))
    mark(missing_n | malformed_n | ~fits_n, "weight is not 0 or from 1e-20 to 1e20", schema.weight)
    weight_n = np.where(fits_n, number_n, 1.0).astype(np.float32)
  dense, missing = [], []
  for column in schema.dense:
    number_n, missing_n, malformed_n = numbers(chunk.columns[column.name], column.integer)
    mark(malformed_n, "not an integer" if column.integer else "not a number", column.name)
    mark(~column.accepts(number_n), "not finite", column.name)
    dense.append(transform.pack(number_n, missing_n))
    missing.append(missing_n)
  features = features_of(chunk.columns, schema)
  for bad_n, reason, name in features.faults:
    mark(bad_n, reason, name)
  cells, longer = features.cells, features.longer
  time_n, units = (None, frozenset[str]()) if features.moments is None else (features.moments.time_n, features.moments.units)
  rejects, line_n, label_u8 = list(chunk.rejects), chunk.line_n, label_n
  good_n = fault_n == 0
  weightless = 0
  if len(faults) > 1:
    for i in map(int, np.flatnonzero(~good_n)):
      reason, name = faults[fault_n[i]]
      cell = shown(chunk.columns[name].slice(i, 1))
      remedy = _remedy(reason, name, cell, schema)
      rejects.append(Reject(int(line_n[i]), reason, f"{name} is {repr(cell)[:40]}", chunk.text(i), remedy))
    rejects.sort(key=lambda reject: reject.line)
  if weight_n is not None and not schema.scored:
    weightless = int(np.count_nonzero(good_n & (weight_n == 0)))
    good_n &= weight_n > 0
  if not good_n.all():
    weight_n = None if weight_n is None else weight_n[good_n]
    line_n, label_u8 = line_n[good_n], label_u8[good_n]
    dense, missing = [x[good_n] for x in dense], [x[good_n] for x in missing]
    cells = [column.filter(pa.array(good_n)) for column in cells]
    longer = {name: x[good_n] for name, x in longer.items()}
    time_n = None if time_n is None else time_n[good_n]
  counts = tuple(int(np.count_nonzero(x)) for x in missing)
  truncated = {name: int(x.sum()) for name, x in longer.items()}
  return Rows(line_n, label_u8, tuple(dense), counts, tuple(cells), truncated, time_n, units, weight_n, weightless), rejects
