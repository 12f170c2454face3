"""Where a run begins: at the start, at its own checkpoint, or at another run's. Called by the loop."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from dlrm_jax.affects import RATE, fields_of
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.config import RunConfig, TrainConfig
from dlrm_jax.data.source import PreparedSource, Source, examples_before
from dlrm_jax.training import checkpoint
from dlrm_jax.training.checkpoints import Checkpoints, found, restore_newest
from dlrm_jax.training.learner import Learner
from dlrm_jax.training.run_facts import settings_of, stream_of
from dlrm_jax.training.trajectory import Trajectory


def checkpoints_at(restore: str) -> list[Path]:
  """The checkpoints that `--restore` names, the newest first: one of them, their directory, or that of their run. Raises UserError."""
  there = Path(restore)
  if (there / checkpoint.MANIFEST).exists() or (there / checkpoint.ARRAYS).exists():
    return [there]
  paths = found(there) or found(there / "checkpoint")
  if not paths:
    raise UserError(f"--restore={there}: there is no checkpoint; give WORKDIR/checkpoint, or one of the directories in it")
  return paths


def after_other_data(config: RunConfig, source: Source, directory: str | Path) -> Source:
  """The source of a run, with the data sets that its model saw before, if it goes on from a checkpoint of another data set.

  A run that was stopped knows them from its own checkpoints. Raises UserError if the other data set had other inputs or ids.
  """
  if config.restore is None or not isinstance(source, PreparedSource):
    return source
  facts = _facts_to_go_on_from(config.restore, directory)
  if facts is None:
    return source  # `first_state` reports what is damaged
  earlier = [(digest, examples) for digest, examples in facts.get("earlier_data", [])]
  if facts.get("data_digest") != source.digest and facts.get("planted") is None:
    known = facts.get("data_encoding")
    if known is None or known != source.dataset.encoding:
      like = facts.get("data_path") or "DIR"
      raise UserError(
        f"--restore={config.restore}: was trained on {facts.get('data')}, and {source.dataset.path} has other inputs or another "
        f"vocabulary; prepare the log with --like={like}"
      )
    earlier.append((facts["data_digest"], facts["examples"]))
  return dataclasses.replace(source, earlier=tuple(earlier))


def with_rates_of_checkpoint(config: RunConfig, directory: str | Path, all_rates: bool) -> RunConfig:
  """A run with `restore` at the learning rates of the checkpoint that it goes on from: its own in `directory`, or else that other run's.

  Without `all_rates` it has that checkpoint's decay alone.
  """
  assert config.restore is not None
  facts = _facts_to_go_on_from(config.restore, directory)
  if facts is None:
    return config  # `first_state` reports what is damaged
  there = settings_of(RunConfig()) | facts
  names = fields_of(TrainConfig, [RATE]) if all_rates else ["decay_examples"]
  taken = {name: type(getattr(config.train, name))(there[f"train.{name}"]) for name in names}
  return dataclasses.replace(config, train=dataclasses.replace(config.train, **taken))


def _facts_to_go_on_from(restore: str, directory: str | Path) -> dict[str, Any] | None:
  """What the newest whole checkpoint in `directory`, or else of `--restore`, holds of its run; None where none is whole."""
  own = _facts_of_newest(found(Path(directory) / "checkpoint"))
  return _facts_of_newest(checkpoints_at(restore)) if own is None else own


def _facts_of_newest(paths: list[Path]) -> dict[str, Any] | None:
  """What the newest of some checkpoints that is whole holds of its run; None where none is."""
  for path in paths:
    with contextlib.suppress(checkpoint.Damaged):
      return checkpoint.read_run(path)
  return None


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
      say(f"going on after {run.examples:,} examples, from {path}")
    return state
  if config.restore is None:
    return learner.start()
  branched = restore_newest(checkpoints_at(config.restore), others)
  if branched is None:
    raise UserError(f"--restore={config.restore}: no sound checkpoint is left")
  (facts, state), _ = branched
  run.branch(facts)
  return state


def facts_to_branch_from(path: Path, run: Trajectory) -> dict[str, Any]:
  """What the checkpoint at `path` holds of its run. Raises UserError where this run cannot go on from it."""
  config, flag = run.config, f"--restore={run.config.restore}"
  facts = checkpoint.read_run(path)
  there = settings_of(RunConfig()) | facts  # a setting that is newer than the checkpoint was at its default
  before = examples_before(run.source)
  other = bool(before) and facts.get("data_digest") != run.source.digest  # `after_other_data` has compared the data sets
  rates = fields_of(TrainConfig, [RATE])
  for name, value in stream_of(config, run.source).items():
    if there.get(name) != value and not (other and name in ("data", "data_digest")):
      if name.removeprefix("train.") in rates:
        wanted = " ".join(f"--{rate}={there[f'train.{rate}']}" for rate in rates if there[f"train.{rate}"])
        raise UserError(f"{flag}: was trained at {wanted}; give these flags, or --lr_find, which takes the rates of a checkpoint")
      raise UserError(f"{flag}: its {name} is {there.get(name)}, this run's is {value}; they must be the same")
  train, seen = config.train, facts["examples"]
  if other and seen != before:
    raise UserError(f"{flag}: the newest checkpoint is damaged; give the one before it, {path}")
  if other:
    return facts
  seen -= before
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
