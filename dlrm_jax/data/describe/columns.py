"""Reads a column of a data set's shards, chunk by chunk. Called by `inventory` and `dense_columns`."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import Bar
from dlrm_jax.data.dataset import Dataset

_ROWS_AT_ONCE = 1 << 20


def read_column(dataset: Dataset, split: str, column: str, rows: int, bar: Bar) -> Iterator[np.ndarray]:
  """The first rows of a column of a split, chunk by chunk. Raises UserError if a shard differs from dataset.json."""
  for shard in dataset.shards(split):
    if rows <= 0:
      return
    dataset.verify(shard)
    try:
      with pq.ParquetFile(shard.path) as file:
        if file.metadata.num_rows != shard.rows:
          raise UserError(f"{shard.path}: {file.metadata.num_rows} rows, but dataset.json states {shard.rows}")
        step = max(1, _ROWS_AT_ONCE // dataset.rows_per_group)
        for first in range(0, file.num_row_groups, step):
          groups = list(range(first, min(first + step, file.num_row_groups)))
          values = file.read_row_groups(groups, columns=[column], use_threads=False)[column].to_numpy()[:rows]
          bar(len(values))
          yield values
          rows -= len(values)
          if rows <= 0:
            return
    except (pa.ArrowException, KeyError, OSError) as error:
      raise UserError(f"{shard.path}: column '{column}' cannot be read ({str(error).splitlines()[0]})") from None
