"""Times the embedding engine alone: lookups and sparse updates over tables of many sizes, on the devices of this machine.

  python -m benchmarks.lookup --output=lookup.json                            # does a step's time grow with the tables?
  python -m benchmarks.lookup --output=dims.json --rows=100000 --dims=16,64,128 --bag_lengths=1,10 --skew=1,3

There are 26 features with a table each. Ids are floor(V u^skew) with u uniform, so --skew=1 is uniform and 3 about as skewed as a click
log. Every combination of the lists has three rows:

  gather  the pooled vectors of a batch, and the routes by which gradients go back
  update  one optimiser step of the rows looked up, given the routes and random gradients
  both    one program of both, as in training, with random gradients instead of a model between them

Bytes are counted from the structure (`engine_alone.operation_bytes`). A row that a cache holds counts all the same, so
`bandwidth_share` may exceed 1. Pipelined times are those of steps that the host starts without waiting for the one before, as in
training; the others wait for each. An existing output file is replaced.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from benchmarks.measure import ceilings
from benchmarks.measure.engine_alone import OPERATIONS, EngineCase, distinct_share, draw, make_programs, operation_bytes
from benchmarks.measure.output import check_output, write_and_show
from benchmarks.measure.table import Columns, Row, counted, number
from benchmarks.measure.timing import peak_device_bytes, peak_rss_bytes, time_pipelined, time_steps
from dlrm_jax.common import flags
from dlrm_jax.common.flags import option
from dlrm_jax.common.progress import say
from dlrm_jax.config import KERNELS, MeshConfig, ModelConfig, RunConfig, TrainConfig
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import machine_of, make_plan
from dlrm_jax.embedding.pool import Lookups
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import make_mesh, split
from dlrm_jax.presets import DLRM_INPUTS
from dlrm_jax.shape import DataShape

_FEATURES = 26
_BATCHES = 4  # distinct ones, used in turn
_ONE_DEVICE = MeshConfig()
_COLUMNS: Columns = {
  "operation": "operation",
  "rows": number("num_rows", ","),
  "dim": number("embed_dim", "d"),
  "bag": number("bag_length", "d"),
  "skew": number("skew", "g"),
  "distinct": number("distinct_share", ".3f"),
  "tables": "placements",
  "ms p50": number("step_ms_p50", ".3f"),
  "p90": number("step_ms_p90", ".3f"),
  "p99": number("step_ms_p99", ".3f"),
  "CPU ms": number("cpu_ms_p50", ".3f"),
  "pipelined ms": number("pipelined_ms", ".3f"),
  "M lookups/s": number("lookups_per_s", ",.2f", 1e-6),
  "GB/s": number("bytes_per_s", ",.2f", 1e-9),
  "of memory": number("bandwidth_share", ".3f"),
}


@dataclasses.dataclass(frozen=True)
class LookupConfig:
  """Flags of `python -m benchmarks.lookup`."""

  output: str = option("", "JSON file to write; required")
  rows: tuple[int, ...] = option((1000, 100_000, 1_000_000), "rows of every table, a list")
  dims: tuple[int, ...] = option((16,), "embedding dims, a list")
  bag_lengths: tuple[int, ...] = option((1,), "ids an example has of every feature, a list")
  skew: tuple[float, ...] = option((3.0,), "ids are floor(V u^skew), a list; 1: uniform, few duplicates")
  operations: tuple[str, ...] = option(OPERATIONS, "what is timed for each combination", OPERATIONS)
  steps: int = option(50, "timed steps of each row", at_least=1)
  warmup: int = option(5, "untimed steps before them", at_least=0)
  batch_size: int = option(2048, "examples per step")
  table_optimizer: str = option("rowwise_adagrad", "optimiser of the tables", tuple(OPTIMIZER_SLOTS))
  table_dtype: str = option("float32", "dtype of the rows", ("float32", "bfloat16"))
  kernels: str = option("auto", "on a CPU: kernels compiled for this machine's processor, or XLA's own loops", KERNELS)
  seed: int = option(0, "seed of rows, ids and gradients")
  mesh: MeshConfig = _ONE_DEVICE

  def __post_init__(self) -> None:
    flags.check_fields(self)
    for name in ("rows", "dims", "bag_lengths", "skew", "operations"):
      flags.check(len(getattr(self, name)) > 0, self, name, "a list of at least one")
    flags.check(min(self.dims) >= 1, self, "dims", "at least 1 each")
    flags.check(min(self.rows) >= 2, self, "rows", "at least 2 each")
    flags.check(min(self.bag_lengths) >= 1, self, "bag_lengths", "at least 1 each")
    flags.check(min(self.skew) > 0, self, "skew", "above 0 each")
    flags.check(self.mesh.parallelism == "jit", self.mesh, "parallelism", "jit: benchmarks.step times pmap")


def cases(config: LookupConfig) -> list[EngineCase]:
  """Every combination of the lists.

  Raises UserError where devices or memory do not suffice, or a mesh does not divide the batch.
  """
  out = []
  train = TrainConfig(batch_size=config.batch_size, table_optimizer=config.table_optimizer, seed=config.seed)
  for num_rows, dim, bag, skew in itertools.product(config.rows, config.dims, config.bag_lengths, config.skew):
    model = ModelConfig(embed_dim=dim, num_rows=num_rows, overarch_inputs=DLRM_INPUTS, table_dtype=config.table_dtype)
    run = RunConfig(model=model, train=train, mesh=config.mesh, kernels=config.kernels)
    shape = DataShape(0, tuple(f"C{f}" for f in range(_FEATURES)), (None,) * _FEATURES, (bag,) * _FEATURES)
    layout, mesh = make_layout(model, shape), make_mesh(run)
    out.append(EngineCase(run, make_plan(run, layout, machine_of(mesh)), mesh, skew))
  return out


def measure(config: LookupConfig, case: EngineCase) -> list[Row]:
  """Compiles and times the operations of one case. Returns a row for each."""
  run, layout, mesh = case.run, case.plan.layout, case.mesh
  size, limits = run.train.batch_size, ceilings.of(list(mesh.devices.flat), "float32", "default")
  here, rng = NamedSharding(mesh, split(mesh)), np.random.default_rng(run.train.seed)
  drawn = [draw(layout, size, case.skew, run.train.seed + number) for number in range(_BATCHES)]
  lookups = [jax.device_put(Lookups(row_bl, np.ones(row_bl.shape, bool), None), here) for row_bl in drawn]
  shape = (size, len(layout.tables), run.model.embed_dim)
  vectors = [{"rows": jax.device_put(rng.normal(size=shape).astype(np.float32), here)} for _ in range(_BATCHES)]
  distinct = float(np.mean([distinct_share(layout, row_bl) for row_bl in drawn]))
  programs, rows = make_programs(case), []
  for operation in config.operations:
    state, inputs = programs.init(), list[Any](lookups if operation == "gather" else zip(lookups, vectors))
    if operation == "update":
      for number, batch in enumerate(lookups):
        state = programs.gather(state, batch)
        inputs[number] = (jax.tree.map(jnp.copy, state.routes), vectors[number])
    timing = time_steps(getattr(programs, operation), state, inputs, config.warmup, config.steps)
    del state  # its buffers were donated; without the name one copy of the tables exists at a time
    pipelined = time_pipelined(getattr(programs, operation), programs.init(), inputs, config.warmup, config.steps)
    num_bytes = operation_bytes(run, layout, operation)
    rows.append(
      {
        "name": f"lookup {operation}",
        "operation": operation,
        "batch_size": size,
        "num_rows": run.model.num_rows,
        "embed_dim": run.model.embed_dim,
        "bag_length": layout.bag_lengths[0],
        "skew": case.skew,
        "num_features": len(layout.tables),
        "table_optimizer": run.train.table_optimizer,
        "table_dtype": layout.dtype,
        "mesh": run.mesh.mesh,
        "num_devices": mesh.size,
        "placements": counted(case.plan.placements),
        "kernels": "native" if case.plan.kernels else "xla",
        "distinct_share": distinct,
        **timing.fields(),
        "examples_per_s": timing.per_second(size),
        "lookups_per_s": timing.per_second(size * layout.num_lookups),
        **limits.shares(1 / timing.per_second(1), num_bytes=num_bytes),
        **pipelined.fields(),
        "pipelined_bandwidth_share": limits.shares(pipelined.seconds, num_bytes=num_bytes)["bandwidth_share"],
        "peak_rss_bytes": peak_rss_bytes(),  # of this process so far
        "peak_device_bytes": peak_device_bytes(),
      }
    )
    say(f"{operation} {rows[-1]['step_ms_p50']:.2f} ms; ", end="")
  say()
  return rows


def title_of(row: Row) -> str:
  """The title of the table: what is the same in all rows."""
  what = f"{row['num_features']} tables, batch {row['batch_size']:,}, mesh {row['mesh']}, {row['table_optimizer']}, {row['table_dtype']}"
  return f"lookup: {what}; kernels: {row['kernels']}; ceilings: {row['peak_source']}"


def main(config: LookupConfig) -> None:
  """Checks the flags, times every case, writes the JSON file and prints a table."""
  hardware.select_platform()
  todo = cases(config)
  rows: list[Row] = []
  check_output(config.output)
  for count, case in enumerate(todo, start=1):
    model = case.run.model
    size = f"{model.num_rows:,} rows, dim {model.embed_dim}, bags of {case.plan.layout.bag_lengths[0]}, skew {case.skew:g}"
    say(f"{count}/{len(todo)} {size}: ", end="")
    rows += measure(config, case)
  write_and_show(config.output, rows, title_of(rows[0]), _COLUMNS, todo[0].mesh.size)


if __name__ == "__main__":
  flags.run(main, LookupConfig)
