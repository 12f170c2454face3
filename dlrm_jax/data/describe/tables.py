"""The tables of `describe` as rows of text, for the terminal and the page."""

from typing import Any

from dlrm_jax.common.terminal import Table
from dlrm_jax.data.dataset import left_out, one_class_splits
from dlrm_jax.data.describe.dense_columns import QUANTILES
from dlrm_jax.data.describe.frequency import FIRST_RANK, LEAST_IDS, SEEN_ENOUGH
from dlrm_jax.data.describe.inventory import Inventory
from dlrm_jax.data.transform import inputs_of

MOST_SOURCES = 30  # files that the terminal lists; the page lists all


def percent(value: float | None) -> str:
  """A share in per cent; `-` if it is unknown."""
  return "-" if value is None else f"{value:.2%}" if value >= 1e-4 or value == 0 else f"{100 * value:.2g}%"


def size(count: int) -> str:
  """Bytes in a readable unit, by powers of 1,000."""
  for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if count >= scale:
      return f"{count / scale:.3g} {unit}"
  return f"{count} B"


def number(value: float) -> str:
  return f"{value:.4g}"


def splits(contents: dict[str, Any]) -> Table:
  times = [key for key in ("first_time", "last_time") if key in contents["splits"]["train"]]
  rows = [
    [name, f"{s['rows']:,}", percent(s["base_rate"]), str(len(s["shards"])), size(sum(shard["bytes"] for shard in s["shards"]))]
    + [s[key] for key in times]
    for name, s in contents["splits"].items()
  ]
  what = "Base rate: the share of label 1" + (", with the negatives that are left out." if "keep_negatives" in contents else ".")
  note = " ".join([what, *(f"{line[0].upper()}{line[1:]}." for line in one_class_splits(contents))])
  return Table("Splits", ["split", "rows", "base rate", "shards", "size", *(key.replace("_", " ") for key in times)], rows, note)


def dense_facts(contents: dict[str, Any]) -> list[dict[str, Any]]:
  """The name, transform and missing_share of each dense input, from dataset.json."""
  return [
    {"name": one.name, "transform": "standard of log1p" if one.log else one.transform, "missing_share": entry["missing_share"]}
    for one, entry in zip(inputs_of(contents), contents["columns"]["dense"], strict=True)
  ]


def dense(contents: dict[str, Any], found: Inventory) -> Table:
  """Dense columns as the model sees them."""
  rows = [
    [
      column.name,
      entry["transform"],
      percent(entry["missing_share"]),
      percent(column.zero_share),
      *(number(value) for value in (column.mean, column.low, *column.quantiles, column.high)),
    ]
    for column, entry in zip(found.dense, dense_facts(contents), strict=True)
  ]
  names = ["dense column", "transform", "missing", "zeros", "mean", "min", *(f"{q:.0%}" for q in QUANTILES), "max"]
  note = (
    "Missing: share of empty cells in the whole log. The other columns are about the rows that were read, after the transform, with empty"
    " cells filled. Zeros: share of values that are 0, without filled cells where an indicator says which they are. Columns in per cent are"
    " quantiles."
  )
  return Table("Dense columns", names, rows, note)


def unseen_name(contents: dict[str, Any]) -> str:
  """What `Feature.unseen_share` counts: "id 0", if values that are rare in the training rows have the id of unseen ones, else "unseen"."""
  return "id 0" if (contents["vocabulary"]["min_count"] or 1) > 1 else "unseen"


def _unseen_note(contents: dict[str, Any]) -> str:
  """What the share of held-out ids means."""
  vocabulary = contents["vocabulary"]
  if vocabulary["mode"] != "frequency":
    return (
      " Held out, unseen: share of the held-out ids that are not among those of the training rows that were read."
      " A value with the hash of another counts as that one."
    )
  if unseen_name(contents) == "unseen":
    return " Held out, unseen: share of the held-out ids whose value is not in the training rows (id 0)."
  return (
    f" Held out, id 0: share of the held-out ids whose value is in the training rows fewer than {vocabulary['min_count']} times, or never."
    " The shards do not tell these apart: values that were never seen have at most this share. --min_count=1 gives rare values ids."
  )


