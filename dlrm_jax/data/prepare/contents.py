"""The contents of `dataset.json`, and the summary on the terminal. Called by `program`."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common import record, terminal
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.data import shard_format
from dlrm_jax.data.dataset import left_out, one_class_splits
from dlrm_jax.data.prepare import times
from dlrm_jax.data.prepare.counting import Counted
from dlrm_jax.data.prepare.inputs import names_of
from dlrm_jax.data.prepare.read_log import ReadLog
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.prepare.schema_json import schema_as_json
from dlrm_jax.data.prepare.timeline import Timeline
from dlrm_jax.data.prepare.vocabulary import Vocabulary


def vocabulary_entry(mode: str, min_count: int, paths: Sequence[Path], known: Sequence[Vocabulary]) -> dict[str, Any]:
  """The entry of the vocabulary: mode, min_count, and for ids by frequency the file of each feature with the digest of its content."""
  if mode == "hash":
    return {"mode": mode, "min_count": None}
  files = [{"file": path.name, "values": len(one.hash_v), "content": one.content()} for path, one in zip(paths, known, strict=True)]
  return {"mode": mode, "min_count": min_count, "files": files}


def _split(written: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The entry of a split: rows, base_rate, content digest, shards, and the first and the last time if the log has a time column.

  If rows have weights, the base rate is that of the weights, whose sum is in the entry too.
  """
  rows, clicks = (sum(shard[key] for shard in written) for key in ("rows", "clicks"))
  weights = {"weights": sum(shard["weights"] for shard in written)} if "weights" in written[0] else {}
  content = hashlib.sha256("".join(shard["content"] for shard in written).encode()).hexdigest()
  shards = [{key: shard[key] for key in ("file", "rows", "bytes", "xxh3_128")} for shard in written]
  entry = {"rows": rows, "base_rate": clicks / weights.get("weights", rows)} | weights | {"content": content, "shards": shards}
  if "first_time" in written[0]:
    first, last = min(shard["first_time"] for shard in written), max(shard["last_time"] for shard in written)
    entry |= {"first_time": times.iso(first), "last_time": times.iso(last)}
  return entry


def _categorical(schema: Schema, log: ReadLog, cardinalities: Sequence[int]) -> list[dict[str, Any]]:
  """The features' entries. They have `bag_length` if the data set has bags, and `truncated` if lists were read."""
  rows, entries = sum(log.rows_of_file()), []
  missing, truncated = (sum((Counter(getattr(r, name)) for r in log.results), Counter[str]()) for name in ("missing", "truncated"))
  for feature, cardinality in zip(schema.features, cardinalities, strict=True):
    entry = {"name": feature.name, "cardinality": cardinality, "missing_share": missing[feature.name] / (rows * feature.length)}
    if schema.bags:
      entry["bag_length"] = feature.length
    if any(feature.name in result.truncated for result in log.results):
      entry["truncated"] = truncated[feature.name]
    entries.append(entry)
  return entries


def _dense(schema: Schema, counted: Counted, missing_share: dict[str, float]) -> list[dict[str, Any]]:
  """The entries of the dense inputs: how each follows from its column, and the statistics of the column in the training rows."""
  statistics = dict(zip(schema.dense_names, counted.statistics, strict=True))
  return [
    one.as_json()
    | (
      {"missing_share": 0.0}
      if one.transform == "missing"
      else {"missing_share": missing_share[one.column], "statistics": statistics[one.column]}
    )
    for one in counted.inputs
  ]


def _bins(schema: Schema, counted: Counted, missing_share: dict[str, float]) -> list[dict[str, Any]]:
  """The entries of the features of bins."""
  statistics = dict(zip(schema.dense_names, counted.statistics, strict=True))
  return [
    {"name": bins.name, "cardinality": bins.cardinality, "missing_share": missing_share[bins.column]}
    | ({"bag_length": 1} if schema.bags else {})
    | {"bins": {"column": bins.column, "edges": list(bins.edges)}, "statistics": statistics[bins.column]}
    for bins in counted.bins
  ]


