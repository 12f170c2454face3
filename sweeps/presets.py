"""Named sweeps for `--preset`. Every other flag overrides the preset's value."""

import dataclasses

from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.presets import PRESETS as RUN_PRESETS
from sweeps.points import SweepConfig

# The study of `make demo`: data exponents (s-1)/s of two planted workloads, compared with the exact estimator, and a rows axis that
# saturates.
_QUICK = SweepConfig(
  axes=("data", "rows"),
  sizes_rows=(30, 100, 300, 1000, 3000),
  axis_examples=2**19,
  seeds=3,
  zipf_s_values=(10 / 9, 1.25),
  judge=True,
  run=RunConfig(
    model=ModelConfig(embed_dim=4, num_rows=2**20, overarch=(32, 1)),
    train=TrainConfig(num_examples=2**22, table_lr=0.1),  # at 0.2 some seeds start higher and fall faster (.235 at s=1.25)
    steps_per_call=8,
  ),
)

# The study of analysis/STUDY.md: all five schemes, on planted data with a loss component for each. Every point has three learning rates.
_PAPER = SweepConfig(
  sizes_rows=(64, 256, 1024, 4096, 2**14, 2**18),  # from 64 on the fields of the small components have a row for every id
  sizes_dim=(1, 2, 4, 8, 16, 32),
  sizes_overarch=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1, 4),
  sizes_mlp=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2),
  axis_examples=2**22,
  seeds=3,
  lr_factors=(0.5, 1.0, 2.0),
  run=RunConfig(
    model=ModelConfig(embed_dim=16, num_rows=2**18, bottom=(32, 16), overarch=(64, 1)),
    # Small batches: at 2,048 examples a step, pairs and dense terms are not yet learned after millions of examples.
    train=TrainConfig(num_examples=2**24, batch_size=128, table_lr=0.07, dense_lr=0.1, eval_examples=2**17),
    planted=PlantedConfig(tail_sigma=0.25, pair_variance=1.0, dense_variance=1.0, score_variance=1.0),
    steps_per_call=32,
  ),
)

# The tail alone, for the same study: the exact per-id estimator, and the rows law for rows kept and for rows hashed. Effects are small,
# since the closed forms hold for small logit errors: ten rows are 13% below their closed form at sigma = 0.5, and 4% below at 0.25.
_PAPER_TAIL = SweepConfig(
  axes=("data", "rows"),
  sizes_rows=(10, 30, 100, 300, 1000, 3000),
  axis_examples=2**22,
  seeds=3,
  zipf_s_values=(10 / 9, 1.25),
  lr_factors=(0.5, 1.0, 2.0),
  judge=True,
  run=RunConfig(
    model=ModelConfig(embed_dim=4, num_rows=2**20, overarch=(32, 1)),
    train=TrainConfig(num_examples=2**24, table_lr=0.05, eval_examples=2**17),
    planted=PlantedConfig(tail_sigma=0.25),
    steps_per_call=8,
  ),
)
_PAPER_HASH = dataclasses.replace(
  _PAPER_TAIL,
  axes=("rows",),
  judge=False,
  run=dataclasses.replace(_PAPER_TAIL.run, model=dataclasses.replace(_PAPER_TAIL.run.model, rows_by="hash")),
)

# The same axes on a click log of a million rows, MovieLens-1M. It needs --data.
_PAPER_CLICK_LOG = SweepConfig(
  sizes_rows=(8, 32, 128, 512, 2048, 100_000),
  sizes_dim=(1, 2, 4, 8, 16, 32),
  sizes_overarch=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1, 2),
  sizes_mlp=(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1, 2),
  seeds=3,
  lr_factors=(0.5, 1.0, 2.0),
  run=dataclasses.replace(RUN_PRESETS["click_log"], train=dataclasses.replace(RUN_PRESETS["click_log"].train, first_eval=1000)),
)

# Repeated data: fewer and fewer unique examples, each trained on four times, with few rows and with a row for every id. An evaluation falls
# on the end of epochs 1, 2 and 4, since lengths are powers of 2.
_EPOCHS = SweepConfig(
  axes=(),
  grid=("data", "rows"),
  data_mode="retrain",
  sizes_data=(2**15, 2**17, 2**19),
  sizes_rows=(30, 300, 3000, 2**20),
  seeds=3,
  run=dataclasses.replace(_QUICK.run, train=dataclasses.replace(_QUICK.run.train, num_examples=2**19, epochs=4)),
)
_EPOCHS_PARTS = dataclasses.replace(  # the same with parts that all ids share
  _EPOCHS,
  sizes_data=(2**16, 2**17, 2**18),
  sizes_rows=(64, 2**18),
  run=dataclasses.replace(_PAPER.run, train=dataclasses.replace(_PAPER.run.train, num_examples=2**18, epochs=4, eval_examples=2**16)),
)
_EPOCHS_CLICK_LOG = (
  dataclasses.replace(  # the same on MovieLens-1M. It needs --data, and --order=shuffled for each seed to have rows of its own.
    _EPOCHS,
    sizes_data=(2**16, 2**17, 2**18, 2**19),
    sizes_rows=(128, 100_000),
    run=dataclasses.replace(
      RUN_PRESETS["click_log"],
      train=dataclasses.replace(RUN_PRESETS["click_log"].train, num_examples=2**19, epochs=4, decay_examples=2**18, eval_examples=2**16),
    ),
  )
)

# The study at the size of Criteo's terabyte log, for accelerators: 218M rows of 64 numbers, 1.1e9 examples a run, 4.3e9 on the data axis.
# It was planned and compiled, but never run.
_PAPER_CLUSTER = SweepConfig(
  sizes_rows=(2**8, 2**11, 2**14, 2**17, 2**20, 2**23),
  sizes_dim=(2, 4, 8, 16, 32, 64),
  sizes_overarch=(1 / 64, 1 / 32, 1 / 16, 1 / 4, 1, 2),
  sizes_mlp=(1 / 64, 1 / 32, 1 / 16, 1 / 4, 1, 2),
  axis_examples=2**30,
  seeds=3,
  lr_factors=(0.25, 0.5, 1.0, 2.0, 4.0),
  run=RUN_PRESETS["paper_cluster"],
)

_NO_DENSE = ("data", "rows", "dim", "overarch")  # axes of planted data without dense inputs
_TINY = SweepConfig(axes=_NO_DENSE, run=RUN_PRESETS["tiny"], axis_examples=8192)

PRESETS: dict[str, SweepConfig] = {
  "quick": _QUICK,
  "paper": _PAPER,
  "paper_tail": _PAPER_TAIL,
  "paper_hash": _PAPER_HASH,
  "paper_click_log": _PAPER_CLICK_LOG,
  "paper_cluster": _PAPER_CLUSTER,
  "epochs": _EPOCHS,
  "epochs_parts": _EPOCHS_PARTS,
  "epochs_click_log": _EPOCHS_CLICK_LOG,
  "tiny": _TINY,
  "small": SweepConfig(axes=_NO_DENSE, run=RUN_PRESETS["small"]),
} | {name: SweepConfig(run=run) for name, run in RUN_PRESETS.items() if name not in ("tiny", "small", "paper_cluster")}
