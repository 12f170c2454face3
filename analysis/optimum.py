"""How the best size of a model grows with the budget, by approaches 1 to 3 of Hoffmann et al. 2022 (arXiv 2203.15556).

  python -m analysis.optimum --input=runs.csv --params=N --examples=D --loss=L [--run=RUN] --budget_flops=5.76e23 --output=optimum.json
  python -m analysis.optimum --workdir=DIR --axis=overarch --figure=optimum.svg

Approach 1 takes the size of least loss at each budget, over training curves (--run, or a sweep). Approach 2 takes the minimum of each
isoFLOP profile, loss against size at one budget. Approach 3 fits a joint law of parameters and examples. Each gives the exponent a with
which the best size grows as C^a, and the best split of one budget, with 95% intervals. Lines below the table say whether these overlap.

Without --flops a budget is C = k N D, k = 6 for a transformer (--flops_per_param). With it, and on sweeps, the FLOPs of an example are
fitted as a power of N.
"""

import dataclasses
from pathlib import Path
from typing import Any

from analysis.fitting.least_squares import SQUARES, Loss
from analysis.fitting.result import as_dict
from analysis.questions import approaches
from analysis.questions.approaches import Approach
from analysis.questions.approaches_text import agreement, approach_table, left_out
from analysis.questions.common_budgets import IsoFlops
from analysis.questions.optimum import FLOPS_PER_PARAM
from analysis.questions.optimum_runs import PARAMS, Runs, runs_of_csv
from dlrm_jax.common import flags, record, terminal

_DRAWS = 1000  # bootstrap draws for the intervals of a robust loss
_FIGURES = (".svg", ".png", ".html")


@dataclasses.dataclass(frozen=True)
class OptimumConfig:
  """Flags of `python -m analysis.optimum`."""

  input: str = flags.option("", "CSV file with a header line; or give --workdir")
  workdir: str = flags.option("", "directory of a sweep, or the file in which it is kept, instead of --input")
  params: str = flags.option("", f"column of the parameters N; of a sweep {', '.join(PARAMS)}: the dense ones on axes of widths, else all")
  examples: str = flags.option("", "column of the examples D")
  loss: str = flags.option("", "column of the loss; positive")
  flops: str = flags.option("", "column of the training FLOPs C; empty: C = k N D")
  flops_per_param: float = flags.option(
    FLOPS_PER_PARAM, "training FLOPs per parameter and example, k in C = k N D; 6 for a transformer", above=0
  )
  run: str = flags.option("", "column that names training passes, whose rows are evaluations; empty: each row is a run")
  axis: str = flags.option("", "of a sweep: the axis whose sizes are compared; empty: the only one")
  workload: str = flags.option("", "of a sweep: the workload; empty: the only one")
  approach: str = flags.option("all", "the approach", ("1", "2", "3", "all"))
  budget_flops: float | None = flags.option(None, "the budget C to split; none: the largest of the points", above=0)
  budgets: tuple[float, ...] = flags.option(
    (), "approach 2: the budgets of the profiles; empty: those that many runs share, or log-spaced ones along passes", above=0
  )
  tolerance: float = flags.option(0.1, "approach 2: runs within this share of a budget count as of this budget", above=0)
  least_sizes: int = flags.option(5, "approach 2: the fewest sizes of a budget", at_least=3)
  skew: bool = flags.option(
    True, "approach 2: profiles of all budgets share a skew, since N and D have different exponents; false: parabolas in log N"
  )
  huber: bool = flags.option(False, "approach 3: Huber's loss (delta 1e-3) and a bootstrap over points, taken as independent")
  output: str = flags.option("", "JSON file to write; none when empty")
  figure: str = flags.option("", "figure to write, FILE.svg, FILE.png or FILE.html; none when empty")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    if bool(self.input) == bool(self.workdir):
      raise flags.UserError("--input, --workdir: give one of the two")
    if self.input:
      for field in ("params", "examples", "loss"):
        flags.check(bool(getattr(self, field)), self, field, "a name of a column")
      for field in ("axis", "workload"):
        flags.check(not getattr(self, field), self, field, "left out with --input")
      named = [name for name in (self.params, self.examples, self.loss, self.flops, self.run) if name]
      flags.check(len(set(named)) == len(named), self, "params", "a column of its own, as --examples, --loss, --flops and --run")
    else:
      for field in ("examples", "loss", "flops", "run"):
        flags.check(not getattr(self, field), self, field, "left out with --workdir")
      flags.check(self.params in ("", *PARAMS), self, "params", "among " + ", ".join(PARAMS))
      flags.check(self.flops_per_param == FLOPS_PER_PARAM, self, "flops_per_param", "left out with --workdir, where FLOPs are recorded")
    flags.check(self.tolerance < 1, self, "tolerance", "below 1")
    apart = 1.0 if self.run or self.workdir else (1 + self.tolerance) ** 2  # rows within the tolerance of two budgets would count twice
    given = sorted(self.budgets)
    flags.check(
      all(a * apart < b for a, b in zip(given, given[1:])),
      self,
      "budgets",
      "farther apart than twice --tolerance" if apart > 1 else "numbers that differ",
    )
    flags.check(not self.figure or Path(self.figure).suffix in _FIGURES, self, "figure", "a name that ends in " + ", ".join(_FIGURES))
    same = self.output and self.figure and Path(self.output).resolve() == Path(self.figure).resolve()
    flags.check(not same, self, "figure", "another file than --output")
    for field in ("output", "figure"):
      path = Path(getattr(self, field) or "none")
      flags.check(not path.is_dir(), self, field, "a file, not a directory")
      flags.check(
        not (self.input and path.exists() and Path(self.input).exists() and path.samefile(self.input)),
        self,
        field,
        "another file than the input",
      )

  @property
  def chosen(self) -> tuple[int, ...]:
    """The approaches."""
    return (1, 2, 3) if self.approach == "all" else (int(self.approach),)