def _digest(columns: dict[str, Any], splits: dict[str, Any], negatives: dict[str, Any] | None) -> str:
  """Identifies the data by names, cardinalities, bag lengths above 1, values and blocks, the weight column and which negatives are kept.

  Paths and files do not matter.
  """
  identity = [
    shard_format.ROWS_PER_GROUP,  # because the shuffled order is an order of blocks
    [column["name"] for column in columns["dense"]],
    [[c["name"], c["cardinality"], *([c["bag_length"]] if c.get("bag_length", 1) > 1 else [])] for c in columns["categorical"]],
    [[split, entry["rows"], entry["content"]] for split, entry in splits.items()],
    *([["weight", columns["weight"]["name"]]] if "weight" in columns else []),
    *([["keep_negatives", negatives["share"], negatives["base_rate"]]] if negatives else []),
  ]
  return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def describe(
  name: str,
  vocabulary: dict[str, Any],
  schema: Schema,
  log: ReadLog,
  written: dict[str, list[dict[str, Any]]],
  cardinalities: Sequence[int],
  counted: Counted,
  rejected: dict[str, Any],
  timeline: Timeline | None,
  negatives: dict[str, Any] | None,
) -> dict[str, Any]:
  """The contents of `dataset.json`.

  Args:
    name: name of the data set if the schema has none.
    vocabulary: how values became ids.
    schema, log: what was read.
    written: the SHARD.json of every shard, by split.
    cardinalities: number of ids of each feature with a vocabulary.
    counted: what was counted over the training rows.
    rejected: the entry of the rejects.
    timeline: the times of the log, if it has a time column.
    negatives: the entry `keep_negatives`, if some were left out. The base rate of the training split is then that of all its rows.

  Raises:
    UserError: nothing can be learned.
  """
  rows = sum(log.rows_of_file())
  splits = {split: _split(shards) for split, shards in written.items()}
  if not 0 < splits["train"]["base_rate"] < 1:
    train = splits["train"]
    raise UserError(
      f"every label of the {train['rows']} training rows is {train['base_rate']:.0f}: nothing can be learned; "
      "if the log is sorted by its label, hold out other rows or shuffle it"
    )
  if negatives:
    negatives = negatives | {"kept_base_rate": splits["train"]["base_rate"]}
    splits["train"]["base_rate"] = negatives["base_rate"]
  missing = [sum(column) / rows for column in zip(*(result.missing_dense for result in log.results))]
  missing_share = dict(zip(schema.dense_names, missing, strict=True))
  columns: dict[str, Any] = {
    "dense": _dense(schema, counted, missing_share),
    "categorical": _categorical(schema, log, cardinalities) + _bins(schema, counted, missing_share),
  }
  if schema.weight is not None:
    columns["weight"] = {"name": schema.weight, "rows_of_weight_0": sum(found.weightless for _, found in log.pieces())}
  files, hidden = log.inputs.files, log.inputs.hidden
  digests: list[list[str]] = [[] for _ in files]
  for piece, found in log.pieces():
    digests[piece.source].append(found.xxh3_128)
  made = record.header() | {
    "format": shard_format.FORMAT,
    "name": schema.name or name,
    "schema": schema_as_json(schema),
    "vocabulary": vocabulary,
    "columns": columns,
    "rows_per_group": shard_format.ROWS_PER_GROUP,
    "splits": splits,
    "rejects": rejected,
    "sources": [
      {"path": name, "bytes": source.stat().st_size, "xxh3_128": d} for name, source, d in zip(names_of(files), files, digests, strict=True)
    ],
    **({"empty_files": names_of(empty, files)} if (empty := log.empty_files()) else {}),
    **({"hidden_files": names_of(hidden, files)} if hidden else {}),
    **({"keep_negatives": negatives} if negatives else {}),
    "digest": _digest(columns, splits, negatives),
  }
  if schema.time is not None and timeline is not None:
    order = "time" if schema.time.order else "files"
    made["time"] = {"column": schema.time.column, "ordered_by": order, "earlier_rows": timeline.earlier_rows}
  return made


def _table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> terminal.Grid:
  """A table for the terminal, its first column to the left and the others to the right."""
  table = terminal.Grid(title)
  for place, heading in enumerate(headings):
    table.column(heading, justify="right" if place else "left")
  for row in rows:
    table.row(*row)
  return table


def print_summary(contents: dict[str, Any], output: str) -> None:
  """Prints splits, columns and rejects of a data set, and warns of splits with one class."""
  console = terminal.console(200)
  splits, rejects, columns = contents["splits"], contents["rejects"], contents["columns"]
  timed = [key for key in ("first_time", "last_time") if key in splits["train"]]
  rows = [
    (split, f"{e['rows']:,}", f"{e['base_rate']:.4f}", str(len(e["shards"])), *(e[key] for key in timed)) for split, e in splits.items()
  ]
  headings = ("split", "rows", "base rate", "shards", *(key.replace("_", " ") for key in timed))
  console.print(_table(f"{contents['name']}: rows", headings, rows))
  dense = [column["name"] for column in columns["dense"]]
  bags = "bag_length" in columns["categorical"][0]
  headings = ("categorical", "ids", "missing", *(("bag", "lists cut") if bags else ()))
  cells = []
  for column in columns["categorical"]:
    bag = (str(column["bag_length"]), f"{column['truncated']:,}" if "truncated" in column else "") if bags else ()
    cells.append((column["name"], f"{column['cardinality']:,}", f"{column['missing_share']:.2%}", *bag))
  console.print(_table(f"columns ({len(dense)} dense: {', '.join(dense) or 'none'})", headings, cells))
  if rejects["total"]:
    title = f"rejected lines: {rejects['total']:,} ({rejects['share']:.4%})"
    console.print(_table(title, ("reason", "lines"), [(reason, f"{n:,}") for reason, n in rejects["by_reason"].items()]))
  else:
    console.print("rejected lines: 0")
  for fact, value in left_out(contents):
    console.print(f"{fact}: {value}", soft_wrap=True)
  console.print(f"written to {output}, digest {contents['digest'][:16]}", soft_wrap=True)
  for line in one_class_splits(contents):
    say(f"warning: {line}")
