"""Prints the runs of a sweep and what they cost; touches no device and runs nothing.

python -m sweeps.plan --axes=rows,dim,overarch,mlp --preset=quick --data=planted
"""

import dataclasses

from rich.console import Console
from rich.table import Table

from dlrm_jax import flags, hardware
from dlrm_jax.data.source import Source, layout_of
from dlrm_jax.flops import Cost, cost
from sweeps import store
from sweeps.points import Point, SweepConfig, expand
from sweeps.presets import PRESETS


def point_cost(point: Point, source: Source) -> Cost | None:
  """Params, FLOPs and bytes of a point; None for the per-id estimator, which has no such structure."""
  if point.learner != "dlrm":
    return None
  layout = layout_of(point.config, source)
  return cost(point.config.model, point.config.train, layout, source.num_dense)


@dataclasses.dataclass(frozen=True)
class PlanConfig(SweepConfig):
  """A sweep, and the speed to assume for its time."""

  assumed_examples_per_s: float = flags.option(0.0, "speed for the estimated time; 0: the median of the runs finished in --workdir, if any")


def main(plan: PlanConfig) -> None:
  """Prints one line a run and the totals."""
  hardware.select_platform()
  points = expand(plan)
  finished = store.records(plan.run.workdir) if plan.run.workdir else {}
  speed = plan.assumed_examples_per_s or store.median_speed(finished)
  table = Table(title="runs of the sweep")
  columns = (
    "config_id",
    "workload",
    "axis",
    "size",
    "seed",
    "learner",
    "params",
    "embedding",
    "FLOPs/example",
    "FLOPs",
    "bytes held",
    "examples",
    "est. s",
    "done",
  )
  for column in columns:
    table.add_column(
      column, justify="left" if column in ("config_id", "workload", "axis", "learner") else "right", no_wrap=column == "config_id"
    )
  seen, total_flops, total_seconds = set(), 0.0, 0.0
  for point, source in points:
    counted, examples = point_cost(point, source), point.config.train.num_examples
    costs = ["-"] * 5
    if counted:
      per_example = counted.flops_per_example["total"]
      held = sum(v for k, v in counted.bytes.items() if not k.endswith("per_example"))
      costs = [
        f"{counted.params['total']:,}",
        f"{counted.params['embedding']:,}",
        f"{per_example:,}",
        f"{per_example * examples:.3g}",
        f"{held:,}",
      ]
    seconds = examples / speed if speed else None
    if point.config_id not in seen and point.config_id not in finished:
      total_flops += counted.flops_per_example["total"] * examples if counted else 0
      total_seconds += seconds or 0
    seen.add(point.config_id)
    row = [point.config_id, point.workload, point.axis, f"{point.size:g}", str(point.seed), point.learner, *costs]
    table.add_row(*row, f"{examples:,}", f"{seconds:.0f}" if seconds else "?", "yes" if point.config_id in finished else "")
  console = Console(width=None if Console().is_terminal else 200)
  console.print(table)
  time = (
    f"about {total_seconds:.0f} s at {speed:,.0f} examples/s" if speed else "time unknown (no finished run; see --assumed_examples_per_s)"
  )
  console.print(f"{len(seen)} runs, {len(seen & set(finished))} done; to do: {total_flops:.3g} FLOPs, {time}")


if __name__ == "__main__":
  flags.run(
    main, PlanConfig, {name: PlanConfig(**{f.name: getattr(s, f.name) for f in dataclasses.fields(s)}) for name, s in PRESETS.items()}
  )
