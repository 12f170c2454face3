"""Shows the progress of a whole sweep on standard error. It reads the files of the runs, so it works alike for every launcher."""

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn

from dlrm_jax.common import terminal
from dlrm_jax.common.axis_names import below_largest
from dlrm_jax.common.progress import say
from sweeps.points import Run, SweepConfig, runs_of
from sweeps.states import RunStates, Totals, outcome_line

_LINE_EVERY_S = 10.0
_BAR_EVERY_S = 1.0


class Display:
  """Prints which runs have ended and how far the sweep is: a bar on a terminal, else a line every ten seconds.

  Args:
    sweep: the sweep.
    points: its points.
    follow: print how a run ended when its files show it. Else the code that trains the runs in this process calls `say`.
  """

  def __init__(self, sweep: SweepConfig, points: list[Run], follow: bool):
    self._follow = follow
    runs = runs_of(points)
    self.names = {config_id: point.name for config_id, (point, _) in runs.items()}
    self.small = below_largest(point.describe() for point, _ in points)
    totals = {config_id: run.point.examples for config_id, run in runs.items()}
    self.runs = RunStates(sweep.run.workdir, totals, sweep.launch.stale_after_s)
    self.totals = self.runs.look()
    self._known = {config_id: run.state for config_id, run in self.runs.states.items()}
    console = terminal.console(stderr=True)
    self._lines = not console.is_terminal
    self._every_s = _LINE_EVERY_S if self._lines else _BAR_EVERY_S
    self._next = time.monotonic() + self._every_s
    columns = (BarColumn(), TextColumn("{task.description}", markup=False))
    self._bar = Progress(*columns, console=console, transient=True, disable=self._lines)
    self._task = self._bar.add_task("", total=self.totals.total)

  def __enter__(self) -> "Display":
    self._bar.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
    self._bar.stop()

  def tick(self) -> None:
    """Reads the runs anew if it is time to."""
    if time.monotonic() >= self._next:
      self._look()
      if self._lines:
        say(self.totals.line())
      self._next = time.monotonic() + self._every_s

  def finish(self) -> Totals:
    """Reads the runs a last time and returns the totals."""
    self._look()
    return self.totals

  def _look(self) -> None:
    self.totals = self.runs.look()
    for config_id, run in self.runs.states.items():
      if self._follow and run.state != self._known[config_id] and run.out and run.state != "running":
        self.say(f"{self.names[config_id]}: {outcome_line(run.out)}")
      self._known[config_id] = run.state
    self._bar.update(self._task, completed=self.totals.examples, description=self.totals.line())

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    if self._lines:
      say(text)
    else:
      self._bar.console.print(text)
