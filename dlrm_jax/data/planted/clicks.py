"""A click model whose scaling exponents are known before any training; made on the device, infinite, the same on every host.

logit = bias + tail + pairs + dense + scores (additive, so that each part answers to one way of scaling a model):

- tail: one linear effect per id, ids p_k = k^-(s-1) - (k+1)^-(s-1), about k^-s, k = 1, 2, ... without end. Answers to data and rows.
  With `bag_length` n > 1 a field draws a bag of 1 to n ids, each size as likely, and the effects of its ids are summed.
- pairs: 4 fields of 64 ids meeting in inner products of 32 decaying terms. Answers to the embedding dim.
- dense: 16 dense inputs, decaying terms |w.x|. Answers to the bottom MLP's width.
- scores: a smooth non-linear function of 4 latent scalars. Answers to the overarch.

Every example is a pure function of (teacher seed, stream, example index). The theory of the tail is in `planted_theory.py`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from dlrm_jax.batch import Batch, DataShape
from dlrm_jax.common.arrays import ArrayLike, sigmoid
from dlrm_jax.common.hashing import normal, uniform, word
from dlrm_jax.config import PlantedConfig
from dlrm_jax.data.order import part_size
from dlrm_jax.data.planted.closed_forms import decaying_shares

EVAL_STREAM = 0  # training streams are 1 + the run's seed
PARTS = ("tail", "pairs", "dense", "scores")
SMALL_IDS = 64  # ids of each field of the pair and score parts
PAIR_FIELDS, PAIR_TERMS = 4, 32
SCORE_FIELDS, SCORE_TERMS = 4, 16
DENSE_INPUTS = 16
ID_BITS = 31  # ids from 2**31 on are fresh ones, never seen again
_SUB_BITS = 12  # inside an octave the density is followed in 2**12 steps
_CHUNK, _MOST_BATCHES = 8192, 16  # drawn in one call, so that a call costs little per example; each batch adds to the time to compile
_EFFECTS, _TAIL, _PAIRS, _DENSE, _SCORES, _CLICK, _SIZES = range(7)  # what a random word is for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Truth:
  """What only the teacher knows of a batch: the true click logit, and the parts of it by name, those of `Planted.parts`."""

  logit_b: Float[ArrayLike, " B"]
  parts: dict[str, Float[ArrayLike, " B"]]


@dataclasses.dataclass(frozen=True)
class Planted:
  """The planted source of examples. Fields come in the order tail, pairs, scores.

  Attributes:
    config: the teacher.
    num_tables: fields that examples show, the first so many; 0: all. Clicks answer to all of them.
  """

  config: PlantedConfig
  num_tables: int = 0

  @property
  def name(self) -> str:
    return "planted"

  @property
  def digest(self) -> str:
    return ""  # the config says it all

  def base_rate(self) -> float:
    return self.moments[0]

  @property
  def max_examples(self) -> int | None:
    return None  # without end

  @property
  def tau(self) -> float:
    """c * sigma^2, the scale of `planted_theory`."""
    return self.moments[1] * self.config.tail_sigma**2

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts that clicks answer to."""
    return ("tail", *(name for name in PARTS[1:] if self.variance(name)))

  def variance(self, part: str) -> float:
    """Of a part other than the tail, in logits squared."""
    return {"pairs": self.config.pair_variance, "dense": self.config.dense_variance, "scores": self.config.score_variance}[part]

  @property
  def small_fields(self) -> tuple[str, ...]:
    pairs = tuple(f"pair{f}" for f in range(PAIR_FIELDS)) if self.config.pair_variance else ()
    scores = tuple(f"score{f}" for f in range(SCORE_FIELDS)) if self.config.score_variance else ()
    return pairs + scores

  @functools.cached_property
  def shape(self) -> DataShape:
    config, small = self.config, self.small_fields
    return DataShape(
      num_dense=DENSE_INPUTS if config.dense_variance else 0,
      field_names=tuple(f"tail{f}" for f in range(config.tail_fields)) + small,
      cardinalities=(None,) * config.tail_fields + (SMALL_IDS,) * len(small),
      bag_lengths=(config.bag_length,) * config.tail_fields + (1,) * len(small),
      weighted=config.bag_length > 1,
    ).first(self.num_tables)

  def first_tables(self, count: int) -> "Planted":
    self.shape.first(count)  # refuses more than there are
    return dataclasses.replace(self, num_tables=count or self.num_tables)

  @property
  def whole_tail(self) -> bool:
    """Whether examples show every tail field, as the closed forms of `planted_theory` take it."""
    return not 0 < self.num_tables < self.config.tail_fields

  @property
  def draws(self) -> float:
    """Mean number of ids of a tail field in an example, `planted_theory`'s m."""
    return (1 + self.config.bag_length) / 2

  @functools.cached_property
  def _teacher(self) -> dict[str, np.ndarray]:
    return _teacher(self.config)

  @property
  def moments(self) -> tuple[float, float]:
    """(click rate E p, curvature c = E p(1-p)), from 2**18 evaluation draws."""
    return _moments(self.config)

  def batch(self, stream: int, start: int, size: int) -> tuple[Batch, Truth]:
    """Examples `start .. start + size - 1` of a stream, on the device; ids from 0 (unsigned 32 bits): a tail id is its rank k - 1."""
    return self._draw(stream, start, size, size, 1)[0]

  def _draw(self, stream: int, start: int, size: int, stride: int, count: int) -> list[tuple[Batch, Truth]]:
    """`count` batches, the first example of each `stride` after that of the one before."""
    low, high = np.uint32(start & 0xFFFFFFFF), np.uint32(start >> 32)
    return _draw(self.config, self.shape.num_lookups, size, stride, count, self._teacher, np.uint32(stream), low, high)

  def train_batches(self, seed: int, batch_size: int, num_examples: int, start: int = 0) -> Iterator[Batch]:
    """This process's part of the training batches of one seed from example `start` on; the last is padded with weight 0.

    Process p of P has the p-th of P equal pieces of every batch, so that the parts are the batch of a single process. Raises UserError
    where they are not equal.
    """
    for batch, _ in self._batches(1 + seed, batch_size, num_examples, start, (jax.process_index(), jax.process_count())):
      yield batch

  def num_eval_examples(self, wanted: int) -> int:
    return wanted  # unlimited

  def eval_batches(self, batch_size: int, num_examples: int) -> Iterator[tuple[Batch, Truth | None]]:
    """The evaluation draws: the same for every run on this teacher."""
    yield from self._batches(EVAL_STREAM, batch_size, num_examples, 0)

  def _batches(
    self, stream: int, batch_size: int, num_examples: int, start: int, part: tuple[int, int] = (0, 1)
  ) -> Iterator[tuple[Batch, Truth]]:
    size = part_size(batch_size, part)
    count = drawn_together(size)
    for first in range(start, num_examples, count * batch_size):
      for i, (batch, truth) in enumerate(self._draw(stream, first + part[0] * size, size, batch_size, count)):
        left = num_examples - first - i * batch_size
        if left <= 0:
          return
        keep = left - part[0] * size
        if keep < size:
          batch = dataclasses.replace(batch, weight_b=(jnp.arange(size) < keep).astype(jnp.float32))
        yield batch, truth


