"""Counts FLOPs, parameters and bytes of a model from its structure. It uses no device.

A multiply-add is 2 FLOPs. The product of a layer has two products of its size in the backward pass (3x forward). Cross layers count the
same (3x). The whole Gram matrix of the dot interaction is counted. It has one product in the backward pass, since its gradient is
symmetric (2x). Lookups, biases, activations and optimisers count 0. They are below 0.5% of the step at widths of hundreds, and up to 13%
in models of the demo's size.
"""

import dataclasses

from dlrm_jax.config import ModelConfig, TrainConfig
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS
from dlrm_jax.model.dlrm import interaction_width, overarch_width_in

FLOAT_BYTES = 4
_DENSE_SLOTS = {"sgd": 0, "adagrad": 1, "adam": 2}  # values an optax optimiser keeps per parameter


def mlp_flops(num_inputs: int, widths: tuple[int, ...]) -> int:
  """Returns the forward FLOPs of an MLP's matrix products per example. Biases and activations are not counted (below 0.5% at width 256)."""
  sizes = (num_inputs, *widths)
  return sum(2 * a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def mlp_params(num_inputs: int, widths: tuple[int, ...]) -> int:
  """Returns the number of weights and biases of an MLP."""
  sizes = (num_inputs, *widths)
  return sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def interaction_cost(model: ModelConfig, vectors: int) -> tuple[int, int]:
  """Returns (training FLOPs per example, parameters) of the interaction of so many vectors."""
  if "dots" not in model.overarch_inputs:
    return 0, 0
  if model.interaction == "dot":
    return 2 * 2 * vectors**2 * model.embed_dim, 0
  width, rank = interaction_width(model, vectors), model.cross_layers * model.cross_rank
  return 3 * 2 * 2 * width * rank, width * (2 * rank + model.cross_layers)


@dataclasses.dataclass(frozen=True)
class Cost:
  """The size of a model and the cost of its training.

  Attributes:
    params: trained parameters by group: embedding, dense, and their total.
    flops_per_example: training FLOPs of one example by group: bottom, interaction, overarch, total.
    bytes: bytes held by embedding and dense parameters and by optimiser slots, and table bytes moved per training example.
  """

  params: dict[str, int]
  flops_per_example: dict[str, int]
  bytes: dict[str, int]


def cost(model: ModelConfig, train: TrainConfig, layout: Layout, num_dense: int) -> Cost:
  """Counts parameters, training FLOPs per example and bytes of one configuration."""
  num_features, bottom = len(layout.tables), model.bottom_widths(num_dense)
  vectors = num_features + (num_dense > 0)
  overarch_in = overarch_width_in(model, num_dense, num_features)
  interaction_flops, interaction_params = interaction_cost(model, vectors)
  flops = {
    "bottom": 3 * mlp_flops(num_dense, bottom) if bottom else 0,
    "interaction": interaction_flops,
    "overarch": 3 * mlp_flops(overarch_in, model.overarch),
  }
  dense = (mlp_params(num_dense, bottom) if bottom else 0) + interaction_params + mlp_params(overarch_in, model.overarch)
  row_values = sum(layout.dims.values())
  row_bytes = FLOAT_BYTES * row_values - (2 * layout.dims["rows"] if layout.dtype == "bfloat16" else 0)
  slot_values = sum(
    dim if per_element else 1 for per_element in OPTIMIZER_SLOTS[train.table_optimizer].values() for dim in layout.dims.values()
  )
  return Cost(
    params={"embedding": layout.num_params, "dense": dense, "total": layout.num_params + dense},
    flops_per_example=flops | {"total": sum(flops.values())},
    bytes={
      "embedding": layout.total_rows * row_bytes,
      "embedding_slots": FLOAT_BYTES * layout.total_rows * (slot_values + 1),  # + the election scratch, int32
      "dense": FLOAT_BYTES * dense,
      "dense_slots": FLOAT_BYTES * dense * _DENSE_SLOTS[train.dense_optimizer],
      # lookups read rows; the update reads and writes rows and slots
      "tables_moved_per_example": layout.num_lookups * (3 * row_bytes + 2 * FLOAT_BYTES * slot_values),
    },
  )
