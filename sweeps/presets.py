"""Named sweeps for `--preset`; every other flag overrides."""

from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.presets import PRESETS as RUN_PRESETS
from sweeps.points import SweepConfig

# The study of `make demo`: data exponents (s-1)/s of two planted workloads beside the exact estimator, and a rows axis that saturates.
_QUICK = SweepConfig(
  axes=("data", "rows"),
  sizes_rows=(30, 100, 300, 1000, 3000),
  axis_examples=2**19,
  seeds=3,
  zipf_s_values=(10 / 9, 1.25),
  judge=True,
  run=RunConfig(
    model=ModelConfig(embed_dim=4, num_rows=2**20, overarch=(32, 1)),
    train=TrainConfig(num_examples=2**22, table_lr=0.1),  # at 0.2 some seeds start higher and fall steeper (.235 at s=1.25)
    steps_per_call=8,
  ),
)

# All five schemes on planted data that has a part for each, two workloads, every point at three learning rates: about a day on one
# core (`sweeps.plan --preset=paper --measure` says how long it takes where it is run, --launcher=local uses all cores).
_PAPER = SweepConfig(
  axis_examples=2**23,
  seeds=3,
  zipf_s_values=(10 / 9, 1.25),
  lr_factors=(0.5, 1.0, 2.0),
  run=RunConfig(
    model=ModelConfig(embed_dim=16, num_rows=2**18, bottom=(64, 64, 16), overarch=(128, 64, 1)),
    train=TrainConfig(num_examples=2**26, batch_size=512, dense_lr=0.08),
    planted=PlantedConfig(pair_variance=0.4, dense_variance=0.4, score_variance=0.4),
    steps_per_call=8,
  ),
)

_NO_DENSE = ("data", "rows", "dim", "overarch")  # axes of planted data without dense inputs
_TINY = SweepConfig(axes=_NO_DENSE, run=RUN_PRESETS["tiny"], axis_examples=8192)

PRESETS: dict[str, SweepConfig] = {
  "quick": _QUICK,
  "paper": _PAPER,
  "tiny": _TINY,
  "small": SweepConfig(axes=_NO_DENSE, run=RUN_PRESETS["small"]),
} | {name: SweepConfig(run=run) for name, run in RUN_PRESETS.items() if name not in ("tiny", "small")}
