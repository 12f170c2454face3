"""The runs of one axis of a sweep, from which the compute optimum is found. Called by `analysis.optimum`."""

import numpy as np
import polars as pl

from analysis.load import load
from analysis.questions.curves import default_x_min, fitted, total_metric
from analysis.questions.optimum_runs import Runs, cost_of, power_note
from analysis.questions.tuning import tuned
from dlrm_jax.common import flags

_WIDTHS = ("overarch", "mlp", "overarch_depth", "mlp_depth")  # axes that change the dense parameters alone


def runs_of_sweep(workdir: str, axis: str, params: str, workload: str) -> Runs:
  """The passes of one axis of a sweep: every evaluation in the default window of its data laws.

  Args:
    workdir: of the sweep.
    axis: the axis whose sizes are compared; empty: the only one.
    params: a name of `optimum_runs.PARAMS`; empty: the dense parameters on axes of widths and depths, else all.
    workload: the workload; empty: the only one.
  """
  sweep, _ = tuned(load(workdir))
  frame = fitted(sweep).filter((pl.col("learner") == "dlrm") & ~pl.col("horizon") & (pl.col("epochs").fill_null(0) <= 1))
  there = [name for name in dict.fromkeys(frame["axis"]) if name != "data"]
  if not axis and len(there) != 1:
    raise flags.UserError(f"--axis is required: must be among {', '.join(there)}" if there else f"--workdir={workdir}: has no model axis")
  axis = axis or there[0]
  if axis not in there:
    raise flags.UserError(f"--axis={axis}: must be among {', '.join(there)}")
  frame = frame.filter(axis=axis)
  workloads = frame["workload"].unique(maintain_order=True).to_list()
  if workload not in (workloads if workload or len(workloads) > 1 else ["", *workloads]):
    raise flags.UserError(f"--workload={workload}: must be among {', '.join(workloads)}")
  frame = frame.filter(workload=workload or workloads[0])
  column = params or ("params_dense" if axis in _WIDTHS else "params_total")
  metric = total_metric(frame)
  frame = frame.filter(pl.col(metric).is_not_null() & pl.col("flops_per_example").is_not_null() & pl.col(column).is_not_null())
  frame = frame.unique(["config_id", "examples"], maintain_order=True)
  start = default_x_min(frame["examples"].unique().to_numpy(), bool(frame["planted"].any())) if len(frame) else None
  frame = frame.filter((pl.col("examples") >= (start or 0)) & (pl.col(metric) > 0))
  if not len(frame):
    raise flags.UserError(f"--workdir={workdir}: axis {axis} has no evaluation along a pass that has a loss and FLOPs")
  n, d, each, loss = (frame[name].to_numpy().astype(np.float64) for name in (column, "examples", "flops_per_example", metric))
  cost, power = cost_of(n, each, f"{column} of axis {axis}")
  notes = [note for note in (power_note(n, each, cost, power),) if note]
  return Runs(n, d, each * d, loss, frame["config_id"].to_numpy().astype(str), cost, power, (column, "examples", metric), tuple(notes))
