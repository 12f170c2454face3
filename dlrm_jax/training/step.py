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
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float

from dlrm_jax.batch import Batch, empty_batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.config import RunConfig, TrainConfig
from dlrm_jax.embedding.engine import lookup, update
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.pool import lookups_of
from dlrm_jax.machine.hardware import compiler_options
from dlrm_jax.machine.host_memory import on_huge_pages
from dlrm_jax.machine.mesh import REPLICATED, constrain, placed, put_batch, split
from dlrm_jax.model.flops import interaction_cost
from dlrm_jax.training.state import Rates, TrainState, dense_kernels, dense_optimizer, init_state, make_model, state_shapes, table_rule

# Settings of a run that its programs do not depend on, or take as arguments.
_NOT_COMPILED = ("seed", "num_examples", "order", "table_lr", "dense_lr", "eval_examples", "eval_split", "first_eval", "evals_per_octave")


def loss_and_grads(
  graphdef: nnx.GraphDef, dense: nnx.State, embedded: dict[str, Array], batch: Batch, examples: Float[Array, ""]
) -> tuple[Float[Array, ""], tuple[nnx.State, dict[str, Array]]]:
  """Log loss (nats) summed over the examples of weight 1, over `examples` (their number, of all devices), and its gradients with
  respect to the MLPs and to the pooled vectors."""

  def loss_fn(dense: nnx.State, embedded: dict[str, Array]) -> Float[Array, ""]:
    logit_b = nnx.merge(graphdef, dense)(batch.dense_bm, embedded)
    with jax.named_scope("loss"):
      loss_b = optax.sigmoid_binary_cross_entropy(logit_b, batch.label_b)
      return (loss_b * batch.weight_b).sum() / examples

  return jax.value_and_grad(loss_fn, argnums=(0, 1))(dense, embedded)


def train_step(
  config: RunConfig, plan: Plan, mesh: Mesh, graphdef: nnx.GraphDef, state: TrainState, batch: Batch, rates: Rates
) -> TrainState:
  """One step on one batch: lookup, loss, gradients, dense update, sparse update."""
  examples = batch.weight_b.sum()
  with jax.named_scope("lookup"):  # the names that benchmarks.profile reports
    embedded, routes = lookup(plan, mesh, state.tables, lookups_of(plan.layout, batch))
  loss, (dense_grads, row_grads) = loss_and_grads(graphdef, state.dense, embedded, batch, examples)
  with jax.named_scope("dense_update"):
    changes, dense_slots = dense_optimizer(config.train, rates).update(dense_grads, state.dense_slots, state.dense)
    dense = optax.apply_updates(state.dense, changes)
  with jax.named_scope("update"):
    tables = update(plan, mesh, state.tables, routes, row_grads, table_rule(config.train, rates, state.step))
  return TrainState(tables, dense, dense_slots, state.step + 1, state.progress.after(state.step, loss, examples))


def predict(plan: Plan, mesh: Mesh, graphdef: nnx.GraphDef, state: TrainState, batch: Batch) -> Float[Array, " B"]:
  """Logits of a batch."""
  embedded, _ = lookup(plan, mesh, state.tables, lookups_of(plan.layout, batch))
  return nnx.merge(graphdef, state.dense)(batch.dense_bm, embedded)


@dataclasses.dataclass(frozen=True)
class Programs:
  """The compiled functions of one configuration.

  Attributes:
    init: seed (uint32) -> state.
    put: a batch of the host to the devices.
    train: (state, batch, ...) -> state, a step for each of up to `steps_per_call` batches at the run's rates; the state is donated.
    predict: (state, batch) -> logits [B], on every device.
    compiled: the training program: one step, or the loop over `steps_per_call` of them.
    xla_flops: FLOPs of one training step as XLA counts them, of one device, and those of CPU kernels; NaN where it does not say.
  """

  init: Callable[[np.uint32], TrainState]
  put: Callable[[Batch], Batch]
  train: Callable[..., TrainState]
  predict: Callable[[TrainState, Batch], Array]
  compiled: jax.stages.Compiled
  xla_flops: float


