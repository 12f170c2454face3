"""Turns a click log (Criteo TSV, CSV or Parquet) into a data set: Parquet shards, dataset.json and rejects.tsv.

Files are read in the order of their names (numbers by value: day_2 before day_10), rows keep their order, and the last rows are
held out for evaluation. The log is read once: its rows are hashed into a temporary file beside the output while the rejects are
counted, then the vocabulary is counted over the training rows, then ids are written. Memory holds the vocabulary and a few chunks.
The output directory appears whole, by a rename, or not at all.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rich.console
import rich.progress
import rich.table

from dlrm_jax import flags, record
from dlrm_jax.data import criteo, delimited, parse, read, vocabulary
from dlrm_jax.data.rejects import Rejects
from dlrm_jax.data.schema import Schema, load_schema
from dlrm_jax.data.shards import ROWS_PER_GROUP, ShardWriter, find_inputs, made_whole

VOCABULARIES = ("frequency", "hash")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
  """What to read, where to write, and how values become ids."""

  format: str = flags.option(help="of the input", choices=("criteo_tsv", "csv", "parquet"))
  input: str = flags.option(help="the files to read: a path or a pattern such as 'logs/day_*.gz' (** matches any depth)")
  output: str = flags.option(help="the directory to make")
  schema: str | None = flags.option(None, "TOML file that names the label, dense and categorical columns of a csv or parquet log")
  eval_rows: int | None = flags.option(None, "hold out this many rows, the last ones")
  eval_fraction: float = flags.option(0.1, "hold out this share of the rows, the last ones, where --eval_rows is not given")
  vocabulary: str = flags.option("frequency", "ids by rank of frequency in the training rows, or by a 31-bit hash", VOCABULARIES)
  min_count: int = flags.option(2, "values seen fewer times in the training rows share id 0 with unseen ones (frequency vocabulary)")
  max_reject_fraction: float = flags.option(0.001, "fail when a larger share of the lines is rejected")
  overwrite: bool = flags.option(False, "replace the data set that is in the output directory")

  def __post_init__(self) -> None:
    flags.check_choices(self)
    if self.format == "criteo_tsv":
      flags.check(self.schema is None, self, "schema", "left out with --format=criteo_tsv, whose columns are fixed")
    elif self.schema is None:
      raise flags.UserError(f"--format={self.format} needs --schema=FILE.toml, which names the label, dense and categorical columns")
    flags.check(self.eval_rows is None or self.eval_rows >= 1, self, "eval_rows", "at least 1")
    flags.check(0 < self.eval_fraction < 1, self, "eval_fraction", "above 0 and below 1")
    flags.check(self.min_count >= 1, self, "min_count", "at least 1")
    flags.check(0 <= self.max_reject_fraction <= 1, self, "max_reject_fraction", "between 0 and 1")


def _spool(config: PrepareConfig, schema: Schema, sources: list[Path], path: Path, rejects: Rejects, bar: "_Bar") -> tuple[list[dict], int]:
  """Writes label, dense values and hashes of the good rows to `path`. Returns the sources' entries in `dataset.json` and the rows."""
  kinds = [pa.uint8()] + [pa.float32()] * len(schema.dense) + [pa.uint64()] * len(schema.categorical)
  columns = pa.schema([(str(i), kind) for i, kind in enumerate(kinds)])
  reader = read.read_parquet if config.format == "parquet" else delimited.read_text
  entries, num_rows = [], 0
  with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, columns) as writer:
    for source in sources:
      with read.HashingFile(source, bar) as raw:
        for chunk in reader(source, schema, raw):
          rows, bad = parse.parse(chunk, schema)
          num_rows += len(rows.label_n)
          rejects.add(source, bad, num_rows)
          writer.write_batch(pa.record_batch([read.arrow(x) for x in (rows.label_n, *rows.dense, *rows.hashes)], schema=columns))
        entries.append({"path": source.name, "bytes": source.stat().st_size, "sha256": raw.hexdigest()})
  return entries, num_rows


