"""A small prepared log for the tests of epochs, windows, evaluations and what is left out."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlrm_jax.common import flags, record
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data import shard_format
from dlrm_jax.data.prepare import program

LOG_ROWS, EVAL_ROWS = 3000, 900
TRAIN_ROWS = LOG_ROWS - EVAL_ROWS


def prepared_log(directory: Path) -> Path:
  """A log of 2,100 training rows and 900 held-out ones in blocks of 100; its dense column is the row's number."""
  rng = np.random.default_rng(0)
  item, user = rng.zipf(1.5, LOG_ROWS) % 60, rng.integers(0, 200, LOG_ROWS)
  label = rng.uniform(size=LOG_ROWS) < np.where(item % 3 == 0, 0.7, 0.2)
  lines = [f"{int(y)},i{i},u{u},{row}" for row, (y, i, u) in enumerate(zip(label, item, user, strict=True))]
  (directory / "log.csv").write_text("clicked,item,user,row\n" + "\n".join(lines) + "\n")
  (directory / "log.toml").write_text(
    'name = "shop"\nlabel = "clicked"\ncategorical = ["item", "user"]\n[dense]\nrow = { transform = "log1p" }\n'
  )
  words = [f"--input={directory}/log.csv", f"--schema={directory}/log.toml", f"--output={directory}/set", f"--eval_rows={EVAL_ROWS}"]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shard_format, "ROWS_PER_GROUP", 100)
    program.main(flags.parse(["prepare", "--format=csv", "--workers=1", *words], program.PrepareConfig))
  return directory / "set"


def rows_of_set(data: Path, split: str) -> int:
  """The rows of a split."""
  return int(record.read_json(data / "dataset.json")["splits"][split]["rows"])


def config_of(data: Path | str, **changes: Any) -> RunConfig:
  """A tiny run on the log, of 1,500 examples in batches of 64, with some settings of training changed."""
  train = TrainConfig(num_examples=1500, batch_size=64, eval_examples=256, first_eval=200, evals_per_octave=1, table_lr=0.1)
  return RunConfig(
    data=str(data),
    model=ModelConfig(embed_dim=4, num_rows=150, overarch=(8, 1)),
    train=dataclasses.replace(train, **changes),
    planted=PlantedConfig(tail_fields=2, zipf_s=1.25),
  )
