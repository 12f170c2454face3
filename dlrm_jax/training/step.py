"""The compiled functions of a run: the first state, training steps, the logits of a batch.

`train_step` and `predict` are written once. `OneRun` says how they go over the devices of a mesh. Its subclasses say it for several runs at
once (`stacked_step.py`) and for one device under pmap (`pmap.py`).
"""

import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.embedding import engine
from dlrm_jax.embedding.pool import Lookups, lookups_of
from dlrm_jax.embedding.tables import Tables
from dlrm_jax.embedding.update import Rule
from dlrm_jax.machine.hardware import compiler_options
from dlrm_jax.machine.mesh import REPLICATED, constrain, placed, put_batch, split
from dlrm_jax.model.flops import interaction_cost
from dlrm_jax.training.build import Build
from dlrm_jax.training.state import (
  Progress,
  Rates,
  TrainState,
  dense_kernels,
  dense_optimizer,
  graphdef_of,
  init_state,
  state_shapes,
  table_rule,
)

Batches = tuple[Batch, ...]  # of one step: a batch for each run


@dataclasses.dataclass(frozen=True)
class OneRun:
  """How the steps of a run go over the devices of its mesh, and how those of several runs go over the runs.

  Attributes:
    build: the build of the run, or of all of them.
    runs: how many there are.
  """

  build: Build
  runs: int = 1

  def lookup(self, tables: Tables, lookups: Lookups) -> tuple[dict[str, Array], Any]:
    """The pooled vectors, and what `update` needs to send their gradients back."""
    return engine.lookup(self.build.plan, self.build.mesh, tables, lookups)

  def update(self, tables: Tables, routes: Any, grads: dict[str, Array], rule: Rule) -> Tables:
    """The tables after one step of the rule."""
    return engine.update(self.build.plan, self.build.mesh, tables, routes, grads, rule)

  def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one run as one of every run."""
    return function

  def dense_part(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for functions that call the dense model."""
    return function

  def for_all(self, lookups: Lookups) -> Lookups:
    """The lookups of one batch, for every run."""
    return lookups

  def total(self, x: Any) -> Any:
    """The sum over the devices that hold shares of a batch, where XLA does not make it by itself."""
    return x

  def join(self, batches: Batches) -> Batch:
    """The batches of one step as one tree."""
    return batches[0]

  def state_shapes(self) -> TrainState:
    """Shape, dtype and place of every array of the state."""
    return state_shapes(self.build)


OfLog = tuple[()] | tuple[Float[Array, ""], Float[Array, ""]]  # see `Progress.after`


def loss_and_grads(
  graphdef: nnx.GraphDef, kept: float, dense: nnx.State, embedded: dict[str, Array], batch: Batch, examples: Float[Array, ""]
) -> tuple[Float[Array, ""], OfLog, tuple[nnx.State, dict[str, Array]]]:
  """The loss of a batch and its gradients.

  Args:
    graphdef, dense: the MLPs.
    kept: the share of the log's negatives that the training examples have. Where it is below 1, odds among them are 1/kept times those of
      the log, so that the loss is that of logit - log(kept), and the logit itself is that of the log (He et al. 2014, section 6.3).
    embedded: the pooled vectors.
    batch: the examples.
    examples: the sum of their weights, of all devices.

  Returns:
    Log loss (nats) times weights, summed, over `examples`; the same for the whole log if `kept` is below 1 (a kept negative stands for
    1/kept of them), summed, and the sum of weights; the gradients of the former with respect to the MLPs and to the pooled vectors.
  """

  def loss_fn(dense: nnx.State, embedded: dict[str, Array]) -> tuple[Float[Array, ""], OfLog]:
    logit_b = nnx.merge(graphdef, dense)(batch.dense_bm, embedded)
    with jax.named_scope("loss"):
      loss_b = optax.sigmoid_binary_cross_entropy(logit_b if kept == 1 else logit_b - math.log(kept), batch.label_b)
      return (loss_b * batch.weight_b).sum() / examples, () if kept == 1 else _of_log(logit_b, batch, kept)

  (loss, of_log), grads = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)(dense, embedded)
  return loss, of_log, grads


