"""Converts tables between any placement and the order of their rows, in which checkpoints store them.

An `OrderedTable` is one table. Each of its arrays has the rows in order, an even share on every device, and zeros after the last row.
Rows travel through the placement's own exchange. To read, each device looks up its share. To write, it delivers its share. One chunk of
rows is exchanged at a time. Sizes that differ between tables are arguments, so that a group compiles two exchanges, and not two a table.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int32, Shaped, UInt32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.hashing import word
from dlrm_jax.config import TableConfig
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.engine import EXCHANGES
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.placement import Group
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import GroupState, Stack
from dlrm_jax.machine.mesh import REPLICATED, split

CHUNK = 2**16  # rows exchanged at a time, over all devices

OrderedTable = dict[str, Any]  # by name, [n * share, D], or [n * share] where a row has one value
Sums = dict[str, Any]  # checksums by name, uint32


@dataclasses.dataclass(frozen=True)
class _Arrays(Layout):
  """One table of several arrays, whose widths differ from those of a model."""

  widths: tuple[tuple[str, int], ...] = ()

  @property
  def dims(self) -> dict[str, int]:
    return dict(self.widths)


def arrays_of(state: GroupState) -> dict[str, Any]:
  """Returns all arrays of a group but the scratch, named "rows", "rows.squares" and so on."""
  out: dict[str, Any] = {}
  for name, stack in state.stacks.items():
    out |= {name: stack.rows_vd} | {f"{name}.{slot}": array for slot, array in stack.slots.items()}
  return out


def with_arrays(state: GroupState, arrays: dict[str, Any]) -> GroupState:
  """Returns the group with these arrays, whose names are those of `arrays_of`."""
  stacks = {name: Stack(arrays[name], {slot: arrays[f"{name}.{slot}"] for slot in stack.slots}) for name, stack in state.stacks.items()}
  return GroupState(stacks, state.election_v)


def widths_of(layout: Layout, arrays: dict[str, Any]) -> dict[str, int]:
  """Returns how many values a row has in each array."""
  return {name: layout.dims[name.split(".")[0]] if array.ndim == 2 else 1 for name, array in arrays.items()}


def _view(group: Group, feature: int, widths: dict[str, int]) -> Group:
  """Views the group as one table of all its places, with one lookup for each example. The exchange serves it like any other."""
  owners = (group.owners[feature],) if group.placement == "table" else ()
  num_rows = group.local_rows if group.placement == "table" else int(group.rows.sum())
  layout = _Arrays((TableConfig("all", num_rows, max(widths.values())),), "top", (None,), False, widths=tuple(widths.items()))
  return Group(layout, (0,), group.placement, group.num_devices, owners, lanes=group.lanes)


@jax.jit
def checksum(values_nd: Shaped[ArrayLike, "n D"], row_n: Int32[ArrayLike, " n"], counts_n: Bool[ArrayLike, " n"]) -> UInt32[Array, ""]:
  """Returns the sum, modulo 2^32, of a hash of (row, component, bits) over the values of the rows that count. Order does not matter."""
  values_nd = jnp.asarray(values_nd)
  bits_nd = jax.lax.bitcast_convert_type(values_nd, {2: jnp.uint16, 4: jnp.uint32}[values_nd.dtype.itemsize])
  words_nd = word(jnp.asarray(row_n)[:, None], jnp.arange(values_nd.shape[1]), bits_nd)
  return jnp.where(jnp.asarray(counts_n)[:, None], words_nd, 0).sum(dtype=jnp.uint32)


def _wanted(
  axes: tuple[str, ...], chunk: int, num_rows: ArrayLike, share: ArrayLike, start: ArrayLike, fresh: ArrayLike
) -> tuple[Int32[Array, " C"], Bool[Array, " C"], Bool[Array, " C"]]:
  """Returns the rows of a table that this device handles in a chunk, whether each exists, and whether no earlier chunk had it either."""
  place_c = start + jnp.arange(chunk, dtype=jnp.int32)
  row_c = jax.lax.axis_index(axes) * share + place_c
  there_c = (place_c < share) & (row_c < num_rows)
  return jnp.where(there_c, row_c, 0), there_c, there_c & (place_c >= fresh)


def _spec(view: Group, mesh: Mesh) -> PartitionSpec:
  return split(mesh) if view.sharded else REPLICATED


def _lines(view: Group, arrays: dict[str, Any]) -> dict[str, Any]:
  """Reshapes the arrays to those that `storage.py` reads and writes."""
  return {name: array.reshape(view.local_shape(view.layout.dims[name])) for name, array in arrays.items()}


@functools.lru_cache(maxsize=256)
def _fetch(view: Group, mesh: Mesh, chunk: int) -> Callable:
  """Compiles (arrays, sums, first, num_rows, share, start, fresh) -> (a chunk of each array, sums with the chunk's added)."""
  axes = mesh.axis_names

  def local(arrays: dict, sums: Sums, first: Array, *sizes: Array) -> tuple[dict, Sums]:
    row_c, there_c, fresh_c = _wanted(axes, chunk, *sizes)
    lines = _lines(view, arrays)
    lookups = Lookups((row_c + first)[:, None], there_c[:, None], None)
    found, _ = EXCHANGES[view.placement].fetch(view, lines, lookups, axes)
    values = {name: jnp.where(there_c[:, None], x[:, 0], 0).astype(arrays[name].dtype) for name, x in found.items()}
    return values, {name: sums[name] + jax.lax.psum(checksum(x, row_c, fresh_c), axes) for name, x in values.items()}

  in_specs = (_spec(view, mesh), REPLICATED, *(REPLICATED,) * 5)
  return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=(split(mesh), REPLICATED), check_vma=False))


