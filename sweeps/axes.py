"""The scaling axes: how a base configuration changes when it is run at a size along one of them. Called by `points.py`."""

import dataclasses
import math
from typing import Any

from dlrm_jax.common.axis_names import AXES
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, RunConfig
from dlrm_jax.data.source import Source

Size = float | str  # a string on the placement axis only: the name of a placement
_FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)
_OCTAVES = 5  # lengths on the data axis where every length is a run of its own


def scaled(base: RunConfig, axis: str, size: Size, source: Source) -> RunConfig:
  """Returns `base` at `size` along `axis`; all other settings stay the same.

  Args:
    base: the configuration at the centre of the sweep.
    axis: what `size` sets. All sizes are whole numbers except the factors and the names of placements.
      data: the number of examples.
      rows: the rows of each table. No table has more rows than ids, so all sizes above the ids of the largest table are one run.
      dim: the embedding dim. The bottom MLP's last width follows it.
      overarch, mlp: a factor on the hidden widths of the overarch or of the bottom MLP.
      overarch_depth, mlp_depth: the number of hidden layers. The base's widths come first, then its last hidden width is repeated.
      tables: the number of categorical features; the first ones are kept.
      all: one factor on the rows of the largest table, the dim, and the hidden widths of overarch and bottom MLP where there are any.
      batch_size: the examples of a step.
      devices: the devices of a mesh of one axis, which share the batch.
      placement: the placement of all tables, by name.
    source: the data of `base`.

  Raises UserError where the data lacks what the axis scales, or where the size is impossible.
  """
  model = base.model
  if axis == "data":
    return with_part(base, "train", num_examples=_whole(axis, size))
  if axis == "rows":
    return with_part(base, "model", num_rows=_rows(model, _whole(axis, size), source))
  if axis == "dim":
    return dataclasses.replace(base, model=_with_dim(model, _whole(axis, size)))
  if axis == "all":
    return dataclasses.replace(base, model=_all(model, _factor(axis, size), source))
  if axis == "tables":
    return with_part(base, "model", num_tables=_tables(model, _whole(axis, size), source))
  if axis == "batch_size":
    return with_part(base, "train", batch_size=_whole(axis, size))
  if axis == "devices":
    return base if _whole(axis, size) == base.mesh.num_devices else with_part(base, "mesh", mesh=str(_whole(axis, size)))
  if axis == "placement":
    if base.mesh.num_devices == 1:
      raise UserError("--axes=placement: on one device there is nothing to place; give --mesh of 2 or more")
    return with_part(base, "mesh", placement=(str(size),))
  if axis in ("overarch", "overarch_depth"):
    return with_part(base, "model", overarch=_resized(axis, size, model.overarch))
  if axis in ("mlp", "mlp_depth"):
    if source.shape.num_dense == 0:
      raise UserError(f"--axes={axis}: the data has no dense inputs, so there is no bottom MLP to scale")
    widths = model.bottom_widths(source.shape.num_dense)
    bottom = _resized(axis, size, widths)
    return base if bottom == widths else with_part(base, "model", bottom=bottom)  # unchanged: the base stays one run on every axis
  raise UserError(f"--axes={axis}: must be among {', '.join(AXES)}")


def real_size(config: RunConfig, axis: str, size: float, source: Source) -> float:
  """The size that a law is fitted to: on the rows axis the rows of the largest table, else `size`."""
  return float(min(config.model.num_rows, most_rows(config.model, source))) if axis == "rows" else size


def most_rows(model: ModelConfig, source: Source) -> int:
  """The most rows that the largest table can use: its number of ids, or `num_rows` where the ids are unlimited."""
  return max(model.num_rows if c is None else c for c in source.shape.cardinalities)


