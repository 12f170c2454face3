"""What checkpoints and records hold of a run's configuration and data. Called by `trajectory`, `resume` and `sweeps.store`."""

import dataclasses
from typing import Any

import jax

from dlrm_jax.affects import RESUMABLE, Affects, fields_of
from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import PreparedSource, Source


def settings_of(config: RunConfig) -> dict[str, Any]:
  """Model and training settings by name, without those that may differ between a checkpoint and a run that goes on from it."""
  parts = {"model": config.model, "train": config.train}
  fixed = [affected for affected in Affects if affected not in RESUMABLE]
  values = {f"{part}.{name}": getattr(of, name) for part, of in parts.items() for name in fields_of(type(of), fixed)}
  return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def stream_of(config: RunConfig, source: Source) -> dict[str, Any]:
  """What a run must share with another whose checkpoint it goes on from: the data, the model, how it is trained."""
  planted = dataclasses.asdict(config.planted) if isinstance(source, Planted) else None
  processes = jax.process_count() if planted is None else None  # the order of a data set depends on it (data/order.py)
  stream = {"data": source.name, "data_digest": source.digest, "planted": planted, "processes": processes}
  return stream | settings_of(config)


def place_of(source: Source) -> dict[str, Any]:
  """The path of a data set, how its rows became inputs, and its click rate, for programs that use the model; {} for planted data."""
  if not isinstance(source, PreparedSource):
    return {}
  path, encoding = source.dataset.path.absolute(), source.dataset.encoding
  return {"data_path": str(path), "data_encoding": encoding, "base_rate": source.base_rate()}


def earlier_of(source: Source) -> list[list[Any]]:
  """`PreparedSource.earlier` as JSON."""
  return [list(entry) for entry in source.earlier] if isinstance(source, PreparedSource) else []


def weighting_of(source: Source) -> dict[str, Any]:
  """For data whose examples do not count alike: the column that weights all metrics, and the share of negatives that is kept. Else {}."""
  shape = source.shape
  weights = {} if shape.weight_column is None else {"weight_column": shape.weight_column}
  return weights | ({} if shape.negatives_kept == 1 else {"negatives_kept": shape.negatives_kept})


def describe(config: RunConfig, source: Source) -> dict[str, Any]:
  """The config as the record keeps it: without paths but the data set's, and without planted settings on real data."""
  planted = isinstance(source, Planted)
  return {
    "model": dataclasses.asdict(config.model),
    "train": dataclasses.asdict(config.train),
    "planted": dataclasses.asdict(config.planted) if planted else None,
    "mesh": dataclasses.asdict(config.mesh),
    "data": source.name,
    "data_digest": source.digest,
    "data_path": place_of(source).get("data_path"),
    **({"earlier_data": earlier} if (earlier := earlier_of(source)) else {}),
  }
