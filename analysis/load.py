"""Reads a work directory into polars tables: the sweep's points, its finished runs, and every evaluation of their curves.

Only `sweep.json`, `record.json` and `curve.jsonl` are read, or the file in which `analysis.kept` keeps them. Nothing is parsed out of names
or logs. Called by the commands of this package.
"""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from analysis import recorded
from analysis.fitting.thinning import evenly
from analysis.run_rows import EVALUATION, FLOORS, LOSSES, RUN, comparable, curve_rows, point_of, run_row
from dlrm_jax.common import flags, record
from dlrm_jax.common.axis_names import AXES, GRID
from dlrm_jax.training.alarms import Alarm, alarms_of

KEPT_SUFFIX = ".parquet"  # of a sweep kept in one file
SIZE_NAMES = {
  "data": "examples",
  "rows": "rows of the largest table",
  "dim": "embedding dim",
  "overarch": "overarch width",
  "mlp": "bottom MLP width",
  "overarch_depth": "hidden layers of the overarch",
  "mlp_depth": "hidden layers of the bottom MLP",
  "tables": "tables",
  "all": "rows, dim and widths",
  "batch_size": "batch size",
  "devices": "devices",
  "placement": "placement",
}
_POINT = {"workload": pl.String, "axis": pl.String, "size": pl.Float64, "seed": pl.Int64, "learner": pl.String, "config_id": pl.String}
_NEWER = {"label": pl.String, "sizes": pl.String, "lr_factor": pl.Float64}  # absent from sweeps of earlier versions


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What a work directory holds.

  Attributes:
    path: the directory, or the file that it was kept in.
    points: one row for each planned point. `label` is the size for people, `sizes` the size on each axis of a grid, as JSON. One
      configuration may be on several axes. On the rows axis `size` is the rows of the run's largest table.
    runs: one row for each run with a record, diverged and failed ones included. `horizon`: whether only the end of its curve counts, since
      its learning rate ran out there, or its rows are the most recent ones, of which the curve sees the oldest first.
      `rows`, `dim`: its sizes on these axes. `rows_cap`: the most rows that its tables may have. `order`, `window`: how its training
      examples were chosen. `base_rate`: the click rate of the training split. `base_rate_ne`,
      `logistic_ne`: the held-out NE of that rate, and of a logistic regression on the run's examples; null where it has none.
    curves: one row for each evaluation of a finished run.
    not_done: config_ids of planned runs without a record.
    diverged: config_ids whose run stopped on an undefined number.
    failed: config_ids whose run raised an error or was lost too often.
    source: the header of `sweep.json`, or of the record for a single run.
    configs: the configuration of each run with a record.
    alarms: what a reader must know of each finished or diverged run before its result is used (`dlrm_jax.training.alarms`).
  """

  path: Path
  points: pl.DataFrame
  runs: pl.DataFrame
  curves: pl.DataFrame
  not_done: tuple[str, ...]
  diverged: tuple[str, ...]
  failed: tuple[str, ...]
  source: dict[str, Any]
  configs: dict[str, dict[str, Any]]
  alarms: dict[str, tuple[Alarm, ...]]

  @property
  def num_done(self) -> int:
    """The number of finished runs."""
    return len(self.runs) - len(self.diverged) - len(self.failed)

  def evaluations(self) -> pl.DataFrame:
    """Every evaluation with its point and its run's totals, in the points' order: one row for each point that the evaluation belongs to."""
    totals = self.runs.select(pl.exclude(set(RUN) & set(EVALUATION) - {"config_id"}))
    joined = self.points.join(self.curves, on="config_id", maintain_order="left")
    return joined.join(totals, on="config_id", maintain_order="left")


def load(workdir: str | Path) -> Sweep:
  """Reads DIR/sweep.json with DIR/runs/*, or DIR/runs/* alone, or a single run's DIR/record.json; or a sweep kept in one file.

  Raises UserError in one line when there is nothing to report on or a file is broken.
  """
  path = Path(workdir)
  if path.is_file():
    with _unpacked(path) as folder:
      try:
        return dataclasses.replace(load(folder), path=path)
      except flags.UserError as error:
        raise flags.UserError(str(error).replace(str(folder), str(path))) from None
  if not path.is_dir():
    raise flags.UserError(f"--workdir={path}: no such directory")
  sweep_file, single = path / "sweep.json", path / "record.json"
  folders = sorted(p.parent for p in path.glob("runs/*/record.json")) or ([path] if single.exists() else [])
  if not folders:
    planned = f", its sweep.json plans {_num_planned(sweep_file)} points" if sweep_file.exists() else ""
    raise flags.UserError(f"--workdir={path}: no finished run (no record.json in it nor in runs/*/){planned}")
  records = [(folder, record.read_json(folder / "record.json")) for folder in folders]
  for folder, entry in records:
    recorded.check_record(folder / "record.json", entry, [*LOSSES, *FLOORS])
  if sweep_file.exists():
    source = record.read_json(sweep_file)
    recorded.check_header(sweep_file, source)
    rows = _rows(sweep_file, source, "points")
  else:
    source = records[0][1]
    rows = [point_of(folder, entry) for folder, entry in records]
  points = _points(rows, {str(e.get("config_id")): max(t["num_rows"] for t in e["tables"]) for _, e in records if e.get("tables")})
  known = set(points["config_id"])
  records = [(folder, entry) for folder, entry in records if entry.get("config_id") in known]
  runs = pl.DataFrame([run_row(folder, entry) for folder, entry in records], schema=RUN, strict=False)
  diverged, failed = (tuple(runs.filter(status=status)["config_id"]) for status in ("diverged", "failed"))
  done = [(folder, entry) for folder, entry in records if entry["status"] == "done"]
  if not done:
    raise flags.UserError(f"--workdir={path}: no run to report on: {len(diverged)} diverged, {len(failed)} failed")
  lines = {entry["config_id"]: curve_rows(folder / "curve.jsonl", entry) for folder, entry in done}
  alarms = {entry["config_id"]: tuple(alarms_of(entry, lines[entry["config_id"]])) for _, entry in done}
  evaluations = [{**line, "config_id": name} for name, curve in lines.items() for line in comparable(curve)]
  curves = pl.DataFrame([{name: line.get(name) for name in EVALUATION} for line in evaluations], schema=EVALUATION, strict=False)
  finished = set(runs["config_id"])
  not_done = tuple(name for name in dict.fromkeys(points["config_id"]) if name not in finished)
  configs = {entry["config_id"]: entry.get("config") or {} for _, entry in records}
  return Sweep(path, points, runs, curves, not_done, diverged, failed, source, configs, alarms)


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
  """The directory that a kept file was made from, for as long as the block lasts. Raises UserError where the file is no kept sweep."""
  try:
    table = pl.read_parquet(path, columns=["path", "text"], glob=False).cast(pl.String)
  except (OSError, pl.exceptions.PolarsError) as error:
    raise flags.UserError(f"--workdir={path}: not a file of analysis.kept ({str(error).splitlines()[0]})") from None
  with tempfile.TemporaryDirectory() as folder:
    for name, text in table.rows():
      if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise flags.UserError(f"--workdir={path}: has the path {name}: must be a path inside the sweep's directory")
      target = Path(folder) / name
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_text(text)
    yield Path(folder)


