"""Baselines of a run: a logistic regression on the same examples, evaluated on the same held-out rows. Called by the loop.

The base rate needs no training: `metrics.Metrics.base_rate_log_loss`. The logistic regression is trained once for all runs that share
examples, order and held-out rows. Its result is kept in WORKDIR/baselines/<key>.json.
"""

import dataclasses
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from dlrm_jax.batch import Batch
from dlrm_jax.common import record, stopping
from dlrm_jax.common.arrays import softplus
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import Bar
from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import PreparedSource, Source, one_epoch
from dlrm_jax.shape import DataShape
from dlrm_jax.training import metrics
from dlrm_jax.training.logistic import FtrlSettings, LogisticRegression
from dlrm_jax.training.paired import MOST

FIELDS = ("logistic_log_loss", "logistic_ne", "logistic_roc_auc", "logistic_progressive_log_loss")
_VERSION = 3  # increment it when the logistic regression changes: kept results are then computed again
# The first of these rates is better on small logs, the second on large ones (figures: WORKSPACE.md). Both are trained on the first
# CHOICE_EXAMPLES. The one with the smaller progressive loss over the second half of these goes on.
ALPHAS, CHOICE_EXAMPLES = (0.1, 0.3), 2**17
_READ = 8192  # examples that are read at once
_WAIT_S = 0.5


@dataclasses.dataclass(frozen=True)
class Logistic:
  """The results of the regression of a run.

  Attributes:
    fields: FIELDS for its record; empty where there is no regression.
    losses: `paired.LossSums.sums` of the held-out rows.
  """

  fields: dict[str, float] = dataclasses.field(default_factory=dict)
  losses: Float[np.ndarray, "2 blocks"] | None = None


def wanted(config: RunConfig, source: Source) -> bool:
  """Whether a run is compared with a logistic regression.

  Planted data has theory to be compared with. A model that goes on with other data has seen more rows than a regression that begins there.
  """
  goes_on = isinstance(source, PreparedSource) and bool(source.earlier)
  return config.logistic == "yes" or (config.logistic == "auto" and not isinstance(source, Planted) and not goes_on)


def logistic_of(config: RunConfig, source: Source, directory: Path, num_eval_examples: int, quiet: bool = False) -> Logistic:
  """The regression's results; none unless `wanted`. Trains the regression unless another run of `directory` has done so.

  Args:
    config, source: the run and its data.
    directory: where results are kept, shared by the runs of a sweep.
    num_eval_examples: the first so many held-out examples are evaluated.
    quiet: no progress on standard error.

  Raises UserError where the kept result is damaged, Stopped when a signal asks for it.
  """
  if not wanted(config, source):
    return Logistic()
  if jax.process_count() > 1 and isinstance(source, Planted):
    raise UserError("--logistic=yes: planted examples of several processes are drawn on their own devices; leave it out")
  if jax.process_index():
    return Logistic()
  about = _key(config, source, num_eval_examples)
  name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
  path = directory / "baselines" / f"{name}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path.with_name(f".{name}.lock"), "w") as lock:
    while not path.exists():
      stopping.check()
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the file is closed or the process dies
      except BlockingIOError:
        time.sleep(_WAIT_S)  # another run computes it
        continue
      if not path.exists():
        began = time.perf_counter()
        found = _computed(config, source, num_eval_examples, quiet)
        record.write_json(path, record.header() | about | found | {"wall_s": time.perf_counter() - began})
  kept = record.read_json(path)
  try:
    fields = {field: np.nan if kept[field] is None else float(kept[field]) for field in FIELDS}
    return Logistic(fields, None if kept["losses"] is None else np.array(kept["losses"], np.float64).reshape(2, MOST))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"{path}: not a result of a logistic regression ({type(error).__name__}: {error}); remove it") from None


