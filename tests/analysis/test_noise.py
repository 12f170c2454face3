"""The noise of training passes: its covariance by hand, estimated from planted seeds, and what generalised least squares makes of it."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting import noise, settings
from analysis.fitting.evidence import Scatter, scatter_of
from analysis.fitting.fit_law import fit_law
from analysis.fitting.noise import Block, Noise

U = np.log(2.0) * np.arange(17, 27)
PLANTED = Noise(offset=4e-6, drift=9e-6, nugget=1e-6, length=2.0, tilt=-0.3, origin=float(U.mean()), scatters=())


def draw(planted: Noise, u: np.ndarray, seeds: int, rng: np.random.Generator) -> np.ndarray:
  return rng.standard_normal((seeds, len(u))) @ np.linalg.cholesky(planted.covariance(u)).T


def test_covariance_by_hand():
  n = Noise(1.0, 2.0, 4.0, length=3.0, tilt=0.5, origin=1.0, scatters=())
  d = np.exp(0.25 * (np.array([1.0, 4.0]) - 1.0))
  want = [[d[0] ** 2 * 7.0, d[0] * d[1] * (1 + 2 * np.exp(-1))], [d[0] * d[1] * (1 + 2 * np.exp(-1)), d[1] ** 2 * 7.0]]
  np.testing.assert_allclose(n.covariance(np.array([1.0, 4.0])), want, rtol=1e-12)
  np.testing.assert_allclose(n.correlation(3.0), (1 + 2 * np.exp(-1)) / 7, rtol=1e-12)


def test_slopes_of_the_covariance():
  fields = {"offset": 1e-6, "drift": 1e-6, "nugget": 1e-6, "length": 1e-4, "tilt": 1e-5}
  slopes = PLANTED.with_slopes(U)[1]
  for (name, step), slope in zip(fields.items(), slopes, strict=True):
    values = []
    for sign in (-1, 1):
      moved = {f: getattr(PLANTED, f) for f in fields}
      moved[name] = moved[name] * np.exp(sign * step) if name == "length" else moved[name] + sign * step
      values.append(Noise(**moved, origin=PLANTED.origin, scatters=()).covariance(U))
    np.testing.assert_allclose(slope, (values[1] - values[0]) / (2 * step), rtol=1e-5, atol=1e-9, err_msg=name)


def test_scatter_is_what_seeds_differ_by():
  y = np.array([[1.0, 5.0], [3.0, 4.0], [2.0, 9.0]])
  (found,) = scatter_of([(np.array([0.0, 1.0]), y), (np.array([0.0, 1.0]), y[:2] + 100)])
  np.testing.assert_allclose(found.sum, [[2 + 2, -1 - 1], [-1 - 1, 14 + 0.5]], atol=1e-10)
  assert found.free == 3


def test_planted_noise_is_found_and_likelier_than_the_truth():
  rng = np.random.default_rng(0)
  grids = [(U, 40), (U[:7], 40)]  # configurations of two lengths
  passes = [(u, draw(PLANTED, u, 5, rng)) for u, count in grids for _ in range(count)]
  scatters = scatter_of(passes)
  found = noise.estimate(scatters)
  assert found.free == 320
  errors = np.sqrt(np.diagonal(np.linalg.inv(found.information())))
  assert np.all(errors[:3] < 4e-6) and errors[2] < 4e-7
  for name, error in zip(("offset", "drift", "nugget", "length", "tilt"), errors, strict=True):
    got, want = (np.log(getattr(n, name)) if name == "length" else getattr(n, name) for n in (found, PLANTED))
    assert abs(got - want) < 3.5 * error, name
  np.testing.assert_allclose(np.diagonal(found.covariance(U)), np.diagonal(PLANTED.covariance(U)), rtol=0.2)

  def likelihood(n: Noise) -> float:  # of the differences from the first seed, by scipy: free of what the seeds share
    total = 0.0
    for u, y in passes:
      cov = n.covariance(u)
      both = np.block([[2 * cov, cov], [cov, 2 * cov]])
      total += stats.multivariate_normal(cov=both).logpdf(np.concatenate([y[1] - y[0], y[2] - y[0]]))
    return total

  assert likelihood(found) > likelihood(PLANTED) - 3


def test_information_of_white_noise_by_hand():
  """n points of nu passes know the variance of white noise to 2 sigma^4 / (n nu)."""
  white = Noise(1e-30, 1e-30, 4.0, 1.0, 0.0, float(U.mean()), (Scatter(U, np.eye(len(U)), 6),))
  np.testing.assert_allclose(white.information()[2, 2], 0.5 * 6 * len(U) / 16.0, rtol=1e-9)


def test_generalised_least_squares_by_hand():
  """A power law is linear in logarithms: estimate, standard error and objective against the textbook's formulas."""
  rng = np.random.default_rng(1)
  y = np.log(3.0) - 0.1 * U + draw(PLANTED, U, 3, rng)
  known = noise.estimate(scatter_of([(U, y)] + [(U, draw(PLANTED, U, 3, rng)) for _ in range(9)]))
  fit = fit_law(np.tile(np.exp(U), 3), np.exp(y.ravel()), "power", np.repeat([0, 1, 2], len(U)), noise=known)
  columns, inverse = np.stack([np.ones_like(U), -U], axis=1), np.linalg.inv(known.covariance(U) / 3)
  plain = np.linalg.inv(columns.T @ inverse @ columns)
  estimate = plain @ columns.T @ inverse @ y.mean(axis=0)
  assert fit.method == "gls"
  np.testing.assert_allclose([np.log(fit.value("alpha")), fit.value("beta")], estimate, rtol=1e-7)
  rest = y.mean(axis=0) - columns @ estimate
  np.testing.assert_allclose(fit.objective, rest @ inverse @ rest, rtol=1e-7)
  cov, free = noise.judge(known, [Block(np.arange(len(U)), U, 3)], columns)
  assert np.all(np.diagonal(cov) > np.diagonal(plain)) and np.all(np.diagonal(cov) < 1.5 * np.diagonal(plain))  # the noise is estimated
  np.testing.assert_allclose(fit.params["beta"].std_error, np.sqrt(cov[1, 1]), rtol=1e-6)
  half = stats.t.ppf(0.975, min(free[1], 40)) * np.sqrt(cov[1, 1])
  np.testing.assert_allclose(fit.params["beta"].ci_high - fit.value("beta"), half, rtol=2e-3)


