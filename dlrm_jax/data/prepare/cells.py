"""The cells of a column as Arrow arrays: text as numbers or hexadecimal digits, lists as columns. Used by `label`, `times` and `parse`."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int32, UInt8, UInt32

INTEGER = r"^-?[0-9]{1,18}$"
NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
_INTEGER_BYTES, _NUMBER_BYTES, _HEX_BYTES = (
  np.isin(np.arange(256), list(allowed)) for allowed in (b"-0123456789", b"-.0123456789eE", b"0123456789abcdefABCDEF")
)


def is_text(kind: pa.DataType) -> bool:
  """Whether a column of this type holds text."""
  if pa.types.is_dictionary(kind):
    return is_text(kind.value_type)
  return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_list(kind: pa.DataType) -> bool:
  """Whether a column of this type holds lists."""
  return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def plain(cells: pa.Array) -> pa.Array:
  """Cells without Arrow's own dictionary encoding, which may differ from chunk to chunk."""
  return cells.cast(cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells


def flags(cells: pa.Array) -> Bool[np.ndarray, " n"]:
  """Arrow's booleans as a numpy array. Null is False."""
  return cells.fill_null(False).to_numpy(zero_copy_only=False)


def text(cells: pa.Array) -> tuple[pa.StringArray, Int32[np.ndarray, " n"], UInt8[np.ndarray, " total"]]:
  """Text cells with nulls for missing ones, their lengths in bytes (0 for missing ones), and the bytes of all cells in a row."""
  words = cells.cast(pa.string())
  length_n, bytes_t = _layout(words)
  if length_n.sum(where=words.is_null().to_numpy(zero_copy_only=False)):
    words = words.fill_null("")  # Arrow may keep bytes behind a null
    length_n, bytes_t = _layout(words)
  if np.count_nonzero(length_n == 0) > words.null_count:
    words = pc.if_else(length_n == 0, None, words)
  return words, length_n, bytes_t


def _layout(words: pa.StringArray) -> tuple[Int32[np.ndarray, " n"], UInt8[np.ndarray, " total"]]:
  _, offsets, data = words.buffers()
  if data is None or not len(words):
    return np.zeros(len(words), np.int32), np.zeros(0, np.uint8)
  offset_n = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
  return np.diff(offset_n), np.frombuffer(data, np.uint8)[offset_n[0] : offset_n[-1]]


def numbers(cells: pa.Array, integer: bool) -> tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
  """Numbers (0 where there is none), which cells are missing (empty or null), and which cells hold something else."""
  bad_n = np.zeros(len(cells), bool)
  number = cells
  if is_text(cells.type):
    words, length_n, bytes_t = text(cells)
    kind = pa.int64() if integer else pa.float64()
    try:
      # Arrow also accepts 0x10, +1 and nan. Only the bytes of plain decimal numbers may pass without the slow check.
      if not (_INTEGER_BYTES if integer else _NUMBER_BYTES)[bytes_t].all() or (integer and length_n.max(initial=0) > 18):
        raise pa.ArrowInvalid
      number = words.cast(kind)
    except pa.ArrowInvalid:
      good = pc.match_substring_regex(words, INTEGER if integer else NUMBER)
      bad_n = ~good.fill_null(True).to_numpy(zero_copy_only=False)
      number = pc.if_else(good, words, None).cast(kind)
    missing_n = length_n == 0
  else:
    missing_n = cells.is_null().to_numpy(zero_copy_only=False)
  return number.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False), missing_n, bad_n


def hexadecimal(cells: pa.StringArray) -> tuple[pa.UInt32Array, Bool[np.ndarray, " n"] | None]:
  """The values of cells of 8 hexadecimal digits, null if empty, and which cells hold something else (None: none does)."""
  words, length_n, bytes_t = text(cells)
  bad_n = None
  if not (((length_n == 8) | (length_n == 0)).all() and _HEX_BYTES[bytes_t].all()):
    good = pc.match_substring_regex(words, "^[0-9a-fA-F]{8}$")
    bad_n = ~good.fill_null(True).to_numpy(zero_copy_only=False)
    words, length_n, bytes_t = text(pc.if_else(good.fill_null(True), words, ""))
  value_n = np.zeros(len(words), np.uint32)
  value_n[length_n == 8] = parse_hexadecimal(bytes_t)
  return pa.array(value_n, mask=length_n == 0), bad_n


def parse_hexadecimal(digits: UInt8[np.ndarray, " total"]) -> UInt32[np.ndarray, " n"]:
  """The values of consecutive cells of exactly 8 hexadecimal digits. A 64-bit word holds a cell, whose digits are converted at once."""
  x = np.array(digits, np.uint8).view("<u8").astype(np.uint64)  # first digit in the lowest byte
  x = (x & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * ((x >> np.uint64(6)) & np.uint64(0x0101010101010101))
  for shift, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
    x = ((x << np.uint64(shift)) | (x >> np.uint64(2 * shift))) & np.uint64(mask)
  return x.astype(np.uint32)


def list_columns(cells: pa.Array, length: int) -> tuple[list[pa.Array], Bool[np.ndarray, " n"]]:
  """One column for each of the first `length` values of the lists, null if a list is shorter or null; and which lists are longer."""
  values = cells.flatten()  # without the values behind null lists
  length_n = pc.list_value_length(cells).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
  start_n = np.cumsum(length_n) - length_n
  columns = [values.take(pa.array(start_n + i, mask=length_n <= i)) for i in range(length)]
  return columns, length_n > length


def as_text(cells: pa.Array) -> pa.StringArray:
  """Integers, booleans or text as text, as `parts.hash_values` writes them: decimal digits, true and false."""
  return plain(cells).cast(pa.string())


def nulled(cells: pa.Array, tokens: Sequence[str]) -> pa.Array:
  """A column in which every text that is one of the tokens is null, also inside lists."""
  if is_list(cells.type):
    values, length_n = nulled(cells.flatten(), tokens), pc.list_value_length(cells).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(length_n)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, values, mask=cells.is_null())
  if not is_text(cells.type):
    return cells
  words = cells.cast(pa.string())
  return pc.if_else(pc.is_in(words, pa.array(tokens, pa.string())), pa.scalar(None, pa.string()), words)
