"""Fits of many points: whitening against dense matrices, means in place of points, coverage, time, memory, files of unfinished runs."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT
from scipy import optimize

from analysis import fit as program
from analysis.fitting import thinning
from analysis.fitting.evidence import Scatter
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS
from analysis.fitting.least_squares import MANY, Problem, solve
from analysis.fitting.marquardt import Loss
from analysis.fitting.noise import Noise
from analysis.fitting.settings import noise_of, passes_of
from analysis.fitting.whitening import EQUAL, Blocks, Weights, correlated
from dlrm_jax.common import record

LAW = {"alpha": 5.0, "beta": 0.3, "gamma": 0.7}
PLANTED = Noise(offset=4e-8, drift=4e-8, nugget=1e-6, length=2.0, tilt=0.0, origin=15.0, scatters=())


def power_constant(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
  return theta[0] * x ** -theta[1] + theta[2]


def joint(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
  return theta[0] * x[:, 0] ** -theta[1] + theta[2] * x[:, 1] ** -theta[3] + theta[4]


def passes(rng: np.random.Generator, count: int, seeds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """x, y and seed of passes of `count` evaluations at even distances, with correlated noise and much white noise."""
  x = 2e4 * np.arange(1.0, count + 1)
  u, noise = np.log(x), PLANTED
  drift, step = np.empty((seeds, count)), np.exp(-np.diff(u) / noise.length)
  drift[:, 0] = rng.standard_normal(seeds)
  for i in range(1, count):
    drift[:, i] = step[i - 1] * drift[:, i - 1] + np.sqrt(1 - step[i - 1] ** 2) * rng.standard_normal(seeds)
  off = np.sqrt(noise.offset) * rng.standard_normal((seeds, 1)) + np.sqrt(noise.drift) * drift
  log_y = np.log(power_constant(np.array([*LAW.values()]), x)) + off + np.sqrt(noise.nugget) * rng.standard_normal((seeds, count))
  return np.tile(x, seeds), np.exp(log_y.ravel()), np.repeat(np.arange(seeds), count)


def test_whitenings_agree_with_dense_matrices():
  rng = np.random.default_rng(0)
  n, place, kept = 9, np.array([0, 1, 2, 3, 1, 4, 5, 2, 0]), np.arange(9) % 3 != 1
  order = rng.permutation(n)
  blocks = [order[:3], order[3:6], order[6:8], order[8:]]
  roots = [rng.standard_normal((len(b), len(b))) + 2 * np.eye(len(b)) for b in blocks]
  covs = [a @ a.T for a in roots]
  dense = np.zeros((n, n))
  for block, cov in zip(blocks, [covs[0], covs[0], *covs[2:]], strict=True):
    dense[np.ix_(block, block)] = cov
  weight = rng.uniform(0.5, 2.0, n)
  root = rng.standard_normal((n, n)) + 3 * np.eye(n)
  several = Blocks.of([(blocks[:2], covs[0]), (blocks[2:3], covs[2]), (blocks[3:], covs[3])])
  mean = np.eye(6)[place].T / np.bincount(place)[:, None]
  for white, cov in (
    (EQUAL, np.eye(n)),
    (Weights(weight), np.diag(weight**-2)),
    (correlated(root @ root.T), root @ root.T),
    (several, dense),
  ):
    w = white.columns(np.eye(n))
    np.testing.assert_allclose(w.T @ w, np.linalg.inv(cov), atol=1e-12)
    rows, cubes = rng.standard_normal((4, n)), rng.standard_normal((4, n, 3))
    np.testing.assert_allclose(white.rows(rows), rows @ w.T, atol=1e-12)
    np.testing.assert_allclose(white.apply(cubes), w @ cubes, atol=1e-12)
    np.testing.assert_allclose(white.rows(white.color(rows)), rows, atol=1e-12)
    np.testing.assert_allclose(white.covariance(n), cov, atol=1e-12)
    np.testing.assert_allclose(white.variance_of(rows[0]), rows[0] @ cov @ rows[0], rtol=1e-12)
    np.testing.assert_allclose(white.variances(place), np.diagonal(mean @ cov @ mean.T), rtol=1e-12)
    part = white.part(kept).columns(np.eye(int(kept.sum())))
    np.testing.assert_allclose(part.T @ part, np.linalg.inv(cov[np.ix_(kept, kept)]), atol=1e-12)


def test_block_means_of_a_pass():
  x = np.column_stack([np.full(1000, 7.0), np.arange(1.0, 1001.0)])
  y = np.stack([x[:, 1], -x[:, 1]])
  at, means, count = thinning.pass_means(x, y)
  assert len(at) <= thinning.PASS_MEANS and count.sum() == 1000 and np.all(at[:, 0] == 7)
  edges = np.concatenate([[0], np.cumsum(count)]).astype(int)
  for i, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
    np.testing.assert_allclose(np.log(at[i, 1]), np.log(x[low:high, 1]).mean(), rtol=1e-12)
    np.testing.assert_allclose(means[:, i], y[:, low:high].mean(axis=1), rtol=1e-12)
    assert np.log(x[high - 1, 1] / x[low, 1]) <= np.log(1000) / thinning.PASS_MEANS
  short = x[: thinning.PASS_MEANS]
  assert thinning.pass_means(short, y[:, : len(short)])[0] is short


def test_cells_keep_what_repeats():
  rng = np.random.default_rng(0)
  few, many = rng.choice(np.arange(12.0), 50_000), rng.uniform(0, 9, 50_000)
  index = thinning.cells(np.column_stack([many, few]))
  assert 900 < index.max() + 1 <= thinning.CELLS
  for i in range(0, index.max() + 1, 50):
    assert np.ptp(few[index == i]) == 0 and np.ptp(many[index == i]) <= 9 / 85
  again = thinning.cells(few[:, None])
  assert again.max() == 11 and thinning.cells(few[: 2 * thinning.CELLS, None]) is None


def test_means_of_passes_give_the_estimates_of_all_points():
  """Against generalised least squares over all evaluations, with a dense covariance and scipy's optimiser."""
  x, y, seed = passes(np.random.default_rng(3), 500)
  at, u = x[:500], np.log(x[:500])
  (at_means, _, count) = thinning.pass_means(at[:, None], y[None, :500])
  scatter = Scatter(np.log(at_means[:, 0]), 2000 * PLANTED.covariance(np.log(at_means[:, 0]), count), 2000, count)
  fit = fit_law(x, y, "power_constant", seed, noise=dataclasses.replace(PLANTED, scatters=(scatter,)))
  root = np.linalg.inv(np.linalg.cholesky(PLANTED.covariance(u) / 3))
  mean = np.log(y).reshape(3, -1).mean(axis=0)
  judge = optimize.least_squares(
    lambda t: root @ (np.log(power_constant(t, at)) - mean), [5.0, 0.3, 0.7], x_scale=[1.0, 0.1, 0.1], xtol=1e-14, ftol=1e-14
  )
  errors = np.sqrt(np.diagonal(np.linalg.inv(judge.jac.T @ judge.jac)))
  assert fit.note == f"1500 points are fitted as {3 * len(count)} means of neighbours of a pass"
  for name, value, error in zip(LAW, judge.x, errors, strict=True):
    assert abs(fit.params[name].estimate - value) < 0.05 * error
    np.testing.assert_allclose(fit.params[name].std_error, error, rtol=0.03)