def runs_of(config: OptimumConfig) -> Runs:
  """The runs that the flags name."""
  if config.workdir:
    from analysis.questions.optimum_sweep import runs_of_sweep  # a CSV file needs no polars

    return runs_of_sweep(config.workdir, config.axis, config.params, config.workload)
  c = config
  return runs_of_csv(Path(c.input), c.params, c.examples, c.loss, c.flops, c.run, c.flops_per_param)


def main(config: OptimumConfig) -> None:
  runs, console = runs_of(config), terminal.console(200)
  budget = runs.budget(config.budget_flops or float(runs.flops.max()))
  options = IsoFlops(config.tolerance, config.least_sizes, config.budgets, config.skew)
  found: list[Approach] = []
  saved: dict[str, Any] = {"budget_flops": budget.flops, "flops_per_param": budget.cost, "flops_power": budget.power}
  envelope = mine = profiles = given = None
  if 1 in config.chosen:
    one, envelope, mine = approaches.least_along_curves(runs, budget)
    found.append(one)
    saved["winners"] = [dataclasses.asdict(w) for w in mine]
  if 2 in config.chosen:
    two, profiles, given = approaches.isoflop(runs, budget, options)
    found.append(two)
    saved["profiles"] = [] if profiles is None else profiles.entries()
    saved["skew"] = None if profiles is None else {"estimate": profiles.skew, "std_error": profiles.skew_error}
  if 3 in config.chosen:
    three, fit = approaches.joint_law(runs, budget, Loss(1e-3) if config.huber else SQUARES, _DRAWS if config.huber else 0)
    found.append(three)
    saved["fits"] = [as_dict(fit)]
  saved["approaches"] = [a.as_dict() for a in found]
  lines = [
    *agreement(found, budget, float(runs.flops.max())),
    *(left_out(profiles, given.missing) if profiles is not None and given is not None else []),
    *runs.notes,
  ]
  title, columns, rows = approach_table(found, runs, budget)
  terminal.show(console, title, columns, rows)
  for line in lines:
    console.print(line)
  if config.output:
    record.write_json(config.output, record.header() | saved)
  if config.figure:
    from analysis.report.optimum_figure import figure, write_figure  # loads Altair, which is slow

    drawn = figure(runs, budget, found, envelope, mine or [], profiles, given)
    if drawn is not None:
      write_figure(Path(config.figure), drawn, terminal.Table(title, columns, rows), lines)
  if all(a.refused for a in found):
    raise flags.UserError("; ".join(f"approach {a.number}: {a.refused}" for a in found))


if __name__ == "__main__":
  flags.run(main, OptimumConfig)
