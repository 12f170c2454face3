"""Progress of long work, on standard error."""

import sys
import time

from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dlrm_jax.common import terminal
from dlrm_jax.common.text import visible

_LINE_EVERY_S = 10


class Bar:
  """A progress bar over counted work. Call it with the count done since the last call.

  The bar is removed at the end. Without a terminal it prints a line every 10 seconds instead, and nothing if `quiet`.
  """

  def __init__(self, what: str, total: int, is_bytes: bool = False, quiet: bool = False):
    unit = (DownloadColumn(), TransferSpeedColumn()) if is_bytes else (MofNCompleteColumn(),)
    console = terminal.console(stderr=True)
    name, note = (TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[note]}"))
    columns = (name, BarColumn(), *unit, TimeRemainingColumn(), note)
    self._bar = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    self._task = self._bar.add_task(what, total=total, note="")
    self._what, self._total, self._done = what, total, 0
    self._lines, self._next_line = not quiet and not console.is_terminal, time.monotonic() + _LINE_EVERY_S

  def __enter__(self) -> "Bar":
    self._bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.stop()

  def extend(self, count: int) -> None:
    """Adds newly found work to the total."""
    self._total += count
    self._bar.update(self._task, total=self._total)

  def __call__(self, count: int) -> None:
    self._show(self._done + count, f"{self._what}: {(self._done + count) / max(self._total, 1):.0%}")

  def update(self, examples: int, loss: float) -> None:
    """In place of a call, for training: the count of examples so far, and the mean training loss since the last update."""
    self._show(examples, f"{examples:,} of {self._total:,} {self._what}, progressive loss {loss:.4f}", f"progressive loss {loss:.4f}")

  def _show(self, done: int, line: str, note: str = "") -> None:
    self._done = done
    self._bar.update(self._task, completed=done, note=note)
    if self._lines and time.monotonic() >= self._next_line:
      say(line)
      self._next_line = time.monotonic() + _LINE_EVERY_S


def say(text: str = "", end: str = "\n") -> None:
  """Prints a line of progress to standard error at once."""
  print(visible(text, keep="\n"), end=end, file=sys.stderr, flush=True)
