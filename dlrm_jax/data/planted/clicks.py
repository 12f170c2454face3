"""`Planted`: a source of clicks whose scaling exponents are known before any training. It is unlimited and the same on every host.

logit = bias + tail + pairs + dense + scores. The sum is additive, so that each part depends on one way of scaling a model:

- tail: one linear effect per id. Id k = 1, 2, ... has p_k = k^-(s-1) - (k+1)^-(s-1), about k^-s; ids are unlimited. It depends on data
  and rows. With `bag_length` n > 1 a field draws a bag of 1 to n ids, each size as likely, and the effects of its ids are summed.
- pairs: 4 fields of 64 ids; each pair of fields adds an inner product of 32 decaying terms. It depends on the embedding dim.
- dense: 16 dense inputs, decaying terms |w.x|. It depends on the bottom MLP's width.
- scores: a smooth non-linear function of 4 latent scalars. It depends on the overarch.

Every example is a pure function of (teacher seed, stream, example index). `closed_forms.py` has the theory of the tail.
"""

import dataclasses
import functools
from collections.abc import Hashable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import sigmoid
from dlrm_jax.config import MOST_REPEATED, PlantedConfig
from dlrm_jax.data.order import local_batch_size
from dlrm_jax.data.planted.draws import Truth, draw
from dlrm_jax.data.planted.teacher import DENSE_INPUTS, PAIR_FIELDS, PARTS, SCORE_FIELDS, SMALL_IDS, latent_arrays
from dlrm_jax.shape import DataShape

EVAL_STREAM = 0  # training streams are 1 + the run's seed
_CHUNK, _MOST_BATCHES = 8192, 16  # examples and batches of one call: large calls cost less per example, each batch takes time to compile


@dataclasses.dataclass(frozen=True)
class Planted:
  """The planted source of examples. Fields come in the order tail, pairs, scores.

  Attributes:
    config: the teacher.
    num_tables: how many fields, the first ones, examples show; 0: all. Clicks depend on all fields.
    epochs: passes that a run makes over its first examples, in the same order.
  """

  config: PlantedConfig
  num_tables: int = 0
  epochs: int = 1

  @property
  def name(self) -> str:
    return "planted"

  @property
  def digest(self) -> str:
    return ""  # the config describes the data in full

  def base_rate(self) -> float:
    return self.moments[0]

  @property
  def max_examples(self) -> int | None:
    return None  # unlimited

  @property
  def tau(self) -> float:
    """c * sigma^2, the scale of `closed_forms`."""
    return self.moments[1] * self.config.tail_sigma**2

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts of the logit that vary."""
    return ("tail", *(name for name in PARTS[1:] if self.variance(name)))

  def variance(self, part: str) -> float:
    """The variance of a part other than the tail, in logits squared."""
    return {"pairs": self.config.pair_variance, "dense": self.config.dense_variance, "scores": self.config.score_variance}[part]

  @functools.cached_property
  def shape(self) -> DataShape:
    config = self.config
    small = tuple(f"pair{f}" for f in range(PAIR_FIELDS)) if config.pair_variance else ()
    small += tuple(f"score{f}" for f in range(SCORE_FIELDS)) if config.score_variance else ()
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
    """Whether examples show every tail field, as `closed_forms` assumes."""
    return not 0 < self.num_tables < self.config.tail_fields

  @property
  def draws(self) -> float:
    """The mean number of ids of a tail field in an example: m of `closed_forms`."""
    return (1 + self.config.bag_length) / 2

  @functools.cached_property
  def latents(self) -> dict[str, np.ndarray]:
    """The teacher's latent arrays."""
    return latent_arrays(self.config)

  @property
  def moments(self) -> tuple[float, float]:
    """(click rate E p, curvature c = E p(1-p)), from 2**18 evaluation draws."""
    return _moments(self.config)

  def batch(self, stream: int, start: int, size: int) -> tuple[Batch, Truth]:
    """Examples `start .. start + size - 1` of a stream, on the device. Ids are unsigned and start at 0: a tail id is its rank k - 1."""
    return self._draw(stream, start, size, size, 1)[0]

  def _draw(self, stream: int, start: int, size: int, stride: int, count: int, again: int | None = None) -> list[tuple[Batch, Truth]]:
    """`count` batches. The first example of a batch is `stride` after that of the batch before; example 0 follows `again` - 1."""
    low, high = np.uint32(start & 0xFFFFFFFF), np.uint32(start >> 32)
    words = (low, high) if again is None else (np.uint32(start % again), np.uint32(0), np.uint32(again))
    return draw(self.config, self.shape.num_lookups, size, stride, count, self.latents, np.uint32(stream), *words)

  def train_batches(self, seed: int, batch_size: int, num_examples: int, start: int = 0) -> Iterator[Batch]:
    """This process's examples of the training batches of one seed, from example `start` on. The last batch is padded with weight 0.

    Process p of P has the p-th of P equal ranges of every batch, so that together they are the batch of a single process. Raises
    UserError if they are not equal. With several epochs the examples are those of a pass, again and again.
    """
    process, rows = (jax.process_index(), jax.process_count()), num_examples // self.epochs
    again = rows if self.epochs > 1 and rows <= MOST_REPEATED else None
    for batch, _ in self._batches(1 + seed, batch_size, num_examples, start, process, again):
      yield batch

  def num_eval_examples(self, wanted: int, octaves: int = 0) -> int:
    return -(-wanted >> octaves)  # unlimited

  def eval_batches(self, batch_size: int, num_examples: int, octaves: int = 0) -> Iterator[tuple[Batch, Truth | None]]:
    """The evaluation draws, which are the same for every run on this teacher. They are independent: fewer are the first of them."""
    yield from self._batches(EVAL_STREAM, batch_size, -(-num_examples >> octaves), 0)

  @property
  def eval_key(self) -> Hashable:
    return dataclasses.replace(self, epochs=1)

  def _batches(
    self, stream: int, batch_size: int, num_examples: int, start: int, process: tuple[int, int] = (0, 1), again: int | None = None
  ) -> Iterator[tuple[Batch, Truth]]:
    size = local_batch_size(batch_size, process)
    count = drawn_together(size)
    for first in range(start, num_examples, count * batch_size):
      for i, (batch, truth) in enumerate(self._draw(stream, first + process[0] * size, size, batch_size, count, again)):
        left = num_examples - first - i * batch_size
        if left <= 0:
          return
        keep = left - process[0] * size
        if keep < size:
          batch = dataclasses.replace(batch, weight_b=(jnp.arange(size) < keep).astype(jnp.float32))
        yield batch, truth


@functools.lru_cache(maxsize=32)
def _moments(config: PlantedConfig) -> tuple[float, float]:
  """`Planted.moments`, computed once for all sources of a teacher."""
  drawn = Planted(config)._batches(EVAL_STREAM, _CHUNK, 2**18, 0)
  prob = sigmoid(np.concatenate([np.asarray(truth.logit_b, np.float64) for _, truth in drawn]))
  return float(prob.mean()), float((prob * (1 - prob)).mean())


def drawn_together(batch_size: int) -> int:
  """The number of batches that one call draws."""
  return min(max(1, _CHUNK // batch_size), _MOST_BATCHES)
