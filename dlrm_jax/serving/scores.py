"""Scores of rows: their logits by a restored model, batch by batch, and the file that they are written to. `predict` calls it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import sigmoid
from dlrm_jax.data.prepare.scoring import Examples
from dlrm_jax.serving.restored import Restored
from dlrm_jax.training.read_ahead import read_ahead


class ScoreWriter:
  """Writes scores as Parquet or CSV, as they come. Use it within `record.written_whole`."""

  def __init__(self, out: Any, parquet: bool, labels: bool):
    label = [pa.field("label", pa.uint8())] if labels else []
    self.schema = pa.schema([("file", pa.string()), ("line", pa.int64()), *label, ("logit", pa.float32()), ("prob", pa.float64())])
    self._writer = pq.ParquetWriter(out, self.schema) if parquet else pyarrow.csv.CSVWriter(out, self.schema)

  def write(self, name: str, examples: Examples, logit_n: np.ndarray) -> None:
    """Adds the rows of some lines of a file."""
    columns = {
      "file": pa.repeat(name, len(examples)),
      "line": pa.array(examples.line_n),
      "label": pa.array(examples.label_n, mask=~examples.labelled_n),
      "logit": pa.array(logit_n),
      "prob": pa.array(sigmoid(logit_n.astype(np.float64))),
    }
    self._writer.write_batch(pa.record_batch([columns[field.name] for field in self.schema], schema=self.schema))

  def __enter__(self) -> "ScoreWriter":
    return self

  def __exit__(self, *_: object) -> None:
    self._writer.close()


def batches_of(examples: Examples, size: int) -> Iterator[Batch]:
  """Rows as batches of one size; the last is padded with examples of weight 0."""
  for low in range(0, len(examples), size):
    count = min(size, len(examples) - low)

    def cut(x: np.ndarray | None, low: int = low, count: int = count) -> np.ndarray | None:
      return None if x is None else np.concatenate([x[low : low + count], np.zeros((size - count, *x.shape[1:]), x.dtype)])

    weight_b = (np.arange(size) < count).astype(np.float32)
    label_b = np.zeros(size, np.float32)
    yield Batch(cut(examples.dense_nm), cut(examples.ids_nl), label_b, weight_b, cut(examples.bag_weight_nl))


def scored(model: Restored, stream: Iterator[Examples]) -> Iterator[tuple[Examples, np.ndarray]]:
  """Rows with their logits. The next rows are read while these are scored."""
  started = ((rows, [model.logits(batch) for batch in batches_of(rows, model.build.settings.batch_size)]) for rows in stream)
  for rows, parts in read_ahead(started, 1):
    yield rows, np.concatenate([np.asarray(part) for part in parts])[: len(rows)]
