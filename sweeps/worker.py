"""One sweeper: claims a run, trains it, reports how it ended, takes the next. Any number can work on one directory, on any machines.

python -m sweeps.worker --workdir=DIR ...the flags of sweeps.run...

Started by the launchers; `sweeps.run` works the same way inside its own process. What it prints goes to WORKDIR/logs there.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dlrm_jax.common import flags, record, stopping
from dlrm_jax.common.progress import say
from dlrm_jax.common.tasks import end_with
from dlrm_jax.identity import together_key
from dlrm_jax.machine import hardware, mesh
from dlrm_jax.training import loop
from sweeps import claims, store
from sweeps.points import Run, SweepConfig, expand, runs_of
from sweeps.states import RunState, outcome_line, state_of

_LEAVE, _LATER = -1, -2  # what process 0 sends the others instead of the number of a run
_LOOK_EVERY_S = 1.0


@dataclasses.dataclass(frozen=True)
class WorkerConfig(SweepConfig):
  """A sweep, and what one sweeper does of it."""

  only: tuple[str, ...] = flags.option((), "config ids of the runs to do; none: all of the sweep")
  wait: bool = flags.option(False, "stay until every run has ended, to take over those whose sweepers die; else leave when no run is free")
  parent: int = flags.option(0, "the process that this one must not outlive; 0: none")


def main(config: WorkerConfig) -> None:
  """Works until nothing is left to do. The records show which runs failed, not the exit code."""
  flags.check(bool(config.run.workdir), config.run, "workdir", "a directory for sweep.json and runs/")
  if config.parent:
    end_with(config.parent)
  hardware.select_platform()
  connected = mesh.connect(config.run)
  hardware.share_compiled(store.compile_cache(config.run.workdir))
  with stopping.installed():
    work(config, expand(dataclasses.replace(config, run=connected)), config.wait, config.only, tell=say)


def work(
  sweep: SweepConfig,
  points: list[Run],
  wait: bool,
  only: tuple[str, ...] = (),
  tick: Callable[[], None] = lambda: None,
  tell: Callable[[str], None] = lambda text: None,
) -> None:
  """Does the runs of a sweep that nobody has done or is doing. Several processes of one run each call it alike; the first claims.

  Args:
    sweep: the sweep; `launch` and `run.workdir` are read.
    points: its points.
    wait: stay until every run has ended; else leave when every run left has an owner that lives.
    only: config ids to do; none: all.
    tick: called now and then, to show progress.
    tell: called with one line on how each run ended.

  Raises:
    OSError: the directory cannot be written. Nothing is counted against a run then.
    UserError: a run needs more devices than there are.
    Stopped: the process was asked to stop.
    Exception: in one of several processes, whatever a run raises.
  """
  runs = {config_id: run for config_id, run in runs_of(points).items() if not only or config_id in only}
  for config_id, (point, _) in runs.items():
    if not (store.run_directory(sweep.run.workdir, config_id) / "record.json").exists():
      mesh.make_mesh(point.config)  # too few devices: reported now, not after hours
  sweeper = _Sweeper(sweep, runs, tick, tell) if jax.process_index() == 0 else None
  while True:
    if stopping.requested():
      raise stopping.Stopped("stopped between two runs")
    try:
      held = sweeper.claim(wait) if sweeper else None
    except BaseException:
      _agreed(_LEAVE)  # the others would wait for an answer
      raise
    choice = _agreed(list(runs).index(held[0].directory.name) if isinstance(held, list) else held)
    if choice == _LEAVE:
      return
    if choice == _LATER:
      time.sleep(_LOOK_EVERY_S)
    elif sweeper and isinstance(held, list):
      sweeper.train(held)
    else:
      point, source = list(runs.values())[choice]
      loop.train(point.config, store.run_directory(sweep.run.workdir, point.config_id), source, quiet=True)


def _agreed(choice: int | None) -> int:
  """The choice of process 0, in every process; the others give None."""
  if jax.process_count() == 1:
    assert choice is not None
    return choice
  return int(multihost_utils.broadcast_one_to_all(np.int32(_LEAVE if choice is None else choice)))


class _Sweeper:
  """The part of `work` that claims, in process 0.

  Args:
    sweep: the sweep.
    runs: what to do, by config_id.
    tick, tell: as in `work`.
  """

  def __init__(self, sweep: SweepConfig, runs: dict[str, Run], tick: Callable[[], None], tell: Callable[[str], None]):
    self.workdir, self.launch, self.runs, self.tick, self.tell = Path(sweep.run.workdir), sweep.launch, runs, tick, tell
    self.left = list(runs)
    self.observer = claims.Observer(sweep.launch.stale_after_s)

  def claim(self, wait: bool) -> list[claims.Claim] | int:
    """Claims a run, with those that can be trained together with it. Returns _LATER, or _LEAVE when no more will be free.

    Runs that never failed come first. A run that failed is trained alone: a failure would count against all that are trained with it.
    """
    self.tick()
    tried: list[tuple[int, str, RunState]] = []
    running = unknown = 0
    for config_id in list(self.left):
      found = state_of(store.run_directory(self.workdir, config_id), self.observer)
      if found.state in store.RESULTS:
        self.left.remove(config_id)
      elif found.state == "running":
        running, unknown = running + 1, unknown + (not found.known)
      elif found.counted >= self.launch.max_attempts:
        self._give_up(config_id, found)
      elif found.counted:
        tried.append((found.counted, config_id, found))
      elif held := self._take(config_id, found):
        return [held] if found.examples else self._with_company(held)
      else:
        running += 1  # another sweeper has claimed it since this one looked
    for _, config_id, found in sorted(tried, key=lambda item: item[0]):
      if held := self._take(config_id, found):
        return [held]
    if tried or unknown or (wait and running):
      return _LATER
    return _LEAVE

  def _with_company(self, first: claims.Claim) -> list[claims.Claim]:
    """Adds claims of runs that can be trained together with one, up to --together in all: new runs of the same `together_key`."""
    held, keys = [first], {name: together_key(self.runs[name].point.config) for name in self.left}
    shared = keys.pop(first.directory.name)
    try:
      for other in (name for name, key in keys.items() if key is not None and key == shared):
        if len(held) == self.launch.together:
          break
        found = state_of(store.run_directory(self.workdir, other), self.observer)
        new = found.state == "queued" and not found.counted and not found.examples
        if new and (claim := self._take(other, found)):
          held.append(claim)
    except BaseException:
      for claim in held:
        claim.withdraw()
      raise
    return held

  def _take(self, config_id: str, found: RunState) -> claims.Claim | None:
    """Claims a run, unless another sweeper is first, or has done it meanwhile."""
    directory, total = store.run_directory(self.workdir, config_id), self.runs[config_id].point.examples
    held = claims.claim(directory, found.generation + 1, found.examples, total, self.launch.stale_after_s)
    if held is None:
      return None
    try:
      if done := store.result(directory):
        held.end(done["status"])
        return None
      store.move_aside(directory)
    except BaseException:
      held.withdraw()
      raise
    return held

  def _give_up(self, config_id: str, found: RunState) -> None:
    """Drops a run that was tried too often; writes a record of that, where there is none yet."""
    if (found.lost or found.out is None) and (held := self._take(config_id, found)):
      self._fail(held, found.counted, ChildProcessError(claims.LOST_WORDS))
      held.end("given_up")
    self.left.remove(config_id)

  def _fail(self, held: claims.Claim, count: int, error: Exception) -> None:
    if held.overtaken():
      return
    point, source = self.runs[held.directory.name]
    out = store.failed_record(point, source, count, error)
    record.write_json(held.directory / "record.json", out)
    self.tell(f"{point.name}: {outcome_line(out)} (attempt {count} of {self.launch.max_attempts})")

  def train(self, held: list[claims.Claim]) -> None:
    """Trains claimed runs and reports how they ended. A run that ended before another one failed keeps its result.

    Raises what is not a run's own fault.
    """
    try:
      with contextlib.ExitStack() as beating:
        for claim in held:
          beating.enter_context(claim)
        results = self._results(held)
    except stopping.Stopped:
      for claim in held:
        done = store.result(claim.directory)
        claim.end(done["status"] if done else "stopped")
      raise
    except OSError:
      for claim in held:
        claim.withdraw()  # the store's fault, or the data's: not the runs'
      raise
    except Exception as error:
      for claim in held:
        self._failed(claim, error)
      if jax.process_count() > 1:
        raise  # the other processes may be waiting in the middle of a step
    except BaseException:
      for claim in held:
        claim.withdraw()
      raise
    else:
      for claim, out in sorted(zip(held, results), key=lambda pair: isinstance(pair[1], Exception)):
        if isinstance(out, Exception) and not isinstance(out, claims.Lost):
          claim.withdraw()  # raised by the callback of one of several: the store's fault
          raise out
        if not isinstance(out, Exception):
          claim.end(out["status"])
        self.tell(f"{self.runs[claim.directory.name].point.name}: {out if isinstance(out, Exception) else outcome_line(out)}")

  def _failed(self, claim: claims.Claim, error: Exception) -> None:
    """Records that the training raised `error`, unless this run had ended before."""
    try:
      if done := store.result(claim.directory):
        claim.end(done["status"])
        return
      self._fail(claim, claims.counted(claims.attempts(claim.directory)[:-1], claim.began) + 1, error)
      claim.end("failed" if jax.process_count() == 1 else "broke")
    except OSError:
      claim.withdraw()
      raise

  def _results(self, held: list[claims.Claim]) -> list[dict[str, Any] | Exception]:
    """The record of each run, or Lost where another sweeper owns it by now."""

    def progress(claim: claims.Claim, examples: int, loss: float) -> None:
      claim.progress(examples, loss)
      self.tick()

    runs = [self.runs[claim.directory.name] for claim in held]
    configs, source = [run.point.config for run in runs], runs[0].source
    callbacks = [functools.partial(progress, claim) for claim in held]
    if len(held) > 1:
      return loop.train_runs(configs, [claim.directory for claim in held], source, quiet=True, on_progress=callbacks)
    try:
      return [loop.train(configs[0], held[0].directory, source, quiet=True, on_progress=callbacks[0])]
    except claims.Lost as lost:
      if jax.process_count() > 1:
        raise  # the others are in the middle of a step: the job ends
      return [lost]


if __name__ == "__main__":
  flags.run(main, WorkerConfig)
