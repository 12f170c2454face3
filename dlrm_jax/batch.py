"""What a data source gives: `Batch`, the one record type from a source to the loss, and `DataShape`, the columns it has."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32

from dlrm_jax.common.arrays import ArrayLike
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
  """

  num_dense: int
  field_names: tuple[str, ...]
  cardinalities: tuple[int | None, ...]
  bag_lengths: tuple[int, ...]
  weighted: bool = False

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
    return DataShape(self.num_dense, self.field_names[kept], self.cardinalities[kept], self.bag_lengths[kept], self.weighted)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """`B` examples. The last, partial batch of a pass is padded with examples of weight 0. Under pmap the first axis is that of devices.

  Attributes:
    dense_bm: the M dense inputs, already transformed; M may be 0.
    ids_bl: categorical ids before they are mapped to table rows. Each feature has a bag of fixed length; the L columns are the bags of
      the features, one after the other (L = F if all features are one-hot). On planted data the 32 bits hold an unsigned id.
    label_b: 0.0 or 1.0.
    weight_b: 1.0 for an example, 0.0 for padding.
    bag_weight_bl: weight of each id in its bag, 0.0 for padding; None if every bag is full.
  """

  dense_bm: Float[ArrayLike, "*n B M"]
  ids_bl: Int32[ArrayLike, "*n B L"]
  label_b: Float[ArrayLike, "*n B"]
  weight_b: Float[ArrayLike, "*n B"]
  bag_weight_bl: Float[ArrayLike, "*n B L"] | None = None


def check_ids(columns: Sequence[np.ndarray], names: Sequence[str], limits: Sequence[int], where: str, lowest: int = 0) -> None:
  """Raises UserError naming feature, value and limit unless lowest <= id < limit everywhere. The device would clip an id without a word.

  Args:
    columns: the ids of each lookup, [N].
    names, limits: feature and number of ids of each column.
    where: the file or data set of the ids, for the message.
    lowest: -1 if that marks an empty place of a bag, else 0.
  """
  for column, name, limit in zip(columns, names, limits, strict=True):
    if len(column) and (column.min() < lowest or column.max() >= limit):
      value = column.min() if column.min() < lowest else column.max()
      raise UserError(f"{where}: feature {name} has id {value}; ids are from 0 to {limit - 1}")


def empty_batch(size: int, num_dense: int, num_lookups: int, weighted: bool = False) -> Batch:
  """A batch of padding alone, for a model with these inputs; with bag weights if `weighted`."""
  ids_bl = jnp.zeros((size, num_lookups), jnp.int32)
  weights = jnp.zeros((size, num_lookups)) if weighted else None
  return Batch(jnp.zeros((size, num_dense)), ids_bl, jnp.zeros(size), jnp.zeros(size), weights)
