"""A short run for the tests of checkpoints, and the comparison of two runs."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlrm_jax.common import record
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig

BATCH, EXAMPLES = 64, 2700  # the last batch is short
STEPS = -(-EXAMPLES // BATCH)
BASE = RunConfig(
  model=ModelConfig(embed_dim=4, num_rows=150, overarch=(8, 1)),
  train=TrainConfig(num_examples=EXAMPLES, batch_size=BATCH, eval_examples=256, first_eval=700, evals_per_octave=1),
  planted=PlantedConfig(tail_fields=2, zipf_s=1.25, bag_length=3),
  checkpoint=True,
)


def first_steps(config: RunConfig, steps: int) -> RunConfig:
  return dataclasses.replace(config, train=dataclasses.replace(config.train, num_examples=steps * BATCH))


def assert_same_state(a: Any, b: Any):
  for (path, x), (_, y) in zip(jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b), strict=True):
    np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def assert_same_run(a: Path, b: Path):
  """Records and curves, to the last bit, in all but when, where and how fast."""
  times = {"command", "hardware", "software", "wall_s", "training_s", "examples_per_s"}
  ours, theirs = (record.read_json(path / "record.json") for path in (a, b))
  assert ours.keys() == theirs.keys() and times < ours.keys()
  assert {name: ours[name] for name in ours.keys() - times} == {name: theirs[name] for name in theirs.keys() - times}
  rows = [[row | {"wall_s": 0} for row in record.read_curve(path / "curve.jsonl")] for path in (a, b)]
  assert rows[0] == rows[1] and len(rows[0]) > 1