@pytest.mark.parametrize("columns", [1, 2])
def test_means_of_independent_points_give_the_estimates_of_all(columns):
  """Against scipy's least squares over 20,000 points, standard errors included."""
  rng = np.random.default_rng(0)
  low, high = np.log([[1e5, 1e6], [1e9, 1e10]])
  x = np.exp(rng.uniform(low[:columns], high[:columns], (20_000, columns)))
  law, true = (power_constant, np.array([5.0, 0.3, 0.7])) if columns == 1 else (joint, np.array([400.0, 0.34, 900.0, 0.36, 1.7]))
  y = law(true, x if columns == 2 else x[:, 0]) * np.exp(0.01 * rng.standard_normal(len(x)))
  fit = fit_law(x, y, "power_constant" if columns == 1 else "chinchilla", points="independent")
  names = ("alpha", "beta", "gamma") if columns == 1 else ("A", "alpha", "B", "beta", "E")
  at = x if columns == 2 else x[:, 0]
  judge = optimize.least_squares(lambda t: np.log(law(t, at)) - np.log(y), true, x_scale=true, xtol=1e-14, ftol=1e-14)
  errors = np.sqrt(np.diagonal(np.linalg.inv(judge.jac.T @ judge.jac)) * 2 * judge.cost / (len(y) - len(true)))
  assert "20000 points are fitted as" in fit.note
  np.testing.assert_allclose(fit.objective, 2 * judge.cost, rtol=1e-6)
  for name, value, error in zip(names, judge.x, errors, strict=True):
    assert abs(fit.params[name].estimate - value) < 0.01 * error, name
    np.testing.assert_allclose(fit.params[name].std_error, error, rtol=0.01)


