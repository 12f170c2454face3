"""Straight lines on logarithms: against numpy, generalised least squares written out, and how often intervals hold the exponent."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.power_line import power_line

X = np.array([1e3, 4e3, 3e4, 1e5, 2e6])


def test_a_rising_line_against_numpy():
  log_y = np.array([1.0, 1.9, 2.2, 3.4, 4.1])
  line = power_line(X, log_y)
  found = stats.linregress(np.log(X), log_y)
  np.testing.assert_allclose([line.exponent.estimate, line.exponent.std_error], [found.slope, found.stderr], rtol=1e-9)
  half = stats.t.ppf(0.975, 3) * found.stderr
  np.testing.assert_allclose([line.exponent.ci_low, line.exponent.ci_high], [found.slope - half, found.slope + half], rtol=1e-9)
  at = np.array([np.log(5e7), 1.0])
  slope, cov = np.polyfit(np.log(X), log_y, 1, cov=True)
  got = line.log_at(5e7)
  np.testing.assert_allclose([got.estimate, got.std_error], [at @ slope, np.sqrt(at @ cov @ at)], rtol=1e-9)
  assert line.exponent.estimate > 0 > power_line(X, -log_y).exponent.estimate


def test_correlated_errors_by_the_formula():
  rng = np.random.default_rng(0)
  root = rng.standard_normal((5, 5))
  cov, log_y = root @ root.T / 100 + 0.01 * np.eye(5), np.log(X) * 0.5 + 0.01 * rng.standard_normal(5)
  line = power_line(X, log_y, cov, np.inf)
  columns, inverse = np.column_stack([np.ones(5), np.log(X)]), np.linalg.inv(cov)
  plain = np.linalg.inv(columns.T @ inverse @ columns)
  theta = plain @ columns.T @ inverse @ log_y
  rest = log_y - columns @ theta
  assert line.scatter_p == pytest.approx(stats.chi2.sf(rest @ inverse @ rest, 3), rel=1e-6) and line.scatter_p > 0.2
  np.testing.assert_allclose([line.exponent.estimate, line.exponent.std_error], [theta[1], np.sqrt(plain[1, 1])], rtol=1e-9)
  np.testing.assert_allclose(line.log_at(1.0).estimate, theta[0], rtol=1e-9)
  assert abs(line.covariance[0, 1]) < 1e-9 * line.covariance[0, 0]  # level and exponent are independent in the middle


def test_scatter_beyond_the_errors_widens_and_scatter_within_them_is_pooled():
  log_y = np.array([1.0, 1.9, 2.2, 3.4, 4.1])
  plain = power_line(X, log_y)
  small = power_line(X, log_y, 1e-6 * np.eye(5), 40.0)
  np.testing.assert_allclose(small.exponent.std_error, plain.exponent.std_error, rtol=1e-9)
  assert small.free == 3 and small.scatter_p < 1e-6
  large = power_line(X, log_y, 4.0 * np.eye(5), 40.0)
  squares = float(plain.covariance[1, 1] * 3 / power_line(X, log_y, np.eye(5), np.inf).covariance[1, 1])
  np.testing.assert_allclose(large.free, 43.0)
  np.testing.assert_allclose(
    large.covariance[1, 1] / power_line(X, log_y, 4.0 * np.eye(5), np.inf).covariance[1, 1], (40 + squares / 4) / 43, rtol=1e-9
  )
  unknown = power_line(X, log_y, 7.0 * np.eye(5), 0.0)  # known up to a factor
  np.testing.assert_allclose(unknown.exponent.std_error, plain.exponent.std_error, rtol=1e-9)


@pytest.mark.parametrize("scatter", [0.0, 0.02, 0.1])
def test_intervals_hold_the_exponent(scatter):
  """Errors of .02 with 30 degrees of freedom, and scatter beyond them: 92 to 98% of 2,000 intervals hold the exponent."""
  rng, held = np.random.default_rng(1), 0
  for _ in range(2000):
    log_y = 0.5 * np.log(X) + np.hypot(0.02, scatter) * rng.standard_normal(5)
    known = 0.02**2 * rng.chisquare(30) / 30
    found = power_line(X, log_y, known * np.eye(5), 30.0).exponent
    held += found.ci_low <= 0.5 <= found.ci_high
  assert 0.92 <= held / 2000 <= 0.98
