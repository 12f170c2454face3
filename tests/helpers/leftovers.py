"""Decides which errors of the garbage collector fail a test: those of this project's code. A pytest plugin, loaded by conftest.py.

Python reports an error in a finaliser to `sys.unraisablehook`, whenever the collector runs. pytest then fails the test that runs at that
time. An object that another library leaves behind would so fail an unrelated test.
"""

import re
import sys
import traceback
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Modules of the standard library that this project does not use, except for host names and free ports: their objects are other libraries'.
_OTHERS = ("asyncio", "selectors", "socket")

_dropped: Counter[str] = Counter()


def _files(unraisable: Any) -> Iterator[str]:
  """The source files that an error concerns: those of its traceback, and the one that defines the object.

  Where a finaliser is not Python code, the traceback holds the frame that happened to run. That frame is left out.
  """
  running = {id(frame) for frame, _ in traceback.walk_stack(None)}  # not the frames, which would keep all their objects
  yield from (frame.f_code.co_filename for frame, _ in traceback.walk_tb(unraisable.exc_traceback) if id(frame) not in running)
  found = getattr(unraisable.object, "__func__", unraisable.object)
  for name in ("cr_code", "gi_code", "ag_code", "__code__"):  # of a coroutine, a generator, an asynchronous generator, a function
    if isinstance(code := getattr(found, name, None), types.CodeType):
      yield code.co_filename
  module = sys.modules.get(getattr(found if callable(found) else type(found), "__module__", None) or "")
  if file := getattr(module, "__file__", None):
    yield file


def is_ours(unraisable: Any, root: Path) -> bool:
  """Whether an error fails the test: it concerns a file of the project, or nothing says whose it is, such as a file left open."""
  files = [Path(file) for file in _files(unraisable)]
  installed = [file for file in files if "site-packages" in file.parts]
  if any(root in file.parents for file in files if file not in installed):
    return True
  return not installed and not any(name in (file.stem, file.parent.name) for name in _OTHERS for file in files)


@pytest.hookimpl(trylast=True)  # after pytest has installed its own hook
def pytest_configure(config: pytest.Config) -> None:
  """Puts the decision before pytest's hook, which removes both in the end."""
  of_pytest, root = sys.unraisablehook, config.rootpath

  def hook(unraisable: Any) -> None:
    if is_ours(unraisable, root):
      of_pytest(unraisable)
    else:
      kind = getattr(unraisable.object, "__qualname__", type(unraisable.object).__qualname__)
      message = re.sub(r"0x[0-9a-f]+|[0-9]+", "N", str(unraisable.exc_value))
      _dropped[f"{unraisable.exc_type.__name__}: {message} ({kind})"] += 1

  sys.unraisablehook = hook


def pytest_sessionfinish(session: pytest.Session) -> None:
  """Passes a worker's count on to the process that reports."""
  if hasattr(session.config, "workeroutput"):
    session.config.workeroutput["leftovers"] = dict(_dropped)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
  """Adds the count of a worker of pytest-xdist that has ended."""
  _dropped.update(getattr(node, "workeroutput", {}).get("leftovers", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
  """Lists what did not count."""
  for kind, times in sorted(_dropped.items()):
    terminalreporter.write_line(f"left to the garbage collector by another library, {times} x {kind}")