def judged(known: Noise) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Plain covariance, corrected covariance and degrees of freedom of a straight line through the mean of three seeds."""
  columns = np.stack([np.ones_like(U), -U], axis=1)
  plain = np.linalg.inv(columns.T @ np.linalg.inv(known.covariance(U) / 3) @ columns)
  return plain, *noise.judge(known, [Block(np.arange(len(U)), U, 3)], columns)


def test_judge_by_finite_differences(monkeypatch):
  """Satterthwaite's degrees 2 v^2 / g'Wg and Kenward and Roger's correction -sum W d2v, for parameters that covariances are linear in."""
  known = np.diag([4e-12, 9e-12, 1e-13]) + 1e-13  # covariance of offset, drift and nugget
  information = np.zeros((5, 5))
  information[:3, :3] = np.linalg.inv(known)
  monkeypatch.setattr(Noise, "information", lambda self: information)
  names, step = ("offset", "drift", "nugget"), 2e-9
  plain, corrected, free = judged(PLANTED)

  def variance(*moves: tuple[int, float]) -> np.ndarray:
    values = {name: getattr(PLANTED, name) for name in names}
    for i, move in moves:
      values[names[i]] += move
    moved = Noise(**values, length=PLANTED.length, tilt=PLANTED.tilt, origin=PLANTED.origin, scatters=())
    return judged(moved)[0]

  slope = np.array([(variance((i, step)) - variance((i, -step))) / (2 * step) for i in range(3)])
  for a in range(2):
    np.testing.assert_allclose(free[a], 2 * plain[a, a] ** 2 / (slope[:, a, a] @ known @ slope[:, a, a]), rtol=1e-4)
  bent = np.zeros((2, 2))
  for i in range(3):
    for j in range(3):
      corners = [(s * t) * variance((i, s * step), (j, t * step)) for s in (-1, 1) for t in (-1, 1)]
      bent -= known[i, j] * sum(corners) / (4 * step**2)
  np.testing.assert_allclose(corrected - plain, bent, rtol=1e-3)


