"""Compiles the kernels for this machine's processor, once, and registers them with jax.

The library lies in the user's cache directory under a name that hashes sources, compiler, flags, jax and the processor's features, so
that machines which share a home directory do not run each other's instructions.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from dlrm_jax.flags import UserError

_HERE = Path(__file__).parent
_SOURCES = ("tables.cc", "interaction.cc", "layers.cc")
_TARGETS: tuple[str, ...] = ("dlrm_take", "dlrm_sgd", "dlrm_adagrad", "dlrm_interact", "dlrm_interact_backward")
_TARGETS += ("dlrm_bias_relu", "dlrm_bias_relu_backward")
# Sums may be taken in vectors; NaN and infinity keep their meaning.
_FLAGS: tuple[str, ...] = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")
_FLAGS += ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")


def ready(choice: str) -> bool:
  """Whether the kernels can be called, compiling them if need be.

  Args:
    choice: `--kernels`. "xla": no. "auto": where they can be compiled; says so on standard error where not. "native": UserError if not.
  """
  if choice == "xla":
    return False
  problem = _register()
  if problem and choice == "native":
    raise UserError(f"--kernels=native: {problem}; --kernels=xla does without")
  if problem and problem not in _said:
    _said.add(problem)
    print(f"{problem}; XLA's own loops are used instead, which are slower", file=sys.stderr, flush=True)
  return not problem


_said: set[str] = set()  # problems that were told


@functools.cache
def _register() -> str:
  """Registers the kernels with jax; returns what is in the way, or nothing."""
  try:
    library = ctypes.CDLL(str(_built()))
  except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
    return f"the CPU kernels cannot be compiled or loaded (CXX names the compiler, XDG_CACHE_HOME the directory they go to): {error}"
  for name in _TARGETS:
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
  return ""


def _built() -> Path:
  """The shared library, compiled unless it is there. Raises RuntimeError or OSError with the reason where it cannot be."""
  compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
  if compiler is None:
    raise RuntimeError("no C++ compiler (c++, g++ or clang++; CXX names another)")
  command = [*compiler.split(), *_FLAGS, "-isystem", jax.ffi.include_dir(), *(str(_HERE / name) for name in _SOURCES)]
  version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
  parts = [version, *command, jax.__version__, _processor(), *((_HERE / name).read_text() for name in (*_SOURCES, "common.h"))]
  name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
  cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlrm_jax"
  library = cache / f"kernels-{name}.so"
  if library.exists():
    return library
  cache.mkdir(parents=True, exist_ok=True)
  print("compiling the CPU kernels, once for this machine: about 15 s", file=sys.stderr, flush=True)
  handle, temporary = tempfile.mkstemp(dir=cache, prefix=".kernels-", suffix=".so")
  os.close(handle)
  try:
    done = subprocess.run([*command, "-o", temporary], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
      wrong = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
      raise RuntimeError(f"{compiler} failed: {wrong[0].strip()}")
    os.replace(temporary, library)
  finally:
    Path(temporary).unlink(missing_ok=True)
  return library


def _processor() -> str:
  """What -march=native depends on."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
