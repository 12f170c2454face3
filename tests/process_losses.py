"""Prints the training loss of every step of a run as a JSON list: one process of several, or the only one. Run by test_mesh.py."""

import json
import sys

import jax

from dlrm_jax import flags, mesh
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import open_source
from dlrm_jax.learner import make_learner


def losses(config: RunConfig) -> list[float]:
  """Mean log loss of each step."""
  source = open_source(config)
  learner, out = make_learner(config, source), []
  state = learner.start()
  for batch in source.train_batches(config.train.seed, config.train.batch_size, config.train.num_examples):
    state, loss, _ = learner.read_progress(learner.train(state, learner.put(batch)))
    out.append(loss)
  return out


if __name__ == "__main__":
  config = flags.parse(sys.argv, RunConfig)
  mesh.connect(config)
  out = losses(config)
  if jax.process_index() == 0:
    print(json.dumps(out))
