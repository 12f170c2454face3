"""From sweep flags to the list of runs: `SweepConfig` and its points. Shared by plan, run and the workers."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dlrm_jax.common import flags
from dlrm_jax.common.axis_names import AXES, GRID, SCHEMES
from dlrm_jax.config import HORIZONS, RunConfig
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.source import Source, open_source, resolved
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import Machine, make_plan
from dlrm_jax.identity import base_id, config_id
from dlrm_jax.model.dlrm import overarch_width_in
from sweeps.axes import Size, at_length, default_sizes, real_size, scaled, with_part
from sweeps.launch_flags import LaunchConfig, SlurmConfig
from sweeps.rates import RULES, transferred

_FACTOR_SIZES = "none: 1/8, 1/4, 1/2, 1, 2"


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """A base run and the axes to vary it along, one at a time, or several at once on a grid."""

  axes: tuple[str, ...] = flags.option(SCHEMES, "axes to sweep, each alone; none: the grid only", AXES)
  grid: tuple[str, ...] = flags.option((), "axes of which every combination of sizes is run, such as rows,dim", AXES)
  sizes_rows: tuple[float, ...] = flags.option((), "rows a table to run; none: the largest table over 256, 64, 16, 4, 1")
  sizes_dim: tuple[float, ...] = flags.option((), "embedding dims to run; none: the base times 1/8, 1/4, 1/2, 1, 2")
  sizes_overarch: tuple[float, ...] = flags.option((), f"factors on the overarch's hidden widths; {_FACTOR_SIZES}")
  sizes_mlp: tuple[float, ...] = flags.option((), f"factors on the bottom MLP's hidden widths; {_FACTOR_SIZES}")
  sizes_overarch_depth: tuple[float, ...] = flags.option(
    (), "hidden layers of the overarch: the first of the base's widths, then its last again; none: 1, 2, 3, 4 and the base's"
  )
  sizes_mlp_depth: tuple[float, ...] = flags.option((), "hidden layers of the bottom MLP, in the same way; none: 1, 2, 3, 4 and the base's")
  sizes_tables: tuple[float, ...] = flags.option((), "categorical features to run, the first so many; none: all, and 1/2, 1/4, 1/8 of them")
  sizes_all: tuple[float, ...] = flags.option((), f"factors on rows, dim, overarch and bottom MLP at once; {_FACTOR_SIZES}")
  sizes_batch_size: tuple[float, ...] = flags.option((), "batch sizes to run; none: the base times 1/4, 1/2, 1, 2, 4")
  sizes_devices: tuple[float, ...] = flags.option((), "devices to run on; none: 1, 2, 4, ... up to --mesh")
  sizes_placement: tuple[str, ...] = flags.option(
    (), "placements of all tables to run; none: replicated, row, table, and column if it can be"
  )
  sizes_data: tuple[float, ...] = flags.option(
    (), "examples to run anew for; none: --num_examples (one pass is a whole curve), with --data_mode=retrain five octaves up to it"
  )
  data_mode: str = flags.option(
    "online",
    "the data axis: one pass is the whole curve; or every length trained anew, its schedules in proportion to it",
    ("online", "retrain"),
  )
  axis_examples: int = flags.option(0, "examples of the runs on model axes; 0: as many as --num_examples", at_least=0)
  seeds: int = flags.option(1, "runs of every configuration, with seeds --seed, --seed + 1, ...", at_least=1)
  lr_factors: tuple[float, ...] = flags.option(
    (1.0,), "every point is trained at these multiples of both learning rates; reports keep the best"
  )
  lr_rule: str = flags.option(
    "constant", "learning rates along an axis: those of the base, or moved with the size (sweeps/rates.py)", RULES
  )
  zipf_s_values: tuple[float, ...] = flags.option((), "planted data only: sweep once for each Zipf exponent; none: --planted_zipf_s")
  judge: bool = flags.option(False, "planted data only: also run the exact per-id estimator on the data axis, with the first seed")
  measure: bool = flags.option(True, "train some steps first to say how long the sweep will take (launchers inline and local)")
  launch: LaunchConfig = LaunchConfig()
  slurm: SlurmConfig = SlurmConfig()
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(len(self.axes) > 0 or len(self.grid) > 0, self, "axes", f"some of {', '.join(AXES)}")
    flags.check(len(self.grid) != 1 and len(set(self.grid)) == len(self.grid), self, "grid", "two or more different axes")
    factors = self.lr_factors
    flags.check(
      len(factors) > 0 and min(factors) > 0 and len(set(factors)) == len(factors), self, "lr_factors", "different numbers above 0"
    )
    flags.check(self.run.restore is None, self.run, "restore", "left out: every run of a sweep starts anew")
    flags.check(self.run.coordinator in (None, "auto"), self.run, "coordinator", "left out: the launcher says where processes meet")
    flags.check(all(1 < s <= 3 for s in self.zipf_s_values), self, "zipf_s_values", "numbers above 1, at most 3")
    if self.data_mode == "online" and "data" in self.axes + self.grid and self.run.train.lr_schedule in HORIZONS:
      schedule = self.run.train.lr_schedule
      raise flags.UserError(
        f"--lr_schedule={schedule}: its horizon makes one pass no data curve; give --data_mode=retrain, or leave out data"
      )
    if self.data_mode == "online" and "data" in self.axes + self.grid and self.run.train.window == "recent":
      why = "one pass begins with the oldest of its rows, so that its curve is not one of most recent rows"
      raise flags.UserError(f"--window=recent: {why}; give --data_mode=retrain, or leave out data")


@dataclasses.dataclass(frozen=True)
class Point:
  """One place in a sweep. The base run is a point of several axes; it has one config_id and is run once.

  Attributes:
    workload: the data, for people: "s=1.111" or a data set's name.
    axis, size: where along which axis; of a grid, axis names such as "rows*dim" and the combination's position, of placements the name's.
    label: the size for people: "209", "row", "209*4".
    sizes: the size along each axis that was moved; of placements the position.
    lr_factor: what `--lr_factors` multiplied the learning rates by.
    seed, learner, examples: as in the run's config; `examples` over all epochs.
    order, window, epochs: as in the run's config: which rows of a data set it reads, how often, in which order.
    data_mode: whether points of the data axis are along one pass ("online") or runs of their own ("retrain").
    config_id: names the run's directory and record.
    base: names the configuration that the sweep varies, whatever its seed and length: points are compared within one base only.
    config: the run.
  """

  workload: str
  axis: str
  size: float
  label: str
  sizes: dict[str, float]
  lr_factor: float
  seed: int
  learner: str
  examples: int
  config_id: str
  base: str
  order: str
  window: str
  epochs: int
  data_mode: str
  config: RunConfig

  @property
  def name(self) -> str:
    """Names the run to people."""
    return name_of(self.describe())

  def describe(self) -> dict[str, Any]:
    """What sweep.json keeps of a point."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}


