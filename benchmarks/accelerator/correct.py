"""Section `correct`: the engine against the dense oracle, then whole steps against a CPU's, and whether two equal runs have the same bits.

Steps amplify rounding errors. How much is measured on the CPU: its steps are repeated with the examples of each batch in another order,
which changes nothing but the order of sums. The difference between the device's tables and the CPU's is compared with that.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from benchmarks.accelerator import engine_case
from benchmarks.accelerator.rows import Rows
from benchmarks.accelerator.small_steps import with_batch, with_model
from benchmarks.measure.table import Row
from benchmarks.measure.workloads import RUNS
from dlrm_jax.config import RunConfig
from dlrm_jax.data.shapes import random_batch, shape_of
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import machine_of, make_plan
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.training.build import Build
from dlrm_jax.training.learner import dlrm_learner

_CASES: tuple[dict[str, Any], ...] = (
  {},
  {"bags": True, "optimizer": "adagrad"},
  {"optimizer": "sgd", "weight_decay": 0.01},
  {"bags": True, "optimizer": "adam"},
  {"dtype": "bfloat16", "bags": True},
  {"batch_size": 512},
)
_STEPS = 10
_FIRST_LOSS = 1e-5  # relative difference of the first loss that a device may have
_TABLES = 1e-4  # the same of the tables
_TIMES = 10.0  # or so many times the difference that another order of examples makes

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Trained:
  """A few steps on one device.

  Attributes:
    first: the arrays of the first state.
    losses: the summed loss of each step.
    tables: the rows after the last step.
  """

  first: list[Array]
  losses: Float[Array, " n"]
  tables: list[Array]


def measure(rows: Rows) -> None:
  """Keeps a row for each case of the engine, and one for the steps of each workload."""
  for changes in _CASES[:2] if rows.tiny else _CASES:
    case = engine_case.Case(placement="replicated", mesh="1", kernels="auto", **changes)
    rows.case(functools.partial(_engine, case), what="engine", case=str(case))
  w1 = with_model(with_batch(RUNS["W1"], 64) if rows.tiny else RUNS["W1"], num_rows=1000)
  small = dataclasses.replace(RUNS["small"], data="criteo_like", steps_per_call=1)
  for name, run in (("W1", w1), ("small", with_model(small, num_rows=1000))):
    run = with_model(run, matmul_precision="highest")
    rows.case(functools.partial(beside_cpu, run, 3 if rows.tiny else _STEPS), what="steps beside the CPU's", case=name)


def _engine(case: engine_case.Case) -> Row:
  """Equal to the oracle, or an error that says where not."""
  try:
    engine_case.run(case, steps=3)
  except AssertionError as error:
    return {"ok": False, "difference": " ".join(str(error).split())[:600]}
  return {"ok": True}


def beside_cpu(run: RunConfig, steps: int) -> Row:
  """The same steps from the same state here and on the CPU, and on the CPU with the examples of each batch in another order."""
  here, cpu = jax.devices()[0], jax.devices("cpu")[0]
  plain = dataclasses.replace(run, kernels="xla")
  found = trained(run, here, steps)
  again = trained(run, here, steps)
  judge = trained(plain, cpu, steps, found.first)
  moved = trained(plain, cpu, steps, found.first, np.random.default_rng(0).permutation(run.train.batch_size))
  loss_off = np.abs(found.losses / judge.losses - 1)
  off, own = (float(np.max(list(map(difference, which.tables, judge.tables)))) for which in (found, moved))  # NaN of any table stays
  return {
    "ok": bool(loss_off[0] <= _FIRST_LOSS and off <= max(_TABLES, _TIMES * own)),
    "steps": steps,
    "first_loss_difference": float(loss_off[0]),
    "last_loss_difference": float(loss_off[-1]),
    "tables_difference": off,
    "tables_difference_of_order": own,
    "same_bits_twice": all(np.array_equal(a, b) for a, b in zip(found.tables, again.tables, strict=True)),
  }


def trained(
  run: RunConfig, device: jax.Device, steps: int, first: list[Array] | None = None, order: Int[Array, " B"] | None = None
) -> Trained:
  """Trains on one device, from a given first state if there is one, on random batches that are the same everywhere, or in another order."""
  shape = shape_of(run)
  mesh = make_mesh(run, [device])
  plan = make_plan(run, make_layout(run.model, shape), machine_of(mesh))
  with jax.default_device(device):
    learner = dlrm_learner([run], Build.of(run, plan, shape.num_dense, mesh))
    state = learner.start()
    leaves, tree = jax.tree.flatten(state)
    if first is not None:  # the engine's scratch has another shape where this machine's kernels are used; each keeps its own
      pairs = zip(first, leaves, strict=True)
      leaves = [jax.device_put(given, x.sharding) if given.shape == x.shape else x for given, x in pairs]
      state = jax.tree.unflatten(tree, leaves)
    start, sums = [np.asarray(x) for x in leaves], [0.0]
    for number in range(steps):
      batch = random_batch(run, shape, number)
      batch = batch if order is None else jax.tree.map(lambda x: np.asarray(x)[order], batch)
      state = learner.train(state, [(learner.put(batch),)])
      sums.append(float(np.sum(state.progress.loss_sum)))
  tables = [np.asarray(stack.rows_vd) for group in state.tables.groups.values() for stack in group.stacks.values()]
  return Trained(start, np.diff(sums), tables)


def difference(one: Array, other: Array) -> float:
  """The norm of the difference over the norm of the other, in float64."""
  judge = other.astype(np.float64)
  return float(np.linalg.norm(one.astype(np.float64) - judge)) / max(float(np.linalg.norm(judge)), 1e-30)
