"""Draws planted examples on the device: ids, dense inputs, clicks, and the truth behind them. Called by `clicks`."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.hashing import normal, uniform, word
from dlrm_jax.config import PlantedConfig
from dlrm_jax.data.planted.teacher import DENSE_INPUTS, PAIR_FIELDS, SCORE_FIELDS, SMALL_IDS

ID_BITS = 31  # ids from 2**31 on are fresh ones, never seen again
_SUB_BITS = 12  # the density within an octave is followed in 2**12 steps
_EFFECTS, _TAIL, _PAIRS, _DENSE, _SCORES, _CLICK, _SIZES = range(7)  # the purpose of a random word


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Truth:
  """What only the teacher knows of a batch: the true click logit, and its parts by name (`Planted.parts`)."""

  logit_b: Float[ArrayLike, " B"]
  parts: dict[str, Float[ArrayLike, " B"]]


def zipf_ids(words: UInt32[Array, "*shape 3"], s: float) -> UInt32[Array, "*shape"]:
  """Ids k >= 1 with P(id >= k) = k^-(s-1) for every integer k up to 2**31. An id above that is `2**31 | word`, a fresh one.

  The octave [2^j, 2^(j+1)) is drawn first, then the place within it, then the low bits as integers. A single float32 uniform could not
  tell ids above 2**23 apart.

  Args:
    words: three random words per id.
    s: Zipf exponent, above 1.
  """
  a = s - 1
  octave = jnp.floor(-jnp.log2(uniform(words[..., 0])) / a).astype(jnp.int32)  # P(octave >= j) = 2^(-j a)
  place = (1 - uniform(words[..., 1]) * (1 - 2.0**-a)) ** (-1 / a)  # in [1, 2), density ~ y^-s
  place = jnp.clip(place, 1.0, 2.0 - 2.0**-23)
  small = jnp.exp2(jnp.minimum(octave, _SUB_BITS).astype(jnp.float32)) * place
  shift = jnp.clip(octave - _SUB_BITS, 0, ID_BITS - _SUB_BITS).astype(jnp.uint32)
  step = jnp.floor(place * 2**_SUB_BITS).astype(jnp.uint32)
  large = (step << shift) | (words[..., 2] & ((jnp.uint32(1) << shift) - 1))
  known = jnp.where(octave <= _SUB_BITS, small.astype(jnp.uint32), large)
  return jnp.where(octave >= ID_BITS, words[..., 2] | jnp.uint32(1 << ID_BITS), known)


def tail_effects(seed: int, ids_bl: UInt32[Array, "B L"], bag_length: int) -> Float[Array, "B L"]:
  """The standard normal effect of every (field, id). It is hashed, so that no vocabulary is stored. Columns are the fields' bags."""
  return normal(word(seed, _EFFECTS, jnp.arange(ids_bl.shape[1]) // bag_length, ids_bl))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def draw(
  config: PlantedConfig,
  num_lookups: int,
  size: int,
  stride: int,
  count: int,
  teacher: dict[str, ArrayLike],
  stream: ArrayLike,
  low: ArrayLike,
  high: ArrayLike,
  again: ArrayLike | None = None,
) -> list[tuple[Batch, Truth]]:
  """`count` batches of `size` examples with their first `num_lookups` ids. The first batch starts at example high * 2^32 + low, each
  other one `stride` examples after the batch before. One program draws all examples and cuts them into batches. With `again` example
  0 comes after example again - 1; `low` is then below `again` and `high` is 0."""
  with jax.named_scope("draws"):
    offset_b = (jnp.arange(count, dtype=jnp.uint32)[:, None] * stride + jnp.arange(size, dtype=jnp.uint32)).reshape(-1)
    batch, truth = _examples(config, offset_b, teacher, stream, low, high, again)
    weight_bl = None if batch.bag_weight_bl is None else batch.bag_weight_bl[:, :num_lookups]
    drawn = (dataclasses.replace(batch, ids_bl=batch.ids_bl[:, :num_lookups], bag_weight_bl=weight_bl), truth)
    return [jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], drawn) for i in range(count)]


