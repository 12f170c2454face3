"""The engine's parts by hand: optimisers, bags, packed rows, the mapping of ids to rows. The whole against the oracle: test_engine.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlrm_jax.batch import Batch
from dlrm_jax.config import ModelConfig, TrainConfig
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.engine import lookup_local
from dlrm_jax.embedding.layout import Layout, make_layout, row_of
from dlrm_jax.embedding.placement import Group, Plan
from dlrm_jax.embedding.pool import lookups_of
from dlrm_jax.embedding.tables import GroupState, init_group
from dlrm_jax.embedding.update import Rule, apply, mean_square, round_at_random
from dlrm_jax.shape import DataShape
from dlrm_jax.training.state import learning_rate


def layout_of(
  num_rows: int, cardinalities: tuple[int | None, ...], dim: int = 3, rows_by: str = "top", bag_lengths: tuple[int, ...] = ()
) -> Layout:
  """Tables of features c0, c1, ..., of one id each unless `bag_lengths` are given."""
  count = len(cardinalities)
  shape = DataShape(0, tuple(f"c{i}" for i in range(count)), cardinalities, bag_lengths or (1,) * count)
  return make_layout(ModelConfig(embed_dim=dim, num_rows=num_rows, rows_by=rows_by), shape)


def local_state(layout: Layout, optimizer: str, **train) -> GroupState:
  group = Group(layout, tuple(range(len(layout.tables))), "replicated")
  return init_group(group, TrainConfig(table_optimizer=optimizer, **train), np.uint32(0), 0)


def step(state: GroupState, rule: Rule, row: list[int], grads: dict, valid: list[bool] | None = None) -> GroupState:
  valid_n = np.ones(len(row), bool) if valid is None else np.array(valid)
  squared = dict.fromkeys(state.stacks, mean_square)
  return apply(rule, squared, state, jnp.array(row), jnp.asarray(valid_n), {k: jnp.asarray(v) for k, v in grads.items()})


def test_adagrad_by_hand():
  """Row 1 is looked up twice with gradients 3 and 1: their sum 4 is squared, not each (16, not 10)."""
  state = local_state(layout_of(4, (4,), dim=1), "adagrad", table_init=0.0)
  grad = np.array([[3.0], [1.0], [-2.0]])
  out = step(state, Rule("adagrad", 0.5, 0.0, 0), [1, 1, 3], {"rows": grad, "first_order": grad})
  np.testing.assert_allclose(out.stacks["rows"].slots["squares"][:, 0], [0, 16, 0, 4])
  np.testing.assert_allclose(out.stacks["rows"].rows_vd[:, 0], [0, -0.5, 0, 0.5], rtol=1e-6)


def test_rowwise_adagrad_by_hand():
  """One accumulator a row, the mean of squares over the row: (9 + 16) / 2."""
  state = local_state(layout_of(3, (3,), dim=2), "rowwise_adagrad", table_init=0.0)
  out = step(state, Rule("rowwise_adagrad", 1.0, 0.0, 0), [2], {"rows": [[3.0, 4.0]], "first_order": [[0.0]]})
  np.testing.assert_allclose(out.stacks["rows"].slots["squares"], [0, 0, 12.5])
  np.testing.assert_allclose(out.stacks["rows"].rows_vd[2], [-3 / np.sqrt(12.5), -4 / np.sqrt(12.5)], rtol=1e-6)
  np.testing.assert_array_equal(out.stacks["first_order"].rows_vd, np.zeros((3, 1)))  # a zero gradient moves nothing


def test_lazy_adam_is_adam_on_rows_touched_in_every_step_and_freezes_the_others():
  """optax's Adam judges the first row; the second is touched at step 0 only, and Adam proper would go on moving it."""
  state = local_state(layout_of(2, (2,), dim=2), "adam", table_init=0.1)
  start = np.array(state.stacks["rows"].rows_vd)
  adam, grads = optax.adam(0.05, b1=0.9, b2=0.999, eps=1e-8), np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
  params, moments = jnp.asarray(start[0]), adam.init(jnp.asarray(start[0]))
  for t, g in enumerate(grads):
    zeros = np.zeros((2, 1))
    state = step(state, Rule("adam", 0.05, 0.0, t), [0, 1], {"rows": np.stack([g, g]), "first_order": zeros}, valid=[True, t == 0])
    if t == 0:
      after_first = np.array(state.stacks["rows"].rows_vd[1])
    changes, moments = adam.update(jnp.asarray(g), moments)
    params = optax.apply_updates(params, changes)
  np.testing.assert_allclose(state.stacks["rows"].rows_vd[0], params, rtol=1e-5)
  np.testing.assert_array_equal(state.stacks["rows"].rows_vd[1], after_first)


