"""Turns a click log (Criteo TSV, CSV or Parquet) into a data set: Parquet shards, dataset.json and rejects.tsv.

Files are read in the order of their names (numbers by value: day_2 before day_10), rows keep their order, and the last rows are
held out for evaluation. The log is read once: its rows are hashed into a temporary file beside the output while the rejects are
counted, then the vocabulary is counted over the training rows, then ids are written. Memory holds the vocabulary and a few chunks.
The output directory appears whole, by a rename, or not at all.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.progress
import rich.table

from dlrm_jax import flags, record
from dlrm_jax.data import criteo, parse, spool, vocabulary
from dlrm_jax.data.rejects import Rejects
from dlrm_jax.data.schema import Bag, CategoricalColumn, Schema, load_schema, lookup_names
from dlrm_jax.data.shards import PADDING, ROWS_PER_GROUP, ShardWriter, find_inputs, made_whole

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


def _held_out(config: PrepareConfig, num_rows: int) -> int:
  """The number of rows of the evaluation split. Raises UserError when either split would be empty."""
  eval_rows = int(num_rows * config.eval_fraction) if config.eval_rows is None else config.eval_rows
  if not 0 < eval_rows < num_rows:
    flag = "eval_fraction" if config.eval_rows is None else "eval_rows"
    raise flags.UserError(f"--{flag}={getattr(config, flag):g} of {num_rows} rows holds out {eval_rows}: neither split may be empty")
  return eval_rows


def _count(spooled: Path, schema: Schema, train_rows: int, bar: "_Bar") -> tuple[dict[str, vocabulary.Counter], Counter[str]]:
  """Counts every feature's values over the first `train_rows` rows (those of a bag without padding), and its missing cells over all."""
  first = 1 + len(schema.dense)
  counters = {feature.name: vocabulary.Counter() for feature in schema.features}
  absent = {feature.name: parse.missing_hash(feature) for feature in schema.features}
  num_missing, seen = Counter[str](), 0
  for columns in spool.chunks(spooled):
    for feature, hash_n in zip(schema.lookups, columns[first:], strict=True):
      missing_n = hash_n == absent[feature.name]
      num_missing[feature.name] += int(missing_n.sum())
      if seen < train_rows:
        train_n = hash_n[: train_rows - seen]
        counters[feature.name].add(train_n[~missing_n[: train_rows - seen]] if isinstance(feature, Bag) else train_n)
    seen += len(columns[0])
    bar(len(columns[0]))
  return counters, num_missing


def _to_ids(feature: CategoricalColumn | Bag, table: vocabulary.Vocabulary | None) -> Callable[[np.ndarray], np.ndarray]:
  """The function from a feature's hashes to its ids; `table` is None for the `hash` vocabulary."""
  lookup = vocabulary.hash_ids if table is None else table.lookup
  absent = parse.missing_hash(feature)
  return (lambda hash_n: np.where(hash_n == absent, np.int32(PADDING), lookup(hash_n))) if isinstance(feature, Bag) else lookup


def _write(spooled: Path, schema: Schema, directory: Path, train_rows: int, tables: dict[str, vocabulary.Vocabulary], bar: "_Bar") -> dict:
  """Writes the shards of both splits. Returns the splits' entries in `dataset.json`."""
  first = 1 + len(schema.dense)
  names = lookup_names([f.name for f in schema.features], [f.length for f in schema.features])
  splits = {split: ShardWriter(directory, split, schema.dense_names, names) for split in ("train", "eval")}
  to_ids = {feature.name: _to_ids(feature, tables.get(feature.name)) for feature in schema.features}
  left = train_rows
  for columns in spool.chunks(spooled):
    columns[first:] = [to_ids[feature.name](hash_n) for feature, hash_n in zip(schema.lookups, columns[first:], strict=True)]
    for writer, part in ((splits["train"], slice(0, left)), (splits["eval"], slice(left, None))):
      if len(columns[0][part]):
        writer.add([column[part] for column in columns])
    left = max(0, left - len(columns[0]))
    bar(len(columns[0]))
  return {split: writer.close() for split, writer in splits.items()}


def _entries(
  schema: Schema, tables: dict[str, vocabulary.Vocabulary], num_rows: int, num_missing: Counter[str], truncated: Counter[str]
) -> list[dict[str, Any]]:
  """The features' entries in `dataset.json`; `bag_length` is in them where the data set has bags, `truncated` where lists were read."""
  entries = []
  for feature in schema.features:
    name, table = feature.name, tables.get(feature.name)
    size = vocabulary.HASH_CARDINALITY if table is None else table.cardinality
    entry = {"name": name, "cardinality": size, "missing_share": num_missing[name] / (num_rows * feature.length)}
    if schema.bags:
      entry["bag_length"] = feature.length
    if name in truncated:
      entry["truncated"] = truncated[name]
    entries.append(entry)
  return entries


def _digest(contents: dict[str, Any]) -> str:
  """What identifies the data: names, cardinalities, bag lengths above 1 and values, but neither places nor files."""
  columns, splits = contents["columns"], contents["splits"]
  stands_for = [
    columns["dense"],
    [[c["name"], c["cardinality"], *([c["bag_length"]] if c.get("bag_length", 1) > 1 else [])] for c in columns["categorical"]],
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
  if schema.list_columns and config.format != "parquet":
    raise flags.UserError(
      f"{config.schema}: column '{schema.list_columns[0]}' of lists: only --format=parquet has them; name one column for each value"
    )
  sources = find_inputs(config.input)
  with made_whole(Path(config.output), config.overwrite) as directory:
    spooled = directory / "spool.arrow"
    rejects = Rejects(directory / "rejects.tsv", config.max_reject_fraction)
    with _Bar("reading", sum(source.stat().st_size for source in sources), is_bytes=True) as bar:
      entries, num_rows, truncated = spool.write(spooled, config.format, schema, sources, rejects, bar)
    rejected = rejects.finish(num_rows)
    train_rows = num_rows - _held_out(config, num_rows)
    with _Bar("counting", num_rows) as bar:
      counters, num_missing = _count(spooled, schema, train_rows, bar)
    ranked = config.vocabulary == "frequency"
    tables = {name: counter.vocabulary(config.min_count) for name, counter in counters.items()} if ranked else {}
    with _Bar("writing", num_rows) as bar:
      splits = _write(spooled, schema, directory, train_rows, tables, bar)
    spooled.unlink()
    if not 0 < splits["train"]["base_rate"] < 1:
      raise flags.UserError(f"every label of the {train_rows} training rows is {splits['train']['base_rate']:.0f}: nothing can be learned")
    categorical = _entries(schema, tables, num_rows, num_missing, truncated)
    contents = record.header() | {
      "name": schema.name or Path(config.output).resolve().name,
      "schema": {name: value for name, value in dataclasses.asdict(schema).items() if name != "bags" or value},
      "vocabulary": {"mode": config.vocabulary, "min_count": config.min_count if ranked else None},
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
  categorical = contents["columns"]["categorical"]
  bags = ("bag", "lists cut") if "bag_length" in categorical[0] else ()
  for heading in ("categorical", "ids", "missing", *bags):
    table.add_column(heading, justify="left" if heading == "categorical" else "right")
  for column in categorical:
    cells = (str(column["bag_length"]), f"{column['truncated']:,}" if "truncated" in column else "") if bags else ()
    table.add_row(column["name"], f"{column['cardinality']:,}", f"{column['missing_share']:.2%}", *cells)
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
