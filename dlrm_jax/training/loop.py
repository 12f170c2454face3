"""Training, read top to bottom: one pass over the examples, evaluations and checkpoints on the way, a record at the end.

Called by `train` (one run) and by `sweeps` (many). Runs that differ in seed or learning rates only can be trained at once.
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from dlrm_jax.common import stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import Bar, say
from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import Source, examples_before, open_source, resolved
from dlrm_jax.training.baselines import logistic_of
from dlrm_jax.training.build import runs_that_fit
from dlrm_jax.training.checkpoints import Checkpoints
from dlrm_jax.training.coverage import coverage_of
from dlrm_jax.training.evaluation import evaluate
from dlrm_jax.training.held_out import HeldOut
from dlrm_jax.training.learner import Learner, make_learner
from dlrm_jax.training.read_ahead import read_ahead
from dlrm_jax.training.resume import after_other_data, first_state
from dlrm_jax.training.runs import Outcome, Runs, marked
from dlrm_jax.training.step import Batches
from dlrm_jax.training.trajectory import OnProgress, Trajectory

_AHEAD = 2  # calls whose batches go to the devices before they are due


def train(
  config: RunConfig, directory: str | Path, source: Source | None = None, quiet: bool = False, on_progress: OnProgress | None = None
) -> dict[str, Any]:
  """Trains one configuration and writes `curve.jsonl` (as it goes) and `record.json` (whole, at the end) into `directory`.

  Where `directory/checkpoint` holds checkpoints of this very run, it goes on from the newest sound one, to the same bits as without a
  stop. A loss that is not finite ends the run: the record then has status "diverged" and the step. Returns the record.
  Of several processes each calls it alike; the first writes.

  Args:
    config: the run.
    directory: its own, and of no other run.
    source: that of the config, where it is open already.
    quiet: no progress on standard error.
    on_progress: called with the examples so far and the mean training loss since the last look at it. It is called at every look, and once
      more before a checkpoint or the record is written. What it raises ends the run.

  Raises:
    UserError: bad input, before anything is written.
    OSError: the directory cannot be written. (A checkpoint that cannot be written is reported, and the run goes on.)
    Stopped: a signal came (`stopping`); what there is to save is saved.
  """
  (outcome,) = train_runs([config], [directory], source, quiet, [on_progress])
  if isinstance(outcome, Exception):
    raise outcome
  return outcome


def train_runs(
  configs: Sequence[RunConfig],
  directories: Sequence[str | Path],
  source: Source | None = None,
  quiet: bool = False,
  on_progress: Sequence[OnProgress | None] | None = None,
) -> list[Outcome]:
  """`train` for runs of one `identity.together_key`: at once, or in several lots where the device has not room for all.

  Several runs begin at the start, in directories without checkpoints; what was stopped here goes on alone. The losses are those of the runs
  alone, but for the order of sums (with bfloat16 rows also for what is rounded otherwise because of it). A run whose loss is not finite
  gets its record then, and the others go on.

  Args:
    configs, directories, on_progress: of each run, as in `train`. What an `on_progress` raises, unless it is an OSError, ends its own run,
      without a record.
    source: of all of them.
    quiet: no progress on standard error.

  Returns each run's record, or what its `on_progress` raised. Raises as `train` does.
  """
  if any(config.train.finds_decay and config.train.learner == "dlrm" for config in configs):
    raise UserError(
      "--decay_examples=found: dlrm_jax.train and sweeps.run find it before a run begins (`at_found_rates`); give a number here"
    )
  source = source or open_source(configs[0])
  coverage = coverage_of(configs[0], source)
  for line in coverage.lines() if coverage and not quiet and not jax.process_index() else []:
    say(line)
  callbacks: Sequence[OnProgress | None] = [None] * len(configs) if on_progress is None else on_progress
  lot, outcomes = 1 if len(configs) == 1 else runs_that_fit(configs[0], source), list[Outcome]()
  for first in range(0, len(configs), lot):
    some = slice(first, first + lot)
    outcomes += _train_at_once(configs[some], directories[some], source, quiet, callbacks[some])
  return outcomes


def _train_at_once(
  configs: Sequence[RunConfig], directories: Sequence[str | Path], source: Source, quiet: bool, callbacks: Sequence[OnProgress | None]
) -> list[Outcome]:
  """Trains runs by one program, to the end of all; their outcomes, in order."""
  asked, configs = configs[0].train.num_examples, [resolved(config, source) for config in configs]
  config, primary, source = configs[0], jax.process_index() == 0, after_other_data(configs[0], source, directories[0])
  learner = make_learner(configs, source)
  stopping.check()
  held_out = HeldOut(source, learner, config.train)
  stopping.check()
  each = zip(configs, directories, callbacks, strict=True)
  trajectories = [Trajectory(config, source, path, held_out.num_examples, marked(callback), asked) for config, path, callback in each]
  with contextlib.ExitStack() as opened:
    every_s, keep = config.checkpoint_every_s, config.keep_checkpoints
    checkpoints = [opened.enter_context(Checkpoints(run.directory / "checkpoint", keep, every_s)) for run in trajectories]
    bar = opened.enter_context(Bar("examples", trajectories[0].total_examples, quiet=quiet or not primary))
    alone = len(configs) == 1
    state = first_state(trajectories[0], learner, checkpoints[0], quiet) if alone else learner.start()
    for run in trajectories:  # only now: a run that cannot go on from a checkpoint leaves nothing behind
      run.baseline = logistic_of(run.config, source, Path(config.workdir or run.directory), held_out.num_examples, quiet or not primary)
      if primary and not quiet:
        run.tell = lambda alarm: say(f"alarm {alarm.code}: {alarm.text}")
    runs = Runs(trajectories, checkpoints, learner)
    runs.start()
    if primary and not quiet:
      learner.announce()
    batches = batches_of(configs, source, learner, trajectories[0].examples - examples_before(source))
    runs.finish_ended(state)  # a checkpoint may hold a run that had ended
    while runs.alive:
      if stopping.requested():
        runs.stop(state)
      elif runs.first.due:  # also first of all, where a stop came during this evaluation
        jax.block_until_ready(state)
        runs.pause()
        sets = held_out.sets(runs.first.examples)
        measured = [found for examples in sets if (found := evaluate(learner, state, examples, runs.alive)) is not None]
        if len(measured) == len(sets):  # else a stop came meanwhile
          runs.evaluated(sets[0].num_examples, *measured)
      else:
        call = list(itertools.islice(batches, runs.first.steps_to_call))
        state = learner.train(state, call)
        runs.advance(len(call))
        if runs.first.looking:
          state, losses, bad_steps, weights = learner.read_progress(state)
          bar.update(runs.first.examples, losses[0])
          runs.look(losses, bad_steps, weights)
      runs.finish_ended(state)
      runs.save_if_due(state)
  return [outcome for _, outcome in sorted(runs.outcomes.items())]


def batches_of(configs: Sequence[RunConfig], source: Source, learner: Learner, start: int = 0) -> Iterator[Batches]:
  """A batch for each run, step by step from example `start` on, on the devices a few ahead of their use.

  Runs that see the same examples share them.
  """
  settings = configs[0].train
  seeded = isinstance(source, Planted) or settings.order == "shuffled"
  seeds = [config.train.seed if seeded else settings.seed for config in configs]
  different = list(dict.fromkeys(seeds))
  streams = [map(learner.put_part, source.train_batches(seed, settings.batch_size, settings.total_examples, start)) for seed in different]
  positions = [different.index(seed) for seed in seeds]
  steps = (tuple(batches[i] for i in positions) for batches in zip(*streams, strict=True))
  return read_ahead(steps, _AHEAD * configs[0].steps_per_call)