def name_of(described: Mapping[str, Any]) -> str:
  """`Point.name` of a point as sweep.json keeps it. Older files have neither label nor lr_factor."""
  factor, label = described.get("lr_factor", 1), described.get("label", f"{described['size']:g}")
  rates = "" if factor == 1 else f" lr x{factor:g}"
  return f"{described['workload']} {described['axis']}={label} seed {described['seed']} {described['learner']}{rates}"


class Run(NamedTuple):
  """A point to train, and where its examples come from. Several points may be one run, with one config_id."""

  point: Point
  source: Source


@dataclasses.dataclass(frozen=True)
class _Cell:
  """A combination of sizes: one of an axis, or several of a grid; `config` before the learning rates are set."""

  size: float
  label: str
  sizes: dict[str, float]
  config: RunConfig
  source: Source


def expand(sweep: SweepConfig) -> list[Run]:
  """Every point of a sweep with its source, each checked to be possible. Raises UserError before anything has run."""
  out = []
  for base in _workloads(sweep):
    source = open_source(base)
    planted = isinstance(source, Planted)
    workload = f"s={base.planted.zipf_s:.4g}" if planted else source.name
    where = (workload, base_id(base, source.digest))
    for seed in range(base.train.seed, base.train.seed + sweep.seeds):
      for names in [*((axis,) for axis in sweep.axes), *([sweep.grid] if sweep.grid else [])]:
        seen: set[RunConfig] = set()
        for cell in _cells(sweep, names, with_part(base, "train", seed=seed), source):
          if cell.config in seen:
            continue  # narrow widths round to the same model
          seen.add(cell.config)
          check(cell.config, cell.source)
          rates = transferred(base, cell.config) if sweep.lr_rule == "transfer" else cell.config
          out += [_point(*where, names, cell, sweep.data_mode, _at_rates(rates, factor), factor) for factor in sweep.lr_factors]
          if names == ("data",) and planted and sweep.judge and seed == base.train.seed:
            out.append(_point(*where, names, cell, sweep.data_mode, with_part(cell.config, "train", learner="per_id")))
  return out


