"""Times the training step on the devices of this machine, and how it scales over meshes of them.

  python -m benchmarks.step --output=step.json                                # workload W1 on one device
  python -m benchmarks.step --output=scaling.json --preset=W2 --mesh=8 --scaling=both

The step is the one that dlrm_jax.train runs. Its random batches are on the devices before the clock starts, so the figures include
neither the input pipeline nor evaluation. In weak scaling --batch_size is the batch of one device. In strong scaling it is the batch
of all devices together. An existing output file is replaced.

Each step is timed twice: alone, when the host waits for it before it starts the next, and pipelined, when the host runs ahead as in
training. Where `pipelined_host_ms` is as long as `pipelined_ms`, the host sets the speed and not the device.

FLOP/s count the matrix products alone (model/flops.py). Bytes/s count the memory traffic of `step_bytes`. `mfu` and `bandwidth_share`
are their shares of what the devices could reach at most (measure/ceilings.py). `cpu_ms_p50` is the CPU time of a step, summed over all
threads.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding

from benchmarks.compiled import hlo
from benchmarks.compiled.exchanged import exchanged
from benchmarks.measure import ceilings
from benchmarks.measure.floor import Floor
from benchmarks.measure.output import check_output, write_and_show
from benchmarks.measure.table import Columns, Row, counted, number
from benchmarks.measure.timing import peak_device_bytes, peak_rss_bytes, time_pipelined, time_steps
from benchmarks.measure.workloads import RUNS
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.common.progress import say
from dlrm_jax.config import MeshConfig, RunConfig
from dlrm_jax.data.shapes import random_batch, shape_of
from dlrm_jax.embedding.planner import costs, machine_of
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import connect, split
from dlrm_jax.model.flops import Cost, cost
from dlrm_jax.shape import DataShape
from dlrm_jax.training.build import Build, build_of
from dlrm_jax.training.learner import NO_OPTIONS, dlrm_learner

_BATCHES = 8  # distinct ones, used in turn
_FLOOR_REPEATS = 9


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """Flags of `python -m benchmarks.step`."""

  output: str = option("", "JSON file to write; required")
  name: str = option("", "name of the rows; none: that of the preset")
  steps: int = option(50, "timed steps of each mesh", at_least=1)
  warmup: int = option(5, "untimed steps before them", at_least=0)
  scaling: str = option(
    "none", "also time smaller meshes: weak, batch_size a device; strong, batch_size in all", ("none", "weak", "strong", "both")
  )
  meshes: tuple[str, ...] = option((), "meshes to time; none: that of --mesh, and with --scaling the smaller ones of its series")
  price_per_device_hour: float | None = option(
    None, "price of a device for an hour, in any currency: adds the cost of a million examples to each row", above=0
  )
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(self.run.train.learner == "dlrm", self.run.train, "learner", "dlrm: nothing else is timed")
    for mesh in self.meshes:
      try:
        MeshConfig(mesh=mesh)
      except UserError:
        raise UserError(f"--meshes={','.join(self.meshes)}: '{mesh}' must be a number of devices such as 8, or two such as 2x4") from None


PRESETS = {name: StepConfig(name=name, run=run) for name, run in RUNS.items()}


@dataclasses.dataclass(frozen=True)
class StepCase:
  """One row to time: a run on one mesh of a series."""

  scaling: str
  run: RunConfig
  build: Build


def cases(config: StepConfig, shape: DataShape) -> list[StepCase]:
  """Every row to time. Raises UserError where devices or memory do not suffice, or a mesh does not divide its batch."""
  run, out = config.run, []
  kinds = ("weak", "strong") if config.scaling == "both" else (config.scaling,)
  for kind in kinds:
    for word in config.meshes or ([run.mesh.mesh] if kind == "none" else leading_to(run.mesh)):
      place = dataclasses.replace(run.mesh, mesh=word)
      batch_size = run.train.batch_size * (place.num_devices if kind == "weak" else 1)
      one = dataclasses.replace(run, mesh=place, train=dataclasses.replace(run.train, batch_size=batch_size))
      out.append(StepCase(kind, one, build_of(one, shape)))
  return out


def leading_to(mesh: MeshConfig) -> list[str]:
  """The meshes of a series that ends in `mesh`: its last axis grows by powers of two, then the one before it."""
  shapes = [(1,) * len(mesh.shape)]
  for axis in reversed(range(len(mesh.shape))):
    while (size := shapes[-1][axis]) < mesh.shape[axis]:
      shapes.append((*shapes[-1][:axis], min(2 * size, mesh.shape[axis]), *shapes[-1][axis + 1 :]))
  return ["x".join(map(str, shape)) for shape in shapes]


def step_bytes(run: RunConfig, counts: Cost, num_devices: int) -> int:
  """Bytes of memory that a step moves on all devices together, counted from the structure of the model.

  The count includes the rows and slots of every lookup (flops.py), and dense parameters and slots, read and written once on each device.
  It leaves out activations and gradients. A row that is looked up twice counts twice though a cache may hold it, so a share of the
  memory's bandwidth may exceed 1.
  """
  dense = counts.bytes["dense"] + counts.bytes["dense_slots"]
  return run.train.batch_size * counts.bytes["tables_moved_per_example"] + num_devices * 2 * dense


def measure(config: StepConfig, case: StepCase, shape: DataShape, options: Mapping[str, Any] = NO_OPTIONS) -> Row:
  """Compiles, with further XLA `options`, and times one case. Returns its row without the fields that depend on other rows."""
  run, plan, mesh = case.run, case.build.plan, case.build.mesh
  limits = ceilings.of(list(mesh.devices.flat), run.model.compute_dtype, run.model.matmul_precision)
  learner = dlrm_learner([run], case.build, options)
  there = NamedSharding(mesh, split(mesh))
  batches = [jax.device_put(learner.put(random_batch(run, shape, seed)), there) for seed in range(_BATCHES)]
  together = run.steps_per_call
  calls = [[(batches[(i * together + j) % _BATCHES],) for j in range(together)] for i in range(_BATCHES)]
  warmup, steps = -(-config.warmup // together), -(-config.steps // together)
  timed = time_steps(learner.train, learner.start(), calls, warmup, steps)
  timing, pipelined = timed.divided(together), time_pipelined(learner.train, learner.start(), calls, warmup, steps).divided(together)
  moved, planned = exchanged(hlo.collectives(learner.program_text())), costs(plan, run, machine_of(mesh))
  counts, examples_per_s = cost(run.model, run.train, plan.layout, shape.num_dense), timing.per_second(run.train.batch_size)
  flops = counts.flops_per_example["total"]

  def shares(seconds: float) -> Row:
    return limits.shares(seconds, flops * run.train.batch_size, step_bytes(run, counts, mesh.size))

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
    **pipelined.fields(),
    **{f"pipelined_{name}": share for name, share in shares(pipelined.seconds).items() if name in ("mfu", "bandwidth_share")},
    "pipelined_examples_per_s": run.train.batch_size / pipelined.seconds,
    "peak_rss_bytes": peak_rss_bytes(),  # of this process so far
    "peak_device_bytes": peak_device_bytes(),
    "flops_per_example": flops,
    **(Floor(run, shape).sums(_FLOOR_REPEATS) if mesh.size == 1 else {"floor_ms": None, "floor_cpu_ms": None}),
    **shares(run.train.batch_size / examples_per_s),
    "exchange_bytes_per_device": moved["values"],
    "exchange_other_bytes_per_device": moved["other"],
    "dense_bytes_per_device": moved["dense"],
    "mixed_bytes_per_device": moved["mixed"],
    "planned_bytes_per_device": sum(each.value_bytes for each in planned),
    "planned_other_bytes_per_device": sum(each.other_bytes for each in planned),
    "least_bytes_per_device": sum(each.least_bytes for each in planned),
  }


def compared(rows: list[Row], price_per_device_hour: float | None) -> list[Row]:
  """The rows with `efficiency` and, where a price is given, `cost_per_million_examples` in its currency.

  Efficiency is examples/s per device over that of the smallest mesh of the series; None without a series.
  """
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


def columns_of(rows: list[Row]) -> Columns:
  """The columns of the printed table; those that are empty in all rows are left out."""
  columns: dict[str, str | Callable[[Row], str]] = {
    "scaling": "scaling",
    "mesh": "mesh",
    "batch": number("batch_size", ","),
    "tables": "placements",
    "ms p50": number("step_ms_p50", ".2f"),
    "p90": number("step_ms_p90", ".2f"),
    "CPU ms": number("cpu_ms_p50", ".2f"),
    "floor ms": number("floor_ms", ".2f"),
    "pipelined": number("pipelined_ms", ".3f"),
    "examples/s": number("examples_per_s", ",.0f"),
    "GFLOP/s": number("flops_per_s", ",.1f", 1e-9),
    "MFU": number("mfu", ".3f"),
    "GB/s": number("bytes_per_s", ",.2f", 1e-9),
    "of memory": number("bandwidth_share", ".3f"),
  }
  if rows[0]["scaling"] != "none":
    columns["efficiency"] = number("efficiency", ".2f")
  kilobytes = {"rows kB": "exchange", "planned": "planned", "ids kB": "exchange_other", "MLP kB": "dense", "mixed kB": "mixed"}
  for name, field in kilobytes.items():  # of a device and step
    if any(row[f"{field}_bytes_per_device"] for row in rows):
      columns[name] = number(f"{field}_bytes_per_device", ",.1f", 1e-3)
  if "cost_per_million_examples" in rows[0]:
    columns["cost/million"] = number("cost_per_million_examples", ".4g")
  return columns


def title_of(row: Row) -> str:
  """The title of the table: what is the same in all rows."""
  model = f"at most {row['num_rows']:,} rows a table, dim {row['embed_dim']}, {row['compute_dtype']}, {row['parallelism']}"
  return f"{row['name']}: {model}; kernels: {row['kernels']}; ceilings: {row['peak_source']}"


def main(config: StepConfig) -> None:
  """Checks the flags, times every mesh, writes the JSON file and prints a table."""
  hardware.select_platform()
  connect(config.run)
  shape = shape_of(config.run)
  todo = cases(config, shape)
  check_output(config.output)
  rows = []
  for count, case in enumerate(todo, start=1):
    say(f"{count}/{len(todo)} {config.name} {case.scaling} mesh {case.run.mesh.mesh}, batch {case.run.train.batch_size}: ", end="")
    rows.append(measure(config, case, shape))
    say(f"{rows[-1]['step_ms_p50']:.2f} ms a step")
  rows = compared(rows, config.price_per_device_hour)
  if jax.process_index() == 0:
    write_and_show(config.output, rows, title_of(rows[0]), columns_of(rows), max(case.build.mesh.size for case in todo))


if __name__ == "__main__":
  flags.run(main, StepConfig, PRESETS)
