"""From sweep flags to the list of runs: `SweepConfig` and its points. Shared by plan and run."""

import dataclasses
from typing import Any

from dlrm_jax import flags
from dlrm_jax.config import RunConfig, config_id
from dlrm_jax.data.planted import Planted
from dlrm_jax.data.source import Source, layout_of, one_pass, open_source
from dlrm_jax.embedding.plan import Machine, make_plan
from dlrm_jax.model.dlrm import overarch_width_in
from dlrm_jax.record import AXES
from sweeps.axes import default_sizes, scaled
from sweeps.launch_flags import LaunchConfig, SlurmConfig


@dataclasses.dataclass(frozen=True)
class SweepConfig:
  """A base run and the axes to vary it along, one at a time."""

  axes: tuple[str, ...] = flags.option(("data", "rows", "dim", "overarch", "mlp"), "axes to sweep", AXES)
  sizes_rows: tuple[float, ...] = flags.option((), "rows a table to run; none: the base over 256, 64, 16, 4, 1")
  sizes_dim: tuple[float, ...] = flags.option((), "embedding dims to run; none: the base times 1/8, 1/4, 1/2, 1, 2")
  sizes_overarch: tuple[float, ...] = flags.option((), "factors on the overarch's hidden widths; none: 1/8, 1/4, 1/2, 1, 2")
  sizes_mlp: tuple[float, ...] = flags.option((), "factors on the bottom MLP's hidden widths; none: 1/8, 1/4, 1/2, 1, 2")
  sizes_data: tuple[float, ...] = flags.option((), "examples to run anew for; none: --num_examples (one pass is a whole curve)")
  axis_examples: int = flags.option(0, "examples of the runs on model axes; 0: as many as --num_examples")
  seeds: int = flags.option(1, "runs of every configuration, with seeds --seed, --seed + 1, ...")
  zipf_s_values: tuple[float, ...] = flags.option((), "planted data only: sweep once for each Zipf exponent; none: --planted_zipf_s")
  judge: bool = flags.option(False, "planted data only: also run the exact per-id estimator on the data axis, with the first seed")
  launch: LaunchConfig = LaunchConfig()
  slurm: SlurmConfig = SlurmConfig()
  run: RunConfig = RunConfig()

  def __post_init__(self):
    flags.check_choices(self)
    flags.check(len(self.axes) > 0, self, "axes", f"some of {', '.join(AXES)}")
    flags.check(self.seeds >= 1, self, "seeds", "at least 1")
    flags.check(self.run.restore is None, self.run, "restore", "left out: every run of a sweep starts anew")
    flags.check(self.run.coordinator is None, self.run, "coordinator", "left out: a sweep's runs have one process each")
    flags.check(self.axis_examples >= 0, self, "axis_examples", "at least 0")
    flags.check(all(1 < s <= 3 for s in self.zipf_s_values), self, "zipf_s_values", "numbers above 1, at most 3")


@dataclasses.dataclass(frozen=True)
class Point:
  """One place in a sweep. The base run is a point of several axes; it has one config_id and is run once.

  Attributes:
    workload: the data, for people: "s=1.111" or a data set's name.
    axis, size: where along which axis.
    seed, learner: as in the run's config.
    config_id: names the run's directory and record.
    base: names the configuration that the sweep varies, whatever its seed and length: points are compared within one base only.
    config: the run.
  """

  workload: str
  axis: str
  size: float
  seed: int
  learner: str
  config_id: str
  base: str
  config: RunConfig

  def describe(self) -> dict[str, Any]:
    """What sweep.json keeps of a point."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "config"}


def expand(sweep: SweepConfig) -> list[tuple[Point, Source]]:
  """Every point of a sweep with its source, each checked to be possible. Raises UserError before anything has run."""
  out = []
  for base in _workloads(sweep):
    source = open_source(base)
    planted = isinstance(source, Planted)
    name = f"s={base.planted.zipf_s:.4g}" if planted else source.name
    for seed in range(base.train.seed, base.train.seed + sweep.seeds):
      seeded = _with_train(base, seed=seed)
      for axis in sweep.axes:
        center = seeded if axis == "data" or not sweep.axis_examples else _with_train(seeded, num_examples=sweep.axis_examples)
        seen: set[RunConfig] = set()
        for size in getattr(sweep, f"sizes_{axis}") or default_sizes(one_pass(center, source), axis, source.cardinalities):
          config = one_pass(scaled(center, axis, size, source.num_dense), source)
          if config in seen:
            continue  # narrow widths round to the same model
          seen.add(config)
          make_plan(config, layout_of(config, source), Machine(config.mesh.num_devices))
          overarch_width_in(config.model, source.num_dense, len(source.field_names))
          config.model.bottom_widths(source.num_dense)
          out.append((_point(name, axis, size, config, base, source), source))
          if axis == "data" and planted and sweep.judge and seed == base.train.seed:
            out.append((_point(name, axis, size, _with_train(config, learner="per_id"), base, source), source))
  return out


def _workloads(sweep: SweepConfig) -> list[RunConfig]:
  if sweep.run.data != "planted" or not sweep.zipf_s_values:
    return [sweep.run]
  return [dataclasses.replace(sweep.run, planted=dataclasses.replace(sweep.run.planted, zipf_s=s)) for s in sweep.zipf_s_values]


def _with_train(config: RunConfig, **changes: Any) -> RunConfig:
  return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def _point(workload: str, axis: str, size: float, config: RunConfig, base: RunConfig, source: Source) -> Point:
  base_id = config_id(_with_train(base, seed=0, num_examples=1), source.digest)
  return Point(workload, axis, size, config.train.seed, config.train.learner, config_id(config, source.digest), base_id, config)
