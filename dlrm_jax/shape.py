"""`DataShape`: the columns of a data set, on which the tables and layers of a model depend."""

import dataclasses

import numpy as np
from jaxtyping import Int

from dlrm_jax.common.flags import UserError


@dataclasses.dataclass(frozen=True)
class DataShape:
  """The columns of a data set: all that the tables and layers of a model depend on.

  Attributes:
    num_dense: M.
    field_names: names of the F categorical features.
    cardinalities: number of ids of each feature; None: unlimited.
    bag_lengths: ids that an example has of each feature.
    weighted: whether batches have bag weights.
    weight_column: the column of the examples' weights; None: every example counts once.
    negatives_kept: the share of the log's negatives that the training examples have.
  """

  num_dense: int
  field_names: tuple[str, ...]
  cardinalities: tuple[int | None, ...]
  bag_lengths: tuple[int, ...]
  weighted: bool = False
  weight_column: str | None = None
  negatives_kept: float = 1.0

  @property
  def num_lookups(self) -> int:
    """L, the number of ids of an example."""
    return sum(self.bag_lengths)

  @property
  def feature_of_lookup(self) -> Int[np.ndarray, " L"]:
    """The position of the feature to which each id of an example belongs."""
    return np.repeat(np.arange(len(self.field_names)), self.bag_lengths)

  def num_ids(self, most: int) -> tuple[int, ...]:
    """The number of ids of each feature, or `most` where there are more."""
    return tuple(most if c is None else min(most, c) for c in self.cardinalities)

  def first(self, count: int) -> "DataShape":
    """The first `count` features, as `--num_tables` asks; all if it is 0. Raises UserError if there are fewer."""
    if count > len(self.field_names):
      raise UserError(f"--num_tables={count}: the data has {len(self.field_names)} categorical features; 0 takes all")
    kept = slice(count or None)
    parts = {name: getattr(self, name)[kept] for name in ("field_names", "cardinalities", "bag_lengths")}
    return dataclasses.replace(self, **parts)