@functools.lru_cache(maxsize=256)
def _deliver(view: Group, mesh: Mesh, chunk: int) -> Callable:
  """Compiles (arrays, sums, a chunk of each, first, num_rows, share, start, fresh) -> (arrays with the chunk, sums with the chunk's added).

  Written places hold zeros, so that adding sets them. The arrays are donated.
  """
  axes = mesh.axis_names

  def put(lines: dict, place_n: Array, valid_n: Array, values: dict, bounds: tuple[int, ...] = (0, 1)) -> dict:
    del bounds  # no place is repeated
    target_n = jnp.where(valid_n, place_n, view.local_rows + jnp.arange(len(place_n), dtype=jnp.int32))
    return {name: storage.add(line, target_n, values[name].astype(line.dtype)) for name, line in lines.items()}

  def local(arrays: dict, sums: Sums, values: dict, first: Array, *sizes: Array) -> tuple[dict, Sums]:
    row_c, _, fresh_c = _wanted(axes, chunk, *sizes)
    lines = _lines(view, arrays)
    lookups = Lookups((row_c + first)[:, None], fresh_c[:, None], None)
    exchange = EXCHANGES[view.placement]
    _, route = exchange.fetch(view, {}, lookups, axes)
    lines = exchange.deliver(view, route, {name: x[:, None] for name, x in values.items()}, put, lines, axes)
    sums = {name: sums[name] + jax.lax.psum(checksum(x, row_c, fresh_c), axes) for name, x in values.items()}
    return {name: lines[name].reshape(array.shape) for name, array in arrays.items()}, sums

  there, in_specs = _spec(view, mesh), (_spec(view, mesh), REPLICATED, split(mesh), *(REPLICATED,) * 5)
  mapped = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=(there, REPLICATED), check_vma=False)
  return jax.jit(mapped, donate_argnums=0)


@functools.lru_cache(maxsize=8)
def _place(mesh: Mesh) -> Callable:
  """Compiles (table, chunk, start) -> the table with the chunk at `start` of each device's share. The table is donated."""

  def local(table: OrderedTable, values: OrderedTable, start: Array) -> OrderedTable:
    fitting = {name: values[name][: len(x)].reshape(-1, *x.shape[1:]) for name, x in table.items()}
    return {name: jax.lax.dynamic_update_slice_in_dim(x, fitting[name], start, 0) for name, x in table.items()}

  there = split(mesh)
  mapped = jax.shard_map(local, mesh=mesh, in_specs=(there, there, REPLICATED), out_specs=there, check_vma=False)
  return jax.jit(mapped, donate_argnums=0)


