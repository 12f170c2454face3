"""The tables of a report, for the page and for the terminal: laws, runs, learning rates, throughput. Called by `analysis.report`."""

from typing import Any

import numpy as np

from analysis.fitting.result import METHODS, interval_text
from analysis.load import Sweep
from analysis.questions.rate_laws import RateLaw
from analysis.questions.repeats import Repeats
from analysis.questions.sweep_laws import LawRow
from analysis.questions.tuning import Choice
from dlrm_jax.common import terminal
from dlrm_jax.common.terminal import Table

LAW_COLUMNS = [
  *("workload", "learner", "axis", "size", "law", "metric", "window", "beta [95% interval]", "status"),
  *("theory", "alpha", "gamma [95%]", "points", "seeds", "held-out error"),
]
ADVICE = "Advice"  # how the titles of tables of advice begin
_MOST_LAWS = 60  # rows of the law table; with more, the terminal leaves out those of single sizes


def short(value: float | int | None) -> str:
  """A count the way axes show it: 1.02k, 4.19M; `-` for None."""
  if value is None:
    return "-"
  for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= size:
      return f"{value / size:.3g}{unit}"
  return f"{value:.4g}"


def known(value: float | None, form: str) -> str:
  """A number in a format, `-` for None."""
  return "-" if value is None else f"{value:{form}}"


def law_cells(row: LawRow) -> list[str]:
  """One line of the law table, in the order of `LAW_COLUMNS`."""
  fit = row.fit
  size = short(row.size) if row.x == "examples" else f"all, against {row.x}"
  window = "-" if fit.x_min is None else f"{short(fit.x_min)} to {short(fit.x_max)}"
  beta, gamma = (interval_text(fit.params.get(name), 3) for name in ("beta", "gamma"))
  error = known((fit.extrapolation or {}).get("relative_error"), "+.2%")
  exponent = fit.params.get("beta")
  nothing = exponent is not None and exponent.ci_low is None and exponent.ci_high is None  # any exponent does, and none has its alpha
  alpha = "-" if nothing or "alpha" not in fit.params else f"{fit.params['alpha'].estimate:.4g}"
  counts = [str(fit.num_points), str(fit.num_seeds)]
  place = [row.workload, row.learner, row.axis, size, fit.law, row.metric, window]
  return [*place, beta, fit.status, known(row.theory_beta, ".3f"), alpha, gamma, *counts, error]


def runs_table(sweep: Sweep) -> Table:
  """One row a point, unfinished ones included."""
  columns = ["run", "workload", "axis", "size", "seed", "learner", "lr x", "params", "examples", "loss", "metric", "ROC AUC", "examples/s"]
  joined = sweep.points.join(sweep.runs, on="config_id", how="left").sort("workload", "axis", "learner", "size", "seed", "lr_factor")
  rows = []
  for e in joined.to_dicts():
    metric = "ne" if e["excess"] is None else "excess"
    loss, auc = (known(e[m], ".5g") for m in (metric, "roc_auc"))
    sizes = [short(e["params_total"]), short(e["examples"]), loss, metric, auc, short(e["examples_per_s"])]
    place = [e["config_id"], e["workload"], e["axis"], e["label"], e["seed"], e["learner"], f"{e['lr_factor']:g}"]
    rows.append([*place, *sizes, e["status"] or "not done"])
  return Table("Runs", [*columns, "status"], rows)


def rates_table(choices: list[Choice]) -> Table:
  """The loss of each point by learning rate."""
  factors = sorted({factor for choice in choices for factor in choice.losses})
  columns = ["workload", "learner", "axis", "size", "metric", *(f"x{factor:g}" for factor in factors), "best", ""]
  rows = []
  for c in choices:
    losses = [f"{c.losses[factor]:.5g}" if factor in c.losses else "-" for factor in factors]
    end = "at the end of the list" if c.at_end else ""
    rows.append([c.workload, c.learner, c.axis, c.label, c.metric, *losses, f"x{c.lr_factor:g}", end])
  return Table("Learning rates", columns, rows, _RATES_NOTE)


_RATES_NOTE = (
  "Loss at the end of the runs, mean over seeds, by the factor of both learning rates. Everything else in the report uses the best one. "
  "Where that is the smallest or the largest tried, a better one may be beyond: try more."
)


