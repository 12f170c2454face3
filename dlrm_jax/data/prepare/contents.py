"""What `dataset.json` and `rejects.tsv` say of a data set, and the summary on the terminal. Called by `prepare`."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.data import shard_format
from dlrm_jax.data.prepare import parts, read, rejects
from dlrm_jax.data.prepare.schema import Schema


@dataclasses.dataclass(frozen=True)
class Done:
  """What the first pass says of a piece of the input.

  Attributes:
    lines: how many begin in it, a header included.
    parts: rows of each of its parts.
    rejects: from `Tally.as_json`.
    missing_dense: missing cells of each dense column.
    missing: and of each feature.
    truncated: for each bag of a list column, how many rows had a longer list.
    xxh3_128: of its bytes.
  """

  lines: int
  parts: list[int]
  rejects: dict[str, Any]
  missing_dense: list[int]
  missing: dict[str, int]
  truncated: dict[str, int]
  xxh3_128: str


def _lines_before(cut: Sequence[read.Piece], pieces: Sequence[Done]) -> list[int]:
  """How many lines of its file come before each piece; a Parquet file's rows are its lines."""
  out, lines = [], Counter[int]()
  for piece, done in zip(cut, pieces, strict=True):
    out.append(lines[piece.source])
    lines[piece.source] += done.lines
  return out


def rejected(sources: Sequence[Path], cut: Sequence[read.Piece], pieces: Sequence[Done], allowed: float) -> dict[str, Any]:
  """The entry of the rejects. Raises UserError where a larger share than `allowed` is, or a file has no rows."""
  with_rows = {piece.source for piece, done in zip(cut, pieces) if done.rejects["good"] or done.rejects["first"]}
  for i, source in enumerate(sources):
    if i not in with_rows:
      raise UserError(f"{source}: no rows in it ({source.stat().st_size} bytes)")
  paths = [sources[piece.source] for piece in cut]
  return rejects.entry([done.rejects for done in pieces], paths, _lines_before(cut, pieces), allowed)


def write_rejects(path: Path, rows: Path, sources: Sequence[Path], cut: Sequence[read.Piece], pieces: Sequence[Done]) -> None:
  """Writes `rejects.tsv`: source file, line number, reason, detail, and the line itself, byte for byte (it may hold more tabs)."""
  names = read.names_of(sources)
  with record.written_whole(path) as out:
    out.write(rejects.HEADER)
    for i, (piece, before) in enumerate(zip(cut, _lines_before(cut, pieces))):
      with parts.rejects_path(rows, i).open("rb") as lines:
        out.writelines(rejects.of_log(line, names[piece.source], before) for line in lines)


def schema_as_json(schema: Schema) -> dict[str, Any]:
  """A schema as `dataset.json` has it."""
  return {name: value for name, value in json.loads(json.dumps(dataclasses.asdict(schema))).items() if name != "bags" or value}


def _split(written: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The entry of a split: rows, base_rate, content digest, shards."""
  rows, clicks = (sum(shard[key] for shard in written) for key in ("rows", "clicks"))
  content = hashlib.sha256("".join(shard["content"] for shard in written).encode()).hexdigest()
  shards = [{key: shard[key] for key in ("file", "rows", "bytes", "xxh3_128")} for shard in written]
  return {"rows": rows, "base_rate": clicks / rows, "content": content, "shards": shards}


def _categorical(schema: Schema, pieces: Sequence[Done], cardinalities: Sequence[int]) -> list[dict[str, Any]]:
  """The features' entries; `bag_length` is in them where the data set has bags, `truncated` where lists were read."""
  rows, entries = sum(sum(piece.parts) for piece in pieces), []
  missing, truncated = (sum((Counter(getattr(piece, name)) for piece in pieces), Counter[str]()) for name in ("missing", "truncated"))
  for feature, cardinality in zip(schema.features, cardinalities, strict=True):
    entry = {"name": feature.name, "cardinality": cardinality, "missing_share": missing[feature.name] / (rows * feature.length)}
    if schema.bags:
      entry["bag_length"] = feature.length
    if any(feature.name in piece.truncated for piece in pieces):
      entry["truncated"] = truncated[feature.name]
    entries.append(entry)
  return entries


def _digest(columns: dict[str, Any], splits: dict[str, Any]) -> str:
  """What identifies the data: names, cardinalities, bag lengths above 1, values and blocks, but neither places nor files."""
  stands_for = [
    shard_format.ROWS_PER_GROUP,  # the shuffled order is one of blocks
    [column["name"] for column in columns["dense"]],
    [[c["name"], c["cardinality"], *([c["bag_length"]] if c.get("bag_length", 1) > 1 else [])] for c in columns["categorical"]],
    [[split, entry["rows"], entry["content"]] for split, entry in splits.items()],
  ]
  return hashlib.sha256(json.dumps(stands_for).encode()).hexdigest()


def describe(
  name: str,
  vocabulary: dict[str, Any],
  schema: Schema,
  sources: Sequence[Path],
  cut: Sequence[read.Piece],
  pieces: Sequence[Done],
  written: dict[str, list[dict[str, Any]]],
  cardinalities: Sequence[int],
  rejected: dict[str, Any],
) -> dict[str, Any]:
  """What `dataset.json` holds.

  Args:
    name: of the data set, where the schema has none.
    vocabulary: how values became ids.
    schema, sources, cut, pieces: what was read.
    written: from `shards.write`, by split.
    cardinalities: of each feature.
    rejected: the entry of the rejects.

  Raises:
    UserError: nothing can be learned.
  """
  rows = sum(sum(piece.parts) for piece in pieces)
  splits = {split: _split(shards) for split, shards in written.items()}
  if not 0 < splits["train"]["base_rate"] < 1:
    train = splits["train"]
    raise UserError(f"every label of the {train['rows']} training rows is {train['base_rate']:.0f}: nothing can be learned")
  missing = [sum(column) / rows for column in zip(*(piece.missing_dense for piece in pieces))]
  columns = {
    "dense": [{"name": column, "missing_share": share} for column, share in zip(schema.dense_names, missing, strict=True)],
    "categorical": _categorical(schema, pieces, cardinalities),
  }
  digests: list[list[str]] = [[] for _ in sources]
  for piece, done in zip(cut, pieces):
    digests[piece.source].append(done.xxh3_128)
  return record.header() | {
    "format": shard_format.FORMAT,
    "name": schema.name or name,
    "schema": schema_as_json(schema),
    "vocabulary": vocabulary,
    "columns": columns,
    "rows_per_group": shard_format.ROWS_PER_GROUP,
    "splits": splits,
    "rejects": rejected,
    "sources": [
      {"path": name, "bytes": source.stat().st_size, "xxh3_128": d}
      for name, source, d in zip(read.names_of(sources), sources, digests, strict=True)
    ],
    "digest": _digest(columns, splits),
  }


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
  dense = [column["name"] for column in contents["columns"]["dense"]]
  table = rich.table.Table(title=f"columns ({len(dense)} dense: {', '.join(dense) or 'none'})")
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
