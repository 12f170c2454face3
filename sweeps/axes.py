"""The scaling axes: what it means to run a base configuration at a size along one of them."""

import dataclasses
import math

from dlrm_jax.config import RunConfig
from dlrm_jax.flags import UserError
from dlrm_jax.record import AXES


def scaled(base: RunConfig, axis: str, size: float, num_dense: int) -> RunConfig:
  """`base` at `size` along `axis`; everything else stays.

  Args:
    base: the configuration at the centre of the sweep.
    axis: data (size = examples), rows (rows a table), dim (embedding dim; the bottom MLP's last width moves with it),
      overarch or mlp (factor on the hidden widths of the overarch or of the bottom MLP).
    size: as above.
    num_dense: dense inputs of the data; `mlp` needs some. Raises UserError if there are none, or if the size is not possible.
  """
  model, train = base.model, base.train
  if axis == "data":
    train = dataclasses.replace(train, num_examples=_whole(axis, size))
  elif axis == "rows":
    model = dataclasses.replace(model, num_rows=_whole(axis, size))
  elif axis == "dim":
    dim = _whole(axis, size)
    bottom = (*model.bottom[:-1], dim) if model.bottom is not None else None
    model = dataclasses.replace(model, embed_dim=dim, bottom=bottom)
  elif axis == "overarch":
    model = dataclasses.replace(model, overarch=_widen(axis, model.overarch, size))
  elif axis == "mlp":
    if num_dense == 0:
      raise UserError("--axes=mlp: the data has no dense inputs, so there is no bottom MLP to scale")
    if size != 1:  # at 1 the base stays as it is written, so that it is one run on every axis
      model = dataclasses.replace(model, bottom=_widen(axis, model.bottom_widths(num_dense), size))
  else:
    raise UserError(f"--axes={axis}: must be among {', '.join(AXES)}")
  return dataclasses.replace(base, model=model, train=train)


def default_sizes(base: RunConfig, axis: str, cardinalities: tuple[int | None, ...]) -> tuple[float, ...]:
  """Sizes to run where none are asked for: five a model axis, in factors of 4 (rows, from the largest that all ids need) or 2."""
  if axis == "data":
    return (base.train.num_examples,)
  if axis == "rows":
    most = min(base.model.num_rows, max(base.model.num_rows if c is None else c for c in cardinalities))
    return tuple(sorted({base.model.num_rows if k == 0 else max(2, most // 4**k) for k in range(5)}))
  if axis == "dim":
    return tuple(sorted({max(1, int(base.model.embed_dim * f)) for f in (0.125, 0.25, 0.5, 1, 2)}))
  return (0.125, 0.25, 0.5, 1.0, 2.0)


def _whole(axis: str, size: float) -> int:
  if not math.isfinite(size) or size != int(size) or size < 1:
    raise UserError(f"--sizes_{axis}={size:g}: must be whole numbers from 1 on")
  return int(size)


def _widen(axis: str, widths: tuple[int, ...], factor: float) -> tuple[int, ...]:
  if not (math.isfinite(factor) and factor > 0):
    raise UserError(f"--sizes_{axis}={factor:g}: must be above 0")
  if len(widths) == 1:
    raise UserError(f"--axes={axis}: widths {widths} have no hidden layer to scale")
  return (*(max(1, round(w * factor)) for w in widths[:-1]), widths[-1])
