"""Times training that reads a data set from disk against the same training on batches held in memory: what the input costs.

  python -m benchmarks.fed --output=fed.json --data=DIR                    # workload W1; DIR made by dlrm_jax.data.prepare
  python -m benchmarks.fed --output=fed.json --data=DIR --order=shuffled

One state is trained in turns of --steps. A turn from disk reads as dlrm_jax.train does: Grain's threads decode blocks, and batches are cut,
put and read ahead. The files are in the system's cache. The next turn takes the same batches from a list. Each pair of turns gives a ratio,
and the table shows their median. On one core, wall time shows the whole cost of the input. On more cores, threads hide it.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.measure.output import check_output, write_and_show
from benchmarks.measure.table import Columns, Row, number
from benchmarks.measure.workloads import RUNS
from dlrm_jax.common import flags
from dlrm_jax.common.flags import option
from dlrm_jax.common.progress import say
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import open_source
from dlrm_jax.machine import hardware
from dlrm_jax.training.learner import Learner, make_learner
from dlrm_jax.training.loop import batches_of
from dlrm_jax.training.step import Batches

_COLUMNS: Columns = {
  "batches from": "name",
  "ms a step": number("step_ms_p50", ".2f"),
  "CPU ms": number("cpu_ms_p50", ".2f"),
  "examples/s": number("examples_per_s", ",.0f"),
  "speed of memory": number("speed_of_memory", ".3f"),
  "by CPU": number("cpu_speed_of_memory", ".3f"),
}


@dataclasses.dataclass(frozen=True)
class FedConfig:
  """Flags of `python -m benchmarks.fed`."""

  output: str = option("", "JSON file to write; required")
  steps: int = option(64, "steps of a turn")
  rounds: int = option(10, "pairs of turns", at_least=1)
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(self.steps >= 1 and self.steps % self.run.steps_per_call == 0, self, "steps", "a multiple of --steps_per_call")


PRESETS = {name: FedConfig(run=run) for name, run in RUNS.items()}


def turn(learner: Learner, state: Any, batches: Iterator[Batches], steps: int, together: int) -> tuple[Any, list[Batches], float, float]:
  """Trains for `steps` steps. Returns the state after them, their batches, and seconds of wall time and of CPU time."""
  used: list[Batches] = []
  wall, cpu = time.perf_counter(), time.process_time()
  for _ in range(steps // together):
    taken = list(itertools.islice(batches, together))
    state = learner.train(state, taken)
    used += taken
  jax.block_until_ready(state)
  return state, used, time.perf_counter() - wall, time.process_time() - cpu


def measure(config: FedConfig) -> list[Row]:
  """A row for disk and one for memory. Raises UserError where the data set is too small."""
  run, source = config.run, open_source(config.run)
  size, together, needed = run.train.batch_size, run.steps_per_call, config.steps * (config.rounds + 1)
  have, examples = source.max_examples, 2 * needed * size  # twice what is read: blocks are decoded until the last turn
  flags.check(have is None or have >= examples, config, "rounds", f"fewer: {source.name} has {have} examples, {examples} are needed")
  learner = make_learner([run], source)
  state = learner.start()
  stream = batches_of([dataclasses.replace(run, train=dataclasses.replace(run.train, num_examples=examples))], source, learner)
  seen: dict[str, list[list[float]]] = {"disk": [], "memory": []}
  for round_ in range(config.rounds + 1):  # the first warms up
    state, used, *disk = turn(learner, state, stream, config.steps, together)
    state, _, *memory = turn(learner, state, iter(jax.block_until_ready(used)), config.steps, together)
    if round_:
      seen["disk"].append(disk)
      seen["memory"].append(memory)
      say(f"round {round_} of {config.rounds}: {memory[0] / disk[0]:.3f} of the speed in memory")
  times = {name: np.array(turns).T for name, turns in seen.items()}  # [wall or CPU, rounds]
  memory_wall, memory_cpu = times["memory"]
  return [
    {
      "name": name,
      "data": source.name,
      "batch_size": size,
      "order": run.train.order,
      "step_ms_p50": 1e3 * float(np.median(wall)) / config.steps,
      "cpu_ms_p50": 1e3 * float(np.median(cpu)) / config.steps,
      "examples_per_s": size * config.steps / float(np.median(wall)),
      "speed_of_memory": float(np.median(memory_wall / wall)),
      "cpu_speed_of_memory": float(np.median(memory_cpu / cpu)),
    }
    for name, (wall, cpu) in times.items()
  ]


def main(config: FedConfig) -> None:
  """Times both, writes the JSON file and prints a table."""
  hardware.select_platform()
  check_output(config.output)
  rows = measure(config)
  write_and_show(config.output, rows, f"training on {rows[0]['data']}, batch {rows[0]['batch_size']}", _COLUMNS)


if __name__ == "__main__":
  flags.run(main, FedConfig, PRESETS)
