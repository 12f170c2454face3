"""Times the embedding engine alone: lookups and sparse updates over tables of many sizes, on the devices at hand.

  python -m benchmarks.lookup --output=lookup.json                            # does a step's time grow with the tables?
  python -m benchmarks.lookup --output=dims.json --rows=100000 --dims=16,64,128 --bag_lengths=1,10 --skew=1,3

26 features, as many tables; ids are floor(V u^skew) with u uniform, so that --skew=1 is uniform and 3 about as skewed as a click log.
Every combination of the lists is a point, and every point three rows:

  gather  the pooled vectors of a batch, and the routes by which gradients would go back
  update  one optimiser step of the rows looked up, given the routes and random gradients
  both    one program of both, as in training, with random gradients instead of a model between them

Bytes are a count (`engine_alone.operation_bytes`) in which a row that a cache holds counts all the same, so that `bandwidth_share` may
exceed 1. An output file that exists is replaced.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from benchmarks.measure import ceilings, table
from benchmarks.measure.engine_alone import OPERATIONS, Point, distinct_share, draw, make_programs, operation_bytes
from benchmarks.measure.meshes import counted, warn_if_simulated
from benchmarks.measure.output import check_output
from benchmarks.measure.table import number
from benchmarks.measure.timing import peak_rss_bytes, time_steps
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import option
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


@dataclasses.dataclass(frozen=True)
class LookupConfig:
  """Flags of `python -m benchmarks.lookup`."""

  output: str = option("", "JSON file to write; required")
  rows: tuple[int, ...] = option((1000, 100_000, 1_000_000), "rows of every table, a list of points")
  dims: tuple[int, ...] = option((16,), "embedding dims, a list of points")
  bag_lengths: tuple[int, ...] = option((1,), "ids an example has of every feature, a list of points")
  skew: tuple[float, ...] = option((3.0,), "ids are floor(V u^skew), a list of points; 1: uniform, few duplicates")
  operations: tuple[str, ...] = option(OPERATIONS, "what is timed at each point", OPERATIONS)
  steps: int = option(50, "steps that are timed, of each row")
  warmup: int = option(5, "steps before them that are not")
  batch_size: int = option(2048, "examples per step")
  table_optimizer: str = option("rowwise_adagrad", "optimiser of the tables", tuple(OPTIMIZER_SLOTS))
  table_dtype: str = option("float32", "dtype of the rows", ("float32", "bfloat16"))
  kernels: str = option("auto", "on a CPU: kernels compiled for this machine's processor, or XLA's own loops", KERNELS)
  seed: int = option(0, "rows, ids and gradients")
  mesh: MeshConfig = _ONE_DEVICE

  def __post_init__(self) -> None:
    flags.check_choices(self)
    for name in ("rows", "dims", "bag_lengths", "skew", "operations"):
      flags.check(len(getattr(self, name)) > 0, self, name, "a list of at least one")
    flags.check(min(self.dims) >= 1, self, "dims", "at least 1 each")
    flags.check(min(self.rows) >= 2, self, "rows", "at least 2 each")
    flags.check(min(self.bag_lengths) >= 1, self, "bag_lengths", "at least 1 each")
    flags.check(min(self.skew) > 0, self, "skew", "above 0 each")
    flags.check(self.steps >= 1, self, "steps", "at least 1")
    flags.check(self.warmup >= 0, self, "warmup", "at least 0")
    flags.check(self.mesh.parallelism == "jit", self.mesh, "parallelism", "jit: benchmarks.step times pmap")


def points(config: LookupConfig) -> list[Point]:
  """Every point, checked: UserError where devices or memory do not suffice or a mesh does not divide the batch."""
  out = []
  train = TrainConfig(batch_size=config.batch_size, table_optimizer=config.table_optimizer, seed=config.seed)
  for num_rows, dim, bag, skew in itertools.product(config.rows, config.dims, config.bag_lengths, config.skew):
    model = ModelConfig(embed_dim=dim, num_rows=num_rows, overarch_inputs=DLRM_INPUTS, table_dtype=config.table_dtype)
    run = RunConfig(model=model, train=train, mesh=config.mesh, kernels=config.kernels)
    shape = DataShape(0, tuple(f"C{f}" for f in range(_FEATURES)), (None,) * _FEATURES, (bag,) * _FEATURES)
    layout, mesh = make_layout(model, shape), make_mesh(run)
    out.append(Point(run, make_plan(run, layout, machine_of(mesh)), mesh, skew))
  return out


def measure(config: LookupConfig, point: Point, say: Callable[..., None]) -> list[dict[str, Any]]:
  """Compiles and times the operations of one point; their rows."""
  run, layout, mesh = point.run, point.plan.layout, point.mesh
  size, limits = run.train.batch_size, ceilings.of(list(mesh.devices.flat), "float32", "default")
  here, rng = NamedSharding(mesh, split(mesh)), np.random.default_rng(run.train.seed)
  drawn = [draw(layout, size, point.skew, run.train.seed + number) for number in range(_BATCHES)]
  lookups = [jax.device_put(Lookups(row_bl, np.ones(row_bl.shape, bool), None), here) for row_bl in drawn]
  shape = (size, len(layout.tables), run.model.embed_dim)
  vectors = [{"rows": jax.device_put(rng.normal(size=shape).astype(np.float32), here)} for _ in range(_BATCHES)]
  distinct = float(np.mean([distinct_share(layout, row_bl) for row_bl in drawn]))
  programs, rows = make_programs(point), []
  for operation in config.operations:
    state, inputs = programs.init(), list[Any](lookups if operation == "gather" else zip(lookups, vectors))
    if operation == "update":
      for number, batch in enumerate(lookups):
        state = programs.gather(state, batch)
        inputs[number] = (jax.tree.map(jnp.copy, state.routes), vectors[number])
    timing = time_steps(getattr(programs, operation), state, inputs, config.warmup, config.steps)
    del state  # donated; without the name, one copy of the tables at a time
    rows.append(
      {
        "name": f"lookup {operation}",
        "operation": operation,
        "batch_size": size,
        "num_rows": run.model.num_rows,
        "embed_dim": run.model.embed_dim,
        "bag_length": layout.bag_lengths[0],
        "skew": point.skew,
        "num_features": len(layout.tables),
        "table_optimizer": run.train.table_optimizer,
        "table_dtype": layout.dtype,
        "mesh": run.mesh.mesh,
        "num_devices": mesh.size,
        "placements": counted(point.plan.placements),
        "kernels": "native" if point.plan.kernels else "xla",
        "distinct_share": distinct,
        **timing.fields(),
        "examples_per_s": timing.per_second(size),
        "lookups_per_s": timing.per_second(size * layout.num_lookups),
        **limits.shares(1 / timing.per_second(1), num_bytes=operation_bytes(run, layout, operation)),
        "peak_rss_bytes": peak_rss_bytes(),  # of the whole program so far
      }
    )
    say(f"{operation} {rows[-1]['step_ms_p50']:.2f} ms; ", end="")
  say()
  return rows


def show(rows: list[dict[str, Any]]) -> None:
  """The rows as a table on standard output."""
  columns: dict[str, Any] = {
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
    "M lookups/s": number("lookups_per_s", ",.2f", 1e-6),
    "GB/s": number("bytes_per_s", ",.2f", 1e-9),
    "of memory": number("bandwidth_share", ".3f"),
  }
  first = rows[0]
  what = f"{first['num_features']} tables, batch {first['batch_size']:,}, mesh {first['mesh']}, {first['table_optimizer']}"
  table.show(f"lookup: {what}, {first['table_dtype']}; kernels: {first['kernels']}; ceilings: {first['peak_source']}", columns, rows)


def main(config: LookupConfig) -> None:
  """Checks everything, then times point after point, writes the JSON file and prints a table."""
  hardware.select_platform()
  todo, rows = points(config), []
  check_output(config.output)
  say = functools.partial(print, file=sys.stderr, flush=True)
  for count, point in enumerate(todo, start=1):
    model = point.run.model
    size = f"{model.num_rows:,} rows, dim {model.embed_dim}, bags of {point.plan.layout.bag_lengths[0]}, skew {point.skew:g}"
    say(f"{count}/{len(todo)} {size}: ", end="")
    rows += measure(config, point, say)
  record.write_json(config.output, hardware.header() | {"results": rows})
  show(rows)
  warn_if_simulated(todo[0].mesh.size)


if __name__ == "__main__":
  flags.run(main, LookupConfig)
