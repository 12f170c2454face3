"""Fits and draws the scaling laws of a sweep: an offline page, a table of laws, the points, and every figure as SVG and PNG.

  python -m analysis.report --workdir=DIR

Reads DIR/sweep.json and DIR/runs/*, or the record of a single run in DIR; writes index.html, laws.json, points.csv, *.svg and *.png to
DIR/report. On planted data the law is `power` on the excess, whose limit is 0; on a click log `power_constant` on NE.
"""

import dataclasses
from pathlib import Path
from typing import Any

from analysis import kept
from analysis.fitting.laws import LAWS
from analysis.fitting.result import interval_text
from analysis.load import Sweep, load
from analysis.questions.additive import models
from analysis.questions.advice import Advice, advise
from analysis.questions.comparison import Compared, compare
from analysis.questions.parts import Exponents, data_exponents, part_sizes
from analysis.questions.schemes import SchemeRow, scheme_rows
from analysis.questions.sweep_laws import Curve, LawRow, Noises, curves, data_laws, largest, pooled_noise, size_laws
from analysis.questions.throughput import throughput
from analysis.questions.tuning import Choice, tuned
from analysis.report.paper_tables import (
  advice_tables,
  comparison_table,
  exponent_table,
  frontier_table,
  noise_table,
  parts_table,
  scheme_table,
)
from analysis.report.tables import Extra, extras, print_tables
from dlrm_jax.common import flags, record
from dlrm_jax.common.progress import Bar

NEXT_TIMES = 10.0  # the budget that the report's advice is for, times the base run's
_STEPS = 4  # of the progress bar of fitting


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """Flags of `python -m analysis.report`."""

  workdir: str = flags.option(help="directory of a sweep (sweep.json, runs/) or of one run (record.json), or a file of analysis.kept")
  output: str = flags.option("", "directory of the report; WORKDIR/report when empty")
  law: str = flags.option(
    "auto",
    "law fitted to every curve; auto: power where the constant is known to be 0, else power_constant",
    ("auto", *(name for name, law in LAWS.items() if law.num_x == 1)),
  )
  x_min: float | None = flags.option(
    None, "smallest number of examples fitted; by default 2**17 on planted data (all if too few are left), else a 64th of the run"
  )
  x_max: float | None = flags.option(None, "largest number of examples that data laws are fitted to")

  def __post_init__(self) -> None:
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


@dataclasses.dataclass(frozen=True)
class Analysis:
  """All that a sweep says, before it is drawn.

  Attributes:
    everything: the sweep as it was read, all learning rates.
    sweep: the same at the best learning rate of each point.
    choices: which those are.
    rows, sizes: laws against examples and over sizes.
    schemes, exponents, parts, compared, advice, speeds, noises: as the functions that made them say.
  """

  everything: Sweep
  sweep: Sweep
  choices: list[Choice]
  rows: list[LawRow]
  sizes: list[LawRow]
  schemes: list[SchemeRow]
  exponents: list[Exponents]
  parts: list[dict[str, Any]]
  compared: list[Compared]
  advice: list[Advice]
  speeds: list[dict[str, Any]]
  noises: Noises

  @property
  def tables(self) -> list[Extra]:
    """The tables beside that of the laws, those that have rows."""
    found = [scheme_table(self.schemes), exponent_table(self.exponents), parts_table(self.parts), frontier_table(self.schemes)]
    found += [*advice_tables(self.advice), comparison_table(self.compared), noise_table(self.noises)]
    return [table for table in found if table.cells] + extras(self.speeds, self.choices)

  @property
  def warnings(self) -> list[str]:
    """What a reader must know: runs that the laws do not rest on, learning rates at the end of those tried."""
    return [*left_out(self.everything), *(choice.warning for choice in self.choices if choice.warning)]

  @property
  def findings(self) -> list[str]:
    """A sentence each."""
    return headline(self.rows + self.sizes) + [a.workload + ": " + a.verdict for a in self.advice]


