"""Runs a few training steps under jax.profiler and reports how their time divides among the named scopes of dlrm_jax.

  python -m benchmarks.profile --output=runs/profile                                  # workload W1
  python -m benchmarks.profile --output=runs/profile --preset=W0                      # planted data, drawn as training draws it

It writes a trace, which XProf and Perfetto open, and profile.json, which holds the time by scope and by operation, to the directory
--output. Time in which several operations run is divided among them, so the rows of the table sum to the wall time of a step. The program
was tested on CPUs. GPU and TPU traces are read by the same marks (hlo_op); a trace without them is refused.
"""

import collections
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from benchmarks.compiled import trace
from benchmarks.measure import table
from benchmarks.measure.output import check_output
from benchmarks.measure.table import Row
from benchmarks.measure.timing import time_steps
from benchmarks.measure.workloads import RUNS
from dlrm_jax.batch import Batch
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.common.progress import say
from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted import clicks as planted
from dlrm_jax.data.shapes import random_batch, shape_of
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import connect, split
from dlrm_jax.shape import DataShape
from dlrm_jax.training.build import build_of
from dlrm_jax.training.learner import NO_OPTIONS, Learner, dlrm_learner
from dlrm_jax.training.state import TrainState

_BATCHES = 8  # distinct random ones, used in turn
WITHOUT_GRAPHS = {"xla_gpu_enable_command_buffer": ""}  # XLA's option for GPUs: kernels of a command buffer carry no names in a trace
NO_SCOPE, BEFORE, BETWEEN, AFTER = "(no scope)", "(before the first op)", "(between ops)", "(after the last op)"
_IDLE = {
  BEFORE: "python, arguments, dispatch",
  BETWEEN: "no operation runs",
  AFTER: "buffers given back, the host told",
}


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
  """Flags of `python -m benchmarks.profile`."""

  output: str = option("", "directory for the trace and profile.json; required")
  name: str = option("", "name of the rows; none: that of the preset")
  steps: int = option(10, "profiled steps; on planted data rounded up to whole draws of several batches", at_least=1)
  warmup: int = option(5, "steps before them that are not profiled", at_least=0)
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(self.run.train.learner == "dlrm", self.run.train, "learner", "dlrm: nothing else is profiled")
    flags.check(self.run.mesh.parallelism == "jit", self.run.mesh, "parallelism", "jit")
    flags.check(self.run.num_processes == 1, self.run, "num_processes", "1: a trace is of one process")


PRESETS = {name: ProfileConfig(name=name, run=run) for name, run in RUNS.items()}


def steps_of(config: ProfileConfig) -> int:
  """How many steps to profile: on planted data a multiple of the batches that are drawn together, so each step has its share of a draw."""
  drawn = planted.drawn_together(config.run.train.batch_size) if config.run.data == "planted" else 1
  together = math.lcm(drawn, config.run.steps_per_call)
  return math.ceil(config.steps / together) * together


def batches(config: ProfileConfig, shape: DataShape, learner: Learner, sharding: NamedSharding) -> Callable[[], Batch]:
  """Returns a function that gives the next batch. Planted data is drawn; other batches are random and on the devices already."""
  run = config.run
  if run.data == "planted":
    stream = planted.Planted(run.planted).train_batches(run.train.seed, run.train.batch_size, sys.maxsize)
    return lambda: learner.put(next(stream))
  made = [jax.device_put(learner.put(random_batch(run, shape, seed)), sharding) for seed in range(_BATCHES)]
  return itertools.cycle(jax.block_until_ready(made)).__next__


def collect(config: ProfileConfig, learner: Learner, draw: Callable[[], Batch], steps: int) -> tuple[Path, float]:
  """Runs the steps without and with the profiler. Returns the directory of the trace and the mean step without profiler, ms."""
  together = config.run.steps_per_call
  warmup, calls = math.ceil(config.warmup / together), steps // together

  def one(state: TrainState, draw: Callable[[], Batch]) -> TrainState:
    return jax.block_until_ready(learner.train(state, [(draw(),) for _ in range(together)]))

  unprofiled = 1e3 / time_steps(one, learner.start(), [draw], warmup, calls).per_second(together)
  state = learner.start()
  for _ in range(warmup):
    state = one(state, draw)
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # calls of Python would fill the trace and slow down the steps
  runs = Path(config.output) / "plugins" / "profile"
  there = set(runs.glob("*"))
  with jax.profiler.trace(config.output, create_perfetto_trace=True, profiler_options=options):
    for number in range(calls):
      with jax.profiler.StepTraceAnnotation(trace.STEP, step_num=number):
        state = one(state, draw)
  (made,) = set(runs.glob("*")) - there
  return made, unprofiled


