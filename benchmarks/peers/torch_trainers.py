"""A peer's training step as a worker: `python -m benchmarks.peers.torch_trainers`, run in the peers' environment."""

import importlib.metadata
import math
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.peers.torch_dense import Dense
from benchmarks.peers.torch_tables import BagTables, FbgemmTables, PeerTables, TorchrecTables
from benchmarks.peers.worker import Spec, load, serve

# Trainer -> its tables, and the packages whose versions are recorded.
TABLES: dict[str, tuple[Callable[[Spec, int], PeerTables], tuple[str, ...]]] = {
  "fbgemm": (FbgemmTables, ("torch", "fbgemm_gpu_cpu")),
  "torchrec": (TorchrecTables, ("torch", "fbgemm_gpu_cpu", "torchrec")),
  "pytorch_sgd": (BagTables, ("torch",)),
  "pytorch_adagrad": (BagTables, ("torch",)),
}


class TorchTrainer:
  """Trains PyTorch's DLRM with tables of one kind. The batches are arranged before the first step."""

  def __init__(self, spec: Spec):
    torch.set_num_threads(len(spec.cores))
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    arrays = {name: torch.from_numpy(array) for name, array in load(spec.inputs).items()}
    num_dense, num_features = arrays["dense_kbm"].shape[2], arrays["ids_kbf"].shape[2]
    make_tables, packages = TABLES[spec.trainer]
    self.spec, self.tables = spec, make_tables(spec, num_features)
    self.versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    self.dense = Dense(num_dense, num_features, spec.bottom, spec.overarch)
    self.optimizer = torch.optim.Adagrad(self.dense.parameters(), lr=spec.dense_lr, initial_accumulator_value=0.1, eps=1e-7, fused=True)
    if spec.weights:
      weights = {name: torch.from_numpy(array) for name, array in load(spec.weights).items()}
      self.dense.load(weights)
      for table, rows_vd in zip(self.tables.weights(), weights["rows_fvd"], strict=True):
        table.copy_(rows_vd)
    else:
      for table in self.tables.weights():
        table.uniform_(-spec.table_init, spec.table_init)
    self.batches = [
      (dense_bm, self.tables.prepare(ids_bf.long()), label_b)
      for dense_bm, ids_bf, label_b in zip(arrays["dense_kbm"], arrays["ids_kbf"], arrays["label_kb"], strict=True)
    ]
    self.grad_bfd = arrays["grad_bfd"]

  def step(self, number: int) -> float:
    dense_bm, ids, label_b = self.batches[number % len(self.batches)]
    rows_bfd = self.tables.lookup(ids)
    if self.spec.workload == "emb":
      rows_bfd.backward(self.grad_bfd)
      self.tables.step()
      return math.nan
    loss = nn.functional.binary_cross_entropy_with_logits(self.dense(dense_bm, rows_bfd), label_b)
    loss.backward()
    self.tables.step()
    self.optimizer.step()
    self.optimizer.zero_grad()
    return loss.item()


if __name__ == "__main__":
  serve(TorchTrainer)
