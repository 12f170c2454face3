"""Embedding tables with a row-wise Adagrad in Triton, the fastest that PyTorch alone offers on a GPU: sort, then one program a row.

Where fbgemm does not load, this is the peer that we compare with.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.peers.torch_tables import EPS, PeerTables
from benchmarks.peers.worker import Spec

_AT_ONCE = 16  # gradients that a program sums at a time


@triton.jit
def _step(rows, squares, key, place, grad, lr, eps, n, D: tl.constexpr, PADDED: tl.constexpr, AT_ONCE: tl.constexpr):  # type: ignore[no-untyped-def]
  """Program p takes the run of equal keys that begins at p, if one does. It sums their gradients and steps the row."""
  p = tl.program_id(0)
  mine = tl.load(key + p)
  first = (p == 0) | (tl.load(key + tl.maximum(p - 1, 0)) != mine)
  if first:
    d = tl.arange(0, PADDED)
    total = tl.zeros((PADDED,), tl.float32)
    at = p
    more = True
    while more:
      r = at + tl.arange(0, AT_ONCE)
      same = (r < n) & (tl.load(key + tl.minimum(r, n - 1)) == mine)
      where = tl.load(place + tl.minimum(r, n - 1))
      total += tl.sum(
        tl.load(grad + where[:, None].to(tl.int64) * D + d[None, :], mask=same[:, None] & (d[None, :] < D), other=0.0), axis=0
      )
      at += AT_ONCE
      more = tl.sum(same.to(tl.int32)) == AT_ONCE
    square = tl.load(squares + mine) + tl.sum(total * total) / D
    tl.store(squares + mine, square)
    row = rows + mine.to(tl.int64) * D + d
    tl.store(row, tl.load(row, mask=d < D) - lr * total / (tl.sqrt(square) + eps), mask=d < D)


class TritonTables(PeerTables):
  """One table of all rows."""

  def __init__(self, spec: Spec, num_features: int, device: str):
    self.dim, self.features, self.lr, self.rows_each = spec.embed_dim, num_features, spec.table_lr, spec.num_rows
    self.rows = torch.empty(num_features * spec.num_rows, spec.embed_dim, device=device)
    self.squares = torch.zeros(len(self.rows), device=device)
    self.offsets = spec.num_rows * torch.arange(num_features, device=device)

  def weights(self) -> list[Tensor]:
    return list(self.rows.view(self.features, self.rows_each, self.dim))

  def prepare(self, ids_bf: Int[Tensor, "B F"]) -> Any:
    return (ids_bf + self.offsets).flatten().int()

  def lookup(self, prepared: Any) -> Float[Tensor, "B F D"]:
    self.row_n = prepared
    self.out = self.rows[prepared].view(-1, self.features, self.dim).requires_grad_()
    return self.out

  def step(self) -> None:
    key, place = torch.sort(self.row_n)
    count, padded = len(key), triton.next_power_of_2(self.dim)
    warps = 1 if self.dim <= 32 else 2
    args = (self.rows, self.squares, key, place.int(), self.out.grad, self.lr, EPS, count)
    _step[(count,)](*args, D=self.dim, PADDED=padded, AT_ONCE=_AT_ONCE, num_warps=warps)
