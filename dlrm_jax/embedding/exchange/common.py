"""What the placements share: types, and collectives over all devices with the names they are counted by."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Axes = tuple[str, ...]
Arrays = dict[str, Float[Array, "..."]]  # by stack
TakeStep = Callable[[Any, Array, Array, Arrays], Any]


def all_gather(x: Array, axes: Axes, scope: str) -> Array:
  """The parts of all devices under each other."""
  if not axes:
    return x
  with jax.named_scope(f"exchange_{scope}"):
    return jax.lax.all_gather(x, axes, axis=0, tiled=True)


def all_to_all(x: Array, axes: Axes, scope: str, split_axis: int = 0, concat_axis: int = 0) -> Array:
  """Cuts `split_axis` into a piece for each device and joins the pieces that arrive along `concat_axis`, in order of devices."""
  with jax.named_scope(f"exchange_{scope}"):
    return jax.lax.all_to_all(x, axes, split_axis=split_axis, concat_axis=concat_axis, tiled=True)


def psum(x: Array, axes: Axes, scope: str) -> Array:
  """The sum over all devices."""
  if not axes:
    return x
  with jax.named_scope(f"exchange_{scope}"):
    return jax.lax.psum(x, axes)


def flat(x: Array) -> Array:
  """[B, L, ...] as [B*L, ...]."""
  return jnp.reshape(x, (-1, *x.shape[2:]))
