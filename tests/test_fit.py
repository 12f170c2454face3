"""The fitting engine: planted parameters recovered, intervals against hand-computed numbers, refusals, and the program on files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from analysis import fit as program
from analysis.fitting import fit_law
from analysis.laws import LAWS
from analysis.least_squares import Problem, solve
from dlrm_jax import flags, record

X = 2.0 ** np.arange(16, 28)
_WUKONG = Path(__file__).resolve().parents[2] / "shared" / "data" / "laws" / "wukong_table5.csv"


def noise(seed: int, scale: float, size: int = len(X)) -> np.ndarray:
  return np.exp(scale * np.random.default_rng(seed).standard_normal(size))


@pytest.mark.parametrize("name", LAWS)
def test_gradient_is_the_slope_of_the_value(name):
  law, log_x = LAWS[name], np.log(X)
  theta = np.array([0.7, 0.23, 0.4])[: len(law.params)]
  gradient = law.log_value(theta[None], log_x)[1][0]
  for i in range(len(theta)):
    step = np.zeros(len(theta))
    step[i] = 1e-6
    slope = (law.log_value((theta + step)[None], log_x)[0][0] - law.log_value((theta - step)[None], log_x)[0][0]) / 2e-6
    np.testing.assert_allclose(gradient[:, i], slope, rtol=1e-7, atol=1e-9)


def test_power_agrees_with_the_straight_line_on_logs():
  y = 3.0 * X**-0.1 * noise(0, 0.02)
  fit = fit_law(X, y, "power")
  (slope, intercept), cov = np.polyfit(np.log(X), np.log(y), 1, cov="unscaled")
  residual = np.log(y) - intercept - slope * np.log(X)
  assert fit.status == "ok"
  np.testing.assert_allclose([fit.value("beta"), np.log(fit.value("alpha"))], [-slope, intercept], rtol=1e-9)
  np.testing.assert_allclose(fit.objective, np.sum(residual**2), rtol=1e-9)
  std_error = np.sqrt(cov[0, 0] * np.sum(residual**2) / 10)
  half = stats.t.ppf(0.975, 10) * std_error  # the profile of a linear law is the t interval
  beta = fit.params["beta"]
  np.testing.assert_allclose(
    [beta.std_error, beta.ci_high - beta.estimate, beta.estimate - beta.ci_low], [std_error, half, half], rtol=1e-3
  )
  assert fit.method == "profile_independent_points"


@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(5.0, 0.3, 0.7), (0.07, 0.1, 0.98), (2e4, 1.2, 1e-3), (3e-7, 0.5, 4e-11)])
def test_power_constant_recovers_planted_parameters(alpha, beta, gamma):
  fit = fit_law(X, alpha * X**-beta + gamma, "power_constant")
  assert fit.status == "ok"
  np.testing.assert_allclose([fit.value(n) for n in ("alpha", "beta", "gamma")], [alpha, beta, gamma], rtol=1e-6)
  assert abs(fit.extrapolation["relative_error"]) < 1e-8


@pytest.mark.parametrize("seed", range(4))
def test_power_constant_is_the_optimum_that_scipy_finds(seed):
  y = (5.0 * X**-0.3 + 0.7) * noise(seed, 0.003)
  problem = Problem.of(LAWS["power_constant"], X, y)
  found = solve(problem)
  bounds = ([-np.inf, 0, 0], [np.inf, 10, np.inf])
  judge = min(
    (
      optimize.least_squares(
        lambda t: 1e3 * problem.evaluate(t[None])[0][0], [b * 15, b, 0.5], bounds=bounds, xtol=1e-15, ftol=1e-15, gtol=1e-15
      )
      for b in (0.05, 0.2, 0.5, 1.0)
    ),
    key=lambda r: r.cost,
  )
  assert found.rss <= 2e-6 * judge.cost * (1 + 1e-9)
  np.testing.assert_allclose(found.theta, judge.x, rtol=1e-3)


def test_profile_ends_are_where_the_f_test_puts_them():
  y = (5.0 * X**-0.3 + 0.7) * noise(3, 0.002)
  fit = fit_law(X, y, "power_constant")
  log_y = np.log(y)
  limit = fit.objective * (1 + stats.f.ppf(0.95, 1, 9) / 9)
  for end in (fit.params["beta"].ci_low, fit.params["beta"].ci_high):

    def residual(p, beta=end):
      return 1e3 * (np.log(np.exp(p[0]) * X**-beta + p[1]) - log_y)

    held = optimize.least_squares(
      residual, [15 * end, 0.6], bounds=([-np.inf, 0], np.inf), x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    np.testing.assert_allclose(2e-6 * held.cost, limit, rtol=3e-3)


def test_t_interval_over_seeds_by_hand():
  # Exact curves with exponents .10, .11, .15: mean .12, sd sqrt(.0007), 95% t with df 2 is 4.302653.
  betas = (0.10, 0.11, 0.15)
  x, seed = np.tile(X, 3), np.repeat([5, 6, 7], len(X))
  beta = fit_law(x, np.concatenate([2.0 * X**-b for b in betas]), "power", seed).params["beta"]
  std_error = np.sqrt(0.0007) / np.sqrt(3)
  np.testing.assert_allclose(beta.estimate, 0.12, rtol=1e-9)
  np.testing.assert_allclose(beta.std_error, std_error, rtol=1e-8)
  np.testing.assert_allclose([beta.ci_low, beta.ci_high], [0.12 - 4.302653 * std_error, 0.12 + 4.302653 * std_error], rtol=1e-6)


def test_seeds_give_the_method_and_the_interval_holds_the_truth():
  x, seed = np.tile(X, 3), np.repeat([0, 1, 2], len(X))
  fit = fit_law(x, (5.0 * x**-0.3 + 0.7) * noise(1, 0.001, len(x)), "power_constant", seed)
  assert (fit.method, fit.num_seeds, fit.num_points, fit.status) == ("per_seed_t", 3, 36, "ok")
  assert fit.params["beta"].ci_low < 0.3 < fit.params["beta"].ci_high
  assert fit.params["gamma"].ci_low < 0.7 < fit.params["gamma"].ci_high


@pytest.mark.parametrize("y", [3.0 * X**-0.1, 3.0 * X**-0.1 - 0.2])
def test_no_constant_or_a_negative_one_sits_on_its_bound(y):
  fit = fit_law(X, y, "power_constant")
  power = fit_law(X, y, "power")
  assert fit.status == "on_bound" and "gamma = 0" in fit.note
  assert fit.value("gamma") == 0.0
  np.testing.assert_allclose(fit.value("beta"), power.value("beta"), rtol=1e-6)


def test_a_constant_hidden_by_noise_is_not_identifiable():
  # The published data law over its range, noise a tenth of the curve's range.
  x = np.geomspace(5e6, 5e9, 12)
  y = 0.07 * x**-0.1 + 0.98
  fit = fit_law(x, y + 0.1 * np.ptp(y) * np.random.default_rng(0).standard_normal(12), "power_constant")
  assert fit.status == "not_identifiable" and "beta" in fit.note
  assert fit.params["gamma"].ci_low is None


def test_two_points_more_than_parameters_or_a_wide_interval():
  fit = fit_law(X[:4], (5.0 * X[:4] ** -0.3 + 0.7) * noise(0, 0.003, 4), "power_constant")  # one degree of freedom
  assert fit.status == "not_identifiable"
  assert fit.extrapolation is None


@pytest.mark.parametrize(
  ("x", "y", "reason"),
  [
    (X, np.where(np.arange(12) == 3, np.nan, X**-0.1), "not finite"),
    (X, np.where(np.arange(12) == 3, 0.0, X**-0.1), "y must be positive"),
    (X - X[0], X**-0.1, "x must be positive"),
    (X, np.full(12, 0.5), "constant"),
    (X, X**0.1, "does not fall"),
    (X[:3], X[:3] ** -0.1, "needs at least 4"),
    (np.repeat(X[:2], 6), np.repeat([0.6, 0.5], 6), "2 distinct x"),
    (X[:0], X[:0], "0 distinct x"),
  ],
)
def test_refusals_say_why(x, y, reason):
  fit = fit_law(x, y, "power_constant")
  assert fit.refused and reason in fit.status
  assert fit.params == {} and np.isnan(fit.value("beta"))


def test_window_and_extrapolation():
  y = np.where(X < 2**20, 9.0, 3.0 * X**-0.1)
  fit = fit_law(X, y, "power", x_min=2.0**20)
  np.testing.assert_allclose(fit.value("beta"), 0.1, rtol=1e-9)
  assert (fit.x_min, fit.num_points) == (2.0**20, 8)
  assert fit.extrapolation["fit_x_max"] == 2.0**25 and fit.extrapolation["num_predicted"] == 2
  bent = fit_law(X, 3.0 * X**-0.1 + 0.3, "power")
  assert bent.extrapolation["relative_error"] < -0.005  # a power law without the constant predicts too low


def test_wukong_exponent():
  if not _WUKONG.exists():
    pytest.skip(f"{_WUKONG} is not here")
  lines = [line.split(",") for line in _WUKONG.read_text().splitlines() if line.startswith("Wukong,")]
  gflop, loss = (np.array([float(line[i]) for line in lines]) for i in (-5, -3))
  fit = fit_law(gflop, 100 + loss, "power")
  np.testing.assert_allclose(fit.value("beta"), 0.000707, atol=5e-7)
  np.testing.assert_allclose(fit.value("alpha"), 99.560, atol=5e-4)


# --- The program ------------------------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: list[str]) -> Path:
  path.write_text("\n".join(rows) + "\n")
  return path


def test_program_fits_each_group(tmp_path, capsys):
  rows = ["model,n,loss,seed"]
  for model, beta in (("a", 0.1), ("b", 0.2)):
    rows += [f"{model},{x},{2.0 * x**-beta * s},{i}" for i, s in enumerate((0.99, 1.01)) for x in X]
  out = tmp_path / "fits.json"
  config = program.FitConfig(str(write_csv(tmp_path / "p.csv", rows)), "n", "loss", str(out), law="power", group="model", seed="seed")
  program.main(config)
  saved = record.read_json(out)
  assert {"schema_version", "command", "hardware", "software"} <= set(saved)
  assert [f["group"] for f in saved["fits"]] == ["a", "b"]
  np.testing.assert_allclose([f["params"]["beta"]["estimate"] for f in saved["fits"]], [0.1, 0.2], rtol=1e-9)
  assert all(set(f["params"]["alpha"]) == {"estimate", "std_error", "ci_low", "ci_high"} for f in saved["fits"])
  assert "per_seed_t" in capsys.readouterr().out


def test_program_says_that_points_are_taken_as_independent(tmp_path, capsys):
  rows = ["x,y", *(f"{x},{2.0 * x**-0.1 * e}" for x, e in zip(X, noise(0, 0.01), strict=True))]
  program.main(program.FitConfig(str(write_csv(tmp_path / "p.csv", rows)), "x", "y", str(tmp_path / "o.json"), law="power"))
  assert "treated as independent" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("rows", "change", "message"),
  [
    (["x,y"], {}, "no points"),
    ([], {}, "empty"),
    (["x,z", "1,2"], {}, "--y=y: no such column in .*it has x, z"),
    (["x,y", "1,2", "3,four"], {}, r":3: column y holds 'four', a number"),
    (["x,y", "1,2,3"], {}, ":2: 3 columns, the header has 2"),
    (["x,y", *(f"{x},{x**0.1}" for x in X)], {}, "group all: refused: y does not fall"),
    (["x,y", *(f"{x}," for x in X)], {}, "12 of 12 values of y are not finite"),
    (["x,y", "1,2"], {"seed": "s"}, "--seed=s: no such column"),
  ],
)
def test_program_refuses_bad_input_in_one_line(tmp_path, rows, change, message):
  path = tmp_path / "p.csv"
  path.write_text("\n".join(rows))
  with pytest.raises(flags.UserError, match=message) as error:
    program.main(program.FitConfig(str(path), "x", "y", str(tmp_path / "o.json"), **change))
  assert "\n" not in str(error.value)


def test_command_line(tmp_path):
  path = write_csv(tmp_path / "p.csv", ["x,y", *(f"{x},{5.0 * x**-0.3 + 0.7}" for x in X)])
  words = [sys.executable, "-m", "analysis.fit", f"--input={path}", "--x=x", "--y=y", f"--output={tmp_path / 'o.json'}"]
  done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1])
  assert done.returncode == 0, done.stderr
  np.testing.assert_allclose(json.loads((tmp_path / "o.json").read_text())["fits"][0]["params"]["gamma"]["estimate"], 0.7, rtol=1e-6)
  bad = subprocess.run([*words, "--law=cubic"], capture_output=True, text=True, cwd=Path(__file__).parents[1])
  assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and "--law=cubic" in bad.stderr


def test_the_input_is_never_written_over(tmp_path):
  path = tmp_path / "points.csv"
  path.write_text("x,y\n" + "".join(f"{x},{x**-0.3}\n" for x in range(1, 9)))
  before = path.read_bytes()
  for output, message in ((path, "is the input"), (tmp_path, "is a directory")):
    with pytest.raises(flags.UserError, match=message):
      program.main(program.FitConfig(input=str(path), x="x", y="y", output=str(output)))
  assert path.read_bytes() == before
