"""The compute optimum of a joint law and its intervals: other coordinates of the law, constrained fits, draws, coverage."""

import numpy as np
import pytest
from scipy import optimize, stats

from analysis import coverage
from analysis import fit as program
from analysis.fitting.bootstrap import bootstrap
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS
from analysis.fitting.least_squares import Problem, solve
from analysis.fitting.marquardt import Loss
from analysis.fitting.optimum_law import Budget, coordinates, optimum_law, optimum_of
from analysis.questions.optimum import Split, optimum
from dlrm_jax.common import record

LAW = LAWS["chinchilla"]
TRUTH = {"A": 400.0, "B": 900.0, "E": 1.7, "alpha": 0.34, "beta": 0.3}
BUDGET = Budget(1e21)
GRID = np.array([(n, d) for n in np.geomspace(1e7, 3e9, 5) for d in np.geomspace(3e8, 1e11, 5)])


def points(seed: int, level: float = 0.01) -> np.ndarray:
  return LAW.predict(TRUTH, GRID) * np.exp(level * np.random.default_rng(seed).standard_normal(len(GRID)))


@pytest.mark.parametrize("budget", [BUDGET, Budget(3e12, 2.5, 0.7)])
def test_the_optimum_is_where_the_loss_along_the_budget_is_least(budget):
  found = optimum_of(TRUTH, budget)

  def loss(log_n: float) -> float:
    n = np.exp(log_n)
    return float(LAW.predict(TRUTH, np.array([[n, budget.flops / (budget.cost * n**budget.power)]]))[0])

  best = optimize.minimize_scalar(loss, bounds=(np.log(1e3), np.log(1e13)), method="bounded", options={"xatol": 1e-9})
  np.testing.assert_allclose(found["N"], np.exp(best.x), rtol=1e-5)
  np.testing.assert_allclose(found["loss"], best.fun, rtol=1e-12)
  np.testing.assert_allclose(found["D"] * budget.cost * found["N"] ** budget.power, budget.flops, rtol=1e-12)
  more = optimum_of(TRUTH, Budget(10 * budget.flops, budget.cost, budget.power))
  np.testing.assert_allclose(np.log10(more["N"] / found["N"]), found["a"], rtol=1e-9)


@pytest.mark.parametrize("budget", [BUDGET, Budget(3e12, 2.5, 0.7)])
@pytest.mark.parametrize("change", [{}, {"E": 0.0}, {"alpha": 0.01, "beta": 1.5}])
def test_the_law_in_other_coordinates(budget, change):
  """The same values, and a gradient that finite differences have, too."""
  theta = LAW.to_coordinates(TRUTH | change)
  law, log_x = optimum_law(budget), np.log(GRID)
  moved = coordinates(theta[None], budget)
  log_f, gradient = law.log_value(moved, log_x)
  np.testing.assert_allclose(log_f, LAW.log_value(theta[None], log_x)[0], rtol=0, atol=1e-12)
  found = optimum_of(TRUTH | change, budget)
  np.testing.assert_allclose(np.exp(moved[0, :2]), [found["loss"], found["N"]], rtol=1e-9)
  np.testing.assert_allclose(moved[0, 4] / budget.power, found["a"], rtol=1e-12)
  for i, value in enumerate(moved[0]):
    step = np.zeros(5)
    step[i] = 1e-6 * max(1.0, abs(value))
    if i == 2 and value == 0.0:
      continue  # the edge of the domain
    numeric = (law.log_value(moved + step, log_x)[0] - law.log_value(moved - step, log_x)[0]) / (2 * step[i])
    np.testing.assert_allclose(gradient[..., i], numeric, rtol=1e-6, atol=1e-7)


