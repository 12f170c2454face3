"""The DLRM click model (Naumov et al. 2019, arXiv 1906.00091) without its tables."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig
from dlrm_jax.machine.cpu_kernels import interact as kernel_interact
from dlrm_jax.model.interaction import CrossNetwork, interact
from dlrm_jax.model.mlp import Mlp


def interaction_width(model: ModelConfig, vectors: int) -> int:
  """Returns P, the number of outputs of the interaction of so many vectors."""
  return vectors * (vectors - 1) // 2 if model.interaction == "dot" else vectors * model.embed_dim


def overarch_width_in(model: ModelConfig, num_dense: int, num_features: int) -> int:
  """Returns the width of the overarch's inputs, which `overarch_inputs` selects. Raises UserError if it is 0."""
  inputs, vectors = model.overarch_inputs, num_features + (num_dense > 0)
  width = model.embed_dim if "dense" in inputs and num_dense else 0
  width += interaction_width(model, vectors) if "dots" in inputs else 0
  width += num_features * model.embed_dim if "rows" in inputs else 0
  if width == 0:
    raise UserError(f"--overarch_inputs={','.join(inputs)}: one feature has no pairs, so the overarch has no inputs; add rows")
  return width


class Dlrm(nnx.Module):
  """A bottom MLP over dense inputs, if there are any, then the interaction and the overarch, which gives one logit.

  Args:
    model: the configuration.
    num_dense: M, the number of dense inputs.
    num_features: F, the number of categorical features.
    rngs: random numbers of the initial weights.
    kernels: whether the CPU kernels compute the pairwise dots, biases and ReLUs (float32, one device).
  """

  def __init__(self, model: ModelConfig, num_dense: int, num_features: int, *, rngs: nnx.Rngs, kernels: bool = False):
    self.inputs = model.overarch_inputs
    self.dtype = jnp.dtype(model.compute_dtype)
    self.kernels = kernels
    widths = model.bottom_widths(num_dense)
    self.bottom = Mlp(num_dense, widths, final_relu=True, dtype=model.compute_dtype, rngs=rngs, kernels=self.kernels) if widths else None
    crossed = interaction_width(model, num_features + (num_dense > 0))
    self.cross = (
      CrossNetwork(crossed, model.cross_layers, model.cross_rank, dtype=model.compute_dtype, rngs=rngs)
      if model.interaction == "dcn_v2" and "dots" in self.inputs
      else None
    )
    width = overarch_width_in(model, num_dense, num_features)
    self.overarch = Mlp(width, model.overarch, final_relu=False, dtype=model.compute_dtype, rngs=rngs, kernels=self.kernels)

  def __call__(self, dense_bm: Float[Array, "B M"], embedded: dict[str, Float[Array, "B F _"]]) -> Float[Array, " B"]:
    """Returns the logits, float32.

    Args:
      dense_bm: dense inputs.
      embedded: the vectors of `lookup`: "rows" [B, F, D] and, if the model reads it, "first_order" [B, F, 1].
    """
    rows_bfd = embedded["rows"].astype(self.dtype)
    batch, parts = rows_bfd.shape[0], []  # `len` would refuse the symbolic batch of an exported program
    with jax.named_scope("bottom"):
      hidden_bd = self.bottom(dense_bm) if self.bottom is not None else jnp.zeros((batch, 0), self.dtype)
    lead = "dense" in self.inputs
    with jax.named_scope("interaction"):
      if "dots" in self.inputs and self.cross is None:
        parts.append((kernel_interact if self.kernels else interact)(hidden_bd, rows_bfd, lead))
      else:
        parts += [hidden_bd] if lead else []
        parts += [self.cross(jnp.concatenate([hidden_bd, rows_bfd.reshape(batch, -1)], axis=1))] if self.cross is not None else []
    if "rows" in self.inputs:
      parts.append(rows_bfd.reshape(batch, -1))
    with jax.named_scope("overarch"):
      logit_b = self.overarch(jnp.concatenate(parts, axis=1))[:, 0].astype(jnp.float32)
    return logit_b + embedded["first_order"][..., 0].sum(axis=1) if "first_order" in self.inputs else logit_b
