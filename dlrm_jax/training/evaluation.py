"""How good a state is: by held-out examples, and by the losses of training examples before each step.

Called by the loop.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common import stopping
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.config import TrainConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.planted.draws import Truth
from dlrm_jax.data.source import Source
from dlrm_jax.training import metrics
from dlrm_jax.training.learner import Learner
from dlrm_jax.training.read_ahead import read_ahead

KEPT_BYTES = 2**28  # of evaluation batches that stay on the devices; a larger set is read anew for each evaluation


@dataclasses.dataclass(frozen=True)
class EvalBatch:
  """The batches of one call on the devices, and what metrics need of them on the host.

  Attributes:
    placed: on the devices.
    label_n: labels.
    keep_n: which examples count: those that are no padding.
    truths: the teacher's logits.
    weight_n: how much each example counts; None where all count alike.
  """

  placed: tuple[Batch, ...]
  label_n: np.ndarray
  keep_n: np.ndarray
  truths: tuple[Truth, ...]
  weight_n: np.ndarray | None = None


class EvalSet:
  """The evaluation examples of a run, batch by batch, as often as asked for; the same ones in the same order each time.

  Attributes:
    source: gives the examples.
    num_examples: how many there are.
    num_bytes: about how many bytes all batches take.
  """

  def __init__(self, source: Source, learner: Learner, settings: TrainConfig, kept_bytes: int | None = None, octaves: int = 0):
    """Keeps the batches on the devices if they take at most `kept_bytes` (None: `KEPT_BYTES`). Takes one of 2**`octaves` examples."""
    self.source, self._of, self._octaves = source, source.num_eval_examples(settings.eval_examples), octaves
    self.num_examples = source.num_eval_examples(settings.eval_examples, octaves)
    self._put, self._batch_size, self._per_call = learner.put, settings.batch_size, learner.batches_per_call
    self.num_bytes = self._bytes()
    self._kept = list(self._read()) if self.num_bytes <= (KEPT_BYTES if kept_bytes is None else kept_bytes) else None

  @property
  def kept(self) -> bool:
    """Whether the batches stay on the devices."""
    return self._kept is not None

  def __iter__(self) -> Iterator[EvalBatch]:
    return self._read() if self._kept is None else iter(self._kept)

  def _read(self) -> Iterator[EvalBatch]:
    batches, alike = self.source.eval_batches(self._batch_size, self._of, self._octaves), self.source.shape.weight_column is None
    while some := list(itertools.islice(batches, self._per_call)):
      placed = tuple(self._put(jax.tree.map(jnp.asarray, batch)) for batch, _ in some)
      label_n, weight_n = (np.concatenate([np.asarray(getattr(batch, name)) for batch, _ in some]) for name in ("label_b", "weight_b"))
      truths = tuple(truth for _, truth in some if truth is not None)
      yield EvalBatch(placed, label_n, weight_n > 0, truths, None if alike else weight_n)

  def _bytes(self) -> int:
    """The bytes of all batches: dense inputs, ids, bag weights, labels, weights, a teacher's logit and its parts, 4 bytes each."""
    shape, truth = self.source.shape, 1 + len(self.source.parts) if isinstance(self.source, Planted) else 0
    numbers = shape.num_dense + shape.num_lookups * (1 + shape.weighted) + 2 + truth
    return 4 * numbers * math.ceil(self.num_examples / self._batch_size) * self._batch_size


