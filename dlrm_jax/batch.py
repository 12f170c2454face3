"""`Batch`: the one record type from a data source to the loss."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32

from dlrm_jax.common.arrays import ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """`B` examples. The last, partial batch of a pass is padded with examples of weight 0. Under pmap the first axis is that of devices.

  Attributes:
    dense_bm: the M dense inputs, already transformed; M may be 0.
    ids_bl: categorical ids before they are mapped to table rows. Each feature has a bag of fixed length; the L columns are the bags of
      the features, one after the other (L = F if all features are one-hot). On planted data the 32 bits hold an unsigned id.
    label_b: 0.0 or 1.0.
    weight_b: how much an example counts, above 0 (1.0 unless the data set has weights); 0.0 for padding.
    bag_weight_bl: weight of each id in its bag, 0.0 for padding; None if every bag is full.
  """

  dense_bm: Float[ArrayLike, "*n B M"]
  ids_bl: Int32[ArrayLike, "*n B L"]
  label_b: Float[ArrayLike, "*n B"]
  weight_b: Float[ArrayLike, "*n B"]
  bag_weight_bl: Float[ArrayLike, "*n B L"] | None = None


def empty_batch(size: int, num_dense: int, num_lookups: int, weighted: bool = False) -> Batch:
  """A batch of padding alone, for a model with these inputs; with bag weights if `weighted`."""
  ids_bl = jnp.zeros((size, num_lookups), jnp.int32)
  weights = jnp.zeros((size, num_lookups)) if weighted else None
  return Batch(jnp.zeros((size, num_dense)), ids_bl, jnp.zeros(size), jnp.zeros(size), weights)
