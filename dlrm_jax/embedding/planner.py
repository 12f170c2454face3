"""Chooses the placement of each table from table sizes, mesh and memory per device, and counts the bytes held and exchanged.

The cost of a table is the bytes that a device exchanges for it in a step, plus an eighth of the bytes of memory that it touches. Links are
about eight times slower than memory (H100: 450 GB/s each way by NVLink, 3.35 TB/s of HBM). By this cost small tables are replicated,
one-hot tables are dealt by rows, and bags are split by columns. Where that does not fit, the tables that save most memory are dealt by
rows. `table` is never chosen automatically.
"""

import dataclasses
import functools

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError, join_list
from dlrm_jax.config import PLACEMENTS, RunConfig
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.exchange.row import CAPACITY
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.placement import Group, Plan
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS
from dlrm_jax.machine import cpu_kernels

MEMORY_OVER_LINK = 8  # bytes of memory a device moves while it exchanges one
LANES = 128  # values in a line of a TPU's memory
_LINE_BYTES = {0: 32, LANES: 512}  # by lanes: the least that one lookup moves, a sector of a GPU or a line of a TPU
_WORD = 4  # bytes of a gradient, slot, id or count
_ID_BYTES = {False: 5, True: 9}  # by whether bags are weighted: row and validity, or row, validity and weight


@dataclasses.dataclass(frozen=True)
class Machine:
  """The devices that a plan is made for.

  Attributes:
    num_devices: n.
    memory_bytes: memory of one device. None if it is unknown; then no plan is refused.
    lanes: 128 on TPU, whose arrays are stored in lines of 128 values, else 0.
    platform: jax's name of it. On "cpu" the kernels of cpu_kernels may be used.
  """

  num_devices: int
  memory_bytes: int | None = None
  lanes: int = 0
  platform: str = ""


def machine_of(mesh: Mesh) -> Machine:
  """Describes the devices of a mesh. The memory is the least of all processes. On the CPU, devices share the host's memory."""
  local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
  device, memory = local[0], (local[0].memory_stats() or {}).get("bytes_limit")
  if memory is None and device.platform == "cpu":
    memory = record.hardware()["memory_bytes"] // len(local)
  if memory is not None and jax.process_count() > 1:  # all processes must make the same plan
    memory = int(process_allgather(np.int32(memory >> 20)).min()) << 20
  return Machine(mesh.size, memory, LANES if device.platform == "tpu" else 0, device.platform)


@dataclasses.dataclass(frozen=True)
class TableCost:
  """Costs of one table under one placement, in bytes per device and step. What a device sends to itself counts as exchanged.

  Attributes:
    placement: the placement of the table.
    held_bytes: rows, slots and scratch. With the table placement, on the device that has the table.
    value_bytes: rows and gradients exchanged, in both directions.
    least_bytes: the least of these that any exchange of this placement can move.
    id_bytes: ids and bag weights exchanged.
    sum_bytes: squares and counts that are summed over devices.
    touched_bytes: memory that lookups and updates read and write.
  """

  placement: str
  held_bytes: float
  value_bytes: float
  least_bytes: float
  id_bytes: float
  sum_bytes: float
  touched_bytes: float

  @property
  def other_bytes(self) -> float:
    return self.id_bytes + self.sum_bytes

  @property
  def cost(self) -> float:
    return self.value_bytes + self.other_bytes + self.touched_bytes / MEMORY_OVER_LINK


def dense_gradient(layout: Layout, feature: int, batch_size: int, num_devices: int) -> bool:
  """Whether the whole gradient and counts of a replicated table are smaller than the examples' gradients and ids."""
  table, dim = layout.tables[feature], sum(layout.dims.values())
  return num_devices > 1 and table.num_rows * (dim + 1) * _WORD < batch_size * (dim * _WORD + table.bag_length * _ID_BYTES[layout.weighted])


