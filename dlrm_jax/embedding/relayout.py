"""Tables in the order of their rows, whatever the placement: what a checkpoint reads and writes (`checkpoint.py`).

A `Part` is one table: each of its arrays has the rows in order, an even share on every device, zeros after the last row.
Rows travel through the placement's own exchange: to read, each device looks up its share; to write, it delivers it. One chunk of rows
is under way at a time, and sizes that differ from table to table are arguments, so that a group compiles two exchanges, not two a table.
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

CHUNK = 2**16  # rows under way at a time, of all devices together

Part = dict[str, Any]  # by name, [n * share, D], or [n * share] where a row has one value
Sums = dict[str, Any]  # by name, uint32


@dataclasses.dataclass(frozen=True)
class _Arrays(Layout):
  """One table of several arrays, whose widths are not those of a model."""

  widths: tuple[tuple[str, int], ...] = ()

  @property
  def dims(self) -> dict[str, int]:
    return dict(self.widths)


def arrays_of(state: GroupState) -> dict[str, Any]:
  """All arrays of a group but the scratch: "rows", "rows.squares" and so on."""
  out: dict[str, Any] = {}
  for name, stack in state.stacks.items():
    out |= {name: stack.rows_vd} | {f"{name}.{slot}": array for slot, array in stack.slots.items()}
  return out


def with_arrays(state: GroupState, arrays: dict[str, Any]) -> GroupState:
  """The group with these arrays, named as `arrays_of` does."""
  stacks = {name: Stack(arrays[name], {slot: arrays[f"{name}.{slot}"] for slot in stack.slots}) for name, stack in state.stacks.items()}
  return GroupState(stacks, state.election_v)


def widths_of(layout: Layout, arrays: dict[str, Any]) -> dict[str, int]:
  """Values a row has in each array."""
  return {name: layout.dims[name.split(".")[0]] if array.ndim == 2 else 1 for name, array in arrays.items()}


def _view(group: Group, feature: int, widths: dict[str, int]) -> Group:
  """The group as one table of all its places, of which one id is looked up; the exchange serves it as any other."""
  owners = (group.owners[feature],) if group.placement == "table" else ()
  num_rows = group.local_rows if group.placement == "table" else int(group.rows.sum())
  layout = _Arrays((TableConfig("all", num_rows, max(widths.values())),), "top", (None,), False, widths=tuple(widths.items()))
  return Group(layout, (0,), group.placement, group.num_devices, owners, lanes=group.lanes)


@jax.jit
def checksum(values_nd: Shaped[ArrayLike, "n D"], row_n: Int32[ArrayLike, " n"], counts_n: Bool[ArrayLike, " n"]) -> UInt32[Array, ""]:
  """The sum, modulo 2^32, of a hash of (row, component, bits) over the values of the rows that count: the same in any order."""
  values_nd = jnp.asarray(values_nd)
  bits_nd = jax.lax.bitcast_convert_type(values_nd, {2: jnp.uint16, 4: jnp.uint32}[values_nd.dtype.itemsize])
  words_nd = word(jnp.asarray(row_n)[:, None], jnp.arange(values_nd.shape[1]), bits_nd)
  return jnp.where(jnp.asarray(counts_n)[:, None], words_nd, 0).sum(dtype=jnp.uint32)


def _wanted(
  axes: tuple[str, ...], chunk: int, num_rows: ArrayLike, share: ArrayLike, start: ArrayLike, fresh: ArrayLike
) -> tuple[Int32[Array, " C"], Bool[Array, " C"], Bool[Array, " C"]]:
  """(rows of a table that this device is concerned with in a chunk, whether there are such rows, and no earlier chunk had them)."""
  place_c = start + jnp.arange(chunk, dtype=jnp.int32)
  row_c = jax.lax.axis_index(axes) * share + place_c
  there_c = (place_c < share) & (row_c < num_rows)
  return jnp.where(there_c, row_c, 0), there_c, there_c & (place_c >= fresh)


def _spec(view: Group, mesh: Mesh) -> PartitionSpec:
  return split(mesh) if view.sharded else REPLICATED


@functools.lru_cache(maxsize=256)
def _fetch(view: Group, mesh: Mesh, chunk: int) -> Callable:
  """Compiled: (arrays, sums, first, num_rows, share, start, fresh) -> (a chunk of each array, the sums with it)."""
  axes = mesh.axis_names

  def local(arrays: dict, sums: Sums, first: Array, *sizes: Array) -> tuple[dict, Sums]:
    row_c, there_c, fresh_c = _wanted(axes, chunk, *sizes)
    lines = {name: array.reshape(view.local_shape(view.layout.dims[name])) for name, array in arrays.items()}
    lookups = Lookups((row_c + first)[:, None], there_c[:, None], None)
    found, _ = EXCHANGES[view.placement].fetch(view, lines, lookups, axes)
    values = {name: jnp.where(there_c[:, None], x[:, 0], 0).astype(arrays[name].dtype) for name, x in found.items()}
    return values, {name: sums[name] + jax.lax.psum(checksum(x, row_c, fresh_c), axes) for name, x in values.items()}

  in_specs = (_spec(view, mesh), REPLICATED, *(REPLICATED,) * 5)
  return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=(split(mesh), REPLICATED), check_vma=False))


@functools.lru_cache(maxsize=256)
def _deliver(view: Group, mesh: Mesh, chunk: int) -> Callable:
  """Compiled: (arrays, sums, a chunk of each, first, num_rows, share, start, fresh) -> (arrays with it, the sums with it).

  Places that are written to hold zeros, so that adding is setting. The arrays are donated.
  """
  axes = mesh.axis_names

  def put(lines: dict, place_n: Array, valid_n: Array, values: dict, bounds: tuple[int, ...] = (0, 1)) -> dict:
    del bounds  # no place comes twice
    target_n = jnp.where(valid_n, place_n, view.local_rows + jnp.arange(len(place_n), dtype=jnp.int32))
    return {name: storage.add(line, target_n, values[name].astype(line.dtype)) for name, line in lines.items()}

  def local(arrays: dict, sums: Sums, values: dict, first: Array, *sizes: Array) -> tuple[dict, Sums]:
    row_c, _, fresh_c = _wanted(axes, chunk, *sizes)
    lines = {name: array.reshape(view.local_shape(view.layout.dims[name])) for name, array in arrays.items()}
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
  """Compiled: (part, chunk, start) -> the part with the chunk at `start` of each device's share. The part is donated."""

  def local(part: Part, values: Part, start: Array) -> Part:
    fitting = {name: values[name][: len(x)].reshape(-1, *x.shape[1:]) for name, x in part.items()}
    return {name: jax.lax.dynamic_update_slice_in_dim(x, fitting[name], start, 0) for name, x in part.items()}

  there = split(mesh)
  mapped = jax.shard_map(local, mesh=mesh, in_specs=(there, there, REPLICATED), out_specs=there, check_vma=False)
  return jax.jit(mapped, donate_argnums=0)


