"""`Source`: where the examples of a run come from. The loop treats planted data and prepared data sets alike."""

import dataclasses
import hashlib
import json
from collections.abc import Hashable, Iterator
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ALL, RunConfig
from dlrm_jax.data import pipeline
from dlrm_jax.data.dataset import Dataset, open_dataset
from dlrm_jax.data.order import spread
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.planted.draws import Truth
from dlrm_jax.shape import DataShape


@runtime_checkable
class Source(Protocol):
  """A stream of training examples and a fixed set of evaluation examples."""

  @property
  def shape(self) -> DataShape:
    """The columns of the examples."""

  @property
  def name(self) -> str:
    """The data's name in reports."""

  @property
  def digest(self) -> str:
    """Identifies the content of a data set, as part of `config_id`; "" for planted data, which the config describes in full."""

  @property
  def max_examples(self) -> int | None:
    """The number of training examples of an epoch; None: unlimited."""

  def base_rate(self) -> float:
    """The click rate of the training examples. Planted data estimates it by 2**18 draws."""

  def first_tables(self, count: int) -> "Source":
    """The source with its first `count` categorical features alone, all if it is 0. Raises UserError if there are fewer."""

  def train_batches(self, seed: int, batch_size: int, num_examples: int, start: int = 0) -> Iterator[Batch]:
    """This process's examples of the batches of training examples `start` .. `num_examples` - 1, in order.

    Every process gets the same number of batches, each of batch_size / processes examples. Raises UserError if that is no whole number.
    """

  def num_eval_examples(self, wanted: int, octaves: int = 0) -> int:
    """The number of evaluation examples there are, at most `wanted` unless that is `ALL`; of 2**octaves of them one."""

  def eval_batches(self, batch_size: int, num_examples: int, octaves: int = 0) -> Iterator[tuple[Batch, Truth | None]]:
    """The first `num_examples` evaluation examples, each batch with its Truth if that is known; of 2**octaves of them one."""

  @property
  def eval_key(self) -> Hashable:
    """Equal for sources that have the same evaluation examples."""


