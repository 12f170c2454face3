"""`Batch`: the one record type between a data source and the loss."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.flags import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """`B` examples. The last, partial batch of a pass is padded with examples of weight 0. Under pmap there is an axis of devices in front.

  Attributes:
    dense_bm: the M dense inputs, already transformed; M may be 0.
    ids_bl: categorical ids before they are mapped to table rows: a bag of fixed length for each feature, bags side by side, L the
      sum of their lengths (F where all features are one-hot); on planted data the 32 bits are those of an unsigned id.
    label_b: 0.0 or 1.0.
    weight_b: 1.0 for an example, 0.0 for padding.
    bag_weight_bl: weight of each id in its bag, 0.0 for padding; None where every bag is full.
  """

  dense_bm: Float[ArrayLike, "*n B M"]
  ids_bl: Int32[ArrayLike, "*n B L"]
  label_b: Float[ArrayLike, "*n B"]
  weight_b: Float[ArrayLike, "*n B"]
  bag_weight_bl: Float[ArrayLike, "*n B L"] | None = None


def check_ids(columns: Sequence[np.ndarray], names: Sequence[str], limits: Sequence[int], where: str, lowest: int = 0) -> None:
  """Raises UserError naming feature, value and limit unless lowest <= id < limit everywhere. On the device an id beyond would be clipped.

  Args:
    columns: the ids of each lookup, [N].
    names, limits: feature and number of ids of each column.
    where: what holds the ids, for the message.
    lowest: -1 where that marks an empty place of a bag.
  """
  for column, name, limit in zip(columns, names, limits, strict=True):
    if len(column) and (column.min() < lowest or column.max() >= limit):
      value = column.min() if column.min() < lowest else column.max()
      raise UserError(f"{where}: feature {name} has id {value}; ids are from 0 to {limit - 1}")


def empty_batch(size: int, num_dense: int, num_lookups: int, weighted: bool = False) -> Batch:
  """A batch of padding alone, of the shapes that a model with these inputs takes; `weighted`: with weights in the bags."""
  ids_bl = jnp.zeros((size, num_lookups), jnp.int32)
  weights = jnp.zeros((size, num_lookups)) if weighted else None
  return Batch(jnp.zeros((size, num_dense)), ids_bl, jnp.zeros(size), jnp.zeros(size), weights)
