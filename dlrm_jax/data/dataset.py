"""A prepared data set: what its `dataset.json` says, checked against its shards. Opened by sources; read by `pipeline.py`."""

import dataclasses
from pathlib import Path
from typing import Any

from dlrm_jax.batch import DataShape
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.shard_format import FORMAT, digest

SPLITS = ("train", "eval", "test")
VERIFY_BYTES = 1 << 30  # smaller data sets have their digests checked when they are opened, larger ones shard by shard as they are read


@dataclasses.dataclass(frozen=True)
class Shard:
  """One Parquet file and what `dataset.json` says of it."""

  path: Path
  rows: int
  size: int
  digest: str


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set, from `open_dataset`.

  Attributes:
    path: its directory.
    name: its name, for reports.
    digest: stands for the content, wherever it lies.
    dense: names of the M dense columns.
    shape: the columns. Cardinalities count id 0 (unseen or rare). Batches have bag weights if there are bags, which have empty places.
    rows_of: rows of each split there is: train, eval, perhaps test.
    base_rates: share of label 1 of each.
    shards_of: the files of each, in order.
    rows_per_group: rows of every block of a split but its last.
    vocabulary: "frequency" (ids are ranks) or "hash".
    unverified: the shards whose digests are still to be checked, when they are first read (`verify`).
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
  unverified: set[Shard] = dataclasses.field(default_factory=set, compare=False)

  def rows(self, split: str) -> int:
    """The number of rows of a split; 0 where there is none of that name."""
    return self.rows_of.get(split, 0)

  def shards(self, split: str) -> tuple[Shard, ...]:
    """The files of a split, in order."""
    return self.shards_of.get(split, ())

  def verify(self, shard: Shard) -> None:
    """Reads a shard unless it was checked before. Raises UserError where its digest is another than dataset.json says."""
    if shard in self.unverified:
      if digest(shard.path) != shard.digest:
        raise UserError(f"{shard.path}: changed since it was prepared (its xxh3_128 is not the one in dataset.json)")
      self.unverified.discard(shard)  # two threads may both have looked at it: no harm


def open_dataset(path: str | Path, verify: bool = False) -> Dataset:
  """Opens a directory made by `dlrm_jax.data.prepare`.

  Args:
    path: the directory.
    verify: read every shard to check its digest now; otherwise only where all have less than 1 GiB.

  Raises:
    UserError: the directory or `dataset.json` is missing or broken, or a shard is missing or not as stated.
  """
  path = Path(path)
  if not path.is_dir():
    raise UserError(f"{path}: no such directory; a data set is made by python -m dlrm_jax.data.prepare")
  if not (path / "dataset.json").is_file():
    raise UserError(f"{path}: no dataset.json in it; a data set is made by python -m dlrm_jax.data.prepare")
  contents = record.read_json(path / "dataset.json")
  if "splits" in contents and contents.get("format") != FORMAT:
    raise UserError(f"{path}/dataset.json: format {contents.get('format', 1)}, but this version reads {FORMAT}; prepare the log again")
  try:
    if contents["schema_version"] != record.SCHEMA_VERSION:
      raise UserError(f"{path}/dataset.json: schema_version {contents['schema_version']}, but this version reads {record.SCHEMA_VERSION}")
    dataset = _from_contents(path, contents)
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path}/dataset.json: not made by dlrm_jax.data.prepare ({type(error).__name__}: {error})") from None
  shards = [shard for split in dataset.shards_of for shard in dataset.shards(split)]
  for shard in shards:
    size = shard.path.stat().st_size if shard.path.is_file() else None
    if size != shard.size:
      raise UserError(f"{shard.path}: " + ("missing" if size is None else f"{size} bytes, but dataset.json says {shard.size}"))
  dataset.unverified.update(shards)
  if verify or sum(shard.size for shard in shards) < VERIFY_BYTES:
    for shard in shards:
      dataset.verify(shard)
  return dataset


def _from_contents(path: Path, contents: dict[str, Any]) -> Dataset:
  columns, splits = contents["columns"], contents["splits"]
  shards = {
    split: tuple(Shard(path / s["file"], int(s["rows"]), int(s["bytes"]), s["xxh3_128"]) for s in entry["shards"])
    for split, entry in splits.items()
  }
  for split in splits:
    if sum(shard.rows for shard in shards[split]) != splits[split]["rows"]:
      raise ValueError(f"the shards of {split} do not add up to its rows")
  categorical = columns["categorical"]
  return Dataset(
    path=path,
    name=contents["name"],
    digest=contents["digest"],
    dense=tuple(column["name"] for column in columns["dense"]),
    shape=DataShape(
      num_dense=len(columns["dense"]),
      field_names=tuple(column["name"] for column in categorical),
      cardinalities=tuple(int(column["cardinality"]) for column in categorical),
      bag_lengths=tuple(int(column.get("bag_length", 1)) for column in categorical),
      weighted=any("bag_length" in column for column in categorical),
    ),
    rows_of={split: int(entry["rows"]) for split, entry in splits.items()},
    base_rates={split: float(entry["base_rate"]) for split, entry in splits.items()},
    shards_of=shards,
    vocabulary=str(contents["vocabulary"]["mode"]),
    rows_per_group=int(contents["rows_per_group"]),
  )
