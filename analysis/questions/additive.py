"""One law for all training passes of a sweep, with a term for examples and one for each model axis. Called by `analysis.advise`.

Each axis is varied around one base run. How the terms are joined is not known: several joint laws are compared by their errors on larger
runs (`ensemble.py`). Where the points contradict them all, or the log drifts, there is no law and a reason instead. Where only the ends of
runs count, the laws are fitted to these (`run_ends.py`).
"""

import dataclasses

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import special

from analysis.fitting import one_pass, settings
from analysis.fitting.laws import Law, joint
from analysis.fitting.least_squares import solve, solve_held
from analysis.fitting.marquardt import SQUARES
from analysis.fitting.noise import Noise
from analysis.load import Sweep, on_data_curve, same_rows, some_sizes
from analysis.questions.backtest import Backtest, backtests
from analysis.questions.base_run import Base, base_run, base_size, costs_of
from analysis.questions.curves import default_x_min, fitted, total_metric
from analysis.questions.drift import REMEDY, drift_of
from analysis.questions.effects import Effect, effects
from analysis.questions.ensemble import Ensemble, fit_all, widest
from analysis.questions.run_ends import FURTHER_BACK, ONE_LENGTH, RECENT, are_recent, ends_of_lengths, too_few_lengths
from dlrm_jax.common import flags
from dlrm_jax.common.axis_names import SCHEMES

Array = np.ndarray
_LEVEL = 0.95
MIN_SIZES, MOST_SIZES = 3, 12  # sizes of an axis that get a term of its own; from more sizes, 12 are taken at even distances


@dataclasses.dataclass(frozen=True)
class Model:
  """The fitted law of one workload.

  Attributes:
    axes: model axes with a term.
    laws: the joint laws that predict it, whose columns of x are the axes and then the examples.
    largest: the largest size of each axis.
    seen: the axes, and `examples`, along which the measured losses differ by more than seeds do; with one seed, those whose terms lower the
      cost significantly (F test, 5%).
    measured: the base's loss as it was measured at its end, the geometric mean over seeds.
    measured_error: the standard error of its logarithm.
    misfit: the root mean square distance of the law from the measured ends of all passes, in log loss, beyond their noise.
    backtests: predictions of what was measured, by fits to the smaller points.
    notes: what a reader must know.
    rows: which rows of the log its examples are, in words, or empty.
  """

  workload: str
  metric: str
  base: Base
  axes: tuple[str, ...]
  laws: Ensemble
  largest: dict[str, float]
  seen: tuple[str, ...]
  measured: float
  measured_error: float
  misfit: float
  backtests: tuple[Backtest, ...]
  notes: tuple[str, ...]
  rows: str = ""

  def losses(self, sizes: dict[str, float], examples: float) -> Float[Array, " K"]:
    """The loss predicted by the fit, then by each draw. Axes that `sizes` does not name have the base's size."""
    return np.exp(self.laws.log_losses(np.log([*(sizes.get(axis, self.base.sizes[axis]) for axis in self.axes), examples])))


@dataclasses.dataclass(frozen=True)
class Refused:
  """A workload without a law to advise by, and why."""

  workload: str
  metric: str
  reason: str
  notes: tuple[str, ...] = ()


def models(sweep: Sweep) -> list[Model | Refused]:
  """The law of every workload, or why it has none. Raises UserError where no model axis has enough sizes, with what was left out."""
  frame = fitted(sweep).filter((pl.col("learner") == "dlrm") & pl.col("flops_per_example").is_not_null())
  out: list[Model | Refused] = []
  dropped: list[str] = []
  for _, group in frame.group_by("workload", maintain_order=True):
    passes, ends = group.filter(on_data_curve()), ends_of_lengths(group)
    found, notes = _model(passes, group) if len(passes) else _model(ends, group, of_ends=True) if len(ends) else (None, [])
    if found is None and (reason := too_few_lengths(group, MIN_SIZES)):
      found, notes = Refused(group["workload"][0], total_metric(group), reason, tuple(notes)), []
    out += [found] if found is not None else []
    dropped += [f"{group['workload'][0]}: {note}" for note in notes]
  if not out:
    allowed = [axis for axis in SCHEMES if axis != "data"]
    why = f" ({'; '.join(dropped)})" if dropped else ""
    raise flags.UserError(
      f"--workdir={sweep.path}: no axis of {', '.join(allowed)} with {MIN_SIZES} sizes or more, nothing to advise on{why}"
    )
  return out


