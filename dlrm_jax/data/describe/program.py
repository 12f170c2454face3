"""`python -m dlrm_jax.data.describe`: its flags, the page, `describe.json` and the tables on the terminal."""

import dataclasses
import os
import shlex
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags, record, terminal
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.common.progress import say
from dlrm_jax.data.dataset import SPLITS, Dataset, open_dataset
from dlrm_jax.data.dense_warnings import say_warnings
from dlrm_jax.data.describe import inventory
from dlrm_jax.data.describe import tables as describe_tables
from dlrm_jax.data.describe.dense_columns import QUANTILES
from dlrm_jax.data.describe.inventory import Inventory
from dlrm_jax.data.describe.tables import MOST_SOURCES


@dataclasses.dataclass(frozen=True)
class DescribeConfig:
  """Words and flags of `python -m dlrm_jax.data.describe`."""

  data: tuple[str, ...] = option((), "the data set: one directory made by dlrm_jax.data.prepare", words=True)
  output: str = option("", "directory for the page and its files; the directory describe in the data set when empty")
  max_rows: int = option(10_000_000, "read the ids and dense values of this many training rows, the first ones; 0: of all")

  def __post_init__(self) -> None:
    if len(self.data) != 1 or not self.data[0]:
      raise UserError(f"data set to describe: {' '.join(self.data) or 'none'} given; name one directory made by dlrm_jax.data.prepare")
    flags.check(self.max_rows >= 0, self, "max_rows", "0 (all rows) or more")


def check_output(output: Path) -> None:
  """Raises UserError unless the directory can be written or made. It is checked first, because reading the data may take long."""
  there = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
  if not there.is_dir() or not os.access(there, os.W_OK):
    raise UserError(f"--output={output}: must be a directory that can be written; {there} is not")


def first_rows(dataset: Dataset) -> dict[str, int]:
  """The row of the log at which each split starts."""
  starts, row = {}, 0
  for split in SPLITS:
    if dataset.rows(split):
      starts[split] = row
    row += dataset.rows(split)
  return starts


def looked_at(dataset: Dataset, found: Inventory) -> str:
  """Sentences about the rows that were read."""
  train, labels = dataset.rows("train"), sum(dataset.rows(split) for split in SPLITS)

  def some(read: int, rows: int) -> str:
    return f"all {read:,}" if read == rows else f"the first {read:,} of {rows:,}"

  held_out = f" Held-out ids are those of {some(found.held_out_rows, labels - train)} rows." if labels > train else ""
  of_train = f"Ids and dense values are those of {some(found.rows, train)} training rows"
  return f"{of_train}; base rates are those of all {labels:,} rows.{held_out}"


def as_json(dataset: Dataset, contents: dict[str, Any], found: Inventory) -> dict[str, Any]:
  """The numbers of the page. `frequency` holds the counts of the ids at log-spaced ranks."""
  features, dense = [], []
  for feature, entry in zip(found.features, contents["columns"]["categorical"], strict=True):
    rank_r, seen_r = feature.spectrum.curve()
    names = ("lookups", "padding_share", "zero_share", "top_share", "held_out_lookups", "unseen_share")
    numbers = {name: getattr(feature, name) for name in names}
    law = None if feature.zipf is None else dataclasses.asdict(feature.zipf)
    curve = {"rank": rank_r.tolist(), "seen": seen_r.tolist()}
    features.append(entry | {"distinct_seen": feature.spectrum.distinct} | numbers | {"zipf": law, "frequency": curve})
  for column, facts in zip(found.dense, describe_tables.dense_facts(contents), strict=True):
    quantiles = dict(zip(map(str, QUANTILES), column.quantiles, strict=True))
    measured = dataclasses.asdict(column)
    bars = measured.pop("histogram") | {"median_number": measured.pop("number")}
    dense.append(facts | measured | {"quantiles": quantiles} | bars)
  splits = {
    name: {
      "rows": s["rows"],
      "base_rate": s["base_rate"],
      "shards": len(s["shards"]),
      "bytes": sum(shard["bytes"] for shard in s["shards"]),
      **{key: s[key] for key in ("first_time", "last_time") if key in s},
    }
    for name, s in contents["splits"].items()
  }
  return {
    "name": dataset.name,
    "digest": dataset.digest,
    "vocabulary": contents["vocabulary"],
    "rows_looked_at": found.rows,
    "splits": splits,
    "categorical": features,
    "dense": dense,
    "warnings": dataset.warnings,
    "base_rate": [dataclasses.asdict(entry) for entry in found.base_rate],
    "rejects": contents["rejects"],
    "sources": contents["sources"],
  }