def default_sizes(base: RunConfig, axis: str, source: Source, retrain: bool = False) -> tuple[Size, ...]:
  """Sizes to run where the flags give none: about five on each model axis.

  Rows fall by factors of 4 from the most that the largest table can use. The other model axes change by factors of 2.

  Args:
    base, axis, source: as in `scaled`.
    retrain: whether each size of the data axis is a run of its own. Then the sizes are octaves. Else there is one, the whole length, whose
      curve holds the others.
  """
  model, devices = base.model, base.mesh.num_devices
  if axis == "data":
    return tuple(float(max(1, base.train.num_examples // 2**k)) for k in reversed(range(_OCTAVES if retrain else 1)))
  if axis == "rows":
    most = min(model.num_rows, most_rows(model, source))
    return tuple(sorted({max(2.0, float(most // 4**k)) for k in range(5)}))
  if axis == "dim":
    return tuple(sorted({max(1.0, float(int(model.embed_dim * f))) for f in _FACTORS}))
  if axis in ("overarch_depth", "mlp_depth"):
    widths = model.overarch if axis == "overarch_depth" else model.bottom_widths(source.shape.num_dense)
    return tuple(sorted({1.0, 2.0, 3.0, 4.0} | ({len(widths) - 1.0} if len(widths) > 1 else set())))
  if axis == "tables":
    count, least = len(source.shape.field_names), 1 if source.shape.num_dense else 2  # one vector alone forms no pairs
    return tuple(sorted({float(max(min(least, count), count // 2**k)) for k in range(4)}))
  if axis == "batch_size":
    return tuple(sorted({float(max(1, round(base.train.batch_size * f / devices)) * devices) for f in (0.25, 0.5, 1, 2, 4)}))
  if axis == "devices":
    if devices == 1:
      raise UserError("--axes=devices: give --mesh, the most devices, or --sizes_devices")
    return tuple(sorted({float(devices)} | {2.0**k for k in range(devices.bit_length()) if 2**k <= devices}))
  if axis == "placement":
    return ("replicated", "row", "table", *(("column",) if model.embed_dim % devices == 0 else ()))
  return _FACTORS


def at_length(config: RunConfig, num_examples: int) -> RunConfig:
  """Returns `config` with another number of examples. Schedule and warm-ups scale with it, so a horizon at the end stays at the end."""
  train = config.train
  share = num_examples / train.num_examples
  names = ("decay_examples", "warmup_examples", "table_warmup_examples")
  changed = {name: max(1, round(getattr(train, name) * share)) for name in names if getattr(train, name)}
  return with_part(config, "train", num_examples=num_examples, **changed)


def with_part(config: RunConfig, part: str, **changes: Any) -> RunConfig:
  """Returns `config` with other values of some fields in its part "model", "train", "planted" or "mesh"."""
  return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})


def _with_dim(model: ModelConfig, dim: int) -> ModelConfig:
  bottom = (*model.bottom[:-1], dim) if model.bottom is not None else None
  return dataclasses.replace(model, embed_dim=dim, bottom=bottom)


def _rows(model: ModelConfig, rows: int, source: Source) -> int:
  """The cap that gives the largest table this many rows. The base's own cap is kept where it has the same effect."""
  unlimited = None in source.shape.cardinalities
  rows = rows if unlimited else min(rows, most_rows(model, source))
  return model.num_rows if not unlimited and rows == min(model.num_rows, most_rows(model, source)) else rows


def _tables(model: ModelConfig, count: int, source: Source) -> int:
  if count > len(source.shape.field_names):
    raise UserError(f"--sizes_tables={count}: the data has {len(source.shape.field_names)} categorical features")
  return model.num_tables if count == len(source.shape.field_names) else count


def _all(model: ModelConfig, factor: float, source: Source) -> ModelConfig:
  if factor == 1:
    return model
  rows = _rows(model, max(2, round(min(model.num_rows, most_rows(model, source)) * factor)), source)
  bottom = model.bottom_widths(source.shape.num_dense)
  model = dataclasses.replace(model, num_rows=rows, overarch=_widened(model.overarch, factor))
  if bottom:
    model = dataclasses.replace(model, bottom=_widened(bottom, factor))
  return _with_dim(model, max(1, round(model.embed_dim * factor)))


def _number(axis: str, size: Size, ok: bool, allowed: str) -> float:
  if isinstance(size, str) or not (math.isfinite(size) and ok):
    raise UserError(f"--sizes_{axis}={size if isinstance(size, str) else f'{size:g}'}: must be {allowed}")
  return size


def _whole(axis: str, size: Size) -> int:
  return int(_number(axis, size, not isinstance(size, str) and size >= 1 and size % 1 == 0, "whole numbers from 1 on"))


def _factor(axis: str, size: Size) -> float:
  return _number(axis, size, not isinstance(size, str) and size > 0, "above 0")


def _resized(axis: str, size: Size, widths: tuple[int, ...]) -> tuple[int, ...]:
  """The widths of an MLP at a size of its width axis or of its depth axis. The last width, its output, stays the same."""
  deeper = axis.endswith("_depth")
  number = _whole(axis, size) if deeper else _factor(axis, size)
  if len(widths) == 1:
    raise UserError(f"--axes={axis}: widths {widths} have no hidden layer to scale")
  if not deeper:
    return _widened(widths, number)
  hidden, depth = widths[:-1], int(number)
  return (*hidden[:depth], *hidden[-1:] * (depth - len(hidden)), widths[-1])


def _widened(widths: tuple[int, ...], factor: float) -> tuple[int, ...]:
  return (*(max(1, round(w * factor)) for w in widths[:-1]), widths[-1])
