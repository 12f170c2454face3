"""The columns that `--data` names, and random batches of them: planning, compiling for absent machines and benchmarks need no rows."""

from pathlib import Path

import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.data import criteo
from dlrm_jax.data.source import open_source
from dlrm_jax.shape import DataShape


def _criteo(cardinalities: tuple[int | None, ...], bag_lengths: tuple[int, ...] = (1,) * criteo.NUM_CATEGORICAL) -> DataShape:
  return DataShape(criteo.NUM_DENSE, criteo.CATEGORICAL_NAMES, cardinalities, bag_lengths)


# Names that `--data` takes where no rows are needed. `criteo_like`: 26 one-hot features with as many ids as --num_rows allows.
SHAPES = {
  "criteo_like": _criteo((None,) * criteo.NUM_CATEGORICAL),
  "criteo_kaggle": _criteo(criteo.KAGGLE_CARDINALITIES),
  "criteo_1tb": _criteo(criteo.MLPERF_ROWS),
  "criteo_1tb_bags": _criteo(criteo.MLPERF_ROWS, criteo.MLPERF_BAG_LENGTHS),
}


def shape_of(config: RunConfig) -> DataShape:
  """The columns of what `--data` names: a well-known log, planted data or a prepared directory (UserError if there is none)."""
  if config.data in SHAPES:
    return SHAPES[config.data].first(config.model.num_tables)
  if config.data != "planted" and not Path(config.data).is_dir():
    raise UserError(f"--data={config.data}: must be planted, a directory made by dlrm_jax.data.prepare, or among {', '.join(SHAPES)}")
  return open_source(config).shape


def random_batch(config: RunConfig, shape: DataShape, seed: int) -> Batch:
  """A batch of random examples. Ids are floor(V u^3), u uniform: as skewed as a click log's, so that many of them repeat."""
  rng, size = np.random.default_rng(seed), config.train.batch_size
  rows_l = np.array(shape.num_ids(config.model.num_rows))[shape.feature_of_lookup]
  ids_bl = (rows_l * rng.random((size, shape.num_lookups)) ** 3).astype(np.int32)
  dense_bm = rng.normal(size=(size, shape.num_dense)).astype(np.float32)
  label_b = (rng.random(size) < 0.25).astype(np.float32)
  weights = np.ones(ids_bl.shape, np.float32) if shape.weighted else None
  return Batch(dense_bm, ids_bl, label_b, np.ones(size, np.float32), weights)
