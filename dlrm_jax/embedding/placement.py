"""Maps the rows of tables to places on devices. A `Group` has the tables of one placement, stacked into one array on each device.

- replicated: every device holds all rows.
- row: the stack's rows are dealt to the devices in rounds, one row each. Round q deals rows q*n .. q*n+n-1. Its first row goes to device
  mix32(q) mod n, and the next row to the next device. Every device gets the same number of rows. The most frequent ids of a table (ids are
  ranks of frequency) are on different devices, and tables do not line up. On one device row r is at place r.
- table: each table is whole on one device.
- column: every device holds all rows, with a slice of D/n of their values. Rows of one value cannot be split and are on every device.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.hashing import mix32
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.machine import cpu_kernels

_PADDED = 2**31 - 1  # beyond every row


@dataclasses.dataclass(frozen=True)
class Group:
  """Tables of one placement.

  Attributes:
    layout: all tables.
    features: which of them are in the group, in the order of the stack.
    placement: replicated, row, table or column.
    num_devices: n.
    owners: the device of each feature's table (table placement).
    dense_gradient: replicated only: devices exchange the gradient of all rows instead of the looked-up ones.
    lanes: values that a stored line holds (128 on TPU), or 0 if each line holds one row.
    kernels: whether the CPU kernels look up and update.
  """

  layout: Layout
  features: tuple[int, ...]
  placement: str
  num_devices: int = 1
  owners: tuple[int, ...] = ()
  dense_gradient: bool = False
  lanes: int = 0
  kernels: bool = False

  @property
  def rows(self) -> np.ndarray:
    """Rows of each table, int64 [F]."""
    return np.array([self.layout.tables[f].num_rows for f in self.features])

  @property
  def lengths(self) -> tuple[int, ...]:
    """Bag length of each feature."""
    return tuple(self.layout.tables[f].bag_length for f in self.features)

  @functools.cached_property
  def columns(self) -> np.ndarray:
    """Indices of the group's lookups among those of an example, [L]."""
    of_feature = self.layout.feature_of_lookup
    return np.concatenate([np.flatnonzero(of_feature == f) for f in self.features])

  @property
  def segments(self) -> np.ndarray:
    """For each of the group's lookups, the index of its feature in the group, [L]."""
    return np.repeat(np.arange(len(self.features)), self.lengths)

  @functools.cached_property
  def offsets(self) -> np.ndarray:
    """First row of each table in its stack, int32 [F]. With the table placement, each device has its own stack."""
    if self.placement != "table":
      return np.concatenate([[0], np.cumsum(self.rows)[:-1]]).astype(np.int32)
    filled, out = np.zeros(self.num_devices, np.int64), []
    for rows, owner in zip(self.rows, self.owners, strict=True):
      out.append(filled[owner])
      filled[owner] += rows
    return np.array(out, np.int32)

  @functools.cached_property
  def local_rows(self) -> int:
    """Number of places for rows on each device, padding included."""
    if self.placement == "table":
      used = max(int(self.rows[np.array(self.owners) == d].sum()) for d in range(self.num_devices))
    elif self.placement == "row":
      used = -(-int(self.rows.sum()) // self.num_devices)
    else:
      used = int(self.rows.sum())
    return -(-used // self.lanes) * self.lanes if self.lanes else used

  @property
  def sharded(self) -> bool:
    """Whether the arrays have one part for each device. The parts may be equal copies."""
    return self.placement != "replicated"

  def is_split(self, dim: int) -> bool:
    """Whether rows of `dim` values are cut into slices."""
    return self.placement == "column" and dim > 1

  def local_dim(self, dim: int) -> int:
    """Number of values that a device holds of a row of `dim`."""
    return dim // self.num_devices if self.is_split(dim) else dim

  def local_shape(self, dim: int) -> tuple[int, int]:
    """Shape of a device's array of rows of `dim`."""
    return storage.shape(self.local_rows, self.local_dim(dim), self.lanes)

  def kernel_steps(self, optimizer: str) -> bool:
    """Whether the CPU kernels take the steps of an optimiser. There is no election scratch then.

    The kernels do not know the squares of other devices, which row-wise Adagrad needs for rows that are cut into slices.
    """
    sliced = self.placement == "column" and self.num_devices > 1 and optimizer == "rowwise_adagrad"
    return self.kernels and optimizer in cpu_kernels.OPTIMIZERS and self.layout.dtype == "float32" and not sliced

  def scratch_rows(self, optimizer: str) -> int:
    """Number of places of the election scratch on each device. It is 1 without scratch, since jax loses the sharding of empty arrays."""
    return 1 if self.kernel_steps(optimizer) else self.local_rows

  def place_of(self, row_n: Int32[ArrayLike, "*n"]) -> Int32[Array, "*n"]:
    """For the row placement, returns device * local_rows + place on the device, for each row of the stack."""
    n = self.num_devices
    round_n = jnp.asarray(row_n) // n
    return ((row_n + _shift(round_n, n)) % n) * self.local_rows + round_n

  def layout_row(self, device: ArrayLike, place_v: Int32[ArrayLike, " v"]) -> Int32[Array, " v"]:
    """Returns the row of the whole layout (all tables concatenated) that each place of a device holds. Padding gets a number above all."""
    row_v, n = place_v, self.num_devices
    if self.placement in ("replicated", "column") and self.features == tuple(range(len(self.layout.tables))):
      in_order = jnp.asarray(place_v, jnp.int32)  # the whole layout in its order
      return jnp.where(in_order < self.layout.total_rows, in_order, _PADDED)
    if self.placement == "row":
      row_v = place_v * n + (device + n - _shift(place_v, n)) % n
    starts, ends, firsts = self._pieces[device] if self.placement == "table" else self._pieces[0]
    piece_v = jnp.clip(jnp.searchsorted(starts, row_v, side="right") - 1, 0)
    return jnp.where(row_v < ends[piece_v], row_v - starts[piece_v] + firsts[piece_v], _PADDED).astype(jnp.int32)

  @property
  def _pieces(self) -> Int32[Array, "n 3 T"]:
    """For each device, start and end of its tables in the stack, and their first rows in the layout. Equal devices share one entry."""
    owners = np.array(self.owners) if self.placement == "table" else np.zeros(len(self.features), int)
    devices = range(owners.max() + 1) if self.placement != "table" else range(self.num_devices)
    most = max(int((owners == d).sum()) for d in devices)
    out = np.full((len(devices), 3, most), _PADDED, np.int64)
    out[:, 1] = 0  # the end of a missing table: no row is before it
    for d in devices:
      mine = np.flatnonzero(owners == d)
      starts = self.offsets[mine]
      out[d, :, : len(mine)] = starts, starts + self.rows[mine], self.layout.offsets[[self.features[i] for i in mine]]
    return jnp.asarray(out.astype(np.int32))


def _shift(round_n: Int32[ArrayLike, "*n"], num_devices: int) -> Int32[Array, "*n"]:
  """Returns the device that gets the first row of a round."""
  return (mix32(jnp.asarray(round_n).astype(jnp.uint32)) % np.uint32(num_devices)).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The groups of all tables on a mesh of `num_devices`. The group names are keys of the state."""

  layout: Layout
  num_devices: int
  groups: tuple[Group, ...]

  @property
  def by_name(self) -> dict[str, Group]:
    return {group.placement + ("_dense" if group.dense_gradient else ""): group for group in self.groups}

  @property
  def kernels(self) -> bool:
    """Whether the CPU kernels are used."""
    return any(group.kernels for group in self.groups)

  @property
  def placements(self) -> tuple[str, ...]:
    """The placement of each table, in order of features."""
    placed = {f: group.placement for group in self.groups for f in group.features}
    return tuple(placed[f] for f in range(len(self.layout.tables)))

  @property
  def order(self) -> np.ndarray | None:
    """Index of each feature's vector among the concatenated vectors of the groups. None if they are in order."""
    features = [f for group in self.groups for f in group.features]
    return None if features == sorted(features) else np.argsort(features)
