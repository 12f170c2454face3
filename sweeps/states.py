"""The states of a sweep's runs, read from their records and claims. Shared by the code that trains runs and the code that shows them."""

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.training.alarms import Alarm, alarms_of, lines_of
from sweeps import claims, store

STATES = (*store.ENDED, "running", "queued")


@dataclasses.dataclass(frozen=True)
class RunState:
  """The state of one run as it was read.

  Attributes:
    state: one of STATES. A run is failed when its last attempt failed or too many were lost.
    known: False for a running run whose owner has not been seen to live yet.
    generation: the highest claim; 0 without any.
    counted: attempts that count towards --max_attempts, of a run without an owner.
    lost: the last attempt ended without an outcome, and no record says so yet.
    examples: examples seen so far (running), or by the newest checkpoint (queued, failed).
    owner: the content of a running run's claim: host, examples_per_s, loss and others.
    out: the record, where there is an undamaged one.
    alarms: what the record and the curve of a run with a result show.
  """

  state: str
  known: bool = True
  generation: int = 0
  counted: int = 0
  lost: bool = False
  examples: int = 0
  owner: dict[str, Any] = dataclasses.field(default_factory=dict)
  out: dict[str, Any] | None = None
  alarms: tuple[Alarm, ...] = ()


def state_of(directory: Path, observer: claims.Observer) -> RunState:
  """The state of a run now. Claims are read before the record, because an owner writes the record before its outcome."""
  history = claims.attempts(directory)
  try:
    out = store.read_run(directory)
  except store.DamagedRun:
    out = None  # the next owner renames the damaged file and reports it
  generation = history[-1].generation if history else 0
  if out and out["status"] in store.RESULTS:
    alarms = tuple(alarms_of(out, record.read_curve(directory / "curve.jsonl")))
    return RunState(out["status"], generation=generation, examples=out["examples"], out=out, alarms=alarms)
  lost = bool(history) and history[-1].outcome is None
  lives = observer.lives(directory, history[-1]) if lost else False
  if lives is not False:
    owner = history[-1].facts
    return RunState("running", lives is True, generation, examples=owner.get("examples", 0), owner=owner, out=out)
  saved = store.saved_examples(directory)
  return RunState("failed" if out else "queued", True, generation, claims.counted(history, saved), lost, saved, out=out)


def outcome_line(out: dict[str, Any]) -> str:
  """The outcome of a run as one line of text."""
  if out["status"] == "failed":
    return f"FAILED, {_error_line(out)}"
  if out["status"] == "diverged":
    return f"DIVERGED, {out['diverged_metric']} at step {out['diverged_step']}"
  scores = ", ".join(f"{name} {out[name]:.4f}" for name in ("ne", "excess") if out[name] is not None)
  return f"{scores}, {out['wall_s']:.0f} s, {out['examples_per_s']:,.0f} examples/s"


def _error_line(out: dict[str, Any]) -> str:
  return f"{out['error']['type']}: {(out['error']['message'].splitlines() or [''])[0]}"


@dataclasses.dataclass(frozen=True)
class Totals:
  """The numbers of a whole sweep.

  Attributes:
    counts: runs by state; every state of STATES has an entry.
    examples: examples seen by all runs. A run that diverged or failed counts with all of its examples.
    total: examples of all runs when they have ended.
    examples_per_s: speed of all running runs together. A run without a known speed counts with the median of the finished runs.
    left_s: seconds until all runs have ended; None where no speed is known.
  """

  counts: Mapping[str, int]
  examples: int
  total: int
  examples_per_s: float
  left_s: float | None = None

  def line(self) -> str:
    """The totals as one line of text."""
    parts = [f"{count} {state}" for state, count in self.counts.items() if count or state in ("done", "queued")]
    if self.left_s is not None:
      parts.append(f"{self.examples_per_s:,.0f} examples/s, about {duration(self.left_s)} left")
    return f"{sum(self.counts.values())} runs: {', '.join(parts)}"


class RunStates:
  """The states of a sweep's runs. Each `look` reads them anew, except those of runs that have a result.

  Args:
    workdir: the sweep's directory.
    totals: examples of each run, by config_id.
    stale_after_s: as for `claims.Observer`.
  """

  def __init__(self, workdir: str | Path, totals: Mapping[str, int], stale_after_s: float):
    self._workdir, self._totals = workdir, totals
    self._observer = claims.Observer(stale_after_s)
    self._began, self._ended, self._seen = time.monotonic(), -1, 0  # time of the first look, runs ended and examples seen by then
    self.states: dict[str, RunState] = {}

  def begin(self) -> None:
    """Looks, and lets the time left follow from what happens from now on, when training begins."""
    self._began, self._ended = time.monotonic(), -1
    self.look()

  def look(self) -> Totals:
    """Reads what may have changed into `states` and returns the totals."""
    for config_id in self._totals:
      known = self.states.get(config_id)
      if known is None or known.state not in store.RESULTS:
        self.states[config_id] = state_of(store.run_directory(self._workdir, config_id), self._observer)
    counts = Counter(run.state for run in self.states.values())
    seen = sum(total if self.states[i].state in store.ENDED else self.states[i].examples for i, total in self._totals.items())
    usual = store.median_speed(run.out for run in self.states.values() if run.out) or 0.0
    speed = sum(s.owner.get("examples_per_s") or usual for s in self.states.values() if s.state == "running")
    now = sum(counts[state] for state in store.ENDED)
    self._ended, self._seen = (now, seen) if self._ended < 0 else (self._ended, self._seen)
    total = sum(self._totals.values())
    left_s = (total - seen) / speed if speed else None
    if left_s is not None and now > self._ended:
      left_s += self._others_s(now - self._ended + counts["running"], seen, speed)
    return Totals({state: counts[state] for state in STATES}, seen, total, speed, left_s)

  def _others_s(self, started: int, seen: int, speed: float) -> float:
    """Seconds left for all but training: to start, compile and evaluate. A run takes as long for that as those `started` did since `begin`.

    It does not follow the examples: the first runs of a sweep may be a hundred times shorter than the last, and compile as long.
    """
    spent = max(0.0, time.monotonic() - self._began - (seen - self._seen) / speed)
    left = sum(1 - run.examples / self._totals[i] for i, run in self.states.items() if run.state not in store.ENDED)
    return spent / started * left


def duration(seconds: float) -> str:
  """Seconds as text for people: "45 s", "12 min", "3.5 h", "2.1 days"."""
  for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
    if seconds < most * size:
      return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
  return f"{seconds / 86400:.1f} days"


def failures(names: Mapping[str, str], states: Mapping[str, RunState], workdir: str | Path) -> Iterable[str]:
  """One line for each failed run: its name, the first line of the error, and the path of its record."""
  for config_id, run in states.items():
    if run.state == "failed" and run.out:
      path = store.run_directory(workdir, config_id) / "record.json"
      yield f"{names[config_id]}: failed {run.out['attempts']} times, {_error_line(run.out)} ({path})"


def alarm_lines(names: Mapping[str, str], states: Mapping[str, RunState], small: Collection[str]) -> list[str]:
  """`alarms.lines_of` for the runs that have a result."""
  return lines_of(names, {config_id: run.alarms for config_id, run in states.items() if run.state in store.RESULTS}, small)
