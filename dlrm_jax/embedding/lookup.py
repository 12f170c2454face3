"""Gathering rows: the forward side of the engine. Gradients are taken with respect to what `lookup` returns."""

from jaxtyping import Array, Float, Int32

from dlrm_jax.batch import ArrayLike
from dlrm_jax.embedding.tables import Tables


def lookup(tables: Tables, row_bf: Int32[ArrayLike, "B F"]) -> dict[str, Float[Array, "B F _"]]:
  """The rows of every stack: {"rows": [B, F, D], "first_order": [B, F, 1] where kept}."""
  return {name: stack.rows_vd.at[row_bf].get(mode="promise_in_bounds") for name, stack in tables.stacks.items()}
