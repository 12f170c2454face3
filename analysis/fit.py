"""Fits a scaling law to the points of a CSV file: estimates, standard errors, 95% intervals, diagnostics, held-out error.

  python -m analysis.fit --input=points.csv --x=examples --y=loss [--group=model] [--seed=seed] --law=power_constant --output=fits.json
  python -m analysis.fit --input=runs.csv --x=params,tokens --y=loss --law=chinchilla --loss=huber --output=fits.json
  python -m analysis.fit --input=runs.csv --x=rows,examples --y=loss --law=joint --predict_at=rows=1e6,examples=1e9 --output=fits.json

The fit is least squares on log y (or Huber's loss) in float64 from many starts. How intervals are computed depends on how the points were
produced. With `--points=independent` each point is a separate run. With `--seed`, the points of one seed and of one value of every other
column of x are a training pass, whose points are correlated. Their covariance is estimated from the differences between seeds, over all
groups of the file. With `--run`, or with one seed, it is estimated from how the passes scatter around the law.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.fitting.borrowed import NOTHING, Borrowed, parsed
from analysis.fitting.fit_law import POINTS, Hand, fit_law
from analysis.fitting.laws import LAWS, NAMES, Law, formula_of, law_of
from analysis.fitting.marquardt import Loss
from analysis.fitting.one_pass import Passes, pooled
from analysis.fitting.optimum_law import Budget
from analysis.fitting.result import Fit, as_dict
from analysis.fitting.settings import inside, usable
from analysis.questions.csv_points import Columns, Points, burned_in, check_passes, like_passes, read_points
from analysis.questions.ensemble import widest
from analysis.questions.fit_table import group_name, print_fits, print_predictions, print_rivals
from analysis.questions.joint_fit import FORMULA, JOINT, fit_joint
from analysis.questions.optimum import FLOPS_PER_PARAM, Split, optimum
from analysis.questions.pareto import pareto_front
from analysis.questions.places import Place, check_groups, of_group, places_of
from analysis.questions.predictions import Prediction, predict, with_ensemble
from analysis.questions.rivals import Rival, better_law, rivals
from dlrm_jax.common import flags, record
from dlrm_jax.common.progress import Bar

_WRITE_EVERY_S = 5.0
_DRAWS = 1000  # bootstrap draws for the intervals of a robust loss


@dataclasses.dataclass(frozen=True)
class FitConfig:
  """Flags of `python -m analysis.fit`."""

  input: str = flags.option(help="CSV file with a header line")
  x: tuple[str, ...] = flags.option(help="column of the resource: examples, parameters, FLOPs; positive; several for a joint law")
  y: str = flags.option(help="column of the loss; positive")
  output: str = flags.option(help="JSON file to write")
  law: str = flags.option(
    "power_constant",
    "the law to fit. " + "; ".join(f"{name}: {formula_of(name)}" for name in NAMES) + f"; {JOINT}: {FORMULA}",
    (*NAMES, JOINT),
  )
  group: str = flags.option("", "column that splits the points; one fit for each of its values")
  seed: str = flags.option("", "column that names seeds; the noise is estimated from the differences between two or more")
  run: str = flags.option("", "column that names training passes, one of each; the noise is estimated from how they scatter around the law")
  points: str = flags.option(
    "curves", "curves: points of one seed that differ only in the last x belong to one training pass; independent: each is a run", POINTS
  )
  x_min: float | None = flags.option(None, "leave out points with smaller x (of the last column)")
  x_max: float | None = flags.option(None, "leave out points with larger x (of the last column)")
  burn_in: float = flags.option(
    0.0, "leave out the start of each run: points whose x (the last column) is below this share of the run's largest x", at_least=0
  )
  fix: tuple[str, ...] = flags.option((), "parameters that are held at a value, such as alpha=0.34,E=1.7")
  tie: tuple[str, ...] = flags.option((), "parameters that share one value, such as alpha:beta")
  prior: tuple[str, ...] = flags.option(
    (), "Gaussian priors, such as alpha~0.3+-0.1 (mean and standard deviation); of the logarithm for a scale such as A"
  )
  loss: str = flags.option("squares", "the loss of a residual of log y; huber: robust, points taken as independent", ("squares", "huber"))
  huber_delta: float = flags.option(
    1e-3, "with --loss=huber: residuals of log y up to this are squared, larger ones count by their size", above=0
  )
  bootstrap_draws: int = flags.option(
    0, f"draws of a bootstrap over independent points, for the intervals; 0: profile likelihood, or {_DRAWS} draws with huber"
  )
  predict_at: tuple[str, ...] = flags.option(
    (),
    "where losses are predicted, with 95% intervals: a CSV file with the columns of --x, or such as rows=1e6,examples=1e9; a column "
    "that is named again begins the next place",
  )
  compare: bool = flags.option(True, "compare the other laws of as many columns on the same points: AICc and held-out error")
  front: bool = flags.option(False, "fit the Pareto front of each group alone: points that no other beats in both x and y")
  budget_flops: float | None = flags.option(
    None,
    "with --law=chinchilla and x parameters, examples: the best split of so many FLOPs, printed and written with 95% intervals",
    above=0,
  )
  flops_per_param: float = flags.option(
    FLOPS_PER_PARAM, "with --budget_flops: training FLOPs per parameter and example, k in C = k N D; 6 for a transformer", above=0
  )

  def __post_init__(self) -> None:
    flags.check_fields(self)
    for field in ("input", "y", "output"):
      flags.check(bool(getattr(self, field)), self, field, "a name")
    if self.law in LAWS:
      count = LAWS[self.law].num_x
      flags.check(len(self.x) == count, self, "x", f"{count} column{'s' if count > 1 else ''} for --law={self.law}")
    else:
      flags.check(len(self.x) > 1, self, "x", f"two columns or more for --law={self.law}")
    flags.check(len(set(self.x)) == len(self.x), self, "x", "names that differ")
    flags.check(not self.front or len(self.x) == 1, self, "front", "false for a law of several columns")
    flags.check(self.budget_flops is None or self.law == "chinchilla", self, "budget_flops", "left out, except with --law=chinchilla")
    flags.check(not (self.run and self.seed), self, "run", "left out with --seed, whose passes are those of one seed and configuration")
    single = self.run and (self.loss == "huber" or self.points == "independent")
    flags.check(not single, self, "run", "left out with --loss=huber and with --points=independent, which take points as independent")
    flags.check(self.bootstrap_draws == 0 or self.bootstrap_draws >= 100, self, "bootstrap_draws", "0, or 100 or more")
    flags.check(self.burn_in < 1, self, "burn_in", "below 1")
    for field in ("fix", "tie", "prior", "bootstrap_draws") if self.law == JOINT else ():
      flags.check(not getattr(self, field), self, field, "left out with --law=joint")
    flags.check(self.law != JOINT or self.loss == "squares", self, "loss", "squares with --law=joint")
    borrowed, robust = self.borrowed, self.loss == "huber" or self.bootstrap_draws > 0
    flags.check(not self.prior or not robust, self, "prior", "left out with --loss=huber and with --bootstrap_draws")
    flags.check(self.budget_flops is None or not borrowed, self, "budget_flops", "left out with --fix, --tie and --prior")
    if self.x_min is not None and self.x_max is not None:
      flags.check(self.x_min < self.x_max, self, "x_min", f"below --x_max={self.x_max:g}")

  @property
  def borrowed(self) -> Borrowed:
    """The parameters that are fixed, tied or have a prior."""
    return NOTHING if self.law == JOINT else parsed(law_of(self.law, self.x), self.fix, self.tie, self.prior)

  @property
  def columns(self) -> Columns:
    """The columns that are read."""
    return Columns(self.x, self.y, self.group, self.seed, self.run)

  @property
  def draws(self) -> int:
    """Draws of the bootstrap; 0: none."""
    return self.bootstrap_draws or (_DRAWS if self.loss == "huber" else 0)

  @property
  def kind(self) -> str:
    """How the points were produced, one of `POINTS`."""
    return "independent" if self.loss == "huber" or not (self.seed or self.run) else self.points


@dataclasses.dataclass(frozen=True)
class GroupFit:
  """The results of one group.

  Attributes:
    fit: its fit.
    rivals: the laws compared on its points.
    split: the best split of a budget; None where none is asked for, and where there is none.
    predictions: the losses at some places.
  """

  fit: Fit
  rivals: list[Rival]
  split: Split | None
  predictions: list[Prediction]


def fit_groups(groups: dict[str, Points], config: FitConfig, places: Sequence[Place] = ()) -> Iterator[GroupFit]:
  """The law fitted to each group in turn, with the noise of training passes pooled over all groups."""
  noise = None
  groups = {group: burned_in(p, config.burn_in) for group, p in groups.items()}
  if config.front:
    groups = {group: p.at(pareto_front(p.x[:, 0], p.y)) for group, p in groups.items()}
  if config.kind == "curves":
    law = widest(config.x) if config.law == JOINT else config.borrowed.restrict(law_of(config.law, config.x))
    kept = [p.at(inside(p.x, config.x_min, config.x_max) & usable(p.x, p.y)) for p in groups.values()]
    noise = pooled([Passes(law, p.x, p.y, p.seed) for p in kept], runs=bool(config.run))
  loss = Loss(config.huber_delta if config.loss == "huber" else None)
  fit_one = functools.partial(
    fit_law,
    x_min=config.x_min,
    x_max=config.x_max,
    points=config.kind,
    noise=noise,
    loss=loss,
    draws=config.draws,
    borrowed=config.borrowed,
  )
  for group, p in groups.items():

    def refit(law: Law, hand: Hand | None = None, group: str = group, p: Points = p) -> Fit:
      return fit_one(p.x, p.y, law, p.seed, group=group, hand=hand)

    at, window = of_group(places, group, len(config.x)), p.at(inside(p.x, config.x_min, config.x_max))
    if config.law == JOINT:
      fit, laws = fit_joint(window.x, window.y, config.x, window.seed, group, config.kind, noise)
    else:
      fit, laws = with_ensemble(functools.partial(refit, law_of(config.law, config.x)), len(at) > 0)
    compared = config.compare and config.law != JOINT  # which weighs several laws
    unnamed = like_passes(window, config.columns) if config.points == "curves" and config.loss == "squares" else ""
    others, split = rivals(fit, window.x, window.y, window.seed, noise, loss) if compared else [], None
    fit = dataclasses.replace(fit, note="; ".join(note for note in (fit.note, p.blank, unnamed, better_law(others)) if note))
    if config.budget_flops and fit.believed:
      budget = Budget(config.budget_flops, config.flops_per_param)
      split = Split(group, budget, optimum(fit, refit, budget), float(budget.cost * p.x.prod(axis=1).max()), config.x)
    yield GroupFit(fit, others, split, predict(fit, laws, config.x, at))


def main(config: FitConfig) -> None:
  output = Path(config.output)
  if output.exists() and Path(",".join(config.predict_at)).is_file() and output.samefile(",".join(config.predict_at)):
    raise flags.UserError(f"--output={output}: is the file of --predict_at; name another file")
  if output.is_dir() or (output.exists() and output.samefile(config.input)):
    raise flags.UserError(f"--output={output}: is {'a directory' if output.is_dir() else 'the input'}; name another file")
  groups, places = read_points(Path(config.input), config.columns), places_of(config.predict_at, config.columns)
  check_passes(groups, config.columns)
  check_groups(places, groups, config.columns)
  found: list[GroupFit] = []
  written = time.monotonic()
  with Bar("fitting groups", len(groups)) as bar:
    for one in fit_groups(groups, config, places):
      found.append(one)
      bar(1)
      if len(found) < len(groups) and time.monotonic() > written + _WRITE_EVERY_S:
        _write(config.output, found, len(groups) - len(found))
        written = time.monotonic()
  _write(config.output, found, 0)
  fits = [one.fit for one in found]
  print_fits(fits)
  print_rivals([one.rivals for one in found if one.rivals])
  print_predictions([prediction for one in found for prediction in one.predictions])
  for one in found:
    if one.split:
      print(f"{group_name(one.fit.group)}: {one.split.sentence}")
  if config.budget_flops:
    for fit in (one.fit for one in found if not one.split and not one.fit.refused):
      print(f"{group_name(fit.group)}: no split of {config.budget_flops:.4g} FLOPs: {fit.reason}.")
  if all(fit.refused for fit in fits):
    raise flags.UserError("; ".join(f"group {group_name(fit.group)}: {fit.status}" for fit in fits))


def _write(output: str, found: list[GroupFit], left: int) -> None:
  """Writes the results so far. `groups_left` is the number of groups without a fit: above 0 in the file of a run that ended early."""
  lists = {
    "fits": [as_dict(one.fit) for one in found],
    "comparison": [rival.as_dict() for one in found for rival in one.rivals],
    "compute_optimal": [one.split.as_dict() for one in found if one.split],
    "predictions": [prediction.as_dict() for one in found for prediction in one.predictions],
  }
  known = {name: rows for name, rows in lists.items() if rows or name in ("fits", "comparison")}
  record.write_json(output, record.header() | {"groups_left": left} | known)


if __name__ == "__main__":
  flags.run(main, FitConfig)
