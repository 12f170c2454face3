"""The embedding tables of the peers: fbgemm's and torchrec's fused tables, and PyTorch's own. Runs where torch is installed.

Each class looks up [B, F, D] with ids that `prepare` arranged before timing. It updates its tables in or after the backward pass.
"""

from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.peers.worker import Spec

EPS = 1e-8  # outside the root, as dlrm_jax.embedding.update


class PeerTables(Protocol):
  """The methods that a trainer calls on its tables."""

  def weights(self) -> list[Tensor]:
    """The rows of each table, [V, D]; writing to them sets the weights."""

  def prepare(self, ids_bf: Int[Tensor, "B F"]) -> Any:
    """The ids in the form that `lookup` takes; not timed."""

  def lookup(self, prepared: Any) -> Float[Tensor, "B F D"]:
    """The rows of a batch; their gradient reaches the tables."""

  def step(self) -> None:
    """Updates the tables after the backward pass. Does nothing for tables that the backward pass has updated."""
    return


class FbgemmTables(PeerTables):
  """fbgemm's table-batched embeddings: row-wise Adagrad inside the backward pass."""

  def __init__(self, spec: Spec, num_features: int, device: str = "cpu"):
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

    self.dim, self.features, self.device = spec.embed_dim, num_features, device
    on_host = (EmbeddingLocation.HOST, ComputeDevice.CPU)
    where = on_host if device == "cpu" else (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    self.tables = SplitTableBatchedEmbeddingBagsCodegen(
      [(spec.num_rows, spec.embed_dim, *where)] * num_features,
      optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
      learning_rate=spec.table_lr,
      eps=EPS,
      stochastic_rounding=False,
      bounds_check_mode=BoundsCheckMode.NONE,
      device=None if device == "cpu" else torch.device(device),
    )

  def weights(self) -> list[Tensor]:
    return self.tables.split_embedding_weights()

  def prepare(self, ids_bf: Int[Tensor, "B F"]) -> tuple[Tensor, Tensor]:
    """Returns ids by feature, and offsets of the bags."""
    ids = ids_bf.T.contiguous().flatten()
    return ids, torch.arange(len(ids) + 1, device=self.device)

  def lookup(self, prepared: tuple[Tensor, Tensor]) -> Float[Tensor, "B F D"]:
    return self.tables(*prepared).view(-1, self.features, self.dim)


class TorchrecTables(PeerTables):
  """torchrec's fused embedding bags: fbgemm's tables behind keyed jagged tensors."""

  def __init__(self, spec: Spec, num_features: int):
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
    from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

    self.dim, self.features = spec.embed_dim, num_features
    self.keys = [f"f{number}" for number in range(num_features)]
    self.tables = FusedEmbeddingBagCollection(
      tables=[
        EmbeddingBagConfig(name=f"t{key}", embedding_dim=spec.embed_dim, num_embeddings=spec.num_rows, feature_names=[key])
        for key in self.keys
      ],
      optimizer_type=RowWiseAdagrad,
      optimizer_kwargs={"lr": spec.table_lr, "eps": EPS},
      location=EmbeddingLocation.HOST,
    )

  def weights(self) -> list[Tensor]:
    return [self.tables.state_dict()[f"embedding_bags.t{key}.weight"] for key in self.keys]

  def prepare(self, ids_bf: Int[Tensor, "B F"]) -> Any:
    """The keyed jagged tensor, with lengths and offsets made."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    ids = ids_bf.T.contiguous().flatten()
    return KeyedJaggedTensor(self.keys, ids, lengths=torch.ones_like(ids), offsets=torch.arange(len(ids) + 1)).sync()

  def lookup(self, prepared: Any) -> Float[Tensor, "B F D"]:
    return self.tables(prepared).values().view(-1, self.features, self.dim)


class BagTables(PeerTables):
  """nn.EmbeddingBag with sparse gradients and an optimiser of torch.optim."""

  def __init__(self, spec: Spec, num_features: int, device: str = "cpu"):
    # One table holds all rows, so there is one gradient to sum. Tables for each feature took 1% longer with SGD and 13% longer with Adagrad
    # (emb, 100k rows).
    self.dim, self.features, self.rows, self.device = spec.embed_dim, num_features, spec.num_rows, device
    weight = torch.empty(num_features * spec.num_rows, spec.embed_dim, device=device)
    self.table = nn.EmbeddingBag(*weight.shape, mode="sum", sparse=True, _weight=weight)
    params = self.table.parameters()
    if spec.table_optimizer == "sgd":
      self.optimizer: torch.optim.Optimizer = torch.optim.SGD(params, lr=spec.table_lr)
    else:
      self.optimizer = torch.optim.Adagrad(params, lr=spec.table_lr, eps=EPS)

  def weights(self) -> list[Tensor]:
    return list(self.table.weight.data.view(self.features, self.rows, self.dim))

  def prepare(self, ids_bf: Int[Tensor, "B F"]) -> tuple[Tensor, Tensor]:
    """Returns rows of the one table, and offsets of the bags."""
    ids = (ids_bf + self.rows * torch.arange(self.features, device=self.device)).flatten()
    return ids, torch.arange(len(ids), device=self.device)

  def lookup(self, prepared: tuple[Tensor, Tensor]) -> Float[Tensor, "B F D"]:
    return self.table(*prepared).view(-1, self.features, self.dim)

  def step(self) -> None:
    self.optimizer.step()
    self.optimizer.zero_grad()
