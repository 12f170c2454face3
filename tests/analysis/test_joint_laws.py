"""Joint laws: their gradients, planted parameters, and which of them describes the closed form of planted data."""

import numpy as np
import pytest
from closed_sweep import ALL_ROWS, KINDS, excess

from analysis.fitting.laws import LAWS, joint
from analysis.fitting.least_squares import Problem, solve
from analysis.questions.members import FORMS

COLUMNS = ("rows", "dim", "examples")
POINTS = np.array([(r, d, n) for r in (30.0, 300.0, 3e4) for d in (2.0, 4.0, 8.0, 32.0) for n in (1e5, 1e6, 1e7)])


@pytest.mark.parametrize(("shape", "tied", "constant"), FORMS)
def test_gradient_is_the_slope_of_the_value(shape, tied, constant):
  law = joint(COLUMNS, shape, tied, constant)
  given = {"A_rows": 0.3, "A_dim": -0.5, "A_examples": 1.5, "E": 0.2, "alpha_rows": 0.25, "alpha_dim": 0.6, "alpha_examples": 0.3}
  theta = np.array([(given | {"alpha_rows": 0.3 if tied else 0.25, "p": np.log(3.0), "alpha": 0.3})[name] for name in law.names])
  log_x = np.log(POINTS)
  gradient = law.log_value(theta[None], log_x)[1][0]
  for i in range(len(theta)):
    step = 1e-6 * np.eye(len(theta))[i]
    slope = (law.log_value((theta + step)[None], log_x)[0][0] - law.log_value((theta - step)[None], log_x)[0][0]) / 2e-6
    np.testing.assert_allclose(gradient[:, i], slope, rtol=1e-6, atol=1e-8)


def by_hand(shape: str, x: np.ndarray, a: np.ndarray, alpha: np.ndarray, p: float, e: float) -> np.ndarray:
  terms = a * x**-alpha
  if shape == "nested":
    p = 1 / alpha[-1]
  return (terms ** (1.0 if shape == "sum" else p)).sum(axis=1) ** (1 / (1.0 if shape == "sum" else p)) + e


@pytest.mark.parametrize(("shape", "tied", "constant"), FORMS)
def test_planted_parameters_of_three_columns_are_found(shape, tied, constant):
  a, alpha, p, e = np.array([0.8, 0.5, 6.0]), np.array([0.25, 0.5, 0.3]), 3.0, 0.05 if constant else 0.0
  alpha = np.full(3, 0.3) if tied else alpha
  law, y = joint(COLUMNS, shape, tied, constant), by_hand(shape, POINTS, a, alpha, p, e)
  problem = Problem.of(law, POINTS, y)
  found = problem.values(solve(problem).theta)
  want = dict(zip(law.names[:3], a, strict=True)) | ({"E": e} if constant else {}) | ({"p": p} if shape == "fitted" else {})
  want |= {"alpha": 0.3} if tied else dict(zip([f"alpha_{c}" for c in COLUMNS], alpha, strict=True))
  assert set(want) == set(law.names)
  for name, value in want.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
  np.testing.assert_allclose(law.predict(found, POINTS * 10), by_hand(shape, POINTS * 10, a, alpha, p, e), rtol=1e-5)


def test_a_sum_of_two_terms_is_chinchilla():
  old, new = LAWS["chinchilla"], joint(("N", "D"), "sum", False, True)
  values = {"A": 0.3, "B": 1.5, "E": 0.2, "alpha": 0.25, "beta": 0.3}
  renamed = {"A_N": 0.3, "A_D": 1.5, "E": 0.2, "alpha_N": 0.25, "alpha_D": 0.3}
  np.testing.assert_allclose(new.predict(renamed, POINTS[:, 1:]), old.predict(values, POINTS[:, 1:]), rtol=1e-14)


@pytest.mark.parametrize("s", [10 / 9, 1.25])
@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_form_is_the_nested_law_without_a_constant(kind, s):
  """On the grid of a preset, without noise: within the points and at ten times the examples. A sum of terms is no law of it."""
  sizes = KINDS[kind]
  passes = [(rows, sizes.axis_log2) for rows in sizes.rows] + [(ALL_ROWS, sizes.base_log2)]
  x = np.array([(rows, 2.0 ** (k / 2)) for rows, log2 in passes for k in range(34, 2 * log2 + 1)])
  y = np.array([excess(kind, s, n, int(rows)) for rows, n in x])
  far = np.array([[ALL_ROWS, 10 * 2.0**sizes.base_log2], [3000, 4 * 2.0**sizes.axis_log2]])
  truth = np.array([excess(kind, s, n, int(rows)) for rows, n in far])
  off, beyond = {}, {}
  for shape in ("sum", "nested", "fitted"):
    for constant in (False, True):
      problem = Problem.of(joint(("rows", "examples"), shape, False, constant), x, y)
      solution = solve(problem)
      values = problem.values(solution.theta)
      off[shape, constant] = float(np.sqrt(solution.cost / len(y)))
      beyond[shape, constant] = float(np.abs(np.log(problem.law.predict(values, far) / truth)).max())
      if shape == "fitted":
        np.testing.assert_allclose(values["p"], 1 / values["alpha_examples"], rtol=0.12)
      if shape != "sum":
        np.testing.assert_allclose([values["alpha_rows"], values["alpha_examples"]], [s - 1, (s - 1) / s], rtol=0.02)
        assert values.get("E", 0.0) < 1e-6 * y.min()  # a constant is found to be 0
  assert off["nested", False] < 0.003 and off["fitted", False] < 0.001 and beyond["nested", False] < 0.01 and beyond["fitted", False] < 0.01
  assert off["sum", True] > 0.015 and beyond["sum", True] > 0.05
