"""`TrainState`: everything a training run carries from step to step, and how it starts."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32

from dlrm_jax.batch import ArrayLike
from dlrm_jax.config import RunConfig, TrainConfig
from dlrm_jax.embedding.tables import Layout, Tables, init_tables
from dlrm_jax.model.dlrm import Dlrm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
  """Counters kept on the device, so that the loop need not wait for a step.

  Attributes:
    loss_sum, weight_sum: log loss and examples since they were last read.
    bad_step: first step whose loss was not finite; -1 if none.
  """

  loss_sum: Float[ArrayLike, ""]
  weight_sum: Float[ArrayLike, ""]
  bad_step: Int32[ArrayLike, ""]

  @classmethod
  def zero(cls) -> "Progress":
    return cls(jnp.zeros(()), jnp.zeros(()), jnp.full((), -1, jnp.int32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Tables with their optimiser slots, dense parameters with theirs, the step counter."""

  tables: Tables
  dense: nnx.State
  dense_slots: optax.OptState
  step: Int32[ArrayLike, ""]
  progress: Progress


def dense_optimizer(train: TrainConfig) -> optax.GradientTransformation:
  """The optax optimiser of the MLPs; constant learning rate after a linear warm-up, so that no horizon enters."""
  lr: optax.ScalarOrSchedule = train.dense_lr
  if train.warmup_examples:
    lr = optax.linear_schedule(0.0, train.dense_lr, -(-train.warmup_examples // train.batch_size))
  makers = {"sgd": optax.sgd, "adagrad": optax.adagrad, "adam": optax.adam}
  return makers[train.dense_optimizer](lr)


def make_model(config: RunConfig, layout: Layout, num_dense: int, key: Array) -> Dlrm:
  """The dense model with weights drawn from `key`."""
  return Dlrm(config.model, num_dense, len(layout.tables), rngs=nnx.Rngs(key))


def init_state(config: RunConfig, layout: Layout, num_dense: int, seed: UInt32[ArrayLike, ""]) -> TrainState:
  """The state before the first step; a function of the config and the seed (uint32) alone. Jit it."""
  dense = nnx.state(make_model(config, layout, num_dense, jax.random.key(seed)), nnx.Param)
  tables = init_tables(layout, config.train, seed)
  slots = dense_optimizer(config.train).init(dense)
  return TrainState(tables, dense, slots, jnp.zeros((), jnp.int32), Progress.zero())