def analyse(config: ReportConfig) -> Analysis:
  """Reads the sweep and fits its laws. Raises UserError where there is nothing to report on."""
  everything = load(config.workdir)
  sweep, choices = tuned(everything)
  with Bar("fitting", _STEPS) as bar:
    given = curves(sweep, config.law, config.x_min, config.x_max)
    noises = pooled_noise(given)
    rows = data_laws(given, noises)
    bar(1)
    sizes = size_laws(sweep, config.law)
    schemes = scheme_rows(sweep, rows, sizes, config.law)
    bar(1)
    parts, exponents = part_sizes(sweep), data_exponents(sweep, rows)
    bar(1)
    compared, advice = compare_largest(given, noises), advise_next(sweep)
    bar(1)
  return Analysis(everything, sweep, choices, rows, sizes, schemes, exponents, parts, compared, advice, throughput(sweep), noises)


def main(config: ReportConfig) -> None:
  if Path(config.workdir).is_file() and config.workdir.endswith(kept.SUFFIX) and not config.output:
    raise flags.UserError(f"--output=: give a directory, since --workdir={config.workdir} is a file")
  found = analyse(config)
  everything, laws = found.everything, found.rows + found.sizes
  output = Path(config.output or everything.path / "report")

  from analysis.report import plots, sections  # Altair is slow to import: not before the input is known to be good
  from dlrm_jax.common.figures import render

  figures = plots.figures(found.sweep, found.rows, found.sizes, found.schemes, found.speeds)
  with Bar("drawing", len(figures)) as bar:
    for figure in figures:
      render.write_figures(output, [figure])
      bar(1)
  record.write_text(output / "points.csv", everything.evaluations().write_csv())
  record.write_json(output / "laws.json", record.header() | _contents(found))
  record.write_text(output / "index.html", sections.document(everything, laws, figures, found.tables, found.findings, found.warnings))
  print_tables(laws, found.tables)
  for line in found.warnings:
    print(line)
  print(f"report: {output / 'index.html'}")


def _contents(found: Analysis) -> dict[str, Any]:
  """What `laws.json` holds beside its header."""
  everything = found.everything
  done = len(everything.runs) - len(everything.diverged) - len(everything.failed)
  left = {"not_done": list(everything.not_done), "diverged": list(everything.diverged), "failed": list(everything.failed)}
  out: dict[str, Any] = {"num_runs": done, **left, "fits": [row.as_dict() for row in found.rows + found.sizes]}
  out |= {"parts": found.parts, "throughput": found.speeds, "learning_rates": [choice.as_dict() for choice in found.choices]}
  out |= {"schemes": [row.as_dict() for row in found.schemes], "comparison": [c.as_dict() for c in found.compared]}
  return out | {"advice": [a.as_dict() for a in found.advice]}


def compare_largest(given: list[Curve], noises: Noises) -> list[Compared]:
  """All laws on the DLRM's curve of the largest size of each axis, that of one run on several axes once."""
  out: list[Compared] = []
  seen = set()
  for curve in largest([c for c in given if c.learner == "dlrm"]):
    key = (*sorted(set(curve.points["config_id"])), curve.metric)
    if key not in seen and curve.fittable:
      noise = noises.get((curve.workload, "dlrm", curve.metric))
      out += compare(*curve.arrays, noise, f"{curve.workload} / {curve.axis} / {curve.size:g}")
    seen.add(key)
  return out


def advise_next(sweep: Sweep) -> list[Advice]:
  """How to spend ten times the base run's FLOPs, for every workload that has what that takes."""
  try:
    return [advise(model, NEXT_TIMES) for model in models(sweep)]
  except flags.UserError:  # no model axis of enough sizes: the report has no such section
    return []


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
    open_text = " (the points do not determine it)" if row.fit.status == "not_identifiable" else ""
    sentences.append(f"{row.workload}, {row.learner}: data exponent {interval_text(row.fit.params['beta'], 3)}{theory}{open_text}.")
  return sentences
