"""FLOPs and bytes of a model from its structure, by group. No device is touched.

Convention: a multiply-add is 2 FLOPs. A layer's product has two of its size in the backward pass (3x forward); the whole Gram
matrix of the dot interaction is counted, and has one in the backward pass, since its gradient is symmetric (2x); cross layers are
products like an MLP's (3x). Lookups, biases, activations and optimisers count 0: below 0.5% of the step at widths of hundreds, up to
13% in models of the demo's size.
"""

import dataclasses

from dlrm_jax.config import ModelConfig, TrainConfig
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS
from dlrm_jax.model.dlrm import interaction_width, overarch_width_in

FLOAT_BYTES = 4
_DENSE_SLOTS = {"sgd": 0, "adagrad": 1, "adam": 2}  # values an optax optimiser keeps per parameter


def mlp_flops(num_inputs: int, widths: tuple[int, ...]) -> int:
  """Forward FLOPs of an MLP's matrix products per example; biases and activations are not counted (below 0.5% at widths of 256)."""
  sizes = (num_inputs, *widths)
  return sum(2 * a * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def mlp_params(num_inputs: int, widths: tuple[int, ...]) -> int:
  """Weights and biases of an MLP."""
  sizes = (num_inputs, *widths)
  return sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def interaction_cost(model: ModelConfig, vectors: int) -> tuple[int, int]:
  """(training FLOPs per example, parameters) of the interaction of so many vectors."""
  if "dots" not in model.overarch_inputs:
    return 0, 0
  if model.interaction == "dot":
    return 2 * 2 * vectors**2 * model.embed_dim, 0
  width, rank = interaction_width(model, vectors), model.cross_layers * model.cross_rank
  return 3 * 2 * 2 * width * rank, width * (2 * rank + model.cross_layers)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a model costs.

  Attributes:
    params: numbers trained, by group: embedding, dense, and their total.
    flops_per_example: training FLOPs of one example by group: bottom, interaction, overarch, total.
    bytes: embedding and dense parameters and optimiser slots held, and table bytes moved per training example.
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
      # read at lookup; read and written by the update, slots too
      "tables_moved_per_example": layout.num_lookups * (3 * row_bytes + 2 * FLOAT_BYTES * slot_values),
    },
  )