@functools.lru_cache(maxsize=8)
def _cut(mesh: Mesh, chunk: int) -> Callable:
  """Compiled: (part, start) -> the chunk at `start` of each device's share, padded where the share is smaller."""

  def local(part: Part, start: Array) -> Part:
    size = {name: min(chunk, len(x)) for name, x in part.items()}
    out = {name: jax.lax.dynamic_slice_in_dim(x, start, size[name], 0).reshape(size[name], -1) for name, x in part.items()}
    return {name: jnp.pad(x, ((0, chunk - len(x)), (0, 0))) for name, x in out.items()}

  there = split(mesh)
  return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(there, REPLICATED), out_specs=there, check_vma=False))


def part_shapes(arrays: dict[str, Any], layout: Layout, num_rows: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape, dtype and place of a table's part."""
  rows, there = -(-num_rows // mesh.size) * mesh.size, NamedSharding(mesh, split(mesh))
  widths = widths_of(layout, arrays)
  shapes = {name: (rows,) if width == 1 else (rows, width) for name, width in widths.items()}
  return {name: jax.ShapeDtypeStruct(shape, arrays[name].dtype, sharding=there) for name, shape in shapes.items()}


def zeros(shapes: Any) -> Any:
  """Arrays of zeros where `shapes` says; none is made elsewhere first."""
  leaves, tree = jax.tree.flatten(shapes)
  return jax.tree.unflatten(tree, _zeros(tuple(leaves))())


@functools.lru_cache(maxsize=256)
def _zeros(leaves: tuple[jax.ShapeDtypeStruct, ...]) -> Callable:
  return jax.jit(lambda: [jnp.zeros(x.shape, x.dtype) for x in leaves], out_shardings=[x.sharding for x in leaves])


def _no_sums(arrays: dict[str, Any], mesh: Mesh) -> Sums:
  return zeros({name: jax.ShapeDtypeStruct((), jnp.uint32, sharding=NamedSharding(mesh, REPLICATED)) for name in arrays})


def _chunks(group: Group, feature: int, mesh: Mesh) -> tuple[int, list[tuple[np.int32, ...]]]:
  """(rows of a chunk on a device, for each chunk: first row of the table in its stack, its rows, share, start and the first row not done).

  The last chunk starts early enough to be whole, and overlaps the one before.
  """
  num_rows, chunk = int(group.rows[feature]), max(1, CHUNK // mesh.size)
  share = -(-num_rows // mesh.size)
  starts = [(max(0, min(fresh, share - chunk)), fresh) for fresh in range(0, share, chunk)]
  first = int(group.offsets[feature])
  return chunk, [tuple(np.int32(x) for x in (first, num_rows, share, *start)) for start in starts]


def read(group: Group, feature: int, state: GroupState, mesh: Mesh) -> tuple[Part, dict[str, int]]:
  """(the part, checksums) of the group's `feature`-th table."""
  arrays = arrays_of(state)
  view = _view(group, feature, widths_of(group.layout, arrays))
  part = zeros(part_shapes(arrays, group.layout, int(group.rows[feature]), mesh))
  sums = _no_sums(arrays, mesh)
  chunk, steps = _chunks(group, feature, mesh)
  for sizes in steps:
    values, sums = _fetch(view, mesh, chunk)(arrays, sums, *sizes)
    part = jax.block_until_ready(_place(mesh)(part, values, sizes[3]))  # one chunk at a time, or memory goes to those that wait
  return part, {name: int(x) for name, x in sums.items()}


def write(group: Group, feature: int, state: GroupState, part: Part, mesh: Mesh) -> tuple[GroupState, dict[str, int]]:
  """(the group with the part as its `feature`-th table, which was all zeros; checksums). The state is donated."""
  arrays = arrays_of(state)
  view = _view(group, feature, widths_of(group.layout, arrays))
  sums = _no_sums(arrays, mesh)
  chunk, steps = _chunks(group, feature, mesh)
  for sizes in steps:
    values = _cut(mesh, chunk)(part, sizes[3])
    arrays, sums = jax.block_until_ready(_deliver(view, mesh, chunk)(arrays, sums, values, *sizes))
  return with_arrays(state, arrays), {name: int(x) for name, x in sums.items()}