@functools.lru_cache(maxsize=32)
def _moments(config: PlantedConfig) -> tuple[float, float]:
  """`Planted.moments`, once for all sources of a teacher."""
  drawn = Planted(config)._batches(EVAL_STREAM, _CHUNK, 2**18, 0)
  prob = sigmoid(np.concatenate([np.asarray(truth.logit_b, np.float64) for _, truth in drawn]))
  return float(prob.mean()), float((prob * (1 - prob)).mean())


def _orthonormal(random: np.random.RandomState, size: int, count: int, centred: bool) -> Float[np.ndarray, "size count"]:
  """`count` random vectors over `size` points, orthonormal under the uniform mean (and of mean 0 if `centred`)."""
  z = random.standard_normal((size, count))
  q, _ = np.linalg.qr(z - z.mean(axis=0) if centred else z)
  return q * np.sqrt(size)


def _teacher(config: PlantedConfig) -> dict[str, np.ndarray]:
  """The latent arrays of the small parts, float32 (the tail's effects are hashed from the id instead).

  RandomState, since numpy promises that its streams never change.
  """
  teacher: dict[str, np.ndarray] = {}
  if config.pair_variance:
    random = np.random.RandomState([config.seed, 1])
    num_pairs = PAIR_FIELDS * (PAIR_FIELDS - 1) / 2
    teacher["pair_fkj"] = np.stack([_orthonormal(random, SMALL_IDS, PAIR_TERMS, centred=True) for _ in range(PAIR_FIELDS)])
    teacher["pair_scale_j"] = np.sqrt(config.pair_variance / num_pairs * decaying_shares(PAIR_TERMS, config.delta))
  if config.dense_variance:
    random = np.random.RandomState([config.seed, 2])
    teacher["dense_w"] = _orthonormal(random, DENSE_INPUTS, DENSE_INPUTS, centred=False) / np.sqrt(DENSE_INPUTS)
    teacher["dense_scale_j"] = np.sqrt(config.dense_variance * decaying_shares(DENSE_INPUTS, config.delta))
  if config.score_variance:
    random = np.random.RandomState([config.seed, 3])
    direction = random.standard_normal((SCORE_FIELDS, SCORE_TERMS))
    teacher["score_fk"] = random.standard_normal((SCORE_FIELDS, SMALL_IDS))
    teacher["score_w"] = 2 * direction / np.linalg.norm(direction, axis=0)
    teacher["score_phase_j"] = random.uniform(0, 2 * np.pi, SCORE_TERMS)
    latent_nf = teacher["score_fk"][np.arange(SCORE_FIELDS), random.randint(0, SMALL_IDS, (2**16, SCORE_FIELDS))]
    raw = np.sin(latent_nf @ teacher["score_w"] + teacher["score_phase_j"]).sum(axis=1)
    teacher["score_mean"], teacher["score_scale"] = raw.mean(), np.sqrt(config.score_variance) / raw.std()
  return {name: np.asarray(value, np.float32) for name, value in teacher.items()}


