"""The spool: the good rows of a log as label, dense values and 64-bit hashes, in a file that lives while `prepare` runs.

It makes one pass over the log enough: ids can only be given once the whole training split has been counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dlrm_jax.data import delimited, parse, read
from dlrm_jax.data.rejects import Rejects
from dlrm_jax.data.schema import Schema


def write(
  path: Path, log_format: str, schema: Schema, sources: list[Path], rejects: Rejects, on_bytes: Callable[[int], None]
) -> tuple[list[dict[str, Any]], int, Counter[str]]:
  """Writes the good rows of all sources to `path`.

  Args:
    path: the file to make.
    log_format: "parquet", "csv" or "criteo_tsv".
    schema: the columns.
    sources: the files of the log, in order.
    rejects: keeps the other lines; raises UserError where there are too many.
    on_bytes: told how many bytes of the sources were read.

  Returns:
    The sources' entries in `dataset.json`, the number of rows, and for each bag of a list column how many rows had a longer list.
  """
  kinds = [pa.uint8()] + [pa.float32()] * len(schema.dense) + [pa.uint64()] * len(schema.lookups)
  columns = pa.schema([(str(i), kind) for i, kind in enumerate(kinds)])
  reader = read.read_parquet if log_format == "parquet" else delimited.read_text
  entries, num_rows, truncated = [], 0, Counter[str]()
  with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, columns) as writer:
    for source in sources:
      with read.HashingFile(source, on_bytes) as raw:
        for chunk in reader(source, schema, raw):
          rows, bad = parse.parse(chunk, schema)
          num_rows += len(rows.label_n)
          rejects.add(source, bad, num_rows)
          truncated.update(rows.truncated)
          writer.write_batch(pa.record_batch([read.arrow(x) for x in (rows.label_n, *rows.dense, *rows.hashes)], schema=columns))
        entries.append({"path": source.name, "bytes": source.stat().st_size, "sha256": raw.hexdigest()})
  return entries, num_rows, truncated


def chunks(path: Path) -> Iterator[list[np.ndarray]]:
  """The chunks of a spool, one array per column."""
  with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
    for batch in reader:
      yield [column.to_numpy() for column in batch.columns]
