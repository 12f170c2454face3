"""The points of a CSV file, by group. Called by `analysis.fit` and by other programs on anybody's points."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from analysis.fitting.settings import first_of_copies
from dlrm_jax.common import flags

_SHOWN = 5  # lines of blank cells that a note names


@dataclasses.dataclass(frozen=True)
class Columns:
  """The names of columns, under the flags that name them: resources, loss, groups, and seeds or training passes; empty: there is none."""

  x: tuple[str, ...]
  y: str
  group: str = ""
  seed: str = ""
  run: str = ""

  @property
  def wanted(self) -> list[tuple[str, str]]:
    """Pairs of a flag and the column that it names: of x, y, group, seed and run."""
    return [*(("x", name) for name in self.x), *((flag, getattr(self, flag)) for flag in ("y", "group", "seed", "run"))]


@dataclasses.dataclass(frozen=True)
class Points:
  """The points of one group: x [n, C], y, the name of each one's seed or pass, and a note on rows that are left out."""

  x: np.ndarray
  y: np.ndarray
  seed: np.ndarray
  blank: str = ""

  def at(self, index: np.ndarray) -> "Points":
    """Some of the points."""
    return Points(self.x[index], self.y[index], self.seed[index], self.blank)


def read_table(path: Path, flag: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
  """The names of a CSV file's columns, and its rows with their line numbers. Raises UserError that names the flag or the line."""
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      rows = list(csv.reader(file))
  except FileNotFoundError:
    raise flags.UserError(f"--{flag}={path}: no such file") from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise flags.UserError(f"--{flag}={path}: not a CSV text file ({error})") from None
  if not rows:
    raise flags.UserError(f"--{flag}={path}: empty file, a header line with column names is needed")
  names = [name.strip() for name in rows[0]]
  repeated = [name for i, name in enumerate(names) if name and name in names[:i]]
  if repeated:
    raise flags.UserError(f"--{flag}={path}: the header has column {repeated[0]} twice; rename one of them")
  filled = [(number, row) for number, row in enumerate(rows[1:], start=2) if any(cell.strip() for cell in row)]
  for number, row in filled:
    if len(row) != len(names):
      raise flags.UserError(f"{path}:{number}: {len(row)} columns, the header has {len(names)}")
  return names, filled


def read_points(path: Path, columns: Columns) -> dict[str, Points]:
  """The points of every group. Raises UserError that names file, line, column and what is allowed."""
  names, rows = read_table(path, "input")
  for flag, name in columns.wanted:
    if name and name not in names:
      raise flags.UserError(f"--{flag}={name}: no such column in {path}, it has {', '.join(names)}")
  *number_places, group_place, seed_place, run_place = [names.index(name) if name else -1 for _, name in columns.wanted]
  groups: dict[str, list[tuple[list[float], str, str, int]]] = {}
  for number, row in rows:
    point = []
    for place in number_places:
      try:
        point.append(float(row[place]) if row[place].strip() else float("nan"))
      except ValueError:
        raise flags.UserError(f"{path}:{number}: column {names[place]} holds '{row[place]}', a number is needed") from None
    group, seed, run = (row[place].strip() if place >= 0 else "" for place in (group_place, seed_place, run_place))
    if run_place >= 0 and not run:
      raise flags.UserError(f"{path}:{number}: column {columns.run} is blank, a point needs the name of its training pass")
    blank = next((names[place] for place in number_places if not row[place].strip()), "")
    groups.setdefault(group if columns.group else "all", []).append((point, run or seed, blank, number))
  if not groups:
    raise flags.UserError(f"--input={path}: no points below the header")
  out = {}
  for group, members in groups.items():
    kept = [member for member in members if not member[2]] or members
    numbers = np.array([point for point, *_ in kept])
    note = left_out([(name, number) for _, _, name, number in members if name]) if len(kept) < len(members) else ""
    out[group] = Points(numbers[:, :-1], numbers[:, -1], np.array([seed for _, seed, *_ in kept]), note)
  return out


def burned_in(points: Points, share: float) -> Points:
  """The points without the start of each run: those whose last x is below a share of the run's largest.

  A run is the points of one seed and of one value of every other column of x.
  """
  if not share or not len(points.y):
    return points
  _, seed = np.unique(points.seed, return_inverse=True)
  _, run = np.unique(np.column_stack([points.x[:, :-1], seed.reshape(-1)]), axis=0, return_inverse=True)
  run = run.reshape(-1)
  largest = np.full(run.max() + 1, -np.inf)
  np.fmax.at(largest, run, points.x[:, -1])
  early = points.x[:, -1] < share * largest[run] * (1 - 1e-12)
  if not early.any():
    return points
  note = f"{early.sum()} points left out: x is below {share:g} of the largest x of their run"
  return dataclasses.replace(points.at(~early), blank="; ".join(filter(None, (points.blank, note))))


def like_passes(points: Points, columns: Columns) -> str:
  """A note where points without `run` and `seed` look like those of training passes; empty elsewhere and for one column of x.

  Points look so where each value of the other columns has six points or more on average. As independent points they would make intervals
  too narrow.
  """
  if columns.run or columns.seed or len(columns.x) < 2 or len(points.y) < 6 * len(np.unique(points.x[:, :-1], axis=0)):
    return ""
  shared = " and ".join(columns.x[:-1])
  return f"points that share {shared} look like training passes: name the passes by --run=COLUMN, or these intervals are too narrow"


def check_passes(groups: dict[str, Points], columns: Columns) -> None:
  """Raises UserError where a value of the column `run` is no training pass: one point at an x, and one value in every other column of x."""
  for p in groups.values() if columns.run else ():
    p = p.at(first_of_copies(p.x, p.y, p.seed))
    for run in np.unique(p.seed):
      mine = p.x[p.seed == run]
      for name, values in zip(columns.x[:-1], mine.T, strict=False):
        if len(np.unique(values)) > 1:
          found = f"{name} from {values.min():g} to {values.max():g}"
          raise flags.UserError(f"--run={columns.run}: {run} has {found}, a training pass has one value in every column of x but the last")
      at, count = np.unique(mine[:, -1], return_counts=True)
      if count.max() > 1:
        found = f"{count.max()} points at {columns.x[-1]}={at[np.argmax(count)]:g}"
        raise flags.UserError(f"--run={columns.run}: {run} has {found}, a training pass has one")


def left_out(blank: list[tuple[str, int]]) -> str:
  """A note on the points of one group that are left out, from the name of a blank column of each and its line."""
  texts = []
  for name in dict.fromkeys(name for name, _ in blank):
    lines = [str(number) for other, number in blank if other == name]
    plural = "" if len(lines) == 1 else "s"
    shown = ", ".join(lines[:_SHOWN]) + (", ..." if len(lines) > _SHOWN else "")
    texts.append(f"{len(lines)} point{plural} left out: {name} is blank in line{plural} {shown}")
  return "; ".join(texts)
