"""The CPU kernels compared with the XLA code that they replace: lookups, updates, interaction, layers, whole runs. Behaviour without a
compiler. The engine with kernels against the dense oracle: test_engine.py."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.machine import cpu_kernels, native
from dlrm_jax.machine.cpu_kernels import build
from dlrm_jax.model.interaction import interact
from dlrm_jax.training.learner import make_learner

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def compiled():
  assert build.ready("native")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(7, 1), (40, 3), (1000, 8), (300, 16), (300, 64), (50,)])
def test_rows_are_taken_as_numpy_takes_them(shape: tuple[int, ...], dtype: str):
  array = jnp.asarray(RNG.normal(size=shape), dtype)
  row = RNG.integers(0, shape[0], (5000, 3)).astype(np.int32)
  np.testing.assert_array_equal(jax.jit(cpu_kernels.take)(array, row), np.asarray(array)[row])


@pytest.mark.parametrize("slots", ["none", "row", "element"])
@pytest.mark.parametrize(("dim", "bounds"), [(1, (0, 4)), (3, (0, 1, 4)), (8, (0, 1, 2, 3, 4)), (16, (0, 2, 4)), (64, (0, 3, 4))])
def test_updates_equal_sums_in_numpy(dim: int, bounds: tuple[int, ...], slots: str):
  """Pieces of columns have rows of their own; inside a piece rows repeat, in an example and between examples; some do not count."""
  pieces, each, size, lr, decay, eps = len(bounds) - 1, 40, 300, 0.3, 0.05, 1e-8
  piece_l = np.searchsorted(bounds, np.arange(bounds[-1]), side="right") - 1
  row_bl = (np.minimum(RNG.zipf(1.3, (size, bounds[-1])) - 1, each - 1) + each * piece_l).astype(np.int32)
  valid_bl, grad_bld = RNG.random(row_bl.shape) < 0.8, RNG.normal(size=(*row_bl.shape, dim)).astype(np.float32)
  rows = RNG.normal(size=(pieces * each + 5, dim)).astype(np.float32)
  squares = {"none": None, "row": RNG.random(len(rows)), "element": RNG.random(rows.shape)}[slots]
  squares = None if squares is None else squares.astype(np.float32)
  total = np.zeros(rows.shape)
  np.add.at(total, row_bl[valid_bl], grad_bld[valid_bl])
  touched = np.isin(np.arange(len(rows)), row_bl[valid_bl])
  direction, expected_squares = total, None
  if squares is not None:
    expected_squares = squares + (total**2 if slots == "element" else (total**2).mean(axis=1))
    root = np.sqrt(expected_squares) + eps
    direction = total / (root if slots == "element" else root[:, None])
  expected = np.where(touched[:, None], rows - lr * (direction + decay * rows), rows)

  def step(rows: jax.Array, squares: jax.Array | None):
    return cpu_kernels.update(rows, squares, row_bl, valid_bl, grad_bld, bounds, lr, decay, eps)

  got, got_squares = jax.jit(step, donate_argnums=(0, 1))(jnp.asarray(rows), None if squares is None else jnp.asarray(squares))
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-5)
  np.testing.assert_array_equal(np.asarray(got)[~touched], rows[~touched])
  if squares is not None:
    np.testing.assert_allclose(got_squares, expected_squares, rtol=2e-5)


@pytest.mark.parametrize("lead", [False, True])
@pytest.mark.parametrize(
  ("dense", "fields", "dim"), [(True, 26, 16), (False, 8, 8), (True, 1, 5), (False, 2, 64), (True, 35, 3), (True, 70, 24)]
)
def test_interaction_and_gradient_equal_the_plain_ones(dense: bool, fields: int, dim: int, lead: bool):
  size = 130
  dense_bd, rows_bfd = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((size, dim if dense else 0), (size, fields, dim)))
  expected, plain_gradient = jax.vjp(lambda *x: interact(*x, lead), dense_bd, rows_bfd)
  got, gradient = jax.vjp(lambda *x: cpu_kernels.interact(*x, lead), dense_bd, rows_bfd)
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * dim**0.5)
  weight = jnp.asarray(RNG.normal(size=expected.shape), jnp.float32)
  for mine, theirs in zip(gradient(weight), plain_gradient(weight), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5 * fields**0.5)


def test_bias_and_relu_and_gradient_equal_the_plain_ones():
  x, bias = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((203, 37), (37,)))
  weight = jnp.asarray(RNG.normal(size=x.shape), jnp.float32)

  def grads(f):
    return jax.jit(jax.value_and_grad(lambda x, bias: (f(x, bias) * weight).sum(), argnums=(0, 1)))(x, bias)

  (value, (dx, db)), (plain, (plain_dx, plain_db)) = grads(cpu_kernels.bias_relu), grads(lambda x, bias: jax.nn.relu(x + bias))
  np.testing.assert_allclose(value, plain, rtol=1e-5)
  np.testing.assert_array_equal(dx, plain_dx)
  np.testing.assert_allclose(db, plain_db, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("slots", [None, (5,), (5, 3)])
@pytest.mark.parametrize("row", [-1, 5, 2**31 - 1])
def test_rows_that_a_table_does_not_have_are_refused(row: int, slots: tuple[int, ...] | None):
  rows, grads = jnp.ones((5, 3)), np.ones((1, 2, 3), np.float32)
  row_bl = np.array([[0, row]], np.int32)
  with pytest.raises(jax.errors.JaxRuntimeError, match="a looked-up row is not in the table"):
    jax.block_until_ready(jax.jit(cpu_kernels.take)(rows, row_bl))

  def step(rows: jax.Array, valid_bl: jax.Array) -> jax.Array:
    squares = None if slots is None else jnp.zeros(slots)
    return cpu_kernels.update(rows, squares, row_bl, valid_bl, grads, (0, 2), 1.0, 0.0, 1e-8)[0]

  with pytest.raises(jax.errors.JaxRuntimeError, match="a looked-up row is not in the table"):
    jax.block_until_ready(jax.jit(step)(rows, np.ones((1, 2), bool)))
  got = jax.jit(step)(rows, np.array([[True, False]]))  # what does not count may be anything
  np.testing.assert_allclose(got, [[0, 0, 0], *[[1, 1, 1]] * 4], atol=1e-6)


def test_every_row_twice_needs_half_as_many_sums():
  row_bl = np.tile(np.arange(128, dtype=np.int32), 2)[:, None]
  grads = RNG.normal(size=(256, 1, 64)).astype(np.float32)
  got, _ = cpu_kernels.update(jnp.zeros((128, 64)), None, row_bl, np.ones((256, 1), bool), grads, (0, 1), 1.0, 0.0, 1e-8)
  np.testing.assert_allclose(got, -(grads[:128, 0] + grads[128:, 0]), rtol=1e-6)


def losses(config: RunConfig, steps: int) -> list[float]:
  source = Planted(config.planted)
  learner, out = make_learner([config], source), []
  state = learner.start()
  for batch in source.train_batches(0, config.train.batch_size, steps * config.train.batch_size):
    state, (loss,), *_ = learner.read_progress(learner.train(state, [(learner.put(batch),)]))
    out.append(loss)
  return out


@pytest.mark.parametrize(
  "optimizer", ["rowwise_adagrad", pytest.param("adagrad", marks=pytest.mark.slow), pytest.param("sgd", marks=pytest.mark.slow)]
)
def test_losses_of_200_steps_equal_those_of_the_plain_path(optimizer: str):
  model = ModelConfig(embed_dim=8, num_rows=2000, bottom=(16, 8), overarch=(32, 1))
  train = TrainConfig(batch_size=256, table_optimizer=optimizer)
  plain = RunConfig(model=model, train=train, planted=PlantedConfig(dense_variance=0.5), kernels="xla")
  expected = losses(plain, 200)
  got = losses(dataclasses.replace(plain, kernels="native"), 200)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert min(expected) < 0.95 * expected[0]  # something was learned


def test_a_table_is_updated_where_it_lies():
  """No copy of the table in the compiled step."""
  config = RunConfig(model=ModelConfig(num_rows=1234), kernels="native")
  source = Planted(config.planted)
  text = make_learner([config], source).program_text()
  assert "f32[9872,8]" in text
  for name in ("dlrm_take", "dlrm_adagrad", "dlrm_interact", "dlrm_interact_backward", "dlrm_bias_relu", "dlrm_bias_relu_backward"):
    assert name in text
  assert "ynn" not in text  # hardware.compiler_options
  assert not [line for line in text.splitlines() if "f32[9872,8]" in line and ("copy(" in line or "copy-start(" in line)]


@pytest.mark.parametrize(
  ("cxx", "why"), [("", "no C++ compiler"), ("false", "false failed: no message"), ("no-such-compiler", "No such file")]
)
def test_without_a_compiler_one_line_says_so(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, cxx: str, why: str
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.setenv("CXX", cxx)
  monkeypatch.setattr(native.shutil, "which", lambda name: None)
  monkeypatch.setattr(build, "_register", build._register.__wrapped__)  # as in a new process
  monkeypatch.setattr(build, "_said", set())
  assert not build.ready("auto")
  said = capsys.readouterr().err.splitlines()[-1]
  assert why in said and "XLA's own loops are used instead" in said
  with pytest.raises(UserError, match="--kernels=native: the CPU kernels cannot be compiled"):
    build.ready("native")
  assert not build.ready("xla")
  assert not list(tmp_path.rglob("*.so"))


def test_the_library_is_compiled_once(capsys: pytest.CaptureFixture[str]):
  assert build._built() == build._built()
  assert capsys.readouterr().err == ""