def evaluate(learner: Learner, state: Any, batches: EvalSet, runs: Sequence[int] = (0,)) -> list[metrics.Metrics] | None:
  """Metrics of those runs of a state that `runs` names; the excess by part only where the tail is not all there is to learn.

  Memory does not grow with the examples. None where the program was asked to stop meanwhile (`stopping`).
  """
  source = batches.source
  several = isinstance(source, Planted) and len(source.parts) > 1
  sums = [metrics.Accumulator(source.base_rate()) for _ in runs]
  # The next batches are on their way through the model while the sums of these are taken.
  for batch, predicted in read_ahead(((batch, learner.predict_call(state, batch.placed)) for batch in batches), 1):
    if stopping.requested():
      return None
    keep = batch.keep_n
    true_logit_n = _joined([truth.logit_b for truth in batch.truths])[keep] if batch.truths else None
    names = batch.truths[0].parts if batch.truths and several else ()
    parts = {name: _joined([truth.parts[name] for truth in batch.truths])[keep] for name in names} if names else None
    logit_ksb = np.asarray(predicted)[: len(batch.placed)]
    weight_n = None if batch.weight_n is None else batch.weight_n[keep]
    for total, run in zip(sums, runs, strict=True):
      total.add(logit_ksb[:, run].reshape(-1)[keep], batch.label_n[keep], true_logit_n, parts, weight_n)
  return [total.metrics() for total in sums]


def _joined(arrays: Sequence[ArrayLike]) -> np.ndarray:
  return np.concatenate([np.asarray(x) for x in arrays])


class Progressive:
  """Progressive validation: each training example is predicted before the model is trained on it, so that its loss is that of an unseen
  one (Blum, Kalai and Langford 1999). The steps sum these losses on the device. Here the sums that are read are added in float64.

  Means are weighted where examples have weights, and where negatives are left out: a kept one then stands for several.

  Attributes:
    FIELDS: what curve and record hold: mean log loss over all examples since the run's start, its NE, and the mean since the row before.
    loss_sum: the sum over all examples; NaN where some were not counted.
    examples: how many there are, with those of other data that the model had seen before; their losses are not in the sum.
    weight: the sum of the weights of those in the sum.
  """

  FIELDS = ("progressive_log_loss", "progressive_ne", "progressive_log_loss_recent")

  def __init__(self, train_rate: float):
    self.loss_sum, self.examples, self.weight = 0.0, 0, 0.0
    self._entropy, self._recent_sum, self._row_weight = metrics.entropy(train_rate), 0.0, 0.0

  def add(self, loss: float, examples: int, weight: float | None = None) -> None:
    """Adds the mean log loss (nats) of the examples from the last reading up to this many; `weight` is theirs, by default 1 each."""
    weight = examples - self.examples if weight is None else weight
    self.loss_sum += loss * weight
    self._recent_sum += loss * weight
    self.examples, self.weight = examples, self.weight + weight

  def row(self) -> dict[str, float]:
    """The fields as they are now; the next row's recent loss starts here."""
    mean, recent = self.loss_sum / self.weight, self._recent_sum / (self.weight - self._row_weight)
    self._recent_sum, self._row_weight = 0.0, self.weight
    return dict(zip(self.FIELDS, (mean, mean / self._entropy, recent), strict=True))

  def facts(self) -> dict[str, float]:
    """The sums, for a checkpoint: JSON keeps every bit, and makes NaN null."""
    return {
      "examples": self.examples,
      "loss_sum": self.loss_sum,
      "weight": self.weight,
      "row_weight": self._row_weight,
      "recent_sum": self._recent_sum,
    }

  def resume(self, facts: dict[str, float | None]) -> None:
    """Goes on with the sums of `facts`."""
    known = {name: math.nan if value is None else value for name, value in facts.items()}
    self.loss_sum, self.examples = known["loss_sum"], int(known["examples"])
    self._recent_sum = known["recent_sum"]
    # Checkpoints that are older than weights have numbers of examples.
    self.weight, self._row_weight = known.get("weight", known["examples"]), known.get("row_weight", known.get("row_examples", 0.0))

  def begin(self, examples: int) -> None:
    """Begins with new sums on other data, after so many examples."""
    self.loss_sum = self._recent_sum = self.weight = self._row_weight = 0.0
    self.examples = examples

  def branch(self, facts: dict[str, float | None]) -> None:
    """Goes on with the sums of another run; the next row's recent loss starts here."""
    self.resume(facts)
    self._recent_sum, self._row_weight = 0.0, self.weight
