"""Raw columns to values: labels, dense numbers, cells of categories. Rows with a bad cell are rejected with a reason.

`REASONS` states every rule, and a slow reference in the tests checks it line by line. Used by `rows`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8, UInt32

from dlrm_jax.data.prepare.read import Chunk, is_text
from dlrm_jax.data.prepare.rejects import Reject
from dlrm_jax.data.prepare.schema import Bag, Schema

# Reason of a reject -> the cells that are accepted. Decimal numbers must not have blanks or a leading plus.
REASONS = {
  "label is not 0 or 1": "a number equal to 0 or 1 (an integer where the schema says so)",
  "not an integer": "-?[0-9]{1,18}, or empty",
  "not a number": "-?[0-9]*.?[0-9]* with at least one digit and an optional exponent, or empty",
  "not finite": "a number that fits float32 after its transform",
  "not 8 hexadecimal digits": "[0-9a-fA-F]{8}, or empty",
}
_INTEGER = r"^-?[0-9]{1,18}$"
_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_INTEGER_BYTES, _NUMBER_BYTES, _HEX_BYTES = (
  np.isin(np.arange(256), list(allowed)) for allowed in (b"-0123456789", b"-.0123456789eE", b"0123456789abcdefABCDEF")
)


@dataclasses.dataclass(frozen=True)
class Rows:
  """The accepted rows of a chunk.

  Attributes:
    line_n: the line number of each row.
    label_n: 0 or 1.
    dense: one transformed column per dense column of the schema.
    missing: number of missing cells of each dense column.
    cells: one column per id of a row (`Schema.lookups`): text, integers, booleans, or uint32 for hexadecimal digits; null if missing.
    truncated: for each bag of a list column, the number of rows with a longer list.
  """

  line_n: Int64[np.ndarray, " n"]
  label_n: UInt8[np.ndarray, " n"]
  dense: tuple[Float32[np.ndarray, " n"], ...]
  missing: tuple[int, ...]
  cells: tuple[pa.Array, ...]
  truncated: dict[str, int]


def joined(chunks: Sequence[Rows]) -> Rows:
  """The rows of several chunks of one log, in the order of lines."""
  line_n = np.concatenate([rows.line_n for rows in chunks])
  order = np.argsort(line_n, kind="stable")
  cells = [pa.chunked_array(columns).combine_chunks() for columns in zip(*(rows.cells for rows in chunks))]
  return Rows(
    line_n[order],
    np.concatenate([rows.label_n for rows in chunks])[order],
    tuple(np.concatenate(columns)[order] for columns in zip(*(rows.dense for rows in chunks))),
    tuple(map(sum, zip(*(rows.missing for rows in chunks)))),
    tuple(column.take(pa.array(order)) for column in cells),
    {name: sum(rows.truncated[name] for rows in chunks) for name in chunks[0].truncated},
  )


def _text(cells: pa.Array) -> tuple[pa.StringArray, Int32[np.ndarray, " n"], UInt8[np.ndarray, " total"]]:
  """Text cells with nulls for missing ones, their lengths in bytes (0 for missing ones), and the bytes of all cells in a row."""
  text = cells.cast(pa.string())
  length_n, bytes_t = _layout(text)
  if length_n.sum(where=text.is_null().to_numpy(zero_copy_only=False)):
    text = text.fill_null("")  # Arrow may keep bytes behind a null
    length_n, bytes_t = _layout(text)
  if np.count_nonzero(length_n == 0) > text.null_count:
    text = pc.if_else(length_n == 0, None, text)
  return text, length_n, bytes_t


def _layout(text: pa.StringArray) -> tuple[Int32[np.ndarray, " n"], UInt8[np.ndarray, " total"]]:
  _, offsets, data = text.buffers()
  if data is None or not len(text):
    return np.zeros(len(text), np.int32), np.zeros(0, np.uint8)
  offset_n = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
  return np.diff(offset_n), np.frombuffer(data, np.uint8)[offset_n[0] : offset_n[-1]]


def _numbers(cells: pa.Array, integer: bool) -> tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
  """Numbers (0 where there is none), which cells are missing (empty or null), and which cells hold something else."""
  bad_n = np.zeros(len(cells), bool)
  number = cells
  if is_text(cells.type):
    text, length_n, bytes_t = _text(cells)
    kind = pa.int64() if integer else pa.float64()
    try:
      # Arrow also accepts 0x10, +1 and nan. Only the bytes of plain decimal numbers may pass without the slow check.
      if not (_INTEGER_BYTES if integer else _NUMBER_BYTES)[bytes_t].all() or (integer and length_n.max(initial=0) > 18):
        raise pa.ArrowInvalid
      number = text.cast(kind)
    except pa.ArrowInvalid:
      good = pc.match_substring_regex(text, _INTEGER if integer else _NUMBER)
      bad_n = ~good.fill_null(True).to_numpy(zero_copy_only=False)
      number = pc.if_else(good, text, None).cast(kind)
    missing_n = length_n == 0
  else:
    missing_n = cells.is_null().to_numpy(zero_copy_only=False)
  return number.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False), missing_n, bad_n


def _hexadecimal(cells: pa.StringArray) -> tuple[pa.UInt32Array, Bool[np.ndarray, " n"] | None]:
  """The values of cells of 8 hexadecimal digits, null if empty, and which cells hold something else (None: none does)."""
  text, length_n, bytes_t = _text(cells)
  bad_n = None
  if not (((length_n == 8) | (length_n == 0)).all() and _HEX_BYTES[bytes_t].all()):
    good = pc.match_substring_regex(text, "^[0-9a-fA-F]{8}$")
    bad_n = ~good.fill_null(True).to_numpy(zero_copy_only=False)
    text, length_n, bytes_t = _text(pc.if_else(good.fill_null(True), text, ""))
  value_n = np.zeros(len(text), np.uint32)
  value_n[length_n == 8] = parse_hexadecimal(bytes_t)
  return pa.array(value_n, mask=length_n == 0), bad_n


def parse_hexadecimal(text: UInt8[np.ndarray, " total"]) -> UInt32[np.ndarray, " n"]:
  """The values of consecutive cells of exactly 8 hexadecimal digits. A 64-bit word holds a cell, whose digits are converted at once."""
  x = np.array(text, np.uint8).view("<u8").astype(np.uint64)  # first digit in the lowest byte
  x = (x & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * ((x >> np.uint64(6)) & np.uint64(0x0101010101010101))
  for shift, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
    x = ((x << np.uint64(shift)) | (x >> np.uint64(2 * shift))) & np.uint64(mask)
  return x.astype(np.uint32)


def _list_columns(bag: Bag, cells: pa.Array) -> tuple[list[pa.Array], Bool[np.ndarray, " n"]]:
  """One column for each of the first `bag.length` values of the lists, null if a list is shorter or null; and which lists are longer."""
  values = cells.flatten()  # without the values behind null lists
  length_n = pc.list_value_length(cells).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
  start_n = np.cumsum(length_n) - length_n
  columns = [values.take(pa.array(start_n + i, mask=length_n <= i)) for i in range(bag.length)]
  return columns, length_n > bag.length


def _plain(cells: pa.Array) -> pa.Array:
  """Cells without Arrow's own dictionary encoding, which may differ from chunk to chunk."""
  return cells.cast(cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells


def parse(chunk: Chunk, schema: Schema) -> tuple[Rows, list[Reject]]:
  """The rows of a chunk that are good in every column, and the rejects of the chunk in the order of lines.

  A row with several bad cells is rejected for the first of them: label, then dense, then categorical columns.
  """
  num_rows = len(chunk.line_n)
  faults: list[tuple[str, str]] = [("", "")]
  fault_n = np.zeros(num_rows, np.int32)

  def mark(bad_n: Bool[np.ndarray, " n"] | None, reason: str, column: str) -> None:
    if bad_n is not None and bad_n.any():
      fault_n[bad_n & (fault_n == 0)] = len(faults)
      faults.append((reason, column))

  label_n, missing_n, malformed_n = _numbers(chunk.columns[schema.label], integer=schema.header is not None)
  mark(malformed_n | missing_n | ~((label_n == 0) | (label_n == 1)), "label is not 0 or 1", schema.label)
  dense, missing, cells = [], [], []
  for column in schema.dense:
    number_n, missing_n, malformed_n = _numbers(chunk.columns[column.name], column.integer)
    mark(malformed_n, "not an integer" if column.integer else "not a number", column.name)
    dense.append(column.apply(number_n, missing_n))
    missing.append(missing_n)
    mark(~(np.isfinite(number_n) & np.isfinite(dense[-1])), "not finite", column.name)
  for category in schema.categorical:
    values, bad_n = _hexadecimal(chunk.columns[category.name]) if category.hexadecimal else (_plain(chunk.columns[category.name]), None)
    mark(bad_n, "not 8 hexadecimal digits", category.name)
    cells.append(values)
  longer = {}
  for bag in schema.bags:
    if bag.list_length is None:
      cells.extend(_plain(chunk.columns[name]) for name in bag.columns)
    else:
      columns, longer[bag.name] = _list_columns(bag, chunk.columns[bag.columns[0]])
      cells.extend(columns)
  rejects, line_n, label_u8 = list(chunk.rejects), chunk.line_n, (label_n == 1).astype(np.uint8)
  if len(faults) > 1:
    good_n = fault_n == 0
    for i in map(int, np.flatnonzero(~good_n)):
      reason, name = faults[fault_n[i]]
      detail = f"{name} is {repr(chunk.columns[name][i].as_py())[:40]}"
      rejects.append(Reject(int(line_n[i]), reason, detail, chunk.text(i)))
    rejects.sort(key=lambda reject: reject.line)
    line_n, label_u8 = line_n[good_n], label_u8[good_n]
    dense, missing = [x[good_n] for x in dense], [x[good_n] for x in missing]
    cells = [column.filter(pa.array(good_n)) for column in cells]
    longer = {name: x[good_n] for name, x in longer.items()}
  counts = tuple(int(np.count_nonzero(x)) for x in missing)
  return Rows(line_n, label_u8, tuple(dense), counts, tuple(cells), {name: int(x.sum()) for name, x in longer.items()}), rejects
