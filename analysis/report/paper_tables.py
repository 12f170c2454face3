"""The tables for the questions of the paper: schemes by resource with the published laws, frontier, laws compared, noise, advice.

Called by `analysis.report`.
"""

from typing import Any

import numpy as np

from analysis.fitting.result import estimate_text, interval_text
from analysis.questions import regimes
from analysis.questions.advice import Advice, option_rows
from analysis.questions.comparison import DISTANCES, Compared
from analysis.questions.ne_laws import NeLaw
from analysis.questions.parts import Exponents
from analysis.questions.published import PAPER
from analysis.questions.schemes import BEST, SchemeRow
from analysis.questions.sweep_laws import Noises
from analysis.report.tables import ADVICE, known, short
from dlrm_jax.common.terminal import Table

_RESOURCES = {"data": "data", "params": "parameters", "compute": "compute"}

SCHEMES_TEXT = (
  "Loss against examples at the largest size, against parameters after the examples that all sizes have, and the least loss for the FLOPs "
  "spent (winners picked on other seeds than they are measured on; where there is one configuration, its curve). best: over all schemes. "
  "An exponent that misses the points is that of the closest law, not a result. Efficiency: the resource that the cheapest scheme needs "
  "for the loss which all reach, over what this one needs. Published: Ardalani et al. 2022, second hand, model and data scaled together; "
  "by scheme nothing could be read. Its constant, an NE of .98, is that of another log: nothing else follows for this one. " + regimes.TEXT
)


def scheme_table(rows: list[SchemeRow]) -> Table:
  """Schemes by resource."""
  columns = ["workload", "resource", "scheme", "loss", "exponent [95%]", "constant"]
  columns += ["regime at the end", "efficiency", "theory", "published"]
  cells = []
  for r in rows:
    constant = interval_text(r.fit.params.get("gamma"), 3)
    published = PAPER[r.resource].text if r.scheme in (BEST, "data") else "-"
    place = [r.workload, _RESOURCES[r.resource], r.scheme, r.metric]
    cells.append(
      [*place, estimate_text(r.fit, "beta"), constant, r.regime, known(r.efficiency, ".2f"), known(r.theory_beta, ".3f"), published]
    )
  return Table("Schemes and resources", columns, cells, SCHEMES_TEXT)


EXPONENTS_TEXT = (
  "The largest size of each scheme. Tail: fitted to the excess of the tail, the part that examples affect, from the start of the window on "
  "(where there is no other part, to the whole excess). Whole: fitted to the whole excess over all evaluations, which falls faster while "
  "other parts are being learned. An interval from one seed is too narrow: it ignores the noise that the points of a pass share."
)


def exponent_table(found: list[Exponents]) -> Table:
  """The data exponents of planted data."""
  columns = ["workload", "learner", "scheme", "size", "seeds", "tail, exponent [95%]", "from", "whole, exponent [95%]", "theory"]
  cells = []
  for e in found:
    r = e.window
    whole = "-" if e.whole is None else estimate_text(e.whole.fit, "beta")
    place = [r.workload, r.learner, r.axis, short(r.size), r.fit.num_seeds]
    cells.append([*place, estimate_text(r.fit, "beta"), short(r.fit.x_min), whole, known(r.theory_beta, ".3f")])
  return Table("Data exponents by scheme", columns, cells, EXPONENTS_TEXT)


NE_TEXT = (
  "The same points of planted data as whole excess, whose limit is 0, and as NE, which is (excess + b)/H for the loss b of the true click "
  "probabilities and the entropy H of the click rate. Where the excess is a power of examples, NE must have its exponent and the constant "
  "b/H (theory's constant). Each is fitted by itself."
)


def ne_table(laws: list[NeLaw]) -> Table:
  """Whether NE follows the law of the excess."""
  columns = ["workload", "learner", "scheme", "size", "excess, exponent [95%]", "NE, exponent [95%]", "NE, constant [95%]"]
  cells = []
  for law in laws:
    place = [law.workload, law.learner, law.axis, short(law.size)]
    constant = interval_text(law.ne.params.get("gamma"), 4)
    cells.append([*place, estimate_text(law.excess, "beta"), estimate_text(law.ne, "beta"), constant, f"{law.bayes:.4f}", law.verdict])
  return Table("NE and excess", [*columns, "theory's constant", "verdict"], cells, NE_TEXT)


PARTS_TEXT = (
  "The excess that a model of each size leaves of the part of planted data that its axis affects: rows the tail, dim the pairs, overarch "
  "the scores, bottom MLP the dense part. It is the mean over seeds after as many examples as all sizes have. Floor: that of the best "
  "model of that size with unlimited data. Ideal: that of the ideal learner with these rows and examples. Where the floor is nearly all of "
  "the ideal, the rows are the limit and more data buys little. Both are averages over teachers, and exact for small logit errors only."
)


def parts_table(entries: list[dict[str, Any]]) -> Table:
  """Every size with its floor."""
  columns = ["workload", "axis", "size", "examples", "loss", "left", "± sd", "floor", "left / floor"]
  columns += ["ideal", "left / ideal", "whole excess"]
  cells = []
  for e in entries:
    numbers = {name: known(e[name], ".4g") for name in ("excess", "std", "floor", "excess_ideal", "total")}
    over = {name: f"{e['excess'] / e[name]:.3f}" if e[name] else "-" for name in ("floor", "excess_ideal")}
    place = [e["workload"], e["axis"], e["label"], short(e["examples"]), e["metric"]]
    shares = [numbers["floor"], over["floor"], numbers["excess_ideal"], over["excess_ideal"], numbers["total"]]
    cells.append([*place, numbers["excess"], numbers["std"], *shares])
  return Table("Sizes beside theory", columns, cells, PARTS_TEXT)


