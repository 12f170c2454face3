"""Looks up and updates all tables of a mesh: `lookup` and `update`. The exchange between devices runs under `jax.shard_map`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dlrm_jax.embedding.exchange import column, replicated, row, table
from dlrm_jax.embedding.exchange.common import Axes, psum
from dlrm_jax.embedding.placement import Group, Plan
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import GroupState, Tables, specs
from dlrm_jax.embedding.update import MeanSquare, Rule, apply, mean_square
from dlrm_jax.machine.mesh import split

EXCHANGES: dict[str, Any] = {"replicated": replicated, "row": row, "table": table, "column": column}

Routes = dict[str, Any]  # by group: what a `lookup` leaves for `update`


def lookup_local(
  plan: Plan, axes: Axes, groups: dict[str, GroupState], lookups: Lookups
) -> tuple[dict[str, Float[Array, "B F _"]], Routes]:
  """Does `lookup` on one device of several, inside shard_map or pmap."""
  found, routes = [], {}
  for name, group in plan.by_name.items():
    mine = lookups if len(plan.groups) == 1 else lookups.at(group.columns)
    arrays = {stack: state.rows_vd for stack, state in groups[name].stacks.items()}
    vectors, routes[name] = EXCHANGES[group.placement].fetch(group, arrays, mine, axes)
    found.append({stack: x.astype(jnp.float32) for stack, x in vectors.items()})  # then gradients are float32 for rows of any dtype
  if len(found) == 1 and plan.order is None:
    return found[0], routes
  side_by_side = {name: jnp.concatenate([vectors[name] for vectors in found], axis=1) for name in plan.layout.dims}
  return side_by_side if plan.order is None else {name: x[:, plan.order] for name, x in side_by_side.items()}, routes


def update_local(
  plan: Plan, axes: Axes, groups: dict[str, GroupState], routes: Routes, grads: dict[str, Float[Array, "B F _"]], rule: Rule
) -> dict[str, GroupState]:
  """Does `update` on one device of several, inside shard_map or pmap."""
  out = {}
  for name, group in plan.by_name.items():
    mine = grads if len(plan.groups) == 1 and plan.order is None else {k: g[:, list(group.features)] for k, g in grads.items()}
    squared = {stack: _mean_square(group, dim, axes) for stack, dim in plan.layout.dims.items()}
    step = functools.partial(apply, rule, squared, kernels=group.kernel_steps(rule.optimizer))
    out[name] = EXCHANGES[group.placement].deliver(group, routes[name], mine, step, groups[name], axes)
  return out


def _mean_square(group: Group, dim: int, axes: Axes) -> MeanSquare:
  """Returns the function that takes the mean of squares over whole rows, of which this device may have a slice."""
  if not (axes and group.is_split(dim)):
    return mean_square
  return lambda grad_nd: psum((grad_nd**2).sum(axis=1), axes, "squares") / dim


def lookup(plan: Plan, mesh: Mesh, tables: Tables, lookups: Lookups) -> tuple[dict[str, Float[Array, "B F _"]], Routes]:
  """Looks up a batch. Returns its pooled vectors, and the routes by which `update` sends their gradients back.

  The vectors are {"rows": [B, F, D], "first_order": [B, F, 1] where kept}, split over the mesh by example.
  """
  if mesh.size == 1:
    return lookup_local(plan, (), tables.groups, lookups)
  local = functools.partial(lookup_local, plan, mesh.axis_names)
  there = split(mesh)
  mapped = jax.shard_map(local, mesh=mesh, in_specs=(specs(plan, mesh), there), out_specs=(there, there), check_vma=False)
  return mapped(tables.groups, lookups)


def update(plan: Plan, mesh: Mesh, tables: Tables, routes: Routes, grads: dict[str, Float[Array, "B F _"]], rule: Rule) -> Tables:
  """Takes one step of the rule on the rows that were looked up. `grads` are with respect to the vectors of `lookup`. Donate the tables."""
  if mesh.size == 1:
    return Tables(update_local(plan, (), tables.groups, routes, grads, rule))
  there, groups = split(mesh), specs(plan, mesh)

  def local(tables: Any, routes: Any, grads: Any, lr: Any, step: Any) -> Any:
    moved = Rule(rule.optimizer, lr, rule.weight_decay, step)
    return update_local(plan, mesh.axis_names, tables, routes, grads, moved)

  everywhere = jax.sharding.PartitionSpec()
  in_specs = (groups, there, there, everywhere, everywhere)
  mapped = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=groups, check_vma=False)
  return Tables(mapped(tables.groups, routes, grads, rule.lr, rule.step))
