"""Times the training step on the devices at hand, and how it scales over meshes of them.

  python -m benchmarks.step --output=step.json                                # workload W1 on one device
  python -m benchmarks.step --output=scaling.json --preset=W2 --mesh=8 --scaling=both

It is the step that dlrm_jax.train runs, on random batches that are already on the devices: no input pipeline, no evaluation. Weak
scaling: --batch_size is of one device. Strong scaling: it is of all devices together. An output file that exists is replaced.

FLOP/s count the matrix products alone (model/flops.py), bytes/s what `step_bytes` says; `mfu` and `bandwidth_share` are their shares of
what the devices could do at most (measure/ceilings.py). `cpu_ms_p50` is the CPU time of a step, of all threads together.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from benchmarks.compiled import hlo
from benchmarks.compiled.exchanged import exchanged
from benchmarks.measure import ceilings, table
from benchmarks.measure.floor import Floor
from benchmarks.measure.meshes import counted, leading_to, warn_if_simulated
from benchmarks.measure.output import check_output
from benchmarks.measure.table import number
from benchmarks.measure.timing import peak_rss_bytes, time_steps
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.config import MeshConfig, ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.shapes import random_batch, shape_of
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.planner import costs, machine_of, make_plan
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import connect, make_mesh, split
from dlrm_jax.model.flops import Cost, cost
from dlrm_jax.presets import DLRM_INPUTS
from dlrm_jax.presets import PRESETS as RUN_PRESETS
from dlrm_jax.shape import DataShape
from dlrm_jax.training.build import Build
from dlrm_jax.training.learner import dlrm_learner

_BATCHES = 8  # distinct ones, used in turn
_FLOOR_REPEATS = 9


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """Flags of `python -m benchmarks.step`."""

  output: str = option("", "JSON file to write; required")
  name: str = option("", "what the rows are called; none: as the preset")
  steps: int = option(50, "steps that are timed, of each mesh")
  warmup: int = option(5, "steps before them that are not")
  scaling: str = option(
    "none", "more meshes: weak, batch_size on every device; strong, batch_size on all together", ("none", "weak", "strong", "both")
  )
  meshes: tuple[str, ...] = option((), "the meshes to time; none: that of --mesh, with --scaling also the smaller ones that lead to it")
  price_per_device_hour: float | None = option(
    None, "what a device costs an hour, in any currency: rows then say what a million examples cost"
  )
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check_choices(self)
    flags.check(self.steps >= 1, self, "steps", "at least 1")
    flags.check(self.warmup >= 0, self, "warmup", "at least 0")
    flags.check(self.price_per_device_hour is None or self.price_per_device_hour > 0, self, "price_per_device_hour", "above 0")
    flags.check(self.run.train.learner == "dlrm", self.run.train, "learner", "dlrm: nothing else is timed")
    for mesh in self.meshes:
      try:
        MeshConfig(mesh=mesh)
      except UserError:
        raise UserError(f"--meshes={','.join(self.meshes)}: '{mesh}' must be a number of devices such as 8, or two such as 2x4") from None


_W0 = RunConfig(
  model=ModelConfig(embed_dim=8, bottom=(16, 8), overarch=(64, 64, 1), overarch_inputs=DLRM_INPUTS),
  planted=PlantedConfig(dense_variance=0.5),
  steps_per_call=8,
)
_W1 = RunConfig(
  data="criteo_like",
  model=ModelConfig(embed_dim=16, num_rows=100_000, bottom=(512, 256, 64, 16), overarch=(512, 256, 1), overarch_inputs=DLRM_INPUTS),
  train=TrainConfig(batch_size=2048),
)
_W2 = dataclasses.replace(_W1, model=dataclasses.replace(_W1.model, embed_dim=64, bottom=(512, 256, 64, 64)))
PRESETS = {name: StepConfig(name=name, run=run) for name, run in ({"W1": _W1, "W2": _W2, "W0": _W0} | RUN_PRESETS).items()}


@dataclasses.dataclass(frozen=True)
class Case:
  """One row to be: a run on a mesh, in a series of them."""

  scaling: str
  run: RunConfig
  mesh: Mesh
  plan: Plan


def cases(config: StepConfig, shape: DataShape) -> list[Case]:
  """Every row to time, checked: UserError where devices or memory do not suffice or a mesh does not divide its batch."""
  run, out = config.run, []
  kinds = ("weak", "strong") if config.scaling == "both" else (config.scaling,)
  for kind in kinds:
    for word in config.meshes or ([run.mesh.mesh] if kind == "none" else leading_to(run.mesh)):
      place = dataclasses.replace(run.mesh, mesh=word)
      batch_size = run.train.batch_size * (place.num_devices if kind == "weak" else 1)
      one = dataclasses.replace(run, mesh=place, train=dataclasses.replace(run.train, batch_size=batch_size))
      mesh = make_mesh(one)
      out.append(Case(kind, one, mesh, make_plan(one, make_layout(one.model, shape), machine_of(mesh))))
  return out


def step_bytes(run: RunConfig, counts: Cost, num_devices: int) -> int:
  """Bytes of memory that a step moves on all devices together, a count from structure: the rows and slots of every lookup (flops.py), and
  dense parameters and slots read and written once on each device.

  Left out: activations and gradients. A row that is looked up twice counts twice though a cache may hold it, so that a share of the
  memory's bandwidth may exceed 1.
  """
  return run.train.batch_size * counts.bytes["tables_moved_per_example"] + num_devices * 2 * (
    counts.bytes["dense"] + counts.bytes["dense_slots"]
  )


def measure(config: StepConfig, case: Case, shape: DataShape) -> dict[str, Any]:
  """Compiles and times one case; its row without what depends on other rows."""
  run, plan = case.run, case.plan
  limits = ceilings.of(list(case.mesh.devices.flat), run.model.compute_dtype, run.model.matmul_precision)
  learner = dlrm_learner([run], Build.of(run, plan, shape.num_dense, case.mesh))
  there = NamedSharding(case.mesh, split(case.mesh))
  batches = [jax.device_put(learner.put(random_batch(run, shape, seed)), there) for seed in range(_BATCHES)]
  together = run.steps_per_call
  calls = [[(batches[(i * together + j) % _BATCHES],) for j in range(together)] for i in range(_BATCHES)]
  warmup, steps = -(-config.warmup // together), -(-config.steps // together)
  timed = time_steps(learner.train, learner.start(), calls, warmup, steps)
  timing = timed.divided(together)
  moved, planned = exchanged(hlo.collectives(learner.program_text())), costs(plan, run, machine_of(case.mesh))
  counts, examples_per_s = cost(run.model, run.train, plan.layout, shape.num_dense), timing.per_second(run.train.batch_size)
  flops = counts.flops_per_example["total"]
  return {
    "name": config.name,
    "scaling": case.scaling,
    "batch_size": run.train.batch_size,
    "num_rows": run.model.num_rows,
    "embed_dim": run.model.embed_dim,
    "compute_dtype": run.model.compute_dtype,
    "matmul_precision": run.model.matmul_precision,
    "mesh": run.mesh.mesh,
    "num_devices": run.mesh.num_devices,
    "parallelism": run.mesh.parallelism,
    "placements": counted(plan.placements),
    "kernels": "native" if plan.kernels else "xla",
    "steps_per_call": together,
    **timing.fields(),
    "steps": steps * together,  # percentiles are of calls of `steps_per_call`
    "examples_per_s": examples_per_s,
    "peak_rss_bytes": peak_rss_bytes(),  # of the whole program so far
    "flops_per_example": flops,
    **(Floor(run, shape).sums(_FLOOR_REPEATS) if case.mesh.size == 1 else {"floor_ms": None, "floor_cpu_ms": None}),
    **limits.shares(run.train.batch_size / examples_per_s, flops * run.train.batch_size, step_bytes(run, counts, case.mesh.size)),
    "exchange_bytes_per_device": moved["values"],
    "exchange_other_bytes_per_device": moved["other"],
    "dense_bytes_per_device": moved["dense"],
    "mixed_bytes_per_device": moved["mixed"],
    "planned_bytes_per_device": sum(each.value_bytes for each in planned),
    "planned_other_bytes_per_device": sum(each.other_bytes for each in planned),
    "least_bytes_per_device": sum(each.least_bytes for each in planned),
  }


def compared(rows: list[dict[str, Any]], price_per_device_hour: float | None) -> list[dict[str, Any]]:
  """The rows with `efficiency`, examples/s per device over that of the smallest mesh of the series (None without a series), and, where
  a price is given, `cost_per_million_examples` in its currency."""
  out = []
  for row in rows:
    series = [other for other in rows if other["scaling"] == row["scaling"]]
    base = min(series, key=lambda other: other["num_devices"])
    per_device = row["examples_per_s"] / row["num_devices"]
    efficiency = None if row["scaling"] == "none" else per_device / (base["examples_per_s"] / base["num_devices"])
    out.append(row | {"efficiency": efficiency})
    if price_per_device_hour is not None:
      out[-1]["cost_per_million_examples"] = price_per_device_hour / 3600 * 1e6 / per_device
  return out


def show(rows: list[dict[str, Any]]) -> None:
  """The rows as a table on standard output."""
  first = rows[0]
  columns: dict[str, Any] = {
    "scaling": "scaling",
    "mesh": "mesh",
    "batch": number("batch_size", ","),
    "tables": "placements",
    "ms p50": number("step_ms_p50", ".2f"),
    "p90": number("step_ms_p90", ".2f"),
    "p99": number("step_ms_p99", ".2f"),
    "CPU ms": number("cpu_ms_p50", ".2f"),
    "floor ms": number("floor_ms", ".2f"),
    "examples/s": number("examples_per_s", ",.0f"),
    "GFLOP/s": number("flops_per_s", ",.1f", 1e-9),
    "MFU": number("mfu", ".3f"),
    "GB/s": number("bytes_per_s", ",.2f", 1e-9),
    "of memory": number("bandwidth_share", ".3f"),
  }
  if first["scaling"] != "none":
    columns["efficiency"] = number("efficiency", ".2f")
  kilobytes = {"rows kB": "exchange", "planned": "planned", "ids kB": "exchange_other", "MLP kB": "dense", "mixed kB": "mixed"}
  for name, field in kilobytes.items():  # of a device and step
    if any(row[f"{field}_bytes_per_device"] for row in rows):
      columns[name] = number(f"{field}_bytes_per_device", ",.1f", 1e-3)
  if "cost_per_million_examples" in first:
    columns["cost/million"] = number("cost_per_million_examples", ".4g")
  model = f"at most {first['num_rows']:,} rows a table, dim {first['embed_dim']}, {first['compute_dtype']}, {first['parallelism']}"
  table.show(f"{first['name']}: {model}; kernels: {first['kernels']}; ceilings: {first['peak_source']}", columns, rows)


def main(config: StepConfig) -> None:
  """Checks everything, then times mesh after mesh, writes the JSON file and prints a table."""
  hardware.select_platform()
  connect(config.run)
  shape = shape_of(config.run)
  todo = cases(config, shape)
  check_output(config.output)
  say = functools.partial(print, file=sys.stderr, flush=True)
  rows = []
  for count, case in enumerate(todo, start=1):
    say(f"{count}/{len(todo)} {config.name} {case.scaling} mesh {case.run.mesh.mesh}, batch {case.run.train.batch_size}: ", end="")
    rows.append(measure(config, case, shape))
    say(f"{rows[-1]['step_ms_p50']:.2f} ms a step")
  rows = compared(rows, config.price_per_device_hour)
  if jax.process_index() == 0:
    record.write_json(config.output, hardware.header() | {"results": rows})
    show(rows)
    warn_if_simulated(max(case.mesh.size for case in todo))


if __name__ == "__main__":
  flags.run(main, StepConfig, PRESETS)
