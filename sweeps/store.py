"""The files of a sweep: WORKDIR/sweep.json and the records under WORKDIR/runs/<config_id>/.

Called by every program that starts, trains, watches or reads a sweep. `claims` has the owner of each run.
"""

import contextlib
import fcntl
import json
import os
import statistics
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.data.source import Source
from dlrm_jax.machine import hardware
from dlrm_jax.training import checkpoint, run_facts
from sweeps.points import Point

RESULTS = ("done", "diverged")  # statuses of runs that are never trained again
ENDED = (*RESULTS, "failed")  # statuses of records


def run_directory(workdir: str | Path, config_id: str) -> Path:
  """Directory of one run."""
  return Path(workdir) / "runs" / config_id


def compile_cache(workdir: str | Path) -> Path:
  """Directory of the compiled programs of a sweep."""
  return Path(workdir) / "compile_cache"


class DamagedRun(UserError):
  """A file of a run, `path`, has other content than the trainer writes."""

  def __init__(self, path: Path, why: str):
    super().__init__(f"{path}: {why}")
    self.path = path


def read_run(directory: Path) -> dict[str, Any] | None:
  """The record of a run, checked against its curve; None if it has none yet. Raises DamagedRun where one of the two is damaged."""
  path = directory / "record.json"
  try:
    out = json.loads(path.read_bytes())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise DamagedRun(path, f"not valid JSON ({error})") from None
  known = isinstance(out, dict) and out.get("status") in ENDED and out.get("config_id") == directory.name
  if not known or (out["status"] in RESULTS and not isinstance(out.get("examples"), int)):
    raise DamagedRun(path, "not the record of this run")
  if out["status"] in RESULTS:
    _check_curve(directory / "curve.jsonl", out)
  return out


def _check_curve(path: Path, out: dict[str, Any]) -> None:
  try:
    examples = [int(row["examples"]) for row in record.read_curve(path)]
  except FileNotFoundError:
    raise DamagedRun(path, "not there, though the run has a record") from None
  except (ValueError, TypeError, KeyError) as error:
    raise DamagedRun(path, f"not one evaluation a line ({error})") from None
  whole = not examples or examples[-1] <= out["examples"] if out["status"] == "diverged" else examples[-1:] == [out["examples"]]
  if examples != sorted(set(examples)) or not whole:
    raise DamagedRun(path, f"its evaluations do not end at the {out['examples']} examples of the record")


def result(directory: Path) -> dict[str, Any] | None:
  """The record of a run that has ended with a result; None where it is absent or damaged."""
  try:
    out = read_run(directory)
  except DamagedRun:
    return None
  return out if out and out["status"] in RESULTS else None


def saved_examples(directory: Path) -> int:
  """Examples seen by the newest checkpoint of a run; 0 without any."""
  try:
    found = [path.parent.name for path in directory.glob(f"checkpoint/*/{checkpoint.MANIFEST}")]
  except FileNotFoundError:  # the run has ended and its owner removes the checkpoints at this moment
    found = []
  return max((int(name) for name in found if name.isdecimal()), default=0)


def records(workdir: str | Path) -> dict[str, dict[str, Any]]:
  """Every undamaged record below a sweep's directory, by config_id, whatever its status. Reports damaged ones on standard error."""
  found: dict[str, dict[str, Any]] = {}
  for path in sorted(Path(workdir).glob("runs/*/record.json")):
    try:
      out = read_run(path.parent)
    except DamagedRun as error:
      say(f"{error}: left out")
    else:
      found |= {path.parent.name: out} if out else {}
  return found


def move_aside(directory: Path) -> None:
  """Where the files of a run are damaged, renames them so that it can be trained again. Only the run's owner may call this."""
  try:
    read_run(directory)
  except DamagedRun as error:
    say(f"{error}: kept as {error.path.name}.damaged; the run is trained again")
    with contextlib.suppress(FileNotFoundError):
      os.replace(error.path, error.path.with_name(error.path.name + ".damaged"))
    (directory / "record.json").unlink(missing_ok=True)  # where the curve is damaged: without a record the run has no result


def failed_record(point: Point, source: Source, attempts: int, error: Exception) -> dict[str, Any]:
  """The record of a run that failed, with the traceback of `error`."""
  text = "".join(traceback.format_exception(error))
  return hardware.header() | {
    "status": "failed",
    "attempts": attempts,
    "error": {"type": type(error).__name__, "message": str(error), "traceback": text},
    "config_id": point.config_id,
    "config": run_facts.describe(point.config, source),
    "seed": point.seed,
  }


def median_speed(outs: Iterable[dict[str, Any]]) -> float | None:
  """Median examples/s of records; None where none has a rate."""
  speeds = [out["examples_per_s"] for out in outs if out.get("examples_per_s")]
  return statistics.median(speeds) if speeds else None


def write_sweep(workdir: str | Path, points: list[Point], header: dict[str, Any]) -> None:
  """Adds the points to WORKDIR/sweep.json and keeps those of earlier sweeps. A lock admits one sweeper at a time."""
  path = Path(workdir) / "sweep.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path.parent / ".sweep.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed or the process dies
    described = _described(path) if path.exists() else []
    bases = {d["workload"]: d["base"] for d in described}
    if bases and not set(bases) & {point.workload for point in points}:
      raise UserError(f"--workdir={workdir}: holds a sweep of {', '.join(bases)}; choose another directory")
    for point in points:
      if bases.setdefault(point.workload, point.base) != point.base:
        raise UserError(f"--workdir={workdir}: holds a sweep of another base configuration of {point.workload}; choose another directory")
    wanted = {_place(d): d for d in json.loads(record.dumps([p.describe() for p in points]))}
    there = {_place(d): d for d in described}
    if wanted.items() <= there.items():
      return
    record.write_json(path, header | {"points": list((there | wanted).values())})


def _described(path: Path) -> list[dict[str, Any]]:
  """The points in a sweep.json. Raises UserError where something else is in it."""
  points, needed = record.read_json(path).get("points"), {"workload", "base", "config_id", "axis", "size"}
  if not isinstance(points, list) or not all(isinstance(point, dict) and needed <= point.keys() for point in points):
    raise UserError(f"{path}: not the points of a sweep; choose another --workdir")
  return points


def _place(described: dict[str, Any]) -> tuple[Any, ...]:
  """What identifies a point, whatever other fields later versions give it."""
  return described["config_id"], described["axis"], described["size"]
