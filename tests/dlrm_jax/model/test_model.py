"""The dense part: by hand, against numpy, and its FLOPs against XLA's count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ModelConfig, RunConfig, TrainConfig
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import Machine, make_plan
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.model.dlrm import Dlrm, overarch_width_in
from dlrm_jax.model.flops import cost
from dlrm_jax.model.interaction import dot_interaction
from dlrm_jax.shape import DataShape
from dlrm_jax.training.build import Build
from dlrm_jax.training.state import state_shapes
from dlrm_jax.training.step import OneRun, compile_programs

DLRM = ("dense", "dots")
CRITEO = DataShape(13, tuple(f"c{i}" for i in range(26)), (1000,) * 26, (1,) * 26)


def test_interaction_by_hand():
  vectors = jnp.array([[[1.0, 2.0], [3.0, 4.0], [-1.0, 0.5]]])
  np.testing.assert_allclose(dot_interaction(vectors), [[11.0, 0.0, -1.0]])  # (0,1), (0,2), (1,2)


@pytest.mark.parametrize("num", [2, 5])
def test_interaction_gradient_equals_autodiff(num: int):
  """Against the same function written without the custom gradient."""

  def plain(z):
    first, second = np.triu_indices(num, k=1)
    return (z[:, first] * z[:, second]).sum(axis=-1)

  rng = np.random.default_rng(3)
  z, weight = jnp.asarray(rng.normal(size=(6, num, 3)), jnp.float32), jnp.asarray(rng.normal(size=(6, num * (num - 1) // 2)), jnp.float32)
  with jax.default_matmul_precision("highest"):
    got, expected = (jax.grad(lambda z, f=f: (f(z) * weight).sum())(z) for f in (dot_interaction, plain))
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def numpy_dlrm(model: Dlrm, dense: np.ndarray, rows: np.ndarray, first_order: np.ndarray, inputs: tuple[str, ...]) -> np.ndarray:
  """The model written out once more, with loops."""

  def mlp(layers: nnx.List, x: np.ndarray, final_relu: bool) -> np.ndarray:
    for i, layer in enumerate(layers):
      x = x @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)
      x = np.maximum(x, 0) if final_relu or i + 1 < len(layers) else x
    return x

  out = []
  for b in range(len(rows)):
    vectors = list(rows[b])
    hidden = mlp(model.bottom.layers, dense[b], True) if model.bottom is not None else None
    vectors = [hidden, *vectors] if hidden is not None else vectors
    parts = [hidden] if hidden is not None and "dense" in inputs else []
    if "dots" in inputs:
      parts.append([vectors[f] @ vectors[g] for f in range(len(vectors)) for g in range(f + 1, len(vectors))])
    if "rows" in inputs:
      parts.append(rows[b].ravel())
    logit = mlp(model.overarch.layers, np.concatenate(parts), False)[0]
    out.append(logit + first_order[b].sum() if "first_order" in inputs else logit)
  return np.array(out)


@pytest.mark.parametrize("num_dense", [0, 5])
@pytest.mark.parametrize("inputs", [DLRM, ("dense", "dots", "rows", "first_order"), ("rows",)])
def test_forward_equals_numpy(num_dense: int, inputs: tuple[str, ...]):
  config = ModelConfig(embed_dim=4, bottom=(7, 4) if num_dense else None, overarch=(6, 5, 1), overarch_inputs=inputs)
  model = Dlrm(config, num_dense, 3, rngs=nnx.Rngs(0))
  rng = np.random.default_rng(1)
  dense, rows, first = rng.normal(size=(8, num_dense)), rng.normal(size=(8, 3, 4)), rng.normal(size=(8, 3, 1))
  embedded = {"rows": jnp.asarray(rows, jnp.float32), "first_order": jnp.asarray(first, jnp.float32)}
  with jax.default_matmul_precision("highest"):
    got = model(jnp.asarray(dense, jnp.float32), embedded)
  np.testing.assert_allclose(got, numpy_dlrm(model, dense, rows, first, inputs), rtol=2e-5, atol=1e-5)
  assert model.overarch.layers[0].kernel[...].shape[0] == overarch_width_in(config, num_dense, 3)


def test_cross_network_equals_numpy():
  """x_{l+1} = x_0 * (W V x_l + b) + x_l, in loops; the biases are made non-zero first."""
  config = ModelConfig(
    embed_dim=4, bottom=(7, 4), overarch=(6, 1), overarch_inputs=DLRM, interaction="dcn_v2", cross_layers=2, cross_rank=3
  )
  model, rng = Dlrm(config, 5, 3, rngs=nnx.Rngs(0)), np.random.default_rng(1)
  for up in model.cross.up:
    up.bias[...] = jnp.asarray(rng.normal(size=16), jnp.float32)
  x = rng.normal(size=(8, 16))
  with jax.default_matmul_precision("highest"):
    got = model.cross(jnp.asarray(x, jnp.float32))
  expected = []
  for start in x:
    now = start
    for down, up in zip(model.cross.down, model.cross.up, strict=True):
      now = start * (now @ np.asarray(down.kernel[...]) @ np.asarray(up.kernel[...]) + np.asarray(up.bias[...])) + now
    expected.append(now)
  np.testing.assert_allclose(got, np.array(expected), rtol=2e-5, atol=1e-5)
  dense, rows = jnp.asarray(rng.normal(size=(8, 5)), jnp.float32), jnp.asarray(rng.normal(size=(8, 3, 4)), jnp.float32)
  with jax.default_matmul_precision("highest"):
    logit = model(dense, {"rows": rows})
    hidden = model.bottom(dense)
    crossed = model.cross(jnp.concatenate([hidden, rows.reshape(8, -1)], axis=1))
    np.testing.assert_allclose(logit, model.overarch(jnp.concatenate([hidden, crossed], axis=1))[:, 0], rtol=1e-5, atol=1e-6)


def test_bottom_without_dense_inputs_is_refused():
  with pytest.raises(UserError, match="--bottom=8,4: the data has no dense inputs"):
    ModelConfig(embed_dim=4, bottom=(8, 4)).bottom_widths(0)


W1 = ModelConfig(embed_dim=16, num_rows=1000, bottom=(512, 256, 64, 16), overarch=(512, 256, 1), overarch_inputs=DLRM)
W2 = ModelConfig(embed_dim=64, num_rows=1000, bottom=(512, 256, 64, 64), overarch=(512, 256, 1), overarch_inputs=DLRM)
MLPERF_V1 = ModelConfig(embed_dim=128, num_rows=1000, bottom=(512, 256, 128), overarch=(1024, 1024, 512, 256, 1), overarch_inputs=DLRM)


MLPERF_V2 = dataclasses.replace(MLPERF_V1, interaction="dcn_v2", overarch_inputs=("dots",))


@pytest.mark.parametrize("platform", ["", "cpu"])  # on the CPU kernels do the interaction
@pytest.mark.parametrize("model", [W1, W2, MLPERF_V1, MLPERF_V2], ids=["W1", "W2", "mlperf_v1", "mlperf_v2"])
def test_flops_are_within_half_a_percent_of_xla(model: ModelConfig, platform: str):
  """The whole compiled step: lookup, forward, backward, both optimisers."""
  config = RunConfig(model=model, train=TrainConfig(batch_size=2048))
  layout = make_layout(model, CRITEO)
  counted = cost(model, config.train, layout, num_dense=13)
  build = Build.of(config, make_plan(config, layout, Machine(1, platform=platform)), 13, make_mesh(config))
  xla = compile_programs(OneRun(build)).xla_flops / 2048
  assert counted.flops_per_example["total"] == pytest.approx(xla, rel=0.005)


def test_costs_of_w1_by_hand():
  layout = make_layout(W1, CRITEO)
  counted = cost(W1, TrainConfig(), layout, num_dense=13)
  bottom, overarch = 13 * 512 + 512 * 256 + 256 * 64 + 64 * 16, (351 + 16) * 512 + 512 * 256 + 256
  assert counted.flops_per_example == {
    "bottom": 6 * bottom,
    "interaction": 4 * 27 * 27 * 16,
    "overarch": 6 * overarch,
    "total": 6 * (bottom + overarch) + 4 * 27 * 27 * 16,
  }
  dense = bottom + 512 + 256 + 64 + 16 + overarch + 512 + 256 + 1
  assert counted.params == {"embedding": 26 * 1000 * 16, "dense": dense, "total": 26 * 1000 * 16 + dense}
  assert counted.bytes["embedding_slots"] == 4 * 26 * 1000 * 2  # one accumulator and the election scratch a row
  assert counted.bytes["tables_moved_per_example"] == 4 * 26 * (3 * 16 + 2)


@pytest.mark.parametrize("interaction", ["dot", "dcn_v2"])
def test_params_counted_are_params_made(interaction: str):
  inputs = ("dense", "dots", "rows", "first_order")
  model = ModelConfig(embed_dim=4, num_rows=10, overarch=(6, 1), overarch_inputs=inputs, interaction=interaction, cross_rank=5)
  layout = make_layout(model, DataShape(3, ("a", "b"), (10, 7), (1, 1)))
  config = RunConfig(model=model)
  state = state_shapes(Build.of(config, make_plan(config, layout, Machine(1)), 3, make_mesh(config)))
  counted = cost(model, TrainConfig(), layout, num_dense=3)
  assert sum(x.size for x in jax.tree.leaves(state.dense)) == counted.params["dense"]
  assert sum(stack.rows_vd.size for stack in state.tables.groups["replicated"].stacks.values()) == counted.params["embedding"] == 17 * 5
