"""`--lr_find`: trains the trials of a search for learning rates, and gives a run the rates that it picks.

Called by `train` and by `sweeps.run`, which finds rates once for the base configuration of a sweep.
"""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from dlrm_jax.common import stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import Source, one_epoch, resolved
from dlrm_jax.identity import base_id, config_id, together_key
from dlrm_jax.training import loop, lr_find
from dlrm_jax.training.alarms import standard_error
from dlrm_jax.training.resume import with_rates_of_checkpoint

_PLAIN: dict[str, Any] = {"workdir": "", "checkpoint": False, "checkpoint_every_s": 0.0, "logistic": "no", "log_to": ()}  # of a trial
SHARE, LEAST_STEPS = 25, 500  # a trial trains on 1/25 of the run's examples, and takes this many steps at least


def at_found_rates(config: RunConfig, source: Source, quiet: bool = False) -> RunConfig:
  """`config` at the learning rates that `--lr_find` picks, and without that flag. Without the flag, `config` is returned unchanged.

  The result of the search is kept in WORKDIR/lr_find.json, and used again where it is for the same model, data and settings. Every trial is
  kept there when it has ended, so that a search that was stopped or killed goes on with the next one.
  A run with `--restore` searches nothing: it has the rates of its checkpoint.
  Raises UserError where the file is damaged or is for another base configuration, or where every trial diverged; Stopped when a signal asks
  for it.
  """
  if not config.lr_find:
    return config
  config = dataclasses.replace(config, lr_find=False)
  if config.restore is not None:
    config = with_rates_of_checkpoint(config, config.workdir)
    if not quiet and jax.process_index() == 0:
      train = config.train
      say(f"lr_find: --table_lr={train.table_lr} --dense_lr={train.dense_lr}, those of the checkpoint that this run goes on from")
    return config
  config = resolved(config, source)
  about = {"base": base_id(config, source.digest)}  # with the rates where the search begins
  kept, path = lr_find.read(config.workdir), Path(config.workdir) / lr_find.FILE
  primary = jax.process_index() == 0
  if kept is not None and kept.found is not None:
    found = kept.found
    if kept.about != about:
      raise UserError(f"{path}: holds learning rates for another configuration; choose another --workdir, or remove it")
  else:
    try:
      found = _found(config, source, quiet or not primary, kept)
    except stopping.Stopped:
      raise stopping.Stopped(f"{stopping.name()}: the trials that have ended are kept in {path}; the same command goes on") from None
    if primary and math.isfinite(found.picked.loss):
      lr_find.write(config.workdir, found, about)
  if math.isinf(found.picked.loss):
    raise UserError(f"--lr_find: all {len(found.tried)} trials diverged, the last at --table_lr={found.picked.table_lr:g}")
  picked = found.picked
  if not quiet and primary:
    say(_words(found))
  return dataclasses.replace(config, train=dataclasses.replace(config.train, table_lr=picked.table_lr, dense_lr=picked.dense_lr))


def _found(config: RunConfig, source: Source, quiet: bool, kept: lr_find.Kept | None) -> lr_find.Found:
  """Searches, or goes on with the unfinished search that WORKDIR keeps, if it is this one."""
  train = config.train
  length = min(train.num_examples, max(train.num_examples // SHARE, LEAST_STEPS * train.batch_size))
  half = -(-(length // 2) // train.batch_size) * train.batch_size  # the loss is that of the examples after this one
  # One held-out batch is evaluated, because every run of the loop has a curve. Nothing reads it.
  settings = dataclasses.replace(
    train, num_examples=length, epochs=1, first_eval=max(half, 1), evals_per_octave=1, eval_examples=train.batch_size
  )
  trial = dataclasses.replace(config, train=settings, **_PLAIN)
  path, trial_id, done = Path(config.workdir) / lr_find.FILE, config_id(trial, source.digest), tuple[lr_find.Trial, ...]()
  if kept is not None and kept.trial_id == trial_id:
    done = kept.tried
  if kept is not None and not quiet:
    say(f"lr_find: going on after {len(done)} trials, from {path}" if done else f"lr_find: {path} is of another search: it begins anew")

  def keep(tried: Sequence[lr_find.Trial]) -> None:
    if jax.process_index() == 0:
      lr_find.write_tried(config.workdir, tried, trial_id)

  losses = functools.partial(_losses, trial, one_epoch(source), quiet)
  tried = lr_find.search(losses, train.table_lr, train.dense_lr, done, keep)
  count = length - half if 0 < half < length else length
  noise = standard_error(lr_find.least(tried).loss, source.base_rate(), count)
  return lr_find.Found(lr_find.pick(tried, noise), tried, length, count, noise)


def _words(found: lr_find.Found) -> str:
  """What the search found, as one line."""
  best, picked, count = lr_find.least(found.tried), found.picked, len(found.tried)
  rates, others = (f"--table_lr={trial.table_lr:g} --dense_lr={trial.dense_lr:g}" for trial in (picked, best))
  where = f"on examples {found.examples - found.loss_examples + 1:,} to {found.examples:,}, each before it was trained on"
  if picked == best:
    return f"lr_find: {rates}, the best of {count} by the loss {picked.loss:.5f} {where}"
  return (
    f"lr_find: {rates} are kept, with the loss {picked.loss:.5f} {where}: the best of {count}, {others}, has {best.loss:.5f}, which is no "
    f"further below than the standard error {found.noise:.5f} of such a loss"
  )


def _losses(trial: RunConfig, source: Source, quiet: bool, rates: Sequence[tuple[float, float]]) -> Iterator[float]:
  """The losses of trials at pairs of learning rates. An accelerator trains them at once; a CPU gains nothing by that."""
  configs = [dataclasses.replace(trial, train=dataclasses.replace(trial.train, table_lr=a, dense_lr=b)) for a, b in rates]
  lot = len(configs) if jax.default_backend() != "cpu" and together_key(trial) is not None else 1
  with tempfile.TemporaryDirectory() as scratch:
    for first in range(0, len(configs), lot):
      some = configs[first : first + lot]
      outs = loop.train_runs(some, [Path(scratch) / str(first + i) for i in range(len(some))], source, quiet=True)
      for config, out in zip(some, outs, strict=True):
        if isinstance(out, Exception):
          raise out
        loss = out["progressive_log_loss_recent"]
        if not quiet:
          said = "diverged" if loss is None else f"loss {loss:.5f}"
          say(f"lr_find: --table_lr={config.train.table_lr:g} --dense_lr={config.train.dense_lr:g}: {said}")
        yield math.inf if loss is None else float(loss)
