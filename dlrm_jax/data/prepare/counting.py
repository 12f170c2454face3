"""What is counted over the training rows between the two passes: the vocabularies of features, and the statistics of dense columns.

With --like both come from another data set. The statistics of the new rows are then measured for the warnings alone.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.data.prepare import statistics, vocabulary
from dlrm_jax.data.prepare.like import Like
from dlrm_jax.data.prepare.part_files import Part
from dlrm_jax.data.prepare.parts import counts
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.transform import Bins, Input, bins_of, inputs_of


@dataclasses.dataclass(frozen=True)
class Counting:
  """The work between the passes as a job of `tasks.run`. A task is to rank the values of a feature, or to measure a dense column.

  Features come first. They have no tasks if ids are hashes, that is, unless `ranked`.
  """

  out: Path
  done: Path
  schema: Schema
  parts: tuple[Part, ...]
  train_rows: int
  min_count: int
  ranked: bool
  like: Like | None = None

  @property
  def vocabularies(self) -> list[Path]:
    """The file of each feature's vocabulary, which stays in the data set."""
    return [self.out / f"vocabulary-{feature:05d}.arrow" for feature in range(len(self.schema.features) * self.ranked)]

  @property
  def measured(self) -> list[Path]:
    """The file of each dense column's statistics."""
    return [self.done / f"dense-{column:04d}.json" for column in range(len(self.schema.dense))]

  @property
  def is_done(self) -> list[Callable[[], bool]]:
    """For each task, whether its file is there."""
    return [path.exists for path in (*self.vocabularies, *self.measured)]

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    """Writes the vocabulary of a feature, or the statistics of a dense column. Raises UserError if a vocabulary to copy is damaged."""
    column = index - len(self.vocabularies)
    if column < 0 and self.like is not None:
      self.like.copy_vocabulary(index, self.vocabularies[index])
    elif column < 0:
      vocabulary.rank(counts(self.schema, self.parts, self.train_rows, index), self.min_count, self.vocabularies[index])
    else:
      numbers = statistics.blocks(self.parts, column, self.train_rows)
      record.write_json(self.measured[column], statistics.measure(self.schema.dense[column], numbers, self.train_rows))
    advance(1)

  def results(self) -> "Counted":
    """What was counted, once all tasks are done."""
    measured = tuple(record.read_json(path) for path in self.measured)
    vocabularies, found = tuple(self.vocabularies), tuple(one["statistics"] for one in measured)
    if self.like is not None:
      return Counted(vocabularies, found, inputs_of(self.like.contents), bins_of(self.like.contents))
    inputs = tuple(made for column, one in zip(self.schema.dense, measured, strict=True) for made in column.inputs(one))
    bins = tuple(column.feature(one) for column, one in zip(self.schema.dense, measured, strict=True) if column.num_bins)
    return Counted(vocabularies, found, inputs, bins)


@dataclasses.dataclass(frozen=True)
class Counted:
  """All that turns the rows of the parts into those of the shards.

  Attributes:
    vocabularies: the file of each feature's vocabulary; empty if ids are hashes.
    statistics: of each dense column of the schema.
    inputs: the M dense inputs.
    bins: the features of bins, which follow the others.
  """

  vocabularies: tuple[Path, ...]
  statistics: tuple[dict[str, Any], ...]
  inputs: tuple[Input, ...]
  bins: tuple[Bins, ...]