def lower(config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh) -> tuple[jax.stages.Wrapped, jax.stages.Lowered, jax.stages.Lowered]:
  """(init, the lowered training step, the lowered prediction) of a config on a mesh, whose devices may be absent."""
  graphdef, _ = nnx.split(nnx.eval_shape(lambda: make_model(config, plan, num_dense, jax.random.key(0))), nnx.Param)
  layout, state = plan.layout, state_shapes(config, plan, num_dense, mesh)
  empty = jax.eval_shape(lambda: empty_batch(config.train.batch_size, num_dense, layout.num_lookups, layout.weighted))
  batch = placed(empty, mesh, split(mesh))

  def start(seed: ArrayLike) -> TrainState:
    return constrain(init_state(config, plan, num_dense, mesh, seed), state)

  def step(old: TrainState, batch: Batch, rates: Rates) -> TrainState:
    return constrain(train_step(config, plan, mesh, graphdef, old, batch, rates), state)

  def steps(old: TrainState, batches: tuple[Batch, ...], rates: Rates, count: ArrayLike) -> TrainState:
    """`count` steps, on the first of the batches."""
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    return jax.lax.fori_loop(0, count, lambda i, now: step(now, jax.tree.map(lambda x: x[i], stacked), rates), old)

  def logits(state: TrainState, batch: Batch) -> Array:
    return predict(plan, mesh, graphdef, state, batch)

  rates = placed(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, Rates.of(config.train))), mesh, REPLICATED)
  with jax.default_matmul_precision(config.model.matmul_precision):
    if config.steps_per_call == 1:
      train = jax.jit(step, donate_argnums=0).lower(state, batch, rates)
    else:
      train = jax.jit(steps, donate_argnums=0).lower(state, (batch,) * config.steps_per_call, rates, np.int32(1))
    everywhere = NamedSharding(mesh, REPLICATED)
    return jax.jit(start), train, jax.jit(logits, out_shardings=everywhere).lower(state, batch)


def alike(config: RunConfig) -> RunConfig:
  """What the programs of a run depend on: equal for runs that differ in seed, learning rates, or in which examples they see, only."""
  default = TrainConfig()
  train = dataclasses.replace(config.train, **{name: getattr(default, name) for name in _NOT_COMPILED})
  return RunConfig(model=config.model, train=train, mesh=config.mesh, steps_per_call=config.steps_per_call)


def compile_programs(config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh) -> Programs:
  """Compiles the programs of a config, once for all runs whose configs are `alike`, and binds the run's learning rates."""
  shared, everywhere = _compile(alike(config), plan, num_dense, mesh), NamedSharding(mesh, REPLICATED)
  rates = jax.tree.map(lambda x: jax.make_array_from_callback((), everywhere, x.__getitem__), Rates.of(config.train))
  return dataclasses.replace(shared, train=functools.partial(shared.train, rates))


def kernel_flops(config: RunConfig, plan: Plan, num_dense: int) -> int:
  """FLOPs of a step that XLA does not see, since a CPU kernel does them: the dot interaction, as flops.py counts it."""
  if not dense_kernels(config.model, plan) or config.model.interaction != "dot":
    return 0
  return config.train.batch_size * interaction_cost(config.model, len(plan.layout.tables) + (num_dense > 0))[0]


@functools.lru_cache(maxsize=32)
def _compile(config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh) -> Programs:
  init, train, logits = lower(config, plan, num_dense, mesh)
  options = compiler_options(mesh.devices.flat[0].platform)
  compiled = train.compile(options)  # ahead of time: it can never be compiled again unseen
  analysis = compiled.cost_analysis() or {}  # of a loop, its body counts once

  def step(rates: Rates, state: TrainState, batch: Batch) -> TrainState:
    return compiled(state, batch, rates)

  def steps(rates: Rates, state: TrainState, *batches: Batch) -> TrainState:
    filled = batches + batches[-1:] * (config.steps_per_call - len(batches))
    return compiled(state, filled, rates, np.int32(len(batches)))

  put, train_program = functools.partial(put_batch, mesh=mesh), step if config.steps_per_call == 1 else steps
  xla_flops = float(analysis.get("flops", math.nan)) + kernel_flops(config, plan, num_dense)
  return Programs(lambda seed: on_huge_pages(init(seed)), put, train_program, logits.compile(options), compiled, xla_flops)
