"""`Dataset`: the contents of a data set's `dataset.json`, checked against its shards. Sources open it, `pipeline` reads it."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.dense_warnings import dense_warnings
from dlrm_jax.data.shard_format import FORMAT, digest
from dlrm_jax.data.transform import TRANSFORMS, bins_of, inputs_of
from dlrm_jax.shape import DataShape

SPLITS = ("train", "eval", "test")
_NO_MEANING = ("name", "text", "header")  # of a schema: they say how the log is called and written, not what its cells mean
_MEASURED = ("missing_share", "statistics", "truncated")  # of a column's entry: what is known of the rows
VERIFY_BYTES = 1 << 30  # digests of smaller data sets are checked when they are opened, those of larger ones as shards are read


@dataclasses.dataclass(frozen=True)
class Shard:
  """One Parquet file with its rows, bytes and digest as `dataset.json` states them."""

  path: Path
  rows: int
  size: int
  digest: str


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set, from `open_dataset`.

  Attributes:
    path: its directory.
    name: its name in reports.
    digest: identifies the content, whatever its path.
    dense: names of the M dense columns.
    shape: the columns. Cardinalities count id 0 (unseen or rare). Batches have bag weights if there are bags, which have empty places.
    rows_of: number of rows of each split: train, eval, perhaps test.
    base_rates: click rate of each split, by weight if rows have one. Negatives that are left out of `train` count, too.
    shards_of: the files of each split, in order.
    rows_per_group: rows of every block of a split but its last.
    vocabulary: "frequency" (ids are ranks) or "hash".
    encoding: from `encoding_of`.
    warnings: lines about its dense columns (`dense_warnings`).
    unverified: the shards whose digests `verify` must still check, when they are first read.
  """

  path: Path
  name: str
  digest: str
  dense: tuple[str, ...]
  shape: DataShape
  rows_of: dict[str, int]
  base_rates: dict[str, float]
  shards_of: dict[str, tuple[Shard, ...]]
  rows_per_group: int
  vocabulary: str
  encoding: str | None = None
  warnings: tuple[str, ...] = ()
  unverified: set[Shard] = dataclasses.field(default_factory=set, compare=False)

  def rows(self, split: str) -> int:
    """The number of rows of a split; 0 if there is no such split."""
    return self.rows_of.get(split, 0)

  def shards(self, split: str) -> tuple[Shard, ...]:
    """The files of a split, in order."""
    return self.shards_of.get(split, ())

  def verify(self, shard: Shard) -> None:
    """Checks the digest of a shard that was not checked before. Raises UserError if it is not the one in dataset.json."""
    if shard in self.unverified:
      if digest(shard.path) != shard.digest:
        raise UserError(f"{shard.path}: changed since it was prepared (its xxh3_128 is not the one in dataset.json)")
      self.unverified.discard(shard)  # if two threads have checked it, no harm is done


def encoding_of(contents: dict[str, Any]) -> str | None:
  """Identifies how the rows of a log became inputs: schema, transforms with their statistics, vocabularies. None if they were not kept.

  A model can read all data sets of one encoding, whatever their rows. `contents` is that of `dataset.json`.
  """
  vocabulary, columns = contents["vocabulary"], contents["columns"]
  if vocabulary["mode"] == "frequency" and "files" not in vocabulary:
    return None
  schema = {name: value for name, value in contents["schema"].items() if name not in _NO_MEANING}
  entries = [*columns["dense"], *columns["categorical"]]
  inputs = [{key: value for key, value in entry.items() if key not in _MEASURED} for entry in entries]
  identity = [schema, inputs, vocabulary["mode"], [file["content"] for file in vocabulary.get("files", [])]]
  return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def vocabulary_files(directory: Path, contents: dict[str, Any]) -> list[tuple[Path, str]]:
  """The vocabulary file of each feature and the digest of its content; none if ids are hashes. `contents` is that of `dataset.json`.

  Raises UserError if the data set was prepared before vocabularies were kept.
  """
  if encoding_of(contents) is None:
    raise UserError(f"{directory}: was prepared by a version that kept no vocabulary: prepare the log again, and train on that")
  return [(directory / file["file"], file["content"]) for file in contents["vocabulary"].get("files", [])]


def read_contents(path: str | Path) -> dict[str, Any]:
  """The contents of `dataset.json` in a directory made by `dlrm_jax.data.prepare`.

  Raises UserError if there is none, or if it is of another version or damaged.
  """
  path = Path(path)
  if not path.is_dir():
    raise UserError(f"{path}: no such directory; a data set is made by python -m dlrm_jax.data.prepare")
  if not (path / "dataset.json").is_file():
    raise UserError(f"{path}: no dataset.json in it; a data set is made by python -m dlrm_jax.data.prepare")
  contents = record.read_json(path / "dataset.json")
  if "splits" in contents and contents.get("format") != FORMAT:
    raise UserError(f"{path}/dataset.json: format {contents.get('format', 1)}, but this version reads {FORMAT}; prepare the log again")
  if contents.get("schema_version", record.SCHEMA_VERSION) != record.SCHEMA_VERSION:
    raise UserError(f"{path}/dataset.json: schema_version {contents['schema_version']}, but this version reads {record.SCHEMA_VERSION}")
  try:
    _from_contents(path, contents)
    _check_encoding(path, contents)
  except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
    why = str(error).partition("\n")[0]
    raise UserError(f"{path}/dataset.json: not made by dlrm_jax.data.prepare ({type(error).__name__}: {why})") from None
  return contents


