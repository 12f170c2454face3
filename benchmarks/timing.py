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
  """Wall times of successive steps, seconds each."""

  step_s: tuple[float, ...]

  def percentile_ms(self, percent: float) -> float:
    """The step time that `percent` % of the steps stay within, ms; linear between the two nearest."""
    return 1e3 * float(np.percentile(self.step_s, percent))

  def per_second(self, num: int) -> float:
    """How many of something a second, at `num` of them a step, over all steps: slow steps count."""
    return num * len(self.step_s) / math.fsum(self.step_s)


def time_steps(
  step: Callable[[State, Input], State],
  state: State,
  inputs: Sequence[Input],
  warmup: int,
  steps: int,
  clock: Callable[[], float] = time.perf_counter,
) -> Timing:
  """Runs `warmup` steps that are not timed, then `steps` that are, over the inputs in turn.

  Every step starts when the state of the one before is there, so that a time is a whole step's and not that of its dispatch.

  Args:
    step: (state, input) -> state; it may take the old state's buffers (donation).
    state: before the first step; given up.
    inputs: already on the devices.
    warmup, steps: how many of each.
    clock: seconds, as `time.perf_counter`.
  """
  times: list[float] = []
  jax.block_until_ready((state, inputs))
  for number in range(warmup + steps):
    start = clock()
    state = jax.block_until_ready(step(state, inputs[number % len(inputs)]))
    times.append(clock() - start)
  return Timing(tuple(times[warmup:]))


def peak_rss_bytes() -> int:
  """The most memory of the host that this process has held so far, bytes (getrusage(2): kibibytes on Linux, bytes on macOS)."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