def test_units_of_the_loss_do_not_matter_to_the_judge():
  rng = np.random.default_rng(6)
  (one,) = scatter_of([(U, draw(PLANTED, U, 3, rng)) for _ in range(6)])
  found = noise.estimate((one,))
  less = noise.estimate((Scatter(U, 1e-4 * one.sum, one.free),))
  (plain, corrected, free), (plain_less, corrected_less, free_less) = judged(found), judged(less)
  np.testing.assert_allclose(np.diagonal(plain_less), 1e-4 * np.diagonal(plain), rtol=2e-2)
  np.testing.assert_allclose(free_less, free, rtol=5e-2)
  np.testing.assert_allclose(np.diagonal(corrected_less / plain_less), np.diagonal(corrected / plain), rtol=5e-2)


def test_correlated_points_taken_as_independent_make_intervals_too_narrow():
  rng, held = np.random.default_rng(2), {"curves": 0, "independent": 0}
  planted = Noise(1e-9, 1e-5, 1e-8, 7.0, 0.0, float(U.mean()), ())
  known = noise.estimate(scatter_of([(U, draw(planted, U, 3, rng)) for _ in range(15)]))
  for _ in range(120):
    y = np.exp(-0.1 * U + draw(planted, U, 3, rng)).ravel()
    for points in held:
      pooled = known if points == "curves" else None
      beta = fit_law(np.tile(np.exp(U), 3), y, "power", np.repeat([0, 1, 2], len(U)), points=points, noise=pooled).params["beta"]
      held[points] += beta.ci_low <= 0.1 <= beta.ci_high
  assert held["curves"] >= 106 and held["independent"] <= 102  # of 120; 95% are 114


def test_a_law_that_misfits_gets_wider_intervals_and_says_so():
  rng = np.random.default_rng(3)
  y = np.exp(-0.1 * U + 0.02 * np.sin(3 * U) + draw(PLANTED, U, 3, rng))
  fit = fit_law(np.tile(np.exp(U), 3), y.ravel(), "power", np.repeat([0, 1, 2], len(U)))
  assert fit.misfit_p < 1e-3 and fit.status == "misfit" and "more than the seeds differ" in fit.note and "initialisation" not in fit.note
  same = fit_law(np.tile(np.exp(U), 3), y.ravel(), "power", np.repeat([0, 1, 2], len(U)), same_rows=True)
  alone = "seeds differ, which are trained on the same rows and differ by initialisation only;"
  assert "seeds differ;" in fit.reason and same.reason == fit.reason.replace("seeds differ;", alone)
  assert fit.params["beta"].ci_low < 0.1 < fit.params["beta"].ci_high
  known = settings.noise_of([(np.exp(U)[:, None], np.log(y))])
  cov, _ = noise.judge(known, [Block(np.arange(len(U)), U, 3)], np.stack([np.ones_like(U), -U], axis=1))
  wider = np.sqrt(fit.objective / (len(U) - 2))
  np.testing.assert_allclose(fit.params["beta"].std_error, wider * np.sqrt(cov[1, 1]), rtol=1e-6)
  sure = noise.estimate(scatter_of([(U, 1e-3 * draw(PLANTED, U, 3, rng)) for _ in range(40)]))
  certain = fit_law(np.tile(np.exp(U), 3), y.ravel(), "power", np.repeat([0, 1, 2], len(U)), noise=sure)
  assert certain.misfit_p == 0.0 and certain.params["beta"].std_error > 1e-4  # a probability of exactly 0 is one, too


