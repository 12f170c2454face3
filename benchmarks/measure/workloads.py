"""The runs that benchmarks time, by the name that `--preset` takes. Used by step.py, fed.py, profile.py and benchmarks/peers."""

import dataclasses

from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.presets import DLRM_INPUTS, PRESETS

_W0 = RunConfig(
  model=ModelConfig(embed_dim=8, bottom=(16, 8), overarch=(64, 64, 1), overarch_inputs=DLRM_INPUTS),
  planted=PlantedConfig(dense_variance=0.5),
  steps_per_call=8,
)
_W1 = RunConfig(
  data="criteo_like",
  model=ModelConfig(embed_dim=16, num_rows=100_000, bottom=(512, 256, 64, 16), overarch=(512, 256, 1), overarch_inputs=DLRM_INPUTS),
  train=TrainConfig(batch_size=2048),
)
_W2 = dataclasses.replace(_W1, model=dataclasses.replace(_W1.model, embed_dim=64, bottom=(512, 256, 64, 64)))
RUNS = {"W1": _W1, "W2": _W2, "W0": _W0} | PRESETS  # the first is the default
