"""A sweep of tiny models, for the tests of points, plans and runs."""

import dataclasses
from pathlib import Path
from typing import Any

from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from sweeps.points import SweepConfig

_BASE = RunConfig(
  model=ModelConfig(embed_dim=4, num_rows=200, overarch=(8, 1)),
  train=TrainConfig(num_examples=2048, batch_size=256, eval_examples=1024, first_eval=512),
  planted=PlantedConfig(dense_variance=0.2),
)


def sweep_of(**changes: Any) -> SweepConfig:
  """Three axes around a tiny base, with some fields changed."""
  return dataclasses.replace(SweepConfig(run=_BASE, axes=("data", "rows", "mlp"), sizes_rows=(50, 200), sizes_mlp=(0.5, 1)), **changes)


def with_train(sweep: SweepConfig, data_mode: str = "online", **changes: Any) -> SweepConfig:
  """The sweep with other training settings, and with the data mode that they need."""
  run = dataclasses.replace(sweep.run, train=dataclasses.replace(sweep.run.train, **changes))
  return dataclasses.replace(sweep, data_mode=data_mode, run=run)


def in_directory(sweep: SweepConfig, workdir: Path) -> SweepConfig:
  """The sweep with its --workdir."""
  return dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, workdir=str(workdir)))
