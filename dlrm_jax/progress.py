"""Progress of long work, on standard error."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