def _check_encoding(path: Path, contents: dict[str, Any]) -> None:
  """Raises an error if numbers of a log cannot become inputs as `dataset.json` states, or if a feature has no vocabulary."""
  numbers, bins = np.array([np.nan, 0.0, 1.0]), bins_of(contents)
  for one in inputs_of(contents):
    if one.transform not in (*TRANSFORMS, "missing"):
      raise ValueError(f"transform {one.transform!r}")
    if not np.isfinite(one.apply(numbers)).all():
      raise ValueError(f"statistics of {one.name}")
  for feature in bins:
    if not 0 <= feature.ids(numbers).max() < feature.cardinality or list(feature.edges) != sorted(feature.edges):
      raise ValueError(f"edges of {feature.name}")
  files = contents["vocabulary"].get("files")
  if files is not None and not all(isinstance(file["content"], str) for file in files):
    raise ValueError("content of a vocabulary")
  if files is not None and len([path / file["file"] for file in files]) != len(contents["columns"]["categorical"]) - len(bins):
    raise ValueError(f"{len(files)} vocabularies")


def open_dataset(path: str | Path, verify: bool = False) -> Dataset:
  """Opens a directory made by `dlrm_jax.data.prepare`.

  Args:
    path: the directory.
    verify: check the digests of all shards now; otherwise only if they have less than 1 GiB together.

  Raises:
    UserError: the directory or `dataset.json` is missing or broken, or a shard is missing or not as stated.
  """
  path = Path(path)
  dataset = _from_contents(path, read_contents(path))
  shards = [shard for split in dataset.shards_of for shard in dataset.shards(split)]
  for shard in shards:
    size = shard.path.stat().st_size if shard.path.is_file() else None
    if size != shard.size:
      raise UserError(f"{shard.path}: " + ("missing" if size is None else f"{size} bytes, but dataset.json states {shard.size}"))
  dataset.unverified.update(shards)
  if verify or sum(shard.size for shard in shards) < VERIFY_BYTES:
    for shard in shards:
      dataset.verify(shard)
  return dataset


def shape_of(contents: dict[str, Any]) -> DataShape:
  """The columns that `dataset.json` states."""
  categorical = contents["columns"]["categorical"]
  return DataShape(
    num_dense=len(contents["columns"]["dense"]),
    field_names=tuple(column["name"] for column in categorical),
    cardinalities=tuple(int(column["cardinality"]) for column in categorical),
    bag_lengths=tuple(int(column.get("bag_length", 1)) for column in categorical),
    weighted=any("bag_length" in column for column in categorical),
    weight_column=contents["columns"]["weight"]["name"] if "weight" in contents["columns"] else None,
    negatives_kept=float(contents.get("keep_negatives", {"share": 1.0})["share"]),
  )


def one_class_splits(contents: dict[str, Any]) -> list[str]:
  """A line for each split in which all labels are the same, from the contents of `dataset.json`."""
  return [
    f"every label of the {entry['rows']:,} rows of split {split} is {entry['base_rate']:.0f}: ROC AUC is undefined there"
    + ("" if split == "train" else "; if the log is sorted by its label, hold out other rows")
    for split, entry in contents["splits"].items()
    if entry["base_rate"] in (0, 1)
  ]


def left_out(contents: dict[str, Any]) -> list[tuple[str, str]]:
  """Facts about what a data set leaves out of good rows, by name: negatives (`--keep_negatives`), rows of weight 0, or all weights."""
  out, columns, splits = [], contents["columns"], contents["splits"]
  if negatives := contents.get("keep_negatives"):
    rows, kept_rate = splits["train"]["rows"], negatives.get("kept_base_rate")
    of_kept = "" if kept_rate is None else f" and {kept_rate:.2%} among those kept"
    kept = f"{negatives['share']:.2%} of the negatives are kept: {rows:,} of {negatives['train_rows']:,} training rows"
    out.append(("negatives left out", f"{kept}; base rate {negatives['base_rate']:.2%} among all of these{of_kept}"))
  if weightless := columns.get("weight", {}).get("rows_of_weight_0"):
    good = weightless + sum(entry["rows"] for entry in splits.values())
    if negatives:
      good += negatives["train_rows"] - splits["train"]["rows"]
    out.append(("rows of weight 0", f"{weightless:,} of {good:,} rows are left out ({columns['weight']['name']} is 0)"))
  if "weight" not in columns and (column := contents["schema"].get("weight")) is not None:
    out.append(("no weights", f"no file has the column '{column}' of weights: all rows count alike, with weight 1"))
  return out


def _from_contents(path: Path, contents: dict[str, Any]) -> Dataset:
  columns, splits = contents["columns"], contents["splits"]
  shards = {
    split: tuple(Shard(path / s["file"], int(s["rows"]), int(s["bytes"]), str(s["xxh3_128"])) for s in entry["shards"])
    for split, entry in splits.items()
  }
  for split in splits:
    if sum(shard.rows for shard in shards[split]) != splits[split]["rows"]:
      raise ValueError(f"the shards of {split} do not add up to its rows")
  return Dataset(
    path=path,
    name=contents["name"],
    digest=contents["digest"],
    dense=tuple(column["name"] for column in columns["dense"]),
    shape=shape_of(contents),
    rows_of={split: int(entry["rows"]) for split, entry in splits.items()},
    base_rates={split: float(entry["base_rate"]) for split, entry in splits.items()},
    shards_of=shards,
    vocabulary=str(contents["vocabulary"]["mode"]),
    warnings=tuple(dense_warnings(contents)),
    rows_per_group=int(contents["rows_per_group"]),
    encoding=encoding_of(contents),
  )
