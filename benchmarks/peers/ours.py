"""Our own training step as a worker: `python -m benchmarks.peers.ours`.

It also exports the initial weights that the peers start from, and times the step's matrix products one by one.
"""

import dataclasses
import functools
import importlib.metadata
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from benchmarks.measure import engine_alone
from benchmarks.measure.floor import Floor
from benchmarks.measure.workloads import RUNS
from benchmarks.peers.worker import Spec, load, serve
from dlrm_jax.batch import Batch
from dlrm_jax.config import RunConfig
from dlrm_jax.data.shapes import shape_of
from dlrm_jax.embedding import storage
from dlrm_jax.embedding.pool import lookups_of
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import split
from dlrm_jax.training.build import build_of
from dlrm_jax.training.learner import dlrm_learner
from dlrm_jax.training.state import TrainState


def run_of(spec: Spec) -> RunConfig:
  """The run of a spec. What a spec does not set is as in workload W1."""
  base = RUNS["W1"]
  model = dataclasses.replace(base.model, embed_dim=spec.embed_dim, num_rows=spec.num_rows, bottom=spec.bottom, overarch=spec.overarch)
  train = dataclasses.replace(
    base.train,
    batch_size=load(spec.inputs)["label_kb"].shape[1],
    table_optimizer=spec.table_optimizer,
    table_lr=spec.table_lr,
    dense_lr=spec.dense_lr,
    table_init=spec.table_init,
  )
  return dataclasses.replace(base, model=model, train=train)


def _batches(spec: Spec) -> list[Batch]:
  arrays = load(spec.inputs)
  weight_b = np.ones(arrays["label_kb"].shape[1], np.float32)
  return [
    Batch(dense_bm, ids_bl, label_b, weight_b)
    for dense_bm, ids_bl, label_b in zip(arrays["dense_kbm"], arrays["ids_kbf"], arrays["label_kb"], strict=True)
  ]


class StepTrainer:
  """Runs the step of dlrm_jax.train."""

  versions = f"jax {importlib.metadata.version('jax')}"

  def __init__(self, spec: Spec):
    self.run = run_of(spec)
    self.build = build_of(self.run, shape_of(self.run))
    self.learner = dlrm_learner([self.run], self.build)
    there = NamedSharding(self.build.mesh, split(self.build.mesh))
    self.batches = [jax.device_put(self.learner.put(batch), there) for batch in _batches(spec)]
    self.state: TrainState = jax.block_until_ready(self.learner.start())
    self.seen = (0.0, 0.0)  # loss_sum and weight_sum of the state

  def step(self, number: int) -> float:
    self.state = jax.block_until_ready(self.learner.train(self.state, [(self.batches[number % len(self.batches)],)]))
    before, self.seen = self.seen, (float(self.state.progress.loss_sum), float(self.state.progress.weight_sum))
    return (self.seen[0] - before[0]) / (self.seen[1] - before[1])

  def export(self, path: str) -> dict[str, Any]:
    """Writes the initial weights: rows_fvd [F, V, D], and those of each linear layer, such as `bottom.0.kernel` and `bottom.0.bias`."""
    state, layout = self.learner.start(), self.build.plan.layout
    dim = layout.dims["rows"]
    rows_vd = np.zeros((layout.total_rows, dim), np.float32)
    for name, group in self.build.plan.by_name.items():
      place_v = jnp.arange(group.local_rows)
      row_v = np.asarray(group.layout_row(0, place_v))
      kept_v = row_v < layout.total_rows  # other rows are padding
      rows_vd[row_v[kept_v]] = np.asarray(storage.take(state.tables.groups[name].stacks["rows"].rows_vd, place_v, dim))[kept_v]
    dense = {f"{part}.{number}.{name}": np.asarray(value[...]) for (part, _, number, name), value in nnx.to_flat_state(state.dense)}
    arrays: dict[str, Any] = {"rows_fvd": rows_vd.reshape(len(layout.tables), -1, dim)} | dense
    np.savez(path, **arrays)
    return {"exported": path}

  @functools.cached_property
  def products(self) -> Floor:
    """The step's matrix products, each compiled alone."""
    return Floor(self.run, shape_of(self.run))

  def floor(self, repeats: int) -> dict[str, float]:
    """The sums of the products' times, ms."""
    return self.products.sums(repeats)


class EmbTrainer:
  """Lookup and update alone with a given gradient, as benchmarks/lookup.py times them."""

  versions = StepTrainer.versions

  def __init__(self, spec: Spec):
    run = run_of(spec)
    build = build_of(run, shape_of(run))
    self.programs = engine_alone.make_programs(engine_alone.EngineCase(run, build.plan, build.mesh, skew=3.0))
    there = NamedSharding(build.mesh, split(build.mesh))
    grads = {"rows": load(spec.inputs)["grad_bfd"]}
    self.batches = [jax.device_put((lookups_of(build.plan.layout, batch), grads), there) for batch in _batches(spec)]
    self.state = jax.block_until_ready(self.programs.init())

  def step(self, number: int) -> float:
    self.state = jax.block_until_ready(self.programs.both(self.state, self.batches[number % len(self.batches)]))
    return math.nan


def make(spec: Spec) -> StepTrainer | EmbTrainer:
  """The trainer of a spec."""
  hardware.select_platform()
  return EmbTrainer(spec) if spec.workload == "emb" else StepTrainer(spec)


if __name__ == "__main__":
  serve(make, {"export": StepTrainer.export, "floor": StepTrainer.floor})
