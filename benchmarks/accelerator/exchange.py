"""Section `exchange`: collectives on all devices, the engine against the oracle there, and a step with sharded tables."""

import dataclasses
import functools

import jax

from benchmarks import collectives
from benchmarks.accelerator import engine_case
from benchmarks.accelerator.rows import Rows
from benchmarks.accelerator.small_steps import case, with_batch, with_model
from benchmarks.measure.table import Row
from benchmarks.measure.workloads import RUNS
from dlrm_jax.config import MeshConfig


def measure(rows: Rows) -> None:
  """Keeps a row for each collective, each placement against the oracle, and each step; one row that says so where there is one device."""
  count = jax.device_count()
  if count == 1:
    rows.keep({"what": "one device: there is nothing to exchange", "num_devices": 1})
    return
  for placement in ("row", "column", "replicated"):
    one = engine_case.Case(placement=placement, mesh=str(count), kernels="auto", batch_size=32 * count)
    rows.case(functools.partial(_engine, one), what="engine", case=str(one), num_devices=count)
  config = collectives.CollectivesConfig("", mesh=str(count))
  mesh = collectives.mesh_of(config)
  for kind in collectives.KINDS:
    rows.case(functools.partial(collectives.measure, config, mesh, kind, "float32", 1 if rows.tiny else 64), what="collective", kind=kind)
  run = with_batch(RUNS["W1"], (64 if rows.tiny else 2048) * count)
  for placement in ("row", "replicated"):
    sharded = dataclasses.replace(run, mesh=MeshConfig(mesh=str(count), placement=(placement,)))
    case(rows, f"W1, {placement}, {count} devices", with_model(sharded, num_rows=2000 if rows.tiny else 1_000_000), 100)


def _engine(one: engine_case.Case) -> Row:
  engine_case.run(one, steps=3)
  return {"ok": True}
