"""How the best learning rate moves along an axis: planted minima found, sizes left out by name, the verdict's words."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analysis.load import Sweep
from analysis.questions.rate_laws import RateLaw, rate_laws
from analysis.report import rates_figure
from analysis.report.tables import rate_law_table
from dlrm_jax.common.figures import render

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def sweep_of(axis: str, best: dict[float, float], seeds: int = 3, at: tuple[int, ...] = (2**18,), noise: float = 0.002, **change) -> Sweep:
  """Runs whose excess is least at a rate, by size or, on the data axis, by examples; a seed adds 2% everywhere."""
  rng = np.random.default_rng(4)
  points, curves, runs, configs = [], [], [], {}
  sizes = [float(at[-1])] if axis == "data" else list(best)
  for size in sizes:
    for seed in range(seeds):
      offset = 0.02 * rng.standard_normal()
      for factor in FACTORS:
        name = f"{size:g}-{seed}-{factor:g}"
        place = {"workload": "s=1.111", "axis": axis, "size": size, "label": f"{size:g}", "sizes": "{}", "seed": seed, "learner": "dlrm"}
        points.append(place | {"lr_factor": factor, "config_id": name})
        configs[name] = {"train": {"table_lr": 0.1 * factor}}
        if name in change.get("diverged", ()):
          continue
        runs.append({"config_id": name, "planted": True, "horizon": False, "flops_per_example": 1.0, "order": None, "base_rate_ne": None})
        for n in at:
          vertex = np.log(best[n if axis == "data" else size])
          log_loss = -3 - 0.1 * np.log(n) + 0.05 * (np.log(factor) - vertex) ** 2 + offset + noise * rng.standard_normal()
          curves.append({"config_id": name, "examples": n, "excess": float(np.exp(log_loss)), "ne": None, "epochs": n / at[-1]})
  frames = [pl.DataFrame(rows, infer_schema_length=None) for rows in (points, runs, curves)]
  return Sweep(Path("here"), *frames, (), (), (), {}, configs, {})


def law_of(sweep: Sweep) -> RateLaw:
  (law,) = rate_laws(sweep)
  return law


def test_a_rate_that_moves():
  sizes = (10.0, 40.0, 160.0, 640.0)
  law = law_of(sweep_of("rows", {size: (size / 80) ** -0.3 for size in sizes}))
  assert law.rate == "table_lr" and law.kept == [0, 1, 2, 3] and law.left_out == ""
  assert law.exponent.ci_low < -0.3 < law.exponent.ci_high and law.exponent.ci_high < -0.25
  for entry in law.as_dict()["sizes"]:  # rates, not factors
    assert entry["ci_low"] < 0.1 * (entry["size"] / 80) ** -0.3 < entry["ci_high"]
  assert law.verdict.startswith("the best rate falls along rows of the largest table: exponent -0.")
  assert law.verdict.endswith("] from 10 to 640") and f"x{64**law.exponent.estimate:.2f} [" in law.verdict
  (cells,) = rate_law_table([law]).rows
  assert cells[:5] == ["s=1.111", "dlrm", "rows", "excess", "4 of 4"] and cells[6] == "T" + law.verdict[1:] and cells[7] == "-"


def test_the_figure_has_minima_intervals_and_law():
  sizes = (10.0, 40.0, 160.0, 640.0)
  law = law_of(sweep_of("rows", {size: (size / 80) ** -0.3 for size in sizes}))
  (figure,) = rates_figure.figures([law])
  drawn = render.svg(figure.spec)
  assert figure.name == "learning_rates" and "best table_lr" in drawn and "rows of the largest table" in drawn
  assert f"exponent {law.exponent.estimate:.3f} [" in drawn and "mark-rule" in drawn
  assert rates_figure.figures([]) == []


def test_a_rate_that_stays_and_sizes_that_are_left_out():
  law = law_of(sweep_of("batch_size", {32.0: 0.9, 64.0: 1.1, 128.0: 0.05, 256.0: 1.05, 512.0: 60.0}))
  assert law.kept == [0, 1, 3] and law.left_out == "128: least at the smallest tried; 512: least at the largest tried"
  assert law.exponent.ci_low < 0 < law.exponent.ci_high
  assert law.verdict.startswith("the best rate does not move beyond its error along batch size: exponent ")


def test_rates_with_a_diverged_seed_are_not_compared():
  """The rate at which one of three seeds diverged is left out, so that the least loss is at the largest of the others."""
  best = {1.0: 4.0, 2.0: 1.0, 4.0: 1.0}
  whole, cut = (law_of(sweep_of("dim", best, diverged=names)) for names in ((), ("1-2-4",)))
  assert whole.found[0].reason in ("least at the largest tried", "least beyond the largest tried")
  best = {1.0: 2.0, 2.0: 1.0, 4.0: 1.0}
  whole, cut = (law_of(sweep_of("dim", best, diverged=names)) for names in ((), ("1-2-4",)))
  assert whole.kept == [0, 1, 2] and cut.left_out == "1: least at the largest tried"


def test_one_pass_is_compared_at_its_evaluations_by_the_jackknife():
  at = tuple(round(2 ** (k / 2)) for k in range(30, 45))
  sweep = sweep_of("data", {n: (n / 2**19) ** 0.1 for n in at}, at=at)
  law = law_of(sweep)
  assert law.labels == ("131,072", "262,144", "524,288", "1,048,576", "2,097,152", "4,194,304")  # from the window's start on
  assert law.exponent.ci_low < 0.1 < law.exponent.ci_high
  each = []
  for seed in range(3):
    points = sweep.points.filter(pl.col("seed") != seed)
    two = Sweep(sweep.path, points, sweep.runs, sweep.curves, (), (), (), {}, sweep.configs, {})
    (without,) = rate_laws(two)
    assert without.exponent is None and "2 seeds, an interval along a pass needs 3" in without.verdict
    each.append(without.law.exponent.estimate)
  error = np.sqrt(2 / 3 * np.sum((np.array(each) - np.mean(each)) ** 2))
  assert law.exponent.std_error == pytest.approx(error, rel=1e-9)
  assert law.exponent.ci_high - law.exponent.estimate == pytest.approx(4.302653 * error, rel=1e-6)


def test_one_seed_has_a_law_over_sizes():
  """What the points scatter about their parabolas is the error."""
  law = law_of(sweep_of("rows", dict.fromkeys((10.0, 40.0, 160.0), 1.0), seeds=1))
  assert law.exponent is not None and law.exponent.ci_low < 0 < law.exponent.ci_high


def test_axes_of_one_rate_have_no_law():
  assert rate_laws(sweep_of("rows", {10.0: 1.0})) == []
