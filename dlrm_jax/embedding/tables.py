"""The state of the embedding tables: `Tables`, a pytree, and its initial values."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int32, UInt32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.hashing import uniform, word
from dlrm_jax.config import StepSettings
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.placement import Group, Plan
from dlrm_jax.machine.mesh import REPLICATED, split

# Slots that an optimiser keeps for the rows: name -> whether it has one value per element (else one per row).
OPTIMIZER_SLOTS: dict[str, dict[str, bool]] = {
  "sgd": {},
  "adagrad": {"squares": True},
  "rowwise_adagrad": {"squares": False},
  "adam": {"first_moment": True, "second_moment": True},
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
  """Concatenated tables: rows [V, D] and float32 optimiser slots [V, D] or [V], in the format of `storage.py`."""

  rows_vd: Float[ArrayLike, "*n V D"]
  slots: dict[str, Float[ArrayLike, "..."]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupState:
  """The tables of one placement.

  Attributes:
    stacks: "rows" (dim D) and, where the model reads them, "first_order" (dim 1), both with the same V places.
    election_v: scratch of the update (`update.py`), one int32 for each place, or a single one with the CPU kernels. Its content is unused
      between steps.
  """

  stacks: dict[str, Stack]
  election_v: Int32[ArrayLike, "*n E"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tables:
  """The state of all embedding tables, by group (`Plan.by_name`). On a mesh each array is the concatenation of the devices' parts."""

  groups: dict[str, GroupState]


def specs(plan: Plan, mesh: Mesh) -> dict[str, PartitionSpec]:
  """Returns how the arrays of each group are placed on the mesh."""
  return {name: split(mesh) if group.sharded else REPLICATED for name, group in plan.by_name.items()}


def init_group(group: Group, settings: StepSettings, seed: UInt32[ArrayLike, ""], device: ArrayLike) -> GroupState:
  """Makes a device's part of a group: rows uniform in +-table_init (first-order scalars 0), slots 0.

  An initial value is a hash of (seed, row, component), so that it depends on no placement. The hash is elementwise, so that jit makes no
  second copy of a table.
  """
  stacks, places = {}, group.local_rows
  for name, dim in group.layout.dims.items():
    shape = group.local_shape(dim)
    slots = {slot: jnp.zeros(shape if full else places) for slot, full in OPTIMIZER_SLOTS[settings.table_optimizer].items()}
    rows_vd = jnp.zeros(shape)
    if name == "rows":
      width = group.local_dim(dim)
      k = storage.rows_per_line(width, group.lanes)
      line, lane = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])
      row = group.layout_row(device, jnp.arange(places)).reshape(-1, k)[:, lane // width] if k > 1 else None
      row = group.layout_row(device, line[:, 0])[:, None] if row is None else row
      component = lane % width + (device * width if group.is_split(dim) else 0)
      rows_vd = ((2 * uniform(word(seed, row, component)) - 1) * settings.table_init).astype(group.layout.dtype)
    stacks[name] = Stack(rows_vd, slots)
  return GroupState(stacks, jnp.zeros(group.scratch_rows(settings.table_optimizer), jnp.int32))


def init_tables(plan: Plan, settings: StepSettings, seed: UInt32[ArrayLike, ""], mesh: Mesh) -> Tables:
  """Makes the tables before the first step. Call it inside jit."""

  def local(seed: UInt32[ArrayLike, ""]) -> dict[str, GroupState]:
    device = jax.lax.axis_index(mesh.axis_names) if mesh.size > 1 else 0
    return {name: init_group(group, settings, seed, device) for name, group in plan.by_name.items()}

  if mesh.size == 1:
    return Tables(local(seed))
  return Tables(jax.shard_map(local, mesh=mesh, in_specs=REPLICATED, out_specs=specs(plan, mesh), check_vma=False)(seed))