def _of_log(logit_b: Float[Array, "B"], batch: Batch, kept: float) -> OfLog:
  weight_b = batch.weight_b * jnp.where(batch.label_b > 0, 1.0, 1 / kept)
  return (optax.sigmoid_binary_cross_entropy(logit_b, batch.label_b) * weight_b).sum(), weight_b.sum()


def train_step(over: OneRun, graphdef: nnx.GraphDef, state: TrainState, batch: Batch, rates: Rates) -> TrainState:
  """One step on one batch: lookup, loss, gradients, dense update, sparse update."""
  settings, layout = over.build.settings, over.build.plan.layout
  examples = over.total(over.each(jnp.sum)(batch.weight_b))
  with jax.named_scope("lookup"):  # the names that benchmarks.profile reports
    embedded, routes = over.lookup(state.tables, over.each(functools.partial(lookups_of, layout))(batch))
  with_kept = functools.partial(loss_and_grads, graphdef, over.build.negatives_kept)
  loss, of_log, (dense_grads, row_grads) = over.dense_part(with_kept)(state.dense, embedded, batch, examples)
  loss, of_log, dense_grads = over.total((loss, of_log, dense_grads))

  def dense_step(grads: nnx.State, slots: optax.OptState, dense: nnx.State, rates: Rates) -> tuple[nnx.State, optax.OptState]:
    changes, slots = dense_optimizer(settings, rates).update(grads, slots, dense)
    return optax.apply_updates(dense, changes), slots

  with jax.named_scope("dense_update"):
    dense, dense_slots = over.each(dense_step)(dense_grads, state.dense_slots, state.dense, rates)
  with jax.named_scope("update"):
    step = state.step if state.step.ndim == 0 else state.step[0]  # all runs are at the same step
    tables = over.update(state.tables, routes, row_grads, table_rule(settings, rates, step))
  progress = over.each(Progress.after)(state.progress, state.step, loss, examples, of_log)
  return TrainState(tables, dense, dense_slots, state.step + 1, progress)


def predict(over: OneRun, graphdef: nnx.GraphDef, state: TrainState, batch: Batch) -> Float[Array, "S B"]:
  """Logits of one batch by every run."""
  embedded, _ = over.lookup(state.tables, over.for_all(lookups_of(over.build.plan.layout, batch)))
  logits = over.dense_part(lambda dense, rows: nnx.merge(graphdef, dense)(batch.dense_bm, rows))(state.dense, embedded)
  return jnp.atleast_2d(logits)


@dataclasses.dataclass(frozen=True)
class Programs:
  """The compiled functions of S runs of one build.

  Attributes:
    init: seed (uint32) -> state of one run.
    put: a batch of the host to the devices.
    train: (state, K tuples of S batches, rates, count) -> state after a step on each of the first `count` tuples, K `steps_per_call`; the
      old state is donated.
    predict: (state, K batches, count) -> logits [K, S, B] of the first `count` batches, on every device.
    compiled: the train program; that of full calls where there are two.
    xla_flops: FLOPs of one training step of one run as XLA counts them, of one device, and those of CPU kernels; NaN where it does not say.
  """

  init: Callable[[np.uint32], TrainState]
  put: Callable[[Batch], Batch]
  train: Callable[[TrainState, tuple[Batches, ...], Rates, np.int32], TrainState]
  predict: Callable[[TrainState, Batches, np.int32], Array]
  compiled: jax.stages.Compiled
  xla_flops: float


def lower_predict(over: OneRun) -> jax.stages.Lowered:
  """The lowered prediction of one batch."""
  build = over.build
  batch = placed(build.batch_shapes(), build.mesh, split(build.mesh))
  with jax.default_matmul_precision(build.model.matmul_precision):
    everywhere = NamedSharding(build.mesh, REPLICATED)
    logits = jax.jit(functools.partial(predict, over, graphdef_of(build)), out_shardings=everywhere)
    return logits.lower(over.state_shapes(), batch)