def _spooled(path: Path) -> Iterator[list[np.ndarray]]:
  """The chunks of a spool file, one array per column."""
  with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
    for batch in reader:
      yield [column.to_numpy() for column in batch.columns]


def _held_out(config: PrepareConfig, num_rows: int) -> int:
  """The number of rows of the evaluation split. Raises UserError when either split would be empty."""
  eval_rows = int(num_rows * config.eval_fraction) if config.eval_rows is None else config.eval_rows
  if not 0 < eval_rows < num_rows:
    flag = "eval_fraction" if config.eval_rows is None else "eval_rows"
    raise flags.UserError(f"--{flag}={getattr(config, flag):g} of {num_rows} rows holds out {eval_rows}: neither split may be empty")
  return eval_rows


def _count(spool: Path, schema: Schema, train_rows: int, bar: "_Bar") -> tuple[list[vocabulary.Counter], list[int]]:
  """Counts every column's values over the first `train_rows` rows, and its missing cells over all rows."""
  first = 1 + len(schema.dense)
  counters = [vocabulary.Counter() for _ in schema.categorical]
  absent, num_missing, seen = [parse.missing_hash(column) for column in schema.categorical], [0] * len(counters), 0
  for columns in _spooled(spool):
    for i, hash_n in enumerate(columns[first:]):
      num_missing[i] += int((hash_n == absent[i]).sum())
      if seen < train_rows:
        counters[i].add(hash_n[: train_rows - seen])
    seen += len(columns[0])
    bar(len(columns[0]))
  return counters, num_missing


def _write(spool: Path, schema: Schema, directory: Path, train_rows: int, tables: list[vocabulary.Vocabulary] | None, bar: "_Bar") -> dict:
  """Writes the shards of both splits. Returns the splits' entries in `dataset.json`."""
  first = 1 + len(schema.dense)
  splits = {split: ShardWriter(directory, split, schema.dense_names, schema.categorical_names) for split in ("train", "eval")}
  left = train_rows
  for columns in _spooled(spool):
    lookups = [vocabulary.hash_ids] * len(schema.categorical) if tables is None else [table.lookup for table in tables]
    columns[first:] = [lookup(hash_n) for lookup, hash_n in zip(lookups, columns[first:], strict=True)]
    for writer, part in ((splits["train"], slice(0, left)), (splits["eval"], slice(left, None))):
      if len(columns[0][part]):
        writer.add([column[part] for column in columns])
    left = max(0, left - len(columns[0]))
    bar(len(columns[0]))
  return {split: writer.close() for split, writer in splits.items()}


def _digest(contents: dict[str, Any]) -> str:
  """What identifies the data: names, cardinalities and values, but not where they lie nor how they are cut into files."""
  columns, splits = contents["columns"], contents["splits"]
  stands_for = [
    columns["dense"],
    [[column["name"], column["cardinality"]] for column in columns["categorical"]],
    [[split, splits[split]["rows"], splits[split]["content_sha256"]] for split in ("train", "eval")],
  ]
  return hashlib.sha256(json.dumps(stands_for).encode()).hexdigest()


class _Bar:
  """A progress bar on standard error, shown only on a terminal and removed at the end."""

  def __init__(self, what: str, total: int, is_bytes: bool = False):
    unit = (rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn()) if is_bytes else (rich.progress.MofNCompleteColumn(),)
    console = rich.console.Console(stderr=True)
    columns = ("{task.description}", rich.progress.BarColumn(), *unit, rich.progress.TimeRemainingColumn())
    self._progress = rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    self._task = self._progress.add_task(what, total=total)

  def __enter__(self) -> "_Bar":
    self._progress.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._progress.stop()

  def __call__(self, count: int) -> None:
    self._progress.advance(self._task, count)


