"""Bounds and reports the memory of a process that runs many tests. A pytest plugin, loaded by conftest.py.

Every test file compiles programs of its own. jax keeps each one, and everything it was traced from, for as long as the process lives.
"""

import ctypes
import functools
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FREE_ABOVE = 1000 << 20  # bytes resident at the end of a test file
_NEEDED = 2 << 30  # bytes that a worker may take
_MOST_WORKERS = 16

_peaks: list[str] = []


def _status(name: str) -> int:
  """A field of /proc/self/status that is a size, in bytes; 0 where there is no such file."""
  try:
    lines = Path("/proc/self/status").read_text().splitlines()
  except OSError:
    return 0
  return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)


def _forget_programs() -> None:
  """Has jax and our own caches of programs forget what they keep, and gives the memory back."""
  for module in [module for name, module in list(sys.modules.items()) if name.startswith("dlrm_jax.")]:
    for value in vars(module).values():
      if isinstance(value, functools._lru_cache_wrapper) and value.cache_parameters()["maxsize"]:  # functools.cache holds libraries
        value.cache_clear()
  if "jax" in sys.modules:
    sys.modules["jax"].clear_caches()
  gc.collect()
  if sys.platform == "linux":
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
  """Collects what a test file leaves behind, while its last test can still be blamed, and bounds what the process keeps."""
  yield
  gc.collect()
  if _status("VmRSS") > _FREE_ABOVE:
    _forget_programs()


def pytest_collection_finish(session: pytest.Session) -> None:
  """Takes the modules out of the collector's sight, which would otherwise walk them again and again."""
  gc.collect()
  gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
  """Workers for `-n auto`: one for each core, as far as the memory reaches."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return max(1, min(cores, memory // _NEEDED, _MOST_WORKERS))


def pytest_sessionfinish(session: pytest.Session) -> None:
  """Passes a worker's peak on to the process that reports, or keeps that of this one."""
  peak = f"{_status('VmHWM') / 2**30:.2f} GiB"
  if hasattr(session.config, "workeroutput"):
    session.config.workeroutput["peak_memory"] = peak
  elif not session.config.getoption("numprocesses", None):
    _peaks.append(peak)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
  """Takes the peak of a worker of pytest-xdist that has ended."""
  if peak := getattr(node, "workeroutput", {}).get("peak_memory"):
    _peaks.append(f"{node.gateway.id} {peak}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
  """Reports the peaks."""
  if _peaks:
    terminalreporter.write_line(f"peak memory: {', '.join(sorted(_peaks))}")
