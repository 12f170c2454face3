"""The checkpoints of one run: when they are written, how many are kept, which one a run goes on from. Called by the loop.

    DIRECTORY/000000123456/    a checkpoint (checkpoint.py) after that many examples; without its manifest, one that was not finished

Arrays are written while training goes on. A checkpoint that cannot be written costs a line, not the run: earlier ones are kept.
"""

import contextlib
import functools
import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import broadcast_one_to_all

from dlrm_jax.common.progress import say
from dlrm_jax.training import checkpoint
from dlrm_jax.training.checkpoint import MANIFEST, Damaged, Snapshot

T = TypeVar("T")
_DIGITS, _LOW = 12, 10**6  # of the name of a checkpoint; half of them fit an int32
_MOST = 64  # checkpoints that several processes consider


def found(directory: Path) -> list[Path]:
  """Checkpoints below a directory, whole or not, the newest first. All processes get what the first one sees."""
  names = sorted((int(path.name) for path in directory.glob("[0-9]" * _DIGITS) if path.is_dir()), reverse=True)
  if jax.process_count() > 1:
    names = _of_the_first((names + [0] * _MOST)[:_MOST])
  return [directory / f"{name:0{_DIGITS}d}" for name in names if name]


def _of_the_first(counts: list[int]) -> list[int]:
  """The first process's numbers of examples, in every process. All must give equally many, since they travel as an array."""
  halves = broadcast_one_to_all(np.array([divmod(count, _LOW) for count in counts], np.int32))
  return [int(high) * _LOW + int(low) for high, low in halves]


def restore_newest(paths: list[Path], restore: Callable[[Path], T]) -> tuple[T, Path] | None:
  """(what `restore` gives for the first of `paths` that is sound, its path); None where none is sound. Damaged ones are reported."""
  damage: list[str] = []
  for path in paths:
    try:
      out = restore(path)
    except Damaged as error:
      damage.append(str(error))
      continue
    _say(damage, f"going on from {path}")
    return out, path
  _say(damage, "there is none before it")
  return None


def _say(damage: list[str], then: str) -> None:
  for text in damage if jax.process_index() == 0 else []:
    say(f"{text}; {then}")


class Checkpoints:
  """The checkpoints of a run in a directory. One at a time is being written.

  Attributes:
    directory: their directory.
    saved: examples of the newest that is whole; None without any. Of several processes the first knows it, after `wait` all do.
  """

  def __init__(self, directory: Path, keep: int, every_s: float):
    self.directory, self.saved = directory, cast(int | None, None)
    self._keep, self._every_s, self._last = keep, every_s, time.monotonic()
    self._tried: int | None = None  # examples of the newest that was begun
    self._writer: ocp.AsyncCheckpointer | None = None
    self._thread: threading.Thread | None = None
    self._waiting = False

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
    """Finishes what was begun, whatever ended the run; Ctrl-C does not wait."""
    if kind is not KeyboardInterrupt and self._thread is not None:
      self._thread.join()
    if self._writer is not None and kind is not KeyboardInterrupt:
      self._writer.close()

  def restore(self, restore: Callable[[Path], T]) -> tuple[T, Path] | None:
    """As `restore_newest`. Checkpoints newer than the one restored are damaged, and are removed."""
    paths = found(self.directory)
    out = restore_newest(paths, restore)
    if out is not None:
      self.saved = self._tried = int(out[1].name)
    _remove(path for path in paths if self.saved is None or int(path.name) > self.saved)
    return out

  def due(self) -> bool:
    """Whether it is time for one. The first process decides, so all must call it in the same places."""
    late = self._every_s > 0 and time.monotonic() - self._last >= self._every_s
    return bool(broadcast_one_to_all(np.int32(late))) if jax.process_count() > 1 else late

  def save(self, examples: int, take: Callable[[], Snapshot], run: dict[str, Any]) -> None:
    """Copies the state by `take` and starts to write it together with `run`, unless there is one of so many examples already.

    A disk that is full or cannot be written to is reported, and raises nothing.
    """
    self.wait()
    self._last = time.monotonic()
    if examples == self._tried:
      return
    self._tried, path, snapshot = examples, self.directory / f"{examples:0{_DIGITS}d}", take()
    if self._writer is None:
      _leave_errors_to_us()
      self._writer = checkpoint.writer()
    if not self._make(path):
      return
    self._waiting = True
    try:
      checkpoint.start_writing(self._writer, path, snapshot.arrays)
    except Exception as error:
      self._give_up(path, error)
    else:
      self._thread = threading.Thread(target=self._finish, args=(path, self._writer, snapshot.facts, run), name="checkpoint")
      self._thread.start()

  def _make(self, path: Path) -> bool:
    """Whether the first process could make the directory. Every process learns it: else some would wait for the others for ever."""
    made = True
    if jax.process_index() == 0:
      try:
        path.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        self._give_up(path, error)
        made = False
    return bool(broadcast_one_to_all(np.int32(made))) if jax.process_count() > 1 else made

  def _finish(self, path: Path, writer: ocp.AsyncCheckpointer, facts: dict[str, Any], run: dict[str, Any]) -> None:
    """Runs in a thread: waits for the arrays, makes the checkpoint whole, removes those beyond the number to keep."""
    try:
      writer.wait_until_finished()
      if jax.process_index() == 0:
        checkpoint.seal(path, facts, run)
        self.saved = int(path.name)
        _remove(sorted(self._whole(), reverse=True)[self._keep :])
    except Exception as error:
      self._give_up(path, error)

  def _give_up(self, path: Path, error: Exception) -> None:
    """Reports an error, whatever it is: OSError without room or permission, ValueError and others from TensorStore. The run goes on."""
    if jax.process_index() == 0:
      with contextlib.suppress(OSError):
        _remove([path])
      text = " ".join(str(error).split()).rpartition('": ')[2][:200]  # TensorStore says the cause last, after the file
      say(f"{path}: this checkpoint could not be written ({text}); the run goes on")

  def wait(self) -> None:
    """Waits until what was begun is on disk, or has been given up."""
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._waiting and jax.process_count() > 1:  # no process ends before the first has written the manifest
      (saved,) = _of_the_first([-1 if self.saved is None else self.saved])
      self.saved = None if saved < 0 else saved
    self._waiting = False

  def clear(self, keep: int) -> None:
    """Removes all but the newest `keep`: the run has ended."""
    if jax.process_index() == 0:
      _remove(sorted(self._whole(), reverse=True)[keep:])
      if not keep:
        shutil.rmtree(self.directory, ignore_errors=True)

  def _whole(self) -> list[Path]:
    return [path.parent for path in self.directory.glob(f"{'[0-9]' * _DIGITS}/{MANIFEST}")]


def _remove(paths: Any) -> None:
  """Removes each manifest first, so that what is half removed is not whole."""
  for path in paths if jax.process_index() == 0 else []:
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


@functools.cache
def _leave_errors_to_us() -> None:
  """Silences what libraries print about an error that we report in one line.

  Where one array cannot be written, Orbax closes the event loop. Orbax, asyncio and TensorStore then print a traceback for each other array
  that was being written.
  """
  logging.getLogger("absl").addFilter(lambda entry: "orbax" not in entry.pathname)
  logging.getLogger("asyncio").addFilter(lambda entry: not re.search("never retrieved.*Error writing", entry.getMessage(), re.DOTALL))
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    if not (unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"):
      before(unraisable)

  sys.unraisablehook = hook
