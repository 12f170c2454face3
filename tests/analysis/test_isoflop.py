"""IsoFLOP profiles and winners along curves: by hand, on laws without noise, against refits, and how often intervals hold the truth."""

import numpy as np
import pytest

from analysis.fitting.clustered import clustered
from analysis.fitting.laws import LAWS
from analysis.fitting.optimum_law import Budget, optimum_of
from analysis.questions.approaches import isoflop, joint_law, least_along_curves, overlaps
from analysis.questions.common_budgets import IsoFlops, budgets_of
from analysis.questions.isoflop import profiles_of
from analysis.questions.optimum_runs import Runs

LAW = LAWS["chinchilla"]
HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
UNLIKE = {"A": 300.0, "B": 6000.0, "E": 1.8, "alpha": 0.3, "beta": 0.45}
OPTIONS = IsoFlops(0.1, 5, (), True)
BUDGETS = np.geomspace(1e18, 3e21, 8)


def rows_of(truth: dict, rng: np.random.Generator, level: float, width: float = 10.0, sizes: int = 9) -> Runs:
  """Runs at eight budgets, at sizes within a factor of the best one, which no planner knows exactly."""
  best = np.array([optimum_of(truth, Budget(c))["N"] for c in BUDGETS]) * np.exp(rng.uniform(-0.4, 0.4, len(BUDGETS)))
  n = (best[:, None] * np.geomspace(1 / width, width, sizes)).ravel()
  c = np.repeat(BUDGETS, sizes)
  d = c / 6 / n
  loss = LAW.predict(truth, np.column_stack([n, d])) * np.exp(level * rng.standard_normal(len(n)))
  return Runs(n, d, c, loss, None, 6.0, 1.0, ("N", "D", "loss"))


def passes_of(truth: dict, rng: np.random.Generator, level: float, seeds: int = 1, sizes: int = 17, evaluations: int = 14) -> Runs:
  """Passes of sizes from 3e7 to 3e9 parameters, with noise of which half is an offset of the pass and four tenths drift."""
  n, d, run, noise = [], [], [], []
  for k, size in enumerate(np.geomspace(3e7, 3e9, sizes)):
    at = size * np.geomspace(2, 300, evaluations)
    distance = np.abs(np.log(at)[:, None] - np.log(at))
    root = np.linalg.cholesky(0.5 + 0.4 * np.exp(-distance / 2) + 0.1 * np.eye(evaluations))
    for s in range(seeds):
      n, d, run = n + [size] * evaluations, d + at.tolist(), run + [f"{k}-{s}"] * evaluations
      noise += (level * root @ rng.standard_normal(evaluations)).tolist()
  x = np.column_stack([n, d])
  loss = LAW.predict(truth, x) * np.exp(noise)
  return Runs(x[:, 0], x[:, 1], 6 * x[:, 0] * x[:, 1], loss, np.array(run), 6.0, 1.0, ("N", "D", "loss"))


def test_a_parabola_by_hand():
  """Through (0, 3), (1, 1), (2, 1): y = x^2 - 3 x + 3, least .75 at 1.5. Three points leave nothing to tell an error by."""
  found = profiles_of(np.zeros(3), np.array([0.0, 1.0, 2.0]), np.array([3.0, 1.0, 1.0]), [np.arange(3)])
  (profile,) = found.kept
  np.testing.assert_allclose([profile.best, profile.loss], [1.5, 0.75], rtol=1e-9)
  assert found.best_cov is None and found.skew == 0.0 and found.entries()[0]["points"] == 3


def test_minima_by_hand_give_their_power():
  """Parabolas with N* = 2 C^.5: the exponent is .5, and N at 1e24 is 2e12, with intervals of rounding errors."""
  c = np.repeat([1e18, 1e19, 1e20, 1e21], 3)
  best = np.log(2.0 * c**0.5)
  u = best + np.tile([-1.0, 0.3, 1.1], 4)
  loss = np.exp(0.5 + 0.1 * np.log(1e22 / c) / 10 + 0.05 * (u - best) ** 2)
  n = np.exp(u)
  found, profiles, _ = isoflop(Runs(n, c / 6 / n, c, loss, None, 6.0, 1.0, ("N", "D", "L")), Budget(1e24), IsoFlops(0.1, 3, (), True))
  np.testing.assert_allclose([p.best for p in profiles.kept], best[::3], rtol=1e-9)
  np.testing.assert_allclose([found.params["a"].estimate, found.params["N"].estimate], [0.5, 2e12], rtol=1e-8)
  np.testing.assert_allclose(found.params["D"].estimate, 1e24 / 6 / 2e12, rtol=1e-8)
  assert found.points == "4 budgets, 12 runs"
  np.testing.assert_allclose(found.params["loss"].estimate, np.exp(0.5 + 0.1 * np.log(1e-2) / 10), rtol=1e-3)


