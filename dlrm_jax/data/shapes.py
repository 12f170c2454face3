"""What a model must know of a data set before any row is there: `DataShape`, of a source or of a well-known log by name.

Planning, compiling for absent machines and benchmarks need no more; training needs rows.
"""

import dataclasses
from pathlib import Path

import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.data import criteo
from dlrm_jax.data.source import check_tables, layout_of, open_source


@dataclasses.dataclass(frozen=True)
class DataShape:
  """The columns of a data set.

  Attributes:
    num_dense: M.
    field_names, cardinalities, bag_lengths: of the categorical features; cardinality None: ids without end.
    weighted: whether batches carry bag weights.
  """

  num_dense: int
  field_names: tuple[str, ...]
  cardinalities: tuple[int | None, ...]
  bag_lengths: tuple[int, ...]
  weighted: bool = False

  def random_batch(self, config: RunConfig, seed: int) -> Batch:
    """A batch of random examples, ids floor(V u^3) with u uniform: as skewed as a click log's, and many of them seen before."""
    rng, size = np.random.default_rng(seed), config.train.batch_size
    layout = layout_of(config, self)
    rows_l = np.array([t.num_rows for t in layout.tables])[layout.feature_of_lookup]
    ids_bl = (rows_l * rng.random((size, layout.num_lookups)) ** 3).astype(np.int32)
    dense_bm = rng.normal(size=(size, self.num_dense)).astype(np.float32)
    label_b = (rng.random(size) < 0.25).astype(np.float32)
    weights = np.ones(ids_bl.shape, np.float32) if self.weighted else None
    return Batch(dense_bm, ids_bl, label_b, np.ones(size, np.float32), weights)


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
  """The shape that `--data` names: a well-known log, planted, or a prepared directory (UserError if there is none)."""
  if config.data in SHAPES:
    shape, count = SHAPES[config.data], config.model.num_tables
    check_tables(count, len(shape.field_names))
    columns = {name: getattr(shape, name)[: count or None] for name in ("field_names", "cardinalities", "bag_lengths")}
    return dataclasses.replace(shape, **columns)
  if config.data != "planted" and not Path(config.data).is_dir():
    raise UserError(f"--data={config.data}: must be planted, a directory made by dlrm_jax.data.prepare, or among {', '.join(SHAPES)}")
  source = open_source(config)
  return DataShape(source.num_dense, source.field_names, source.cardinalities, source.bag_lengths, source.weighted)