def lower_train(over: OneRun, full: bool = False) -> jax.stages.Lowered:
  """The lowered train program: of as many steps as its last argument says, or `full`, of `steps_per_call`. Devices may be absent."""
  build, graphdef, state = over.build, graphdef_of(over.build), over.state_shapes()

  def step(old: TrainState, batch: Batch, rates: Rates) -> TrainState:
    return constrain(train_step(over, graphdef, old, batch, rates), state)

  def train(old: TrainState, batches: tuple[Batches, ...], rates: Rates, count: ArrayLike) -> TrainState:
    joined = [over.join(each) for each in batches]
    if len(joined) == 1:  # a loop would copy the batch
      return step(old, joined[0], rates)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *joined)
    steps = len(joined) if full else count
    return jax.lax.fori_loop(0, steps, lambda i, now: step(now, jax.tree.map(lambda x: x[i], stacked), rates), old)

  batch = placed(build.batch_shapes(), build.mesh, split(build.mesh))
  rate = jax.ShapeDtypeStruct((over.runs,) if over.runs > 1 else (), jnp.float32)
  rates = placed(Rates(rate, rate, rate), build.mesh, REPLICATED)
  with jax.default_matmul_precision(build.model.matmul_precision):
    return jax.jit(train, donate_argnums=0).lower(state, ((batch,) * over.runs,) * build.steps_per_call, rates, np.int32(1))


def lower_predictions(over: OneRun) -> jax.stages.Lowered:
  """The lowered prediction of up to `steps_per_call` batches in one call."""
  build, graphdef = over.build, graphdef_of(over.build)

  def logits(now: TrainState, batches: Batches, count: ArrayLike) -> Float[Array, "K S B"]:
    if len(batches) == 1:
      return predict(over, graphdef, now, batches[0])[None]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)

    def one(i: ArrayLike, out: Float[Array, "K S B"]) -> Float[Array, "K S B"]:
      return out.at[i].set(predict(over, graphdef, now, jax.tree.map(lambda x: x[i], stacked)))

    shape = jax.eval_shape(functools.partial(predict, over, graphdef), now, batches[0])
    return jax.lax.fori_loop(0, count, one, jnp.zeros((len(batches), *shape.shape), shape.dtype))

  batch = placed(build.batch_shapes(), build.mesh, split(build.mesh))
  with jax.default_matmul_precision(build.model.matmul_precision):
    predicting = jax.jit(logits, out_shardings=NamedSharding(build.mesh, REPLICATED))
    return predicting.lower(over.state_shapes(), (batch,) * build.steps_per_call, np.int32(1))


@functools.lru_cache(maxsize=32)
def compile_programs(over: OneRun, more_options: tuple[tuple[str, Any], ...] = ()) -> Programs:
  """Compiles the programs once for all runs of a build: they can never be compiled again unseen. `more_options` of XLA: (name, value)."""
  build = over.build
  platform = build.mesh.devices.flat[0].platform
  lowered = [lower_train(over), lower_predictions(over)]
  if build.steps_per_call > 1 and wants_known_length(platform):
    lowered.append(lower_train(over, full=True))
  options = compiler_options(platform) | dict(more_options)
  with concurrent.futures.ThreadPoolExecutor() as pool:  # XLA compiles without Python's lock
    train, logits, *full = pool.map(lambda each: each.compile(options), lowered)
  compiled = full[0] if full else train
  flops = float((compiled.cost_analysis() or {}).get("flops", math.nan)) / over.runs  # of a loop, its body counts once

  def start(seed: ArrayLike) -> TrainState:
    return constrain(init_state(build, seed), state_shapes(build))

  def train_call(state: TrainState, batches: tuple[Batches, ...], rates: Rates, count: np.int32) -> TrainState:
    return (compiled if count == build.steps_per_call else train)(state, batches, rates, count)

  put = functools.partial(put_batch, mesh=build.mesh)
  return Programs(jax.jit(start), put, train_call if full else train, logits, compiled, flops + kernel_flops(build))


def wants_known_length(platform: str) -> bool:
  """Whether full calls get a program of their own, whose loop has a length that XLA knows.

  On an H200 a step of `small` took 0.076 ms with it, and 0.160 ms in a loop of unknown length. For that, the host waits for the device
  before each round. A CPU gains nothing: 0.99 to 1.01 of the time.
  """
  return platform != "cpu"


def kernel_flops(build: Build) -> int:
  """FLOPs of a step that XLA does not see, since a CPU kernel does them: the dot interaction, as flops.py counts it."""
  if not dense_kernels(build) or build.model.interaction != "dot":
    return 0
  return build.settings.batch_size * interaction_cost(build.model, len(build.plan.layout.tables) + (build.num_dense > 0))[0]
