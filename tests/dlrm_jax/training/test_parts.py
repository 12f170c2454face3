"""Planted data of four parts: what is read on which part, from a written sweep whose laws are known."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from report_case import GRID, write_run

from analysis.load import Sweep, load
from analysis.questions.curves import curves
from analysis.questions.parts import data_exponents, part_sizes
from analysis.questions.sweep_laws import data_laws, pooled_noise, size_laws
from analysis.questions.tuning import tuned
from analysis.report.paper_tables import exponent_table, parts_table
from dlrm_jax.common import record

BETA = 0.1
SIZES = {"data": [GRID[-1]], "dim": [1, 4], "overarch": [0.5, 2], "mlp": [0.25, 1], "rows": [64, 4096]}
PART = {"dim": "pairs", "overarch": "scores", "mlp": "dense"}


def left(part: str, size: float) -> float:
  """What a size leaves of its part."""
  return {"pairs": 0.03, "scores": 0.02, "dense": 0.01}[part] * size**-0.7


def write(root: Path, factors: tuple[float, ...] = (1.0,)) -> Sweep:
  """The tail falls as N^-.1; the other parts fall fast to what the size leaves. A learning rate of 2 lowers the tail, raises the whole."""
  rng, points = np.random.default_rng(2), []
  for axis, sizes in SIZES.items():
    for size in sizes:
      for seed in (0, 1, 2):
        for factor in factors:
          curve = []
          for n in GRID:
            noise = np.exp(0.001 * rng.standard_normal())
            tail = 0.05 * n**-BETA * noise * (0.9 if factor == 2 else 1.0)
            parts = {p: 0.04 * (n / 1e4) ** -1.0 + (left(p, size) if PART.get(axis) == p else 0.002) for p in ("pairs", "dense", "scores")}
            excess = tail + sum(parts.values()) + (0.01 if factor == 2 else 0.0)
            numbers = {"log_loss": 0.5 + excess, "ne": 0.9, "roc_auc": 0.7, "calibration": 1.0, "excess": excess, "excess_tail": tail}
            numbers |= {f"excess_{name}": value for name, value in parts.items()}
            curve.append({"examples": n, **numbers, "excess_ideal": 0.05 * n**-BETA, "wall_s": n / 1e5})
          name = f"{axis}{size}n{seed}x{factor}".replace(".", "p")
          theory = {"s": 10 / 9, "beta_data": BETA, "beta_rows": 1 / 9, "rows_floor": 0.01}
          theory |= {"pairs_floor": left("pairs", size), "dense_floor": 0.5 * left("dense", size)}
          write_run(root / "runs" / name, name, curve, "dlrm", seed, "planted", int(1000 + (100 if axis == "mlp" else 1000) * size), theory)
          place = {"workload": "s=1.111", "axis": axis, "size": size, "seed": seed, "learner": "dlrm", "config_id": name}
          points.append(place | {"lr_factor": factor})
  record.write_json(root / "sweep.json", record.header() | {"points": points})
  return load(root)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Sweep:
  return write(tmp_path_factory.mktemp("parts"))


def test_every_schemes_data_law_is_read_on_the_tail_and_on_the_whole(sweep):
  given = curves(sweep, "auto", None, None)
  assert {c.metric for c in given} == {"excess_tail"}
  rows = data_laws(given, pooled_noise(given))
  found = data_exponents(sweep, rows)
  assert {e.window.axis for e in found} == set(SIZES) - {"rows"}  # limited rows get a constant
  for e in found:
    assert e.window.size == max(SIZES[e.window.axis])
    assert e.whole is not None and (e.whole.metric, e.window.metric) == ("excess", "excess_tail")
    assert (e.whole.fit.x_min, e.window.fit.x_min) == (GRID[0], min(n for n in GRID if n >= 2**17))
    assert e.window.fit.value("beta") == pytest.approx(BETA, abs=0.003)
    assert e.whole.fit.value("beta") > 0.2  # the other parts are being learned
  table = exponent_table(found)
  assert [row[2] for row in table.rows] == [e.window.axis for e in found] and "0.10" in str(table.rows[0])


def test_a_curve_with_two_losses_at_one_place_gets_no_noise(sweep):
  curve = curves(sweep, "auto", None, None)[0]
  assert curve.fittable
  again = curve.points[:1].with_columns(pl.col("excess_tail") * 1.1)
  assert not dataclasses.replace(curve, points=pl.concat([curve.points, again])).fittable
  assert not dataclasses.replace(curve, points=curve.points[:0]).fittable


def test_the_base_run_has_one_law_on_whatever_axis_it_stands(tmp_path):
  """On the rows axis its table is as limited as on any other: the power law, with theory beside it."""
  sweep = write(tmp_path)
  base = sweep.points.filter(axis="dim", size=4.0).with_columns(axis=pl.lit("rows"), size=pl.lit(8192.0), label=pl.lit("8192"))
  given = curves(dataclasses.replace(sweep, points=pl.concat([sweep.points, base])), "auto", None, None)
  rows = {(r.axis, r.size): r for r in data_laws(given, pooled_noise(given))}
  assert (rows["rows", 8192].fit.law, rows["rows", 8192].theory_beta, rows["rows", 8192].theory_gamma) == ("power", BETA, None)
  assert rows["rows", 8192].fit.value("beta") == rows["dim", 4].fit.value("beta")
  assert (rows["rows", 4096].fit.law, rows["rows", 4096].theory_beta, rows["rows", 4096].theory_gamma) == ("power_constant", None, 0.01)


def test_sizes_stand_beside_the_floor_of_their_own_part(sweep):
  found = {(e["axis"], e["size"]): e for e in part_sizes(sweep)}
  assert set(found) == {(axis, size) for axis in ("dim", "overarch", "mlp", "rows") for size in SIZES[axis]}
  late = 0.04 * (GRID[-1] / 1e4) ** -1.0
  for axis, part in PART.items():
    for size in SIZES[axis]:
      e = found[axis, size]
      assert (e["metric"], e["seeds"], e["examples"]) == (f"excess_{part}", 3, GRID[-1])
      assert e["excess"] == pytest.approx(left(part, size) + late)
      assert e["total"] > e["excess"]
  assert found["dim", 4]["floor"] == pytest.approx(left("pairs", 4)) and found["mlp", 1]["floor"] == pytest.approx(0.5 * left("dense", 1))
  assert found["overarch", 2]["floor"] is None and found["dim", 4]["excess_ideal"] is None
  assert found["rows", 64]["excess"] == pytest.approx(0.05 * GRID[-1] ** -BETA, rel=0.01)
  (row,) = [row for row in parts_table(part_sizes(sweep)).rows if row[1:3] == ["mlp", "1"]]
  assert row[8] == f"{(left('dense', 1) + late) / (0.5 * left('dense', 1)):.3f}"


def test_a_size_is_held_against_its_part_and_its_cost_against_the_whole(sweep):
  metrics = {(r.axis, r.x): r.metric for r in size_laws(sweep, "auto")}
  for axis, part in {**PART, "rows": "tail"}.items():
    assert metrics[axis, "size"] == f"excess_{part}"
    assert metrics.get((axis, "params")) == (None if axis == "mlp" else "excess")  # 1,025 to 1,100 parameters


def test_learning_rates_are_chosen_on_the_whole_loss(tmp_path):
  chosen, choices = tuned(write(tmp_path, (1.0, 2.0)))
  assert {c.lr_factor for c in choices} == {1.0} and {c.metric for c in choices} == {"excess"}
  assert set(chosen.points["lr_factor"]) == {1.0}