def test_laws_of_many_points_are_compared_over_all_of_them():
  """The cells of a curved law are other ones. AICc is that of all points by hand; three parameters too many change it little."""
  rng = np.random.default_rng(0)
  x = np.exp(rng.uniform(np.log(1e5), np.log(1e9), 6000))
  y = power_constant(np.array([5.0, 0.3, 0.7]), x) * np.exp(0.01 * rng.standard_normal(len(x)))
  fits = {name: fit_law(x, y, name, points="independent") for name in ("power", "power_constant", "broken_power")}
  for name, fit in fits.items():
    n, k, cost = len(y), len(fit.params) + 1, np.sum(np.log(fit.predict(x) / y) ** 2)
    np.testing.assert_allclose(fit.objective, cost, rtol=1e-6)
    np.testing.assert_allclose(fit.aicc, n * np.log(cost / n) + 2 * k * n / (n - k - 1), atol=1e-3, err_msg=name)
  assert abs(fits["broken_power"].aicc - fits["power_constant"].aicc) < 15 < fits["power"].aicc - fits["broken_power"].aicc


def test_starts_from_some_of_many_points_lead_to_the_optimum_of_all():
  """A robust loss is fitted to every point; its optimum is scipy's."""
  rng = np.random.default_rng(1)
  x = np.exp(rng.uniform(np.log(1e5), np.log(1e9), 3 * MANY))
  y = power_constant(np.array([5.0, 0.3, 0.7]), x) * np.exp(0.01 * rng.standard_t(2, len(x)))
  problem = Problem.of(LAWS["power_constant"], x, y, loss=Loss(5e-3))
  found = problem.values(solve(problem).theta)
  judge = optimize.least_squares(
    lambda t: np.log(power_constant(t, x) / y), [5.0, 0.3, 0.7], loss="huber", f_scale=5e-3, x_scale=[5.0, 0.3, 0.7], xtol=1e-14, ftol=1e-14
  )
  np.testing.assert_allclose([found[name] for name in LAW], judge.x, rtol=1e-5)


@pytest.mark.slow
def test_intervals_of_averaged_passes_cover():
  """3 seeds x 400 evaluations a pass, noise estimated from 15 such configurations or from the three passes alone."""
  inside = {"pooled": [], "own": []}
  for number in range(400):
    rng = np.random.default_rng(number)
    x, y, seed = passes(rng, 400)
    every = [passes_of(x[:, None], y, seed)[0]] + [passes_of(a[:, None], b, s)[0] for a, b, s in (passes(rng, 400) for _ in range(4))]
    pooled = noise_of([one for several in every for one in several])
    for name, noise in (("pooled", pooled), ("own", None)):
      beta = fit_law(x, y, "power_constant", seed, noise=noise).params["beta"]
      inside[name].append(beta.ci_low <= 0.3 <= beta.ci_high)
  assert 0.92 <= np.mean(inside["pooled"]) <= 0.98, inside
  assert 0.92 <= np.mean(inside["own"]) <= 0.99, inside