def test_ends_are_where_constrained_fits_cost_as_much_as_the_f_test_allows():
  """The judge holds N*, a or the loss by a constraint on A, B, E, alpha and beta, and knows nothing of other coordinates."""
  y = points(0)
  problem = Problem.of(LAW, GRID, y)
  best = solve(problem)
  allowed = best.cost * (1 + stats.f.ppf(0.95, 1, 20) / 20)
  fit = fit_law(GRID, y, "chinchilla", points="independent")
  split = optimum(fit, lambda law: fit_law(GRID, y, law, points="independent"), BUDGET)

  def quantity(theta: np.ndarray, name: str) -> float:
    values = optimum_of(problem.values(theta), BUDGET)
    return values["a"] if name == "a" else float(np.log(values[name]))

  def cost(theta: np.ndarray) -> float:
    return float(np.sum(problem.evaluate(theta[None])[0] ** 2)) / best.cost

  for name in ("N", "a", "loss"):
    for end in (split[name].ci_low, split[name].ci_high):
      wanted = end if name == "a" else float(np.log(end))
      held = {"type": "eq", "fun": lambda theta, name=name, wanted=wanted: quantity(theta, name) - wanted}
      bounds = [(None, None), (None, None), (0, None), (1e-6, 10), (1e-6, 10)]
      found = optimize.minimize(
        cost, best.theta, method="SLSQP", constraints=[held], bounds=bounds, options={"maxiter": 500, "ftol": 1e-12}
      )
      np.testing.assert_allclose(found.fun, allowed / best.cost, rtol=3e-3, err_msg=f"{name} {end}")
  np.testing.assert_allclose([split["D"].ci_low, split["D"].ci_high], BUDGET.flops / 6 / np.array([split["N"].ci_high, split["N"].ci_low]))
  np.testing.assert_allclose(split["D_per_N"].ci_low, split["D"].ci_low / split["N"].ci_high)


def test_draws_give_percentiles_of_the_optimum():
  x, loss = np.tile(GRID, (2, 1)), Loss(1e-3)
  y = np.concatenate([points(1, 0.003), points(2, 0.003)])
  fit = fit_law(x, y, "chinchilla", points="independent", loss=loss, draws=200)
  split = optimum(fit, lambda law: fit_law(x, y, law, points="independent", loss=loss, draws=200), BUDGET)
  problem = Problem.of(LAW, x, y, loss=loss)
  drawn = [optimum_of(problem.values(theta), BUDGET) for theta in bootstrap(problem, solve(problem), 200)]
  for name in ("N", "D", "D_per_N", "loss", "a"):
    want = np.quantile([values[name] for values in drawn], [0.025, 0.975])
    np.testing.assert_allclose([split[name].ci_low, split[name].ci_high], want, rtol=1e-3, err_msg=name)


def written(path, x, y):
  path.write_text("n,d,loss\n" + "".join(f"{n!r},{d!r},{v!r}\n" for (n, d), v in zip(x.tolist(), y.tolist(), strict=True)))
  return {"input": str(path), "x": ("n", "d"), "y": "loss", "law": "chinchilla", "output": str(path.with_suffix(".json"))}


def test_the_program_prints_and_writes_the_split_with_intervals(tmp_path, capsys):
  config = written(tmp_path / "p.csv", GRID, points(3)) | {"budget_flops": 1e24}
  for cost in (6.0, 2.0):
    program.main(program.FitConfig(**config, flops_per_param=cost))
    (split,) = record.read_json(tmp_path / "p.json")["compute_optimal"]
    assert set(split["params"]) == {"N", "D", "D_per_N", "loss", "a"} and split["flops_per_param"] == cost
    for name, estimate in split["params"].items():
      assert estimate["ci_low"] < split[name] == estimate["estimate"] < estimate["ci_high"], name
    np.testing.assert_allclose(split["N"] * split["D"], 1e24 / cost, rtol=1e-9)
  out = capsys.readouterr().out
  assert "all: 1e+24 FLOPs are best spent as N (n) " in out and ", D (d) " in out and "N grows as C^a with a = 0.4" in out
  assert "The largest point has 6e+20 FLOPs: so far beyond the points" in " ".join(out.split())


