"""C++ kernels for lookups, sparse updates, the dot interaction, biases and ReLUs. XLA:CPU calls them in place of its own loops.

The XLA code that runs everywhere defines what they compute, and tests compare them with it: `embedding/storage.py`, `embedding/update.py`,
`model/interaction.py`, `model/mlp.py`. XLA:CPU's gathers and scatters wait for the memory row by row and sum repeated rows in an array of
the batch's size. Its interaction writes a whole Gram matrix to use half of it. The kernels prefetch rows and keep intermediate values in
cache. `build.py` compiles them. `--kernels` selects them, and groups of tables with `kernels` use them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.machine.cpu_kernels.build import ready as ready

OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")  # those that the kernels have
_F32 = jnp.float32


def take(array: Float[ArrayLike, "V ..."], row: Int32[ArrayLike, "*n"]) -> Float[Array, "..."]:
  """Returns rows of an array, [*n, ...]. `row` must be in bounds."""
  shape = jax.ShapeDtypeStruct((*row.shape, *array.shape[1:]), array.dtype)
  return jax.ffi.ffi_call("dlrm_take", shape, vmap_method="sequential")(array, row)


def update(
  rows_vd: Float[ArrayLike, "V D"],
  squares: Float[ArrayLike, "V ..."] | None,
  row_bl: Int32[ArrayLike, "B L"],
  valid_bl: Bool[ArrayLike, "B L"],
  grad_bld: Float[ArrayLike, "B L D"],
  bounds: tuple[int, ...],
  lr: ArrayLike,
  weight_decay: float,
  eps: float,
) -> tuple[Float[Array, "V D"], Float[Array, "V ..."] | None]:
  """Takes one step of sgd (no squares), row-wise Adagrad (squares [V]) or Adagrad (squares [V, D]). Donated arrays are updated in place.

  `bounds` cuts the columns 0 .. L into pieces that have no row in common, and each thread updates one piece. `lr` is one number, or one
  for each piece.
  """
  rows_shape, pieces = jax.ShapeDtypeStruct(rows_vd.shape, _F32), np.array(bounds, np.int64)
  lr, decay = jnp.broadcast_to(jnp.asarray(lr, _F32), len(bounds) - 1), np.float32(weight_decay)
  if squares is None:
    move = jax.ffi.ffi_call("dlrm_sgd", rows_shape, input_output_aliases={0: 0})
    return move(rows_vd, row_bl, valid_bl, grad_bld, lr, bounds=pieces, weight_decay=decay), None
  shapes = rows_shape, jax.ShapeDtypeStruct(squares.shape, _F32)
  step = jax.ffi.ffi_call("dlrm_adagrad", shapes, input_output_aliases={0: 0, 1: 1})
  moved, summed = step(rows_vd, squares, row_bl, valid_bl, grad_bld, lr, bounds=pieces, weight_decay=decay, eps=np.float32(eps))
  return moved, summed


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def interact(dense_bd: Float[Array, "B d"], rows_bfd: Float[Array, "B F D"], lead: bool) -> Float[Array, "B P"]:
  """Returns the dot products of every pair of an example's vectors, in row-major order of the upper triangle. The dense vector is the first
  (none: d = 0). With `lead` it also precedes the products."""
  vectors, width = rows_bfd.shape[1] + (dense_bd.shape[1] > 0), dense_bd.shape[1] if lead else 0
  shape = jax.ShapeDtypeStruct((rows_bfd.shape[0], width + vectors * (vectors - 1) // 2), _F32)
  return jax.ffi.ffi_call("dlrm_interact", shape, vmap_method="sequential")(dense_bd, rows_bfd, lead=lead)


def _forward(dense_bd: Array, rows_bfd: Array, lead: bool) -> tuple[Array, tuple[Array, Array]]:
  return interact(dense_bd, rows_bfd, lead), (dense_bd, rows_bfd)


def _backward(lead: bool, inputs: tuple[Array, Array], grad_bp: Array) -> tuple[Array, Array]:
  shapes = tuple(jax.ShapeDtypeStruct(x.shape, _F32) for x in inputs)
  call = jax.ffi.ffi_call("dlrm_interact_backward", shapes, vmap_method="sequential")
  to_dense, to_rows = call(*inputs, grad_bp, lead=lead)
  return to_dense, to_rows


interact.defvjp(_forward, _backward)


@jax.custom_vjp
def bias_relu(x_bw: Float[Array, "B W"], bias_w: Float[Array, " W"]) -> Float[Array, "B W"]:
  """Returns max(x + bias, 0), in place of x. The gradient depends on the result only, so that x need not be kept."""
  shape = jax.ShapeDtypeStruct(x_bw.shape, _F32)
  return jax.ffi.ffi_call("dlrm_bias_relu", shape, input_output_aliases={0: 0}, vmap_method="sequential")(x_bw, bias_w)


def _bias_relu_backward(y_bw: Array, grad_bw: Array) -> tuple[Array, Array]:
  shapes = jax.ShapeDtypeStruct(y_bw.shape, _F32), jax.ShapeDtypeStruct(y_bw.shape[1:], _F32)
  call = jax.ffi.ffi_call("dlrm_bias_relu_backward", shapes, input_output_aliases={0: 0}, vmap_method="sequential")
  to_x, to_bias = call(grad_bw, y_bw)
  return to_x, to_bias


bias_relu.defvjp(lambda x_bw, bias_w: (bias_relu(x_bw, bias_w),) * 2, _bias_relu_backward)
