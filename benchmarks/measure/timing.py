"""Times one step of a program, over and over: warm-up, one time a step, percentiles. Used by the benchmarks of this package."""

import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np

State = TypeVar("State")
Input = TypeVar("Input")


@dataclasses.dataclass(frozen=True)
class Timing:
  """Times of successive steps, seconds each.

  Attributes:
    step_s: wall time.
    cpu_s: CPU time of all threads of this process, its waiting for other devices left out; more than the wall time where several
      cores work. Empty where it was not taken.
  """

  step_s: tuple[float, ...]
  cpu_s: tuple[float, ...] = ()

  def divided(self, steps: int) -> "Timing":
    """The mean step of each call, where what was timed was calls of so many steps. Percentiles are then of calls."""
    return Timing(*(tuple(t / steps for t in times) for times in (self.step_s, self.cpu_s)))

  def percentile_ms(self, percent: float) -> float:
    """The step time that `percent` % of the steps stay within, ms; linear between the two nearest."""
    return 1e3 * float(np.percentile(self.step_s, percent))

  def cpu_percentile_ms(self, percent: float) -> float:
    """The same of the CPU time; NaN where it was not taken."""
    return 1e3 * float(np.percentile(self.cpu_s, percent)) if self.cpu_s else math.nan

  def per_second(self, num: float) -> float:
    """How many of something a second, at `num` of them a step, over all steps: slow steps count."""
    return num * len(self.step_s) / math.fsum(self.step_s)

  def fields(self) -> dict[str, float]:
    """What every row of a benchmark says of its steps."""
    wall = {f"step_ms_p{percent}": self.percentile_ms(percent) for percent in (50, 90, 99)}
    return {"steps": len(self.step_s)} | wall | {"cpu_ms_p50": self.cpu_percentile_ms(50)}


def time_steps(
  step: Callable[[State, Input], State],
  state: State,
  inputs: Sequence[Input],
  warmup: int,
  steps: int,
  clock: Callable[[], float] = time.perf_counter,
  cpu_clock: Callable[[], float] = time.process_time,
) -> Timing:
  """Runs `warmup` steps that are not timed, then `steps` that are, over the inputs in turn.

  Every step starts when the state of the one before is there, so that a time is a whole step's and not that of its dispatch.

  Args:
    step: (state, input) -> state; it may take the old state's buffers (donation).
    state: before the first step; given up.
    inputs: already on the devices.
    warmup, steps: how many of each.
    clock: seconds, as `time.perf_counter`.
    cpu_clock: seconds, as `time.process_time`.
  """
  wall: list[float] = []
  cpu: list[float] = []
  jax.block_until_ready((state, inputs))
  for number in range(warmup + steps):
    cpu_start, start = cpu_clock(), clock()
    state = jax.block_until_ready(step(state, inputs[number % len(inputs)]))
    wall.append(clock() - start)
    cpu.append(cpu_clock() - cpu_start)
  return Timing(tuple(wall[warmup:]), tuple(cpu[warmup:]))


def peak_rss_bytes() -> int:
  """The most memory of the host that this process has held so far, bytes (getrusage(2): kibibytes on Linux, bytes on macOS)."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