def test_budgets_are_found_by_hand():
  """Within 10% of a middle: five runs around 1, then three around 2; two at 5 are too few."""
  c = np.array([0.95, 1.0, 2.0, 5.0, 1.05, 2.1, 1.02, 0.98, 1.95, 5.1])
  groups = budgets_of(np.log(c), np.arange(10.0), 0.1, 3)
  assert [sorted(g.tolist()) for g in groups] == [[0, 1, 4, 6, 7], [2, 5, 8]]
  assert [len(g) for g in budgets_of(np.log(c), np.zeros(10), 0.1, 3)] == []  # one size is no profile


def test_budgets_without_a_minimum_are_left_out_by_name():
  u = np.linspace(-1.0, 1.0, 5)
  curves = [0.1 * u**2, -0.1 * u**2, 0.1 * (u - 3) ** 2, 0.1 * (u + 3) ** 2, 1e-7 * u**2]
  wobble = 1e-4 * np.array([1.0, -1.0, 0.0, 1.0, -1.0])
  log_l = np.concatenate([curve + wobble for curve in curves] + [np.zeros(2)])
  groups = [*np.arange(25).reshape(5, 5), np.array([25, 26])]
  log_c = np.concatenate([np.repeat(np.arange(5.0), 5), [9.0, 9.0]])
  found = profiles_of(log_c, np.concatenate([np.tile(u, 5), [0.0, 1.0]]), log_l, list(groups), skewed=False)
  reasons = [
    "",
    "opens downwards",
    "beyond its largest size",
    "beyond its smallest size",
    "is flat within its error",
    "it has 2 sizes, 3 are needed",
  ]
  for profile, reason in zip(found.every, reasons, strict=True):
    assert reason in profile.left_out and bool(reason) == bool(profile.left_out)
  assert [p.beyond for p in found.every] == [False, False, True, True, False, False]


def test_a_constant_loss_has_no_minimum():
  u = np.tile(np.linspace(-1.0, 1.0, 5), 3)
  found = profiles_of(np.repeat(np.arange(3.0), 5), u, np.zeros(15), list(np.arange(15).reshape(3, 5)))
  assert not found.kept and all("opens downwards" in p.left_out for p in found.every)


@pytest.mark.parametrize("skewed", [True, False])
def test_covariance_is_that_of_refits(skewed):
  """How minima follow a point, by moving it, where residuals are small; and their covariance from that."""
  runs = rows_of(UNLIKE, np.random.default_rng(0), 1e-5, 5.0)
  log_c = np.log(runs.flops) + 0.02 * np.random.default_rng(1).standard_normal(len(runs.flops))  # budgets that are not quite met
  log_n, log_l = np.log(runs.params), np.log(runs.loss)
  groups = list(np.arange(72).reshape(8, 9))
  found = profiles_of(log_c, log_n, log_l, groups, skewed)
  assert found.free == 72 - 24 - 1 - skewed and len(found.kept) == 8
  pull = found.slopes @ found.inverse @ found.design.T
  for j in (0, 4, 30, 71):
    ends = []
    for step in (1e-5, -1e-5):
      moved = log_l.copy()
      moved[j] += step
      ends.append(profiles_of(log_c, log_n, moved, groups, skewed).kept)
    best = np.array([a.best - b.best for a, b in zip(*ends, strict=True)]) / 2e-5
    np.testing.assert_allclose(pull[:, j], best, atol=2e-3 * np.abs(pull).max())
  np.testing.assert_allclose(found.best_cov, found.noise**2 * pull @ pull.T, rtol=1e-4, atol=1e-9)


