"""FLOPs and bytes of a model from its structure, by group. No device is touched.

Convention: a multiply-add is 2 FLOPs. A layer's product has two of its size in the backward pass (3x forward); the whole Gram
matrix of the interaction is counted, and has one in the backward pass, since its gradient is symmetric (2x). Lookups, biases,
activations and optimisers count 0: below 0.5% of the step at widths of hundreds, up to 13% in models of the demo's size.
"""

import dataclasses

from dlrm_jax.config import ModelConfig, TrainConfig
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS, Layout
from dlrm_jax.model.dlrm import overarch_width_in

TRAIN_OVER_FORWARD = {"bottom": 3, "interaction": 2, "overarch": 3}
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
  forward = {
    "bottom": mlp_flops(num_dense, bottom) if bottom else 0,
    "interaction": 2 * vectors**2 * model.embed_dim if "dots" in model.overarch_inputs else 0,
    "overarch": mlp_flops(overarch_in, model.overarch),
  }
  flops = {group: TRAIN_OVER_FORWARD[group] * n for group, n in forward.items()}
  dense = (mlp_params(num_dense, bottom) if bottom else 0) + mlp_params(overarch_in, model.overarch)
  row_values = sum(layout.dims.values())
  slot_values = sum(
    dim if per_element else 1 for per_element in OPTIMIZER_SLOTS[train.table_optimizer].values() for dim in layout.dims.values()
  )
  return Cost(
    params={"embedding": layout.num_params, "dense": dense, "total": layout.num_params + dense},
    flops_per_example=flops | {"total": sum(flops.values())},
    bytes={
      "embedding": FLOAT_BYTES * layout.num_params,
      "embedding_slots": FLOAT_BYTES * layout.total_rows * (slot_values + 1),  # + the election scratch, int32
      "dense": FLOAT_BYTES * dense,
      "dense_slots": FLOAT_BYTES * dense * _DENSE_SLOTS[train.dense_optimizer],
      # read at lookup; read and written by the update, slots too
      "tables_moved_per_example": FLOAT_BYTES * num_features * (3 * row_values + 2 * slot_values),
    },
  )
