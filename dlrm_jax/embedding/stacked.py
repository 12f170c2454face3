"""The engine for several runs at once on one device. It does what `engine.py` does, with one gather and one scatter for all runs.

Every array of a group is the concatenation of the runs' arrays along the first axis. The lookups of an example are concatenated run by run.
Columns of different runs then have no row in common, like those of different tables.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from dlrm_jax.embedding.exchange.common import flat, take
from dlrm_jax.embedding.placement import Group, Plan
from dlrm_jax.embedding.pool import Lookups, pool, unpool
from dlrm_jax.embedding.tables import GroupState, Tables
from dlrm_jax.embedding.update import MeanSquare, Rule, apply, mean_square


def stacked_rows(group: Group, row_sbl: Int32[Array, "S B L"]) -> Int32[Array, "B SL"]:
  """Returns the places, in the stacked arrays of the runs, of rows of the group's tables."""
  first_s = np.arange(len(row_sbl), dtype=np.int32) * group.local_rows
  return side_by_side(row_sbl + group.offsets[group.segments] + first_s[:, None, None])


def side_by_side(x_sbl: Array) -> Array:
  """Reshapes [S, B, L, ...] to [B, S*L, ...]."""
  runs, batch, length, *rest = x_sbl.shape
  return jnp.moveaxis(x_sbl, 0, 1).reshape(batch, runs * length, *rest)


def by_run(x_bl: Array, runs: int) -> Array:
  """Reshapes [B, S*L, ...] to [S, B, L, ...]."""
  return jnp.moveaxis(x_bl.reshape(len(x_bl), runs, x_bl.shape[1] // runs, *x_bl.shape[2:]), 1, 0)


def lookup(plan: Plan, tables: Tables, lookups: Lookups) -> dict[str, Float[Array, "S B F _"]]:
  """Returns the pooled vectors of each run's batch, by stack. `lookups` have a leading axis of runs."""
  found = []
  for name, group in plan.by_name.items():
    mine = lookups.at(group.columns)
    row_bl = stacked_rows(group, mine.row_bl)
    vectors = {}
    for stack, state in tables.groups[name].stacks.items():
      rows_sbld = by_run(take(group, state.rows_vd, row_bl, plan.layout.dims[stack]), len(mine.row_bl))
      pooled = jax.vmap(lambda rows, weight, group=group: pool(rows, weight, group.lengths))(rows_sbld, mine.weight_bl)
      vectors[stack] = pooled.astype(jnp.float32)
    found.append(vectors)
  every = {stack: jnp.concatenate([vectors[stack] for vectors in found], axis=2) for stack in plan.layout.dims}
  return every if plan.order is None else {stack: x[:, :, plan.order] for stack, x in every.items()}


def update(plan: Plan, tables: Tables, lookups: Lookups, grads: dict[str, Float[Array, "S B F _"]], rule: Rule) -> Tables:
  """Takes one step of the rule on the rows that were looked up. Its learning rate is an array [S], one for each run. Donate the tables."""
  out = {}
  for name, group in plan.by_name.items():
    mine = lookups.at(group.columns)
    spread = jax.vmap(lambda grad, weight, group=group: unpool(grad, weight, group.segments))
    every = {stack: flat(side_by_side(spread(grad[:, :, list(group.features)], mine.weight_bl))) for stack, grad in grads.items()}
    row_n, valid_n = stacked_rows(group, mine.row_bl).reshape(-1), side_by_side(mine.valid_bl).reshape(-1)
    out[name] = _apply(group, rule, tables.groups[name], row_n, valid_n, every, rule.lr)
  return Tables(out)


def _apply(
  group: Group, rule: Rule, state: GroupState, row_n: Array, valid_n: Array, grads: dict[str, Array], lr_s: Float[Array, " S"]
) -> GroupState:
  """Takes the step of one group, from flattened lookups [B, S*L]."""
  lengths, kernels = group.lengths * len(lr_s), group.kernel_steps(rule.optimizer)
  bounds = (0, *np.cumsum(lengths).tolist())
  lr = jnp.repeat(lr_s, len(group.lengths))  # for each feature of each run, which are the pieces of the kernels
  if not kernels:
    of_column = np.repeat(np.arange(len(lengths)), lengths)
    lr = jnp.tile(lr[of_column], len(row_n) // bounds[-1])[:, None]
  squared: dict[str, MeanSquare] = dict.fromkeys(grads, mean_square)
  stepped = Rule(rule.optimizer, lr, rule.weight_decay, rule.step)
  return apply(stepped, squared, state, row_n, valid_n, grads, bounds, kernels)