def rate_law_table(laws: list[RateLaw]) -> Table:
  """How the best learning rate moves along each axis (`questions.rate_laws`)."""
  rows = []
  for law in laws:
    place = [law.workload, law.learner, law.axis, law.metric, f"{len(law.kept)} of {len(law.sizes)}"]
    rows.append([*place, interval_text(law.exponent, 3), law.verdict[0].upper() + law.verdict[1:], law.left_out or "-"])
  columns = ["workload", "learner", "axis", "metric", "sizes with a minimum", "exponent [95%]", "verdict", "sizes left out"]
  return Table("The best learning rate along each axis", columns, rows, _RATE_LAWS_NOTE)


_RATE_LAWS_NOTE = (
  "At each size, a parabola of log loss over log rate is fitted to the rates around the lowest loss (a cubic where the sizes together show "
  "that loss rises unevenly). Its minimum is the best rate, with an error from what the seeds differ by. The exponent is that of a power "
  "law of these, weighted by their errors. A size whose least loss is at an end of the tried rates bounds its best rate on one side only "
  "and is left out. Both rates of a run move together. Along one pass, the losses after so many examples at constant rates are compared, "
  "and the interval is the jackknife's over seeds."
)


def repeats_table(found: list[Repeats]) -> Table:
  """The loss after several epochs, by model and number of unique examples (`questions.repeats`)."""
  epochs = sorted({e for model in found for row in model.rows for e in row.epochs})
  cells = []
  for model in found:
    for row in model.rows:
      known_losses = dict(zip(row.epochs, row.losses, strict=True))
      losses = [f"{known_losses[e]:.5g}" if e in known_losses else "-" for e in epochs]
      ends = [row.change, *((row.change - row.half, row.change + row.half) if row.half is not None else ())]
      ratio, *interval = (f"{np.exp(value):.3f}" for value in ends)
      text = f"{ratio} [{', '.join(interval)}]" if interval else ratio
      place = [model.workload, model.learner, model.model or "base", short(row.unique), row.seeds, model.metric]
      cells.append([*place, *losses, f"{row.lowest:.3g}", text, row.what])
  columns = [
    "workload",
    "learner",
    "model",
    "unique examples",
    "seeds",
    "metric",
    *(f"{e:g} epoch{'' if e == 1 else 's'}" for e in epochs),
    "lowest after",
  ]
  return Table("Repeated data", [*columns, "last / first [95%]", "the loss"], cells, _REPEATS_NOTE)


_REPEATS_NOTE = (
  "Mean loss over seeds at the end of epochs over the same unique examples. Lowest after: the epochs of the evaluation with the lowest "
  "loss, from the end of the first epoch on. Last / first: the ratio of the last loss to that after one epoch. The law of repeated data of "
  "Muennighoff et al. 2023 only falls: a loss that rises is outside it."
)


def throughput_table(entries: list[dict[str, Any]]) -> Table:
  """Examples a second over the hardware axes (`questions.throughput`)."""
  rows = []
  for e in entries:
    place = [e["workload"], e["learner"], e["axis"], e["label"], e["runs"]]
    rows.append([*place, f"{e['examples_per_s']:,.0f}", f"{e['speedup']:.2f}", known(e["efficiency"], ".0%")])
  columns = ["workload", "learner", "axis", "size", "runs", "examples/s", "speedup", "efficiency"]
  return Table("Throughput", columns, rows, _THROUGHPUT_NOTE)


_THROUGHPUT_NOTE = (
  "Training examples a second without evaluations, median over seeds. Speedup: over the first size of the axis. Efficiency: the speedup "
  "over that of the number of devices. Simulated devices share the host's cores: efficiencies there say nothing about hardware."
)


def print_tables(laws: list[LawRow], more: list[Table]) -> None:
  """The law table and the others on standard output."""
  console = terminal.console(230)
  shown = laws if len(laws) <= _MOST_LAWS else [row for row in laws if row.axis == "data" or row.x != "examples"]
  if shown:
    title = "Scaling laws, L(x) = alpha * x**-beta + gamma; ? is an end that the points leave open"
    terminal.show(console, title, LAW_COLUMNS, [law_cells(row) for row in shown])
  if len(shown) < len(laws):
    console.print(f"{len(laws) - len(shown)} more laws, of curves of single sizes, are in laws.json and on the page.")
  for method in dict.fromkeys(row.fit.method for row in laws if row.fit.method):
    console.print(f"Intervals, {method}: {METHODS[method]}.")
  for table in (table for table in more if table.printed):
    terminal.show(console, table.title, table.columns, table.rows)
    console.print(table.note)
