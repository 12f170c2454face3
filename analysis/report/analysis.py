"""Everything that a report shows, computed before anything is drawn. Called by `analysis.report` and `analysis.publish`."""

import dataclasses
from pathlib import Path
from typing import Any

from analysis.fitting.result import interval_text
from analysis.load import Sweep, load
from analysis.questions.additive import models
from analysis.questions.advice import Advice, advise
from analysis.questions.comparison import Compared, compare_largest
from analysis.questions.parts import Exponents, data_exponents, part_sizes
from analysis.questions.schemes import SchemeRow, scheme_rows
from analysis.questions.sweep_laws import LawRow, Noises, curves, data_laws, pooled_noise, size_laws
from analysis.questions.throughput import throughput
from analysis.questions.tuning import Choice, tuned
from analysis.report import paper_tables
from analysis.report.tables import rates_table, throughput_table
from dlrm_jax.common import flags
from dlrm_jax.common.progress import Bar
from dlrm_jax.common.terminal import Table

NEXT_TIMES = 10.0  # the budget that the report's advice is for, times the base run's
_MOST_NAMES = 8  # of runs that are left out


@dataclasses.dataclass(frozen=True)
class Analysis:
  """The laws and tables of a sweep.

  Attributes:
    everything: the sweep as it was read, with all learning rates.
    sweep: the same at the best learning rate of each point.
    choices: these learning rates.
    rows, sizes: laws against examples, and laws over sizes.
    schemes, exponents, parts, compared, advice, speeds, noises: see the functions of `analysis.questions` that make them.
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
  def laws(self) -> list[LawRow]:
    """All laws, in the order of the law table."""
    return self.rows + self.sizes

  @property
  def tables(self) -> list[Table]:
    """The tables that have rows, without that of the laws."""
    found = [paper_tables.scheme_table(self.schemes), paper_tables.exponent_table(self.exponents), paper_tables.parts_table(self.parts)]
    found += [paper_tables.frontier_table(self.schemes), *paper_tables.advice_tables(self.advice)]
    found += [paper_tables.comparison_table(self.compared), paper_tables.noise_table(self.noises)]
    found += [rates_table(self.choices), throughput_table(self.speeds)]
    return [table for table in found if table.rows]

  @property
  def warnings(self) -> list[str]:
    """What a reader must know: runs that no law uses, and best learning rates at the end of those tried."""
    sweep, lines, without = self.everything, [], "left out of every fit"
    kinds = {"not done yet": sweep.not_done, f"diverged, {without}": sweep.diverged, f"failed, {without}": sweep.failed}
    for what, names in kinds.items():
      if names:
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        shown = ", ".join(names[:_MOST_NAMES]) + more
        lines.append(f"{len(names)} of {sweep.points['config_id'].n_unique()} runs {what}: {shown}")
    return lines + [choice.warning for choice in self.choices if choice.warning]

  @property
  def findings(self) -> list[str]:
    """A sentence for each data exponent, with theory's, and for each advice."""
    sentences = []
    passes = {(row.workload, row.learner) for row in self.rows if row.axis == "data"}
    for row in self.laws:
      # Where no curve is one pass, the law over the sizes of the data axis, each a run of its own, is the data law.
      trained_anew = row.x == "size" and (row.workload, row.learner) not in passes
      if row.axis != "data" or not (row.x == "examples" or trained_anew):
        continue
      if row.fit.refused:
        sentences.append(f"{row.workload}, {row.learner}: no law ({row.fit.status}).")
        continue
      theory = f", theory {row.theory_beta:.3f}" if row.theory_beta is not None else ""
      open_text = " (the points do not determine it)" if row.fit.status == "not_identifiable" else ""
      sentences.append(f"{row.workload}, {row.learner}: data exponent {interval_text(row.fit.params['beta'], 3)}{theory}{open_text}.")
    return sentences + [f"{a.workload}: {a.verdict}" for a in self.advice]


def analyse(workdir: str | Path, law: str = "auto", x_min: float | None = None, x_max: float | None = None) -> Analysis:
  """Reads a sweep and fits its laws. Raises UserError where there is nothing to report on.

  Args:
    workdir: what `load` reads.
    law: `auto`, or the law of every curve.
    x_min, x_max: the window of data laws in examples; None: its default start, no end.
  """
  everything = load(workdir)
  sweep, choices = tuned(everything)
  with Bar("fitting", 4) as bar:
    given = curves(sweep, law, x_min, x_max)
    noises = pooled_noise(given)
    rows = data_laws(given, noises)
    bar(1)
    sizes = size_laws(sweep, law)
    schemes = scheme_rows(sweep, rows, sizes, law)
    bar(1)
    parts, exponents = part_sizes(sweep), data_exponents(sweep, rows)
    bar(1)
    compared, advice = compare_largest(given, noises), _advice(sweep)
    bar(1)
  return Analysis(everything, sweep, choices, rows, sizes, schemes, exponents, parts, compared, advice, throughput(sweep), noises)


def _advice(sweep: Sweep) -> list[Advice]:
  """How to spend the next budget on every workload; nothing where no model axis has enough sizes."""
  try:
    return [advise(model, NEXT_TIMES) for model in models(sweep)]
  except flags.UserError:
    return []
