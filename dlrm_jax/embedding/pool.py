"""Pools bags: sums the rows of a feature's ids into one vector, and spreads its gradient back over them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.embedding.layout import Layout, row_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lookups:
  """The rows that a batch looks up. For several runs at once there is a leading axis of runs.

  Attributes:
    row_bl: the row of each id in the table of its feature.
    valid_bl: whether the id counts. The padding of a bag or of the batch does not, and must not change a row.
    weight_bl: the weight of the id's row in its feature's vector, 0 for padding; None: 1 everywhere.
  """

  row_bl: Int32[ArrayLike, "*n B L"]
  valid_bl: Bool[ArrayLike, "*n B L"]
  weight_bl: Float[ArrayLike, "*n B L"] | None

  def at(self, columns: np.ndarray) -> "Lookups":
    """Returns those of some columns of 0 .. L."""
    return jax.tree.map(lambda x: x[..., columns], self)


def lookups_of(layout: Layout, batch: Batch) -> Lookups:
  """Returns the lookups of a batch. For mean pooling, weights are divided by their sum over the bag. They are 0 for an empty bag."""
  valid_bl = jnp.broadcast_to((batch.weight_b > 0)[:, None], batch.ids_bl.shape)
  weight_bl, lengths = batch.bag_weight_bl, layout.bag_lengths
  if weight_bl is not None:
    valid_bl &= weight_bl != 0
  if layout.pooling == "mean" and max(lengths) > 1:
    weight_bl = jnp.ones(batch.ids_bl.shape) if weight_bl is None else jnp.asarray(weight_bl)
    sums_bl = pool(weight_bl[..., None], None, lengths)[:, layout.feature_of_lookup, 0]
    weight_bl = jnp.where(sums_bl != 0, weight_bl / jnp.where(sums_bl != 0, sums_bl, 1), 0)
  return Lookups(row_of(layout, batch.ids_bl), valid_bl, weight_bl)


def pool(rows_bld: Float[Array, "B L D"], weight_bl: Float[ArrayLike, "B L"] | None, lengths: tuple[int, ...]) -> Float[Array, "B F D"]:
  """Returns weighted sums over each bag. They are float32 if there are bags or weights."""
  if weight_bl is not None:
    rows_bld = rows_bld.astype(jnp.float32) * weight_bl[..., None]
  if max(lengths) == 1:
    return rows_bld
  ends = np.cumsum(lengths)
  bags = [rows_bld[:, end - length : end].sum(axis=1, dtype=jnp.float32) for end, length in zip(ends, lengths, strict=True)]
  return jnp.stack(bags, axis=1)


def unpool(
  grad_bfd: Float[ArrayLike, "B F D"], weight_bl: Float[ArrayLike, "B L"] | None, segments: Int[ArrayLike, " L"]
) -> Float[Array, "B L D"]:
  """Returns the gradient with respect to each looked-up row, from the gradient of the pooled vectors."""
  same = isinstance(segments, np.ndarray) and np.array_equal(segments, np.arange(grad_bfd.shape[1]))
  grad_bld = grad_bfd if same else grad_bfd[:, segments]
  return grad_bld if weight_bl is None else grad_bld * weight_bl[..., None]