_CASES = {
  "independent": (100_000, "power_constant", ""),
  "passes": (33_333, "power_constant", "--seed=seed"),
  "configurations": (100, "chinchilla", "--seed=seed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", _CASES)
def test_a_hundred_thousand_points_take_seconds_and_little_memory(tmp_path, case):
  count, law, flag = _CASES[case]
  rng = np.random.default_rng(0)
  if case == "configurations":
    n, d = np.meshgrid(np.geomspace(1e6, 1e9, 500), np.geomspace(1e7, 1e10, count), indexing="ij")
    x = np.column_stack([n.ravel(), d.ravel()])
    off = [np.repeat(0.004 * rng.standard_normal(500), count) + 0.01 * rng.standard_normal(len(x)) for _ in range(2)]
    y, x, seed = (
      joint(np.array([400.0, 0.34, 900.0, 0.36, 1.7]), np.tile(x, (2, 1))) * np.exp(np.concatenate(off)),
      np.tile(x, (2, 1)),
      None,
    )
    seed = np.repeat([0, 1], len(x) // 2)
  elif case == "passes":
    x, y, seed = passes(rng, count)
    x = x[:, None]
  else:
    x = np.exp(rng.uniform(np.log(1e5), np.log(1e9), (count, 1)))
    y, seed = power_constant(np.array([5.0, 0.3, 0.7]), x[:, 0]) * np.exp(0.01 * rng.standard_normal(count)), np.zeros(count, int)
  names = ["n", "d"][: x.shape[1]]
  lines = [
    ",".join([*names, "y", "seed"]),
    *(f"{','.join(map(repr, a.tolist()))},{b!r},{s}" for a, b, s in zip(x, y.tolist(), seed, strict=True)),
  ]
  (tmp_path / "p.csv").write_text("\n".join(lines))
  words = [f"--input={tmp_path / 'p.csv'}", f"--x={','.join(names)}", "--y=y", f"--law={law}", f"--output={tmp_path / 'o.json'}", flag]
  code = (
    "import resource, sys; from analysis import fit; from dlrm_jax.common import flags; flags.run(fit.main, fit.FitConfig); "
    "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)"
  )
  done = subprocess.run([sys.executable, "-c", code, *filter(None, words)], capture_output=True, text=True, cwd=ROOT, check=True)
  seconds, kilobytes = map(float, done.stderr.split("\n")[-2].split())
  print(case, seconds, kilobytes)
  assert record.read_json(tmp_path / "o.json")["fits"][0]["status"] == "ok"
  assert seconds < 20 and kilobytes < 1e6  # processor time on both cores; 10 s by the clock


def test_what_is_fitted_is_written_while_other_groups_are_left(tmp_path, monkeypatch):
  x = 2.0 ** np.arange(16, 28)
  rows = ["x,y,g", *(f"{a},{2.0 * a**-0.1},{g}" for g in "abc" for a in x)]
  (tmp_path / "p.csv").write_text("\n".join(rows))
  config = program.FitConfig(str(tmp_path / "p.csv"), ("x",), "y", str(tmp_path / "o.json"), "power", "g")
  real = program.fit_law
  monkeypatch.setattr(program, "_WRITE_EVERY_S", -1.0)
  monkeypatch.setattr(program, "fit_law", lambda *a, group, **k: 1 / 0 if group == "c" else real(*a, group=group, **k))
  with pytest.raises(ZeroDivisionError):
    program.main(config)
  saved = record.read_json(tmp_path / "o.json")
  assert saved["groups_left"] == 1 and [f["group"] for f in saved["fits"]] == ["a", "b"]
  monkeypatch.setattr(program, "fit_law", real)
  program.main(config)
  saved = record.read_json(tmp_path / "o.json")
  assert saved["groups_left"] == 0 and [f["group"] for f in saved["fits"]] == ["a", "b", "c"]
