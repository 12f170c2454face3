"""Times the steps of a program, one by one and with the host running ahead: warm-up, times, percentiles. Used by the benchmarks."""

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
_ROUNDS = 5  # of pipelined steps; the median counts


@dataclasses.dataclass(frozen=True)
class Timing:
  """Times of successive steps, seconds each.

  Attributes:
    step_s: wall time.
    cpu_s: CPU time of all threads of this process. It leaves out waiting for devices and exceeds the wall time where several cores work.
      Empty where it was not measured.
  """

  step_s: tuple[float, ...]
  cpu_s: tuple[float, ...] = ()

  def divided(self, steps: int) -> "Timing":
    """The mean step of each call, if each time is of a call of `steps` steps. Percentiles are then over calls."""
    return Timing(*(tuple(t / steps for t in times) for times in (self.step_s, self.cpu_s)))

  def percentile_ms(self, percent: float) -> float:
    """The percentile of the wall time, ms; linear between the two nearest steps."""
    return 1e3 * float(np.percentile(self.step_s, percent))

  def cpu_percentile_ms(self, percent: float) -> float:
    """The percentile of the CPU time, ms; NaN where it was not measured."""
    return 1e3 * float(np.percentile(self.cpu_s, percent)) if self.cpu_s else math.nan

  def per_second(self, num: float) -> float:
    """The rate per second of something that occurs `num` times a step, over all steps, slow ones included."""
    return num * len(self.step_s) / math.fsum(self.step_s)

  def fields(self) -> dict[str, float]:
    """The fields about steps that every row of a benchmark has."""
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
  """Runs `warmup` untimed steps, then `steps` timed ones, over the inputs in turn.

  Each step starts when the state of the step before is ready, so a time covers a whole step and not only its dispatch.

  Args:
    step: (state, input) -> state; it may take the old state's buffers (donation).
    state: the state before the first step; it cannot be used afterwards.
    inputs: on the devices already.
    warmup, steps: numbers of steps.
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


@dataclasses.dataclass(frozen=True)
class Pipelined:
  """Times of rounds of steps in which the host waits once, at the end: as in training, where it prepares steps while a device computes.

  Attributes:
    step_s: wall time of a round over its steps, seconds.
    host_s: the part of it until the host had started the last step, over its steps. Where it is as long, the host sets the speed.
  """

  step_s: tuple[float, ...]
  host_s: tuple[float, ...]

  def divided(self, steps: int) -> "Pipelined":
    """The same for one step, if each was a call of `steps` steps."""
    return Pipelined(*(tuple(t / steps for t in times) for times in (self.step_s, self.host_s)))

  @property
  def seconds(self) -> float:
    """The median time of a step."""
    return float(np.median(self.step_s))

  def fields(self) -> dict[str, float]:
    """Medians over the rounds for a row of a benchmark, ms a step."""
    return {"pipelined_ms": 1e3 * self.seconds, "pipelined_host_ms": 1e3 * float(np.median(self.host_s))}


def time_pipelined(
  step: Callable[[State, Input], State],
  state: State,
  inputs: Sequence[Input],
  warmup: int,
  steps: int,
  clock: Callable[[], float] = time.perf_counter,
) -> Pipelined:
  """Runs `warmup` untimed steps, then rounds of timed ones, `steps` in all or a few more; each round waits for its last step alone.

  Arguments as those of `time_steps`.
  """
  jax.block_until_ready((state, inputs))
  for number in range(warmup):
    state = step(state, inputs[number % len(inputs)])
  jax.block_until_ready(state)
  count, wall, host = -(-steps // _ROUNDS), [], []
  for _ in range(_ROUNDS):
    start = clock()
    for number in range(count):
      state = step(state, inputs[number % len(inputs)])
    host.append((clock() - start) / count)
    jax.block_until_ready(state)
    wall.append((clock() - start) / count)
  return Pipelined(tuple(wall), tuple(host))


def peak_device_bytes() -> int | None:
  """The most memory of a local device that this process has used so far, bytes; None where devices do not say (CPUs)."""
  peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
  return max((int(peak) for peak in peaks if peak is not None), default=None)


def peak_rss_bytes() -> int:
  """The most host memory that this process has held so far, bytes (getrusage(2): kibibytes on Linux, bytes on macOS)."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
