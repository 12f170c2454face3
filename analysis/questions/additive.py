"""One law for all training passes of a sweep: a term for examples, one for each model axis, and a constant. Called by `analysis.advise`.

L = A N^-alpha + sum_a A_a size_a^-alpha_a + E, with each axis varied around one base run. This is Chinchilla's form with a term for every
axis. It assumes that the axes do not interact, which holds on planted data, whose parts are additive.
"""

import dataclasses

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import special

from analysis.fitting import settings
from analysis.fitting.laws import Law, additive
from analysis.fitting.least_squares import SQUARES, Problem, Solution, solve, solve_held
from analysis.load import Sweep, on_data_curve, some_sizes
from analysis.questions.sweep_laws import default_x_min, fitted, total_metric
from dlrm_jax.common import flags
from dlrm_jax.common.axis_names import SCHEMES
from dlrm_jax.common.progress import Bar

Array = np.ndarray
DRAWS = 200
_LEVEL = 0.95
MIN_SIZES, MOST_SIZES = 3, 12  # sizes of an axis that get a term of its own; from more sizes, 12 are taken at even distances
FACTOR_AXES = ("overarch", "mlp", "all")  # whose sizes are factors on the base


@dataclasses.dataclass(frozen=True)
class Base:
  """The run that a sweep varies.

  Attributes:
    examples: the number of examples at its end.
    flops: the FLOPs of training on them.
    sizes: its size on every axis.
    costs: for every axis, pairs (log size over the base's, log FLOPs an example over the base's), by rising size.
  """

  examples: float
  flops: float
  sizes: dict[str, float]
  costs: dict[str, tuple[tuple[float, float], ...]]

  def is_free(self, axis: str) -> bool:
    """Whether the axis changes no FLOPs."""
    return max(abs(cost) for _, cost in self.costs[axis]) < 1e-6

  def cost(self, axis: str, size: float) -> float:
    """FLOPs an example at a size, over the base's: interpolated as a power law, and extrapolated with the last slope."""
    log_size, log_cost = np.array(self.costs[axis]).T
    at = np.log(size / self.sizes[axis])
    if at <= log_size[-1]:
      return float(np.exp(np.interp(at, log_size, log_cost)))
    slope = (log_cost[-1] - log_cost[-2]) / (log_size[-1] - log_size[-2])
    return float(np.exp(log_cost[-1] + slope * (at - log_size[-1])))

  def grown(self, axis: str, times: float) -> float:
    """The size that takes `times` the FLOPs an example, but at most `times` the size.

    Where the axis causes few of the FLOPs, most of the budget is left over.
    """
    if self.cost(axis, self.sizes[axis] * times) <= times:
      return self.sizes[axis] * times
    low, high = 0.0, float(np.log(times))
    for _ in range(100):
      middle = 0.5 * (low + high)
      low, high = (middle, high) if self.cost(axis, self.sizes[axis] * np.exp(middle)) < times else (low, middle)
    return float(self.sizes[axis] * np.exp(high))


@dataclasses.dataclass(frozen=True)
class Model:
  """The fitted law of one workload.

  Attributes:
    axes: model axes with a term.
    law: the law, whose columns of x are the axes and then the examples.
    theta: the fitted coordinates.
    draws: the coordinates fitted to sweeps drawn from the law, [K, P].
    scale: the loss that log losses are relative to.
    largest: the largest size of each axis.
    seen: the axes, and `examples`, whose terms lower the cost significantly (F test, 5%).
    notes: what a reader must know.
  """

  workload: str
  metric: str
  base: Base
  axes: tuple[str, ...]
  law: Law
  theta: Float[Array, " P"]
  draws: Float[Array, "K P"]
  scale: float
  largest: dict[str, float]
  seen: tuple[str, ...]
  notes: tuple[str, ...]

  def losses(self, sizes: dict[str, float], examples: float) -> Float[Array, " K"]:
    """The loss predicted by the fit, then by each draw. Axes that `sizes` does not name have the base's size."""
    x = np.log([*(sizes.get(axis, self.base.sizes[axis]) for axis in self.axes), examples])
    return self.scale * np.exp(self.law.log_value(np.concatenate([self.theta[None], self.draws]), x[None])[0][:, 0])


def models(sweep: Sweep) -> list[Model]:
  """The law of every workload. Raises UserError where no model axis has enough sizes."""
  frame = fitted(sweep).filter((pl.col("learner") == "dlrm") & on_data_curve() & pl.col("flops_per_example").is_not_null())
  out = []
  for _, group in frame.group_by("workload", maintain_order=True):
    out += _model(group)
  if not out:
    allowed = [axis for axis in SCHEMES if axis != "data"]
    raise flags.UserError(f"--workdir={sweep.path}: no axis of {', '.join(allowed)} with {MIN_SIZES} sizes or more, nothing to advise on")
  return out


def _base_run(group: pl.DataFrame) -> pl.DataFrame:
  """The evaluations of the base, all seeds: the longest run of the data axis, else the configuration that is on most axes."""
  data = group.filter(axis="data")
  if len(data):
    return data.filter(pl.col("size") == pl.col("size").max())
  counts = group.group_by("config_id").agg(pl.col("axis").n_unique(), pl.col("params_total").max())
  chosen = counts.sort("axis", "params_total", "config_id", descending=[True, True, False])["config_id"][0]
  place = group.filter(config_id=chosen).row(0, named=True)
  return group.filter(axis=place["axis"], size=place["size"])


def _base_size(axis: str, base: pl.DataFrame, mine: pl.DataFrame) -> float | None:
  """The base's size on an axis; None where its records do not have it."""
  own = mine.filter(pl.col("config_id").is_in(base["config_id"].unique().to_list()))
  if len(own):
    return float(own["size"][0])
  return 1.0 if axis in FACTOR_AXES else base[axis][0]


