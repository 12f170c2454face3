"""What the placements share: types, and collectives over all devices with the names they are counted by."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.placement import Group
from dlrm_jax.machine import cpu_kernels

Axes = tuple[str, ...]
Arrays = dict[str, Float[Array, "..."]]  # by stack


@runtime_checkable
class TakeStep(Protocol):
  """`update.apply` of a rule."""

  def __call__(self, state: Any, row_n: Array, valid_n: Array, grads: Arrays, bounds: tuple[int, ...] = (0, 1), /) -> Any: ...


def take(group: Group, array: Array, row_n: Int32[ArrayLike, "*n"], dim: int) -> Array:
  """Rows of a stack on this device, [*n, dim].

  On TPU float32 rows pass a barrier as integers: matrix products of default precision want bfloat16, and without it the compiler turns
  the whole table into bfloat16 before each step's lookups (seen at 3M rows of 128: 0.8 GB; a barrier of floats does not stop it).
  """
  rows = cpu_kernels.take(array, row_n) if group.kernels else storage.take(array, row_n, dim)
  if not group.lanes or rows.dtype != jnp.float32:
    return rows
  return jax.lax.bitcast_convert_type(jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(rows, jnp.int32)), jnp.float32)


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
