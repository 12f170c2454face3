"""The scaling axes: what it means to run a base configuration at a size along one of them. Called by `points.py`."""

import dataclasses
import math
from collections.abc import Callable

from dlrm_jax.common.axis_names import AXES
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, RunConfig
from dlrm_jax.data.source import Source

Size = float | str  # of the placement axis, the name of a placement
_FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)
_LENGTHS = 5  # of the data axis where every length is trained anew, in octaves


def scaled(base: RunConfig, axis: str, size: Size, source: Source) -> RunConfig:
  """`base` at `size` along `axis`; everything else stays.

  Args:
    base: the configuration at the centre of the sweep.
    axis: what is scaled, by `size`:
      data: examples, a whole number;
      rows: rows a table, whole; no table has more than ids, so that all sizes that the largest table does not reach are one;
      dim: embedding dim, whole; the bottom MLP's last width moves with it;
      overarch, mlp: a factor on the hidden widths of the overarch or of the bottom MLP;
      overarch_depth, mlp_depth: hidden layers, whole: the first so many of the base's, then the base's last one again and again;
      tables: categorical features, whole, the first so many;
      all: one factor on rows (of the largest table), dim, and the hidden widths of overarch and bottom MLP, as far as there are any;
      batch_size: examples a step, whole;
      devices: of a mesh of one axis, whole; the batch is divided among them;
      placement: of all tables, by name.
    source: the data of `base`. Raises UserError where it has not what the axis scales, or the size is not possible.
  """
  model = base.model
  if axis == "data":
    return _with(base, "train", num_examples=_whole(axis, size))
  if axis == "rows":
    return _with(base, "model", num_rows=_rows(model, _whole(axis, size), source))
  if axis == "dim":
    return dataclasses.replace(base, model=_with_dim(model, _whole(axis, size)))
  if axis == "all":
    return dataclasses.replace(base, model=_all(model, _factor(axis, size), source))
  if axis == "tables":
    return _with(base, "model", num_tables=_tables(model, _whole(axis, size), source))
  if axis == "batch_size":
    return _with(base, "train", batch_size=_whole(axis, size))
  if axis == "devices":
    return base if _whole(axis, size) == base.mesh.num_devices else _with(base, "mesh", mesh=str(_whole(axis, size)))
  if axis == "placement":
    if base.mesh.num_devices == 1:
      raise UserError("--axes=placement: on one device there is nothing to place; give --mesh of 2 or more")
    return _with(base, "mesh", placement=(str(size),))
  if axis in ("overarch", "overarch_depth"):
    change = _depth(axis, size) if axis == "overarch_depth" else _width(axis, size)
    return _with(base, "model", overarch=change(model.overarch))
  if axis in ("mlp", "mlp_depth"):
    if source.shape.num_dense == 0:
      raise UserError(f"--axes={axis}: the data has no dense inputs, so there is no bottom MLP to scale")
    change = _depth(axis, size) if axis == "mlp_depth" else _width(axis, size)
    return _with_bottom(base, change, source)
  raise UserError(f"--axes={axis}: must be among {', '.join(AXES)}")


def real_size(config: RunConfig, axis: str, size: float, source: Source) -> float:
  """The size that a law is read against: on the rows axis the rows that the largest table has, else `size`."""
  return float(min(config.model.num_rows, most_rows(config.model, source))) if axis == "rows" else size


def most_rows(model: ModelConfig, source: Source) -> int:
  """Rows that the largest table has or could have: as many as ids; `num_rows` where the ids have no end."""
  return max(model.num_rows if c is None else c for c in source.shape.cardinalities)