def _key(config: RunConfig, source: Source, num_eval_examples: int) -> dict[str, Any]:
  """All that the result depends on."""
  train, planted = config.train, isinstance(source, Planted)
  return {
    "version": _VERSION,
    "data_digest": source.digest,
    "planted": dataclasses.asdict(config.planted) if planted else None,
    "features": list(source.shape.field_names),
    "num_examples": train.num_examples,
    "order": train.order,
    "window": train.window,
    "seed": train.seed if planted or train.order == "shuffled" else None,
    "processes": jax.process_count(),
    "eval_split": train.eval_split,
    "eval_examples": num_eval_examples,
  }


def _computed(config: RunConfig, source: Source, num_eval_examples: int, quiet: bool) -> dict[str, Any]:
  base_rate, most = source.base_rate(), min(config.train.num_examples, CHOICE_EXAMPLES)
  tried = [_Candidate(LogisticRegression(source.shape, FtrlSettings(alpha=alpha)), source.shape, base_rate) for alpha in ALPHAS]
  with Bar("logistic regression to compare with", config.train.num_examples, quiet=quiet) as bar:  # one pass, also where there are epochs
    for batch in _all_examples(config, source):
      stopping.check()
      for candidate in tried:
        candidate.learn(batch, most // 2)
      bar(int(np.count_nonzero(batch.weight_b)))
      if len(tried) > 1 and tried[0].examples >= most:
        tried = [min(tried, key=lambda candidate: candidate.late_loss)]
  best = min(tried, key=lambda candidate: candidate.late_loss)  # rows of weight 0 do not count: there may be two left
  regression, before = best.regression, best.losses
  held_out = metrics.Accumulator(base_rate)
  for batch, _ in source.eval_batches(_READ, num_eval_examples):
    stopping.check()
    keep = np.asarray(batch.weight_b) > 0
    weight_n = _weights(source.shape, batch, keep, 1.0)
    held_out.add(regression.predict(batch)[keep], np.asarray(batch.label_b)[keep], weight_n=weight_n)
  found = held_out.metrics()
  fields = dict(zip(FIELDS, (found.log_loss, found.ne, found.roc_auc, before.metrics().log_loss), strict=True))
  return fields | {"losses": None if found.losses is None else found.losses.tolist()}


class _Candidate:
  """A regression with the losses of its examples before it was trained on them."""

  def __init__(self, regression: LogisticRegression, shape: DataShape, base_rate: float):
    self.regression, self.losses = regression, metrics.Accumulator(base_rate)
    self.examples, self.late_loss, self._shape = 0, 0.0, shape

  def learn(self, batch: Batch, late: int) -> None:
    """Takes the steps of a batch. `late_loss` sums the losses of the examples after the first `late`."""
    keep = np.asarray(batch.weight_b) > 0
    weight_n = _weights(self._shape, batch, keep, self._shape.negatives_kept)
    logit, label = self.regression.learn(batch)[keep], np.asarray(batch.label_b)[keep]
    self.losses.add(logit, label, weight_n=weight_n)
    before = max(0, late - self.examples)
    self.late_loss += float(((softplus(logit) - label * logit) * (1.0 if weight_n is None else weight_n))[before:].sum())
    self.examples += len(label)


def _weights(shape: DataShape, batch: Batch, keep_b: Bool[np.ndarray, " B"], kept: float) -> Float[np.ndarray, " n"] | None:
  """How much the examples `keep_b` count, if not all alike: by their weights, and by what a negative stands for where some are left out."""
  if shape.weight_column is None and kept == 1:
    return None
  return (np.asarray(batch.weight_b) * np.where(np.asarray(batch.label_b) > 0, 1.0, 1 / kept))[keep_b]


def _all_examples(config: RunConfig, source: Source) -> Iterator[Batch]:
  """The training examples of the first epoch of a run in their order, those of all processes."""
  train = config.train
  batches = source.all_train_batches if isinstance(source, PreparedSource) else one_epoch(source).train_batches
  return batches(train.seed, _READ, train.num_examples)
