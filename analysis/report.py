"""Fits and draws the scaling laws of a sweep: an offline page, a table of laws, the points, and every figure as SVG and PNG.

  python -m analysis.report --workdir=DIR

Reads DIR/sweep.json and DIR/runs/*, or the record of a single run in DIR; writes index.html, laws.json, points.csv, *.svg and *.png to
DIR/report. On planted data the law is `power` on the excess, whose limit is 0; on a click log `power_constant` on NE.
"""

import dataclasses
from pathlib import Path

import numpy as np

from analysis.additive import models
from analysis.advise import Advice, advise
from analysis.comparison import Compared, compare
from analysis.fit import interval_text
from analysis.laws import LAWS
from analysis.load import Sweep, load
from analysis.paper_tables import advice_tables, comparison_table, frontier_table, noise_table, scheme_table
from analysis.schemes import scheme_rows
from analysis.study import Curve, LawRow, Noises, curves, data_laws, pooled_noise, saturation, size_laws
from analysis.tables import extras, print_tables
from analysis.throughput import throughput
from analysis.tuning import tuned
from dlrm_jax import flags, record
from dlrm_jax.progress import Bar

NEXT_TIMES = 10.0  # the budget that the report's advice is for, times the base run's
_STEPS = 4  # of the progress bar


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  """Flags of `python -m analysis.report`."""

  workdir: str = flags.option(help="directory of a sweep (sweep.json, runs/) or of one run (record.json)")
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


def main(config: ReportConfig) -> None:
  everything = load(config.workdir)
  sweep, choices = tuned(everything)
  output = Path(config.output or sweep.path / "report")
  with Bar("fitting and drawing", _STEPS) as bar:
    given = curves(sweep, config.law, config.x_min, config.x_max)
    noises = pooled_noise(given)
    rows = data_laws(given, noises)
    bar(1)
    sizes = size_laws(sweep, config.law)
    schemes = scheme_rows(sweep, rows, sizes, config.law)
    bar(1)
    compared, advice = compare_largest(given, noises), advise_next(sweep)
    bar(1)
    saturated, speeds = saturation(sweep), throughput(sweep)

    from analysis import plots, sections  # Altair is slow to import: not before the input is known to be good
    from dlrm_jax.figures import render

    figures = plots.figures(sweep, rows, sizes, schemes, speeds)
    render.write_figures(output, figures)
    bar(1)
  laws = rows + sizes
  record.write_text(output / "points.csv", everything.evaluations().write_csv())
  done = len(sweep.runs) - len(sweep.diverged) - len(sweep.failed)
  left = {"not_done": list(sweep.not_done), "diverged": list(sweep.diverged), "failed": list(sweep.failed)}
  tables = {"saturation": saturated, "throughput": speeds, "learning_rates": [choice.as_dict() for choice in choices]}
  tables |= {"schemes": [row.as_dict() for row in schemes], "comparison": [c.as_dict() for c in compared]}
  tables |= {"advice": [a.as_dict() for a in advice]}
  fits = {"num_runs": done, **left, "fits": [row.as_dict() for row in laws]}
  record.write_json(output / "laws.json", record.header() | fits | tables)
  questions = [scheme_table(schemes), frontier_table(schemes), *advice_tables(advice), comparison_table(compared), noise_table(noises)]
  more = [extra for extra in questions if extra.cells] + extras(saturated, speeds, choices)
  warnings = [*left_out(everything), *(choice.warning for choice in choices if choice.warning)]
  findings = headline(laws) + [a.workload + ": " + a.verdict for a in advice]
  record.write_text(output / "index.html", sections.document(everything, laws, figures, more, findings, warnings))
  print_tables(laws, more)
  for line in warnings:
    print(line)
  print(f"report: {output / 'index.html'}")


def compare_largest(given: list[Curve], noises: Noises) -> list[Compared]:
  """All laws on the DLRM's curve of the largest size of each axis, that of one run on several axes once."""
  largest = {(c.workload, c.axis): c for c in sorted(given, key=lambda c: c.size) if c.learner == "dlrm"}
  out: list[Compared] = []
  seen = set()
  for (workload, axis), curve in largest.items():
    key = (*sorted(set(curve.points["config_id"])), curve.metric)
    x, y, seed = curve.arrays
    if key not in seen and len(y) and np.all(np.isfinite(y) & (y > 0)):
      out += compare(x, y, seed, noises.get((workload, "dlrm", curve.metric)), f"{workload} / {axis} / {curve.size:g}")
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


if __name__ == "__main__":
  flags.run(main, ReportConfig)
