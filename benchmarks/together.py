"""Times runs trained together in one program against the same runs trained in turn: what `--together` of the sweeps saves here.

  python -m benchmarks.together --output=together.json --runs=4 --preset=small

Runs differ in seed, so that each draws or reads examples of its own, or in learning rates, so that all see the same ones. Both ways take
the same steps in turns. Examples are drawn or read on the way, as in training. Each pair of turns gives a ratio, and the median is shown.
Records, evaluations and compiling are left out: a cache saves compiling in both ways.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.measure import table
from benchmarks.measure.output import check_output
from benchmarks.measure.table import number
from dlrm_jax import presets
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import option
from dlrm_jax.common.progress import say
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import Source, open_source
from dlrm_jax.identity import together_key
from dlrm_jax.machine import hardware
from dlrm_jax.training.learner import make_learner
from dlrm_jax.training.loop import batches_of


@dataclasses.dataclass(frozen=True)
class TogetherConfig:
  """Flags of `python -m benchmarks.together`."""

  output: str = option("", "JSON file to write; required")
  runs: int = option(4, "runs at once", at_least=1)
  steps: int = option(64, "steps of a turn")
  rounds: int = option(8, "pairs of turns", at_least=1)
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(self.steps >= 1 and self.steps % self.run.steps_per_call == 0, self, "steps", "a multiple of --steps_per_call")
    flags.check(together_key(self.run) is not None, self.run.mesh, "mesh", "1, with --parallelism=jit and --learner=dlrm")


PRESETS = {name: TogetherConfig(run=run) for name, run in presets.PRESETS.items()}
Turn = Callable[[], None]


def alike(config: TogetherConfig, differ: str) -> list[RunConfig]:
  """The runs to train: of seeds --seed, --seed + 1, ..., or at so many learning rates."""
  train, size = config.run.train, config.run.train.batch_size * config.steps * (config.rounds + 1)
  out = []
  for i in range(config.runs):
    change = {"seed": train.seed + i} if differ == "seed" else {"table_lr": train.table_lr / (1 + i), "dense_lr": train.dense_lr / (1 + i)}
    out.append(dataclasses.replace(config.run, train=dataclasses.replace(train, num_examples=size, **change)))
  return out


def in_turn(configs: list[RunConfig], source: Source, steps: int) -> Turn:
  """A call trains every run for so many steps, one run after the other."""
  learners = [make_learner([config], source) for config in configs]
  states = [learner.start() for learner in learners]
  streams = [batches_of([config], source, learner) for learner, config in zip(learners, configs, strict=True)]

  def turn() -> None:
    for i, (learner, stream) in enumerate(zip(learners, streams, strict=True)):
      states[i] = _calls(learner.train, states[i], stream, steps, configs[0].steps_per_call)

  return turn


def at_once(configs: list[RunConfig], source: Source, steps: int) -> Turn:
  """A call trains all runs for so many steps together."""
  learner = make_learner(configs, source)
  state, stream = [learner.start()], batches_of(configs, source, learner)

  def turn() -> None:
    state[0] = _calls(learner.train, state[0], stream, steps, configs[0].steps_per_call)

  return turn


def _calls(train: Callable[..., Any], state: Any, stream: Iterator[Any], steps: int, each: int) -> Any:
  for _ in range(steps // each):
    state = train(state, list(itertools.islice(stream, each)))
  return jax.block_until_ready(state)


def measure(config: TogetherConfig) -> list[dict[str, Any]]:
  """A row for each way and each thing that runs differ in. UserError where the data set is too small."""
  source, rows = open_source(config.run), []
  needed, have = config.run.train.batch_size * config.steps * (config.rounds + 1), source.max_examples
  flags.check(have is None or have >= needed, config, "rounds", f"fewer: {source.name} has {have} examples, {needed} are needed")
  for differ in ("seed", "learning rates"):
    configs = alike(config, differ)
    ways = {"in turn": in_turn(configs, source, config.steps), "together": at_once(configs, source, config.steps)}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for round_ in range(config.rounds + 1):  # the first warms up
      for name, turn in ways.items():
        wall, cpu = time.perf_counter(), time.process_time()
        turn()
        seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
      if round_:
        say(f"{differ}, round {round_} of {config.rounds}")
    turns = {name: np.array(times)[1:].T for name, times in seen.items()}  # [wall or CPU, rounds]
    for name, (wall_r, cpu_r) in turns.items():
      beside_wall, beside_cpu = turns["in turn"]
      rows.append(
        {
          "name": name,
          "differ_in": differ,
          "runs": config.runs,
          "batch_size": config.run.train.batch_size,
          "step_ms_p50": 1e3 * float(np.median(wall_r)) / config.steps,
          "cpu_ms_p50": 1e3 * float(np.median(cpu_r)) / config.steps,
          "examples_per_s": config.runs * config.run.train.batch_size * config.steps / float(np.median(wall_r)),
          "speedup": float(np.median(beside_wall / wall_r)),
          "cpu_speedup": float(np.median(beside_cpu / cpu_r)),
        }
      )
  return rows


def main(config: TogetherConfig) -> None:
  """Times both ways, writes the JSON file and prints a table."""
  hardware.select_platform()
  check_output(config.output)
  rows = measure(config)
  record.write_json(config.output, hardware.header() | {"results": rows})
  columns: dict[str, Any] = {
    "runs": "name",
    "differ in": "differ_in",
    "ms a step of all": number("step_ms_p50", ".2f"),
    "CPU ms": number("cpu_ms_p50", ".2f"),
    "examples/s": number("examples_per_s", ",.0f"),
    "times as fast": number("speedup", ".2f"),
    "by CPU": number("cpu_speedup", ".2f"),
  }
  table.show(f"{config.runs} runs, batch {config.run.train.batch_size}", columns, rows)


if __name__ == "__main__":
  flags.run(main, TogetherConfig, PRESETS)
