"""The plain data-parallel baseline: `jax.pmap`, every table on every device. It is what a benchmark compares the mesh with.

Every array of a state has a leading axis of devices. Called through `--parallelism=pmap`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dlrm_jax.batch import Batch
from dlrm_jax.common.arrays import ArrayLike
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.embedding.engine import lookup_local, update_local
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import Tables
from dlrm_jax.embedding.update import Rule
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.training.build import Build
from dlrm_jax.training.state import Rates, TrainState, graphdef_of, init_state
from dlrm_jax.training.step import Batches, OneRun, Programs, predict, train_step

_AXES = ("devices",)


@dataclasses.dataclass(frozen=True)
class DeviceShare(OneRun):
  """How a step goes over one device's share of a batch; gradients are summed over devices, so that all take the same step."""

  def lookup(self, tables: Tables, lookups: Lookups) -> tuple[dict[str, Array], Any]:
    return lookup_local(self.build.plan, _AXES, tables.groups, lookups)

  def update(self, tables: Tables, routes: Any, grads: dict[str, Array], rule: Rule) -> Tables:
    return Tables(update_local(self.build.plan, _AXES, tables.groups, routes, grads, rule))

  def total(self, x: Any) -> Any:
    return jax.lax.psum(x, _AXES)


def compile_programs(build: Build, rates: Rates) -> Programs:
  """The programs of a build, as `step.compile_programs` gives them, at these rates. Raises UserError where there are several processes."""
  if jax.process_count() > 1:
    raise UserError("--parallelism=pmap: runs in one process; use jit")
  mesh, graphdef, over = build.mesh, graphdef_of(build), DeviceShare(build)
  devices = list(mesh.devices.flat)
  alone = dataclasses.replace(build, mesh=make_mesh(RunConfig(), devices))

  def init(seed: ArrayLike) -> TrainState:
    return jax.pmap(functools.partial(init_state, alone), devices=devices)(jnp.full(mesh.size, seed, jnp.uint32))

  def put(batch: Batch) -> Batch:
    return jax.tree.map(lambda x: np.asarray(x).reshape(mesh.size, len(x) // mesh.size, *x.shape[1:]), batch)

  def train(state: TrainState, batches: tuple[Batches, ...], rates: Rates, count: np.int32) -> TrainState:
    del rates  # they are constants of the program
    for (batch,) in batches[:count]:
      state = step(state, batch)
      if devices[0].platform == "cpu":  # see learner.dlrm_learner
        jax.block_until_ready(state)
    return state

  def logits(state: TrainState, batches: tuple[Batch, ...], count: np.int32) -> Array:
    return jnp.stack([shares(state, batch).reshape(1, -1) for batch in batches[:count]])

  share = jax.tree.map(lambda x: jax.ShapeDtypeStruct((mesh.size, len(x) // mesh.size, *x.shape[1:]), x.dtype), build.batch_shapes())
  state = jax.eval_shape(init, np.uint32(0))
  with jax.default_matmul_precision(build.model.matmul_precision):
    stepping = functools.partial(train_step, over, graphdef, rates=rates)
    step = jax.pmap(stepping, _AXES[0], devices=devices, donate_argnums=0).lower(state, share).compile()
    shares = jax.pmap(functools.partial(predict, over, graphdef), _AXES[0], devices=devices).lower(state, share).compile()
  analysis = step.cost_analysis() or {}
  return Programs(init, put, train, logits, step, float(analysis.get("flops", math.nan)))