def test_weight_decay_shrinks_touched_rows_only():
  state = local_state(layout_of(3, (3,), dim=2), "sgd", table_init=0.5)
  start = np.array(state.stacks["rows"].rows_vd)
  out = step(state, Rule("sgd", 0.1, 0.3, 0), [1], {"rows": [[1.0, -1.0]], "first_order": [[0.0]]})
  expected = start.copy()
  expected[1] = start[1] - 0.1 * (np.array([1.0, -1.0]) + 0.3 * start[1])
  np.testing.assert_allclose(out.stacks["rows"].rows_vd, expected, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 16, 64])
def test_packed_rows_are_the_same_rows(dim: int):
  """128 values a line, as on TPU, against one row a line."""
  rng = np.random.default_rng(0)
  plain = rng.normal(size=(256, dim)).astype(np.float32)
  packed = plain.reshape(storage.shape(256, dim, 128))
  assert packed.shape == (2 * dim, 128)
  row = np.array([0, 255, 17, 18, 130, 17])
  np.testing.assert_array_equal(storage.take(jnp.asarray(packed), jnp.asarray(row), dim), plain[row])
  targets, change = np.array([3, 2, 200, 256 + 5, 255]), rng.normal(size=(5, dim)).astype(np.float32)
  expected = plain.copy()
  expected[targets[[0, 1, 2, 4]]] += change[[0, 1, 2, 4]]
  np.testing.assert_array_equal(np.asarray(storage.add(jnp.asarray(packed), jnp.asarray(targets), change)).reshape(256, dim), expected)
  np.testing.assert_array_equal(storage.add(jnp.asarray(plain), jnp.asarray(targets), change), expected)


