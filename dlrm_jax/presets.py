"""Named starting points for `--preset`; every other flag overrides one of its values."""

import dataclasses

from dlrm_jax.config import ALL, FOUND, ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data import criteo

DLRM_INPUTS = ("dense", "dots")

_MLPERF = ModelConfig(
  embed_dim=128, num_rows=40_000_000, bottom=(512, 256, 128), overarch=(1024, 1024, 512, 256, 1), overarch_inputs=DLRM_INPUTS
)
_MLPERF_TRAIN = TrainConfig(num_examples=ALL, eval_examples=ALL, batch_size=65_536, table_lr=0.005, dense_lr=0.005)

PRESETS: dict[str, RunConfig] = {
  # A small model that learns planted data and MovieLens-sized click logs well in one pass.
  "small": RunConfig(steps_per_call=8),
  # A click log, one pass over all of its training rows.
  "click_log": RunConfig(
    model=ModelConfig(embed_dim=16, overarch_inputs=("dense", "dots", "rows", "first_order")),
    # Steps are large while little is known. How fast they fall is found on the log itself: one that drifts wants small ones (WORKSPACE.md).
    train=TrainConfig(
      num_examples=ALL,
      batch_size=128,
      table_lr=0.1,
      dense_lr=0.005,
      dense_accumulator=0.0,
      first_logit="base_rate",
      table_warmup_examples=2**15,
      lr_schedule="inverse_sqrt",
      decay_examples=FOUND,
      eval_examples=ALL,
    ),
    steps_per_call=8,
  ),
  # Tests and smoke runs: seconds on one core.
  "tiny": RunConfig(
    model=ModelConfig(embed_dim=4, num_rows=1000, overarch=(16, 1)),
    train=TrainConfig(num_examples=16_384, batch_size=256, eval_examples=4096, first_eval=1024),
    steps_per_call=8,
  ),
  # facebookresearch/dlrm, bench/dlrm_s_criteo_kaggle.sh: D=16, bottom 13-512-256-64-16, top 512-256-1, batch 128, lr 0.1.
  "criteo_kaggle": RunConfig(
    data="criteo_kaggle",
    model=ModelConfig(
      embed_dim=16,
      num_rows=max(criteo.KAGGLE_CARDINALITIES),
      bottom=(512, 256, 64, 16),
      overarch=(512, 256, 1),
      overarch_inputs=DLRM_INPUTS,
    ),
    # the last of the seven days is held out: prepare with --eval_rows=6548660
    train=TrainConfig(
      num_examples=ALL, eval_examples=ALL, batch_size=128, dense_lr=0.1, table_lr=0.1, dense_optimizer="sgd", table_optimizer="sgd"
    ),
  ),
  # facebookresearch/dlrm, bench/dlrm_s_criteo_terabyte.sh: D=64, ids capped at 10M, batch 2048, lr 0.1.
  "criteo_1tb": RunConfig(
    data="criteo_1tb",
    model=ModelConfig(embed_dim=64, num_rows=10_000_000, bottom=(512, 256, 64), overarch=(512, 512, 256, 1), overarch_inputs=DLRM_INPUTS),
    train=TrainConfig(
      num_examples=ALL, eval_examples=ALL, batch_size=2048, dense_lr=0.1, table_lr=0.1, dense_optimizer="sgd", table_optimizer="sgd"
    ),
  ),
  # Planted data of every part at the size of Criteo's terabyte: as many rows in all as its tables have, its batch as MLPerf trains it.
  "paper_cluster": RunConfig(
    model=ModelConfig(embed_dim=64, num_rows=2**23, bottom=(512, 256, 64), overarch=(512, 512, 256, 1)),
    train=TrainConfig(num_examples=2**32, batch_size=65_536, table_lr=0.1, dense_lr=0.1, eval_examples=2**22),
    planted=PlantedConfig(tail_fields=26, tail_sigma=0.14, pair_variance=1.0, dense_variance=1.0, score_variance=1.0),
    steps_per_call=8,
  ),
  # MLPerf's DLRM (until v2.1): one-hot, dots, D=128, rows capped at 40M, about 105 GB of tables. Its SGD schedule is not copied.
  "mlperf_v1": RunConfig(data="criteo_1tb", model=_MLPERF, train=_MLPERF_TRAIN),
  # MLPerf's DLRM-DCNv2 (from v3.0): bags, three cross layers of rank 512, Adagrad at 0.005. Row-wise here: one accumulator a row.
  "mlperf_v2": RunConfig(
    data="criteo_1tb_bags",
    model=dataclasses.replace(_MLPERF, interaction="dcn_v2", overarch_inputs=("dots",)),
    train=_MLPERF_TRAIN,
  ),
}
