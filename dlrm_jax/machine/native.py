"""Compiles C++ for this machine's processor when it is first needed, once. Used by `cpu_kernels` and `data/criteo_lines`.

A library lies in the cache directory under a name that hashes its sources and headers, the compiler, the flags and the processor's
features, so that machines which share a home directory do not run each other's instructions.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dlrm_jax.common.cache import cache_dir

# What a missing or failing compiler, a directory that cannot be written to, or a library that does not load is raised as.
Problem = (OSError, RuntimeError, subprocess.TimeoutExpired)
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared")


def library(
  name: str,
  sources: Sequence[Path],
  flags: Sequence[str] = (),
  include_dirs: Sequence[Path] = (),
  extra_key: Sequence[str] = (),
  seconds: int = 1,
) -> Path:
  """The shared library of some sources, compiled unless it is there already.

  Processes that compile it at the same time do not disturb each other: each one's file appears whole, and all are the same.

  Args:
    name: what it is, as in "compiling the CPU kernels"; also the start of the file's name.
    sources: C++ files. Headers (*.h) beside them count as theirs.
    flags: of the compiler, after `FLAGS`.
    include_dirs: where system headers are. Changes in these must show in `extra_key`.
    extra_key: more that the library depends on, such as versions.
    seconds: about how long it takes, for the message.

  Raises:
    One of `Problem`, saying why it cannot be compiled: one line.
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
  print(f"compiling the {name}, once for this machine: about {seconds} s", file=sys.stderr, flush=True)
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
  """What -march=native depends on: the processor's features."""
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  return platform.machine() + next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
