"""The plain data-parallel baseline: `jax.pmap`, every table on every device. It is what a benchmark compares the mesh with.

Every array of a state has a leading axis of devices. Called through `--parallelism=pmap`.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dlrm_jax.batch import Batch, empty_batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.embedding.engine import lookup_local, update_local
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.pool import lookups_of
from dlrm_jax.embedding.tables import Tables
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.training.state import Rates, TrainState, dense_optimizer, init_state, make_model, table_rule
from dlrm_jax.training.step import Programs, loss_and_grads

_AXES = ("devices",)


def train_step(config: RunConfig, plan: Plan, graphdef: nnx.GraphDef, state: TrainState, batch: Batch) -> TrainState:
  """One step on a device's share of a batch; gradients are summed over devices, so that all take the same step."""
  examples = jax.lax.psum(batch.weight_b.sum(), _AXES)
  embedded, routes = lookup_local(plan, _AXES, state.tables.groups, lookups_of(plan.layout, batch))
  loss, (dense_grads, row_grads) = loss_and_grads(graphdef, state.dense, embedded, batch, examples)
  loss, dense_grads = jax.lax.psum((loss, dense_grads), _AXES)
  rates = Rates.of(config.train)
  changes, dense_slots = dense_optimizer(config.train, rates).update(dense_grads, state.dense_slots, state.dense)
  groups = update_local(plan, _AXES, state.tables.groups, routes, row_grads, table_rule(config.train, rates, state.step))
  progress = state.progress.after(state.step, loss, examples)
  return TrainState(Tables(groups), optax.apply_updates(state.dense, changes), dense_slots, state.step + 1, progress)


def predict(plan: Plan, graphdef: nnx.GraphDef, state: TrainState, batch: Batch) -> Float[Array, " B"]:
  """Logits of a device's share of a batch."""
  embedded, _ = lookup_local(plan, _AXES, state.tables.groups, lookups_of(plan.layout, batch))
  return nnx.merge(graphdef, state.dense)(batch.dense_bm, embedded)


def compile_programs(config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh) -> Programs:
  """The programs of a config, as `step.compile_programs` gives them. Raises UserError where there are several processes."""
  if jax.process_count() > 1:
    raise UserError("--parallelism=pmap: runs in one process; use jit")
  devices, one = list(mesh.devices.flat), make_mesh(RunConfig(), list(mesh.devices.flat))
  graphdef, _ = nnx.split(nnx.eval_shape(lambda: make_model(config, plan, num_dense, jax.random.key(0))), nnx.Param)

  def init(seed: ArrayLike) -> TrainState:
    start = functools.partial(init_state, config, plan, num_dense, one)
    return jax.pmap(start, devices=devices)(jnp.full(mesh.size, seed, jnp.uint32))

  def put(batch: Batch) -> Batch:
    return jax.tree.map(lambda x: np.asarray(x).reshape(mesh.size, len(x) // mesh.size, *x.shape[1:]), batch)

  simulated = devices[0].platform == "cpu"  # see learner._one_at_a_time

  def steps(state: TrainState, *batches: Batch) -> TrainState:
    for batch in batches:
      state = jax.block_until_ready(train(state, batch)) if simulated else train(state, batch)
    return state

  def logits(state: TrainState, batch: Batch) -> Array:
    return predict_all(state, batch).reshape(-1)

  layout = plan.layout
  empty = put(jax.device_get(empty_batch(config.train.batch_size, num_dense, layout.num_lookups, layout.weighted)))
  state = jax.eval_shape(init, np.uint32(0))
  with jax.default_matmul_precision(config.model.matmul_precision):
    step = functools.partial(train_step, config, plan, graphdef)
    train = jax.pmap(step, _AXES[0], devices=devices, donate_argnums=0).lower(state, empty).compile()
    predict_all = jax.pmap(functools.partial(predict, plan, graphdef), _AXES[0], devices=devices).lower(state, empty).compile()
  analysis = train.cost_analysis() or {}
  return Programs(init, put, steps, logits, train, float(analysis.get("flops", math.nan)))
