"""Minima of scans and the power law they follow: by hand, against numpy's polynomials, and how often intervals hold the truth."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.minima import Minimum, Scan, minima, power_of_minima
from analysis.fitting.power_line import PowerLine

FACTORS = np.log([0.25, 0.5, 1.0, 2.0, 4.0])


def scan_of(vertex: float, seeds: int, noise: float, rng: np.random.Generator, curvature: float = 0.05) -> Scan:
  """Log losses of a parabola; a seed adds an offset everywhere, ten times the noise of a point."""
  log_x, seed = np.tile(FACTORS, seeds), np.repeat(np.arange(seeds), len(FACTORS))
  offset = 10 * noise * rng.standard_normal(seeds)
  return Scan(log_x, curvature * (log_x - vertex) ** 2 + offset[seed] + noise * rng.standard_normal(len(log_x)), seed)


def test_a_parabola_by_hand():
  """Through (0, 3), (1, 1), (2, 1): y = x^2 - 3 x + 3, least .75 at 1.5. One seed says nothing of an error."""
  (found,) = minima([Scan(np.array([0.0, 1.0, 2.0]), np.array([3.0, 0.99999, 1.0]))])
  assert found.log_x == pytest.approx(1.5, abs=1e-4) and found.y == pytest.approx(0.75, abs=1e-4)
  assert (found.std_error, found.low, found.free, found.reason) == (None, None, 0.0, "")


def test_vertex_and_error_against_numpy():
  rng = np.random.default_rng(3)
  log_x = np.repeat(np.linspace(-2.0, 2.0, 9), 2)
  y = 0.3 * (log_x - 0.4) ** 2 + 0.02 * rng.standard_normal(18)
  (found,) = minima([Scan(log_x, y)], side=None)
  (a, b, c), cov = np.polyfit(log_x, y, 2, cov=True)  # numpy scales by the residuals over n - 3
  gradient = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
  np.testing.assert_allclose(found.log_x, -b / (2 * a), rtol=1e-9)
  np.testing.assert_allclose(found.y, c - b**2 / (4 * a), rtol=1e-9)
  np.testing.assert_allclose(found.std_error, np.sqrt(gradient @ cov @ gradient), rtol=1e-9)
  assert found.free == 15
  for end in (found.low, found.high):  # Fieller: there the slope is as large as its 97.5% limit
    slope = np.array([2 * end, 1.0, 0.0])
    np.testing.assert_allclose(abs(slope @ [a, b, c]), stats.t.ppf(0.975, 15) * np.sqrt(slope @ cov @ slope), rtol=1e-6)


def test_what_a_seed_adds_everywhere_is_no_error():
  rng = np.random.default_rng(0)
  scan = scan_of(0.3, 3, 1e-4, rng)
  moved = Scan(scan.log_x, scan.y + np.array([0.0, 5.0, -7.0])[scan.seed], scan.seed)
  (plain,), (shifted,) = minima([scan]), minima([moved])
  np.testing.assert_allclose([shifted.log_x, shifted.std_error], [plain.log_x, plain.std_error], rtol=1e-6)
  assert plain.free == 15 - 3 - 2 and abs(plain.log_x - 0.3) < 0.01


def test_points_on_a_parabola_have_their_vertex():
  (found,) = minima([Scan(FACTORS, 2.0 + 0.1 * (FACTORS + 0.2) ** 2)])
  assert found.log_x == pytest.approx(-0.2, abs=1e-9) and found.high - found.low < 1e-9 and found.free == 2


def test_only_the_neighbours_of_the_lowest_are_fitted():
  log_x = np.log(2.0) * np.arange(9)
  y = (log_x - log_x[4]) ** 2
  y[[0, 1]] += 50.0  # far on one side a loss explodes
  (near,), (all_of_it,) = minima([Scan(log_x, y)]), minima([Scan(log_x, y)], side=None)
  assert near.log_x == pytest.approx(log_x[4]) and abs(all_of_it.log_x - log_x[4]) > 0.3


def test_uneven_scans_get_cubics():
  """Two scans of v^2 + v^3 / 4, exact but for an error in the last place, are least at v = 0; parabolas would be least above and below."""
  rng = np.random.default_rng(5)
  scans = [Scan(FACTORS, (v := FACTORS - at) ** 2 + v**3 / 4 + 1e-6 * rng.standard_normal(5)) for at in (-0.2, 0.3)]
  for found, at in zip(minima(scans), (-0.2, 0.3), strict=True):
    assert found.log_x == pytest.approx(at, abs=1e-5) and found.low < at < found.high and found.free == 2
  parabola = np.polyfit(FACTORS, scans[0].y, 2)
  assert abs(-parabola[1] / (2 * parabola[0]) + 0.2) > 0.1


@pytest.mark.parametrize(
  ("y", "reason", "end"),
  [
    ([1.0, 2.0, 3.0, 4.0], "least at the smallest tried", -1),
    ([4.0, 3.0, 2.0, 1.0], "least at the largest tried", 1),
    ([3.0, 2.0], "2 tried, a minimum needs 3", 1),
  ],
)
def test_one_sided_scans_are_left_out_by_name(y: list[float], reason: str, end: int):
  (found,) = minima([Scan(np.arange(float(len(y))), np.array(y))])
  assert (found.log_x, found.reason, found.end) == (None, reason, end)


def test_noise_can_hide_a_minimum():
  rng = np.random.default_rng(1)
  flat = Scan(np.repeat(FACTORS, 2), 0.01 * rng.standard_normal(10))
  flat.y[4:6] -= 0.005
  (found,) = minima([flat])
  assert found.log_x is None and found.reason == "the noise hides the minimum"


def test_power_law_of_minima_against_a_weighted_line():
  size, error = np.array([10.0, 40.0, 300.0, 2000.0]), np.array([0.1, 0.02, 0.05, 0.2])
  log_x = np.array([1.1, 1.5, 1.4, 1.9])
  found = [Minimum(x, e, x - e, x + e, 0.0, 12.0) for x, e in zip(log_x, error, strict=True)]
  got = power_of_minima(np.append(size, 9999.0), [*found, Minimum(None, reason="least at the largest tried", end=1)])
  assert isinstance(got, PowerLine)
  (slope, level), cov = np.polyfit(np.log(size), log_x, 1, w=1 / error, cov=True)  # numpy scales by chi-squared over n - 2
  chi_squared = np.sum(((log_x - level - slope * np.log(size)) / error) ** 2)
  assert got.exponent.estimate == pytest.approx(slope, rel=1e-9)
  assert got.scatter_p == pytest.approx(stats.f.sf(chi_squared / 2, 2, 12), rel=1e-9) and got.scatter_p < 0.05
  assert got.exponent.std_error == pytest.approx(np.sqrt(cov[0, 0]), rel=1e-9) and got.free == 2
  assert got.exponent.ci_high == pytest.approx(slope + stats.t.ppf(0.975, 2) * np.sqrt(cov[0, 0]), rel=1e-9)
  there = got.at(100.0)
  assert np.log(there.estimate) == pytest.approx(level + slope * np.log(100.0), rel=1e-9)
  at = np.array([np.log(100.0), 1.0])
  assert there.std_error == pytest.approx(np.sqrt(at @ cov @ at), rel=1e-9)


def test_minima_without_errors_are_weighted_alike():
  size = np.array([1.0, 10.0, 100.0])
  got = power_of_minima(size, [Minimum(x) for x in (0.0, 1.0, 1.1)])
  assert isinstance(got, PowerLine)
  line = stats.linregress(np.log(size), [0.0, 1.0, 1.1])
  assert (got.exponent.estimate, got.exponent.std_error) == (pytest.approx(line.slope), pytest.approx(line.stderr))
  assert power_of_minima(size, [Minimum(0.0), Minimum(1.0), Minimum(None)]) == "2 sizes without repeated seeds have no error"
  assert power_of_minima(size, [Minimum(0.0), Minimum(None), Minimum(None)]) == "1 of 3 sizes have a minimum, a power needs 2"


@pytest.mark.parametrize(("seeds", "noise", "scatter"), [(2, 0.01, 0.0), (3, 0.004, 0.3)])
def test_intervals_hold_the_exponent(seeds: int, noise: float, scatter: float):
  """Four sizes, minima that move as size^.15 and scatter about it: 95% intervals hold .15 in 92 to 98% of 400 sweeps."""
  rng, size, held, known = np.random.default_rng(7), np.array([10.0, 40.0, 160.0, 640.0]), 0, 0
  for _ in range(400):
    vertices = 0.15 * np.log(size / 80) + scatter * rng.standard_normal(4)
    law = power_of_minima(size, minima([scan_of(v, seeds, noise, rng) for v in vertices]))
    if isinstance(law, PowerLine):
      known += 1
      held += law.exponent.ci_low <= 0.15 <= law.exponent.ci_high
  assert known >= 380
  assert 0.92 <= held / known <= 0.98, held / known
