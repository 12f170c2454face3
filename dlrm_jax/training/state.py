"""`TrainState`: everything a training run carries from step to step, and how it starts."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int32, UInt32

from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.config import FIRST_DECAY, StepSettings, TrainConfig
from dlrm_jax.embedding.tables import Tables, init_tables, specs
from dlrm_jax.embedding.update import Rule
from dlrm_jax.machine.mesh import REPLICATED, placed
from dlrm_jax.model.dlrm import Dlrm
from dlrm_jax.training.build import Build


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
  """Counters kept on the device, so that the loop need not wait for a step.

  Attributes:
    loss_sum, weight_sum: log loss and examples (the sum of their weights) since they were last read.
    bad_step: first step whose loss was not finite; -1 if none.
  """

  loss_sum: Float[ArrayLike, "*n"]
  weight_sum: Float[ArrayLike, "*n"]
  bad_step: Int32[ArrayLike, "*n"]

  @classmethod
  def zero(cls) -> "Progress":
    """Counters at 0, on the host, so that they go to whatever devices a run has."""
    return cls(np.zeros((), np.float32), np.zeros((), np.float32), np.full((), -1, np.int32))

  def after(
    self,
    step: Int32[ArrayLike, ""],
    loss: Float[ArrayLike, ""],
    examples: Float[ArrayLike, ""],
    of_log: tuple[()] | tuple[Float[ArrayLike, ""], Float[ArrayLike, ""]] = (),
  ) -> "Progress":
    """The counters after one more step with this mean loss over so many examples (the sum of their weights).

    `of_log` takes their place in the sums where negatives are left out: the loss as the whole log would have it, summed, and the weights.
    """
    bad = jnp.where((self.bad_step < 0) & ~jnp.isfinite(loss), step, self.bad_step)
    loss_sum, weight_sum = of_log or (loss * examples, examples)
    return Progress(self.loss_sum + loss_sum, self.weight_sum + weight_sum, bad)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Tables with their optimiser slots, dense parameters with theirs, the step counter.

  Under pmap every array has an axis of devices in front. Of several runs see `stacked_step`.
  """

  tables: Tables
  dense: nnx.State
  dense_slots: optax.OptState
  step: Int32[ArrayLike, "*n"]
  progress: Progress


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rates:
  """The learning rates of a run before warm-up and schedule, and the schedule's length in steps.

  Programs take them as an argument: runs that differ in them share one.
  """

  dense: Float[ArrayLike, "*n"]
  table: Float[ArrayLike, "*n"]
  decay: Float[ArrayLike, "*n"]

  @classmethod
  def of(cls, train: TrainConfig) -> "Rates":
    """The rates of a config, on the host, as float32."""
    decay = -(-(train.decay_examples or FIRST_DECAY) // train.batch_size)
    return cls(np.float32(train.dense_lr), np.float32(train.table_lr), np.float32(decay))


def learning_rate(settings: StepSettings, peak: ArrayLike, decay: ArrayLike, warmup_examples: int) -> Any:
  """A learning rate by step: a linear warm-up, then `lr_schedule` of length `decay`, in steps; `peak` itself where nothing changes.

  As optax takes it. optax's own schedules need their length as a number, so that runs of different lengths could not share a program.
  """
  warmup = -(-warmup_examples // settings.batch_size)

  def left(step: ArrayLike) -> Array:
    return 1 - jnp.clip(step / decay, 0, 1)

  schedules: dict[str, optax.Schedule] = {
    "constant": lambda step: peak,
    "inverse_sqrt": lambda step: peak * (1 + step / decay) ** -0.5,
    "linear": lambda step: peak * left(step),
    "quadratic": lambda step: peak * left(step) ** 2,
    "cosine": lambda step: peak * 0.5 * (1 - jnp.cos(jnp.pi * left(step))),
  }
  after = schedules[settings.lr_schedule]
  if warmup:
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
  return peak if settings.lr_schedule == "constant" else after


def dense_optimizer(settings: StepSettings, rates: Rates) -> optax.GradientTransformation:
  """The optax optimiser of the MLPs."""
  adagrad = functools.partial(optax.adagrad, initial_accumulator_value=settings.dense_accumulator)
  makers = {"sgd": optax.sgd, "adagrad": adagrad, "adam": optax.adam}
  return makers[settings.dense_optimizer](learning_rate(settings, rates.dense, rates.decay, settings.warmup_examples))


def table_rule(settings: StepSettings, rates: Rates, step: Int32[ArrayLike, ""]) -> Rule:
  """The tables' optimiser at a step."""
  lr = learning_rate(settings, rates.table, rates.decay, settings.table_warmup_examples)
  return Rule(settings.table_optimizer, lr(step) if callable(lr) else lr, settings.table_weight_decay, step)


def dense_kernels(build: Build) -> bool:
  """Whether CPU kernels compute the dense part: in float32, on one device, since XLA cannot split their calls over a mesh."""
  return build.plan.kernels and build.plan.num_devices == 1 and build.model.compute_dtype == "float32"


def make_model(build: Build, key: Array) -> Dlrm:
  """The dense model with weights drawn from `key`."""
  model = Dlrm(build.model, build.num_dense, len(build.plan.layout.tables), rngs=nnx.Rngs(key), kernels=dense_kernels(build))
  if build.first_logit is not None:  # the first-order scalars start at 0
    last = model.overarch.layers[-1]
    last.bias = nnx.Param(jnp.full_like(cast(nnx.Param, last.bias)[...], build.first_logit))
  return model


def graphdef_of(build: Build) -> nnx.GraphDef:
  """The dense model without its weights."""
  return nnx.split(nnx.eval_shape(lambda: make_model(build, jax.random.key(0))), nnx.Param)[0]


def init_state(build: Build, seed: UInt32[ArrayLike, ""]) -> TrainState:
  """The state before the first step; a function of the build and the seed (uint32) alone. Jit it."""
  dense = nnx.state(make_model(build, jax.random.key(seed)), nnx.Param)
  tables = init_tables(build.plan, build.settings, seed, build.mesh)
  slots = dense_optimizer(build.settings, Rates(np.float32(1), np.float32(1), np.float32(1))).init(dense)  # the same at all rates
  return TrainState(tables, dense, slots, jnp.zeros((), jnp.int32), Progress.zero())


@functools.lru_cache(maxsize=32)
def state_shapes(build: Build) -> TrainState:
  """Shape, dtype and place of every array of a state: tables as planned, all else on every device."""
  shapes = jax.eval_shape(functools.partial(init_state, build), np.uint32(0))
  groups = {name: placed(shapes.tables.groups[name], build.mesh, spec) for name, spec in specs(build.plan, build.mesh).items()}
  return dataclasses.replace(placed(shapes, build.mesh, REPLICATED), tables=Tables(groups))
