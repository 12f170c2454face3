"""Shows the state of every run of a sweep, whichever launcher trains them. It changes nothing.

python -m sweeps.status --workdir=runs/mine
python -m sweeps.status --workdir=runs/mine --watch
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.live import Live

from dlrm_jax.common import flags, record, terminal
from dlrm_jax.common.axis_names import below_largest
from sweeps.points import name_of
from sweeps.states import RunState, RunStates, alarm_lines, duration, failures

_EVERY_S = 2.0
_WIDE = 140  # columns of a terminal that shows all


def _table(points: Mapping[str, dict[str, Any]], runs: RunStates, width: int) -> terminal.Grid:
  """A table with one line for each run: NE on held-out rows where it has ended, its progressive loss where there is no such NE.

  A narrow terminal shows fewer columns.
  """
  totals = runs.look()
  table = terminal.Grid(totals.line())
  losses = {config_id: _progressive(run) for config_id, run in runs.states.items()}
  columns: tuple[str, ...] = ("state", "run", "examples", "left", "held-out NE")
  columns += ("progressive loss",) if any(loss is not None for loss in losses.values()) else ()
  columns += ("examples/s", "attempts", "by", "config_id") if width >= _WIDE else ()
  columns += ("alarms",) if any(run.alarms for run in runs.states.values()) else ()
  for column in columns:
    words_in = column in ("run", "state", "by", "config_id", "alarms")
    table.column(column, justify="left" if words_in else "right", no_wrap=column not in ("run", "progressive loss", "alarms"))
  order = {state: place for place, state in enumerate(("running", "failed", "diverged", "queued", "done"))}
  for config_id, run in sorted(runs.states.items(), key=lambda item: order[item[1].state]):
    point, owner = points[config_id], run.owner
    speed = owner.get("examples_per_s") or (run.out or {}).get("examples_per_s")
    left = duration((point["examples"] - run.examples) / speed) if owner and speed else ""
    ne, lost = None if owner else (run.out or {}).get("ne"), losses[config_id]
    by = f"{owner['host']} {owner['pid']}" + (f" job {owner['slurm_job']}" if owner["slurm_job"] else "") if owner else ""
    seen = f"{run.examples:,} of {point['examples']:,}"
    words = {"state": run.state, "run": point["name"], "examples": seen, "left": left}
    words |= {"held-out NE": "" if ne is None else f"{ne:.4f}", "progressive loss": "" if lost is None else f"{lost:.4f}"}
    words |= {"examples/s": f"{speed:,.0f}" if speed else "", "attempts": str(run.generation), "by": by, "config_id": config_id}
    words |= {"alarms": ", ".join(alarm.code for alarm in run.alarms)}
    table.row(*(words[column] for column in columns))
  return table


def _progressive(run: RunState) -> float | None:
  """The last known progressive log loss (nats) of a run that has no NE on held-out rows; None where it is not known."""
  out = run.out or {}
  loss = run.owner.get("loss") if run.owner else out.get("progressive_log_loss_recent") if out.get("ne") is None else None
  return None if loss is None else float(loss)


@dataclasses.dataclass(frozen=True)
class StatusConfig:
  """Which sweep to show, and how."""

  workdir: str = flags.option("", "the directory of the sweep")
  watch: bool = flags.option(False, "update the table every two seconds until every run has ended")
  stale_after_s: float = flags.option(
    60.0, "a sweeper on another machine counts as dead after this long without a sign of life, seconds", at_least=1
  )

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(bool(self.workdir), self, "workdir", "the directory of a sweep")


def main(config: StatusConfig) -> None:
  """Prints the table, or keeps it up to date with --watch."""
  described = record.read_json(Path(config.workdir) / "sweep.json")["points"]
  points: dict[str, dict[str, Any]] = {}
  for d in described:  # the first of several points that are one run, as in sweeps.run
    points.setdefault(d["config_id"], d | {"name": name_of(d), "examples": d.get("examples", 0)})
  runs = RunStates(config.workdir, {config_id: d["examples"] for config_id, d in points.items()}, config.stale_after_s)
  console = terminal.console(200)
  if not config.watch:
    console.print(_table(points, runs, console.width))
  else:
    with Live(_table(points, runs, console.width), console=console, auto_refresh=False) as live:
      while any(run.state in ("running", "queued") for run in runs.states.values()):
        time.sleep(_EVERY_S)
        live.update(_table(points, runs, console.width), refresh=True)
  names = {config_id: d["name"] for config_id, d in points.items()}
  for line in (*failures(names, runs.states, config.workdir), *alarm_lines(names, runs.states, below_largest(described))):
    console.print(line, soft_wrap=True)


if __name__ == "__main__":
  flags.run(main, StatusConfig)