def test_bags_by_hand():
  """Sum and mean, with weights and padding; a padded example counts for nothing."""
  ids = np.array([[0, 1, 2], [1, 1, 0], [2, 2, 2]], np.int32)
  weights = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]], np.float32)
  batch = Batch(np.zeros((3, 0), np.float32), ids, np.zeros(3, np.float32), np.array([1, 1, 0], np.float32), weights)
  rows = np.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]], np.float32)
  for pooling, expected in (("sum", [[31, 62], [200, 400]]), ("mean", [[31 / 4, 62 / 4], [100, 200]])):
    model = ModelConfig(embed_dim=2, pooling=pooling, overarch_inputs=("dots",))
    layout = make_layout(model, DataShape(0, ("bag", "one"), (3, 3), (2, 1), weighted=True))
    lookups = lookups_of(layout, batch)
    np.testing.assert_array_equal(lookups.valid_bl, [[True, True, True], [False, False, True], [False, False, False]])
    plan = Plan(layout, 1, (Group(layout, (0, 1), "replicated"),))
    state = {"replicated": local_state(layout, "sgd")}
    stack = state["replicated"].stacks["rows"]
    tables = {"replicated": GroupState({"rows": type(stack)(jnp.asarray(np.tile(rows, (2, 1))), {})}, state["replicated"].election_v)}
    vectors, _ = lookup_local(plan, (), tables, lookups)
    np.testing.assert_allclose(vectors["rows"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(vectors["rows"][1], [[0, 0], [1, 2]], rtol=1e-6)  # an empty bag is zeros, mean or sum


def test_rounding_at_random_keeps_the_mean_and_stays_within_a_step():
  x = np.linspace(-1, 1, 100_001).astype(np.float32)[np.arange(100_001) != 50_000]
  rounded = np.asarray(round_at_random(jnp.asarray(x), jnp.dtype("bfloat16"), 0)).astype(np.float64)
  assert (np.abs(rounded - x) <= 2.0**-7 * np.abs(x)).all()
  exact = np.asarray(jnp.asarray(rounded, jnp.dtype("bfloat16"))).astype(np.float64)
  kept = np.asarray(round_at_random(jnp.asarray(exact, jnp.float32), jnp.dtype("bfloat16"), 0)).astype(np.float64)
  np.testing.assert_array_equal(kept, exact)  # what fits is kept
  low = x[(np.abs(x) > 0.5)]
  error = np.asarray(round_at_random(jnp.asarray(low), jnp.dtype("bfloat16"), 0)).astype(np.float64) - low
  assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(low))
  nearest = np.asarray(jnp.asarray(low).astype(jnp.dtype("bfloat16"))).astype(np.float64) - low
  assert error.std() > 1.2 * nearest.std()  # it is not rounding to nearest


def test_equal_small_steps_move_a_bfloat16_row_as_far_as_a_float32_row():
  """1,000 steps of 3e-4 from 1.0, each a twelfth of what bfloat16 can tell apart there; 64 rows, so that the mean is known within 2%."""
  layout = layout_of(64, (64,), dim=1)
  state = local_state(dataclasses.replace(layout, dtype="bfloat16"), "sgd")
  stack = state.stacks["rows"]
  state = GroupState(state.stacks | {"rows": type(stack)(jnp.ones((64, 1), jnp.bfloat16), {})}, state.election_v)
  grads = {"rows": jnp.ones((64, 1)) * 3e-4, "first_order": jnp.zeros((64, 1))}
  squared = dict.fromkeys(state.stacks, mean_square)
  row_n, valid_n = jnp.arange(64), jnp.ones(64, bool)
  one = jax.jit(lambda state, number: apply(Rule("sgd", 1.0, 0.0, number), squared, state, row_n, valid_n, grads))
  for number in range(1000):
    state = one(state, np.int32(number))
  moved = np.asarray(state.stacks["rows"].rows_vd, np.float32)
  assert moved.mean() == pytest.approx(0.7, abs=0.03)


def test_vectors_and_so_gradients_of_bfloat16_rows_are_float32():
  layout = dataclasses.replace(layout_of(8, (8,), dim=4), dtype="bfloat16")
  plan = Plan(layout, 1, (Group(layout, (0,), "replicated"),))
  state = local_state(layout, "sgd")
  batch = Batch(np.zeros((2, 0), np.float32), np.array([[1], [7]], np.int32), np.zeros(2, np.float32), np.ones(2, np.float32))
  vectors, _ = lookup_local(plan, (), {"replicated": state}, lookups_of(layout, batch))
  assert state.stacks["rows"].rows_vd.dtype == jnp.bfloat16 and vectors["rows"].dtype == jnp.float32
  np.testing.assert_array_equal(vectors["rows"][:, 0], np.asarray(state.stacks["rows"].rows_vd, np.float32)[[1, 7]])


def test_schedules_by_hand():
  def at(schedule: str, step: int, warmup: int = 0) -> float:
    train = TrainConfig(batch_size=10, lr_schedule=schedule, decay_examples=0 if schedule == "constant" else 1000)
    rate = learning_rate(train, 0.4, np.float32(100), warmup)
    return float(rate(jnp.int32(step))) if callable(rate) else rate

  assert learning_rate(TrainConfig(), 0.4, np.float32(100), 0) == 0.4  # a plain number: the compiled step is the same as ever
  assert [at("constant", s, warmup=40) for s in (0, 1, 4, 9)] == pytest.approx([0, 0.1, 0.4, 0.4])
  assert [at("linear", s) for s in (0, 25, 50, 100, 200)] == pytest.approx([0.4, 0.3, 0.2, 0, 0])
  assert [at("quadratic", s) for s in (0, 50, 100)] == pytest.approx([0.4, 0.1, 0])
  assert [at("cosine", s) for s in (0, 50, 100)] == pytest.approx([0.4, 0.2, 0], abs=1e-7)
  assert [at("inverse_sqrt", s) for s in (0, 300, 1500)] == pytest.approx([0.4, 0.2, 0.1])
  assert at("linear", 4 + 50, warmup=40) == pytest.approx(0.2)  # the schedule starts after the warm-up


def test_top_shares_the_last_row_and_fitting_features_keep_all():
  layout = layout_of(4, (100, 3, None))
  ids = jnp.array([[0, 0, 1], [2, 1, 3], [3, 2, 4], [99, 2, -1]], jnp.int32)  # -1: the largest unsigned id
  np.testing.assert_array_equal(row_of(layout, ids), [[0, 0, 1], [2, 1, 3], [3, 2, 3], [3, 2, 3]])


def test_hash_is_stable_spreads_and_leaves_fitting_features_alone():
  layout = layout_of(64, (100_000, 100_000, 10), rows_by="hash")
  ids = np.stack([np.arange(64_000)] * 2 + [np.arange(64_000) % 10], axis=1).astype(np.int32)
  row = np.asarray(row_of(layout, ids))
  np.testing.assert_array_equal(row[:5], [[26, 16, 0], [23, 34, 1], [33, 31, 2], [23, 2, 3], [6, 28, 4]])  # golden: records depend on it
  np.testing.assert_array_equal(row[:, 2], ids[:, 2])
  for feature in (0, 1):
    counts = np.bincount(row[:, feature], minlength=64)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
  assert 500 < (row[:, 0] == row[:, 1]).sum() < 1500  # features hash differently: 1 in 64 agree
  bags = layout_of(64, (100_000, 100_000, 10), rows_by="hash", bag_lengths=(2, 1, 1))
  np.testing.assert_array_equal(row_of(bags, ids[:, [0, 0, 1, 2]]), row[:, [0, 0, 1, 2]])  # a bag hashes as its feature does


def test_initial_rows_are_uniform_and_differ_by_seed():
  layout = layout_of(5000, (None,), dim=4)
  group = Group(layout, (0,), "replicated")
  rows, other = (
    np.asarray(jax.jit(lambda s: init_group(group, TrainConfig(table_init=0.3), s, 0))(np.uint32(s)).stacks["rows"].rows_vd) for s in (0, 1)
  )
  assert np.abs(rows).max() <= 0.3
  np.testing.assert_allclose([rows.mean(), rows.var()], [0, 0.3**2 / 3], atol=0.005)
  assert abs(np.corrcoef(rows.ravel(), other.ravel())[0, 1]) < 0.03
