"""Fits and draws the scaling laws of a sweep: an offline page, a table of laws, the points, and every figure as SVG and PNG.

  python -m analysis.report --workdir=DIR

Reads DIR/sweep.json and DIR/runs/*, or the record of a single run in DIR; writes index.html, laws.json, points.csv, *.svg and *.png to
DIR/report. On planted data the law is `power` on the excess, whose limit is 0; on a click log `power_constant` on NE.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from analysis.fit import interval_text
from analysis.fitting import METHODS
from analysis.laws import LAWS
from analysis.load import Sweep, load
from analysis.study import LawRow, data_laws, saturation, size_laws
from analysis.tables import LAW_COLUMNS, Extra, extras, law_cells, print_tables, run_rows
from analysis.throughput import throughput
from analysis.tuning import tuned
from dlrm_jax import flags, record


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """Flags of `python -m analysis.report`."""

  workdir: str = flags.option(help="directory of a sweep (sweep.json, runs/) or of one run (record.json)")
  output: str = flags.option("", "directory of the report; WORKDIR/report when empty")
  law: str = flags.option(
    "auto", "law fitted to every curve; auto: power where the constant is known to be 0, else power_constant", ("auto", *LAWS)
  )
  x_min: float | None = flags.option(
    None, "smallest number of examples fitted; by default 2**17 on planted data (all if too few are left), else a 64th of the run"
  )
  x_max: float | None = flags.option(None, "largest number of examples that data laws are fitted to")

  def __post_init__(self):
    flags.check_choices(self)
    flags.check(bool(self.workdir), self, "workdir", "a directory")
    if self.x_min is not None and self.x_max is not None:
      flags.check(self.x_min < self.x_max, self, "x_min", f"below --x_max={self.x_max:g}")


def left_out(sweep: Sweep) -> list[str]:
  """What the laws do not rest on, by name: points without a record, diverged runs and failed ones."""
  lines = []
  kinds = {"not done yet": sweep.not_done, "diverged, left out of every fit": sweep.diverged, "failed, left out of every fit": sweep.failed}
  for what, names in kinds.items():
    if names:
      shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
      lines.append(f"{len(names)} of {sweep.points['config_id'].n_unique()} runs {what}: {shown}")
  return lines


def headline(rows: list[LawRow]) -> list[str]:
  """The data exponents in a sentence each, the learner beside theory."""
  sentences = []
  passes = {(row.workload, row.learner) for row in rows if row.axis == "data" and row.x == "examples"}
  for row in rows:
    trained_anew = row.x == "size" and (row.workload, row.learner) not in passes  # no curve is one pass: see study.py
    if row.axis != "data" or not (row.x == "examples" or trained_anew):
      continue
    if row.fit.refused:
      sentences.append(f"{row.workload}, {row.learner}: no law ({row.fit.status}).")
      continue
    theory = f", theory {row.theory_beta:.3f}" if row.theory_beta is not None else ""
    sentences.append(f"{row.workload}, {row.learner}: data exponent {interval_text(row.fit.params['beta'], 3)}{theory}.")
  return sentences


def _sections(sweep: Sweep, rows: list[LawRow], figures: list[Any], more: list[Extra], warnings: list[str]) -> list[tuple[str, str]]:
  from dlrm_jax.figures import page

  made = shlex.join(str(word) for word in sweep.source.get("command", []))
  hardware = sweep.source.get("hardware") or {}
  software = sweep.source.get("software") or {}
  setting = ", ".join(str(v) for v in (hardware.get("cpu"), f"{hardware['cores']} cores" if hardware.get("cores") else None) if v)
  versions = ", ".join(f"{name} {version}" for name, version in software.items() if version)
  summary = "".join(f"<li>{page.escape(s)}</li>" for s in headline(rows))
  warned = "".join(f'<p class="warn">{page.escape(line)}</p>' for line in warnings)
  commands = f"<pre>{page.escape(made)}\n{page.escape(shlex.join(record.command()))}</pre>" if made else ""
  sections = [
    (
      "",
      commands
      + f'<p class="faint">{page.escape(setting)}<br>{page.escape(versions)}</p>'
      + (f"<ul>{summary}</ul>" if summary else "")
      + warned,
    )
  ]
  drawn = [(figure.title, page.figure(figure.name, figure.caption)) for figure in figures]
  sections += drawn[:1]
  key = {i for i, row in enumerate(rows) if row.axis == "data" and row.x == "examples"}
  caption = (
    "L(x) = alpha * x**-beta + gamma (gamma = 0 in law power), least squares on log L. Window: the x that were fitted. "
    "Held-out error: fitted on the smaller x, the largest x predicted, prediction / measured - 1. ? is an end that the points leave open."
  )
  methods = "".join(
    f'<p class="note">{page.escape(f"{name}: {METHODS[name]}.")}</p>' for name in dict.fromkeys(r.fit.method for r in rows if r.fit.method)
  )
  if rows:
    sections.append(("Laws", page.table(list(LAW_COLUMNS), [law_cells(row) for row in rows], caption, key) + methods))
  sections += [(extra.title, page.table(extra.columns, extra.cells, extra.text)) for extra in more]
  sections += drawn[1:]
  columns, cells = run_rows(sweep)
  sections.append(("Runs", f"<details><summary>{len(cells)} points</summary>{page.table(columns, cells)}</details>"))
  return sections


def main(config: ReportConfig) -> None:
  everything = load(config.workdir)
  sweep, choices = tuned(everything)
  output = Path(config.output or sweep.path / "report")
  rows = data_laws(sweep, config.law, config.x_min, config.x_max)
  sizes = size_laws(sweep, config.law)
  saturated, speeds = saturation(sweep), throughput(sweep)

  from analysis import plots  # Altair is slow to import: not before the input is known to be good
  from dlrm_jax.figures import chart, page, render

  figures = plots.figures(sweep, rows, sizes, speeds)
  render.write_figures(output, figures)
  laws = rows + sizes
  record.write_text(output / "points.csv", everything.evaluations().write_csv())
  done = len(sweep.runs) - len(sweep.diverged) - len(sweep.failed)
  left = {"not_done": list(sweep.not_done), "diverged": list(sweep.diverged), "failed": list(sweep.failed)}
  tables = {"saturation": saturated, "throughput": speeds, "learning_rates": [choice.as_dict() for choice in choices]}
  fits = {"num_runs": done, **left, "fits": [row.as_dict() for row in laws]}
  record.write_json(output / "laws.json", record.header() | fits | tables)
  name = sweep.path.resolve().name
  subtitle = f"{done} runs, {sweep.points['workload'].n_unique()} workloads, axes {', '.join(dict.fromkeys(sweep.points['axis']))}"
  specs = {figure.name: figure.spec for figure in figures}
  more, warnings = extras(saturated, speeds, choices), [*left_out(everything), *(choice.warning for choice in choices if choice.warning)]
  sections = _sections(everything, laws, figures, more, warnings)
  record.write_text(output / "index.html", page.page(f"Scaling laws: {name}", subtitle, sections, specs, chart.THEMES, render.javascript()))
  print_tables(laws, more)
  for line in warnings:
    print(line)
  print(f"report: {output / 'index.html'}")


if __name__ == "__main__":
  flags.run(main, ReportConfig)
