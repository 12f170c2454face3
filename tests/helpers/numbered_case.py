"""A data set whose rows show their numbers, and the row numbers in its batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dlrm_jax.batch import Batch
from dlrm_jax.data.dataset import Dataset, Shard
from dlrm_jax.shape import DataShape


def numbered(directory: Path, rows: int, per_group: int, groups: int) -> Dataset:
  """A data set of one split, "train", in shards of so many row groups: dense input `a` is the row's number, id `u` that times 3."""
  paths = []
  for first in range(0, rows, per_group * groups):
    row = np.arange(first, min(first + per_group * groups, rows))
    columns = {"label": (row % 5 < 2).astype(np.uint8), "dense.a": row.astype(np.float32), "id.u": (3 * row).astype(np.int32)}
    paths.append(directory / f"train-{len(paths):05d}.parquet")
    pq.write_table(pa.table(columns), paths[-1], row_group_size=per_group)
  files = tuple(Shard(path, pq.ParquetFile(path).metadata.num_rows, 0, "") for path in paths)
  shape = DataShape(1, ("u",), (3 * rows + 1,), (1,))
  return Dataset(directory, "numbered", "", ("a",), shape, {"train": rows}, {}, {"train": files}, per_group, "hash")


def rows_in(given: list[Batch]) -> list[int]:
  """The row numbers in batches of a `numbered` data set. Each row must be whole; padding must be empty and last."""
  out: list[int] = []
  for batch in given:
    filled = int(batch.weight_b.sum())
    row = batch.dense_bm[:, 0].astype(int)
    np.testing.assert_array_equal(batch.weight_b, (np.arange(len(row)) < filled).astype(np.float32))
    np.testing.assert_array_equal(batch.ids_bl[:, 0], 3 * row)
    np.testing.assert_array_equal(batch.label_b[:filled], row[:filled] % 5 < 2)
    assert not row[filled:].any() and not batch.label_b[filled:].any()
    out += row[:filled].tolist()
  return out
