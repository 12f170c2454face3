"""Makes a CPU run keep freed memory and hold large arrays on huge pages. It works on Linux with glibc, and does nothing elsewhere.

XLA:CPU allocates the temporaries of a step by malloc and frees them. glibc returns such blocks to the kernel, and the next step faults
them in again page by page. That took 10 ms of a step of 96 (W1 of benchmarks.step, one core). Random rows miss the processor's table of
4 KiB pages: at 26M rows lookups took 4.7 ms a step, against 2.3 on pages of 2 MiB. The matrix products gain 3 to 4% too.
"""

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree")
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # mallopt(3)
_HUGE, _COLLAPSE = 14, 25  # madvise(2): MADV_HUGEPAGE, MADV_COLLAPSE (Linux 6.1)
_PAGE = 2 << 20
_HEAP = 1 << 30  # bytes that malloc requests from the kernel at a time; only touched pages take memory
_LARGE = 32 << 20  # bytes of an array that is worth moving


@functools.cache
def _libc() -> ctypes.CDLL | None:
  if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
    return None
  libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
  return libc


@functools.cache
def keep_pages() -> None:
  """Makes malloc keep freed memory, in a heap on huge pages. It changes the whole process. Call it before arrays are made."""
  if (libc := _libc()) is None:
    return
  libc.mallopt(_MMAP_MAX, 0)
  libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
  libc.mallopt(_TOP_PAD, _HEAP)
  libc.free(libc.malloc(_LARGE))  # the heap grows now
  for line in Path("/proc/self/maps").read_text().splitlines():
    if line.endswith("[heap]"):
      start, end = (int(word, 16) for word in line.split()[0].split("-"))
      _advise(libc, start, end - start, _HUGE)


def on_huge_pages(tree: Tree) -> Tree:
  """Moves the large CPU arrays of `tree` onto huge pages, at the same addresses, and returns the tree. Arrays stay on small pages where the
  kernel has no huge page left."""
  if (libc := _libc()) is None:
    return tree
  for array in jax.tree.leaves(tree):
    for shard in array.addressable_shards:
      if shard.device.platform == "cpu" and shard.data.nbytes >= _LARGE:
        _advise(libc, shard.data.unsafe_buffer_pointer(), shard.data.nbytes, _HUGE, _COLLAPSE)
  return tree


def _advise(libc: Any, start: int, size: int, *advice: int) -> None:
  first = -(-start // _PAGE) * _PAGE
  pages = (start + size - first) // _PAGE
  for word in advice:
    if pages > 0:
      libc.madvise(first, pages * _PAGE, word)