def _model(group: pl.DataFrame, log: pl.DataFrame, of_ends: bool = False) -> tuple[Model | Refused | None, list[str]]:
  """The law of one workload, or None with notes on what was left out.

  Args:
    group: the evaluations of its passes, or the ends of its runs.
    log: all evaluations, which tell whether the log drifts.
    of_ends: whether `group` has ends, each of which is an independent point.
  """
  workload, metric, notes = group["workload"][0], total_metric(group), []
  base = base_run(group)
  sizes: dict[str, float] = {}  # the base's, of the axes that get a term
  for axis in (axis for axis in SCHEMES if axis != "data"):
    mine = group.filter(axis=axis)
    count, size = mine["size"].n_unique(), base_size(axis, base, mine)
    if axis == "rows" and count and (base["rows"][0] or np.inf) < (base["rows_cap"][0] or 0):
      notes.append("rows: every id has one of its own in the base run, more buy nothing")
    elif count >= MIN_SIZES and size is None:
      notes.append(f"axis {axis}: the base run's record does not have its size there, left out")
    elif count >= MIN_SIZES and size is not None:
      sizes[axis] = float(size)
    elif count:
      notes.append(f"axis {axis} has {count} {'size' if count == 1 else 'sizes'}, a term of its own takes {MIN_SIZES}: left out")
  axes = tuple(sizes)
  if not axes:
    return None, notes
  if (drift := drift_of(log)) is not None and drift.drifts:
    return Refused(workload, metric, f"{drift.short}: {drift.reason}", (f"remedy: {REMEDY}",)), []
  group = pl.concat(
    group.filter(axis=axis) if axis == "data" else some_sizes(group.filter(axis=axis), MOST_SIZES) for axis in (*axes, "data")
  )
  low = default_x_min(group["examples"].unique().to_numpy(), bool(group["planted"].any()))
  points = group.filter(pl.col("axis").is_in([*axes, "data"]) & (pl.col("examples") >= (low or 0)) & (pl.col(metric) > 0))
  if not of_ends:
    points = points.filter((pl.col("axis") != "data") | pl.col("config_id").is_in(base["config_id"].unique().to_list()))
  points = points.with_columns(
    pl.when(pl.col("axis") == axis).then(pl.col("size")).otherwise(sizes[axis]).alias(f"at_{axis}") for axis in axes
  )
  # The base is a point of every axis, and twice where the data axis has a longer run of it.
  points = points.unique([*(f"at_{axis}" for axis in axes), "examples", "seed"], maintain_order=True)
  columns = (*axes, "examples")
  x = points.select(*(f"at_{axis}" for axis in axes), "examples").to_numpy().astype(np.float64)
  y, seed = points[metric].to_numpy().astype(np.float64), points["seed"].to_numpy()
  pooled = None if of_ends else one_pass.pooled([one_pass.Passes(widest(columns), x, y, seed)])

  def setting_of(law: Law) -> settings.Setting:
    passes = settings.of_passes(law, x, y, seed, pooled) if pooled is not None else None
    return passes or settings.independent(law, x, y, SQUARES)

  if of_ends:
    notes += [ONE_LENGTH, *([FURTHER_BACK] if are_recent(group) else [])]
  if pooled is None and (not of_ends or len(np.unique(seed)) == 1):
    notes.append("one seed: points are taken as independent, intervals are too narrow")
  if pooled is not None and not pooled.of_seeds:
    notes.append("one seed: the noise of a pass is estimated from how the passes scatter around a law")
  plain = setting_of(joint(columns, "sum", False, True))
  if plain.dropped:
    notes.append(f"{plain.dropped} evaluations left out: not every seed has one there")
  examples = float(base["examples"].to_numpy().max())
  laws = fit_all(setting_of, columns, np.log([*sizes.values(), examples]), same_rows(points), of_ends)
  if isinstance(laws, str):
    return Refused(workload, metric, f"the law of all {'runs' if of_ends else 'passes'} misses the points: {laws}", tuple(notes)), []
  measured = effects(points, axes, sizes, metric)
  told = {effect.name for effect in measured if effect.seen is not None}
  seen, more = _told(measured, () if told >= set(columns) else _seen(plain), columns)
  notes += [*more, *laws.notes]
  loss, error = _measured_base(points, axes, sizes, metric, pooled)
  costs = {axis: costs_of(group.filter(axis=axis), sizes[axis], float(base["flops_per_example"][0])) for axis in axes}
  largest = {axis: max(float(group.filter(axis=axis)["size"].to_numpy().max()), sizes[axis]) for axis in axes}
  made = Base(examples, float(base["flops_per_example"][0]) * examples, sizes, costs)
  tests, off = backtests(laws.forecasts, examples), _misfit(plain, laws)
  rows = RECENT if are_recent(group) else ""
  return Model(workload, metric, made, axes, laws, largest, seen, loss, error, off, tuple(tests), tuple(notes), rows), []