@dataclasses.dataclass(frozen=True)
class PreparedSource:
  """A directory written by `dlrm_jax.data.prepare`.

  Attributes:
    dataset: from `open_dataset`.
    eval_split: the held-out rows that are evaluated.
    order: of the training examples, "time" or "shuffled" (order.py).
    window: the training rows that a run of fewer examples takes, "oldest" or "recent".
    epochs: passes over them.
    earlier: the data sets that the model was trained on before, in order: digest, and examples that it had seen by their end.
  """

  dataset: Dataset
  eval_split: str = "eval"
  order: str = "time"
  window: str = "oldest"
  epochs: int = 1
  earlier: tuple[tuple[str, int], ...] = ()

  @property
  def shape(self) -> DataShape:
    return self.dataset.shape

  @property
  def name(self) -> str:
    return self.dataset.name

  @property
  def digest(self) -> str:
    return self.dataset.digest

  @property
  def max_examples(self) -> int | None:
    return self.dataset.rows("train")

  def base_rate(self) -> float:
    return self.dataset.base_rates["train"]

  def first_tables(self, count: int) -> "PreparedSource":
    return dataclasses.replace(self, dataset=dataclasses.replace(self.dataset, shape=self.shape.first(count)))

  def train_batches(self, seed: int, batch_size: int, num_examples: int, start: int = 0) -> Iterator[Batch]:
    process, rows = (jax.process_index(), jax.process_count()), num_examples // self.epochs
    first, again = self.first_row(rows), rows if self.epochs > 1 else None
    return pipeline.batches(self.dataset, "train", batch_size, num_examples - start, start, self.order, seed, process, first, again)

  def all_train_batches(self, seed: int, batch_size: int, num_examples: int) -> Iterator[Batch]:
    """The examples of all processes, in this one, in batches of about `batch_size`: those of the first epoch in order."""
    count, first = jax.process_count(), self.first_row(num_examples)
    size = -(-batch_size // count) * count
    where = ((p, count) for p in range(count))
    shares = [pipeline.batches(self.dataset, "train", size, num_examples, 0, self.order, seed, each, first) for each in where]
    for batches in zip(*shares, strict=True):
      yield jax.tree.map(lambda *x: np.concatenate(x), *batches)

  def first_row(self, rows: int) -> int:
    """The first training row of a run whose epochs have so many rows."""
    return self.dataset.rows("train") - rows if self.window == "recent" else 0

  def num_eval_examples(self, wanted: int, octaves: int = 0) -> int:
    rows = self.dataset.rows(self.eval_split)
    rows = rows if wanted == ALL else min(wanted, rows)
    return len(spread(rows, octaves)) if octaves else rows

  def eval_batches(self, batch_size: int, num_examples: int, octaves: int = 0) -> Iterator[tuple[Batch, Truth | None]]:
    count = self.num_eval_examples(num_examples)
    if not count:
      return  # a data set may have no held-out rows where a trained model goes on
    for batch in pipeline.batches(self.dataset, self.eval_split, batch_size, count, only=spread(count, octaves) if octaves else None):
      yield batch, None

  @property
  def eval_key(self) -> Hashable:
    return (str(self.dataset.path), self.digest, self.eval_split, self.shape)


def examples_before(source: Source) -> int:
  """Examples that the model has seen of other data sets. The examples of a run are counted on from there."""
  return source.earlier[-1][1] if isinstance(source, PreparedSource) and source.earlier else 0


def seen_digest(source: Source) -> str:
  """Identifies the data that a run has seen, in order, as part of `config_id`: the source's digest, unless there was other data before."""
  if not (isinstance(source, PreparedSource) and source.earlier):
    return source.digest
  return hashlib.sha256(json.dumps([*source.earlier, source.digest]).encode()).hexdigest()


def open_source(config: RunConfig) -> Source:
  """The source that `config.data` names. Raises UserError for a missing or broken data set.

  It has held-out rows, or else raises UserError, unless a trained model goes on (`--restore`): its progressive loss shows how it does.
  """
  split = config.train.eval_split
  if config.data == "planted":
    if split != "eval":
      raise UserError(f"--eval_split={split}: must be eval with --data=planted, whose held-out examples are unlimited")
    return Planted(config.planted, epochs=config.train.epochs).first_tables(config.model.num_tables)
  dataset = open_dataset(config.data)
  if dataset.rows(split) == 0 and (config.restore is None or split != "eval"):
    hint = "no rows are held out; prepare it with --eval_rows or --eval_fraction"
    raise UserError(f"--data={config.data}: {hint if split == 'eval' else f'has no rows for --eval_split={split}'}")
  if dataset.vocabulary == "hash" and config.model.rows_by == "top":
    raise UserError(f"--rows_by=top: the ids of {config.data} are hashes, not ranks of frequency; use --rows_by=hash")
  train = config.train
  return PreparedSource(dataset, split, train.order, train.window, train.epochs).first_tables(config.model.num_tables)


def one_epoch(source: Source) -> Source:
  """The source of a run that makes one pass, whatever the epochs of this one."""
  return dataclasses.replace(source, epochs=1) if isinstance(source, (PreparedSource, Planted)) else source


def resolved(config: RunConfig, source: Source) -> RunConfig:
  """`config` with as many examples of an epoch as the source has, where all or more are asked for. Its `config_id` is that of this number.

  Raises UserError where all of an unlimited source are asked for.
  """
  train, most = config.train, source.max_examples
  if most is None:
    for name in ("num_examples", "eval_examples"):
      if getattr(train, name) == ALL:
        raise UserError(f"--{name}=all: planted examples have no end; give a number, or a data set with --data=DIR")
    return config
  if train.num_examples != ALL and train.num_examples <= most:
    return config
  return dataclasses.replace(config, train=dataclasses.replace(train, num_examples=most))
