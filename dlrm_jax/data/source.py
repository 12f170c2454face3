"""`Source`: where the examples of a run come from. The loop treats planted data and prepared data sets alike."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax

from dlrm_jax.batch import Batch
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.data import pipeline
from dlrm_jax.data.dataset import Dataset, open_dataset
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
    """The number of training examples; None: unlimited."""

  def base_rate(self) -> float:
    """The click rate of the training examples. Planted data estimates it by 2**18 draws."""

  def first_tables(self, count: int) -> "Source":
    """The source with its first `count` categorical features alone, all if it is 0. Raises UserError if there are fewer."""

  def train_batches(self, seed: int, batch_size: int, num_examples: int, start: int = 0) -> Iterator[Batch]:
    """This process's examples of the batches of training examples `start` .. `num_examples` - 1, in order.

    Every process gets the same number of batches, each of batch_size / processes examples. Raises UserError if that is no whole number.
    """

  def num_eval_examples(self, wanted: int) -> int:
    """The number of evaluation examples there are, at most `wanted`."""

  def eval_batches(self, batch_size: int, num_examples: int) -> Iterator[tuple[Batch, Truth | None]]:
    """The first `num_examples` evaluation examples, each batch with its Truth if that is known."""


@dataclasses.dataclass(frozen=True)
class PreparedSource:
  """A directory written by `dlrm_jax.data.prepare`.

  Attributes:
    dataset: from `open_dataset`.
    eval_split: the held-out rows that are evaluated.
    order: of the training examples, "time" or "shuffled" (order.py).
  """

  dataset: Dataset
  eval_split: str = "eval"
  order: str = "time"

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
    process = (jax.process_index(), jax.process_count())
    return pipeline.batches(self.dataset, "train", batch_size, num_examples - start, start, self.order, seed, process)

  def num_eval_examples(self, wanted: int) -> int:
    return min(wanted, self.dataset.rows(self.eval_split))

  def eval_batches(self, batch_size: int, num_examples: int) -> Iterator[tuple[Batch, Truth | None]]:
    for batch in pipeline.batches(self.dataset, self.eval_split, batch_size, self.num_eval_examples(num_examples)):
      yield batch, None


def open_source(config: RunConfig) -> Source:
  """The source that `config.data` names. Raises UserError for a missing or broken data set, or one without held-out rows."""
  split = config.train.eval_split
  if config.data == "planted":
    if split != "eval":
      raise UserError(f"--eval_split={split}: must be eval with --data=planted, whose held-out examples are unlimited")
    return Planted(config.planted).first_tables(config.model.num_tables)
  dataset = open_dataset(config.data)
  if dataset.rows(split) == 0:
    hint = "no rows are held out; prepare it with --eval_rows or --eval_fraction"
    raise UserError(f"--data={config.data}: {hint if split == 'eval' else f'has no rows for --eval_split={split}'}")
  if dataset.vocabulary == "hash" and config.model.rows_by == "top":
    raise UserError(f"--rows_by=top: the ids of {config.data} are hashes, not ranks of frequency; use --rows_by=hash")
  return PreparedSource(dataset, split, config.train.order).first_tables(config.model.num_tables)


def one_pass(config: RunConfig, source: Source) -> RunConfig:
  """`config` with at most as many examples as the source has: a run makes no second pass."""
  if source.max_examples is None or config.train.num_examples <= source.max_examples:
    return config
  return dataclasses.replace(config, train=dataclasses.replace(config.train, num_examples=source.max_examples))
