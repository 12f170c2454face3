"""Progress of long work, on standard error."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_LINE_EVERY_S = 10


class Reporter:
  """A progress bar over the examples of one run, with the training loss; a line now and then without a terminal; silent if `quiet`."""

  def __init__(self, total: int, quiet: bool = False):
    self.total, self.lines, self.next_line = total, not quiet and not sys.stderr.isatty(), time.monotonic() + _LINE_EVERY_S
    self.bar = Progress(
      TextColumn("examples"),
      BarColumn(),
      MofNCompleteColumn(),
      TimeRemainingColumn(),
      TextColumn("loss {task.fields[loss]}"),
      console=Console(stderr=True),
      transient=True,
      disable=quiet or not sys.stderr.isatty(),
    )
    self.task = self.bar.add_task("", total=total, loss="-")

  def update(self, examples: int, loss: float) -> None:
    """Shows `examples` done and the mean training loss since the last call."""
    self.bar.update(self.task, completed=examples, loss=f"{loss:.4f}")
    if self.lines and time.monotonic() >= self.next_line:
      print(f"{examples:,} of {self.total:,} examples, loss {loss:.4f}", file=sys.stderr, flush=True)
      self.next_line = time.monotonic() + _LINE_EVERY_S

  def __enter__(self) -> "Reporter":
    self.bar.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
    self.bar.stop()


class Bar:
  """A progress bar over counted work, removed at the end; without a terminal a line now and then. Called with what was done since."""

  def __init__(self, what: str, total: int, is_bytes: bool = False):
    unit = (DownloadColumn(), TransferSpeedColumn()) if is_bytes else (MofNCompleteColumn(),)
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), *unit, TimeRemainingColumn())
    self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    self._task = self._bar.add_task(what, total=total)
    self._what, self._total, self._done, self._lines = what, total, 0, not console.is_terminal
    self._next_line = time.monotonic() + _LINE_EVERY_S

  def __enter__(self) -> "Bar":
    self._bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.stop()

  def extend(self, count: int) -> None:
    """There is more to do than was thought."""
    self._total += count
    self._bar.update(self._task, total=self._total)

  def __call__(self, count: int) -> None:
    self._done += count
    self._bar.update(self._task, completed=self._done)
    if self._lines and time.monotonic() >= self._next_line:
      print(f"{self._what}: {self._done / max(self._total, 1):.0%}", file=sys.stderr, flush=True)
      self._next_line = time.monotonic() + _LINE_EVERY_S