def test_a_skew_puts_the_minimum_where_it_is():
  """Without noise, over a factor of 100 in size: parabolas in log N are 8% off, skewed ones 1%."""
  runs = rows_of(UNLIKE, np.random.default_rng(0), 0.0)
  off = {}
  for skewed in (True, False):
    found = isoflop(runs, Budget(1e20), IsoFlops(0.1, 5, (), skewed))[0].params
    off[skewed] = abs(np.log(found["N"].estimate / optimum_of(UNLIKE, Budget(1e20))["N"]))
  assert off[True] < 0.015 < 0.06 < off[False]


def test_approaches_without_noise_find_the_power_of_the_law():
  """A grid of sizes a factor of 1.33 apart: all three approaches have the exponent within .01, and N within 10%."""
  runs = passes_of(HOFFMANN, np.random.default_rng(0), 1e-5, evaluations=40)
  budget = Budget(1e20)
  want = optimum_of(HOFFMANN, budget)
  found = [least_along_curves(runs, budget)[0], isoflop(runs, budget, OPTIONS)[0], joint_law(runs, budget)[0]]
  for one in found:
    assert not one.refused and abs(one.params["a"].estimate - want["a"]) < 0.01, one
    np.testing.assert_allclose(one.params["N"].estimate, want["N"], rtol=0.1)
    np.testing.assert_allclose(one.params["loss"].estimate, want["loss"], rtol=3e-3)
  assert "sizes are a factor of 1.33 apart" in found[0].notes[0]


def test_winners_are_inside_the_sizes_and_curves_are_interpolated():
  runs = passes_of(HOFFMANN, np.random.default_rng(0), 0.0, sizes=6, evaluations=9)
  found, edge, winners = least_along_curves(runs, Budget(1e20))
  sizes = np.unique(runs.params)
  assert found.params and set(edge.params) <= set(sizes) and {w.params for w in winners} <= set(sizes[1:-1])
  for i in (0, 100, len(edge.flops) - 1):  # the least of all curves there
    d = edge.flops[i] / 6 / sizes
    known = (d >= 2 * sizes * (1 - 1e-9)) & (d <= 300 * sizes * (1 + 1e-9))
    exact = LAW.predict(HOFFMANN, np.column_stack([sizes, d]))[known]
    np.testing.assert_allclose(np.exp(edge.log_loss[i]), exact.min(), rtol=5e-4)
  rows = rows_of(HOFFMANN, np.random.default_rng(0), 0.0)
  assert least_along_curves(rows, Budget(1e20))[0].refused == "it takes training curves: name the passes with --run"


def test_clusters_of_one_are_independent_points_and_a_mean_has_n_minus_1_degrees():
  rng = np.random.default_rng(0)
  x = np.column_stack([np.ones(12), rng.standard_normal(12)])
  inverse = np.linalg.inv(x.T @ x)
  pull, y = inverse @ x.T, rng.standard_normal(12)
  rest = y - x @ pull @ y
  covariance, free = clustered(np.eye(2), rest, x, inverse, np.arange(12))
  leverage = np.sum(x * (x @ inverse), axis=1)
  np.testing.assert_allclose(covariance, (pull * rest**2 / (1 - leverage)) @ pull.T, rtol=1e-9)  # HC2 of MacKinnon & White 1985
  assert np.all((free > 2) & (free < 10))
  covariance, free = clustered(np.eye(1), np.repeat([1.0, -1.0], 10), np.ones((20, 1)), np.full((1, 1), 1 / 20), np.repeat(np.arange(5), 4))
  assert free[0] == pytest.approx(4.0)  # five clusters of equal size