def prepare(config: PrepareConfig) -> dict[str, Any]:
  """Makes the data set and returns what `dataset.json` holds. Raises UserError, leaving nothing behind, on bad input."""
  schema = criteo.SCHEMA if config.schema is None else load_schema(config.schema)
  sources = find_inputs(config.input)
  with made_whole(Path(config.output), config.overwrite) as directory:
    spool = directory / "spool.arrow"
    rejects = Rejects(directory / "rejects.tsv", config.max_reject_fraction)
    with _Bar("reading", sum(source.stat().st_size for source in sources), is_bytes=True) as bar:
      entries, num_rows = _spool(config, schema, sources, spool, rejects, bar)
    rejected = rejects.finish(num_rows)
    train_rows = num_rows - _held_out(config, num_rows)
    with _Bar("counting", num_rows) as bar:
      counters, num_missing = _count(spool, schema, train_rows, bar)
    tables = None if config.vocabulary == "hash" else [counter.vocabulary(config.min_count) for counter in counters]
    with _Bar("writing", num_rows) as bar:
      splits = _write(spool, schema, directory, train_rows, tables, bar)
    spool.unlink()
    if not 0 < splits["train"]["base_rate"] < 1:
      raise flags.UserError(f"every label of the {train_rows} training rows is {splits['train']['base_rate']:.0f}: nothing can be learned")
    sizes = [vocabulary.HASH_CARDINALITY] * len(schema.categorical) if tables is None else [table.cardinality for table in tables]
    categorical = [
      {"name": name, "cardinality": size, "missing_share": missing / num_rows}
      for name, size, missing in zip(schema.categorical_names, sizes, num_missing, strict=True)
    ]
    contents = record.header() | {
      "name": schema.name or Path(config.output).resolve().name,
      "schema": dataclasses.asdict(schema),
      "vocabulary": {"mode": config.vocabulary, "min_count": config.min_count if config.vocabulary == "frequency" else None},
      "columns": {"dense": list(schema.dense_names), "categorical": categorical},
      "rows_per_group": ROWS_PER_GROUP,
      "splits": splits,
      "rejects": rejected,
      "sources": entries,
    }
    contents["digest"] = _digest(contents)
    record.write_json(directory / "dataset.json", contents)
  return contents


def print_summary(contents: dict[str, Any], output: str) -> None:
  """Prints what a data set holds."""
  console = rich.console.Console()
  splits, rejects = contents["splits"], contents["rejects"]
  table = rich.table.Table(title=f"{contents['name']}: rows")
  for heading in ("split", "rows", "base rate", "shards"):
    table.add_column(heading, justify="left" if heading == "split" else "right")
  for split, entry in splits.items():
    table.add_row(split, f"{entry['rows']:,}", f"{entry['base_rate']:.4f}", str(len(entry["shards"])))
  console.print(table)
  table = rich.table.Table(
    title=f"columns ({len(contents['columns']['dense'])} dense: {', '.join(contents['columns']['dense']) or 'none'})"
  )
  for heading in ("categorical", "ids", "missing"):
    table.add_column(heading, justify="left" if heading == "categorical" else "right")
  for column in contents["columns"]["categorical"]:
    table.add_row(column["name"], f"{column['cardinality']:,}", f"{column['missing_share']:.2%}")
  console.print(table)
  table = rich.table.Table(title=f"rejected lines: {rejects['total']:,} ({rejects['share']:.4%})")
  table.add_column("reason")
  table.add_column("lines", justify="right")
  for reason, count in rejects["by_reason"].items():
    table.add_row(reason, f"{count:,}")
  if rejects["total"]:
    console.print(table)
  else:
    console.print("rejected lines: 0")
  console.print(f"written to {output}, digest {contents['digest'][:16]}", soft_wrap=True)


def main(config: PrepareConfig) -> None:
  print_summary(prepare(config), config.output)


if __name__ == "__main__":
  flags.run(main, PrepareConfig)