def default_sizes(base: RunConfig, axis: str, source: Source, retrain: bool = False) -> tuple[Size, ...]:
  """Sizes to run where none are asked for: about five a model axis, in factors of 4 (rows, from the largest that all ids need) or 2.

  Args:
    base, axis, source: as in `scaled`.
    retrain: whether each size of the data axis is trained anew: then octaves, else the whole length, whose curve holds the others.
  """
  model, devices = base.model, base.mesh.num_devices
  if axis == "data":
    return tuple(float(max(1, base.train.num_examples // 2**k)) for k in reversed(range(_LENGTHS if retrain else 1)))
  if axis == "rows":
    most = min(model.num_rows, most_rows(model, source))
    return tuple(sorted({max(2.0, float(most // 4**k)) for k in range(5)}))
  if axis == "dim":
    return tuple(sorted({max(1.0, float(int(model.embed_dim * f))) for f in _FACTORS}))
  if axis in ("overarch_depth", "mlp_depth"):
    widths = model.overarch if axis == "overarch_depth" else model.bottom_widths(source.shape.num_dense)
    return tuple(sorted({1.0, 2.0, 3.0, 4.0} | ({len(widths) - 1.0} if len(widths) > 1 else set())))
  if axis == "tables":
    count, least = len(source.shape.field_names), 1 if source.shape.num_dense else 2  # a vector alone has no pairs
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
  """`config` over another number of examples, with schedule and warm-ups in proportion, so that a horizon stays where the run ends."""
  train = config.train
  share = num_examples / train.num_examples
  names = ("decay_examples", "warmup_examples", "table_warmup_examples")
  changed = {name: max(1, round(getattr(train, name) * share)) for name in names if getattr(train, name)}
  return _with(config, "train", num_examples=num_examples, **changed)


def _with(config: RunConfig, part: str, **changes: object) -> RunConfig:
  return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})


def _with_dim(model: ModelConfig, dim: int) -> ModelConfig:
  bottom = (*model.bottom[:-1], dim) if model.bottom is not None else None
  return dataclasses.replace(model, embed_dim=dim, bottom=bottom)


def _with_bottom(base: RunConfig, change: Callable[[tuple[int, ...]], tuple[int, ...]], source: Source) -> RunConfig:
  """The bottom MLP changed; where nothing changes it stays as it is written, so that the base is one run on every axis."""
  widths = base.model.bottom_widths(source.shape.num_dense)
  return base if change(widths) == widths else _with(base, "model", bottom=change(widths))


def _rows(model: ModelConfig, rows: int, source: Source) -> int:
  """The cap that gives the largest table so many rows: the base's own where that does, too."""
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
  widen = _width("all", factor)
  model = dataclasses.replace(model, num_rows=rows, overarch=widen(model.overarch) if len(model.overarch) > 1 else model.overarch)
  if bottom:
    model = dataclasses.replace(model, bottom=widen(bottom) if len(bottom) > 1 else bottom)
  return _with_dim(model, max(1, round(model.embed_dim * factor)))


def _number(axis: str, size: Size, ok: bool, allowed: str) -> float:
  if isinstance(size, str) or not (math.isfinite(size) and ok):
    raise UserError(f"--sizes_{axis}={size if isinstance(size, str) else f'{size:g}'}: must be {allowed}")
  return size


def _whole(axis: str, size: Size) -> int:
  return int(_number(axis, size, not isinstance(size, str) and size >= 1 and size % 1 == 0, "whole numbers from 1 on"))


def _factor(axis: str, size: Size) -> float:
  return _number(axis, size, not isinstance(size, str) and size > 0, "above 0")


def _width(axis: str, size: Size) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
  factor = _factor(axis, size)

  def widen(widths: tuple[int, ...]) -> tuple[int, ...]:
    _check_hidden(axis, widths)
    return (*(max(1, round(w * factor)) for w in widths[:-1]), widths[-1])

  return widen


def _depth(axis: str, size: Size) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
  depth = _whole(axis, size)

  def deepen(widths: tuple[int, ...]) -> tuple[int, ...]:
    _check_hidden(axis, widths)
    hidden = widths[:-1]
    return (*hidden[:depth], *hidden[-1:] * (depth - len(hidden)), widths[-1])

  return deepen


def _check_hidden(axis: str, widths: tuple[int, ...]) -> None:
  if len(widths) == 1:
    raise UserError(f"--axes={axis}: widths {widths} have no hidden layer to scale")
