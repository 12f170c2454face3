"""Where the runs of a sweep lie: WORKDIR/sweep.json and WORKDIR/runs/<config_id>/."""

import statistics
import sys
from pathlib import Path
from typing import Any

from dlrm_jax import record
from dlrm_jax.flags import UserError
from sweeps.points import Point


def run_directory(workdir: str | Path, config_id: str) -> Path:
  """Directory of one run."""
  return Path(workdir) / "runs" / config_id


def finished(workdir: str | Path, config_id: str) -> dict[str, Any] | None:
  """The record of a run, or None if it has none that can be read (it is then run again)."""
  path = run_directory(workdir, config_id) / "record.json"
  try:
    return record.read_json(path) if path.exists() else None
  except UserError as error:
    print(f"{error}: the run is done again", file=sys.stderr)
    return None


def records(workdir: str | Path) -> dict[str, dict[str, Any]]:
  """Every readable record under a sweep's directory, by config_id."""
  found = ((path.parent.name, finished(workdir, path.parent.name)) for path in sorted(Path(workdir).glob("runs/*/record.json")))
  return {name: out for name, out in found if out is not None}


def median_speed(finished_runs: dict[str, dict[str, Any]]) -> float | None:
  """Median examples/s of finished runs; None without any."""
  speeds = [r["examples_per_s"] for r in finished_runs.values() if r.get("examples_per_s")]
  return statistics.median(speeds) if speeds else None


def write_sweep(workdir: str | Path, points: list[Point], header: dict[str, Any]) -> None:
  """Adds the points to WORKDIR/sweep.json, keeping those of earlier sweeps in the same directory."""
  path = Path(workdir) / "sweep.json"
  described = record.read_json(path)["points"] if path.exists() else []
  bases = {d["workload"]: d["base"] for d in described}
  if bases and not set(bases) & {point.workload for point in points}:
    raise UserError(f"--workdir={workdir}: holds a sweep of {', '.join(bases)}; choose another directory")
  for point in points:
    if bases.setdefault(point.workload, point.base) != point.base:
      raise UserError(f"--workdir={workdir}: holds a sweep of another base configuration of {point.workload}; choose another directory")
  described += [d for d in (p.describe() for p in points) if d not in described]
  record.write_json(path, header | {"points": described})
