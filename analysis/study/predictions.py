"""Theory's predictions for the study's planted sweeps, each with its worst case and its bound. Called by `analysis.publish`."""

import dataclasses
import math
from typing import Any

import polars as pl

from analysis.questions.regimes import SATURATED
from analysis.report.analysis import Analysis
from analysis.study.teacher_floor import teacher_rows_floor
from dlrm_jax.config import PlantedConfig


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A prediction in words, the measured figure, and the bound that it must not exceed (or, with `least`, must reach)."""

  text: str
  measured: float
  bound: float
  least: bool = False

  @property
  def holds(self) -> bool:
    return self.measured >= self.bound if self.least else self.measured <= self.bound

  @property
  def cells(self) -> list[str]:
    """A row of the table: text, figure, bound, whether it holds."""
    bound = f"{'at least' if self.least else 'at most'} {self.bound:g}"
    return [self.text, f"{self.measured:.3g}", bound, "yes" if self.holds else "**no**"]


def predictions(found: dict[str, Analysis]) -> list[Prediction]:
  """Theory's predictions for the planted sweeps, each with its worst case."""
  parts = {(p["axis"], p["size"]): p for p in found["paper"].parts}
  betas = [abs(e.window.fit.value("beta") - (e.window.theory_beta or math.nan)) for e in found["paper"].exponents]
  dims = [_over(parts["dim", size]) for size in (1, 2, 4)]
  base_width = 32  # of the preset's bottom MLP
  widths = [_over(parts["mlp", width / base_width]) for width in (2, 4, 8)]
  kept = [_off(p["excess"] / p["excess_ideal"]) for p in found["paper_tail"].parts]
  hashed = [_off(_over(p)) for p in found["paper_hash"].parts]
  halves = [pair for name in ("paper_tail_half", "paper_hash_half") for pair in teacher_floors(found[name])]
  own = [_off(part["excess"] / floor) for part, floor in halves if part["size"] <= 300]
  overarch = sorted((p for p in parts.values() if p["axis"] == "overarch"), key=lambda p: p["size"])
  low, high = overarch[0], overarch[-1]
  error = math.sqrt((low["total_std"] ** 2 + high["total_std"] ** 2) / low["seeds"])
  late = ratios(found["paper_tail"]).filter((pl.col("examples") >= 4e6) & (pl.col("learner") == "dlrm"))
  unsaturated = [r.scheme for r in found["paper"].schemes if r.resource == "params" and r.regime != SATURATED]
  return [
    Prediction("data exponent of every scheme: distance from theory's 0.100", max(betas), 0.02),
    Prediction("dim 1, 2, 4: pairs left over their floor", max(dims), 1.4),
    Prediction("dim 16 over dim 4: pairs left", parts["dim", 16]["excess"] / parts["dim", 4]["excess"], 0.9),
    Prediction("bottom MLP of 2, 4, 8 units: dense part left over its floor, or below it", max(map(_off, widths)), 0.2),
    Prediction("overarch: widest below narrowest, whole excess, in standard errors", (low["total"] - high["total"]) / error, 3, least=True),
    Prediction("rows kept, 10 to 3,000, both s: distance of the excess from the ideal's, as a share", max(kept), 0.15),
    Prediction("rows hashed, 10 to 3,000, both s: distance of the excess from the floor of hashing, as a share", max(hashed), 0.15),
    Prediction("rows, effects halved, 10 to 300: distance from the floor of this very teacher and its hash functions", max(own), 0.05),
    Prediction("parameters at fixed data: schemes that move them, and the best of all, not yet saturated", len(unsaturated), 0),
    Prediction("tail alone, from 4M examples on, both s: excess over the closed form", max(late["ratio"].to_list()), 1.25),
  ]


def teacher_floors(one: Analysis) -> list[tuple[dict[str, Any], float]]:
  """The sizes up to 1,000 on the rows axis of a sweep of the tail, each with the floor of its own teacher and hash functions."""
  out = []
  for part in (p for p in one.parts if p["axis"] == "rows" and p["size"] <= 1000):
    place = one.sweep.points.filter(axis="rows", size=part["size"], workload=part["workload"])
    config = one.sweep.configs[place["config_id"][0]]
    planted = PlantedConfig(**config["planted"])
    out.append((part, teacher_rows_floor(planted, int(part["size"]), config["model"]["rows_by"])))
  return out


def _over(part: dict[str, Any]) -> float:
  return float(part["excess"] / part["floor"])


def _off(ratio: float) -> float:
  return abs(ratio - 1)


def ratios(tail: Analysis) -> pl.DataFrame:
  """The excess over the ideal learner's along the passes of the data axis: workload, learner, examples, excess, excess_ideal, ratio."""
  frame = tail.sweep.evaluations().filter(axis="data")
  table = frame.group_by("workload", "learner", "examples").agg(pl.col("excess").mean(), pl.col("excess_ideal").first())
  return table.with_columns(ratio=pl.col("excess") / pl.col("excess_ideal")).sort("workload", "learner", "examples")
