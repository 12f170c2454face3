"""The column placement: every device holds a slice of every row.

Ids go to all devices, and slices of pooled vectors come back. Any ids give equal loads.
"""

from typing import Any

import jax

from dlrm_jax.embedding.exchange.common import Arrays, Axes, TakeStep, all_gather, all_to_all, flat, take
from dlrm_jax.embedding.placement import Group
from dlrm_jax.embedding.pool import Lookups, pool, unpool


def fetch(group: Group, arrays: Arrays, lookups: Lookups, axes: Axes) -> tuple[Arrays, Lookups]:
  """Pools slices for the examples of all devices, then sends each device its own. The route is the lookups of all devices."""
  row_bl = lookups.row_bl + group.offsets[group.segments]
  weight_bl = lookups.weight_bl
  everyones = jax.tree.map(lambda x: all_gather(x, axes, "ids"), Lookups(row_bl, lookups.valid_bl, weight_bl))
  out = {}
  for name, array in arrays.items():
    dim = group.layout.dims[name]
    if group.is_split(dim):
      slices_bfd = pool(take(group, array, everyones.row_bl, group.local_dim(dim)), everyones.weight_bl, group.lengths)
      out[name] = all_to_all(slices_bfd, axes, "values", split_axis=0, concat_axis=2)
    else:  # every device has whole rows
      out[name] = pool(take(group, array, row_bl, dim), weight_bl, group.lengths)
  return out, everyones


def deliver(group: Group, route: Lookups, grads: Arrays, take_step: TakeStep, state: Any, axes: Axes) -> Any:
  """Each device updates its slice of the rows of all examples."""
  every = {}
  for name, grad_bfd in grads.items():
    if group.is_split(grad_bfd.shape[2]):
      every_bfd = all_to_all(grad_bfd, axes, "values", split_axis=2, concat_axis=0)
    else:
      every_bfd = all_gather(grad_bfd, axes, "values")
    every[name] = flat(unpool(every_bfd, route.weight_bl, group.segments))
  return take_step(state, route.row_bl.reshape(-1), route.valid_bl.reshape(-1), every)
