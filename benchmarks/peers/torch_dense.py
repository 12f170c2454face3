"""The dense part of the DLRM in PyTorch: two MLPs and the dot interaction. Runs in the peers' environment.

Variants were tried on one core: W1 at 100k rows with fbgemm's tables, 60 steps in turn, noise about 2%. Median ratios of processor
time to this version: the interaction without its gradient written out 1.01 and 1.03, Adagrad foreach or plain instead of fused 1.00 to
1.02, int32 ids 1.01. torch.compile had 0.985 and 0.997 after 36 s of compiling in each process, so it is not used.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class _Pairs(torch.autograd.Function):
  """Dot products of every pair of vectors f < g, with the gradient written out as one product (as in dlrm_jax.model.interaction)."""

  @staticmethod
  def forward(ctx: Any, vectors_bfd: Tensor, upper_p: Tensor, pair_ff: Tensor) -> Tensor:
    ctx.save_for_backward(vectors_bfd, pair_ff)
    gram_bff = torch.bmm(vectors_bfd, vectors_bfd.transpose(1, 2).contiguous())
    return gram_bff.flatten(1).index_select(1, upper_p)

  @staticmethod
  def backward(ctx: Any, grad_bp: Tensor) -> tuple[Tensor, None, None]:
    vectors_bfd, pair_ff = ctx.saved_tensors
    padded = nn.functional.pad(grad_bp, (0, 1))  # pairs of the diagonal read the 0
    grad_bff = padded.index_select(1, pair_ff).view(-1, *(vectors_bfd.shape[1],) * 2)
    return torch.bmm(grad_bff, vectors_bfd), None, None


class Interaction(nn.Module):
  """Dot products of every pair of F vectors, [B, F(F-1)/2], in row-major order of the upper triangle."""

  def __init__(self, num: int):
    super().__init__()
    first, second = torch.triu_indices(num, num, offset=1)
    pair_ff = torch.full((num, num), len(first))
    pair_ff[first, second] = pair_ff[second, first] = torch.arange(len(first))
    self.register_buffer("upper_p", first * num + second, persistent=False)
    self.register_buffer("pair_ff", pair_ff.flatten(), persistent=False)

  def forward(self, vectors_bfd: Float[Tensor, "B F D"]) -> Float[Tensor, "B P"]:
    return _Pairs.apply(vectors_bfd, self.upper_p, self.pair_ff)


def mlp(num_inputs: int, widths: tuple[int, ...], final_relu: bool) -> nn.Sequential:
  """Linear layers with ReLU between them, and after the last if `final_relu`."""
  layers: list[nn.Module] = []
  for fan_in, fan_out in zip((num_inputs, *widths), widths):
    layers += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
  return nn.Sequential(*(layers if final_relu else layers[:-1]))


class Dense(nn.Module):
  """Bottom MLP, interaction, overarch, one logit: dlrm_jax.model.dlrm with overarch_inputs=dense,dots."""

  def __init__(self, num_dense: int, num_features: int, bottom: tuple[int, ...], overarch: tuple[int, ...]):
    super().__init__()
    vectors = num_features + 1
    self.bottom = mlp(num_dense, bottom, final_relu=True)
    self.interaction = Interaction(vectors)
    self.overarch = mlp(bottom[-1] + vectors * (vectors - 1) // 2, overarch, final_relu=False)

  def forward(self, dense_bm: Float[Tensor, "B M"], rows_bfd: Float[Tensor, "B F D"]) -> Float[Tensor, " B"]:
    hidden_bd = self.bottom(dense_bm)
    dots_bp = self.interaction(torch.cat([hidden_bd[:, None], rows_bfd.to(hidden_bd.dtype)], dim=1))
    return self.overarch(torch.cat([hidden_bd, dots_bp], dim=1))[:, 0]

  def load(self, weights: dict[str, Tensor]) -> None:
    """Sets the weights to those of our model: `bottom.0.kernel` [inputs, outputs], `bottom.0.bias` and so on."""
    for name, part in (("bottom", self.bottom), ("overarch", self.overarch)):
      for number, layer in enumerate(layer for layer in part if isinstance(layer, nn.Linear)):
        layer.weight.data.copy_(weights[f"{name}.{number}.kernel"].T)
        layer.bias.data.copy_(weights[f"{name}.{number}.bias"])
