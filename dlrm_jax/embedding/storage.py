"""Stores rows in arrays: `take` reads rows, `add` and `replace` change them.

Arrays are [V, D], or [V] for one value a row. On a TPU an array of D < 128 is stored as [V*D/128, 128], with k = 128/D rows in a line.
There a [V, 64] array would be copied whole in every step, since the compiler transposes its layout and pads it (at 13M rows: 6.6 GB of
temporaries against 0). Whole lines are gathered and added to, which the TPU does natively. Windows inside a line became a loop.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from dlrm_jax.common.arrays import ArrayLike


def rows_per_line(dim: int, lanes: int) -> int:
  """Returns how many rows a line holds: 1 where `lanes` is 0 (no packing) or not a multiple of `dim`."""
  return lanes // dim if lanes and lanes % dim == 0 else 1


def shape(num_rows: int, dim: int, lanes: int) -> tuple[int, int]:
  """Returns the shape of the array that stores `num_rows` rows. With lanes, `num_rows` is a multiple of them."""
  k = rows_per_line(dim, lanes)
  return num_rows // k, k * dim


def take(array: Float[ArrayLike, "V ..."], row_n: Int32[ArrayLike, "*n"], dim: int) -> Float[Array, "..."]:
  """Returns the rows `row_n` (in bounds), [*n, dim], or [*n] from an array with one value a row."""
  if array.ndim == 1 or (k := array.shape[1] // dim) == 1:
    return array.at[row_n].get(mode="promise_in_bounds")
  line_nkd = array.at[row_n // k].get(mode="promise_in_bounds").reshape(*row_n.shape, k, dim)
  here_nk = jnp.arange(k) == (row_n % k)[..., None]
  return jnp.where(here_nk[..., None], line_nkd, 0).sum(axis=-2)


def add(array: Float[ArrayLike, "V ..."], row_n: Int32[ArrayLike, " n"], change_nd: Float[ArrayLike, "n ..."]) -> Float[Array, "V ..."]:
  """Adds to the rows `row_n`, which are all different. Rows out of bounds are ignored. Other rows keep their values."""
  if array.ndim == 1 or (k := array.shape[1] // change_nd.shape[1]) == 1:
    return array.at[row_n].add(change_nd, mode="drop", unique_indices=True)
  here_nk = jnp.arange(k) == (row_n % k)[:, None]
  line_nl = jnp.where(here_nk[..., None], change_nd[:, None], 0).reshape(len(row_n), -1)
  return array.at[row_n // k].add(line_nl, mode="drop")


def replace(
  array: Float[ArrayLike, "V L"], row_n: Int32[ArrayLike, " n"], old_nd: Float[ArrayLike, "n D"], new_nd: Float[ArrayLike, "n D"]
) -> Float[Array, "V L"]:
  """Sets the rows `row_n`, which are all different, to new values. Rows out of bounds are ignored.

  In packed lines it adds the difference. bfloat16 represents that exactly unless a value shrinks to less than half.
  """
  if array.shape[1] == new_nd.shape[1]:
    return array.at[row_n].set(new_nd, mode="drop", unique_indices=True)
  return add(array, row_n, (new_nd.astype(jnp.float32) - old_nd).astype(array.dtype))
