"""A prepared data set: what its `dataset.json` says, checked against its shards. Opened by sources; read by `pipeline.py`."""

import dataclasses
from pathlib import Path
from typing import Any

from dlrm_jax import record
from dlrm_jax.data.shards import sha256
from dlrm_jax.flags import UserError

SPLITS = ("train", "eval")
VERIFY_BYTES = 1 << 30  # smaller data sets have their digests checked whenever they are opened


@dataclasses.dataclass(frozen=True)
class Shard:
  """One Parquet file and what `dataset.json` says of it."""

  path: Path
  rows: int
  size: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared data set, from `open_dataset`.

  Attributes:
    path: its directory.
    name: its name, for reports.
    digest: stands for the content, wherever it lies.
    dense: names of the M dense columns.
    categorical: names of the F categorical features.
    cardinalities: the number of ids of each, id 0 (unseen or rare) included.
    bag_lengths: how many ids a row holds of each.
    weighted: whether there are bags, whose empty places are padding.
    train_rows, eval_rows: rows of the two splits.
    train_base_rate, eval_base_rate: shares of label 1.
    train_shards, eval_shards: the files.
    rows_per_group: rows of every block of a split but its last.
    vocabulary: "frequency" (ids are ranks) or "hash".
  """

  path: Path
  name: str
  digest: str
  dense: tuple[str, ...]
  categorical: tuple[str, ...]
  cardinalities: tuple[int, ...]
  bag_lengths: tuple[int, ...]
  weighted: bool
  train_rows: int
  eval_rows: int
  train_base_rate: float
  eval_base_rate: float
  train_shards: tuple[Shard, ...]
  eval_shards: tuple[Shard, ...]
  rows_per_group: int
  vocabulary: str

  def rows(self, split: str) -> int:
    """The number of rows of "train" or "eval"."""
    return {"train": self.train_rows, "eval": self.eval_rows}[split]

  def shards(self, split: str) -> tuple[Shard, ...]:
    """The files of "train" or "eval", in order."""
    return {"train": self.train_shards, "eval": self.eval_shards}[split]


def open_dataset(path: str | Path, verify: bool = False) -> Dataset:
  """Opens a directory made by `dlrm_jax.data.prepare`.

  Args:
    path: the directory.
    verify: read every shard to check its SHA-256; data sets below 1 GiB are always checked.

  Raises:
    UserError: the directory or `dataset.json` is missing or broken, or a shard is missing or not as stated.
  """
  path = Path(path)
  if not path.is_dir():
    raise UserError(f"{path}: no such directory; a data set is made by python -m dlrm_jax.data.prepare")
  if not (path / "dataset.json").is_file():
    raise UserError(f"{path}: no dataset.json in it; a data set is made by python -m dlrm_jax.data.prepare")
  contents = record.read_json(path / "dataset.json")
  try:
    if contents["schema_version"] != record.SCHEMA_VERSION:
      raise UserError(f"{path}/dataset.json: schema_version {contents['schema_version']}, but this version reads {record.SCHEMA_VERSION}")
    dataset = _from_contents(path, contents)
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path}/dataset.json: not made by dlrm_jax.data.prepare ({type(error).__name__}: {error})") from None
  shards = dataset.train_shards + dataset.eval_shards
  for shard in shards:
    size = shard.path.stat().st_size if shard.path.is_file() else None
    if size != shard.size:
      raise UserError(f"{shard.path}: " + ("missing" if size is None else f"{size} bytes, but dataset.json says {shard.size}"))
  if verify or sum(shard.size for shard in shards) < VERIFY_BYTES:
    for shard in shards:
      if sha256(shard.path) != shard.sha256:
        raise UserError(f"{shard.path}: changed since it was prepared (its SHA-256 is not the one in dataset.json)")
  return dataset


def _from_contents(path: Path, contents: dict[str, Any]) -> Dataset:
  columns, splits = contents["columns"], contents["splits"]
  shards = {
    split: tuple(Shard(path / s["file"], int(s["rows"]), int(s["bytes"]), s["sha256"]) for s in splits[split]["shards"]) for split in SPLITS
  }
  for split in SPLITS:
    if sum(shard.rows for shard in shards[split]) != splits[split]["rows"]:
      raise ValueError(f"the shards of {split} do not add up to its rows")
  return Dataset(
    path=path,
    name=contents["name"],
    digest=contents["digest"],
    dense=tuple(columns["dense"]),
    categorical=tuple(column["name"] for column in columns["categorical"]),
    cardinalities=tuple(int(column["cardinality"]) for column in columns["categorical"]),
    bag_lengths=tuple(int(column.get("bag_length", 1)) for column in columns["categorical"]),
    weighted=any("bag_length" in column for column in columns["categorical"]),
    train_rows=int(splits["train"]["rows"]),
    eval_rows=int(splits["eval"]["rows"]),
    train_base_rate=float(splits["train"]["base_rate"]),
    vocabulary=str(contents["vocabulary"]["mode"]),
    eval_base_rate=float(splits["eval"]["base_rate"]),
    train_shards=shards["train"],
    eval_shards=shards["eval"],
    rows_per_group=int(contents["rows_per_group"]),
  )
