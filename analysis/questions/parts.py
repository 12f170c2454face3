"""Planted data beside its theory, part by part: what each size of a model leaves of the part that answers to it, and the data exponent of
every scheme on the tail and on the whole. Called by `analysis.report`.
"""

import dataclasses
from typing import Any

import polars as pl

from analysis.load import Sweep
from analysis.questions.sweep_laws import LawRow, curves, data_laws, final_points, part_metric, pooled_noise

FLOOR_OF = {"rows": "rows_floor", "dim": "pairs_floor", "mlp": "dense_floor"}  # of a size, at unlimited data


def part_sizes(sweep: Sweep) -> list[dict[str, Any]]:
  """Every size of the model axes on planted data: the excess of its part at the end, beside what theory gives a model of that size.

  A row is {workload, learner, axis, size, label, examples, metric, excess: mean over the seeds, std, seeds, total and total_std: of the
  whole excess, floor: at unlimited data, and of the rows axis excess_ideal: with these examples, beta_rows: theory's exponent}; what
  theory does not know is None. Axes without a part of their own are left out.
  """
  frame = sweep.evaluations().filter(pl.col("planted") & pl.col("axis").is_in(["rows", "dim", "overarch", "mlp"]))
  out = []
  for (workload, learner, axis), group in frame.group_by("workload", "learner", "axis", maintain_order=True):
    last, at = final_points(group)
    metric = part_metric(last, axis)
    if metric == "excess" and axis != "rows":  # the tail is all there is
      continue
    floor = FLOOR_OF.get(axis)
    table = last.group_by("size", "label").agg(
      pl.col(metric).mean().alias("excess"),
      pl.col(metric).std().alias("std"),
      pl.col("seed").n_unique().alias("seeds"),
      pl.col("excess").mean().alias("total"),
      pl.col("excess").std().alias("total_std"),
      (pl.col(floor).first() if floor else pl.lit(None, pl.Float64)).alias("floor"),
      *((pl.col(name).mean() if axis == "rows" else pl.lit(None, pl.Float64).alias(name)) for name in ("excess_ideal", "beta_rows")),
    )
    shared = {"workload": workload, "learner": learner, "axis": axis, "examples": at, "metric": metric}
    out += [shared | row for row in table.sort("size").to_dicts()]
  return out


@dataclasses.dataclass(frozen=True)
class Exponents:
  """The data exponent of a scheme, read in two ways.

  Attributes:
    window: on the tail's excess (the whole one where the tail is all there is) in the window of data laws.
    whole: on the whole excess, over all evaluations; None if it has no law.
  """

  window: LawRow
  whole: LawRow | None


def data_exponents(sweep: Sweep, rows: list[LawRow]) -> list[Exponents]:
  """Of each scheme and learner on planted data, at the largest size that has theory's exponent: limited rows leave a constant instead.

  Args:
    sweep: its runs.
    rows: its data laws (`study.data_laws`).
  """
  planted = set(sweep.evaluations().filter("planted")["workload"])
  free = [r for r in rows if r.workload in planted and r.theory_beta is not None]
  windows = {(r.workload, r.learner, r.axis): r for r in free}  # they come in order of size: the largest stays
  given = [c for c in curves(sweep, "auto", 0.0, None, whole=True) if (c.workload, c.learner, c.axis) in windows]
  given = [c for c in given if c.size == windows[c.workload, c.learner, c.axis].size]
  wholes = {(r.workload, r.learner, r.axis): r for r in data_laws(given, pooled_noise(given))}
  return [Exponents(row, wholes.get(place)) for place, row in windows.items()]
