"""`Source`: where the examples of a run come from. Planted data and prepared data sets look the same to the loop."""

import dataclasses
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax

from dlrm_jax.batch import Batch
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.data import pipeline
from dlrm_jax.data.dataset import Dataset, open_dataset
from dlrm_jax.data.planted.clicks import Planted, Truth
from dlrm_jax.embedding.layout import Layout, make_layout


@dataclasses.dataclass(frozen=True)
class PreparedSource:
  """A directory written by `dlrm_jax.data.prepare`."""

  dataset: Dataset
  eval_split: str = "eval"  # the held-out rows that are evaluated
  order: str = "time"  # of the training examples, or "shuffled" (order.py)

  @property
  def name(self) -> str:
    return self.dataset.name

  @property
  def digest(self) -> str:
    return self.dataset.digest

  @property
  def num_dense(self) -> int:
    return len(self.dataset.dense)

  @property
  def field_names(self) -> tuple[str, ...]:
    return self.dataset.categorical

  @property
  def cardinalities(self) -> tuple[int | None, ...]:
    return self.dataset.cardinalities

  @property
  def bag_lengths(self) -> tuple[int, ...]:
    return self.dataset.bag_lengths

  @property
  def weighted(self) -> bool:
    return self.dataset.weighted

  @property
  def base_rate(self) -> float:
    return self.dataset.base_rates["train"]

  @property
  def max_examples(self) -> int | None:
    return self.dataset.rows("train")

  def train_batches(self, seed: int, batch_size: int, num_examples: int, start: int = 0) -> Iterator[Batch]:
    part = (jax.process_index(), jax.process_count())
    return pipeline.batches(self.dataset, "train", batch_size, num_examples - start, start, self.order, seed, part)

  @property
  def eval_rows(self) -> int:
    return self.dataset.rows(self.eval_split)

  def eval_batches(self, batch_size: int, num_examples: int) -> Iterator[tuple[Batch, Truth | None]]:
    for batch in pipeline.batches(self.dataset, self.eval_split, batch_size, min(num_examples, self.eval_rows)):
      yield batch, None


# A stream of training examples and a fixed set of evaluation examples. Both kinds have
#   name (for people), digest (stands for a data set's content; "" for planted data, whose config says it all),
#   num_dense (M), field_names and cardinalities (categorical features; None: ids without end), bag_lengths (ids a feature has),
#   weighted (whether batches carry bag weights), base_rate (click rate of the training examples),
#   max_examples (training examples there are; None: without end),
#   train_batches(seed, batch_size, num_examples, start=0): this process's part, batch_size / processes examples, of the batches of
#     training examples start .. num_examples-1, in order; as many batches in every process,
#   eval_batches(batch_size, num_examples): the first evaluation examples, with the Truth where it is known.
Source = Planted | PreparedSource


def open_source(config: RunConfig) -> Source:
  """The source that `config.data` names. Raises UserError for a missing or broken data set, or one without held-out rows."""
  split = config.train.eval_split
  if config.data == "planted":
    if split != "eval":
      raise UserError(f"--eval_split={split}: must be eval with --data=planted, whose held-out examples are without end")
    return first_tables(Planted(config.planted), config.model.num_tables)
  dataset = open_dataset(config.data)
  if dataset.rows(split) == 0:
    hint = "no rows are held out; prepare it with --eval_rows or --eval_fraction"
    raise UserError(f"--data={config.data}: {hint if split == 'eval' else f'has no rows for --eval_split={split}'}")
  if dataset.vocabulary == "hash" and config.model.rows_by == "top":
    raise UserError(f"--rows_by=top: the ids of {config.data} are hashes, not ranks of frequency; use --rows_by=hash")
  return first_tables(PreparedSource(dataset, split, config.train.order), config.model.num_tables)


def first_tables(source: Source, count: int) -> Source:
  """`source` with the first `count` of its categorical features alone, all where it is 0. UserError if there are fewer."""
  check_tables(count, len(source.field_names))
  if count == 0:
    return source
  if isinstance(source, Planted):
    return dataclasses.replace(source, num_tables=count)
  columns = {name: getattr(source.dataset, name)[:count] for name in ("categorical", "cardinalities", "bag_lengths")}
  return dataclasses.replace(source, dataset=dataclasses.replace(source.dataset, **columns))


def check_tables(count: int, num_features: int) -> None:
  """Raises UserError where `--num_tables` asks for more features than a data set has."""
  if count > num_features:
    raise UserError(f"--num_tables={count}: the data has {num_features} categorical features; 0 takes all")


@runtime_checkable
class Columns(Protocol):
  """The categorical features of a data set: what the tables of a model depend on. Sources and `shapes.DataShape` have them."""

  @property
  def field_names(self) -> tuple[str, ...]: ...
  @property
  def cardinalities(self) -> tuple[int | None, ...]: ...
  @property
  def bag_lengths(self) -> tuple[int, ...]: ...
  @property
  def weighted(self) -> bool: ...


def layout_of(config: RunConfig, source: Columns) -> Layout:
  """The tables of a model on a data set."""
  return make_layout(config.model, source.field_names, source.cardinalities, source.bag_lengths, source.weighted)


def one_pass(config: RunConfig, source: Source) -> RunConfig:
  """`config` with no more examples than the source has: there is one pass at most."""
  if source.max_examples is None or config.train.num_examples <= source.max_examples:
    return config
  return dataclasses.replace(config, train=dataclasses.replace(config.train, num_examples=source.max_examples))
