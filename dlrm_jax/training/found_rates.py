"""`--lr_find` and `--decay_examples=found`: gives a run the learning rates, and how they fall, that short runs on its examples favour.

Called by `train` and by `sweeps.run`, which finds rates once for the base configuration of a sweep.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from dlrm_jax.common import stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.config import FIRST_DECAY, RunConfig
from dlrm_jax.data.source import Source, resolved
from dlrm_jax.identity import base_id
from dlrm_jax.training import lr_find
from dlrm_jax.training.resume import with_rates_of_checkpoint
from dlrm_jax.training.trials import Trials


def needs_search(config: RunConfig) -> bool:
  """Whether the learning rates of a run, or how they fall, are to be found first."""
  return config.train.learner == "dlrm" and (config.lr_find or config.train.finds_decay)


def at_found_rates(config: RunConfig, source: Source, quiet: bool = False) -> RunConfig:
  """`config` at the learning rates and decay that the search picks, without `--lr_find`. Unchanged if nothing is to be found.

  The result of the search is kept in WORKDIR/lr_find.json, and used again where it is for the same model, data and settings. Every trial is
  kept there when it has ended, so that a search that was stopped or killed goes on with the next one.
  A run with `--restore` searches nothing: it has the rates of its checkpoint.
  Raises UserError where the file is damaged or is for another base configuration, or where every trial diverged; Stopped when a signal asks
  for it.
  """
  if not needs_search(config):
    return config
  find_rates, config = config.lr_find, dataclasses.replace(config, lr_find=False)
  primary = jax.process_index() == 0
  if config.restore is not None:
    config = with_rates_of_checkpoint(config, config.workdir, find_rates)
    if not quiet and primary:
      say(f"rates: {_flags(config)}, those of the checkpoint that this run goes on from")
    return config
  config = resolved(config, source)
  about = {"base": base_id(config, source.digest)} | ({} if find_rates else {"found": "decay"})  # with the rates where the search begins
  kept, path = lr_find.read(config.workdir), Path(config.workdir) / lr_find.FILE
  if kept is not None and kept.found is not None:
    found = kept.found
    if kept.about != about:
      raise UserError(f"{path}: holds learning rates for another configuration; choose another --workdir, or remove it")
  else:
    try:
      found = _found(config, source, find_rates, quiet or not primary, kept)
    except stopping.Stopped:
      raise stopping.Stopped(f"{stopping.name()}: the trials that have ended are kept in {path}; the same command goes on") from None
    if primary and math.isfinite(found.picked.loss):
      lr_find.write(config.workdir, found, about)
  if math.isinf(found.picked.loss):
    raise UserError(f"--lr_find: all {len(found.tried)} trials diverged, the last at --table_lr={found.tried[-1].table_lr:g}")
  if not quiet and primary:
    say(_words(found))
  return _at(config, found.picked)


def _at(config: RunConfig, trial: lr_find.Trial) -> RunConfig:
  """`config` at the rates of a trial, and at its decay if that has one."""
  decay = trial.decay_examples or config.train.decay_examples
  changed = dataclasses.replace(config.train, table_lr=trial.table_lr, dense_lr=trial.dense_lr, decay_examples=decay)
  return dataclasses.replace(config, train=changed)


def _found(config: RunConfig, source: Source, find_rates: bool, quiet: bool, kept: lr_find.Kept | None) -> lr_find.Found:
  """Searches, or goes on with the unfinished search that WORKDIR keeps, if it is this one."""
  if not quiet:
    choice = "both learning rates" if find_rates else "how fast the learning rates fall"
    say(f"rates: short runs on the training examples choose {choice}")
  train, trials = config.train, Trials(config, source, quiet)
  decay = (train.decay_examples or FIRST_DECAY) if train.lr_schedule == "inverse_sqrt" else 0
  path, done = Path(config.workdir) / lr_find.FILE, tuple[lr_find.Trial, ...]()
  trial_id = f"{base_id(config, source.digest)}-{trials.length}"
  if kept is not None and kept.trial_id == trial_id:
    done = kept.tried
  if kept is not None and not quiet:
    say(f"rates: going on after {len(done)} trials, from {path}" if done else f"rates: {path} is of another search: it begins anew")

  def keep(tried: Sequence[lr_find.Trial]) -> None:
    if jax.process_index() == 0:
      lr_find.write_tried(config.workdir, tried, trial_id)

  losses = functools.partial(_losses, config, trials, quiet)
  tried = lr_find.search(losses, (train.table_lr, train.dense_lr, decay), lr_find.LONGEST * train.total_examples, find_rates, done, keep)
  picked = lr_find.pick(tried)
  return lr_find.Found(picked, tried, trials.length, trials.loss_examples, lr_find.noise_of(picked, lr_find.least(tried)))


def _losses(config: RunConfig, trials: Trials, quiet: bool, rates: Sequence[lr_find.Rates]) -> Iterator[list[float]]:
  """The losses of trials at some rates, each as soon as it is known."""
  todo = [lr_find.Trial(a, b, math.nan, decay) for a, b, decay in rates]
  for trial, parts in zip(todo, trials.losses([_at(config, trial) for trial in todo]), strict=True):
    if not quiet:
      mean = math.fsum(parts) / len(parts)
      say(f"rates: {trial.flags}: " + (f"loss {mean:.5f}" if math.isfinite(mean) else "diverged"))
    yield parts


def _words(found: lr_find.Found) -> str:
  """What the search found, as one line."""
  best, picked, count = lr_find.least(found.tried), found.picked, len(found.tried)
  where = f"the later half of {found.examples:,} training examples, each tenth before it was trained on"
  if picked == best:
    return f"rates: {picked.flags}, the best of {count} by the loss {picked.loss:.5f} on {where}"
  kept = "are kept" if picked == found.tried[0] else "are taken"
  return (
    f"rates: {picked.flags} {kept}, with the loss {picked.loss:.5f} on {where}: the best of {count}, {best.flags}, has {best.loss:.5f}, "
    f"which is no further below than the standard error {found.noise:.5f} of the difference"
  )


def _flags(config: RunConfig) -> str:
  """The flags that a run trains at."""
  train = config.train
  decay = train.decay_examples if train.lr_schedule == "inverse_sqrt" else 0
  return lr_find.Trial(train.table_lr, train.dense_lr, math.nan, decay).flags
