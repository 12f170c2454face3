"""Describes the tables of a model (`Layout`, static), and maps ids to their rows."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.hashing import mix32, word
from dlrm_jax.config import ModelConfig, TableConfig
from dlrm_jax.shape import DataShape

MAX_TOTAL_ROWS = 2**31 - 2**24  # row numbers are int32, and numbers just above mean "no row"


@dataclasses.dataclass(frozen=True)
class Layout:
  """The tables of a model, and how ids map to their rows.

  Attributes:
    tables: one per categorical feature, in order.
    rows_by: "top" or "hash", for features with more ids than rows.
    cardinalities: number of ids of each feature, or None if it is unlimited.
    first_order: whether there is also a scalar for each id.
    weighted: whether batches have bag weights.
    pooling: "sum" or "mean" of the rows of a bag.
    dtype: dtype of the rows, "float32" or "bfloat16". First-order scalars are float32.
  """

  tables: tuple[TableConfig, ...]
  rows_by: str
  cardinalities: tuple[int | None, ...]
  first_order: bool
  weighted: bool = False
  pooling: str = "sum"
  dtype: str = "float32"

  @property
  def offsets(self) -> np.ndarray:
    """First row of each table in the concatenation of all, int32 [F]."""
    return np.concatenate([[0], np.cumsum([t.num_rows for t in self.tables])[:-1]]).astype(np.int32)

  @property
  def total_rows(self) -> int:
    return sum(t.num_rows for t in self.tables)

  @property
  def dims(self) -> dict[str, int]:
    return {"rows": self.tables[0].dim} | ({"first_order": 1} if self.first_order else {})

  @property
  def bag_lengths(self) -> tuple[int, ...]:
    return tuple(t.bag_length for t in self.tables)

  @property
  def num_lookups(self) -> int:
    """L, the number of rows that an example looks up."""
    return sum(self.bag_lengths)

  @property
  def feature_of_lookup(self) -> np.ndarray:
    """The feature of each of an example's lookups, [L]."""
    return np.repeat(np.arange(len(self.tables)), self.bag_lengths)

  @property
  def num_params(self) -> int:
    return self.total_rows * sum(self.dims.values())


def make_layout(model: ModelConfig, shape: DataShape) -> Layout:
  """One table a feature, with a row for every id up to `model.num_rows`. Raises UserError if the row numbers exceed int32."""
  features = zip(shape.field_names, shape.num_ids(model.num_rows), shape.bag_lengths, strict=True)
  tables = tuple(TableConfig(name, rows, model.embed_dim, length) for name, rows, length in features)
  first_order = "first_order" in model.overarch_inputs
  layout = Layout(tables, model.rows_by, shape.cardinalities, first_order, shape.weighted, model.pooling, model.table_dtype)
  if layout.total_rows > MAX_TOTAL_ROWS:
    raise UserError(
      f"--num_rows={model.num_rows}: {len(tables)} tables have {layout.total_rows} rows together, at most {MAX_TOTAL_ROWS} are possible"
    )
  return layout


def row_of(layout: Layout, ids_bl: Int32[ArrayLike, "B L"]) -> Int32[Array, "B L"]:
  """Returns the row of each id in the table of its feature.

  A feature with no more ids than rows has a row for each id. Otherwise it depends on `rows_by`. With `top`, ids below num_rows-1 have their
  own row and all others share the last (ids are frequency ranks on prepared and planted data). `hash` is a fixed hash of (feature, id).
  """
  feature_l = layout.feature_of_lookup
  rows_l = np.array([t.num_rows for t in layout.tables], np.uint32)[feature_l]
  fits_l = np.array([c is not None and c <= t.num_rows for c, t in zip(layout.cardinalities, layout.tables, strict=True)])[feature_l]
  ids = jnp.asarray(ids_bl).astype(jnp.uint32)  # planted ids use all 32 bits
  hashed = layout.rows_by == "hash" and not fits_l.all()
  row = jnp.where(fits_l, ids, mix32(ids ^ word(feature_l)) % rows_l) if hashed else ids
  return jnp.minimum(row, rows_l - 1).astype(jnp.int32)
