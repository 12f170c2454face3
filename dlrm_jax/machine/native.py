"""Compiles C++ for this machine's processor when it is first needed, once. `cpu_kernels` and `data/prepare` use it.

A library is kept in the cache directory. Its name hashes the sources and headers, the compiler, the flags and the processor's features.
Machines that share a home directory then do not run each other's instructions.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dlrm_jax.common.cache import cache_dir
from dlrm_jax.common.progress import say

# Raised for a missing or failing compiler, a directory that cannot be written to, or a library that does not load.
ERRORS = (OSError, RuntimeError, subprocess.TimeoutExpired)
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")


def library(
  name: str,
  sources: Sequence[Path],
  flags: Sequence[str] = (),
  include_dirs: Sequence[Path] = (),
  extra_key: Sequence[str] = (),
  seconds: int = 1,
) -> Path:
  """Returns the shared library of some sources, and compiles it unless it exists.

  Processes may compile it at the same time. Each file appears whole, and all are the same.

  Args:
    name: what the message calls it, as in "compiling the CPU kernels". It also starts the file's name.
    sources: C++ files. The headers (*.h) in their folders count as sources too.
    flags: compiler flags, which follow `FLAGS`.
    include_dirs: directories of system headers. `extra_key` must change when these do.
    extra_key: what else the library depends on, such as versions.
    seconds: about how long it takes, for the message.

  Raises:
    One of `ERRORS`, with one line on why it cannot be compiled.
  """
  compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
  if compiler is None:
    raise RuntimeError("no C++ compiler (c++, g++ or clang++; CXX names another)")
  include = [word for directory in include_dirs for word in ("-isystem", str(directory))]
  command = [*compiler.split(), *FLAGS, *flags, *include, *map(str, sources)]
  version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
  headers = sorted({header for source in sources for header in source.parent.glob("*.h")})
  parts = [version, *command, *extra_key, processor(), *(path.read_text() for path in (*sources, *headers))]
  stem = name.replace(" ", "-")
  built = cache_dir() / f"{stem}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
  if built.exists():
    return built
  say(f"compiling the {name}, once for this machine: about {seconds} s")
  handle, temporary = tempfile.mkstemp(dir=built.parent, prefix=f".{stem}-", suffix=".so")
  os.close(handle)
  try:
    done = subprocess.run([*command, "-o", temporary], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
      wrong = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
      raise RuntimeError(f"{compiler} failed: {wrong[0].strip()}")
    os.replace(temporary, built)
  finally:
    Path(temporary).unlink(missing_ok=True)
  return built


def processor() -> str:
  """Returns the processor's features, on which -march=native depends."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
