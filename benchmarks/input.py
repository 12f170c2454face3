"""How many examples a second the input path gives, on the wall and per second of CPU time, with nothing else to do.

  python -m benchmarks.input --output=input.json --data=planted                # clicks drawn on the device
  python -m benchmarks.input --output=input.json --data=DIR                    # made by dlrm_jax.data.prepare: read, decode, cut, batch
  python -m benchmarks.input --output=input.json --data=DIR --order=shuffled

It is the path of dlrm_jax.train: `train_batches` of the source, then, in a second row for each batch size, the `put` to where the
step wants the batch, which is waited for. The time of one pass over --num_examples is taken whole, from the first file opened
to the last batch, so that what threads read ahead counts. A few batches before it, of the same examples, compile what is compiled and
bring the files into the system's cache: the time that a slow disk takes is not in the figures.

A trainer that takes R examples a second needs R / examples_per_cpu_s cores for its input. An output file that exists is replaced.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from benchmarks.measure import table
from benchmarks.measure.meshes import warn_if_simulated
from benchmarks.measure.output import check_output
from benchmarks.measure.table import number
from benchmarks.measure.timing import Timing, peak_rss_bytes
from dlrm_jax.batch import Batch, empty_batch
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import option
from dlrm_jax.config import ORDERS, MeshConfig, ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.source import Source, one_pass, open_source
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import make_mesh, placed, put_part, split

_PLANTED = PlantedConfig()


@dataclasses.dataclass(frozen=True)
class InputConfig:
  """Flags of `python -m benchmarks.input`."""

  output: str = option("", "JSON file to write; required")
  data: str = option("planted", "planted, or a directory written by dlrm_jax.data.prepare")
  batch_size: tuple[int, ...] = option((2048,), "examples per batch, a list")
  num_examples: int = option(262_144, "examples that are timed, of each row; of a data set with fewer, all it has")
  warmup: int = option(5, "batches before them that are not")
  seed: int = option(0, "on planted data, which examples are drawn; on a data set, their order if it is shuffled")
  order: str = option("time", "of a data set's examples: that of the log, or shuffled by the seed", ORDERS)
  mesh: str = option("1", "devices that a batch is put to: a number, or two axes such as 2x4")
  planted: PlantedConfig = _PLANTED

  def __post_init__(self) -> None:
    flags.check_choices(self)
    flags.check(len(self.batch_size) > 0 and min(self.batch_size) >= 1, self, "batch_size", "a list of numbers of at least 1")
    flags.check(self.warmup >= 0, self, "warmup", "at least 0")
    for run in runs(self):
      flags.check(run.train.batch_size <= self.num_examples, self, "num_examples", f"at least one batch ({run.train.batch_size})")


def runs(config: InputConfig) -> list[RunConfig]:
  """The run of each batch size. UserError where a mesh does not divide one."""
  model = ModelConfig(rows_by="hash")  # as any data set allows; which row an id uses is not decided here
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
  """Takes every batch and waits until it is there. The times from one to the next, the first from the start on; bytes of all batches.

  Args:
    batches: a pass.
    take: what is done with each; its result is waited for.
    clocks: of wall time and of CPU time, seconds.
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
  """What a training step does with a batch before it computes: `put`, then a compiled program that wants all of its arrays."""
  shape = source.shape
  empty = functools.partial(empty_batch, run.train.batch_size, shape.num_dense, shape.num_lookups, shape.weighted)
  program = jax.jit(lambda batch: batch.weight_b, keep_unused=True)
  compiled = program.lower(placed(jax.eval_shape(empty), mesh, split(mesh))).compile()
  return lambda batch: compiled(put_part(batch, mesh))


def measure(config: InputConfig, run: RunConfig, source: Source, mesh: Mesh, where: str) -> dict[str, Any]:
  """Times one pass; its row. `where`: "host", batches as the source gives them (planted ones are on the first device), or "devices"."""
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
    "peak_rss_bytes": peak_rss_bytes(),  # of the whole program so far
  }


def show(rows: list[dict[str, Any]]) -> None:
  """The rows as a table on standard output."""
  columns: dict[str, Any] = {
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
  table.show(f"input: {rows[0]['name']}, mesh {rows[0]['mesh']}", columns, rows)


def main(config: InputConfig) -> None:
  """Checks everything, then times pass after pass, writes the JSON file and prints a table."""
  hardware.select_platform()
  todo = runs(config)
  mesh, source = make_mesh(todo[0]), open_source(todo[0])
  todo = [one_pass(run, source) for run in todo]
  for run in todo:
    size, rows_there = run.train.batch_size, run.train.num_examples
    flags.check(size <= rows_there, config, "batch_size", f"at most the {rows_there} training examples of {source.name}")
  check_output(config.output)
  rows = []
  for run in todo:
    for where in ("host", "devices"):
      rows.append(measure(config, run, source, mesh, where))
      speed = f"{rows[-1]['examples_per_s']:,.0f} examples/s"
      print(f"{source.name}, batch {run.train.batch_size}, to {where}: {speed}", file=sys.stderr, flush=True)
  record.write_json(config.output, hardware.header() | {"results": rows})
  show(rows)
  warn_if_simulated(mesh.size)


if __name__ == "__main__":
  flags.run(main, InputConfig)
