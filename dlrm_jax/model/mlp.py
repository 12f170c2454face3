"""Multilayer perceptrons: the bottom MLP and the overarch."""

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dlrm_jax.machine.cpu_kernels import bias_relu


class Mlp(nnx.Module):
  """Linear layers with ReLU between them.

  Weights are Glorot normal, biases normal with deviation sqrt(1/width), as in facebookresearch/dlrm.

  Args:
    num_inputs, widths: number of inputs, and the outputs of each layer.
    final_relu: whether a ReLU follows the last layer too.
    dtype: dtype of the products. Parameters are float32.
    rngs: random numbers of the initial weights.
    kernels: whether the CPU kernels compute biases and ReLUs (float32).
  """

  def __init__(self, num_inputs: int, widths: tuple[int, ...], *, final_relu: bool, dtype: str, rngs: nnx.Rngs, kernels: bool = False):
    sizes = (num_inputs, *widths)
    self.layers = nnx.List(
      nnx.Linear(
        fan_in,
        fan_out,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.float32,
        kernel_init=nnx.initializers.glorot_normal(),
        bias_init=nnx.initializers.normal(fan_out**-0.5),
        rngs=rngs,
      )
      for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True)
    )
    self.final_relu = final_relu
    self.kernels = kernels

  def __call__(self, x: Float[Array, "B inputs"]) -> Float[Array, "B outputs"]:
    for i, layer in enumerate(self.layers):
      if not (self.final_relu or i + 1 < len(self.layers)):
        x = layer(x)
      elif self.kernels:
        x = bias_relu(x @ layer.kernel[...], cast(nnx.Param, layer.bias)[...])
      else:
        x = jax.nn.relu(layer(x))
    return x
