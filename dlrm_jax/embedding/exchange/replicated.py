"""The replicated placement: every device holds all rows. Lookups are local, and gradients go to all devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax.embedding.exchange.common import Arrays, Axes, TakeStep, all_gather, flat, psum, take
from dlrm_jax.embedding.placement import Group
from dlrm_jax.embedding.pool import Lookups, pool, unpool


def fetch(group: Group, arrays: Arrays, lookups: Lookups, axes: Axes) -> tuple[Arrays, Lookups]:
  """Gathers and pools on the device. The route is the lookups, with rows numbered in the stack."""
  del axes
  row_bl = lookups.row_bl + group.offsets[group.segments]
  dims = group.layout.dims
  out = {name: pool(take(group, array, row_bl, dims[name]), lookups.weight_bl, group.lengths) for name, array in arrays.items()}
  return out, Lookups(row_bl, lookups.valid_bl, lookups.weight_bl)


def deliver(group: Group, route: Lookups, grads: Arrays, take_step: TakeStep, state: Any, axes: Axes) -> Any:
  """Every device takes the same step, from the pooled gradients of all devices. Small tables sum their whole gradients instead."""
  if group.dense_gradient and axes:
    row_n, valid_n, weight_bl = route.row_bl.reshape(-1), route.valid_bl.reshape(-1), route.weight_bl
    rows_v = jnp.arange(group.local_rows, dtype=jnp.int32)
    target_n = jnp.where(valid_n, row_n, group.local_rows)
    totals = {}
    for name, grad_bfd in grads.items():
      grad_nd = flat(unpool(grad_bfd, weight_bl, group.segments))
      own_vd = jnp.zeros((group.local_rows, grad_nd.shape[1])).at[target_n].add(grad_nd, mode="drop")
      totals[name] = psum(own_vd, axes, "values")
    touched_v = psum(jnp.zeros(group.local_rows).at[target_n].add(1.0, mode="drop"), axes, "counts") > 0
    return take_step(state, rows_v, touched_v, totals)
  everyones = jax.tree.map(lambda x: all_gather(x, axes, "ids"), route)
  every = {name: flat(unpool(all_gather(grad, axes, "values"), everyones.weight_bl, group.segments)) for name, grad in grads.items()}
  bounds = (0, *np.cumsum(group.lengths).tolist())
  return take_step(state, everyones.row_bl.reshape(-1), everyones.valid_bl.reshape(-1), every, bounds)
