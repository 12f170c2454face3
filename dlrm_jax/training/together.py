"""Several runs that differ in seed or learning rates only, trained at once by one program: `loop.train` for all of them.

Each run keeps its own curve, record and checkpoints, which are those of the run alone: what was stopped here goes on by itself. The
programs are in `stacked_step.py`. Called by sweeps for `--together`.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common import stopping
from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import Source, one_pass
from dlrm_jax.embedding.layout import MAX_TOTAL_ROWS, make_layout
from dlrm_jax.embedding.planner import machine_of, make_plan, memory_limit, plan_bytes, working_bytes
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.training import checkpoint
from dlrm_jax.training.checkpoints import Checkpoints
from dlrm_jax.training.evaluation import EvalSet, evaluate_all
from dlrm_jax.training.learner import facts_of
from dlrm_jax.training.read_ahead import read_ahead
from dlrm_jax.training.stacked_step import Batches, compile_programs
from dlrm_jax.training.state import Progress, TrainState
from dlrm_jax.training.trajectory import OnProgress, Trajectory

Outcome = dict[str, Any] | Exception
_AHEAD = 2  # calls whose batches go to the device before they are due


def train(
  configs: Sequence[RunConfig], directories: Sequence[str | Path], source: Source, on_progress: Sequence[OnProgress | None] | None = None
) -> list[Outcome]:
  """Trains runs of one `config.together_key` from their beginning, at once, or in several lots where the device has not room for all.

  A run whose loss is not finite gets its record then; the others go on. Losses are those of the runs alone, but for the order of sums
  (and with bfloat16 rows for what is rounded otherwise because of it).

  Args:
    configs: the runs.
    directories: of each run, without checkpoints.
    source: of all of them.
    on_progress: of each run, as in `loop.train`. What one raises, unless it is an OSError, takes its run out, without a record; the others
      go on.

  Returns each run's record, or what its `on_progress` raised.

  Raises:
    UserError: bad input, before anything is written.
    OSError: a directory cannot be written.
    Stopped: a signal came; what there is to save is saved.
  """
  callbacks: Sequence[OnProgress | None] = [None] * len(configs) if on_progress is None else on_progress
  lot, outcomes = _fitting(one_pass(configs[0], source), source), list[Outcome]()
  for first in range(0, len(configs), lot):
    some = slice(first, first + lot)
    outcomes += _Lot([one_pass(config, source) for config in configs[some]], directories[some], source, callbacks[some]).train()
  return outcomes


def _fitting(config: RunConfig, source: Source) -> int:
  """How many such runs there is room for, in the device's memory and in row numbers of 31 bits; at least one."""
  layout, machine = make_layout(config.model, source.shape), machine_of(make_mesh(config))
  plan, memory = make_plan(config, layout, machine), memory_limit(config, machine)
  fitting = MAX_TOTAL_ROWS // max(group.local_rows for group in plan.groups)
  if memory is not None:
    fitting = min(fitting, memory // (plan_bytes(plan, config.train.table_optimizer) + working_bytes(config, layout, 1)))
  return max(1, fitting)


def batches_of(configs: Sequence[RunConfig], source: Source, put: Callable[[Batch], Batch]) -> Iterator[Batches]:
  """A batch for each run, step by step, on the device a few ahead of their use. Runs that see the same examples share them."""
  settings = configs[0].train
  seeded = isinstance(source, Planted) or settings.order == "shuffled"
  seeds = [config.train.seed if seeded else 0 for config in configs]
  different = list(dict.fromkeys(seeds))
  streams = [map(put, source.train_batches(seed, settings.batch_size, settings.num_examples)) for seed in different]
  place = [different.index(seed) for seed in seeds]
  together = (tuple(batches[i] for i in place) for batches in zip(*streams, strict=True))
  return read_ahead(together, _AHEAD * configs[0].steps_per_call)


class _TakenOut(Exception):
  """What a run's own `on_progress` raised."""

  def __init__(self, error: Exception):
    super().__init__(str(error))
    self.error = error


def _telling(on_progress: OnProgress | None) -> OnProgress | None:
  """`on_progress`, with what it raises marked as its own. OSError is everybody's."""
  if on_progress is None:
    return None

  def told(examples: int, loss: float) -> None:
    try:
      on_progress(examples, loss)
    except OSError:
      raise
    except Exception as error:
      raise _TakenOut(error) from error

  return told


class _Lot:
  """Runs in one program, each named by its place among them."""

  def __init__(
    self, configs: Sequence[RunConfig], directories: Sequence[str | Path], source: Source, callbacks: Sequence[OnProgress | None]
  ):
    self.config, mesh = configs[0], make_mesh(configs[0])
    self.plan = make_plan(self.config, make_layout(self.config.model, source.shape), machine_of(mesh))
    self.mesh, self.programs = mesh, compile_programs(configs, self.plan, source.shape.num_dense, mesh)
    self.facts = facts_of(self.config, self.plan, source.shape.num_dense, self.programs.xla_flops) | {"trained_together": len(configs)}
    stopping.check()
    self.evals = EvalSet(source, self.programs, self.config.train)
    stopping.check()
    self.runs = [
      Trajectory(config, source, directory, self.evals.num_examples, _telling(callback))
      for config, directory, callback in zip(configs, directories, callbacks, strict=True)
    ]
    self.batches = batches_of(configs, source, self.programs.put)
    self.outcomes: dict[int, Outcome] = {}

  @property
  def alive(self) -> list[int]:
    """The runs that go on: all of them are equally far."""
    return [i for i in range(len(self.runs)) if i not in self.outcomes]

  def train(self) -> list[Outcome]:
    """Trains to the end of all; their outcomes, in order."""
    with contextlib.ExitStack() as opened:
      every_s, keep = self.config.checkpoint_every_s, self.config.keep_checkpoints
      self.checkpoints = [opened.enter_context(Checkpoints(run.directory / "checkpoint", keep, every_s)) for run in self.runs]
      state = self.programs.start()
      for run in self.runs:
        run.start()
      while self.alive:
        first = self.runs[self.alive[0]]
        if stopping.requested():
          self._save(state)
          self._stop()
        if first.due:
          self._evaluate(state)
        else:
          call = list(itertools.islice(self.batches, first.steps_to_call))
          state = self.programs.train(state, *call)
          for run in self.runs:
            run.advance(len(call))
          if first.looking:
            state = self._look(state)
        looking, due = first.looking, first.due
        self._finish_ended(state)
        if looking and not due and self.alive and self.checkpoints[self.alive[0]].due():
          self._save(state)
    return [self.outcomes[i] for i in range(len(self.runs))]

  def _each(self, do: Callable[[int, Trajectory], None]) -> None:
    """Does something with every run that goes on; one that its `on_progress` takes out goes on no more."""
    for i in self.alive:
      try:
        do(i, self.runs[i])
      except _TakenOut as out:
        self.outcomes[i] = out.error

  def _look(self, state: TrainState) -> TrainState:
    """Reads the losses since the last look; the state with its sums at 0."""
    progress = jax.device_get(state.progress)
    losses = [float(total) / max(float(weight), 1.0) for total, weight in zip(progress.loss_sum, progress.weight_sum, strict=True)]
    self._each(lambda i, run: run.look(losses[i], int(progress.bad_step[i])))
    zero = np.zeros(len(self.runs), np.float32)
    return dataclasses.replace(state, progress=Progress(zero, zero.copy(), progress.bad_step))

  def _evaluate(self, state: TrainState) -> None:
    jax.block_until_ready(state)
    alive = self.alive
    self._each(lambda i, run: run.pause())
    measured = evaluate_all(self.programs.predict, state, self.evals, alive)
    if measured is not None:
      of_run = dict(zip(alive, measured, strict=True))
      self._each(lambda i, run: run.evaluated(of_run[i]))

  def _save(self, state: TrainState) -> None:
    """A checkpoint of every run that goes on, as it would be of the run alone."""

    def save(i: int, run: Trajectory) -> None:
      run.pause()
      run.confirm()
      take = functools.partial(self._snapshot, state, i)
      self.checkpoints[i].save(run.examples, take, run.facts())
      run.go_on()

    jax.block_until_ready(state)
    if self.runs[self.alive[0]].examples:
      self._each(save)

  def _snapshot(self, state: TrainState, i: int) -> checkpoint.Snapshot:
    return checkpoint.snapshot(self.programs.part(state, i), self.plan, self.mesh)

  def _finish_ended(self, state: TrainState) -> None:
    """Writes the records of the runs that have just ended."""
    if self.config.checkpoint and any(self.runs[i].ended and not self.runs[i].diverged for i in self.alive):
      self._save(state)

    def finish(i: int, run: Trajectory) -> None:
      if run.ended:
        self.checkpoints[i].wait()
        run.confirm()
        self.outcomes[i] = run.finish(self.facts)
        self.checkpoints[i].clear(keep=int(self.config.checkpoint))

    self._each(finish)

  def _stop(self) -> None:
    """Raises Stopped once what was begun is on disk."""
    alive = self.alive
    for i in alive:
      self.checkpoints[i].wait()
    saved = sum(self.checkpoints[i].saved is not None for i in alive)
    examples = self.runs[alive[0]].examples
    raise stopping.Stopped(f"{stopping.name()} after {examples:,} examples of {len(alive)} runs, {saved} saved: the same command goes on")
