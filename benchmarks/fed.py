"""Training that reads a data set from disk beside the same training on the same batches held in memory: what the input costs.

  python -m benchmarks.fed --output=fed.json --data=DIR                    # workload W1; DIR made by dlrm_jax.data.prepare
  python -m benchmarks.fed --output=fed.json --data=DIR --order=shuffled

Both take the same steps, of one state, in turns of --steps: from disk as dlrm_jax.train does (blocks decoded by Grain's threads, batches
cut, put and read ahead; the files are in the system's cache), then from a list of the batches that these were. A pair of turns gives a
ratio; their median is what is shown. With one core to itself the wall shows all that the input costs; with more, threads hide it.
"""

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import step
from benchmarks.measure import table
from benchmarks.measure.output import check_output
from benchmarks.measure.table import number
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import option
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import open_source
from dlrm_jax.machine import hardware
from dlrm_jax.training.learner import Learner, make_learner
from dlrm_jax.training.loop import batches_of
from dlrm_jax.training.step import Batches


@dataclasses.dataclass(frozen=True)
class FedConfig:
  """Flags of `python -m benchmarks.fed`."""

  output: str = option("", "JSON file to write; required")
  steps: int = option(64, "steps of a turn")
  rounds: int = option(10, "pairs of turns")
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check(self.steps >= 1 and self.steps % self.run.steps_per_call == 0, self, "steps", "a multiple of --steps_per_call")
    flags.check(self.rounds >= 1, self, "rounds", "at least 1")


PRESETS = {name: FedConfig(run=config.run) for name, config in step.PRESETS.items()}


def turn(learner: Learner, state: Any, batches: Iterator[Batches], steps: int, together: int) -> tuple[Any, list[Batches], float, float]:
  """Takes so many steps; the state after them, their batches, seconds of the wall and of the CPU."""
  used: list[Batches] = []
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(steps // together):
    taken = list(itertools.islice(batches, together))
    state = learner.train(state, taken)
    used += taken
  jax.block_until_ready(state)
  return state, used, time.perf_counter() - wall, time.process_time() - cpu


def measure(config: FedConfig) -> list[dict[str, Any]]:
  """A row for each way. UserError where the data set is too small."""
  run, source = config.run, open_source(config.run)
  size, together, needed = run.train.batch_size, run.steps_per_call, config.steps * (config.rounds + 1)
  have, examples = source.max_examples, 2 * needed * size  # so that reading never ends: blocks are decoded in all turns alike
  flags.check(have is None or have >= examples, config, "rounds", f"fewer: {source.name} has {have} examples, {examples} are needed")
  learner = make_learner([run], source)
  state = learner.start()
  stream = batches_of([dataclasses.replace(run, train=dataclasses.replace(run.train, num_examples=examples))], source, learner)
  seen: dict[str, list[tuple[float, float]]] = {"disk": [], "memory": []}
  for round_ in range(config.rounds + 1):  # the first warms up
    state, used, *disk = turn(learner, state, stream, config.steps, together)
    state, _, *memory = turn(learner, state, iter(jax.block_until_ready(used)), config.steps, together)
    if round_:
      seen["disk"].append((disk[0], disk[1]))
      seen["memory"].append((memory[0], memory[1]))
      print(f"round {round_} of {config.rounds}: {memory[0] / disk[0]:.3f} of the speed in memory", file=sys.stderr, flush=True)
  rows = []
  for name, times in seen.items():
    wall, cpu = (np.array(column) for column in zip(*times))
    beside_wall, beside_cpu = (np.array(column) for column in zip(*seen["memory"]))
    rows.append(
      {
        "name": name,
        "data": source.name,
        "batch_size": size,
        "order": run.train.order,
        "step_ms_p50": 1e3 * float(np.median(wall)) / config.steps,
        "cpu_ms_p50": 1e3 * float(np.median(cpu)) / config.steps,
        "examples_per_s": size * config.steps / float(np.median(wall)),
        "speed_of_memory": float(np.median(beside_wall / wall)),
        "cpu_speed_of_memory": float(np.median(beside_cpu / cpu)),
      }
    )
  return rows


def main(config: FedConfig) -> None:
  """Times both ways, writes the JSON file and prints a table."""
  hardware.select_platform()
  check_output(config.output)
  rows = measure(config)
  record.write_json(config.output, hardware.header() | {"results": rows})
  columns: dict[str, Any] = {
    "batches from": "name",
    "ms a step": number("step_ms_p50", ".2f"),
    "CPU ms": number("cpu_ms_p50", ".2f"),
    "examples/s": number("examples_per_s", ",.0f"),
    "speed of memory": number("speed_of_memory", ".3f"),
    "by CPU": number("cpu_speed_of_memory", ".3f"),
  }
  table.show(f"training on {rows[0]['data']}, batch {rows[0]['batch_size']}", columns, rows)


if __name__ == "__main__":
  flags.run(main, FedConfig, PRESETS)
