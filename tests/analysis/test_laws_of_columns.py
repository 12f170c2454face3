"""Laws of any columns in `analysis.fit`: against an independent optimiser and Hoffmann's names, and coverage of their intervals (slow)."""

from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from analysis import fit as program
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import OF_ANY_COLUMNS, law_of
from dlrm_jax.common import flags, record

COLUMNS = ("rows", "dim", "examples")
GRID = np.array([(r, d, n) for r in (30.0, 300.0, 3e3, 3e4) for d in (2.0, 4.0, 8.0, 32.0) for n in (1e5, 1e6, 1e7)])
SCATTERED = np.exp(np.random.default_rng(3).uniform(np.log([30, 2, 1e5]), np.log([3e4, 64, 1e8]), (60, 3)))
TRUTH = {"A_rows": 0.8, "A_dim": 0.5, "A_examples": 6.0, "alpha_rows": 0.25, "alpha_dim": 0.5, "alpha_examples": 0.3, "E": 0.05}


def truth_of(name: str) -> dict[str, float]:
  return TRUTH | ({"p": 3.0} if name == "smooth_max" else {})


def by_hand(name: str, v: dict[str, float], x: np.ndarray) -> np.ndarray:
  """The formula as it is written in papers."""
  terms = np.array([v[f"A_{c}"] * x[:, i] ** -v[f"alpha_{c}"] for i, c in enumerate(COLUMNS)])
  p = {"additive": 1.0, "nested": 1 / v["alpha_examples"], "smooth_max": v.get("p", 1.0)}[name]
  return np.sum(terms**p, axis=0) ** (1 / p) + v["E"]


def write(path: Path, names: tuple[str, ...], x: np.ndarray, y: np.ndarray) -> Path:
  rows = [",".join(map(repr, map(float, row))) for row in np.column_stack([x, y])]
  path.write_text("\n".join([",".join((*names, "loss")), *rows]) + "\n")
  return path


@pytest.mark.parametrize("x", [GRID, SCATTERED], ids=["grid", "scattered"])
@pytest.mark.parametrize("name", OF_ANY_COLUMNS)
def test_three_columns_agree_with_an_independent_optimiser(name, x):
  """scipy's trust-region solver in the user's own parameters, started at the truth."""
  values = truth_of(name)
  y = by_hand(name, values, x) * np.exp(0.003 * np.random.default_rng(1).standard_normal(len(x)))
  fit = fit_law(x, y, law_of(name, COLUMNS), points="independent")
  names = list(values)
  scale = np.array([values[n] for n in names])

  def residual(share: np.ndarray) -> np.ndarray:
    return np.log(by_hand(name, dict(zip(names, share * scale, strict=True)), x)) - np.log(y)

  low = [0.0 if n == "E" else 1.0 / scale[i] if n == "p" else 1e-6 for i, n in enumerate(names)]
  judge = optimize.least_squares(residual, np.ones(len(names)), bounds=(low, np.inf), xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=20000)
  np.testing.assert_allclose(fit.objective, 2 * judge.cost, rtol=1e-7)
  assert fit.objective <= 2 * judge.cost * (1 + 1e-9)
  np.testing.assert_allclose(fit.predict(10 * x), by_hand(name, fit.estimates, 10 * x), rtol=1e-12)
  np.testing.assert_allclose(by_hand(name, dict(zip(names, judge.x * scale, strict=True)), x), fit.predict(x), rtol=1e-4)


def test_additive_of_two_columns_is_chinchilla():
  x = GRID[:, [0, 2]]
  y = (2.0 * x[:, 0] ** -0.3 + 9.0 * x[:, 1] ** -0.35 + 0.2) * np.exp(0.004 * np.random.default_rng(0).standard_normal(len(x)))
  old, new = fit_law(x, y, "chinchilla", points="independent"), fit_law(x, y, law_of("additive", ("N", "D")), points="independent")
  np.testing.assert_allclose(new.objective, old.objective, rtol=1e-9)
  for theirs, ours in {"A": "A_N", "B": "A_D", "E": "E", "alpha": "alpha_N", "beta": "alpha_D"}.items():
    a, b = old.params[theirs], new.params[ours]
    np.testing.assert_allclose([b.estimate, b.ci_low, b.ci_high], [a.estimate, a.ci_low, a.ci_high], rtol=2e-3)


def test_program_names_parameters_after_the_columns(tmp_path, capsys):
  y = by_hand("additive", TRUTH, GRID) * np.exp(0.001 * np.random.default_rng(1).standard_normal(len(GRID)))
  path, out = write(tmp_path / "runs.csv", COLUMNS, GRID, y), tmp_path / "o.json"
  program.main(program.FitConfig(input=str(path), x=COLUMNS, y="loss", law="additive", output=str(out)))
  (fit,) = record.read_json(out)["fits"]
  assert (fit["law"], fit["status"], fit["columns"]) == ("additive", "ok", list(COLUMNS))
  assert set(fit["params"]) == set(TRUTH)
  for name, value in TRUTH.items():
    np.testing.assert_allclose(fit["params"][name]["estimate"], value, rtol=0.15, err_msg=name)
  assert "alpha_rows" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"x": ("n",)}, "--x=n: must be two columns or more for --law=nested"),
    ({"x": ("n", "n")}, "--x=n,n: must be names that differ"),
    ({"front": True}, "--front=True: must be false for a law of several columns"),
    ({"budget_flops": 1e9}, "--budget_flops=1000000000.0: must be left out, except with --law=chinchilla"),
  ],
)
def test_settings_that_do_not_fit(change, message):
  with pytest.raises(flags.UserError, match=message):
    program.FitConfig(**{"input": "p.csv", "x": ("n", "d"), "y": "y", "output": "o.json", "law": "nested"} | change)


@pytest.mark.slow
def test_intervals_of_the_nested_law_hold_the_planted_parameters():
  """Kaplan's form of two columns, independent points with noise of 1%: each interval holds the truth in 92 to 98% of 200."""
  columns, values = ("rows", "examples"), {"A_rows": 0.8, "A_examples": 6.0, "alpha_rows": 0.25, "alpha_examples": 0.2, "E": 0.05}
  x = np.array([(r, n) for r in np.geomspace(30, 1e5, 6) for n in np.geomspace(1e5, 3e7, 6)])
  law, held = law_of("nested", columns), dict.fromkeys(values, 0)
  y = law.predict(values, x)
  for number in range(200):
    noise = 0.01 * np.random.default_rng(number).standard_normal(len(x))
    fit = fit_law(x, y * np.exp(noise), law, points="independent")
    for name, value in values.items():
      p = fit.params[name]
      held[name] += (p.ci_low is None or p.ci_low <= value) and (p.ci_high is None or p.ci_high >= value)
  print(held)
  assert all(0.92 * 200 <= count <= 0.98 * 200 for count in held.values()), held
