"""Sparse optimisers: one update of the rows that a batch looked up; every other row keeps its bits.

A row looked up several times in a batch gets the sum of its gradients before the optimiser sees it (Adagrad squares the sum).
Duplicates are found without sorting: every lookup writes its position into the row's place of a scratch array, and the position
found there afterwards is the row's representative; all gradients of the row are added at it.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dlrm_jax.batch import ArrayLike
from dlrm_jax.embedding.tables import Stack, Tables

EPS = 1e-8  # added to the root of the accumulated squares, outside it; accumulators start at 0


def _elect(tables: Tables, row_n: Int32[Array, " n"]) -> tuple[Int32[Array, " n"], Int32[Array, " n"], Int32[Array, " V"]]:
  """(representative position of each lookup, its row where it is one itself and else a place out of bounds, scratch)."""
  position_n = jnp.arange(row_n.shape[0], dtype=jnp.int32)
  scratch = tables.election_v.at[row_n].set(position_n, mode="promise_in_bounds")
  representative_n = scratch.at[row_n].get(mode="promise_in_bounds")
  out_of_bounds = tables.election_v.shape[0] + position_n  # all different, so that scatters may assume unique places
  return representative_n, jnp.where(representative_n == position_n, row_n, out_of_bounds), scratch


def _step(
  stack: Stack, optimizer: str, row_n: Int32[Array, " n"], target_n: Int32[Array, " n"], grad_nd: Float[Array, "n D"], lr: Array | float
) -> Stack:
  """One optimiser step of a stack from summed gradients; `target_n` is out of bounds where a position has nothing to write."""
  if optimizer == "sgd":
    change_nd, slots = grad_nd, {}
  elif optimizer in ("adagrad", "rowwise_adagrad"):
    square = grad_nd**2 if optimizer == "adagrad" else jnp.mean(grad_nd**2, axis=1)
    total = stack.slots["squares"].at[row_n].get(mode="promise_in_bounds") + square
    slots = {"squares": stack.slots["squares"].at[target_n].set(total, mode="drop", unique_indices=True)}
    root = jnp.sqrt(total) + EPS
    change_nd = grad_nd / (root if optimizer == "adagrad" else root[:, None])
  else:
    raise ValueError(f"unknown table optimiser {optimizer}")
  return Stack(stack.rows_vd.at[target_n].add(-lr * change_nd, mode="drop", unique_indices=True), slots)


def update(
  tables: Tables, optimizer: str, row_bf: Int32[ArrayLike, "B F"], grads: dict[str, Float[ArrayLike, "B F _"]], lr: Array | float
) -> Tables:
  """Applies one step of `optimizer` to the rows in `row_bf`.

  sgd: `w -= lr g`. adagrad (Duchi et al. 2011): `h += g^2; w -= lr g / (sqrt(h) + eps)`. rowwise_adagrad: the same with one h a row,
  the mean of squares over the row (FBGEMM's EXACT_ROWWISE_ADAGRAD). g is the sum over a row's lookups; h starts at 0, eps = 1e-8.

  Args:
    tables: state; donate it.
    row_bf: row of the stack of each lookup.
    grads: gradient of the loss with respect to what `lookup` returned.
    lr: learning rate.
  """
  row_n = row_bf.reshape(-1)
  representative_n, target_n, scratch = _elect(tables, row_n)
  stacks = {}
  for name, stack in tables.stacks.items():
    grad_nd = grads[name].reshape(row_n.shape[0], -1)
    summed_nd = jnp.zeros_like(grad_nd).at[representative_n].add(grad_nd, mode="promise_in_bounds")
    stacks[name] = _step(stack, optimizer, row_n, target_n, summed_nd, lr)
  return dataclasses.replace(tables, stacks=stacks, election_v=scratch)
