"""Types that all placements share, and collectives over all devices in named scopes."""

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
  """`update.apply` with its rule filled in."""

  def __call__(self, state: Any, row_n: Array, valid_n: Array, grads: Arrays, bounds: tuple[int, ...] = (0, 1), /) -> Any: ...


def take(group: Group, array: Array, row_n: Int32[ArrayLike, "*n"], dim: int) -> Array:
  """Returns rows of a stack on this device, [*n, dim].

  On TPU float32 rows pass an optimization barrier as integers. Matrix products of default precision read bfloat16. Without the barrier the
  compiler converts the whole table to bfloat16 before each step's lookups (0.8 GB at 3M rows of 128). A barrier of floats does not stop it.
  """
  rows = cpu_kernels.take(array, row_n) if group.kernels else storage.take(array, row_n, dim)
  if not group.lanes or rows.dtype != jnp.float32:
    return rows
  return jax.lax.bitcast_convert_type(jax.lax.optimization_barrier(jax.lax.bitcast_convert_type(rows, jnp.int32)), jnp.float32)


def all_gather(x: Array, axes: Axes, scope: str) -> Array:
  """Concatenates the parts of all devices along the first axis."""
  if not axes:
    return x
  with jax.named_scope(f"exchange_{scope}"):
    return jax.lax.all_gather(x, axes, axis=0, tiled=True)


def all_to_all(x: Array, axes: Axes, scope: str, split_axis: int = 0, concat_axis: int = 0) -> Array:
  """Cuts `split_axis` into one piece for each device. Joins the pieces that arrive along `concat_axis`, in order of devices."""
  with jax.named_scope(f"exchange_{scope}"):
    return jax.lax.all_to_all(x, axes, split_axis=split_axis, concat_axis=concat_axis, tiled=True)


def psum(x: Array, axes: Axes, scope: str) -> Array:
  """Sums over all devices."""
  if not axes:
    return x
  with jax.named_scope(f"exchange_{scope}"):
    return jax.lax.psum(x, axes)


def flat(x: Array) -> Array:
  """Reshapes [B, L, ...] to [B*L, ...]."""
  return jnp.reshape(x, (-1, *x.shape[2:]))
