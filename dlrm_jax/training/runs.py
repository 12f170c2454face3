"""`Runs`: the runs that the loop trains at once, one in the usual case, with their checkpoints and how each of them ended.

All are equally far. Each has its own curve, record and checkpoints, which are those of the run alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dlrm_jax.common import stopping
from dlrm_jax.training import metrics
from dlrm_jax.training.checkpoints import Checkpoints
from dlrm_jax.training.learner import Learner
from dlrm_jax.training.trajectory import OnProgress, Trajectory

Outcome = dict[str, Any] | Exception  # a run's record, or what its `on_progress` raised


class _TakenOut(Exception):
  """What a run's own `on_progress` raised."""

  def __init__(self, error: Exception):
    super().__init__(str(error))
    self.error = error


def marked(on_progress: OnProgress | None) -> OnProgress | None:
  """`on_progress`, with what it raises marked as its own. An OSError is no run's own: it ends all."""
  if on_progress is None:
    return None

  def call(examples: int, loss: float) -> None:
    try:
      on_progress(examples, loss)
    except OSError:
      raise
    except Exception as error:
      raise _TakenOut(error) from error

  return call


class Runs:
  """Runs by their position, and what became of those that have ended.

  Attributes:
    trajectories: of every run; their `on_progress` is `marked`.
    outcomes: of those that have ended, by position.
  """

  def __init__(self, trajectories: Sequence[Trajectory], checkpoints: Sequence[Checkpoints], learner: Learner):
    self.trajectories, self.outcomes = trajectories, dict[int, Outcome]()
    self._checkpoints, self._learner, self._config = checkpoints, learner, trajectories[0].config
    self._began = trajectories[0].examples

  @property
  def alive(self) -> list[int]:
    """The positions of the runs that go on."""
    return [i for i in range(len(self.trajectories)) if i not in self.outcomes]

  @property
  def first(self) -> Trajectory:
    """The first run that goes on: the others are as far as it is."""
    return self.trajectories[self.alive[0]]

  def _each(self, do: Callable[[int, Trajectory], None]) -> None:
    """Does something with every run that goes on. A run whose `on_progress` raises ends with what that raised."""
    for i in self.alive:
      try:
        do(i, self.trajectories[i])
      except _TakenOut as out:
        self.outcomes[i] = out.error

  def start(self) -> None:
    """Makes the directories and starts the clocks."""
    for run in self.trajectories:
      run.start()

  def pause(self) -> None:
    """Stops the clocks of training."""
    self._each(lambda i, run: run.pause())

  def evaluated(self, examples: int, measured: Sequence[metrics.Metrics], common: Sequence[metrics.Metrics] | None = None) -> None:
    """Adds a row to the curve of every run that goes on; the metrics in their order, else as `Trajectory.evaluated` takes them."""
    of_run = dict(zip(self.alive, zip(measured, common or measured, strict=True), strict=True))
    self._each(lambda i, run: run.evaluated(*of_run[i], examples))

  def advance(self, steps: int) -> None:
    """Counts so many more steps of every run."""
    for run in self.trajectories:
      run.advance(steps)

  def look(self, losses: Sequence[float], bad_steps: Sequence[int], weights: Sequence[float]) -> None:
    """Takes each run's mean training loss since the last look, its first step whose loss was not finite, or -1, and the sum of weights."""
    self._each(lambda i, run: run.look(losses[i], bad_steps[i], weights[i]))

  def save(self, state: Any) -> None:
    """Begins a checkpoint of every run that goes on and is sound, as it would be of the run alone. The learner may have none."""
    take = self._learner.snapshot
    if take is None or self.first.examples == self._began:
      return

    def save(i: int, run: Trajectory) -> None:
      if not run.diverged:
        run.pause()
        run.confirm()
        self._checkpoints[i].save(run.examples, functools.partial(take, state, i), run.facts())
        run.go_on()

    jax.block_until_ready(state)
    self._each(save)

  def save_if_due(self, state: Any) -> None:
    """Begins checkpoints where it is time for them: only after a look at the loss, and never before an evaluation."""
    if self.alive and self.first.looking and not self.first.due and self._checkpoints[self.alive[0]].due():
      self.save(state)

  def finish_ended(self, state: Any) -> None:
    """Writes the records of the runs that have ended."""
    keep = self._config.checkpoint
    if keep and any(self.trajectories[i].ended and not self.trajectories[i].diverged for i in self.alive):
      self.save(state)

    def finish(i: int, run: Trajectory) -> None:
      if run.ended:
        self._checkpoints[i].wait()
        run.confirm()
        self.outcomes[i] = run.finish(self._learner.facts)
        self._checkpoints[i].clear(keep=int(keep))

    self._each(finish)

  def stop(self, state: Any) -> None:
    """Saves what there is to save, and raises Stopped once it is on disk, unless no run is left by then.

    The message says what the same command will go on from.
    """
    self.save(state)
    if not self.alive:
      return
    for i in self.alive:
      self._checkpoints[i].wait()
    saved = [self._checkpoints[i].saved for i in self.alive]
    if len(self.trajectories) > 1:
      whole = len(saved) - saved.count(None)
      then = f" of {len(saved)} runs, {whole} saved: the same command goes on"
    elif saved[0] is None:
      then = ", nothing is saved: the same command begins anew"
    else:
      then = f", saved after {saved[0]:,} in {self._checkpoints[0].directory}: the same command goes on from there"
    raise stopping.Stopped(f"{stopping.name()} after {self.first.examples:,} examples{then}")
