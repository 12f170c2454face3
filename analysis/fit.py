"""Fits a scaling law to the points of a CSV file: estimates, standard errors, 95% intervals, diagnostics, held-out error.

  python -m analysis.fit --input=points.csv --x=examples --y=loss [--group=model] [--seed=seed] --law=power_constant --output=fits.json

Least squares on log y in float64 from many starts. With two seeds or more, intervals are t intervals over per-seed fits; on one curve
they are profile-likelihood intervals that treat the points as independent (too narrow for the points of a single training pass).
"""

import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np

from analysis.fitting import METHODS, Estimate, Fit, as_dict, fit_law
from analysis.laws import LAWS
from dlrm_jax import flags, record


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """Flags of `python -m analysis.fit`."""

  input: str = flags.option(help="CSV file with a header line")
  x: str = flags.option(help="column of the resource: examples, parameters, FLOPs; positive")
  y: str = flags.option(help="column of the loss; positive")
  output: str = flags.option(help="JSON file to write")
  law: str = flags.option("power_constant", "the law to fit", tuple(LAWS))
  group: str = flags.option("", "column that splits the points; one fit for each of its values")
  seed: str = flags.option("", "column that names independent runs; with two or more, intervals come from their spread")
  x_min: float | None = flags.option(None, "leave out points with smaller x")
  x_max: float | None = flags.option(None, "leave out points with larger x")

  def __post_init__(self):
    flags.check_choices(self)
    for field in ("input", "x", "y", "output"):
      flags.check(bool(getattr(self, field)), self, field, "a name")
    if self.x_min is not None and self.x_max is not None:
      flags.check(self.x_min < self.x_max, self, "x_min", f"below --x_max={self.x_max:g}")


def read_columns(config: FitConfig) -> dict[str, list[tuple[float, float, str]]]:
  """(x, y, seed) of every line by group. Raises UserError naming file, line, column and what is allowed."""
  path = Path(config.input)
  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      rows = list(csv.reader(file))
  except FileNotFoundError:
    raise flags.UserError(f"--input={path}: no such file") from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise flags.UserError(f"--input={path}: not a CSV text file ({error})") from None
  if not rows:
    raise flags.UserError(f"--input={path}: empty file, a header line with column names is needed")
  names = [name.strip() for name in rows[0]]
  wanted = [getattr(config, field) for field in ("x", "y", "group", "seed")]
  for field, name in zip(("x", "y", "group", "seed"), wanted, strict=True):
    if name and name not in names:
      raise flags.UserError(f"--{field}={name}: no such column in {path}, it has {', '.join(names)}")
  places = [names.index(name) if name else -1 for name in wanted]
  groups: dict[str, list[tuple[float, float, str]]] = {}
  for number, row in enumerate(rows[1:], start=2):
    if not any(cell.strip() for cell in row):
      continue
    if len(row) != len(names):
      raise flags.UserError(f"{path}:{number}: {len(row)} columns, the header has {len(names)}")
    point = []
    for place in places[:2]:
      try:
        point.append(float(row[place]) if row[place].strip() else float("nan"))
      except ValueError:
        raise flags.UserError(f"{path}:{number}: column {names[place]} holds '{row[place]}', a number is needed") from None
    group, seed = (row[place].strip() if place >= 0 else "" for place in places[2:])
    groups.setdefault(group or "all", []).append((point[0], point[1], seed))
  if not groups:
    raise flags.UserError(f"--input={path}: no points below the header")
  return groups


def interval_text(estimate: Estimate | None, digits: int = 4) -> str:
  """`0.1 [0.09, 0.11]`, an open end as `?`."""
  if estimate is None:
    return "-"
  low, high = ("?" if v is None else f"{v:.{digits}g}" for v in (estimate.ci_low, estimate.ci_high))
  return f"{estimate.estimate:.{digits}g} [{low}, {high}]"


def print_fits(fits: list[Fit]) -> None:
  """The fits as a table on standard output."""
  from rich.console import Console
  from rich.table import Table

  console = Console(width=None if sys.stdout.isatty() else 200)
  names = list(dict.fromkeys(name for fit in fits for name in LAWS[fit.law].names))
  table = Table(title="Estimates with 95% intervals; ? is an end that the points leave open")
  for column in ("group", "law", "window", "points", "seeds", *names, "objective", "held-out error", "status"):
    table.add_column(column, overflow="fold")
  for fit in fits:
    window = "-" if fit.x_min is None else f"{fit.x_min:.4g} to {fit.x_max:.4g}"
    held_out = "-" if fit.extrapolation is None else f"{fit.extrapolation['relative_error']:+.2%}"
    objective = "-" if fit.objective is None else f"{fit.objective:.4g}"
    cells = [interval_text(fit.params.get(name)) for name in names]
    table.add_row(fit.group, fit.law, window, str(fit.num_points), str(fit.num_seeds), *cells, objective, held_out, fit.status)
  console.print(table)
  for method in dict.fromkeys(fit.method for fit in fits if fit.method):
    console.print(f"Intervals, {method}: {METHODS[method]}.", markup=False)
  for fit in fits:
    if fit.note:
      console.print(f"{fit.group}: {fit.note}.", markup=False)


def main(config: FitConfig) -> None:
  output = Path(config.output)
  if output.is_dir() or (output.exists() and output.samefile(config.input)):
    raise flags.UserError(f"--output={output}: is {'a directory' if output.is_dir() else 'the input'}; name another file")
  fits = []
  for group, points in read_columns(config).items():
    x, y, seed = zip(*points, strict=True)
    fits.append(fit_law(np.array(x), np.array(y), config.law, np.array(seed), config.x_min, config.x_max, group))
  record.write_json(config.output, record.header() | {"fits": [as_dict(fit) for fit in fits]})
  print_fits(fits)
  if all(fit.refused for fit in fits):
    raise flags.UserError("; ".join(f"group {fit.group}: {fit.status}" for fit in fits))


if __name__ == "__main__":
  flags.run(main, FitConfig)
