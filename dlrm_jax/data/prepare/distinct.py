"""Numbers and counts the distinct values of a column: 32-bit values by C++ (distinct.cc), others by Arrow. Used by `parts`."""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64, UInt32

from dlrm_jax.common.progress import say
from dlrm_jax.machine import native

_FIRST_BITS, _MORE_BITS = 12, 2  # bits of the table's size at first, and how many are added when it grows
_MISSING = 1 << 32


def number(cells: Sequence[pa.Array]) -> tuple[UInt32[np.ndarray, " n"] | Int32[np.ndarray, " n"], pa.Array, Int64[np.ndarray, " d"]]:
  """Numbers the distinct values of a column that is given in chunks. A missing cell counts as a value.

  Returns:
    The number of each cell's value, the values by number (null for missing), and the count of each.
  """
  kinds = {column.type for column in cells}
  native_calls = _native() if kinds == {pa.uint32()} else None
  if native_calls is not None:
    return _number_uint32(native_calls, cells)
  encoded = pa.chunked_array(cells).combine_chunks().dictionary_encode(null_encoding="encode")
  index_n = encoded.indices.to_numpy()
  return index_n, encoded.dictionary, np.bincount(index_n, minlength=len(encoded.dictionary))


@functools.cache
def _native() -> ctypes.CDLL | None:
  """The compiled functions. Returns None and prints the reason on standard error if they cannot be compiled or loaded."""
  try:
    library = ctypes.CDLL(str(native.library("value counter", [Path(__file__).with_suffix(".cc")])))
  except native.ERRORS as error:
    say(f"the value counter cannot be compiled or loaded (CXX names the compiler): {error}; Arrow counts, slower")
    return None
  pointer, integer = ctypes.c_void_p, ctypes.c_int64
  library.dlrm_distinct.argtypes = [pointer, pointer, integer, integer, pointer, pointer, pointer, pointer, integer, pointer]
  library.dlrm_distinct.restype = integer
  library.dlrm_distinct_fill.argtypes, library.dlrm_distinct_fill.restype = [pointer, pointer, integer, integer], None
  return library


def _number_uint32(library: ctypes.CDLL, cells: Sequence[pa.Array]) -> tuple[UInt32[np.ndarray, " n"], pa.Array, Int64[np.ndarray, " d"]]:
  code_n, numbers = np.empty(sum(map(len, cells)), np.uint32), np.zeros(1, np.int64)
  value_d, count_d = np.empty(0, np.uint64), np.empty(0, np.uint32)
  bits, table = 0, np.empty(0, np.uint64)
  out: tuple[int, ...] = ()
  codes, how_many = code_n.ctypes.data, numbers.ctypes.data

  def grow() -> None:
    nonlocal bits, table, value_d, count_d, out
    bits += _MORE_BITS if bits else _FIRST_BITS
    table, room = np.zeros(1 << bits, np.uint64), (1 << bits - 1) + 1
    value_d, count_d = (np.concatenate([old, np.empty(room - len(old), old.dtype)]) for old in (value_d, count_d))
    out = value_d.ctypes.data, count_d.ctypes.data, table.ctypes.data, bits, how_many
    library.dlrm_distinct_fill(value_d.ctypes.data, table.ctypes.data, bits, int(numbers[0]))

  grow()
  done = 0
  for column in cells:
    valid, key = column.buffers()
    first = 0
    while True:
      place, left = column.offset + first, len(column) - first
      bitmap, code = None if valid is None else valid.address, codes + 4 * (done + first)
      first += library.dlrm_distinct(key.address + 4 * place, bitmap, place, left, code, *out)
      if first == len(column):
        break
      grow()
    done += len(column)
  value_d, count_d = value_d[: numbers[0]], count_d[: numbers[0]]
  return code_n, pa.array(value_d.astype(np.uint32), mask=value_d == _MISSING), count_d.astype(np.int64)