def _padded(dim: int, lanes: int) -> int:
  """Returns how many values a row of `dim` takes. Where a TPU's line holds no whole number of rows, each row may fill lines of its own."""
  return dim if storage.rows_per_line(dim, lanes) > 1 or not lanes else -(-dim // lanes) * lanes


def _value_bytes(layout: Layout, stack: str) -> int:
  return 2 if stack == "rows" and layout.dtype == "bfloat16" else _WORD


def table_cost(layout: Layout, optimizer: str, feature: int, placement: str, batch_size: int, machine: Machine) -> TableCost:
  """Returns the costs of a table under a placement."""
  table, n, dims = layout.tables[feature], machine.num_devices, layout.dims
  examples, value = batch_size / n, _value_bytes(layout, "rows")
  alone = Group(layout, (feature,), placement, n, owners=(0,) if placement == "table" else (), lanes=machine.lanes)
  held = float(held_bytes(alone, optimizer))
  widths = [alone.local_dim(d) for d in dims.values()]
  bag, dim = table.bag_length, sum(dims.values())
  sent = least = ids = sums = 0.0
  if n == 1:
    pass
  elif placement == "row":  # rows one way, gradients the other, one for each lookup
    least = examples * bag * dim * (value + _WORD)
    sent, ids = CAPACITY * least, 2 * CAPACITY * examples * bag * _WORD
  elif placement == "replicated":
    small = dense_gradient(layout, feature, batch_size, n)
    least = sent = (float(table.num_rows) if small else n * examples) * dim * _WORD
    ids = 0.0 if small else n * examples * bag * _ID_BYTES[layout.weighted]
    sums = table.num_rows * float(_WORD) if small else 0.0
  else:  # one pooled vector of an example
    pooled = _WORD if bag > 1 or layout.weighted else value
    split = sum(d for d in dims.values() if placement == "table" or alone.is_split(d))
    least = sent = examples * (split * (pooled + _WORD) + n * (dim - split) * _WORD)  # gradients of unsplit rows go to all devices
    ids = examples * bag * _ID_BYTES[layout.weighted] * (n if placement == "column" else 1)
    if placement == "column" and optimizer == "rowwise_adagrad":
      sums = n * examples * bag * float(_WORD)
  everyones = placement == "column" or (placement == "replicated" and not dense_gradient(layout, feature, batch_size, n))
  served = examples * bag * (n if everyones else 1)
  touched = 3 * served * max(sum(widths) * _WORD, _LINE_BYTES[machine.lanes])  # read, then read and written
  return TableCost(placement, held, sent, least, ids, sums, touched)


def _choices(layout: Layout, machine: Machine, words: tuple[str, ...]) -> list[tuple[str, ...]]:
  """Returns the placements that `--placement` allows for each table. Raises UserError for an unknown feature or an impossible split."""
  names = [t.name for t in layout.tables]
  default = next((word for word in words if ":" not in word), "auto")
  asked = dict(word.rsplit(":", 1) for word in words if ":" in word)
  for name in asked:
    if name not in names:
      there = ", ".join(join_list([known]) for known in names)
      raise UserError(f"--placement={join_list([f'{name}:{asked[name]}'])}: no such feature; there are {there}")
  out: list[tuple[str, ...]] = []
  for table in layout.tables:
    placement = asked.get(table.name, default)
    splits = table.dim % machine.num_devices == 0
    if placement == "column" and not splits:
      raise UserError(
        f"--placement={join_list([f'{table.name}:column'])}: embed_dim={table.dim} does not split into {machine.num_devices} equal slices; "
        f"use row, or a dim that {machine.num_devices} divides"
      )
    out.append(("replicated", "row", *(["column"] if splits else [])) if placement == "auto" else (placement,))
  return out


def _owners(layout: Layout, features: list[int], num_devices: int) -> tuple[int, ...]:
  """Deals whole tables, the largest first, to the device with the fewest tables, then the fewest rows."""
  counts, rows, owner = [0] * num_devices, [0] * num_devices, {}
  for f in sorted(features, key=lambda f: -layout.tables[f].num_rows):
    d = min(range(num_devices), key=lambda d: (counts[d], rows[d]))
    owner[f], counts[d], rows[d] = d, counts[d] + 1, rows[d] + layout.tables[f].num_rows
  return tuple(owner[f] for f in features)


def held_bytes(group: Group, optimizer: str) -> int:
  """Returns the bytes that each device allocates for a group. With the table placement, it is what the fullest device needs."""
  slots, layout = OPTIMIZER_SLOTS[optimizer].values(), group.layout
  widths = {name: _padded(group.local_dim(dim), group.lanes) for name, dim in layout.dims.items()}
  places = sum(width * (_value_bytes(layout, name) + _WORD * sum(slots)) for name, width in widths.items())
  places += _WORD * (len(slots) - sum(slots)) * len(layout.dims)
  return group.local_rows * places + _WORD * group.scratch_rows(optimizer)


def plan_bytes(plan: Plan, optimizer: str) -> int:
  """Returns the bytes of tables, slots and scratch that each device allocates."""
  return sum(held_bytes(group, optimizer) for group in plan.groups)


def memory_limit(config: RunConfig, machine: Machine) -> int | None:
  """Returns the bytes of a device that a plan may fill: `--device_memory_gib`, or else the memory of the machine."""
  asked = config.mesh.device_memory_gib
  return machine.memory_bytes if asked is None else int(asked * 2**30)


def make_plan(config: RunConfig, layout: Layout, machine: Machine) -> Plan:
  """Places every table. Raises UserError with the missing bytes if memory does not suffice."""
  n, batch_size, optimizer = machine.num_devices, config.train.batch_size, config.train.table_optimizer
  words = ("replicated",) if config.mesh.parallelism == "pmap" or n == 1 else config.mesh.placement
  cost = functools.partial(table_cost, layout, optimizer, batch_size=batch_size, machine=machine)
  choices = [[cost(f, placement) for placement in options] for f, options in enumerate(_choices(layout, machine, words))]
  chosen = [min(options, key=lambda c: c.cost) for options in choices]
  kernels = machine.platform == "cpu" and cpu_kernels.ready(config.kernels)
  if machine.platform == "cpu" and jax.process_count() > 1:  # all processes must make the same plan
    kernels = bool(process_allgather(np.int32(kernels)).min())
  plan = _grouped(layout, [c.placement for c in chosen], batch_size, machine, kernels)
  memory = memory_limit(config, machine)
  if memory is None:
    return plan
  working = working_bytes(config, layout, n)
  for f in sorted(range(len(chosen)), key=lambda f: min(c.held_bytes for c in choices[f]) - chosen[f].held_bytes):
    if plan_bytes(plan, optimizer) + working > memory and len(choices[f]) > 1:
      chosen[f] = min(choices[f], key=lambda c: c.held_bytes)
      plan = _grouped(layout, [c.placement for c in chosen], batch_size, machine, kernels)
  held = plan_bytes(plan, optimizer)
  if held + working > memory:
    gib = {name: size / 2**30 for name, size in (("held", held), ("memory", memory), ("working", working))}
    by_hand = "another --placement (auto places by rows what does not fit), " if any(len(c) == 1 for c in choices) and n > 1 else ""
    raise UserError(
      f"the tables need {gib['held']:.2f} GiB on each of {n} devices, and a step about {gib['working']:.2f} more, of {gib['memory']:.2f}: "
      f"{gib['held'] + gib['working'] - gib['memory']:.2f} GiB too much; use {by_hand}more devices, or lower --num_rows, --embed_dim or "
      "--batch_size"
    )
  return plan


def _grouped(layout: Layout, placements: list[str], batch_size: int, machine: Machine, kernels: bool) -> Plan:
  """Groups the tables by placement, and replicated tables by how their gradients are exchanged."""
  n, groups = machine.num_devices, []
  for placement in PLACEMENTS:
    for small in (False, True):
      features = [
        f
        for f, chosen in enumerate(placements)
        if chosen == placement and small == (placement == "replicated" and dense_gradient(layout, f, batch_size, n))
      ]
      if features:
        owners = _owners(layout, features, n) if placement == "table" else ()
        groups.append(Group(layout, tuple(features), placement, n, owners, small, machine.lanes, kernels))
  return Plan(layout, n, tuple(groups))


def working_bytes(config: RunConfig, layout: Layout, num_devices: int) -> int:
  """Estimates the bytes that a step needs in addition to the tables: looked-up rows and their gradients, and 1.5 times the activations.

  Estimates for MLPerf's models on 8 devices, and compiled steps in brackets, GiB: v1 at batch 65,536 .57 (TPU v5e .78, H100 .50), v2 at
  8,192 .43 (v5e .39), v2 at 65,536 3.4 (H100 2.1). benchmarks.topology reports what a compiler really needs.
  """
  examples, model = config.train.batch_size / num_devices, config.model
  rows = examples * layout.num_lookups * sum(layout.dims.values())
  vectors = len(layout.tables) + 1
  widths = sum(model.bottom or ()) + sum(model.overarch) + vectors * model.embed_dim
  widths += vectors**2 if model.interaction == "dot" else 3 * model.cross_layers * vectors * model.embed_dim
  return int(_WORD * (2 * rows + 1.5 * examples * widths))


def costs(plan: Plan, config: RunConfig, machine: Machine) -> list[TableCost]:
  """Returns the costs of each table of a plan, in order of features."""
  optimizer, batch_size = config.train.table_optimizer, config.train.batch_size
  return [table_cost(plan.layout, optimizer, f, placement, batch_size, machine) for f, placement in enumerate(plan.placements)]
