"""The fitting code on points with published answers: Hoffmann et al. 2022 as read by Besiroglu et al. 2024, and Wukong's table 5."""

import csv

import numpy as np
import pytest
from places import REAL

from analysis import fit as fit_program
from analysis.fitting.fit_law import fit_law
from analysis.fitting.marquardt import Loss
from analysis.fitting.optimum_law import Budget, optimum_of
from analysis.questions.pareto import pareto_front
from dlrm_jax.common import record

_DATA = REAL / "laws"
NAMES = ("A", "B", "E", "alpha", "beta")


def table(name: str) -> list[dict[str, str]]:
  if not (_DATA / name).exists():
    pytest.skip(f"{_DATA / name} is not here")
  with open(_DATA / name, newline="") as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def chinchilla():
  rows = table("chinchilla_240.csv")
  return np.array([(float(r["N"]), float(r["D"])) for r in rows]), np.array([float(r["L"]) for r in rows])


def test_chinchilla_optimum_and_bootstrap(chinchilla):
  fit = fit_law(*chinchilla, "chinchilla", points="independent", loss=Loss(1e-3), draws=4000)
  np.testing.assert_allclose(fit.objective, 1.0182740178e-3, rtol=0, atol=1e-9)
  got = {name: fit.value(name) for name in NAMES}
  np.testing.assert_allclose(got["E"], 1.817218, atol=1e-4)
  np.testing.assert_allclose([got["alpha"], got["beta"]], [0.347310, 0.367172], atol=4e-3)
  np.testing.assert_allclose([got["A"], got["B"]], [477.826, 2143.417], rtol=0.04)
  errors = {name: fit.params[name].std_error for name in NAMES}
  published = {"A": 124.5, "E": 0.0257, "alpha": 0.0154, "beta": 0.0206}
  for name, value in published.items():
    np.testing.assert_allclose(errors[name], value, rtol=0.1, err_msg=name)
  np.testing.assert_allclose(errors["B"], 1293, rtol=0.2)
  np.testing.assert_allclose([fit.params["alpha"].ci_low, fit.params["alpha"].ci_high], [0.317, 0.373], atol=0.004)
  np.testing.assert_allclose([fit.params["beta"].ci_low, fit.params["beta"].ci_high], [0.331, 0.415], atol=0.006)


def test_chinchilla_by_squares_of_logarithms(chinchilla):
  fit = fit_law(*chinchilla, "chinchilla", points="independent")
  np.testing.assert_allclose(fit.objective / 240, 4.775786e-5, rtol=1e-6)
  np.testing.assert_allclose([fit.value(name) for name in NAMES], [593.32, 4875.6, 1.86455, 0.36025, 0.40588], rtol=1e-4)


def test_compute_optimum_of_the_published_fit():
  found = optimum_of({"A": 477.826, "B": 2143.417, "E": 1.817218, "alpha": 0.347310, "beta": 0.367172}, Budget(5.76e23))
  np.testing.assert_allclose([found["N"], found["D"], found["D_per_N"]], [7.319e10, 1.312e12, 17.92], rtol=1e-3)
  np.testing.assert_allclose(found["loss"], 1.9739, atol=1e-4)


def test_wukong_exponent_and_front():
  rows = [row for row in table("wukong_table5.csv") if row["rel_logloss_task1_pct"]]  # one of the 39 has no value
  flop, loss = (np.array([float(row[name]) for row in rows]) for name in ("gflop_per_example", "rel_logloss_task1_pct"))
  ours = np.array([row["arch"] == "Wukong" for row in rows])
  fit = fit_law(flop[ours], 100 + loss[ours], "power")
  np.testing.assert_allclose(fit.value("beta"), 0.000707, atol=5e-7)
  np.testing.assert_allclose(fit.value("alpha"), 99.560, atol=5e-4)
  assert {int(i) for i in pareto_front(flop, loss)} == set(np.flatnonzero(ours).tolist())


def test_the_program_fits_fronts_and_splits_budgets(tmp_path):
  """Wukong's law from all 38 rows, whose front it is; the split of the published budget, C = 6 N D."""
  rows = [row for row in table("wukong_table5.csv") if row["rel_logloss_task1_pct"]]
  lines = [f"{row['gflop_per_example']},{100 + float(row['rel_logloss_task1_pct'])}" for row in rows]
  (tmp_path / "w.csv").write_text("\n".join(["x,y", *lines]))
  shared = {"y": "y", "output": str(tmp_path / "o.json")}
  fit_program.main(fit_program.FitConfig(input=str(tmp_path / "w.csv"), x=("x",), law="power", front=True, **shared))
  (found,) = record.read_json(tmp_path / "o.json")["fits"]
  assert found["num_points"] == 7
  np.testing.assert_allclose(found["params"]["beta"]["estimate"], 0.000707, atol=5e-7)
  points = _DATA / "chinchilla_240.csv"
  config = {"law": "chinchilla", "points": "independent", "budget_flops": 5.76e23, "loss": "huber", "bootstrap_draws": 100}
  fit_program.main(fit_program.FitConfig(input=str(points), x=("N", "D"), **shared | {"y": "L"}, **config))
  (best,) = record.read_json(tmp_path / "o.json")["compute_optimal"]
  np.testing.assert_allclose([best["N"], best["D"], best["loss"]], [7.319e10, 1.312e12, 1.9739], rtol=1e-3)