def rows_of(division: trace.Division, text: str, steps: int, others: str) -> tuple[list[Row], list[Row]]:
  """Returns one row a scope and one row an operation, longest first, ms a step. Idle times are the last of the scopes.

  Args:
    division: of all steps together.
    text: the compiled step; its first line names the program.
    steps: number of profiled steps.
    others: the scope of operations of other programs.
  """
  names, program = trace.op_names(text), text.split(maxsplit=2)[1].rstrip(",")
  ops: list[Row] = []
  for (its_program, op), time in sorted(division.ops.items(), key=lambda item: -item[1]):
    op_name = names.get(op, "") if its_program == program else ""
    scope = (trace.scope_of(op_name) or NO_SCOPE) if its_program == program else others
    ops.append({"program": its_program, "op": op, "op_name": op_name, "scope": scope, "ms_per_step": time / 1e3 / steps})
  scopes: dict[str, list[Row]] = collections.defaultdict(list)
  for row in ops:
    scopes[row["scope"]].append(row)
  rows: list[Row] = [
    {
      "scope": scope,
      "ms_per_step": math.fsum(row["ms_per_step"] for row in mine),
      "backward_ms_per_step": math.fsum(row["ms_per_step"] for row in mine if "transpose(" in row["op_name"]),
      "num_ops": len(mine),
      "top_op": mine[0]["op"],
      "top_op_ms": mine[0]["ms_per_step"],
    }
    for scope, mine in scopes.items()
  ]
  rows.sort(key=lambda row: -row["ms_per_step"])
  for scope, time in ((BEFORE, division.before), (BETWEEN, division.between), (AFTER, division.after)):
    rows.append({"scope": scope, "ms_per_step": time / 1e3 / steps, "backward_ms_per_step": 0.0, "num_ops": 0})
  wall = division.wall / 1e3 / steps
  return [row | {"share": row["ms_per_step"] / wall} for row in rows], ops


def show(config: ProfileConfig, out: dict[str, Any]) -> None:
  """Prints the scopes as a table, and how to open the trace."""
  run = config.run
  unprofiled = f"{out['step_ms_unprofiled']:.3f} ms without the profiler"
  total = {"scope": "a step, wall time", "ms_per_step": out["step_ms_profiled"], "share": 1.0, "longest": unprofiled}

  def longest(row: Row) -> str:
    return f"{row['top_op']} {row['top_op_ms']:.3f} ms" if "top_op" in row else _IDLE[row["scope"]]

  columns: table.Columns = {
    "scope": "scope",
    "ms a step": table.number("ms_per_step", ".3f"),
    "share": table.number("share", ".1%"),
    "backward ms": lambda row: f"{row['backward_ms_per_step']:.3f}" if row.get("backward_ms_per_step") else "",
    "ops": lambda row: str(row.get("num_ops") or ""),
    "the longest op": "longest",
  }
  title = f"{config.name}: batch {run.train.batch_size:,}, at most {run.model.num_rows:,} rows a table, dim {run.model.embed_dim}"
  table.show(title, columns, [*({"longest": longest(row), **row} for row in out["results"]), total])
  print(f"XProf: tensorboard --logdir={config.output} (with the package xprof), tab Profile")
  print(f"Perfetto: open {out['perfetto_trace']} at https://ui.perfetto.dev")


def main(config: ProfileConfig) -> None:
  """Checks the flags, runs and profiles the steps, writes profile.json and prints a table."""
  hardware.select_platform()
  connect(config.run)
  shape = shape_of(config.run)
  build = build_of(config.run, shape)
  if not config.output:
    raise UserError("--output=: must be a directory for the trace and profile.json")
  check_output(f"{config.output}/profile.json")
  options = WITHOUT_GRAPHS if jax.default_backend() == "gpu" else NO_OPTIONS
  learner, steps = dlrm_learner([config.run], build, options), steps_of(config)
  say(f"{config.name}: {steps} steps, with and without the profiler")
  made, unprofiled = collect(config, learner, batches(config, shape, learner, NamedSharding(build.mesh, split(build.mesh))), steps)
  (events_file,) = (path for path in made.glob("*.trace.json.gz"))
  division = trace.divide(*trace.read(events_file))
  text = learner.program_text()
  rows, ops = rows_of(division, text, steps, "draws" if config.run.data == "planted" else NO_SCOPE)
  run = config.run
  about = {
    "name": config.name,
    "batch_size": run.train.batch_size,
    "num_rows": run.model.num_rows,
    "embed_dim": run.model.embed_dim,
    "mesh": run.mesh.mesh,
  }
  out = {
    "steps": steps,
    "step_ms_unprofiled": unprofiled,
    "step_ms_profiled": division.wall / 1e3 / steps,
    "xprof_trace": str(next(made.glob("*.xplane.pb"))),
    "perfetto_trace": str(made / "perfetto_trace.json.gz"),
    "results": [about | row for row in rows],
    "ops": ops,
  }
  record.write_json(Path(config.output) / "profile.json", hardware.header() | out)
  show(config, out)


if __name__ == "__main__":
  flags.run(main, ProfileConfig, PRESETS)
