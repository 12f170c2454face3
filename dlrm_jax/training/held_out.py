"""`HeldOut`: the batches of held-out examples that the evaluations of a run predict (`eval_plan.py`). The runs of a process share them."""

from collections.abc import Hashable

from dlrm_jax.config import TrainConfig
from dlrm_jax.data.source import Source, examples_before
from dlrm_jax.training import evaluation
from dlrm_jax.training.eval_plan import early_octaves
from dlrm_jax.training.evaluation import EvalSet
from dlrm_jax.training.learner import Learner

_shared: dict[Hashable, EvalSet] = {}  # those sets of the last run that stay on the devices


class HeldOut:
  """The evaluation examples of a run.

  Attributes:
    num_examples: how many the last evaluation predicts.
  """

  def __init__(self, source: Source, learner: Learner, train: TrainConfig):
    """Reads the sets that fit into memory, unless the run before had the same. Raises UserError where they cannot be read."""
    self.num_examples = source.num_eval_examples(train.eval_examples)
    self._total = examples_before(source) + train.total_examples
    each = sorted({0, early_octaves(train, self.num_examples)})
    batches = (learner.where, learner.batches_per_call, train.batch_size)
    keys = [(source.eval_key, *batches, self.num_examples, octaves) for octaves in each]
    for key in set(_shared) - set(keys):
      del _shared[key]  # before others are read
    self._sets = [_set_of(source, learner, train, octaves, key) for octaves, key in zip(each, keys, strict=True)]

  def sets(self, examples: int) -> list[EvalSet]:
    """The sets to evaluate after so many training examples: one; at the end also that of the evaluations before, if it is another."""
    return self._sets if examples == self._total else self._sets[-1:]


def _set_of(source: Source, learner: Learner, train: TrainConfig, octaves: int, key: Hashable) -> EvalSet:
  known = _shared.get(key)
  if known is not None and known.num_bytes <= evaluation.KEPT_BYTES:
    return known
  new = EvalSet(source, learner, train, octaves=octaves)
  if new.kept:
    _shared[key] = new
  return new