def axes_of(frame: pl.DataFrame) -> list[str]:
  """The axes of some points in the order of tables and figures, grids last."""
  there = list(dict.fromkeys(frame["axis"]))
  return [axis for axis in AXES if axis in there] + [axis for axis in there if axis not in AXES]


def some_sizes(frame: pl.DataFrame, most: int) -> pl.DataFrame:
  """The rows of one axis at no more than so many sizes, chosen `evenly`."""
  return frame.filter(pl.col("size").is_in(evenly(sorted(set(frame["size"])), most)))


def _points(rows: list[dict[str, Any]], tables: dict[str, int]) -> pl.DataFrame:
  """The points as `Sweep` has them. `tables`: rows of the largest table of each run that has a record."""
  out = []
  for row in rows:
    size, label = row["size"], row.get("label") or f"{row['size']:.12g}"
    if row["axis"] == "rows" and tables.get(row["config_id"], size) < size:  # an earlier version wrote the cap, also where it was larger
      size, label = tables[row["config_id"]], str(tables[row["config_id"]])
    sizes = json.dumps(row.get("sizes") or {row["axis"]: size})
    newer = {"label": label, "sizes": sizes, "lr_factor": row.get("lr_factor") or 1.0}
    out.append({name: row[name] for name in _POINT} | {"size": size} | newer)
  points = pl.DataFrame(out, schema=_POINT | _NEWER, strict=False)
  return points.unique(["workload", "axis", "size", "config_id"], maintain_order=True)


def _num_planned(sweep_file: Path) -> int:
  points = record.read_json(sweep_file).get("points")
  return len(points) if isinstance(points, list) else 0


def _rows(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
  rows = content.get(key)
  if not isinstance(rows, list) or not rows:
    raise flags.UserError(f"{path}: no '{key}': a list of points is needed")
  for number, row in enumerate(rows):
    missing = [name for name in _POINT if not isinstance(row, dict) or row.get(name) is None]
    if missing:
      raise flags.UserError(f"{path}: point {number} has no {', '.join(missing)}")
  recorded.check_points(path, rows)
  for number, row in enumerate(rows):
    sizes = row.get("sizes") or {}
    if row["axis"] not in AXES and not (set(sizes) <= set(AXES) and row["axis"] == GRID.join(sizes)):
      raise flags.UserError(f"{path}: point {number} has axis={row['axis']}: must be among {', '.join(AXES)}")
  return rows


def same_rows(frame: pl.DataFrame) -> bool:
  """Whether all seeds are trained on the same rows in the same order, that of the log, so that they differ by initialisation alone."""
  return bool(len(frame)) and not frame["planted"].any() and bool((frame["order"].fill_null("") == "time").all())


def on_data_curve() -> pl.Expr:
  """Whether an evaluation is a point of loss against examples: the curve counts before its end, and no row was trained on twice."""
  return ~pl.col("horizon") & (pl.col("epochs").fill_null(0) <= 1)