def _model(group: pl.DataFrame) -> list[Model]:
  workload, metric, notes = group["workload"][0], total_metric(group), []
  base = _base_run(group)
  sizes: dict[str, float] = {}  # the base's, of the axes that get a term
  for axis in (axis for axis in SCHEMES if axis != "data"):
    mine = group.filter(axis=axis)
    count, size = mine["size"].n_unique(), _base_size(axis, base, mine)
    if axis == "rows" and count and (base["rows"][0] or np.inf) < (base["rows_cap"][0] or 0):
      notes.append("rows: every id has one of its own in the base run, more buy nothing")
    elif count >= MIN_SIZES and size is None:
      notes.append(f"axis {axis}: the base run's record does not have its size there, left out")
    elif count >= MIN_SIZES and size is not None:
      sizes[axis] = float(size)
    elif count:
      notes.append(f"axis {axis} has {count} sizes, a term of its own takes {MIN_SIZES}: left out")
  axes = tuple(sizes)
  if not axes:
    return []
  group = pl.concat(
    group.filter(axis=axis) if axis == "data" else some_sizes(group.filter(axis=axis), MOST_SIZES) for axis in (*axes, "data")
  )
  low = default_x_min(group["examples"].unique().to_numpy(), bool(group["planted"].any()))
  points = group.filter(pl.col("axis").is_in([*axes, "data"]) & (pl.col("examples") >= (low or 0)) & (pl.col(metric) > 0))
  points = points.filter((pl.col("axis") != "data") | pl.col("config_id").is_in(base["config_id"].unique().to_list()))
  points = points.with_columns(
    pl.when(pl.col("axis") == axis).then(pl.col("size")).otherwise(sizes[axis]).alias(f"at_{axis}") for axis in axes
  )
  # The base is a point of every axis, and twice where the data axis has a longer run of it.
  points = points.unique([*(f"at_{axis}" for axis in axes), "examples", "seed"], maintain_order=True)
  law = additive((*axes, "examples"))
  x = points.select(*(f"at_{axis}" for axis in axes), "examples").to_numpy().astype(np.float64)
  y, seed = points[metric].to_numpy().astype(np.float64), points["seed"].to_numpy()
  setting = settings.of_passes(law, x, y, seed, None)
  if setting is None:
    notes.append("one seed: points are taken as independent, intervals are too narrow")
    setting = settings.independent(law, x, y, SQUARES)
  if setting.dropped:
    notes.append(f"{setting.dropped} evaluations left out: not every seed has one there")
  solution = solve(setting.problem)
  free = max(len(setting.problem.log_y) - len(law.params), 1)
  deviation = float(np.sqrt(solution.cost / free))  # 1 where the noise is known and the law is right
  deviation = max(deviation, 1.0) if setting.noise else deviation
  draws = _draw(setting.problem, solution.theta, deviation, f"drawing sweeps like {workload}")
  seen = _seen(setting.problem, solution, free if setting.noise is None else setting.noise.free, deviation)
  notes += [f"{name}: no effect on the loss beyond the noise" for name in (*axes, "examples") if name not in seen]
  examples = float(base["examples"].to_numpy().max())
  costs = {axis: _costs(group.filter(axis=axis), sizes[axis], float(base["flops_per_example"][0])) for axis in axes}
  largest = {axis: max(float(group.filter(axis=axis)["size"].to_numpy().max()), sizes[axis]) for axis in axes}
  made = Base(examples, float(base["flops_per_example"][0]) * examples, sizes, costs)
  scale = float(np.exp(setting.problem.log_y0))
  return [Model(workload, metric, made, axes, law, solution.theta, draws, scale, largest, seen, tuple(notes))]


def _seen(problem: Problem, solution: Solution, free: int, deviation: float) -> tuple[str, ...]:
  """The terms whose absence, an exponent of 0, raises the cost more than noise of this deviation and degrees of freedom explains."""
  limit = 2 * float(special.fdtri(2, max(free, 1), _LEVEL)) * deviation**2  # two parameters: a scale and an exponent
  names = {i: p.name.removeprefix("alpha_") for i, p in enumerate(problem.law.params) if p.exponent}
  starts = np.concatenate([solution.theta[None], problem.starts[::9]])
  return tuple(name for i, name in names.items() if solve_held(problem, i, 0.0, starts)[1] - solution.cost > limit)


def _costs(mine: pl.DataFrame, base_size: float, base_flops: float) -> tuple[tuple[float, float], ...]:
  table = mine.group_by("size").agg(pl.col("flops_per_example").first()).sort("size")
  pairs = {float(np.log(size / base_size)): float(np.log(flops / base_flops)) for size, flops in table.rows()}
  return tuple(sorted((pairs | {0.0: 0.0}).items()))


def _draw(problem: Problem, theta: Float[Array, " P"], deviation: float, what: str) -> Float[Array, "K P"]:
  """Fits to sweeps drawn from the law, with noise that has this standard deviation when whitened."""
  rng = np.random.default_rng(0)
  log_f = problem.law.log_value(theta[None], problem.log_x)[0][0]
  n = len(log_f)
  color = np.eye(n) if problem.whiten is None else np.linalg.inv(problem.whiten)
  out = []
  with Bar(what, DRAWS) as bar:
    for _ in range(DRAWS):
      drawn = dataclasses.replace(problem, log_y=log_f + deviation * color @ rng.standard_normal(n))
      out.append(drawn.minimise(theta[None], *problem.bounds(1), max_steps=60, gain=1e-7)[0][0])
      bar(1)
  return np.array(out)