def page_body(dataset: Dataset, contents: dict[str, Any], found: Inventory, figures: list[Any]) -> str:
  """The body of the page: facts, then each table with the figures that belong to it."""
  from dlrm_jax.common.figures import page

  drawn = {figure.name: figure for figure in figures}

  def pictures(*names: str) -> list[Any]:
    return [drawn[name] for name in names if name in drawn]

  sections = [describe_tables.splits(contents), *pictures("base_rate"), describe_tables.categorical(contents, found)]
  sections += pictures("unseen", "id_frequency", "id_frequency_by_feature", "missing", "dense")
  sections += [dataclasses.replace(describe_tables.dense(contents, found), title="")] if found.dense else []
  return page.render(
    "dlrm_jax.data.describe",
    "description.html",
    made=shlex.join(map(str, contents.get("command", []))),
    command=shlex.join(record.command()),
    facts=[f"{name}: {value}" for name, value in describe_tables.facts(contents)] + [f"warning: {line}" for line in dataset.warnings],
    looked_at=looked_at(dataset, found),
    versions=", ".join(f"{name} {version}" for name, version in contents.get("software", {}).items() if version),
    sections=[*sections, describe_tables.rejects(contents)],
    sources=describe_tables.sources(contents),
  )


def print_tables(dataset: Dataset, contents: dict[str, Any], found: Inventory) -> None:
  """The tables on standard output."""
  console = terminal.console(200)
  tables = [describe_tables.splits(contents), describe_tables.categorical(contents, found), describe_tables.rejects(contents)]
  tables += [describe_tables.sources(contents)]
  tables[1:1] = [describe_tables.dense(contents, found)] if found.dense else []
  console.print(dataset.name, style="bold")
  for name, value in describe_tables.facts(contents):
    console.print(f"{name}: {value}", soft_wrap=True)
  console.print(looked_at(dataset, found))
  for table in tables:
    shown = terminal.Grid(table.title)
    for place, name in enumerate(table.columns):
      shown.column(name, justify="left" if place == 0 else "right", overflow="fold")
    for row in table.rows[:MOST_SOURCES] if table.title == "Sources" else table.rows:
      shown.row(*row)
    console.print(shown)
    if table.note:
      console.print(table.note, style="dim")
  hidden = len(contents["sources"]) - MOST_SOURCES
  if hidden > 0:
    console.print(f"and {hidden} more files, which the page lists")


def main(config: DescribeConfig) -> None:
  dataset = open_dataset(config.data[0])
  contents = record.read_json(dataset.path / "dataset.json")
  output = Path(config.output or dataset.path / "describe")
  check_output(output)
  say(f"reading {sum(map(dataset.rows, SPLITS)):,} rows of {dataset.name}, then drawing figures")
  found = inventory.take(dataset, config.max_rows)

  from dlrm_jax.common.figures import page, render
  from dlrm_jax.data.describe import plots as describe_plots  # Altair is slow to import, so the input is checked first

  columns = (("dense", contents["columns"]["dense"]), ("categorical", contents["columns"]["categorical"]))
  missing = [(kind, column["name"], column["missing_share"]) for kind, entries in columns for column in entries]
  figures = describe_plots.figures(found, missing, first_rows(dataset), describe_tables.unseen_name(contents), "keep_negatives" in contents)
  rows = ", ".join(f"{dataset.rows(split):,} {split}" for split in SPLITS if dataset.rows(split))
  text = page.page(f"Data set: {dataset.name}", f"{rows} rows", page_body(dataset, contents, found, figures), figures)
  render.write_figures(output, figures)
  record.write_json(output / "describe.json", record.header() | as_json(dataset, contents, found))
  record.write_text(output / "index.html", text)
  print_tables(dataset, contents, found)
  say_warnings(dataset.warnings)
  print(f"page: {output / 'index.html'}")
