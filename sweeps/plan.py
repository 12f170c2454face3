"""Prints the runs of a sweep and what they cost. It runs nothing, and uses no device unless --measure lets it train a few steps.

python -m sweeps.plan --axes=rows,dim,overarch,mlp --preset=quick --data=planted
python -m sweeps.plan --preset=paper --measure
"""

import dataclasses

from dlrm_jax.common import flags, terminal
from dlrm_jax.common.progress import say
from dlrm_jax.data.source import Source
from dlrm_jax.machine import hardware
from dlrm_jax.training.found_rates import needs_search
from sweeps import data_used, estimate, store
from sweeps.launch_flags import extended
from sweeps.points import Point, SweepConfig, expand, runs_of
from sweeps.presets import PRESETS
from sweeps.states import duration

_TEXT = ("config_id", "workload", "axis", "learner")
_COLUMNS = (
  *("config_id", "workload", "axis", "size", "seed", "learner", "lr x", "params", "embedding"),
  *("FLOPs/example", "FLOPs", "bytes held", "examples", "est. time", "done"),
)


@dataclasses.dataclass(frozen=True)
class PlanConfig(SweepConfig):
  """A sweep, and the speed from which its time is estimated."""

  measure: bool = flags.option(False, "train some steps of a few models to estimate the time; else use the speed of finished runs, if any")
  assumed_examples_per_s: float = flags.option(0.0, "speed for the estimated time; 0: measured, or that of the finished runs in --workdir")


def main(plan: PlanConfig) -> None:
  """Prints one line for each run, and the totals."""
  hardware.select_platform()
  if needs_search(plan.run):
    what = "the learning rates" if plan.run.lr_find else "how fast the learning rates fall (--decay_examples=found)"
    say(f"rates: sweeps.run finds {what} first; this plan and its config ids are of the flags")
  points = expand(plan)
  for line in data_used.lines(plan, points):
    say(line)
  finished = store.records(plan.run.workdir) if plan.run.workdir else {}
  finished = {name: out for name, out in finished.items() if out["status"] in store.RESULTS}
  runs = runs_of(points)
  todo = [run for name, run in runs.items() if name not in finished]
  speed = None if plan.assumed_examples_per_s else estimate.speed_of(todo, finished, plan.measure)
  workers = max(1, plan.launch.workers) if plan.launch.launcher != "inline" else 1

  def seconds(point: Point, source: Source) -> float | None:
    if plan.assumed_examples_per_s:
      return point.examples / plan.assumed_examples_per_s
    return speed.seconds(point, source) if speed else None

  table = terminal.Grid("runs of the sweep")
  for column in _COLUMNS:
    table.column(column, justify="left" if column in _TEXT else "right", no_wrap=column == "config_id")
  for point, source in points:
    time = seconds(point, source)
    row = [point.config_id, point.workload, point.axis, point.label, str(point.seed), point.learner, f"{point.lr_factor:g}"]
    row += [*_costs(point, source), f"{point.examples:,}", "?" if time is None else duration(time)]
    table.row(*row, "yes" if point.config_id in finished else "")
  console = terminal.console(200)
  console.print(table)
  if plan.assumed_examples_per_s:
    total = sum(point.examples for point, _ in todo) / plan.assumed_examples_per_s / workers
    time_line = f"about {duration(total)} at {plan.assumed_examples_per_s:,.0f} examples/s"
  else:
    time_line = speed.total_line(todo, workers) if speed else "time unknown (no finished run; see --measure)"
  flops = sum(c.flops_per_example["total"] * p.examples for p, s in todo if (c := estimate.point_cost(p, s)))
  console.print(f"{len(runs)} runs, {len(runs) - len(todo)} done; to do: {flops:.3g} FLOPs, {time_line}")


def _costs(point: Point, source: Source) -> list[str]:
  """The columns params, embedding, FLOPs/example, FLOPs, bytes held. The per-id estimator has none of them."""
  counted = estimate.point_cost(point, source)
  if counted is None:
    return ["-"] * 5
  per_example = counted.flops_per_example["total"]
  held = sum(v for k, v in counted.bytes.items() if not k.endswith("per_example"))
  params = (f"{counted.params['total']:,}", f"{counted.params['embedding']:,}")
  return [*params, f"{per_example:,}", f"{per_example * point.examples:.3g}", f"{held:,}"]


if __name__ == "__main__":
  flags.run(main, PlanConfig, {name: extended(sweep, PlanConfig, measure=False) for name, sweep in PRESETS.items()})
