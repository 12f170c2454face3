"""Progress of long work, on standard error."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
  """A progress bar over the examples of one run, with the training loss; silent if `quiet` or not on a terminal."""

  def __init__(self, total: int, quiet: bool = False):
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

  def __enter__(self) -> "Reporter":
    self.bar.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
    self.bar.stop()
