"""Errors of the garbage collector fail a test when they come from this project's code, and only then (helpers/leftovers.py)."""

import os
import subprocess
import sys
from pathlib import Path

from places import HELPERS

LIBRARY = """
import asyncio

class Held:
  def __init__(self):
    self.me = self
  def __del__(self):
    raise RuntimeError("Held of a library")

async def read():
  pass

async def waiting(loop):
  try:
    await asyncio.get_running_loop().create_future()
  finally:
    loop.call_soon(print)  # RuntimeError: Event loop is closed

def call(function):
  function()
"""
THEIRS = """
import asyncio, gc
import library

def test_leaves_objects():
  library.Held()

def test_leaves_a_coroutine():
  library.read()

def test_leaves_an_event_loop():
  asyncio.new_event_loop()

def test_leaves_a_task_of_a_closed_loop():
  loop = asyncio.new_event_loop()
  task = loop.create_task(library.waiting(loop))
  loop.run_until_complete(asyncio.sleep(0))
  loop.close()

def test_collects():
  gc.collect()
"""
OURS = """
import gc, weakref
import library

class Held:
  def __del__(self):
    raise RuntimeError("Held of ours")

class Called:
  def __del__(self):
    library.call(self.fail)
  def fail(self):
    raise RuntimeError("called by a library")

class Cycle(Held):
  def __init__(self):
    self.me = self

async def read():
  pass

def generator():
  try:
    yield
  finally:
    library.call(1)

def fails():
  raise RuntimeError("a callback")

def test_object():
  Held()

def test_called_by_a_library():
  Called()

def test_collected_later():
  Cycle()
  gc.collect()

def test_coroutine():
  read()

def test_generator():
  next(generator())

def test_callback():
  class Seen: pass
  seen = Seen()
  reference = weakref.ref(seen, lambda _: fails())
  del seen

def test_open_file():
  open(__file__)
"""


def run(tmp_path: Path, text: str) -> str:
  """The report of a project of one test file, in which every warning is an error."""
  project, library = tmp_path / "project", tmp_path / "site-packages"
  project.mkdir()
  library.mkdir()
  (project / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
  (project / "test_it.py").write_text(text)
  (library / "library.py").write_text(LIBRARY)
  environment = os.environ | {"PYTHONPATH": f"{library}:{HELPERS}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
  command = [sys.executable, "-m", "pytest", "-p", "leftovers", "-p", "no:cacheprovider", "-rA", "--tb=line"]
  return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False).stdout


def test_those_of_other_libraries_are_listed(tmp_path: Path) -> None:
  shown = run(tmp_path, THEIRS)
  assert "5 passed" in shown and "failed" not in shown and "error" not in shown.splitlines()[-1], shown
  for message in (
    "Held of a library",
    "coroutine 'read' was never awaited",
    "unclosed event loop",
    "unclosed <socket.socket",
    "Event loop is closed",
  ):
    assert any(line.startswith("left to the garbage collector") and message in line for line in shown.splitlines()), (message, shown)


def test_our_own_fail(tmp_path: Path) -> None:
  shown = run(tmp_path, OURS)
  assert "7 failed" in shown and "passed" not in shown.splitlines()[-1], shown
  assert "left to the garbage collector" not in shown, shown