def _score(teacher: dict[str, ArrayLike], ids_bf: UInt32[Array, "B 4"]) -> Float[Array, " B"]:
  latent_bf = teacher["score_fk"][jnp.arange(SCORE_FIELDS), ids_bf]
  terms_bj = jnp.sin(jnp.matmul(latent_bf, teacher["score_w"], precision="highest") + teacher["score_phase_j"])
  return (terms_bj.sum(axis=1) - teacher["score_mean"]) * teacher["score_scale"]


def zipf_ids(words: UInt32[Array, "*shape 3"], s: float) -> UInt32[Array, "*shape"]:
  """Ids k >= 1 with P(id >= k) = k^-(s-1) for every integer k up to 2**31; above it `2**31 | word`, a fresh id.

  The octave [2^j, 2^(j+1)) is drawn first, then the place inside it, then the low bits as integers: one float32 uniform could
  not tell ids above 2**23 apart.

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
  """Standard normal effect of every (field, id), hashed: no vocabulary is stored. Bags of the fields lie side by side."""
  return normal(word(seed, _EFFECTS, jnp.arange(ids_bl.shape[1]) // bag_length, ids_bl))


def drawn_together(batch_size: int) -> int:
  """Batches that one call draws."""
  return min(max(1, _CHUNK // batch_size), _MOST_BATCHES)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _draw(
  config: PlantedConfig,
  num_lookups: int,
  size: int,
  stride: int,
  count: int,
  teacher: dict[str, ArrayLike],
  stream: ArrayLike,
  low: ArrayLike,
  high: ArrayLike,
) -> list[tuple[Batch, Truth]]:
  """`count` batches of `size` examples from example high * 2^32 + low on, `stride` from one to the next, of their ids the first
  `num_lookups`: drawn together and cut in the same program."""
  with jax.named_scope("draws"):
    offset_b = (jnp.arange(count, dtype=jnp.uint32)[:, None] * stride + jnp.arange(size, dtype=jnp.uint32)).reshape(-1)
    batch, truth = _examples(config, offset_b, teacher, stream, low, high)
    weight_bl = None if batch.bag_weight_bl is None else batch.bag_weight_bl[:, :num_lookups]
    drawn = (dataclasses.replace(batch, ids_bl=batch.ids_bl[:, :num_lookups], bag_weight_bl=weight_bl), truth)
    return [jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], drawn) for i in range(count)]


def _examples(
  config: PlantedConfig,
  offset_b: UInt32[Array, " B"],
  teacher: dict[str, ArrayLike],
  stream: ArrayLike,
  low: ArrayLike,
  high: ArrayLike,
) -> tuple[Batch, Truth]:
  size = len(offset_b)
  index_b = low + offset_b
  high_b = high + (index_b < low).astype(jnp.uint32)  # carry

  def words(purpose: int, shape: tuple[int, ...]) -> UInt32[Array, "B ..."]:
    """Random words [B, *shape] that belong to each example."""
    number = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return word(config.seed, purpose, stream, high_b[:, None], index_b[:, None], number).reshape(size, *shape)

  tail_ids = zipf_ids(words(_TAIL, (config.tail_fields * config.bag_length, 3)), config.zipf_s)
  effects_bl, weight_bl = tail_effects(config.seed, tail_ids, config.bag_length), None
  tail_ids = tail_ids - 1  # from 0, as everywhere in a batch
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
  if weight_bl is not None:  # the small fields' bags are full
    weight_bl = jnp.pad(weight_bl, ((0, 0), (0, ids_bl.shape[1] - weight_bl.shape[1])), constant_values=1)
  return Batch(dense_bm, ids_bl, label_b, jnp.ones(size, jnp.float32), weight_bl), Truth(logit_b, parts)
