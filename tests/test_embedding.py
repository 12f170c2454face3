"""The embedding engine against the dense oracle, and the mapping of ids to rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.config import ModelConfig, TrainConfig
from dlrm_jax.embedding import reference
from dlrm_jax.embedding.lookup import lookup
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS, Layout, init_tables, make_layout, row_of
from dlrm_jax.embedding.update import update

OPTIMIZERS = tuple(OPTIMIZER_SLOTS)


def layout_of(num_rows: int, cardinalities: tuple[int | None, ...], dim: int = 3, rows_by: str = "top") -> Layout:
  model = ModelConfig(embed_dim=dim, num_rows=num_rows, rows_by=rows_by)
  return make_layout(model, tuple(f"c{i}" for i in range(len(cardinalities))), cardinalities)


def zipf_batch(rng: np.random.Generator, cardinality: int, shape: tuple[int, int]) -> np.ndarray:
  """Ids with many duplicates."""
  return np.minimum(rng.zipf(1.3, shape) - 1, cardinality - 1).astype(np.int32)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_five_steps_equal_the_dense_oracle(optimizer: str):
  layout = layout_of(50, (50, 20, 50))
  tables = init_tables(layout, TrainConfig(table_optimizer=optimizer), np.uint32(1))
  stepped = jax.jit(lambda t, row, grads: update(t, optimizer, row, grads, 0.1), donate_argnums=0)
  start = {name: np.array(stack.rows_vd) for name, stack in tables.stacks.items()}
  dense = {name: (rows.astype(np.float64), np.zeros(rows.shape if optimizer == "adagrad" else len(rows))) for name, rows in start.items()}
  rng, touched = np.random.default_rng(0), np.zeros(layout.total_rows, bool)
  for _ in range(5):
    row_bf = np.asarray(row_of(layout, zipf_batch(rng, 20, (64, 3))))
    assert len(np.unique(row_bf)) < row_bf.size / 3  # duplicates abound
    grads = {name: rng.normal(size=(64, 3, dim)).astype(np.float32) for name, dim in layout.dims.items()}
    tables = stepped(tables, row_bf, grads)
    touched[row_bf] = True
    for name, (rows, squares) in dense.items():
      dense[name] = reference.dense_update(rows, squares, optimizer, row_bf.ravel(), grads[name].reshape(row_bf.size, -1), 0.1)
  assert not touched.all()
  for name, (rows, squares) in dense.items():
    stack = tables.stacks[name]
    largest = np.abs(rows - start[name]).max()
    np.testing.assert_allclose(stack.rows_vd, rows, rtol=1e-5, atol=1e-6 * largest, err_msg=name)
    np.testing.assert_array_equal(np.asarray(stack.rows_vd)[~touched], start[name][~touched])  # bit for bit
    if optimizer != "sgd":
      np.testing.assert_allclose(stack.slots["squares"], squares, rtol=1e-5)
      assert not np.asarray(stack.slots["squares"])[~touched].any()


def test_adagrad_by_hand():
  """Row 1 is looked up twice with gradients 3 and 1: their sum 4 is squared, not each (16, not 10)."""
  layout = layout_of(4, (4,), dim=1)
  tables = init_tables(layout, TrainConfig(table_optimizer="adagrad", table_init=0.0), np.uint32(0))
  grads = {name: jnp.array([[[3.0]], [[1.0]], [[-2.0]]]) for name in layout.dims}
  out = update(tables, "adagrad", jnp.array([[1], [1], [3]]), grads, 0.5)
  np.testing.assert_allclose(out.stacks["rows"].slots["squares"][:, 0], [0, 16, 0, 4])
  np.testing.assert_allclose(out.stacks["rows"].rows_vd[:, 0], [0, -0.5, 0, 0.5], rtol=1e-6)


def test_rowwise_adagrad_by_hand():
  """One accumulator a row, the mean of squares over the row: (9 + 16) / 2."""
  layout = layout_of(3, (3,), dim=2)
  tables = init_tables(layout, TrainConfig(table_optimizer="rowwise_adagrad", table_init=0.0), np.uint32(0))
  grads = {"rows": jnp.array([[[3.0, 4.0]]]), "first_order": jnp.array([[[0.0]]])}
  out = update(tables, "rowwise_adagrad", jnp.array([[2]]), grads, 1.0)
  np.testing.assert_allclose(out.stacks["rows"].slots["squares"], [0, 0, 12.5])
  np.testing.assert_allclose(out.stacks["rows"].rows_vd[2], [-3 / np.sqrt(12.5), -4 / np.sqrt(12.5)], rtol=1e-6)
  np.testing.assert_array_equal(out.stacks["first_order"].rows_vd, np.zeros((3, 1)))  # a zero gradient moves nothing


def test_lookup_gathers_the_rows():
  layout = layout_of(10, (10, 5))
  tables = init_tables(layout, TrainConfig(), np.uint32(3))
  row_bf = row_of(layout, jnp.array([[9, 0], [2, 4]]))
  np.testing.assert_array_equal(row_bf, [[9, 10], [2, 14]])
  got = lookup(tables, row_bf)
  np.testing.assert_array_equal(got["rows"], np.asarray(tables.stacks["rows"].rows_vd)[np.array([[9, 10], [2, 14]])])
  assert got["first_order"].shape == (2, 2, 1)


def test_top_shares_the_last_row_and_fitting_features_keep_all():
  layout = layout_of(4, (100, 3, None))
  ids = jnp.array([[0, 0, 1], [2, 1, 3], [3, 2, 4], [99, 2, -1]], jnp.int32)  # -1: the largest unsigned id
  np.testing.assert_array_equal(row_of(layout, ids) - layout.offsets, [[0, 0, 1], [2, 1, 3], [3, 2, 3], [3, 2, 3]])


def test_hash_is_stable_spreads_and_leaves_fitting_features_alone():
  layout = layout_of(64, (100_000, 100_000, 10), rows_by="hash")
  ids = np.stack([np.arange(64_000)] * 2 + [np.arange(64_000) % 10], axis=1).astype(np.int32)
  row = np.asarray(row_of(layout, ids)) - layout.offsets
  np.testing.assert_array_equal(row[:5], [[26, 16, 0], [23, 34, 1], [33, 31, 2], [23, 2, 3], [6, 28, 4]])  # golden: records depend on it
  np.testing.assert_array_equal(row[:, 2], ids[:, 2])
  for feature in (0, 1):
    counts = np.bincount(row[:, feature], minlength=64)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
  assert 500 < (row[:, 0] == row[:, 1]).sum() < 1500  # features hash differently: 1 in 64 agree


def test_initial_rows_are_uniform_and_differ_by_seed():
  layout = layout_of(5000, (None,), dim=4)
  rows = np.asarray(init_tables(layout, TrainConfig(table_init=0.3), np.uint32(0)).stacks["rows"].rows_vd)
  assert np.abs(rows).max() <= 0.3
  np.testing.assert_allclose([rows.mean(), rows.var()], [0, 0.3**2 / 3], atol=0.005)
  other = np.asarray(init_tables(layout, TrainConfig(table_init=0.3), np.uint32(1)).stacks["rows"].rows_vd)
  assert abs(np.corrcoef(rows.ravel(), other.ravel())[0, 1]) < 0.03
