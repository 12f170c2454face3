"""Shows the state of every run of a sweep, whichever launcher trains them. It changes nothing.

python -m sweeps.status --workdir=runs/mine
python -m sweeps.status --workdir=runs/mine --watch
"""

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dlrm_jax.common import flags, record
from sweeps import claims, store
from sweeps.standing import Standing, stand

STATES = (*store.ENDED, "running", "queued")
_EVERY_S = 2.0
_WIDE = 140  # columns of a terminal that shows all


@dataclasses.dataclass(frozen=True)
class Totals:
  """The numbers of a whole sweep.

  Attributes:
    counts: runs by state; every state of STATES has an entry.
    examples: examples seen by all runs. A run that diverged or failed counts with all of its examples.
    total: examples of all runs when they have ended.
    examples_per_s: speed of all running runs together. A run without a known speed counts with the median of the finished runs.
    watched_per_s: examples/s of the sweep since the first look, with starting and compiling. None until a run has ended.
  """

  counts: Mapping[str, int]
  examples: int
  total: int
  examples_per_s: float
  watched_per_s: float | None = None

  @property
  def left_s(self) -> float | None:
    """Seconds left at the slower of the two speeds; None where no run has a speed yet."""
    rate = min(self.examples_per_s, self.watched_per_s or self.examples_per_s)
    return (self.total - self.examples) / rate if rate else None

  def line(self) -> str:
    """The totals as one line of text."""
    parts = [f"{count} {state}" for state, count in self.counts.items() if count or state in ("done", "queued")]
    if self.examples_per_s:
      parts.append(f"{self.examples_per_s:,.0f} examples/s, about {duration(self.left_s or 0)} left")
    return f"{sum(self.counts.values())} runs: {', '.join(parts)}"


class Runs:
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
    self.standings: dict[str, Standing] = {}

  def look(self) -> Totals:
    """Reads what may have changed into `standings` and returns the totals."""
    for config_id in self._totals:
      known = self.standings.get(config_id)
      if known is None or known.state not in store.RESULTS:
        self.standings[config_id] = stand(store.run_directory(self._workdir, config_id), self._observer)
    counts = Counter(standing.state for standing in self.standings.values())
    seen = sum(total if self.standings[i].state in store.ENDED else self.standings[i].examples for i, total in self._totals.items())
    usual = store.median_speed(standing.out for standing in self.standings.values() if standing.out) or 0.0
    speed = sum(s.owner.get("examples_per_s") or usual for s in self.standings.values() if s.state == "running")
    now = sum(counts[state] for state in store.ENDED)
    self._ended, self._seen = (now, seen) if self._ended < 0 else (self._ended, self._seen)
    watched = (seen - self._seen) / (time.monotonic() - self._began) if now > self._ended else None
    return Totals({state: counts[state] for state in STATES}, seen, sum(self._totals.values()), speed, watched)


def duration(seconds: float) -> str:
  """Seconds as text for people: "45 s", "12 min", "3.5 h", "2.1 days"."""
  for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
    if seconds < most * size:
      return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
  return f"{seconds / 86400:.1f} days"


def failures(names: Mapping[str, str], standings: Mapping[str, Standing], workdir: str | Path) -> Iterable[str]:
  """One line for each failed run: its name, the first line of the error, and the path of its record."""
  for config_id, standing in standings.items():
    if standing.state == "failed" and standing.out:
      error, path = standing.out["error"], store.run_directory(workdir, config_id) / "record.json"
      first = (error["message"].splitlines() or [""])[0]
      yield f"{names[config_id]}: failed {standing.out['attempts']} times, {error['type']}: {first} ({path})"


def _table(points: Mapping[str, dict[str, Any]], runs: Runs, width: int) -> Table:
  """A table with one line for each run. A narrow terminal shows fewer columns."""
  totals = runs.look()
  table = Table(title=totals.line(), title_justify="left")
  columns = ("state", "run", "examples", "left", "loss") + (("examples/s", "attempts", "by", "config_id") if width >= _WIDE else ())
  for column in columns:
    table.add_column(column, justify="left" if column in ("run", "state", "by", "config_id") else "right", no_wrap=column != "run")
  order = {state: place for place, state in enumerate(("running", "failed", "diverged", "queued", "done"))}
  for config_id, standing in sorted(runs.standings.items(), key=lambda item: order[item[1].state]):
    point, owner = points[config_id], standing.owner
    speed = owner.get("examples_per_s") or (standing.out or {}).get("examples_per_s")
    left = duration((point["examples"] - standing.examples) / speed) if owner and speed else ""
    lost = owner.get("loss", (standing.out or {}).get("progressive_log_loss_recent"))
    by = f"{owner['host']} {owner['pid']}" + (f" job {owner['slurm_job']}" if owner["slurm_job"] else "") if owner else ""
    seen = f"{standing.examples:,} of {point['examples']:,}"
    words = {"state": standing.state, "run": point["name"], "examples": seen, "left": left, "loss": "" if lost is None else f"{lost:.4f}"}
    words |= {"examples/s": f"{speed:,.0f}" if speed else "", "attempts": str(standing.generation), "by": by, "config_id": config_id}
    table.add_row(*(words[column] for column in columns))
  return table


@dataclasses.dataclass(frozen=True)
class StatusConfig:
  """Which sweep to show, and how."""

  workdir: str = flags.option("", "the directory of the sweep")
  watch: bool = flags.option(False, "update the table every two seconds until every run has ended")
  stale_after_s: float = flags.option(60.0, "a sweeper on another machine counts as dead after this long without a sign of life, seconds")

  def __post_init__(self) -> None:
    flags.check(bool(self.workdir), self, "workdir", "the directory of a sweep")
    flags.check(self.stale_after_s >= 1, self, "stale_after_s", "at least 1")


def main(config: StatusConfig) -> None:
  """Prints the table, or keeps it up to date with --watch."""
  described = record.read_json(Path(config.workdir) / "sweep.json")["points"]
  points = {d["config_id"]: d | {"name": _name(d), "examples": d.get("examples", 0)} for d in reversed(described)}
  runs = Runs(config.workdir, {config_id: d["examples"] for config_id, d in points.items()}, config.stale_after_s)
  console = Console(width=None if sys.stdout.isatty() else 200)
  if not config.watch:
    console.print(_table(points, runs, console.width))
  else:
    with Live(_table(points, runs, console.width), console=console, auto_refresh=False) as live:
      while any(standing.state in ("running", "queued") for standing in runs.standings.values()):
        time.sleep(_EVERY_S)
        live.update(_table(points, runs, console.width), refresh=True)
  for line in failures({config_id: d["name"] for config_id, d in points.items()}, runs.standings, config.workdir):
    console.print(line, soft_wrap=True, markup=False)


def _name(described: dict[str, Any]) -> str:
  """`Point.name` of a point in sweep.json; older files have no label."""
  rates = "" if described.get("lr_factor", 1) == 1 else f" lr x{described['lr_factor']:g}"
  label = described.get("label", f"{described['size']:g}")
  return f"{described['workload']} {described['axis']}={label} seed {described['seed']} {described['learner']}{rates}"


if __name__ == "__main__":
  flags.run(main, StatusConfig)