def categorical(contents: dict[str, Any], found: Inventory) -> Table:
  """Categorical features: their entries in dataset.json, and the ids in the rows that were read."""
  entries = contents["columns"]["categorical"]
  ranked, bags = contents["vocabulary"]["mode"] == "frequency", any(f.bag_length > 1 for f in found.features)
  cut = any("truncated" in entry for entry in entries)
  rows = []
  for feature, entry in zip(found.features, entries, strict=True):
    fit = feature.zipf
    law = ["-", "too few ids", "-"] if fit is None else [f"{fit.slope:.3f}", f"{fit.first_rank} to {fit.last_rank:,}", f"{fit.error:.1%}"]
    rows.append(
      [
        feature.name,
        f"{feature.cardinality:,}",
        *([str(feature.bag_length), percent(feature.padding_share)] if bags else []),
        *([f"{entry['truncated']:,}" if "truncated" in entry else "-"] if cut else []),
        percent(entry["missing_share"]),
        f"{feature.spectrum.distinct:,}",
        percent(feature.top_share),
        *([percent(feature.zero_share)] if ranked else []),
        percent(feature.unseen_share),
        *law,
      ]
    )
  names = ["feature", "ids", *(["bag", "padding"] if bags else []), *(["lists cut"] if cut else []), "missing", "ids seen", "most frequent"]
  names += [*(["id 0"] if ranked else []), f"held out, {unseen_name(contents)}", "Zipf slope", "fitted on ranks", "fit error"]
  note = "Missing: share of empty cells in the whole log. The other shares are of the ids that were read."
  if ranked:
    note += " Every rare or unseen value has id 0, which is not ranked."
  note += _unseen_note(contents)
  note += (
    f" Zipf slope: s of p_k ~ k**-s, fitted to log p at log-spaced ranks by least squares, from rank {FIRST_RANK} to the last id that was"
    f" seen {SEEN_ENOUGH} times. A feature with fewer than {LEAST_IDS} such ids gets no slope. Fit error: root mean square residual of log"
    " p; if it is large, the curve bends."
  )
  return Table("Categorical features", names, rows, note)


def rejects(contents: dict[str, Any]) -> Table:
  """Lines that were not used, by reason."""
  total = contents["rejects"]["total"]
  lines = total + sum(split["rows"] for split in contents["splits"].values())
  rows = [[reason, f"{count:,}", percent(count / lines)] for reason, count in contents["rejects"]["by_reason"].items()]
  note = "The lines themselves are in rejects.tsv." if total else "No line was rejected."
  return Table("Rejected lines", ["reason", "lines", "share of lines"], [*rows, ["all", f"{total:,}", percent(total / lines)]], note)


def sources(contents: dict[str, Any]) -> Table:
  """The files that the data set was made from, with their entries in dataset.json. Digests are shortened."""
  entries = contents["sources"]
  names = [name for name, value in entries[0].items() if isinstance(value, str | int | float)] if entries else []

  def cell(name: str, value: Any) -> str:
    if name == "bytes":
      return size(value)
    return value[:16] if isinstance(value, str) and name != "path" else f"{value:,}" if isinstance(value, int) else str(value)

  rows = [[cell(name, entry.get(name, "-")) for name in names] for entry in entries]
  return Table("Sources", ["file" if name == "path" else "size" if name == "bytes" else name for name in names], rows)


def facts(contents: dict[str, Any]) -> list[tuple[str, str]]:
  """Facts about the whole data set, by name."""
  vocabulary, schema = contents["vocabulary"], contents["schema"]
  ids = "31-bit hashes"
  if vocabulary["mode"] == "frequency":
    ids = f"ranks by frequency in the training rows, of values seen {vocabulary['min_count']} times or more"
  columns = contents["columns"]
  return [
    ("digest", contents["digest"]),
    ("columns", f"label '{schema['label']}', {len(columns['dense'])} dense, {len(columns['categorical'])} categorical"),
    ("ids", ids),
    ("row groups", f"{contents['rows_per_group']:,} rows"),
    *left_out(contents),
  ]
