"""The tables of a report as rows of text, for the page and for the terminal. Called by `analysis.report`."""

import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from analysis.fitting.result import METHODS, interval_text
from analysis.load import Sweep
from analysis.questions.sweep_laws import LawRow
from analysis.questions.tuning import Choice

LAW_COLUMNS = (
  "workload",
  "learner",
  "axis",
  "size",
  "law",
  "metric",
  "window",
  "beta [95% interval]",
  "theory",
  "alpha",
  "gamma",
  "points",
  "seeds",
  "held-out error",
  "status",
)


_MOST_LAWS = 60  # rows of the law table from which the terminal leaves out single sizes


def short(value: float | int | None) -> str:
  """A count the way axes show it: 1.02k, 4.19M; `-` for None."""
  if value is None:
    return "-"
  for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.4g}"


def law_cells(row: LawRow) -> list[str]:
  """One line of the law table, in the order of `LAW_COLUMNS`."""
  fit = row.fit
  size = short(row.size) if row.x == "examples" else f"all, against {row.x}"
  window = "-" if fit.x_min is None else f"{short(fit.x_min)} to {short(fit.x_max)}"
  beta = interval_text(fit.params.get("beta"), 3)
  theory = "-" if row.theory_beta is None else f"{row.theory_beta:.3f}"
  error = "-" if fit.extrapolation is None else f"{fit.extrapolation['relative_error']:+.2%}"
  alpha, gamma = (f"{fit.params[name].estimate:.4g}" if name in fit.params else "-" for name in ("alpha", "gamma"))
  counts = [str(fit.num_points), str(fit.num_seeds)]
  return [row.workload, row.learner, row.axis, size, fit.law, row.metric, window, beta, theory, alpha, gamma, *counts, error, fit.status]


def run_rows(sweep: Sweep) -> tuple[list[str], list[list[Any]]]:
  """The table of runs: one line a point, unfinished ones included."""
  columns = [
    "run",
    "workload",
    "axis",
    "size",
    "seed",
    "learner",
    "lr x",
    "params",
    "examples",
    "loss",
    "metric",
    "ROC AUC",
    "examples/s",
    "status",
  ]
  joined = sweep.points.join(sweep.runs, on="config_id", how="left").sort("workload", "axis", "learner", "size", "seed", "lr_factor")
  rows = []
  for e in joined.to_dicts():
    metric = "ne" if e["excess"] is None else "excess"
    loss, auc = ("-" if e[m] is None else f"{e[m]:.5g}" for m in (metric, "roc_auc"))
    sizes = [short(e["params_total"]), short(e["examples"]), loss, metric, auc, short(e["examples_per_s"])]
    place = [e["config_id"], e["workload"], e["axis"], e["label"], e["seed"], e["learner"], f"{e['lr_factor']:g}"]
    rows.append([*place, *sizes, e["status"] or "not done"])
  return columns, rows


@dataclasses.dataclass(frozen=True)
class Extra:
  """A table beside that of the laws: title, columns, rows of cells, what a reader must know, and whether the terminal shows it too."""

  title: str
  columns: list[str]
  cells: list[list[Any]]
  text: str
  printed: bool = True


def extras(speeds: list[dict[str, Any]], choices: list[Choice]) -> list[Extra]:
  """The tables that a sweep has something for: learning rates, hardware axes."""
  tables = [
    Extra("Learning rates", *_rate_rows(choices), RATES_TEXT),
    Extra("Throughput", *_throughput_rows(speeds), THROUGHPUT_TEXT),
  ]
  return [table for table in tables if table.cells]


RATES_TEXT = (
  "Loss at the end of the runs, mean over seeds, by what both learning rates were multiplied by; everything else of this report is read at "
  "the best. Where that is the smallest or the largest tried, a better one may lie beyond: try more."
)


def _rate_rows(choices: list[Choice]) -> tuple[list[str], list[list[Any]]]:
  factors = sorted({factor for choice in choices for factor in choice.losses})
  columns = ["workload", "learner", "axis", "size", "metric", *(f"x{factor:g}" for factor in factors), "best", ""]
  rows = []
  for c in choices:
    losses = [f"{c.losses[factor]:.5g}" if factor in c.losses else "-" for factor in factors]
    end = "at the end of the list" if c.at_end else ""
    rows.append([c.workload, c.learner, c.axis, c.label, c.metric, *losses, f"x{c.lr_factor:g}", end])
  return columns, rows


THROUGHPUT_TEXT = (
  "Training examples a second without evaluations, median over seeds. Speedup: over the first size of the axis. Efficiency: the speedup "
  "over that of the number of devices. Simulated devices share the host's cores: efficiencies there say nothing about hardware."
)


def _throughput_rows(entries: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
  columns = ["workload", "learner", "axis", "size", "runs", "examples/s", "speedup", "efficiency"]
  rows = []
  for e in entries:
    efficiency = "-" if e["efficiency"] is None else f"{e['efficiency']:.0%}"
    rows.append(
      [e["workload"], e["learner"], e["axis"], e["label"], e["runs"], f"{e['examples_per_s']:,.0f}", f"{e['speedup']:.2f}", efficiency]
    )
  return columns, rows


def print_tables(rows: list[LawRow], more: list[Extra]) -> None:
  """The law table and those beside it, on standard output."""
  from rich.console import Console
  from rich.table import Table

  console = Console(width=None if sys.stdout.isatty() else 230, markup=False)

  def show(title: str, columns: Iterable[str], cells: Iterable[list[Any]]) -> None:
    table = Table(title=title)
    for column in columns:
      table.add_column(column, overflow="fold")
    for row in cells:
      table.add_row(*map(str, row))
    console.print(table)

  shown = rows if len(rows) <= _MOST_LAWS else [row for row in rows if row.axis == "data" or row.x != "examples"]
  if shown:
    show("Scaling laws, L(x) = alpha * x**-beta + gamma; ? is an end that the points leave open", LAW_COLUMNS, map(law_cells, shown))
  if len(shown) < len(rows):
    console.print(f"{len(rows) - len(shown)} more laws, of curves of single sizes, are in laws.json and on the page.")
  for method in dict.fromkeys(row.fit.method for row in rows if row.fit.method):
    console.print(f"Intervals, {method}: {METHODS[method]}.", markup=False, highlight=False)
  for extra in (extra for extra in more if extra.printed):
    show(extra.title, extra.columns, extra.cells)
    console.print(extra.text, markup=False, highlight=False)
