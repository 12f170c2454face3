"""Where a run begins: at the start, at its own checkpoint, or at another run's. Called by the loop."""

import sys
from pathlib import Path
from typing import Any

import jax

from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.training import checkpoint
from dlrm_jax.training.checkpoints import Checkpoints, found, restore_newest
from dlrm_jax.training.learner import Learner
from dlrm_jax.training.trajectory import Trajectory, settings_of, stream_of


def first_state(run: Trajectory, learner: Learner, checkpoints: Checkpoints, quiet: bool = False) -> Any:
  """The state that a run begins with: of its own newest checkpoint, of that of `--restore`, or the learner's first.

  Sets the trajectory accordingly. Raises UserError where the checkpoints are another run's, or where no run can go on from them.
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
  """What the checkpoint at `path` holds of its run. Raises UserError where this run cannot go on from it."""
  config, flag = run.config, f"--restore={run.config.restore}"
  facts = checkpoint.read_run(path)
  there = settings_of(RunConfig()) | facts  # a setting that is newer than the checkpoint was at its default
  for name, value in stream_of(config, run.source).items():
    if there.get(name) != value:
      raise UserError(f"{flag}: its {name} is {there.get(name)}, this run's is {value}; they must be the same")
  train, seen = config.train, facts["examples"]
  if seen >= train.total_examples:
    epochs = f" --epochs={train.epochs}" if train.epochs > 1 else ""
    raise UserError(f"--num_examples={train.num_examples}{epochs}: the checkpoint has seen {seen}: nothing is left to train on")
  rows = facts.get("num_examples", seen)  # of an epoch; a checkpoint that is older than epochs is in its first
  if rows != train.num_examples and (train.window == "recent" or seen > min(rows, train.num_examples)):
    why = (
      "a window of another length begins at another row" if train.window == "recent" else "it is past its first epoch, or this run would be"
    )
    raise UserError(f"{flag}: its epochs have {rows} rows and {why}; go on with --num_examples={rows}")
  return facts
