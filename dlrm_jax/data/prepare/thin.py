"""Leaves out a share of the training negatives (`--keep_negatives`), between the passes and as new parts. Called by `program`.

A negative is kept or left out by a hash of its place in the log, so that workers, pieces and machines change nothing. Held-out rows stay
as they are. Training adds what is missing to the logit (`training/step.py`).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from dlrm_jax.data.prepare.part_files import Part, columns_of, names_of, numbered_again, times_of, write_part
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.prepare.vocabulary import hash_uint32


def is_kept(label_n: UInt8[np.ndarray, " n"], first: int, train_rows: int, share: float) -> Bool[np.ndarray, " n"]:
  """Which of consecutive rows are kept: clicks, held-out rows, and about this share (below 1) of the other rows.

  `first` is the place of the first row in the log, and `train_rows` that of the first held-out row.
  """
  place_n = np.arange(first, first + len(label_n), dtype=np.uint64)
  return (label_n == 1) | (place_n >= train_rows) | (hash_uint32("negative", place_n) < np.uint64(int(share * 2**64)))


def thinned_path(directory: Path, index: int) -> Path:
  """The path of a new part, without its endings."""
  return directory / f"thin-{index:06d}"


@dataclasses.dataclass(frozen=True)
class Thinning:
  """A job of `tasks.run`. A task is to write a part again without the rows that are left out.

  Attributes:
    directory: where new parts go.
    parts: of the log, in its order.
    schema: the log's.
    train_rows: the number of training rows, which are the first ones.
    share: of the negatives among them that is kept, above 0 and below 1.
  """

  directory: Path
  parts: tuple[Part, ...]
  schema: Schema
  train_rows: int
  share: float

  def do(self, index: int, advance: Callable[[int], None]) -> None:
    """Writes a new part."""
    part, first = self.parts[index], sum(part.rows for part in self.parts[:index])
    (label,) = columns_of(part.file, ["label"])
    row_m = np.flatnonzero(is_kept(label.to_numpy(), first, self.train_rows, self.share))
    lookups = [f"id.{i}" for i in range(len(self.schema.lookups))]
    others = [name for name in names_of(part.file) if name not in lookups]
    columns, values, done = {name: columns_of(part.file, [name])[0].to_numpy()[row_m] for name in others}, [], 0
    for f, feature in enumerate(self.schema.features):
      names = lookups[done : done + feature.length]
      indices, counts = numbered_again([part], [row_m], f, names)
      columns |= dict(zip(names, indices, strict=True))
      values.append(counts)
      done += feature.length
    time_n = None if self.schema.time is None else times_of(part)[row_m]
    write_part(thinned_path(self.directory, index), columns, values, time_n)
    advance(part.rows)

  @property
  def is_done(self) -> list[Callable[[], bool]]:
    """For each part whether it has been written."""
    last = "values" if self.schema.time is None else "time"
    return [Path(f"{thinned_path(self.directory, i)}.{last}.arrow").exists for i in range(len(self.parts))]

  def new_parts(self) -> tuple[Part, ...]:
    """The new parts that have rows."""
    paths = [thinned_path(self.directory, i) for i in range(len(self.parts))]
    parts = [Part(path, len(columns_of(Path(f"{path}.arrow"), ["label"])[0])) for path in paths]
    return tuple(part for part in parts if part.rows)

  def facts(self) -> dict[str, Any]:
    """The entry `keep_negatives` of dataset.json: the share, and rows and click rate of all training rows (by weight, if rows have one)."""
    left, clicks, weights = self.train_rows, 0.0, 0.0
    for part in self.parts:
      label_n, *weight = (column.to_numpy()[:left].astype(np.float64) for column in columns_of(part.file, _totalled(self.schema)))
      weight_n = weight[0] if weight else np.ones(len(label_n))
      clicks, weights, left = clicks + float(weight_n @ label_n), weights + float(weight_n.sum()), left - len(label_n)
    return {"share": self.share, "train_rows": self.train_rows, "base_rate": clicks / weights}


def _totalled(schema: Schema) -> list[str]:
  return ["label"] if schema.weight is None else ["label", "weight"]
