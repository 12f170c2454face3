"""The compiled functions of a run: the first state, one training step, the logits of a batch."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from dlrm_jax.batch import Batch, empty_batch
from dlrm_jax.config import PlantedConfig, RunConfig
from dlrm_jax.embedding.lookup import lookup
from dlrm_jax.embedding.tables import Layout, row_of
from dlrm_jax.embedding.update import update
from dlrm_jax.state import Progress, TrainState, dense_optimizer, init_state, make_model


def loss_and_grads(
  graphdef: nnx.GraphDef, dense: nnx.State, embedded: dict[str, Array], batch: Batch
) -> tuple[Float[Array, ""], tuple[nnx.State, dict[str, Array]]]:
  """Mean log loss (nats) over the examples of weight 1, and its gradients with respect to the MLPs and to the gathered rows."""

  def loss_fn(dense: nnx.State, embedded: dict[str, Array]) -> Float[Array, ""]:
    logit_b = nnx.merge(graphdef, dense)(batch.dense_bm, embedded)
    loss_b = optax.sigmoid_binary_cross_entropy(logit_b, batch.label_b)
    return (loss_b * batch.weight_b).sum() / batch.weight_b.sum()

  return jax.value_and_grad(loss_fn, argnums=(0, 1))(dense, embedded)


def train_step(config: RunConfig, layout: Layout, graphdef: nnx.GraphDef, state: TrainState, batch: Batch) -> TrainState:
  """One step on one batch: lookup, loss, gradients, dense update, sparse update."""
  row_bf = row_of(layout, batch.ids_bl)
  loss, (dense_grads, row_grads) = loss_and_grads(graphdef, state.dense, lookup(state.tables, row_bf), batch)
  changes, dense_slots = dense_optimizer(config.train).update(dense_grads, state.dense_slots, state.dense)
  tables = update(state.tables, config.train.table_optimizer, row_bf, row_grads, config.train.table_lr)
  examples = batch.weight_b.sum()
  bad = jnp.where((state.progress.bad_step < 0) & ~jnp.isfinite(loss), state.step, state.progress.bad_step)
  progress = Progress(state.progress.loss_sum + loss * examples, state.progress.weight_sum + examples, bad)
  return TrainState(tables, optax.apply_updates(state.dense, changes), dense_slots, state.step + 1, progress)


def predict(layout: Layout, graphdef: nnx.GraphDef, state: TrainState, batch: Batch) -> Float[Array, " B"]:
  """Logits of a batch."""
  embedded = lookup(state.tables, row_of(layout, batch.ids_bl))
  return nnx.merge(graphdef, state.dense)(batch.dense_bm, embedded)


@dataclasses.dataclass(frozen=True)
class Programs:
  """The compiled functions of one configuration.

  Attributes:
    init: seed (uint32) -> state.
    train: (state, batch) -> state; the state is donated.
    predict: (state, batch) -> logits [B].
    xla_flops: FLOPs of one training step as XLA counts them; NaN where it does not say.
  """

  init: Callable[[np.uint32], TrainState]
  train: Callable[[TrainState, Batch], TrainState]
  predict: Callable[[TrainState, Batch], Array]
  xla_flops: float


def compile_programs(config: RunConfig, layout: Layout, num_dense: int) -> Programs:
  """Compiles the programs of a config, once for all runs that differ in seed or in number of examples only."""
  train = dataclasses.replace(config.train, seed=0, num_examples=1)
  return _compile(dataclasses.replace(config, train=train, workdir="", data="planted", planted=PlantedConfig()), layout, num_dense)


@functools.lru_cache(maxsize=32)
def _compile(config: RunConfig, layout: Layout, num_dense: int) -> Programs:
  graphdef, _ = nnx.split(nnx.eval_shape(lambda: make_model(config, layout, num_dense, jax.random.key(0))), nnx.Param)
  init = jax.jit(lambda seed: init_state(config, layout, num_dense, seed))
  state = jax.eval_shape(init, np.uint32(0))
  batch_size = config.train.batch_size
  batch = jax.eval_shape(lambda: empty_batch(batch_size, num_dense, len(layout.tables)))
  with jax.default_matmul_precision(config.model.matmul_precision):
    step = jax.jit(functools.partial(train_step, config, layout, graphdef), donate_argnums=0)
    compiled = step.lower(state, batch).compile()  # ahead of time: it can never be compiled again unseen
    logits = jax.jit(functools.partial(predict, layout, graphdef)).lower(state, batch).compile()
  analysis = compiled.cost_analysis() or {}
  return Programs(init, compiled, logits, float(analysis.get("flops", math.nan)))
