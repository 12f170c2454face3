"""Results on planted data compared with theory: the excess that each model size leaves of the part that its axis can affect, and the data
exponent of every scheme on the tail and on the whole excess. Called by `analysis.report`.
"""

import dataclasses
from typing import Any

import polars as pl

from analysis.load import Sweep
from analysis.questions.curves import curves, final_points, part_metric
from analysis.questions.sweep_laws import LawRow, data_laws, pooled_noise

FLOOR_OF = {"rows": "rows_floor", "dim": "pairs_floor", "mlp": "dense_floor"}  # of a size, at unlimited data


def part_sizes(sweep: Sweep) -> list[dict[str, Any]]:
  """Every size of the model axes on planted data: the excess of its part at the end, and theory's value for a model of that size.

  The keys of a row are workload, learner, axis, size, label, examples, metric, and:
    excess, std, seeds: mean and standard deviation over the seeds, and their number.
    total, total_std: the same of the whole excess.
    floor: theory's excess at unlimited data.
    excess_ideal, beta_rows: on the rows axis, the ideal learner's excess with these examples, and theory's exponent.

  Values that theory does not have are None. Axes without a part of their own are left out.
  """
  frame = sweep.evaluations().filter(pl.col("planted") & pl.col("axis").is_in(["rows", "dim", "overarch", "mlp"]))
  out = []
  for (workload, learner, axis), group in frame.group_by("workload", "learner", "axis", maintain_order=True):
    last, at = final_points(group)
    metric = part_metric(last, axis)
    if metric == "excess" and axis != "rows":  # there is no part but the tail
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


def ideal(part: dict[str, Any]) -> float | None:
  """Theory's excess for a row of `part_sizes`: with its examples where that is known, else at unlimited data."""
  return part["excess_ideal"] or part["floor"]


@dataclasses.dataclass(frozen=True)
class Exponents:
  """The data exponent of a scheme, fitted in two ways.

  Attributes:
    window: fitted to the tail's excess (the whole excess where there is no other part) in the window of data laws.
    whole: fitted to the whole excess over all evaluations; None if it has no law.
  """

  window: LawRow
  whole: LawRow | None


def data_exponents(sweep: Sweep, rows: list[LawRow]) -> list[Exponents]:
  """The exponents of each scheme and learner on planted data, at the largest size that has theory's exponent.

  Limited rows leave a constant and have no such exponent.

  Args:
    sweep: its runs.
    rows: its data laws (`sweep_laws.data_laws`).
  """
  planted = set(sweep.evaluations().filter("planted")["workload"])
  free = [r for r in rows if r.workload in planted and r.theory_beta is not None]
  windows = {(r.workload, r.learner, r.axis): r for r in free}  # they come in order of size: the largest stays
  given = [c for c in curves(sweep, "auto", 0.0, None, whole=True) if (c.workload, c.learner, c.axis) in windows]
  given = [c for c in given if c.size == windows[c.workload, c.learner, c.axis].size]
  wholes = {(r.workload, r.learner, r.axis): r for r in data_laws(given, pooled_noise(given))}
  return [Exponents(row, wholes.get(place)) for place, row in windows.items()]
