"""Prints the training loss of every step of a run and the examples that a process saw, as JSON: one process of several, or the only one.
Run by test_mesh.py."""

import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common import flags
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import Source, open_source
from dlrm_jax.machine import hardware, mesh
from dlrm_jax.training.learner import make_learner


def part_of(config: RunConfig, source: Source) -> list[Batch]:
  """This process's training batches."""
  return list(source.train_batches(config.train.seed, config.train.batch_size, config.train.num_examples))


def losses(config: RunConfig, source: Source, batches: Iterable[Batch]) -> list[float]:
  """Mean log loss of each step."""
  learner, out = make_learner([config], source), []
  state = learner.start()
  for batch in batches:
    state, (loss,), *_ = learner.read_progress(learner.train(state, [(learner.put_part(batch),)]))
    out.append(loss)
  return out


def seen(batches: Iterable[Batch]) -> list[float]:
  """The first dense input of every example: which example it is."""
  return [value for batch in batches for value in np.asarray(batch.dense_bm)[np.asarray(batch.weight_b) > 0, 0].tolist()]


def run(config: RunConfig) -> dict[str, Any]:
  """Trains a config. What a process prints."""
  source = open_source(config)
  batches = part_of(config, source)
  return {"losses": losses(config, source, batches), "seen": seen(batches)}


if __name__ == "__main__":
  config = mesh.connect(flags.parse(sys.argv, RunConfig))
  hardware.share_compiled()
  print(json.dumps(run(config)))