def _score(teacher: dict[str, ArrayLike], ids_bf: UInt32[Array, "B 4"]) -> Float[Array, " B"]:
  latent_bf = teacher["score_fk"][jnp.arange(SCORE_FIELDS), ids_bf]
  terms_bj = jnp.sin(jnp.matmul(latent_bf, teacher["score_w"], precision="highest") + teacher["score_phase_j"])
  return (terms_bj.sum(axis=1) - teacher["score_mean"]) * teacher["score_scale"]


def _examples(
  config: PlantedConfig,
  offset_b: UInt32[Array, " B"],
  teacher: dict[str, ArrayLike],
  stream: ArrayLike,
  low: ArrayLike,
  high: ArrayLike,
  again: ArrayLike | None,
) -> tuple[Batch, Truth]:
  size = len(offset_b)
  index_b = low + offset_b
  high_b = high + (index_b < low).astype(jnp.uint32)  # carry
  index_b = index_b if again is None else index_b % again

  def words(purpose: int, shape: tuple[int, ...]) -> UInt32[Array, "B ..."]:
    """The random words [B, *shape] of each example for one purpose."""
    number = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return word(config.seed, purpose, stream, high_b[:, None], index_b[:, None], number).reshape(size, *shape)

  tail_ids = zipf_ids(words(_TAIL, (config.tail_fields * config.bag_length, 3)), config.zipf_s)
  effects_bl, weight_bl = tail_effects(config.seed, tail_ids, config.bag_length), None
  tail_ids = tail_ids - 1  # ids of a batch start at 0
  if config.bag_length > 1:
    filled_bf1 = 1 + words(_SIZES, (config.tail_fields, 1)) % config.bag_length
    weight_bl = (jnp.arange(config.bag_length) < filled_bf1).reshape(size, -1).astype(jnp.float32)
    effects_bl, tail_ids = effects_bl * weight_bl, jnp.where(weight_bl > 0, tail_ids, 0)
  tail_b = config.tail_sigma * effects_bl.sum(axis=1)
  parts, dense_bm = {"tail": tail_b}, jnp.zeros((size, 0))
  ids = [tail_ids]
  if config.pair_variance:
    ids.append(words(_PAIRS, (PAIR_FIELDS,)) % SMALL_IDS)
    z_bfj = teacher["pair_fkj"][jnp.arange(PAIR_FIELDS), ids[-1]]
    pairs_bj = (z_bfj.sum(axis=1) ** 2 - (z_bfj**2).sum(axis=1)) / 2  # sum over f < g of z_f z_g
    parts["pairs"] = (pairs_bj * teacher["pair_scale_j"]).sum(axis=1)
  if config.dense_variance:
    dense_bm = normal(words(_DENSE, (DENSE_INPUTS,)))
    folded = jnp.abs(jnp.matmul(dense_bm, teacher["dense_w"], precision="highest"))
    terms_bj = (folded - np.sqrt(2 / np.pi)) / np.sqrt(1 - 2 / np.pi)
    parts["dense"] = (terms_bj * teacher["dense_scale_j"]).sum(axis=1)
  if config.score_variance:
    ids.append(words(_SCORES, (SCORE_FIELDS,)) % SMALL_IDS)
    parts["scores"] = _score(teacher, ids[-1])
  logit_b = jnp.full(size, config.bias)
  for part_b in parts.values():
    logit_b = logit_b + part_b
  label_b = (uniform(words(_CLICK, (1,))[:, 0]) < jax.nn.sigmoid(logit_b)).astype(jnp.float32)
  ids_bl = jnp.concatenate(ids, axis=1).astype(jnp.int32)
  if weight_bl is not None:  # bags of the small fields are full
    weight_bl = jnp.pad(weight_bl, ((0, 0), (0, ids_bl.shape[1] - weight_bl.shape[1])), constant_values=1)
  return Batch(dense_bm, ids_bl, label_b, jnp.ones(size, jnp.float32), weight_bl), Truth(logit_b, parts)
