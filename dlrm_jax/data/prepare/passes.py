"""The tasks of `prepare`: pieces of the input to read, features to rank, shards to write. `tasks.run` does them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from dlrm_jax.data.prepare import parts, shards, vocabulary
from dlrm_jax.data.prepare.parts import Part
from dlrm_jax.data.prepare.read import Piece
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.prepare.staging import Staging


@dataclasses.dataclass(frozen=True)
class Reading:
  """The first pass. A task is to read a piece of the input."""

  directory: Path
  sources: tuple[Path, ...]
  pieces: tuple[Piece, ...]
  format: str
  schema: Schema
  part_bytes: int

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    piece = self.pieces[index]
    parts.read_and_write(self.directory, index, self.sources[piece.source], piece, self.format, self.schema, self.part_bytes, advance)


@dataclasses.dataclass(frozen=True)
class Ranking:
  """The vocabularies. A task is to rank the values of a feature."""

  directory: Path
  schema: Schema
  parts: tuple[Part, ...]
  train_rows: int
  min_count: int

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    runs = parts.counts(self.schema, self.parts, self.train_rows, index)
    vocabulary.rank(runs, self.min_count, shards.vocabulary_path(self.directory, index))
    advance(1)


@dataclasses.dataclass(frozen=True)
class Writing:
  """The second pass. A task is to write a shard."""

  place: Staging
  schema: Schema
  parts: tuple[Part, ...]
  wanted: tuple[shards.ShardPlan, ...]
  ranked: bool

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    shards.write(self.place.out, self.place.done, self.schema, self.parts, self._ids, self.wanted[index])
    advance(self.wanted[index].rows)

  @functools.cached_property
  def _ids(self) -> shards.Ids:
    return shards.Ids(self.schema, self.place.ids if self.ranked else None)
