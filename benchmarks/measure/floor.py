"""Times the matrix products of a training step alone: a lower bound of the step's time. Used by benchmarks/step.py and benchmarks/peers.

A layer of an MLP has three products: forward, gradient of the weights and gradient of the inputs. The first layer of the bottom MLP lacks
the last. The dot interaction has two products: the Gram matrix and its gradient. A cross layer has six. flops.py counts the same products.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure.timing import time_steps
from dlrm_jax.config import RunConfig
from dlrm_jax.machine import cpu_kernels
from dlrm_jax.machine.hardware import compiler_options
from dlrm_jax.model.dlrm import interaction_width, overarch_width_in
from dlrm_jax.shape import DataShape


@dataclasses.dataclass(frozen=True)
class Product:
  """One matrix product, or a batch of them: `equation` (einsum) of operands of shapes `left` and `right`."""

  name: str
  equation: str
  left: tuple[int, ...]
  right: tuple[int, ...]
  flops: int


def _linear(name: str, batch: int, fan_in: int, fan_out: int, to_inputs: bool = True) -> list[Product]:
  flops = 2 * batch * fan_in * fan_out
  x, weight, grad = (batch, fan_in), (fan_in, fan_out), (batch, fan_out)
  out = [Product(f"{name} forward", "bi,io->bo", x, weight, flops), Product(f"{name} to weights", "bi,bo->io", x, grad, flops)]
  return [*out, Product(f"{name} to inputs", "bo,io->bi", grad, weight, flops)] if to_inputs else out


def products(config: RunConfig, shape: DataShape) -> list[Product]:
  """Every matrix product of a training step on one device."""
  model, batch = config.model, config.train.batch_size
  vectors, dim = len(shape.field_names) + (shape.num_dense > 0), model.embed_dim
  out: list[Product] = []

  def mlp(name: str, num_inputs: int, widths: tuple[int, ...], to_inputs: bool) -> None:
    sizes = (num_inputs, *widths)
    for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
      out.extend(_linear(f"{name} {fan_in}x{fan_out}", batch, fan_in, fan_out, to_inputs or i > 0))

  mlp("bottom", shape.num_dense, model.bottom_widths(shape.num_dense), to_inputs=False)
  if "dots" in model.overarch_inputs and model.interaction == "dot":
    z, gram, flops = (batch, vectors, dim), (batch, vectors, vectors), 2 * batch * vectors**2 * dim
    out += [Product("dots forward", "bfd,bgd->bfg", z, z, flops), Product("dots backward", "bfg,bgd->bfd", gram, z, flops)]
  elif "dots" in model.overarch_inputs:
    width = interaction_width(model, vectors)
    for _ in range(model.cross_layers):
      out += _linear("cross down", batch, width, model.cross_rank) + _linear("cross up", batch, model.cross_rank, width)
  mlp("overarch", overarch_width_in(model, shape.num_dense, len(shape.field_names)), model.overarch, to_inputs=True)
  return out


class Floor:
  """The compiled products of a run, with operands on the device.

  Each product is compiled with the options of the step and with XLA's defaults. On a CPU the dots are also computed by the kernels. The
  fastest version counts.
  """

  def __init__(self, config: RunConfig, shape: DataShape):
    rng, dtype, options = np.random.default_rng(0), jnp.dtype(config.model.compute_dtype), compiler_options(jax.default_backend())
    self.products, self.programs = products(config, shape), []
    for product in self.products:
      operands = [jnp.asarray(rng.normal(size=size), dtype) for size in (product.left, product.right)]
      with jax.default_matmul_precision(config.model.matmul_precision):
        lowered = jax.jit(lambda x, y, equation=product.equation: jnp.einsum(equation, x, y)).lower(*operands)
      programs = [(lowered.compile(chosen), operands) for chosen in ([options, {}] if options else [{}])]
      self.programs.append(programs + _kernels(config, product))
    self.nothing = jax.jit(lambda x, y: jnp.zeros(())).lower(jnp.zeros(1), jnp.zeros(1)).compile()

  def rows(self, repeats: int) -> list[dict[str, Any]]:
    """Each product's `name`, `flops`, `ms` and `cpu_ms`.

    Times are medians of `repeats` calls after a warm-up, minus the median of a call that does nothing.
    """
    idle, idle_cpu = _medians_ms(self.nothing, [jnp.zeros(1), jnp.zeros(1)], 10 * repeats)
    out = []
    for product, programs in zip(self.products, self.programs, strict=True):
      wall, cpu = min(_medians_ms(program, operands, repeats) for program, operands in programs)
      out.append({"name": product.name, "flops": product.flops, "ms": max(wall - idle, 0.0), "cpu_ms": max(cpu - idle_cpu, 0.0)})
    return out

  def sums(self, repeats: int) -> dict[str, float]:
    """`floor_ms` and `floor_cpu_ms`: the sums over all products."""
    timed = self.rows(repeats)
    return {"floor_ms": math.fsum(row["ms"] for row in timed), "floor_cpu_ms": math.fsum(row["cpu_ms"] for row in timed)}


def _kernels(config: RunConfig, product: Product) -> list[tuple[Callable[..., Any], list[Any]]]:
  """The CPU kernel of a dots product, with its operands, if there is one. It computes half of the Gram matrix."""
  float32 = config.model.compute_dtype == "float32"
  if not product.name.startswith("dots") or jax.default_backend() != "cpu" or not float32 or not cpu_kernels.ready(config.kernels):
    return []
  batch, num, dim = product.right
  none, z_bfd, dots_bp = jnp.zeros((batch, 0)), jnp.ones((batch, num, dim)), jnp.ones((batch, num * (num - 1) // 2))
  if product.name == "dots forward":
    return [(jax.jit(lambda x, none: cpu_kernels.interact(none, x, False)), [z_bfd, none])]
  back = jax.jit(lambda grad, x: jax.vjp(lambda x: cpu_kernels.interact(jnp.zeros((batch, 0)), x, False), x)[1](grad))
  return [(back, [dots_bp, z_bfd])]


def _medians_ms(program: Callable[..., Any], operands: Sequence[Any], repeats: int) -> tuple[float, float]:
  """Median wall time and CPU time of a call."""
  timing = time_steps(lambda _, operands: program(*operands), None, [operands], 2, repeats)
  return timing.percentile_ms(50), timing.cpu_percentile_ms(50)
