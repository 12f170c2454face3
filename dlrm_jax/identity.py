"""Which runs are the same: `config_id` names a run by what changes its numbers, `together_key` those that one program can train at once."""

import dataclasses
import hashlib
import json
from collections.abc import Hashable
from typing import Any

from dlrm_jax.affects import IDENTITY, LENGTH, SEED, TOGETHER, Affects, fields_of
from dlrm_jax.config import RunConfig, TrainConfig

# Part of `config_id`. Increment it when a default of `config.py` changes, or when the same config gives other numbers. One for prepared
# data, one for planted data.
SCHEMA_VERSION, PLANTED_VERSION = 1, 2


def non_default(config: Any) -> dict[str, Any]:
  """The fields that `config_id` hashes: of a dataclass those that differ from their defaults, so that a new field orphans no old run."""
  default, values = type(config)(), {name: getattr(config, name) for name in fields_of(type(config), IDENTITY)}
  return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != getattr(default, k)}


def alike(train: TrainConfig, *affected: Affects) -> TrainConfig:
  """Equal for settings that differ only in fields that affect one of these: such fields are at their defaults."""
  default = TrainConfig()
  return dataclasses.replace(train, **{name: getattr(default, name) for name in fields_of(TrainConfig, affected)})


def together_key(config: RunConfig) -> Hashable | None:
  """Equal for runs that one program can train at once; None for a run that is always trained alone.

  The latter are runs on several devices or processes, under pmap, of the per-id estimator, and with --restore.
  """
  alone = config.mesh.num_devices > 1 or config.num_processes > 1 or config.mesh.parallelism != "jit"
  if alone or config.train.learner != "dlrm" or config.restore is not None:
    return None
  return dataclasses.replace(config, workdir="", train=alike(config.train, *TOGETHER))


def base_id(config: RunConfig, data_digest: str = "") -> str:
  """`config_id` at seed 0 and for one example: names what runs of different seeds and lengths have in common."""
  fixed: dict[str, Any] = dict.fromkeys(fields_of(TrainConfig, [SEED]), 0) | dict.fromkeys(fields_of(TrainConfig, [LENGTH]), 1)
  return config_id(dataclasses.replace(config, train=dataclasses.replace(config.train, **fixed)), data_digest)


def config_id(config: RunConfig, data_digest: str = "") -> str:
  """16 hex digits naming a run by what changes its numbers: model, data, training, seed, mesh; never where it is written.

  How many processes read a prepared data set counts, since its order depends on it (data/order.py).

  Args:
    config: the run.
    data_digest: digest of a prepared data set; ignored for planted data, whose config is hashed instead.
  """
  planted = config.data == "planted"
  content = {
    "schema_version": PLANTED_VERSION if planted else SCHEMA_VERSION,
    "model": non_default(config.model),
    "train": non_default(config.train),
    "data": non_default(config.planted) if planted else data_digest,
    "kind": "planted" if planted else "dataset",
  }
  if config.mesh.num_devices > 1:  # on one device there is nothing to place
    content["mesh"] = non_default(config.mesh)
  if not planted and config.num_processes > 1:
    content["num_processes"] = config.num_processes
  text = json.dumps(content, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]