def test_tilt_of_independent_points():
  rng = np.random.default_rng(4)
  u = np.repeat(U, 6)
  found = noise.tilt_of(u, 0.01 * np.exp(-0.3 * (u - U.mean())) * rng.standard_normal(len(u)))
  np.testing.assert_allclose(found, -0.6, atol=0.25)
  assert noise.tilt_of(u, 0.01 * rng.standard_normal(len(u))) == 0.0
  assert noise.tilt_of(U, rng.standard_normal(len(U))) == 0.0  # no x twice


def test_points_are_weighted_by_their_noise():
  """Weights of a power law against weighted least squares on logarithms."""
  rng = np.random.default_rng(5)
  u = np.repeat(U, 6)
  log_y = -0.1 * u + 0.01 * np.exp(-0.3 * (u - U.mean())) * rng.standard_normal(len(u))
  fit = fit_law(np.exp(u), np.exp(log_y), "power", points="independent")
  weight = np.exp(-0.5 * noise.tilt_of(u, log_y) * (u - u.mean()))
  np.testing.assert_allclose(fit.value("beta"), -np.polyfit(u, log_y, 1, w=weight)[0], rtol=1e-8)


def test_passes_of_a_table():
  """Two sizes, seeds with different evaluations: only those that all seeds of a size have count."""
  x = np.array([[1, 10], [1, 20], [1, 10], [1, 20], [1, 40], [2, 10], [2, 20]], float)
  seed = np.array([0, 0, 1, 1, 1, 0, 0])
  configurations, dropped = settings.passes_of(x, np.arange(1.0, 8.0), seed)
  assert dropped == 1
  (first, log_first), (second, log_second) = configurations
  assert first.tolist() == [[1, 10], [1, 20]] and second.tolist() == [[2, 10], [2, 20]]
  np.testing.assert_allclose(np.exp(log_first), [[1, 2], [3, 4]])
  np.testing.assert_allclose(np.exp(log_second), [[6, 7]])


def test_a_pass_has_one_point_at_an_x():
  """Another loss at an x that a seed has is refused. An exact copy of a point counts once, and the note says so."""
  x, seed = np.tile(np.exp(U), 2), np.repeat(["a", "b"], len(U))
  y = x**-0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(x)))
  alone = fit_law(x, y, "power", seed)
  x, seed, copy, other = np.append(x, x[3]), np.append(seed, "a"), np.append(y, y[3]), np.append(y, 1.01 * y[3])
  assert settings.repeated(x[:, None], copy, seed) == "" and "seed a has 2 points" in settings.repeated(x[:, None], other, seed)
  assert "a training pass has one" in fit_law(x, other, "power", seed).status
  assert fit_law(x, other, "power", seed, points="independent").status == "ok"
  once = fit_law(x, copy, "power", seed)
  assert once.method == "gls" and "1 points are exact copies of others" in once.note and once.params == alone.params


def test_seeds_of_different_x_are_passes_that_scatter_around_the_law():
  x = np.concatenate([np.exp(U), 1.1 * np.exp(U)])
  y = x**-0.1 * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(x)))
  fit = fit_law(x, y, "power", np.repeat([0, 1], len(U)))
  assert fit.method == "gls_residuals" and "no two passes differ by their seed alone" in fit.note


def test_seeds_of_one_point_each_are_said_to_be_taken_as_independent():
  fit = fit_law(np.exp(U), np.exp(-0.1 * U + 0.01 * np.random.default_rng(0).standard_normal(len(U))), "power", np.arange(len(U)))
  assert fit.method == "profile_independent_points" and "the noise of a pass cannot be estimated" in fit.note


def test_without_seeds_there_is_no_noise():
  assert settings.noise_of([(np.array([[1.0], [2.0]]), np.zeros((1, 2)))]) is None
  with pytest.raises(ValueError, match="two seeds"):
    noise.estimate(())