def test_a_wide_interval_is_called_so(tmp_path, capsys):
  program.main(program.FitConfig(**written(tmp_path / "p.csv", GRID, points(5, 0.03)), budget_flops=1e30))
  assert "The interval of N spans a factor of " in " ".join(capsys.readouterr().out.split())
  fit = fit_law(GRID, points(5), "chinchilla", points="independent")
  split = optimum(fit, lambda law: fit_law(GRID, points(5), law, points="independent"), BUDGET)
  open_end = split | {"N": type(split["N"])(1e9, 1e9, 1e8, None)}
  assert "The points leave the interval of N open" in Split("all", BUDGET, open_end, 1e21).sentence


@pytest.mark.parametrize("flops", [1e60, 1e100])
def test_no_interval_excludes_its_estimate_however_far_the_budget(flops):
  """At 1e100 FLOPs the search for ends is lost in rounding. An end on the wrong side of the estimate is no end."""
  fit = fit_law(GRID, points(5), "chinchilla", points="independent")
  split = optimum(fit, lambda law: fit_law(GRID, points(5), law, points="independent"), Budget(flops))
  for name, one in split.items():
    assert (one.ci_low is None or one.ci_low <= one.estimate) and (one.ci_high is None or one.estimate <= one.ci_high), name


def test_what_the_points_do_not_determine_has_no_split(tmp_path, capsys):
  y = points(4, 0.0) * np.exp(0.2 * np.random.default_rng(4).standard_normal(len(GRID)))
  program.main(program.FitConfig(**written(tmp_path / "p.csv", GRID, y), budget_flops=1e21))
  saved = record.read_json(tmp_path / "p.json")
  assert saved["fits"][0]["status"] == "not_identifiable" and "compute_optimal" not in saved
  assert "all: no split of 1e+21 FLOPs: the points do not determine" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "level", "count"), [("independent", 0.003, 400), ("independent", 0.01, 400), ("curves", 0.01, 200)])
def test_intervals_hold_the_optimum(kind, level, count):
  """Sweeps of `analysis.coverage`, a budget of 10 times the largest point: 92 to 98% of the intervals hold the closed form."""
  values = coverage.TRUTHS["chinchilla"]["steep"]
  budget, rng = Budget(2e18), np.random.default_rng(11)
  want, held = optimum_of(values, budget), dict.fromkeys(("N", "D", "D_per_N", "loss", "a"), 0)
  u = np.log(coverage.PASS_POINTS)
  root = np.linalg.cholesky(coverage.pass_noise(level, u).covariance(u))
  for _ in range(count):
    seed = None
    if kind == "independent":
      x = np.tile(coverage.GRID, (coverage.SEEDS, 1))
      rest = level * rng.standard_normal(len(x))
    else:
      sizes = np.geomspace(coverage.SIZES[0], coverage.SIZES[-1], coverage.CONFIGURATIONS)
      x = np.array([(size, at) for size in sizes for _ in range(coverage.SEEDS) for at in coverage.PASS_POINTS])
      seed = np.tile(np.repeat(np.arange(coverage.SEEDS), len(u)), coverage.CONFIGURATIONS)
      rest = (rng.standard_normal((coverage.CONFIGURATIONS * coverage.SEEDS, len(u))) @ root.T).ravel()
    y = LAW.predict(values, x) * np.exp(rest)
    fit = fit_law(x, y, "chinchilla", seed, points=kind)
    split = optimum(fit, lambda law: fit_law(x, y, law, seed, points=kind), budget)  # noqa: B023 (called at once)
    for name, estimate in split.items():
      held[name] += (estimate.ci_low or 0.0) <= want[name] <= (np.inf if estimate.ci_high is None else estimate.ci_high)
  assert all(0.92 <= hits / count <= 0.98 for hits in held.values()), held
