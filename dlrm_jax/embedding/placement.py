"""`Group`: tables placed alike, stacked into one array on each device; which row of which table a place holds. All static.

- replicated: every device holds all rows.
- row: the stack's rows are dealt to the devices in rounds, one row each. Round q deals rows q*n .. q*n+n-1, and its first row goes to
  device mix32(q) mod n, the next to the next device. Every device gets the same number, the few most frequent ids of a table (ranks of
  frequency) land on different devices, and tables do not line up. On one device row r is at place r.
- table: whole tables on one device each.
- column: every device holds all rows, a slice of D/n of their values. What cannot be split (one value a row) is on every device.
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
    features: which of them belong to the group, in the order of the stack.
    placement: replicated, row, table or column.
    num_devices: n.
    owners: the device of each feature's table (table placement).
    dense_gradient: replicated only: devices exchange the gradient of all rows, not of those looked up.
    lanes: values a stored line holds (128 on TPU), or 0: a row a line.
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
    """Which of a batch's lookups are the group's, [L]."""
    of_feature = self.layout.feature_of_lookup
    return np.concatenate([np.flatnonzero(of_feature == f) for f in self.features])

  @property
  def segments(self) -> np.ndarray:
    """The group's feature of each of its lookups, [L]."""
    return np.repeat(np.arange(len(self.features)), self.lengths)

  @functools.cached_property
  def offsets(self) -> np.ndarray:
    """First row of each table in its stack (of its own device, for the table placement), int32 [F]."""
    if self.placement != "table":
      return np.concatenate([[0], np.cumsum(self.rows)[:-1]]).astype(np.int32)
    filled, out = np.zeros(self.num_devices, np.int64), []
    for rows, owner in zip(self.rows, self.owners, strict=True):
      out.append(filled[owner])
      filled[owner] += rows
    return np.array(out, np.int32)

  @functools.cached_property
  def local_rows(self) -> int:
    """Places for rows on each device, padding included."""
    if self.placement == "table":
      used = max(int(self.rows[np.array(self.owners) == d].sum()) for d in range(self.num_devices))
    elif self.placement == "row":
      used = -(-int(self.rows.sum()) // self.num_devices)
    else:
      used = int(self.rows.sum())
    return -(-used // self.lanes) * self.lanes if self.lanes else used

  @property
  def sharded(self) -> bool:
    """Whether devices hold different things (or copies of their own, all the same)."""
    return self.placement != "replicated"

  def is_split(self, dim: int) -> bool:
    """Whether rows of `dim` values are cut into slices."""
    return self.placement == "column" and dim > 1

  def local_dim(self, dim: int) -> int:
    """Values a device holds of a row of `dim`."""
    return dim // self.num_devices if self.is_split(dim) else dim

  def local_shape(self, dim: int) -> tuple[int, int]:
    """Shape of a device's array of rows of `dim`."""
    return storage.shape(self.local_rows, self.local_dim(dim), self.lanes)

  def kernel_steps(self, optimizer: str) -> bool:
    """Whether the CPU kernels take the steps of an optimiser; if so there is no scratch for elections. A row that is cut into slices
    needs the squares of other devices, which the kernels do not have."""
    sliced = self.placement == "column" and self.num_devices > 1 and optimizer == "rowwise_adagrad"
    return self.kernels and optimizer in cpu_kernels.OPTIMIZERS and self.layout.dtype == "float32" and not sliced

  def scratch_rows(self, optimizer: str) -> int:
    """Places of the election scratch on each device; one where it is not needed, since jax loses the sharding of empty arrays."""
    return 1 if self.kernel_steps(optimizer) else self.local_rows

  def place_of(self, row_n: Int32[ArrayLike, "*n"]) -> Int32[Array, "*n"]:
    """Row placement: device * local_rows + place on it, of each row of the stack."""
    n = self.num_devices
    round_n = jnp.asarray(row_n) // n
    return ((row_n + _shift(round_n, n)) % n) * self.local_rows + round_n

  def layout_row(self, device: ArrayLike, place_v: Int32[ArrayLike, " v"]) -> Int32[Array, " v"]:
    """The row of the whole layout (all tables under each other) that each place of a device holds; a number beyond all for padding."""
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
    """For each device (the first alone, where all agree): start and end in the stack and first row in the layout of its tables."""
    owners = np.array(self.owners) if self.placement == "table" else np.zeros(len(self.features), int)
    devices = range(owners.max() + 1) if self.placement != "table" else range(self.num_devices)
    most = max(int((owners == d).sum()) for d in devices)
    out = np.full((len(devices), 3, most), _PADDED, np.int64)
    out[:, 1] = 0  # the end of no table: no row is before it
    for d in devices:
      mine = np.flatnonzero(owners == d)
      starts = self.offsets[mine]
      out[d, :, : len(mine)] = starts, starts + self.rows[mine], self.layout.offsets[[self.features[i] for i in mine]]
    return jnp.asarray(out.astype(np.int32))


def _shift(round_n: Int32[ArrayLike, "*n"], num_devices: int) -> Int32[Array, "*n"]:
  """The device that gets the first row of a round."""
  return (mix32(jnp.asarray(round_n).astype(jnp.uint32)) % np.uint32(num_devices)).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The groups of all tables on a mesh of `num_devices`; group names are keys of the state."""

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
    """Of each table, in order of features."""
    placed = {f: group.placement for group in self.groups for f in group.features}
    return tuple(placed[f] for f in range(len(self.layout.tables)))

  @property
  def order(self) -> np.ndarray | None:
    """Where each feature's vector is among those of the groups side by side; None: they are in order."""
    side_by_side = [f for group in self.groups for f in group.features]
    return None if side_by_side == sorted(side_by_side) else np.argsort(side_by_side)
