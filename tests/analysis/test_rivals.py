"""Laws compared in `analysis.fit` without being asked: figures by hand, which laws, what the note says, many points."""

import csv
import time

import numpy as np
import pytest

from analysis import fit as program
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS, law_of
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.marquardt import SQUARES, Loss
from analysis.questions.rivals import Rival, better_law, laws_beside, rivals
from dlrm_jax.common import record

X = np.geomspace(1e4, 1e8, 32)


def compared(x: np.ndarray, y: np.ndarray, law: str = "power_constant", loss: Loss = SQUARES) -> list[Rival]:
  columns = x[:, None] if x.ndim == 1 else x
  form = law_of(law, ("N", "D")[: columns.shape[1]]) if columns.shape[1] > 1 else law
  return rivals(fit_law(columns, y, form, points="independent", loss=loss), columns, y, np.zeros(len(y)), None, loss)


def test_the_figures_are_those_of_fits_made_by_hand():
  """AICc from the sum of squares; the held-out error from a fit to the first 24 of 32 points."""
  y = (5.0 * X**-0.3 + 0.7) * np.exp(0.01 * np.random.default_rng(0).standard_normal(32))
  found = {rival.law: rival for rival in compared(X, y)}
  assert set(found) == {"power", "power_constant", "broken_power", "m4"} and [r.law for r in found.values() if r.asked] == [
    "power_constant"
  ]
  for name, rival in found.items():
    law, k = LAWS[name], len(LAWS[name].params) + 1
    squares = solve(Problem.of(law, X, y)).cost
    np.testing.assert_allclose(rival.aicc, 32 * np.log(squares / 32) + 2 * k * 32 / (32 - k - 1), rtol=1e-9)
    part = Problem.of(law, X[:24], y[:24])
    np.testing.assert_allclose(
      rival.held_out_error, np.mean(np.abs(law.predict(part.values(solve(part).theta), X[24:]) / y[24:] - 1)), rtol=1e-6
    )
  assert min(rival.behind for rival in found.values()) == 0.0


def test_the_note_names_the_law_that_is_clearly_better(tmp_path, capsys):
  """Group a has a break, group b has none. The same sentence is printed and written."""
  rng = np.random.default_rng(1)
  broken = LAWS["broken_power"].predict({"alpha": 5.0, "beta": 0.1, "gamma": 0.1, "delta": 0.4, "x_break": 1e6, "width": 0.3}, X)
  with open(tmp_path / "p.csv", "w", newline="") as file:
    rows = [
      (x, y * np.exp(0.003 * rng.standard_normal()), g)
      for g, f in (("a", broken), ("b", 5.0 * X**-0.3 + 0.7))
      for x, y in zip(X, f, strict=True)
    ]
    csv.writer(file).writerows([("x", "y", "g"), *rows])
  program.main(program.FitConfig(f"{tmp_path}/p.csv", ("x",), "y", str(tmp_path / "o.json"), group="g"))
  out, shown = record.read_json(tmp_path / "o.json"), " ".join(capsys.readouterr().out.split())
  a, b = out["fits"]
  assert "broken_power describes the points better than power_constant (AICc " in a["note"] and "describes" not in b["note"]
  assert "Laws compared on the same points" in shown and "power_constant (fitted)" in shown
  assert [row["group"] for row in out["comparison"]] == ["a"] * 4 + ["b"] * 4 and out["comparison"][0]["law"] == "broken_power"
  assert out["comparison"][0]["behind"] == 0.0 and sum(row["asked"] for row in out["comparison"]) == 2
  program.main(program.FitConfig(f"{tmp_path}/p.csv", ("x",), "y", str(tmp_path / "o.json"), group="g", compare=False))
  assert record.read_json(tmp_path / "o.json")["comparison"] == [] and "compared" not in capsys.readouterr().out


@pytest.mark.parametrize(
  ("behind", "error", "said"),
  [
    (9.0, 0.02, ""),
    (12.0, 0.02, "m4 describes the points better than power (AICc 12 lower)"),
    (2.0, 0.009, "fitted to the smaller x, m4 predicts the largest quarter within 0.90%, power within 2.00%"),
    (2.0, None, ""),
  ],
)
def test_what_is_clearly_better(behind, error, said):
  own, other = Rival("g", "power", True, 2, behind, behind, 0.02), Rival("g", "m4", False, 5, 0.0, 0.0, error)
  assert better_law([other, own]) == said


def test_which_laws_are_compared():
  assert [law.name for law in laws_beside(LAWS["chinchilla"])] == ["chinchilla", "nested", "smooth_max"]
  assert [law.name for law in laws_beside(law_of("additive", ("N", "D")))] == ["additive", "nested", "smooth_max"]
  assert [law.name for law in laws_beside(law_of("nested", ("N", "D")))] == ["chinchilla", "nested", "smooth_max"]
  three = laws_beside(law_of("smooth_max", ("r", "d", "n")))
  assert [law.name for law in three] == ["additive", "nested", "smooth_max"] and {law.columns for law in three} == {("r", "d", "n")}
  assert laws_beside(LAWS["repeated"]) == []


def test_joint_laws_are_compared():
  n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e7, 1e10, 6)))
  law = law_of("nested", ("N", "D"))
  y = law.predict({"A_N": 50.0, "A_D": 40.0, "E": 0.5, "alpha_N": 0.3, "alpha_D": 0.25}, np.column_stack([n, d]))
  y = y * np.exp(0.003 * np.random.default_rng(0).standard_normal(36))
  found = compared(np.column_stack([n, d]), y, "additive")
  assert {r.law for r in found} == {"additive", "nested", "smooth_max"}
  assert better_law(found).startswith("nested describes the points better than additive")


def test_a_robust_loss_has_held_out_errors_alone():
  y = (5.0 * X**-0.3 + 0.7) * np.exp(0.01 * np.random.default_rng(0).standard_normal(32))
  found = compared(X, y, loss=Loss(1e-3))
  assert all(r.aicc is None and r.behind is None and r.held_out_error is not None for r in found)


def test_twenty_thousand_points_are_compared_by_means():
  x = np.sort(np.exp(np.random.default_rng(0).uniform(9, 18, 20_000)))
  y = (5.0 * x**-0.3 + 0.7) * np.exp(0.01 * np.random.default_rng(1).standard_normal(20_000))
  fit = fit_law(x, y, "power_constant", points="independent")
  began = time.process_time()
  found = {r.law: r for r in rivals(fit, x[:, None], y, np.zeros(20_000), None, SQUARES)}
  assert time.process_time() - began < 5  # seconds; the means take .3
  assert found["power_constant"].behind < 10 < found["power"].behind and found["power_constant"].held_out_error < 0.002
