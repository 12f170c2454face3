"""Trains the trials of a search for learning rates: short runs on the same training examples, compared on the later half of them.

A trial's examples are spread evenly over those of the run, in their order. Its last five tenths are each predicted before they are
trained on, by a model that does not train meanwhile. Its loss is that of these predictions. In a log that drifts the progressive loss of
each batch would reward rates that follow the latest rows, while held-out rows are days or weeks away.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from dlrm_jax.batch import Batch
from dlrm_jax.common import stopping
from dlrm_jax.common.progress import Bar
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import PreparedSource, Source, one_epoch
from dlrm_jax.identity import together_key
from dlrm_jax.training.build import runs_that_fit
from dlrm_jax.training.learner import Learner, make_learner

SHARE, LEAST, MOST = 8, 2**18, 2**20  # a trial has 1/8 of the run's examples, but no fewer and no more than these
PIECES = 64  # stretches of examples that follow each other in the run, spread over it
TENTHS, PREDICTED, PARTS = 10, 5, 4  # of a trial: tenths; how many, the last ones, are predicted first; parts of each that have a loss


class Trials:
  """The examples of the trials of one search, read once, and the runs on them.

  Args:
    config: the run, resolved, at any learning rates.
    source: its data.
    quiet: no progress on standard error.
  """

  def __init__(self, config: RunConfig, source: Source, quiet: bool):
    self.config, self._source, self._quiet = config, one_epoch(source), quiet
    train = config.train
    self.length = min(train.num_examples, MOST, max(train.num_examples // SHARE, LEAST))
    self._batches = list(self._read())
    self.length = min(self.length, len(self._batches) * train.batch_size)
    self._edges = [round(len(self._batches) * i / TENTHS) for i in range(TENTHS + 1)]

  @property
  def loss_examples(self) -> int:
    """How many examples the loss of a trial is a mean over."""
    return max(0, self.length - self._edges[TENTHS - PREDICTED] * self.config.train.batch_size)

  def _read(self) -> Iterator[Batch]:
    train = self.config.train
    size, whole = train.batch_size, train.num_examples
    pieces = PIECES if isinstance(self._source, PreparedSource) and self.length < whole else 1
    each = max(1, -(-self.length // pieces // size))
    for i in range(min(pieces, -(-self.length // size))):
      start = (whole - min(whole, each * size)) * i // max(1, pieces - 1) if pieces > 1 else 0
      yield from itertools.islice(self._source.train_batches(train.seed, size, whole, start), each)
      stopping.check()

  def losses(self, configs: Sequence[RunConfig]) -> Iterator[list[float]]:
    """For each config the losses (nats) of PREDICTED x PARTS equal parts, of fewer if batches are few; not finite if it diverged.

    An accelerator trains several at once; a CPU gains nothing by that.
    """
    at_once = jax.default_backend() != "cpu" and together_key(configs[0]) is not None
    lot = min(len(configs), runs_that_fit(configs[0], self._source)) if at_once else 1
    for first in range(0, len(configs), lot):
      yield from self._train(configs[first : first + lot])

  def _train(self, configs: Sequence[RunConfig]) -> list[list[float]]:
    share = self.length / self.config.train.num_examples
    shortened = [
      dataclasses.replace(one, train=dataclasses.replace(one.train, decay_examples=round(one.train.decay_examples * share) or 1))
      for one in configs
    ]
    learner = make_learner(shortened, self._source)
    state, parts = learner.start(), list[np.ndarray]()
    with Bar("examples of a trial", self.length, quiet=self._quiet) as bar:
      for tenth, (low, high) in enumerate(itertools.pairwise(self._edges)):
        placed = [learner.put_part(batch) for batch in self._batches[low:high]]
        if tenth >= TENTHS - PREDICTED:
          cuts = [len(placed) * i // PARTS for i in range(PARTS + 1)]
          parts += [self._loss(learner, state, placed[a:b], len(configs)) for a, b in itertools.pairwise(cuts) if a < b]
          if parts and not np.isfinite(parts[-1]).any():
            break
        for first in range(0, len(placed), self.config.steps_per_call):
          stopping.check()
          batches = placed[first : first + self.config.steps_per_call]
          state = learner.train(state, [(batch,) * len(configs) for batch in batches])
          bar(len(batches) * self.config.train.batch_size)
    return np.stack(parts).T.tolist()

  def _loss(self, learner: Learner, state: object, batches: Sequence[Batch], runs: int) -> Float[np.ndarray, " S"]:
    """The mean log loss of some batches on the device (nats), by each of `runs` runs. Batches without weight have a loss of 0."""
    sums = jnp.zeros((runs + 1,))
    for batch in batches:
      sums += _loss_sums(learner.predict(state, batch), batch, self._source.shape.negatives_kept)
    return np.asarray(sums[:-1] / jnp.maximum(sums[-1], 1e-30))


@functools.partial(jax.jit, static_argnames="kept")
def _loss_sums(logit_sb: Float[Array, "S B"], batch: Batch, kept: float) -> Float[Array, "S+1"]:
  """The summed losses of a batch, times weights, by each run, and the sum of the weights. A kept negative stands for 1/kept of them."""
  loss_sb = optax.sigmoid_binary_cross_entropy(logit_sb, batch.label_b[None])
  weight_b = batch.weight_b * jnp.where(batch.label_b > 0, 1.0, 1 / kept)
  return jnp.append((loss_sb * weight_b).sum(axis=1), weight_b.sum())
