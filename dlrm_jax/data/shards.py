"""The files of `prepare`: finding the inputs, the output directory that appears whole, and the Parquet shards with their digests.

Columns of a shard: `label` uint8, `dense.NAME` float32 (transformed), `id.NAME` int32; the ids of a bag of several are `id.NAME.0`,
`id.NAME.1`, ..., where -1 is padding. Row groups of `ROWS_PER_GROUP` rows are the
blocks that the pipeline reads.
"""

import contextlib
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dlrm_jax.data.read import arrow
from dlrm_jax.flags import UserError

PADDING = -1  # the id of an empty place in a bag
ROWS_PER_GROUP = 1 << 16
GROUPS_PER_SHARD = 16


def _natural(path: str) -> list[tuple[int, str]]:
  """A sort key that puts day_2 before day_10."""
  return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path)]


def find_inputs(pattern: str) -> list[Path]:
  """The files that match, in natural order. Raises UserError when there are none or a match is not a readable file."""
  matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True), key=_natural)
  if not matches:
    directory = Path(pattern).parent
    absent = not any(c in str(directory) for c in "*?[") and not directory.is_dir()
    raise UserError(f"--input={pattern}: " + (f"no such directory {directory}" if absent else "no such file"))
  for path in matches:
    if os.path.isdir(path):
      raise UserError(f"--input={pattern}: {path} is a directory; match the files in it, such as {path.rstrip('/')}/*")
    with Path(path).open("rb"):  # now, rather than after hours on the files before it
      pass
  return [Path(path) for path in matches]


@contextlib.contextmanager
def made_whole(output: Path, overwrite: bool) -> Iterator[Path]:
  """A temporary directory beside `output` that takes its place when the block ends, and vanishes when the block fails.

  Raises UserError when `output` is there already, unless it is an empty directory, or a data set and `overwrite` is set.
  """
  if output.exists() and not (output.is_dir() and not any(output.iterdir())):
    if not (output / "dataset.json").is_file():
      raise UserError(f"--output={output}: there is something else there already; choose a new directory")
    if not overwrite:
      raise UserError(f"--output={output}: holds a data set already; choose a new directory, or replace it with --overwrite")
  parent = output.absolute().parent
  made = [p for p in (parent, *parent.parents) if not p.exists()]  # innermost first
  temporary: Path | None = None
  try:
    parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{output.name}.partial-"))
    temporary.chmod(0o755)
    yield temporary
    if output.exists():
      old = Path(tempfile.mkdtemp(dir=parent, prefix=f".{output.name}.old-"))
      output.rename(old)
      try:
        temporary.rename(output)
      except BaseException:
        old.rename(output)
        raise
      shutil.rmtree(old)
    else:
      temporary.rename(output)
  except BaseException:
    if temporary is not None:
      shutil.rmtree(temporary, ignore_errors=True)
    for path in made:
      with contextlib.suppress(OSError):
        path.rmdir()
    raise


def sha256(path: Path) -> str:
  """The SHA-256 of a file."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def shard_columns(dense: Sequence[str], lookups: Sequence[str]) -> list[str]:
  """The names of a shard's columns, in order; `lookups` are those of `schema.lookup_names`."""
  return ["label", *(f"dense.{name}" for name in dense), *(f"id.{name}" for name in lookups)]


class ShardWriter:
  """Writes the rows of one split as `SPLIT-00000.parquet`, ... under a directory."""

  def __init__(self, directory: Path, split: str, dense: Sequence[str], lookups: Sequence[str]):
    self._directory, self._split = directory, split
    kinds = [pa.uint8()] + [pa.float32()] * len(dense) + [pa.int32()] * len(lookups)
    self._schema = pa.schema(list(zip(shard_columns(dense, lookups), kinds, strict=True)))
    self._waiting: list[pa.RecordBatch] = []
    self._num_waiting = 0
    self._writer: pq.ParquetWriter | None = None
    self._rows: list[int] = []  # of each shard
    self._digests = [hashlib.sha256() for _ in self._schema]
    self.clicks = 0

  def add(self, columns: Sequence[Any]) -> None:
    """Appends rows, given as one array per column in the order of `shard_columns`."""
    for digest, column in zip(self._digests, columns, strict=True):
      digest.update(column.astype(column.dtype.newbyteorder("<"), copy=False).data)
    self.clicks += int(columns[0].sum())
    self._waiting.append(pa.record_batch([arrow(column) for column in columns], schema=self._schema))
    self._num_waiting += len(columns[0])
    if self._num_waiting >= ROWS_PER_GROUP:
      self._write(ROWS_PER_GROUP)

  def _write(self, unit: int) -> None:
    table = pa.Table.from_batches(self._waiting).combine_chunks()
    whole = len(table) - len(table) % unit
    for first in range(0, whole, unit):
      if self._writer is None or self._rows[-1] >= ROWS_PER_GROUP * GROUPS_PER_SHARD:
        self._open()
      assert self._writer is not None
      self._writer.write_table(table.slice(first, unit), row_group_size=ROWS_PER_GROUP)
      self._rows[-1] += unit
    rest = table.slice(whole)
    self._waiting, self._num_waiting = rest.to_batches(), len(rest)

  def _path(self, shard: int) -> Path:
    return self._directory / f"{self._split}-{shard:05d}.parquet"

  def _open(self) -> None:
    if self._writer is not None:
      self._writer.close()
    self._writer = pq.ParquetWriter(self._path(len(self._rows)), self._schema, compression="lz4", write_statistics=False)
    self._rows.append(0)

  def close(self) -> dict[str, Any]:
    """Writes what is left. Returns the split's entry in `dataset.json`: rows, base_rate, content digest, shards."""
    if self._num_waiting:
      self._write(self._num_waiting)
    if self._writer is not None:
      self._writer.close()
    paths = [self._path(i) for i in range(len(self._rows))]
    shards = [
      {"file": p.name, "rows": rows, "bytes": p.stat().st_size, "sha256": sha256(p)} for p, rows in zip(paths, self._rows, strict=True)
    ]
    rows = sum(self._rows)
    content = hashlib.sha256("".join(digest.hexdigest() for digest in self._digests).encode()).hexdigest()
    return {"rows": rows, "base_rate": self.clicks / rows if rows else None, "content_sha256": content, "shards": shards}