def _told(measured: list[Effect], in_law: tuple[str, ...], names: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
  """The names with an effect beyond the noise, and notes on the others."""
  found = {effect.name: effect for effect in measured}
  seen, notes = [], []
  for name in names:
    effect = found.get(name)
    known = effect.seen if effect is not None else None
    if known if known is not None else name in in_law:
      seen.append(name)
    if known is None and name not in in_law:
      notes.append(f"{name}: one seed, so nothing tells whether it lowers the loss")
    elif effect is not None and effect.note:
      notes.append(effect.note)
  return tuple(name for name in seen if name not in found or found[name].falls), notes


def _measured_base(
  points: pl.DataFrame, axes: tuple[str, ...], sizes: dict[str, float], metric: str, pooled: Noise | None
) -> tuple[float, float]:
  """The base's loss at its end, the geometric mean over seeds, and the standard error of its logarithm; 0 where nothing tells it."""
  mine = points.filter(*(pl.col(f"at_{axis}") == sizes[axis] for axis in axes))
  last = np.log(mine.filter(pl.col("examples") == pl.col("examples").max())[metric].to_numpy().astype(np.float64))
  if len(last) == 1 and pooled is not None:
    return float(np.exp(last[0])), float(np.sqrt(pooled.covariance(np.log([float(mine["examples"].to_numpy().max())]))[0, 0]))
  return float(np.exp(last.mean())), float(last.std(ddof=1) / np.sqrt(len(last))) if len(last) > 1 else 0.0


def _misfit(setting: settings.Setting, laws: Ensemble) -> float:
  """How far the laws are from the measured ends of the passes: root mean square of log losses, less their noise where seeds tell it."""
  problem = setting.problem
  off = laws.predicted(problem.log_x) - laws.log_y0 - problem.log_y
  places, index = np.unique(problem.log_x[:, :-1], axis=0, return_inverse=True)
  index = index.reshape(-1)
  ends = np.array([np.flatnonzero(index == i)[np.argmax(problem.log_x[index == i, -1])] for i in range(len(places))])
  noise = np.zeros(len(off)) if setting.noise is None else problem.whiten.variances(np.arange(len(off)))
  return float(np.sqrt(max(np.mean(off[ends] ** 2 - noise[ends]), 0.0)))


def _seen(setting: settings.Setting) -> tuple[str, ...]:
  """The terms whose absence from a sum of terms, an exponent of 0, raises the cost more than noise explains."""
  problem, solution = setting.problem, solve(setting.problem)
  left = max(len(problem.log_y) - len(problem.law.params), 1)
  variance = solution.cost / left  # 1 where the noise is known and the law is right
  free, variance = (left, variance) if setting.noise is None else (setting.noise.free, max(variance, 1.0))
  limit = 2 * float(special.fdtri(2, max(free, 1), _LEVEL)) * variance  # two parameters: a scale and an exponent
  names = {i: p.name.removeprefix("alpha_") for i, p in enumerate(problem.law.params) if p.exponent}
  starts = np.concatenate([solution.theta[None], problem.starts[::9]])
  return tuple(name for i, name in names.items() if solve_held(problem, i, 0.0, starts)[1] - solution.cost > limit)
