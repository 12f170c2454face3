"""The covariance of fitted parameters: against the scatter of fits to drawn points, the bootstrap, and fits in another unit."""

import numpy as np
import pytest

from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.result import Fit, as_dict
from analysis.questions.schemes import in_unit

X = 2.0 ** np.arange(14, 28)
VALUES = {"alpha": 30.0, "beta": 0.4, "gamma": 0.1}
LAW = LAWS["power_constant"]


def points(seed: int, x: np.ndarray = X, level: float = 0.003) -> np.ndarray:
  return LAW.predict(VALUES, x) * np.exp(level * np.random.default_rng(seed).standard_normal(len(x)))


def array(fit: Fit) -> np.ndarray:
  assert fit.covariance is not None and fit.covariance.params == LAW.names
  return fit.covariance.array()


def test_it_is_the_scatter_of_fits_to_drawn_points():
  """The mean reported covariance of 30 fits against that of 1,500 estimates, which has an error of 4%."""
  reported = np.mean([array(fit_law(X, points(seed), "power_constant", points="independent")) for seed in range(30)], axis=0)
  problems = [Problem.of(LAW, X, points(1000 + seed)) for seed in range(1500)]
  near = solve(problems[0]).theta
  thetas = []
  for problem in problems:
    theta, _ = problem.minimise(near[None], *problem.bounds(1))
    thetas.append(list(problem.values(theta[0]).values()))
  measured = np.cov(np.array(thetas), rowvar=False)
  scale = np.sqrt(np.diagonal(measured))
  np.testing.assert_allclose(reported / np.outer(scale, scale), measured / np.outer(scale, scale), atol=0.15)


def test_it_agrees_with_the_bootstrap_and_the_standard_errors():
  x = np.geomspace(2.0**14, 2.0**27, 200)
  y = points(0, x, 0.01)
  plain, drawn = (fit_law(x, y, "power_constant", points="independent", draws=draws) for draws in (0, 2000))
  for fit in (plain, drawn):
    errors = [fit.params[name].std_error for name in LAW.names]
    np.testing.assert_allclose(np.sqrt(np.diagonal(array(fit))), errors, rtol=1e-9)
  scale = np.sqrt(np.diagonal(array(plain)))
  np.testing.assert_allclose(array(drawn) / np.outer(scale, scale), array(plain) / np.outer(scale, scale), atol=0.2)


def test_parameters_on_a_bound_or_undetermined_have_none():
  edge = fit_law(X, 30.0 * X**-0.4 * (1 + 1e-3 * (-1.0) ** np.arange(len(X))), "power_constant")
  assert edge.status == "on_bound"
  assert np.isnan(array(edge)).tolist() == [[False, False, True], [False, False, True], [True] * 3]
  like_ne = LAW.predict({"alpha": 0.9, "beta": 0.25, "gamma": 0.75}, X) * np.exp(0.03 * np.random.default_rng(1).standard_normal(len(X)))
  loose = fit_law(X, like_ne, "power_constant")
  assert loose.status == "not_identifiable" and loose.covariance is not None
  assert loose.covariance.matrix[1] == (None, None, None)
  assert as_dict(loose)["covariance"]["params"] == LAW.names
  assert fit_law(X, X**0.1, "power").covariance is None  # refused


@pytest.mark.parametrize("law", ["power", "power_constant", "broken_power"])
def test_in_another_unit_it_is_that_of_a_fit_there(law):
  y, unit = points(3), 6000.0
  here, there = fit_law(X, y, law, points="independent"), fit_law(X * unit, y, law, points="independent")
  moved = in_unit(here, unit)
  assert moved.covariance is not None and there.covariance is not None
  scale = np.sqrt(np.diagonal(there.covariance.array()))
  np.testing.assert_allclose(
    moved.covariance.array() / np.outer(scale, scale), there.covariance.array() / np.outer(scale, scale), atol=1e-3
  )