@functools.lru_cache(maxsize=8)
def _cut(mesh: Mesh, chunk: int) -> Callable:
  """Compiles (table, start) -> the chunk at `start` of each device's share, padded where the share is smaller."""

  def local(table: OrderedTable, start: Array) -> OrderedTable:
    size = {name: min(chunk, len(x)) for name, x in table.items()}
    out = {name: jax.lax.dynamic_slice_in_dim(x, start, size[name], 0).reshape(size[name], -1) for name, x in table.items()}
    return {name: jnp.pad(x, ((0, chunk - len(x)), (0, 0))) for name, x in out.items()}

  there = split(mesh)
  return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(there, REPLICATED), out_specs=there, check_vma=False))


def ordered_shapes(arrays: dict[str, Any], layout: Layout, num_rows: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns shape, dtype and sharding of the arrays of a table of `num_rows` rows in order."""
  rows, there = -(-num_rows // mesh.size) * mesh.size, NamedSharding(mesh, split(mesh))
  widths = widths_of(layout, arrays)
  shapes = {name: (rows,) if width == 1 else (rows, width) for name, width in widths.items()}
  return {name: jax.ShapeDtypeStruct(shape, arrays[name].dtype, sharding=there) for name, shape in shapes.items()}


def zeros(shapes: Any) -> Any:
  """Makes arrays of zeros with the given shardings, directly in their places."""
  leaves, tree = jax.tree.flatten(shapes)
  return jax.tree.unflatten(tree, _zeros(tuple(leaves))())


@functools.lru_cache(maxsize=256)
def _zeros(leaves: tuple[jax.ShapeDtypeStruct, ...]) -> Callable:
  return jax.jit(lambda: [jnp.zeros(x.shape, x.dtype) for x in leaves], out_shardings=[x.sharding for x in leaves])


def _chunks(group: Group, feature: int, mesh: Mesh) -> tuple[int, list[tuple[np.int32, ...]]]:
  """Returns the rows of a chunk on a device, and for each chunk (first row of the table in its stack, rows, share, start, fresh).

  `fresh` is the first row that no earlier chunk had. The last chunk starts early enough to be whole, and so overlaps the one before.
  """
  num_rows, chunk = int(group.rows[feature]), max(1, CHUNK // mesh.size)
  share = -(-num_rows // mesh.size)
  starts = [(max(0, min(fresh, share - chunk)), fresh) for fresh in range(0, share, chunk)]
  first = int(group.offsets[feature])
  return chunk, [tuple(np.int32(x) for x in (first, num_rows, share, *start)) for start in starts]


def _begin(group: Group, feature: int, state: GroupState, mesh: Mesh) -> tuple[dict[str, Any], Group, Sums]:
  """Returns what an exchange of the group's tables starts from: their arrays, a view of the group, and sums of 0."""
  arrays = arrays_of(state)
  zero = jax.ShapeDtypeStruct((), jnp.uint32, sharding=NamedSharding(mesh, REPLICATED))
  return arrays, _view(group, feature, widths_of(group.layout, arrays)), zeros(dict.fromkeys(arrays, zero))


def read(group: Group, feature: int, state: GroupState, mesh: Mesh) -> tuple[OrderedTable, dict[str, int]]:
  """Returns the group's `feature`-th table in the order of its rows, and its checksums."""
  arrays, view, sums = _begin(group, feature, state, mesh)
  table = zeros(ordered_shapes(arrays, group.layout, int(group.rows[feature]), mesh))
  chunk, steps = _chunks(group, feature, mesh)
  for sizes in steps:
    values, sums = _fetch(view, mesh, chunk)(arrays, sums, *sizes)
    table = jax.block_until_ready(_place(mesh)(table, values, sizes[3]))  # one chunk at a time: chunks that wait would take memory
  return table, {name: int(x) for name, x in sums.items()}


def write(group: Group, feature: int, state: GroupState, table: OrderedTable, mesh: Mesh) -> tuple[GroupState, dict[str, int]]:
  """Returns the group with `table` as its `feature`-th table, which must be all zeros, and the checksums. The state is donated."""
  arrays, view, sums = _begin(group, feature, state, mesh)
  chunk, steps = _chunks(group, feature, mesh)
  for sizes in steps:
    values = _cut(mesh, chunk)(table, sizes[3])
    arrays, sums = jax.block_until_ready(_deliver(view, mesh, chunk)(arrays, sums, values, *sizes))
  return with_arrays(state, arrays), {name: int(x) for name, x in sums.items()}
