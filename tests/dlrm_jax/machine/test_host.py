"""What a CPU run sets up on its host: memory that is kept, huge pages, compiler options."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.machine import hardware, host_memory

linux = pytest.mark.skipif(host_memory._libc() is None, reason="malloc and pages are set up on Linux with glibc only")

FAULTS = """
import ctypes, resource, sys
from dlrm_jax.machine import host_memory
if sys.argv[1] == "kept":
  host_memory.keep_pages()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(3):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = libc.malloc(64 << 20)
  libc.memset(block, 1, 64 << 20)
  libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@linux
def test_memory_that_was_freed_is_not_faulted_in_again():
  """64 MiB are 16,384 pages; the third time around they are there."""
  faults = {
    word: int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True).stdout)
    for word in ("kept", "default")
  }
  assert faults["kept"] < 100 and faults["default"] > 10_000


@linux
def test_large_arrays_stay_where_they_are_with_their_values(monkeypatch: pytest.MonkeyPatch):
  asked = []
  monkeypatch.setattr(host_memory, "_LARGE", 8 << 20)
  advise = host_memory._advise
  monkeypatch.setattr(host_memory, "_advise", lambda *args: (asked.append(args[1:3]), advise(*args)))
  values = np.random.default_rng(0).random(2 << 20).astype(np.float32)
  tree = {"large": jnp.asarray(values).block_until_ready(), "small": jnp.arange(5)}
  where = tree["large"].unsafe_buffer_pointer()
  assert host_memory.on_huge_pages(tree) is tree
  assert asked == [(where, 8 << 20)] and tree["large"].unsafe_buffer_pointer() == where
  np.testing.assert_array_equal(tree["large"], values)


def test_whole_pages_inside_an_array_are_advised(monkeypatch: pytest.MonkeyPatch):
  calls: list[tuple[int, int, int]] = []

  class Libc:
    madvise = staticmethod(lambda start, size, advice: calls.append((start, size, advice)))

  page = 2 << 20
  host_memory._advise(Libc, 5 * page - 100, 3 * page, 14, 25)
  host_memory._advise(Libc, 5 * page + 1, page, 14)  # no whole page
  assert calls == [(5 * page, 2 * page, 14), (5 * page, 2 * page, 25)]


def test_compiler_options_are_left_alone_where_they_do_not_apply(monkeypatch: pytest.MonkeyPatch):
  options = hardware.compiler_options.__wrapped__
  assert options("tpu") == options("gpu") == {}
  product = jax.jit(lambda x: x @ x).lower(jnp.ones((256, 256)))
  assert "ynn" not in product.compile(options("cpu")).as_text()
  monkeypatch.setattr(hardware, "_NO_YNN", {"xla_cpu_no_such_option": ""})
  assert options("cpu") == {}  # an XLA that does not know it
  monkeypatch.undo()
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT")
  assert options("cpu") == {}
