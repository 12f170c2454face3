"""One run, read top to bottom: one pass over the examples, evaluations and checkpoints on the way, a record at the end.

Called by `train` (one run) and by `sweeps` (many).
"""

import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax

from dlrm_jax.batch import Batch
from dlrm_jax.common import stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import Bar
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import Source, one_pass, open_source
from dlrm_jax.training import checkpoint
from dlrm_jax.training.checkpoints import Checkpoints, found, restore_newest
from dlrm_jax.training.evaluation import EvalSet, evaluate
from dlrm_jax.training.learner import Learner, make_learner
from dlrm_jax.training.read_ahead import read_ahead
from dlrm_jax.training.trajectory import OnProgress, Trajectory, settings_of, stream_of

_AHEAD = 2  # calls whose batches go to the devices before they are due


def batches_of(source: Source, learner: Learner, config: RunConfig, start: int) -> Iterator[Batch]:
  """The batches of a run from example `start` on, on the devices a few ahead of their use."""
  settings = config.train
  batches = source.train_batches(settings.seed, settings.batch_size, settings.num_examples, start)
  return read_ahead(map(learner.put_part, batches), _AHEAD * config.steps_per_call)


def train(
  config: RunConfig, directory: str | Path, source: Source | None = None, quiet: bool = False, on_progress: OnProgress | None = None
) -> dict[str, Any]:
  """Trains one configuration and writes `curve.jsonl` (as it goes) and `record.json` (whole, at the end) into `directory`.

  Where `directory/checkpoint` holds checkpoints of this very run, it goes on from the newest sound one, to the same bits as without a
  stop. A loss that is not finite ends the run: the record then says status "diverged" with the step. Returns the record.
  Of several processes each calls it alike; the first writes.

  Args:
    config: the run.
    directory: its own, and of no other run.
    source: that of the config, where it is open already.
    quiet: no progress on standard error.
    on_progress: called with the examples so far and the mean training loss since the last look at it: at every look, and once more before
      a checkpoint or the record is written. What it raises ends the run.

  Raises:
    UserError: bad input, before anything is written.
    OSError: the directory cannot be written. (Checkpoints that cannot be written are said, and the run goes on.)
    Stopped: a signal came (`stopping`); what there is to save is saved.
  """
  source = source or open_source(config)
  config = one_pass(config, source)
  learner, primary = make_learner(config, source), jax.process_index() == 0
  stopping.check()
  evals = EvalSet(source, learner, config.train)
  stopping.check()
  run = Trajectory(config, source, directory, evals.num_examples, on_progress)
  with (
    Checkpoints(run.directory / "checkpoint", config.keep_checkpoints, config.checkpoint_every_s) as checkpoints,
    Bar("examples", config.train.num_examples, quiet=quiet or not primary) as bar,
  ):
    state = first_state(run, learner, checkpoints, quiet)
    run.start()
    if primary and not quiet:
      learner.announce()
    batches, began = batches_of(source, learner, config, run.examples), run.examples

    def save() -> None:
      if learner.snapshot is None or run.examples == began:
        return
      jax.block_until_ready(state)
      run.pause()
      run.confirm()
      checkpoints.save(run.examples, functools.partial(learner.snapshot, state), run.facts())
      run.go_on()

    while not run.ended:
      if stopping.requested():
        save()
        stop(run, checkpoints)
      if run.due:  # also first of all, where a stop came during this evaluation
        jax.block_until_ready(state)
        run.pause()
        measured = evaluate(learner, state, evals)
        if measured is not None:
          run.evaluated(measured)
      else:
        call = list(itertools.islice(batches, run.steps_to_call))
        state = learner.train(state, *call)
        run.advance(len(call))
        if run.looking:
          state, loss, bad_step = learner.read_progress(state)
          run.look(loss, bad_step)
          bar.update(run.examples, loss)
      if run.looking and not run.due and not run.ended and checkpoints.due():
        save()
    if config.checkpoint and not run.diverged:
      save()
    checkpoints.wait()
    run.confirm()
    out = run.finish(learner.facts)
    checkpoints.clear(keep=int(config.checkpoint))
  return out


def first_state(run: Trajectory, learner: Learner, checkpoints: Checkpoints, quiet: bool = False) -> Any:
  """Where a run begins: at its own newest checkpoint, at that of `--restore`, or at the learner's first state.

  Tells the trajectory. Raises UserError where the checkpoints are another run's, or cannot be gone on from.
  """
  config, restore = run.config, learner.restore
  if restore is None and (config.checkpoint or config.restore):
    flag = "--checkpoint" if config.checkpoint else f"--restore={config.restore}"
    raise UserError(f"{flag}: there are no checkpoints under --parallelism=pmap")

  def own(path: Path) -> tuple[dict[str, Any], Any]:
    facts = checkpoint.read_run(path)
    if facts.get("config_id") != run.id:
      other = f"another run's checkpoints (config_id {facts.get('config_id')}, this one is {run.id})"
      raise UserError(f"--workdir={run.directory}: holds {other}; choose another directory")
    assert restore is not None
    return facts, restore(path)

  def others(path: Path) -> tuple[dict[str, Any], Any]:
    assert restore is not None
    return facts_to_branch_from(path, run), restore(path)

  if restore is not None and (resumed := checkpoints.restore(own)):
    (facts, state), path = resumed
    run.resume(facts)
    if not quiet and jax.process_index() == 0:
      print(f"going on after {run.examples:,} examples, from {path}", file=sys.stderr, flush=True)
    return state
  if config.restore is None:
    return learner.start()
  there = Path(config.restore)
  paths = [there] if (there / checkpoint.MANIFEST).exists() or (there / checkpoint.ARRAYS).exists() else found(there)
  if not paths:
    raise UserError(f"--restore={there}: there is no checkpoint; give WORKDIR/checkpoint, or one of the directories in it")
  branched = restore_newest(paths, others)
  if branched is None:
    raise UserError(f"--restore={there}: no sound checkpoint is left")
  (facts, state), _ = branched
  run.branch(facts)
  return state


def facts_to_branch_from(path: Path, run: Trajectory) -> dict[str, Any]:
  """What the checkpoint at `path` says of its run. Raises UserError where this run cannot be its continuation."""
  config, flag = run.config, f"--restore={run.config.restore}"
  facts = checkpoint.read_run(path)
  there = settings_of(RunConfig()) | facts  # a setting that is newer than the checkpoint was at its default
  for name, value in stream_of(config, run.source).items():
    if there.get(name) != value:
      raise UserError(f"{flag}: its {name} is {there.get(name)}, this run's is {value}; they must be the same")
  if facts["examples"] % config.train.batch_size:
    size, seen = config.train.batch_size, facts["examples"]
    raise UserError(f"{flag}: it ended inside a batch of {size}, after {seen} examples; end it at a multiple of {size} to go on")
  if facts["examples"] >= config.train.num_examples:
    raise UserError(f"--num_examples={config.train.num_examples}: the checkpoint has seen {facts['examples']}: nothing is left to train on")
  return facts


def stop(run: Trajectory, checkpoints: Checkpoints) -> NoReturn:
  """Raises Stopped once what was begun is on disk, saying what the same command will go on from."""
  checkpoints.wait()
  if checkpoints.saved is None:
    then = "nothing is saved: the same command begins anew"
  else:
    then = f"saved after {checkpoints.saved:,} in {checkpoints.directory}: the same command goes on from there"
  raise stopping.Stopped(f"{stopping.name()} after {run.examples:,} examples, {then}")
