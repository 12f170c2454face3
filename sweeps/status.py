"""Shows how the runs of a sweep stand, whoever does them; changes nothing.

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

STATES = ("done", "diverged", "failed", "running", "queued")
_EVERY_S = 2.0
_WIDE = 140  # columns of a terminal that shows all


@dataclasses.dataclass(frozen=True)
class Totals:
  """A sweep in numbers.

  Attributes:
    counts: runs by state; every state of STATES has an entry.
    examples, total: seen by all runs, and to be seen in all. What diverged or failed counts as seen to its end.
    examples_per_s: of all runs that run now, together; one that has not told its rate yet counts with the median of the finished.
    watched_per_s: examples/s of the sweep since it was first looked at, with starting and compiling; None until a run has ended.
  """

  counts: Mapping[str, int]
  examples: int
  total: int
  examples_per_s: float
  watched_per_s: float | None = None

  @property
  def left_s(self) -> float | None:
    """Seconds left, by the slower of the two rates; None where nothing runs or has a rate yet."""
    rate = min(self.examples_per_s, self.watched_per_s or self.examples_per_s)
    return (self.total - self.examples) / rate if rate else None

  def line(self) -> str:
    """All of it in one line."""
    parts = [f"{count} {state}" for state, count in self.counts.items() if count or state in ("done", "queued")]
    if self.examples_per_s:
      parts.append(f"{self.examples_per_s:,.0f} examples/s, about {duration(self.left_s or 0)} left")
    return f"{sum(self.counts.values())} runs: {', '.join(parts)}"


class Runs:
  """The runs of a sweep, looked at again and again; runs that have a result are not read again.

  Args:
    workdir: the sweep's directory.
    totals: examples of each run, by config_id.
    stale_after_s: as for `claims.Observer`.
  """

  def __init__(self, workdir: str | Path, totals: Mapping[str, int], stale_after_s: float):
    self._workdir, self._totals = workdir, totals
    self._observer = claims.Observer(stale_after_s)
    self._began, self._ended, self._seen = time.monotonic(), -1, 0  # the first look, and what had ended and been seen by then
    self.standings: dict[str, Standing] = {}

  def look(self) -> Totals:
    """Reads anew what may have changed, into `standings`."""
    for config_id in self._totals:
      known = self.standings.get(config_id)
      if known is None or known.state not in store.RESULTS:
        self.standings[config_id] = stand(store.run_directory(self._workdir, config_id), self._observer)
    counts = Counter(standing.state for standing in self.standings.values())
    ended = (*store.RESULTS, "failed")
    seen = sum(total if self.standings[i].state in ended else self.standings[i].examples for i, total in self._totals.items())
    usual = store.median_speed(standing.out for standing in self.standings.values() if standing.out) or 0.0
    speed = sum(s.owner.get("examples_per_s") or usual for s in self.standings.values() if s.state == "running")
    now = sum(counts[state] for state in ended)
    self._ended, self._seen = (now, seen) if self._ended < 0 else (self._ended, self._seen)
    watched = (seen - self._seen) / (time.monotonic() - self._began) if now > self._ended else None
    return Totals({state: counts[state] for state in STATES}, seen, sum(self._totals.values()), speed, watched)


def duration(seconds: float) -> str:
  """Seconds for people: "45 s", "12 min", "3.5 h", "2.1 days"."""
  for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
    if seconds < most * size:
      return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{seconds / size:.0f} {unit}"
  return f"{seconds / 86400:.1f} days"


def failures(names: Mapping[str, str], standings: Mapping[str, Standing], workdir: str | Path) -> Iterable[str]:
  """One line for each failed run: its name, the first line of the error, and where its record lies."""
  for config_id, standing in standings.items():
    if standing.state == "failed" and standing.out:
      error, path = standing.out["error"], store.run_directory(workdir, config_id) / "record.json"
      first = (error["message"].splitlines() or [""])[0]
      yield f"{names[config_id]}: failed {standing.out['attempts']} times, {error['type']}: {first} ({path})"


def _table(points: Mapping[str, dict[str, Any]], runs: Runs, width: int) -> Table:
  """One line a run; a narrow terminal does without the columns that matter least."""
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
  """What to look at, and how."""

  workdir: str = flags.option("", "the directory of the sweep")
  watch: bool = flags.option(False, "show it anew every two seconds, until every run has ended")
  stale_after_s: float = flags.option(60.0, "a sweeper on another machine that gives no sign of life for so long counts as dead, seconds")

  def __post_init__(self) -> None:
    flags.check(bool(self.workdir), self, "workdir", "the directory of a sweep")
    flags.check(self.stale_after_s >= 1, self, "stale_after_s", "at least 1")


def main(config: StatusConfig) -> None:
  """Prints the table, or keeps it up to date."""
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
  """As `Point.name`, of a point in sweep.json; older ones have no label."""
  rates = "" if described.get("lr_factor", 1) == 1 else f" lr x{described['lr_factor']:g}"
  label = described.get("label", f"{described['size']:g}")
  return f"{described['workload']} {described['axis']}={label} seed {described['seed']} {described['learner']}{rates}"


if __name__ == "__main__":
  flags.run(main, StatusConfig)