def _point(workload: str, base: str, names: tuple[str, ...], cell: _Cell, data_mode: str, config: RunConfig, factor: float = 1.0) -> Run:
  train, name = config.train, config_id(config, cell.source.digest)
  place = (workload, GRID.join(names), cell.size, cell.label, cell.sizes, factor)
  rows = (train.order, train.window, train.epochs, data_mode)
  return Run(Point(*place, train.seed, train.learner, train.total_examples, name, base, *rows, config), cell.source)


def check(config: RunConfig, source: Source) -> None:
  """Raises UserError where no run of `config` is possible: its tables fit no plan, or its layers not the data."""
  make_plan(config, make_layout(config.model, source.shape), Machine(config.mesh.num_devices))
  overarch_width_in(config.model, source.shape.num_dense, len(source.shape.field_names))
  config.model.bottom_widths(source.shape.num_dense)


def _cells(sweep: SweepConfig, names: tuple[str, ...], base: RunConfig, source: Source) -> Iterator[_Cell]:
  """The combinations of sizes along the axes `names`, each with its configuration."""
  length = base.train.num_examples if "data" in names else sweep.axis_examples or base.train.num_examples
  retrain = sweep.data_mode == "retrain"
  center = resolved(with_part(base, "train", num_examples=length), source)
  sizes = [getattr(sweep, f"sizes_{axis}") or default_sizes(center, axis, source, retrain) for axis in names]
  for position, cell in enumerate(itertools.product(*sizes)):
    config, its_source = center, source
    for axis, size in sorted(zip(names, cell, strict=True), key=lambda pair: pair[0] != "tables"):  # they bound what rows there are
      config = scaled(config, axis, size, its_source)
      if axis == "tables":
        its_source = source.first_tables(config.model.num_tables)
    config = resolved(config, source)
    if retrain:
      whole = base.train.num_examples or resolved(base, source).train.num_examples
      config = at_length(with_part(config, "train", num_examples=whole), config.train.num_examples)
    if sweep.launch.launcher == "slurm":  # the order of prepared data, and so the run's name, depends on the number of processes
      config = sweep.slurm.over_processes(config)
    reached = {axis: _place(config, axis, size, its_source, of) for axis, size, of in zip(names, cell, sizes, strict=True)}
    label = GRID.join(str(size) if isinstance(size, str) else f"{reached[axis]:.12g}" for axis, size in zip(names, cell, strict=True))
    yield _Cell(reached[names[0]] if len(names) == 1 else float(position), label, reached, config, its_source)


def _place(config: RunConfig, axis: str, size: Size, source: Source, sizes: tuple[Size, ...]) -> float:
  """A size as a number: of a placement, its position in the list."""
  return float(sizes.index(size)) if isinstance(size, str) else real_size(config, axis, size, source)


def runs_of(points: list[Run]) -> dict[str, Run]:
  """Each run once, by config_id; of several points that are one run, the first."""
  runs: dict[str, Run] = {}
  for run in points:
    runs.setdefault(run.point.config_id, run)
  return runs


def _workloads(sweep: SweepConfig) -> list[RunConfig]:
  if sweep.run.data != "planted" or not sweep.zipf_s_values:
    return [sweep.run]
  return [with_part(sweep.run, "planted", zipf_s=s) for s in sweep.zipf_s_values]


def _at_rates(config: RunConfig, factor: float) -> RunConfig:
  if factor == 1:
    return config
  return with_part(config, "train", table_lr=config.train.table_lr * factor, dense_lr=config.train.dense_lr * factor)
