"""Times workers in turns, and makes rows from their answers."""

import contextlib
import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.measure.timing import Timing
from benchmarks.peers.process import Worker
from benchmarks.peers.worker import Spec
from dlrm_jax.common.progress import say

_FIRST = 5  # steps of each worker before the first round
_FLOOR_REPEATS = 5  # of each product, in each round


@dataclasses.dataclass(frozen=True)
class Measured:
  """The answers of one worker.

  Attributes:
    spec: what it timed.
    versions: versions of its packages.
    turns: its answers to `run`, one a round.
    floors: `floor_ms` and `floor_cpu_ms`, the summed times of its matrix products alone, one a round. Empty for workers without `floor`.
  """

  spec: Spec
  versions: str
  turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  floors: list[dict[str, float]] = dataclasses.field(default_factory=list)

  def times(self, field: str) -> Timing:
    """The times of all steps; `field` is `wall_s` or `cpu_s`."""
    return Timing(tuple(second for turn in self.turns for second in turn[field]))

  def medians(self, field: str) -> list[float]:
    """The median time of a step in each round, s."""
    return [statistics.median(turn[field]) for turn in self.turns]


def measure(specs: Sequence[Spec], start: Callable[[Spec], Worker], rounds: int, steps: int, warmup: int, series: str) -> list[Measured]:
  """Starts a worker for each spec, then times them in turns, round after round, so the machine's noise falls on all alike."""
  with contextlib.ExitStack() as running:
    workers = []
    for number, spec in enumerate(specs, start=1):
      say(f"{series}: starting {number}/{len(specs)}: {spec.label}")
      workers.append(running.enter_context(start(spec)))
    for worker in workers:
      worker.ask({"run": 0, "warmup": _FIRST})
    out = [Measured(worker.spec, worker.versions) for worker in workers]
    for number in range(1, rounds + 1):
      say(f"{series}: round {number}/{rounds}")
      for worker, measured in zip(workers, out, strict=True):
        measured.turns.append(worker.ask({"run": steps, "warmup": warmup}))
        if worker.spec.trainer == "ours" and worker.spec.workload != "emb":
          measured.floors.append(worker.ask({"floor": _FLOOR_REPEATS}))
    return out


def _median(values: Iterable[float]) -> float:
  """The median; NaN without values."""
  return statistics.median(found) if (found := list(values)) else math.nan


def ratio(one: Measured, other: Measured | None, field: str) -> tuple[float, float, float]:
  """The time of a step of `one` over that of `other`: median, minimum and maximum over the rounds. NaN without `other`."""
  if other is None:
    return math.nan, math.nan, math.nan
  ratios = [a / b for a, b in zip(one.medians(field), other.medians(field), strict=True)]
  return statistics.median(ratios), min(ratios), max(ratios)


def _find(measured: Sequence[Measured], **wanted: Any) -> Measured | None:
  return next((m for m in measured if all(getattr(m.spec, name) == value for name, value in wanted.items())), None)


def rows_of(series: str, measured: Sequence[Measured], batch_size: int, differences: dict[str, float]) -> list[dict[str, Any]]:
  """Flat rows of a series.

  `ratio_to_ours` compares with ours of the same workload, size and cores. `growth` compares with the same trainer's smallest size.
  `speedup` compares one core with these. `times_floor` compares with the matrix products alone. All ratios are paired by round.
  `cpu_` ratios and `times_floor` are ratios of processor time.

  Args:
    series: name of the series.
    measured: the answers of all its workers.
    batch_size: examples per step.
    differences: trainer -> greatest relative difference from our losses in the check.
  """
  out = []
  for one in measured:
    spec = one.spec
    ours = _find(measured, trainer="ours", num_rows=spec.num_rows, cores=spec.cores)
    smallest = min((m for m in measured if m.spec.trainer == spec.trainer and m.spec.cores == spec.cores), key=lambda m: m.spec.num_rows)
    same = [m for m in measured if (m.spec.trainer, m.spec.num_rows) == (spec.trainer, spec.num_rows)]
    alone = next((m for m in same if len(m.spec.cores) == 1), None)
    wall, cpu = one.times("wall_s"), one.times("cpu_s")
    row = {
      "name": spec.trainer,
      "series": series,
      "workload": spec.workload,
      "table_optimizer": spec.table_optimizer,
      "batch_size": batch_size,
      "num_rows": spec.num_rows,
      "embed_dim": spec.embed_dim,
      "cores": len(spec.cores),
      "rounds": len(one.turns),
      "steps": len(wall.step_s),
      "step_ms_p50": wall.percentile_ms(50),
      "step_ms_p90": wall.percentile_ms(90),
      "cpu_ms_p50": cpu.percentile_ms(50),
      "examples_per_s": wall.per_second(batch_size),
      "peak_rss_bytes": one.turns[-1]["peak_rss_bytes"],
      "idle_cpu_ms": 1e3 * statistics.median(turn["idle_cpu_s"] for turn in one.turns),
      "floor_ms": _median(floor["floor_ms"] for floor in one.floors),
      "floor_cpu_ms": _median(floor["floor_cpu_ms"] for floor in one.floors),
      "times_floor": _median(1e3 * cpu_s / floor["floor_cpu_ms"] for cpu_s, floor in zip(one.medians("cpu_s"), one.floors)),
    }
    for prefix, field in (("", "wall_s"), ("cpu_", "cpu_s")):
      row |= dict(zip((f"{prefix}ratio_to_ours{end}" for end in ("", "_min", "_max")), ratio(one, ours, field), strict=True))
      row[f"{prefix}growth"] = ratio(one, smallest, field)[0]
    row["speedup"] = ratio(alone, one, "wall_s")[0] if alone else math.nan
    out.append(row | {"check_relative_difference": differences.get(spec.trainer, math.nan), "versions": one.versions})
  return out