FRONTIER_TEXT = (
  "The configuration with the least loss for a budget, and its loss after so many examples, mean over seeds; both at the end of the range "
  "of budgets. Between two evaluations a pass is interpolated on logarithms. Where the seeds do not tell several configurations apart (t "
  "test at 5%, their scatter pooled over all configurations), all of them are named, the least loss first, and examples and loss are those "
  "of the first. Along parameters all are compared after the most examples that every one has been evaluated at, which may be before the "
  "end of their runs. Evaluations before the end of a run may predict fewer rows; their losses are corrected by the difference that these "
  "rows make at its end. The winner was picked by this loss, so the loss is a little too low; laws are fitted to losses on seeds that did "
  "not pick the winner. Agreement: the share of choices without one seed in which a configuration that is named wins."
)
_MOST_ALIKE = 4  # configurations named at one budget


def frontier_table(rows: list[SchemeRow]) -> Table:
  """The winners along compute and parameters."""
  cells = []
  for r in (r for r in rows if r.scheme == BEST and r.frontier is not None and r.resource != "data"):
    found = r.frontier
    assert found is not None
    merged: list[list[Any]] = []
    for budget, value, alike, agreement in zip(found.budget, found.winner_loss, found.alike, found.agreement, strict=True):
      name, last = _alike_text(alike), [float(budget), short(alike[0]["examples"]), f"{value:.5g}"]
      if merged and merged[-1][0] == name:  # one row for as long as the same ones win
        merged[-1][2:] = [*last, min(merged[-1][-1], float(agreement))]
      else:
        merged.append([name, float(budget), *last, float(agreement)])
    for name, low, high, examples, value, agreement in merged:
      budget_text = short(low) if low == high else f"{short(low)} to {short(high)}"
      shown = _agreement(agreement, len(found.loss))
      cells.append([r.workload, _RESOURCES[r.resource], budget_text, name, examples, value, shown])
  columns = ["workload", "resource", "budget", "winner", "examples", "loss", "agreement"]
  return Table("Which scheme wins where", columns, cells, FRONTIER_TEXT)


def _alike_text(alike: list[dict[str, Any]]) -> str:
  """The configurations that win at a budget: one, or those that the seeds do not tell apart."""
  names = [f"{w['axis']} {w['label']}" for w in alike]
  more = f" and {len(names) - _MOST_ALIKE} more" if len(names) > _MOST_ALIKE else ""
  return names[0] if len(names) == 1 else "alike: " + ", ".join(names[:_MOST_ALIKE]) + more


def _agreement(share: float, seeds: int) -> str:
  """The share of choices that agree; with few seeds, how few they are."""
  return "one seed" if seeds == 1 else f"{share:.0%}" + (", each by one seed" if seeds == 2 else "")


COMPARISON_TEXT = (
  "Every law of one variable on the curve of the largest size of each axis. AICc: the distance from the best law's. The other columns: the "
  "law is fitted to the points up to some x; the root mean square relative error of its predictions at up to so many times that x, over up "
  "to four such x. Status misfit: the points contradict the law."
)


def comparison_table(compared: list[Compared]) -> Table:
  """Laws compared."""
  columns = ["curve", "law", "AICc behind", *(f"to {d:g}x" for d in DISTANCES), "condition", "status"]
  cells = []
  for c in compared:
    errors = ["-" if np.isnan(e) else f"{e:.2%}" for e in c.errors]
    status = c.status or ("on bound: " + ", ".join(c.on_bound) if c.on_bound else "ok")
    cells.append([c.group, c.law, known(c.behind, ".1f"), *errors, known(c.condition_number, ".1e"), status])
  return Table("Extrapolation, and laws compared", columns, cells, COMPARISON_TEXT, printed=False)


NOISE_TEXT = (
  "The noise between seeds along a pass, as standard deviations of the log loss: an offset of the whole pass, a drift that dies out over a "
  "range in x, white noise. Intervals of data laws are computed from it. Correlation: of two evaluations a factor of 1.4 in examples apart."
)


def noise_table(noises: Noises) -> Table:
  """The noise of passes."""
  columns = ["workload", "learner", "loss", "passes", "offset", "drift", "dies out over"]
  columns += ["white noise", "variance per decade", "correlation"]
  cells = []
  for (workload, learner, metric), n in noises.items():
    offset, drift, nugget = (f"{np.sqrt(v):.2%}" for v in (n.offset, n.drift, n.nugget))
    correlation = f"{n.correlation(0.5 * np.log(2)):.2f}"
    cells.append([workload, learner, metric, n.free, offset, drift, f"{np.exp(n.length):.3g}x", nugget, f"x{10**n.tilt:.2f}", correlation])
  return Table("Noise of training passes", columns, cells, NOISE_TEXT, printed=False)


def advice_tables(given: list[Advice]) -> list[Table]:
  """One table a workload."""
  out = []
  for advice in given:
    columns, cells = option_rows(advice)
    text = f"{advice.verdict} " + " ".join(f"{note[0].upper()}{note[1:]}." for note in advice.notes)
    title = f"{ADVICE}: the next {advice.times:g} times the FLOPs, {advice.workload}"
    out.append(Table(title, columns, cells, text))
  return out
