"""Embedding tables: their layout (`Layout`, static) and their state (`Tables`, a pytree), and which row an id belongs to.

All tables of one kind are stacked into one array, so that F features cost one gather and one scatter.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt32

from dlrm_jax.batch import ArrayLike
from dlrm_jax.config import ModelConfig, TableConfig, TrainConfig
from dlrm_jax.flags import UserError
from dlrm_jax.hashing import mix32, uniform, word

# Slots an optimiser keeps beside the rows: name -> whether it has one value per element (else one per row).
OPTIMIZER_SLOTS: dict[str, dict[str, bool]] = {"sgd": {}, "adagrad": {"squares": True}, "rowwise_adagrad": {"squares": False}}
_MAX_TOTAL_ROWS = 2**31 - 2**24  # row numbers are int32, and positions just above are used for "no row"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
  """Tables of one dim under each other: rows [V, D] and optimiser slots [V, D] or [V]."""

  rows_vd: Float[ArrayLike, "V D"]
  slots: dict[str, Float[ArrayLike, "..."]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tables:
  """The state of all embedding tables.

  Attributes:
    stacks: "rows" (dim D) and, where the model reads them, "first_order" (dim 1), both with the same V rows.
    election_v: scratch of the update, one int32 a row (`update.py`); its content never matters.
  """

  stacks: dict[str, Stack]
  election_v: Int32[ArrayLike, " V"]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where every table's rows lie in the stack, and how ids map to them.

  Attributes:
    tables: one per categorical feature, in order.
    rows_by: "top" or "hash", for features with more ids than rows.
    cardinalities: ids of each feature; None: without end.
    first_order: whether a scalar per id is kept too.
  """

  tables: tuple[TableConfig, ...]
  rows_by: str
  cardinalities: tuple[int | None, ...]
  first_order: bool

  @property
  def offsets(self) -> np.ndarray:
    """First row of each table in the stack, int32 [F]."""
    return np.concatenate([[0], np.cumsum([t.num_rows for t in self.tables])[:-1]]).astype(np.int32)

  @property
  def total_rows(self) -> int:
    return sum(t.num_rows for t in self.tables)

  @property
  def dims(self) -> dict[str, int]:
    return {"rows": self.tables[0].dim} | ({"first_order": 1} if self.first_order else {})

  @property
  def num_params(self) -> int:
    return self.total_rows * sum(self.dims.values())


def make_layout(model: ModelConfig, names: tuple[str, ...], cardinalities: tuple[int | None, ...]) -> Layout:
  """One table a feature, with a row for every id up to `model.num_rows`. Raises UserError if the rows outgrow int32."""
  rows = [min(model.num_rows, c) if c is not None else model.num_rows for c in cardinalities]
  tables = tuple(TableConfig(name, n, model.embed_dim) for name, n in zip(names, rows, strict=True))
  layout = Layout(tables, model.rows_by, cardinalities, "first_order" in model.overarch_inputs)
  if layout.total_rows > _MAX_TOTAL_ROWS:
    raise UserError(
      f"--num_rows={model.num_rows}: {len(tables)} tables have {layout.total_rows} rows together, at most {_MAX_TOTAL_ROWS} are possible"
    )
  return layout


def init_tables(layout: Layout, train: TrainConfig, seed: UInt32[ArrayLike, ""]) -> Tables:
  """Rows uniform in +-table_init (first-order scalars 0), slots 0, float32.

  A row's first value is a hash of (seed, row, component): elementwise, so under jit no second copy of a table is made.
  """
  stacks = {}
  for name, dim in layout.dims.items():
    per_row, per_element = (layout.total_rows,), (layout.total_rows, dim)
    slots = {slot: jnp.zeros(per_element if full else per_row) for slot, full in OPTIMIZER_SLOTS[train.table_optimizer].items()}
    rows_vd = jnp.zeros(per_element)
    if name == "rows":
      place = word(seed, jnp.arange(layout.total_rows)[:, None], jnp.arange(dim))
      rows_vd = (2 * uniform(place) - 1) * train.table_init
    stacks[name] = Stack(rows_vd, slots)
  return Tables(stacks, jnp.zeros(layout.total_rows, jnp.int32))


def row_of(layout: Layout, ids_bf: Int32[ArrayLike, "B F"]) -> Int32[Array, "B F"]:
  """The row of the stack that each id uses.

  A feature with no more ids than rows: a row for each id. Else `top`: ids below num_rows-1 have their own row and all
  others share the last (ids are frequency ranks on prepared and planted data); `hash`: a fixed hash of (feature, id).
  """
  rows_f = np.array([t.num_rows for t in layout.tables], np.uint32)
  fits_f = np.array([c is not None and c <= t.num_rows for c, t in zip(layout.cardinalities, layout.tables, strict=True)])
  ids = jnp.asarray(ids_bf).astype(jnp.uint32)  # planted ids use all 32 bits
  if layout.rows_by == "hash" and not fits_f.all():
    salt_f = word(jnp.arange(len(rows_f)))
    row = jnp.where(fits_f, ids, mix32(ids ^ salt_f) % rows_f)
  else:
    row = ids
  return jnp.minimum(row, rows_f - 1).astype(jnp.int32) + layout.offsets
