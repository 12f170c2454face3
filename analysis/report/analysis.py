"""Everything that a report shows, computed before anything is drawn. Called by `analysis.report` and `analysis.publish`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import polars as pl

from analysis.load import Sweep, load
from analysis.questions.additive import models
from analysis.questions.advice import Advice, advise
from analysis.questions.comparison import Compared, compare_largest
from analysis.questions.curves import Curve, curves
from analysis.questions.ne_laws import NeLaw, ne_laws
from analysis.questions.parts import Exponents, data_exponents, part_sizes
from analysis.questions.rate_laws import RateLaw, rate_laws
from analysis.questions.repeats import Repeats, repeats
from analysis.questions.schemes import SchemeRow, scheme_rows
from analysis.questions.sweep_laws import LawRow, Noises, data_laws, pooled_noise, size_laws
from analysis.questions.throughput import throughput
from analysis.questions.tuning import Choice, tuned
from analysis.report import paper_tables
from analysis.report.tables import rate_law_table, rates_table, repeats_table, throughput_table
from dlrm_jax.common import flags
from dlrm_jax.common.axis_names import SCHEMES, below_largest
from dlrm_jax.common.progress import Bar, say
from dlrm_jax.common.terminal import Table
from dlrm_jax.common.text import number_of
from dlrm_jax.training.alarms import lines_of

NEXT_TIMES = 10.0  # the budget that the report's advice is for, times the base run's
_MOST_NAMES = 8  # of runs that are left out


@dataclasses.dataclass(frozen=True)
class Analysis:
  """The laws and tables of a sweep.

  Attributes:
    everything: the sweep as it was read, with all learning rates.
    sweep: the same at the best learning rate of each point.
    choices: these learning rates.
    rates: how they move along the axes.
    repeats: what runs of several epochs show.
    curves: the curves that data laws are fitted to, with their drift.
    ne: whether NE follows the law of the excess, on planted data.
    rows, sizes: laws against examples, and laws over sizes.
    schemes, exponents, parts, compared, advice, speeds, noises: see the functions of `analysis.questions` that make them.
    no_advice: why there is no advice where a sweep has a model axis, or empty.
  """

  everything: Sweep
  sweep: Sweep
  choices: list[Choice]
  rates: list[RateLaw]
  repeats: list[Repeats]
  curves: list[Curve]
  rows: list[LawRow]
  sizes: list[LawRow]
  schemes: list[SchemeRow]
  exponents: list[Exponents]
  ne: list[NeLaw]
  parts: list[dict[str, Any]]
  compared: list[Compared]
  advice: list[Advice]
  speeds: list[dict[str, Any]]
  noises: Noises
  no_advice: str

  @property
  def laws(self) -> list[LawRow]:
    """All laws, in the order of the law table."""
    return self.rows + self.sizes

  @property
  def tables(self) -> list[Table]:
    """The tables that have rows, without that of the laws."""
    found = [paper_tables.scheme_table(self.schemes), paper_tables.exponent_table(self.exponents), paper_tables.ne_table(self.ne)]
    found += [paper_tables.parts_table(self.parts)]
    found += [paper_tables.frontier_table(self.schemes), *paper_tables.advice_tables(self.advice)]
    found += [paper_tables.comparison_table(self.compared), paper_tables.noise_table(self.noises)]
    found += [rates_table(self.choices), rate_law_table(self.rates), repeats_table(self.repeats), throughput_table(self.speeds)]
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
    evaluations = sweep.curves.filter(pl.col("epochs") > 1)
    if len(evaluations):
      runs = evaluations["config_id"].n_unique()
      lines.append(f"{len(evaluations)} evaluations of {runs} runs come after the first epoch and are in no law but that of repeated data")
    return lines + alarm_lines(self.sweep) + [choice.warning for choice in self.choices if choice.warning]


def alarm_lines(sweep: Sweep) -> list[str]:
  """`alarms.lines_of` for the runs of a sweep."""
  points = [point | {"sizes": json.loads(point["sizes"])} for point in sweep.points.to_dicts()]
  names: dict[str, str] = {}
  for run in points:  # the first of several points that are one run, as in sweeps.run
    names.setdefault(run["config_id"], f"{run['workload']} / {run['learner']} / {run['axis']}={run['label']}, seed {run['seed']}")
  return lines_of(names, sweep.alarms, below_largest(points))


def analyse(workdir: str | Path, law: str = "auto", x_min: float | None = None, x_max: float | None = None) -> Analysis:
  """Reads a sweep and fits its laws. Raises UserError where there is nothing to report on.

  Args:
    workdir: what `load` reads.
    law: `auto`, or the law of every curve.
    x_min, x_max: the window of data laws in examples; None: its default start, no end.
  """
  everything = load(workdir)
  sweep, choices = tuned(everything)
  say(f"fitting the laws of {number_of(len(everything.runs), 'run')}")
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
    compared, (advice, no_advice) = compare_largest(given, noises), _advice(sweep)
    bar(1)
  found = (schemes, exponents, ne_laws(given), parts, compared, advice, throughput(sweep), noises)
  return Analysis(everything, sweep, choices, rate_laws(everything), repeats(sweep), given, rows, sizes, *found, no_advice)


def _advice(sweep: Sweep) -> tuple[list[Advice], str]:
  """How to spend the next budget on every workload; where no model axis has enough sizes, none, and why if there is a model axis."""
  try:
    return [advise(model, NEXT_TIMES) for model in models(sweep)], ""
  except flags.UserError as error:
    there = set(sweep.points["axis"]) & {axis for axis in SCHEMES if axis != "data"}
    return [], str(error).removeprefix(f"--workdir={sweep.path}: ") if there else ""