def test_clusters_against_matrices_of_all_points():
  """The formulas of Bell & McCaffrey with the whole hat matrix and its inverse roots."""
  rng = np.random.default_rng(1)
  x, run = np.column_stack([np.ones(30), rng.standard_normal((30, 2))]), np.repeat(np.arange(6), [2, 3, 4, 6, 7, 8])
  inverse = np.linalg.inv(x.T @ x)
  rest_nn = np.eye(30) - x @ inverse @ x.T
  residual, wanted = rest_nn @ rng.standard_normal(30), np.array([[0.0, 1.0, 0.5]])
  got, free = clustered(wanted, residual, x, inverse, run)
  sums, ways = [], []
  for k in range(6):
    mine = run == k
    values, vectors = np.linalg.eigh(rest_nn[np.ix_(mine, mine)])
    way = rest_nn[:, mine] @ (vectors / np.sqrt(values)) @ vectors.T @ (x @ inverse @ wanted[0])[mine]
    ways.append(way)
    sums.append(way @ residual)  # the residual is its own projection
  np.testing.assert_allclose(got[0, 0], np.sum(np.square(sums)), rtol=1e-9)
  errors = 0.1 * np.eye(30) + 0.9 * (run[:, None] == run)
  values = np.linalg.eigvals(np.array(ways) @ errors @ np.array(ways).T).real
  np.testing.assert_allclose(free[0], values.sum() ** 2 / np.sum(values**2), rtol=1e-9)


def test_intervals_overlap_or_not():
  runs = rows_of(HOFFMANN, np.random.default_rng(0), 0.003)
  two, three = isoflop(runs, Budget(1e20), OPTIONS)[0], joint_law(runs, Budget(1e20))[0]
  assert overlaps([two, three], "a") == [(2, 3, True)]
  three.params["a"] = type(three.params["a"])(0.9, 0.01, 0.88, None)
  assert overlaps([two, three], "a") == [(2, 3, False)]
  three.params["a"] = type(three.params["a"])(0.9, 0.01, None, 0.92)
  assert overlaps([two, three], "a") == [(2, 3, True)]


def coverage(approach, make, truth, count) -> tuple[float, float, float]:
  """Shares of intervals of a and of N that hold the closed form, and the median error of a."""
  budget, held, errors = Budget(3e22), np.zeros(2), []
  want = optimum_of(truth, budget)
  rng = np.random.default_rng(2)
  for _ in range(count):
    found = approach(make(truth, rng), budget)
    assert not found.refused, found.refused
    errors.append(found.params["a"].estimate - want["a"])
    held += [(found.params[name].ci_low or 0.0) <= want[name] <= (found.params[name].ci_high or np.inf) for name in ("a", "N")]
  return held[0] / count, held[1] / count, float(np.median(errors))


def two(runs, budget):
  return isoflop(runs, budget, OPTIONS)[0]


@pytest.mark.slow
@pytest.mark.parametrize("truth", [HOFFMANN, UNLIKE], ids=["hoffmann", "unlike"])
@pytest.mark.parametrize("level", [0.003, 0.01])
def test_isoflop_intervals_hold_the_law(truth, level):
  a, n, _ = coverage(two, lambda t, rng: rows_of(t, rng, level), truth, 400)
  assert 0.92 <= a <= 0.985 and 0.92 <= n <= 0.985, (a, n)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [HOFFMANN, UNLIKE], ids=["hoffmann", "unlike"])
def test_joint_law_intervals_hold_the_law(truth):
  a, n, _ = coverage(lambda runs, budget: joint_law(runs, budget)[0], lambda t, rng: rows_of(t, rng, 0.005), truth, 200)
  assert 0.92 <= a <= 0.985 and 0.92 <= n <= 0.985, (a, n)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_isoflop_intervals_along_passes_hold_the_law(seeds):
  a, n, _ = coverage(two, lambda t, rng: passes_of(t, rng, 0.003, seeds), HOFFMANN, 300)
  assert 0.91 <= a <= 0.99 and 0.91 <= n <= 0.99, (a, n)


@pytest.mark.slow
def test_joint_law_intervals_along_passes_of_one_seed_hold_the_law():
  def three(runs, budget):
    return joint_law(runs, budget)[0]

  a, n, _ = coverage(three, lambda t, rng: passes_of(t, rng, 0.003, sizes=9), HOFFMANN, 100)
  assert a >= 0.9 and n >= 0.9, (a, n)


@pytest.mark.slow
def test_the_grid_of_sizes_biases_the_winners_little():
  """Sizes a factor of 1.33 apart and noise of .3%: a is off by less than .01 in the median, and 85% of the intervals hold it."""
  a, _, off = coverage(lambda runs, budget: least_along_curves(runs, budget)[0], lambda t, rng: passes_of(t, rng, 0.003), HOFFMANN, 300)
  assert abs(off) < 0.01 and a >= 0.85, (a, off)
