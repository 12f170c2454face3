"""Times the input path alone: examples per second of wall time and of CPU time.

  python -m benchmarks.input --output=input.json --data=planted                # clicks drawn on the device
  python -m benchmarks.input --output=input.json --data=DIR                    # made by dlrm_jax.data.prepare: read, decode, cut, batch
  python -m benchmarks.input --output=input.json --data=DIR --order=shuffled

It is the input path of dlrm_jax.train. Each batch size has two rows: `host` times `train_batches` of the source, and `devices` adds the
`put` to the devices of the step, and waits for it. The clock runs over one whole pass of --num_examples, from the first file opened to
the last batch, so what threads read ahead counts. A few batches of the same examples come first. They compile what needs compiling and
bring the files into the system's cache, so the figures leave out the time of a slow disk.

A trainer that takes R examples a second needs R / examples_per_cpu_s cores for its input. An existing output file is replaced.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from benchmarks.measure.output import check_output, write_and_show
from benchmarks.measure.table import Columns, Row, number
from benchmarks.measure.timing import Timing, peak_rss_bytes
from dlrm_jax.batch import Batch, empty_batch
from dlrm_jax.common import flags
from dlrm_jax.common.flags import option
from dlrm_jax.common.progress import say
from dlrm_jax.config import ORDERS, MeshConfig, ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.source import Source, open_source, resolved
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import make_mesh, placed, put_part, split

_PLANTED = PlantedConfig()
_COLUMNS: Columns = {
  "put to": "put",
  "batch": number("batch_size", ","),
  "examples": number("num_examples", ","),
  "ms p50": number("step_ms_p50", ".3f"),
  "p90": number("step_ms_p90", ".3f"),
  "p99": number("step_ms_p99", ".3f"),
  "examples/s": number("examples_per_s", ",.0f"),
  "examples/CPU s": number("examples_per_cpu_s", ",.0f"),
  "cores used": number("cores_used", ".2f"),
  "MB/s": number("bytes_per_s", ",.1f", 1e-6),
}


@dataclasses.dataclass(frozen=True)
class InputConfig:
  """Flags of `python -m benchmarks.input`."""

  output: str = option("", "JSON file to write; required")
  data: str = option("planted", "planted, or a directory written by dlrm_jax.data.prepare")
  batch_size: tuple[int, ...] = option((2048,), "examples per batch, a list")
  num_examples: int = option(262_144, "timed examples of each row; all of a data set that has fewer")
  warmup: int = option(5, "untimed batches before them", at_least=0)
  seed: int = option(0, "planted data: which examples are drawn; a data set: their order if shuffled")
  order: str = option("time", "order of a data set's examples: as in the log, or shuffled by the seed", ORDERS)
  mesh: str = option("1", "devices that a batch is put to: a number, or two axes such as 2x4")
  planted: PlantedConfig = _PLANTED

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(len(self.batch_size) > 0 and min(self.batch_size) >= 1, self, "batch_size", "a list of numbers of at least 1")
    for run in runs(self):
      flags.check(run.train.batch_size <= self.num_examples, self, "num_examples", f"at least one batch ({run.train.batch_size})")


def runs(config: InputConfig) -> list[RunConfig]:
  """One run for each batch size. Raises UserError where a mesh does not divide one."""
  model = ModelConfig(rows_by="hash")  # any data set allows it, and the input path does not look rows up
  return [
    RunConfig(
      data=config.data,
      model=model,
      train=TrainConfig(num_examples=config.num_examples, batch_size=size, seed=config.seed, order=config.order),
      planted=config.planted,
      mesh=MeshConfig(mesh=config.mesh),
    )
    for size in config.batch_size
  ]


def batch_bytes(batch: Batch) -> int:
  """Bytes of a batch's arrays."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(batch))


def consume(batches: Iterator[Batch], take: Callable[[Batch], Any], clocks: tuple[Callable[[], float], ...]) -> tuple[Timing, int]:
  """Takes every batch and waits until it is ready. Returns the time of each batch and the bytes of all batches.

  Args:
    batches: one pass.
    take: called with each batch; the clock stops when its result is ready.
    clocks: wall clock and CPU clock, seconds.
  """
  marks = [[clock() for clock in clocks]]
  num_bytes = 0
  for batch in batches:
    jax.block_until_ready(take(batch))
    marks.append([clock() for clock in clocks])
    num_bytes += batch_bytes(batch)
  wall, cpu = ([after - before for before, after in zip(column, column[1:])] for column in zip(*marks))
  return Timing(tuple(wall), tuple(cpu)), num_bytes


def taker(run: RunConfig, source: Source, mesh: Mesh) -> Callable[[Batch], Any]:
  """Does what a training step does with a batch before it computes: `put`, then a compiled program that takes all of its arrays."""
  shape = source.shape
  empty = functools.partial(empty_batch, run.train.batch_size, shape.num_dense, shape.num_lookups, shape.weighted)
  program = jax.jit(lambda batch: batch.weight_b, keep_unused=True)
  compiled = program.lower(placed(jax.eval_shape(empty), mesh, split(mesh))).compile()
  return lambda batch: compiled(put_part(batch, mesh))


def measure(config: InputConfig, run: RunConfig, source: Source, mesh: Mesh, where: str) -> Row:
  """Times one pass and returns its row.

  `where` is "host" for batches as the source gives them (planted ones are on the first device), or "devices".
  """
  train = run.train
  take = taker(run, source, mesh) if where == "devices" else lambda batch: batch
  start = functools.partial(source.train_batches, train.seed, train.batch_size)
  clocks = (time.perf_counter, time.process_time)
  if config.warmup:
    consume(start(min(config.warmup * train.batch_size, train.num_examples)), take, clocks)
  timing, num_bytes = consume(start(train.num_examples), take, clocks)
  seconds, cpu_s = sum(timing.step_s), sum(timing.cpu_s)
  return {
    "name": source.name,
    "order": train.order,
    "put": where,
    "batch_size": train.batch_size,
    "mesh": run.mesh.mesh,
    "num_devices": mesh.size,
    "num_examples": train.num_examples,
    **timing.fields(),
    "examples_per_s": train.num_examples / seconds,
    "examples_per_cpu_s": train.num_examples / cpu_s,
    "cores_used": cpu_s / seconds,
    "bytes_per_example": num_bytes / len(timing.step_s) / train.batch_size,
    "bytes_per_s": num_bytes / seconds,
    "peak_rss_bytes": peak_rss_bytes(),  # of this process so far
  }


def main(config: InputConfig) -> None:
  """Checks the flags, times every pass, writes the JSON file and prints a table."""
  hardware.select_platform()
  todo = runs(config)
  mesh, source = make_mesh(todo[0]), open_source(todo[0])
  todo = [resolved(run, source) for run in todo]
  for run in todo:
    size, rows_there = run.train.batch_size, run.train.num_examples
    flags.check(size <= rows_there, config, "batch_size", f"at most the {rows_there} training examples of {source.name}")
  check_output(config.output)
  rows = []
  for run in todo:
    for where in ("host", "devices"):
      rows.append(measure(config, run, source, mesh, where))
      say(f"{source.name}, batch {run.train.batch_size}, to {where}: {rows[-1]['examples_per_s']:,.0f} examples/s")
  write_and_show(config.output, rows, f"input: {source.name}, mesh {config.mesh}", _COLUMNS, mesh.size)


if __name__ == "__main__":
  flags.run(main, InputConfig)
