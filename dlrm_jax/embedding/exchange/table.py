"""The table placement: each table is whole on one device.

Ids go to the owner, and pooled vectors come back. The parts of all devices are padded to the size of the fullest.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from dlrm_jax.embedding.exchange.common import Arrays, Axes, TakeStep, all_to_all, flat, take
from dlrm_jax.embedding.placement import Group
from dlrm_jax.embedding.pool import Lookups, unpool

_NONE = -1


def _owned(group: Group) -> tuple[Int32[np.ndarray, "n F"], Int32[np.ndarray, "n L"], Int32[np.ndarray, "n L"]]:
  """Returns for each device its features, its lookups, and the index of each lookup's feature among them. -1 pads to the fullest."""

  def padded(lists: list[np.ndarray]) -> np.ndarray:
    most = max(len(x) for x in lists)
    return np.stack([np.pad(x, (0, most - len(x)), constant_values=_NONE) for x in lists]).astype(np.int32)

  owners, segments = np.array(group.owners), group.segments
  features = [np.flatnonzero(owners == d) for d in range(group.num_devices)]
  lookups = [np.flatnonzero(np.isin(segments, mine)) for mine in features]
  slots = [np.searchsorted(mine, segments[cols]) for mine, cols in zip(features, lookups, strict=True)]
  return padded(features), padded(lookups), padded(slots)


def _by_owner(x: Array, index_nk: Int32[np.ndarray, "n k"], fill: Any) -> Array:
  """Selects from [B, K, ...] what each owner gets, [n, B, k, ...], and pads with `fill`."""
  picked = jnp.moveaxis(x[:, np.maximum(index_nk, 0)], 1, 0)
  there = (index_nk >= 0)[:, None, :].reshape(len(index_nk), 1, -1, *(1,) * (x.ndim - 2))
  return jnp.where(there, picked, fill)


def fetch(group: Group, arrays: Arrays, lookups: Lookups, axes: Axes) -> tuple[Arrays, Lookups]:
  """Owners pool for the examples of all devices. The route is the lookups of all examples that this device serves."""
  features_nf, lookups_nl, slots_nl = _owned(group)
  row_bl = jnp.where(lookups.valid_bl, lookups.row_bl + group.offsets[group.segments], _NONE)
  row_bl = flat(all_to_all(_by_owner(row_bl, lookups_nl, _NONE), axes, "ids"))
  weight_bl = None
  if lookups.weight_bl is not None:
    weight_bl = flat(all_to_all(_by_owner(lookups.weight_bl, lookups_nl, 0.0), axes, "ids"))
  served = Lookups(jnp.maximum(row_bl, 0), row_bl >= 0, weight_bl)
  slot_l = jnp.asarray(slots_nl)[jax.lax.axis_index(axes)]
  place_f = np.array([np.flatnonzero(features_nf.reshape(-1) == f)[0] for f in range(len(group.features))])
  out = {}
  for name, array in arrays.items():
    rows_bld = take(group, array, served.row_bl, group.layout.dims[name])
    pooled_bfd = _pool(rows_bld, served, slot_l, features_nf.shape[1], bags=max(group.lengths) > 1)
    home_nbfd = all_to_all(pooled_bfd, axes, "values").reshape(group.num_devices, -1, *pooled_bfd.shape[1:])
    out[name] = jnp.moveaxis(home_nbfd, 0, 1).reshape(home_nbfd.shape[1], -1, pooled_bfd.shape[2])[:, place_f]
  return out, served


def _pool(rows_bld: Array, served: Lookups, slot_l: Array, num_features: int, bags: bool) -> Float[Array, "B F D"]:
  """Sums rows into bags. The bags differ between devices, so that slots are data here and not shapes."""
  if served.weight_bl is not None:
    rows_bld = rows_bld.astype(jnp.float32) * served.weight_bl[..., None]
  if not bags:
    return rows_bld
  there = slot_l >= 0
  zeros = jnp.zeros((rows_bld.shape[0], num_features, rows_bld.shape[2]))
  return zeros.at[:, jnp.where(there, slot_l, num_features)].add(rows_bld, mode="drop")


def deliver(group: Group, route: Lookups, grads: Arrays, take_step: TakeStep, state: Any, axes: Axes) -> Any:
  """Owners take the step from the gradients of all devices."""
  features_nf, _, slots_nl = _owned(group)
  slot_l = jnp.maximum(jnp.asarray(slots_nl)[jax.lax.axis_index(axes)], 0)
  every = {}
  for name, grad_bfd in grads.items():
    owned_bfd = flat(all_to_all(_by_owner(grad_bfd, features_nf, 0.0), axes, "values"))
    every[name] = flat(unpool(owned_bfd, route.weight_bl, slot_l))
  return take_step(state, route.row_bl.reshape(-1), route.valid_bl.reshape(-1), every)
