"""Reads the plain lines of Criteo's TSV logs by C++ (criteo_lines.cc). `delimited` and `parse` read the others, the careful lines.

A line is plain if it has 40 cells: a label of one byte, 0 or 1; 13 integers, each empty or -?[0-9]{1,18}; 26 categories, each empty or
8 of [0-9a-fA-F]. A line with any other byte (a blank, CR, NUL, not ASCII) is careful: it may still be good, for example with a label
"01" or a CR LF at its end. Used by `rows`.
"""

import ctypes
import dataclasses
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt32

from dlrm_jax.common.progress import say
from dlrm_jax.machine import native

NUM_NUMBERS, NUM_KEYS = 13, 26
_LEAST_LINE = 1 + NUM_NUMBERS + NUM_KEYS + 1  # bytes of a line of empty cells
_MAX_BLOCK = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Lines:
  """The contents of a block of lines: n plain lines (rows) in order, and k careful ones.

  Arrays are views of the reader's buffers, which its next `read` overwrites. Columns (the last axis) are contiguous.

  Attributes:
    num_lines: number of lines of the block, n + k.
    label_n: 0 or 1.
    number_mn: I1 .. I13; 0 if the cell is empty.
    missing_mn: whether the cell is empty.
    key_fn: C1 .. C26 as 32-bit values; 0 if the cell is empty.
    valid_fb: for each of C1 .. C26 an Arrow validity bitmap (bit i % 8 of byte i / 8, lowest first), b = ceil(n / 8).
    null_count_f: the number of empty cells of each of C1 .. C26.
    line_n: the line of each row in the block; the first line is 0.
    careful_k: the numbers of the careful lines, ascending.
    careful_start_k: the byte of the block at which each careful line starts. It ends with the next newline.
  """

  num_lines: int
  label_n: UInt8[np.ndarray, " n"]
  number_mn: Int64[np.ndarray, "m n"]
  missing_mn: Bool[np.ndarray, "m n"]
  key_fn: UInt32[np.ndarray, "f n"]
  valid_fb: UInt8[np.ndarray, "f b"]
  null_count_f: Int64[np.ndarray, " f"]
  line_n: Int32[np.ndarray, " n"]
  careful_k: Int32[np.ndarray, " k"]
  careful_start_k: Int32[np.ndarray, " k"]


class Reader:
  """Reads blocks of lines. `make` makes one for a process. Threads must not share it."""

  def __init__(self, library: Path):
    self._read = ctypes.CDLL(str(library)).dlrm_read_criteo_lines
    self._read.argtypes, self._read.restype = (ctypes.c_char_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 10), None
    self._counts, self._null_count_f = np.zeros(3, np.int64), np.zeros(NUM_KEYS, np.int64)
    self._make_room(0)

  @classmethod
  def make(cls) -> "Reader | None":
    """The reader, which is compiled if needed. Returns None and prints the reason on standard error if that fails."""
    try:
      if sys.byteorder != "little":
        raise RuntimeError("this processor's byte order is not little-endian")
      return cls(native.library("Criteo line reader", [Path(__file__).with_suffix(".cc")]))
    except native.ERRORS as error:
      slower = "pyarrow reads the lines instead, which is slower"
      say(f"the Criteo line reader cannot be compiled or loaded (CXX names the compiler): {error}; {slower}")
      return None

  def _make_room(self, size: int) -> None:
    """Allocates buffers for any lines that a block of this size may hold. Memory that no line needs is never touched."""
    rows = size // _LEAST_LINE + 1
    words = (rows + 63) // 64
    self._rows = rows = (rows + 63) // 64 * 64 + 16  # no power of two, so that the columns do not share a set of the cache
    self._label, self._line = np.empty(rows, np.uint8), np.empty(rows, np.int32)
    self._number, self._missing = np.empty((NUM_NUMBERS, rows), np.int64), np.empty((NUM_NUMBERS, rows), np.bool_)
    self._key, self._valid = np.empty((NUM_KEYS, rows), np.uint32), np.empty((NUM_KEYS, words), np.uint64)
    self._careful, self._careful_start = np.empty(size, np.int32), np.empty(size, np.int32)
    out: tuple[np.ndarray, ...] = (self._label, self._number, self._missing, self._key, self._valid)
    out += (self._null_count_f, self._line, self._careful, self._careful_start, self._counts)
    self._out, self._room = (rows, words, *(array.ctypes.data for array in out)), size

  def read(self, block: bytes) -> Lines:
    """Reads a block of whole lines. It must be empty or end in a newline, and have less than 2 GiB (ValueError if not)."""
    if block and (not block.endswith(b"\n") or len(block) > _MAX_BLOCK):
      raise ValueError("a block must be whole lines, less than 2 GiB")
    if len(block) > self._room:
      self._make_room(len(block))
    self._read(block, len(block), *self._out)
    num_lines, n, k = map(int, self._counts)
    return Lines(
      num_lines=num_lines,
      label_n=self._label[:n],
      number_mn=self._number[:, :n],
      missing_mn=self._missing[:, :n],
      key_fn=self._key[:, :n],
      valid_fb=self._valid.view(np.uint8)[:, : (n + 7) // 8],
      null_count_f=self._null_count_f,
      line_n=self._line[:n],
      careful_k=self._careful[:k],
      careful_start_k=self._careful_start[:k],
    )
