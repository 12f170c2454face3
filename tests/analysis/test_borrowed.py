"""Borrowed parameters, against scipy and closed forms: fixed, tied, with a prior; burn-in; what `analysis.fit` shows and refuses."""

import numpy as np
import pytest
from scipy import optimize, stats

from analysis import fit as program
from analysis.fitting.borrowed import Borrowed, parsed
from analysis.fitting.evidence import Scatter
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS, joint, law_of
from analysis.fitting.noise import Noise
from dlrm_jax.common import flags, record

TRUE = {"A": 400.0, "alpha": 0.34, "B": 900.0, "beta": 0.36, "E": 1.7}
X = 2.0 ** np.arange(16, 28)


def chinchilla(t: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Of log A, alpha, log B, beta, E."""
  return np.exp(t[0] - t[1] * np.log(x[:, 0])) + np.exp(t[2] - t[3] * np.log(x[:, 1])) + t[4]


def family(sizes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """A family of a few sizes, with noise of 0.5%."""
  n, d = np.meshgrid(np.geomspace(1e6, 1e9, sizes), np.geomspace(1e7, 1e10, 5), indexing="ij")
  x = np.column_stack([n.ravel(), d.ravel()])
  true = np.array([np.log(400.0), 0.34, np.log(900.0), 0.36, 1.7])
  return x, chinchilla(true, x) * np.exp(0.005 * np.random.default_rng(seed).standard_normal(len(x)))


def judged(residuals, start, points: int, parameters: float) -> tuple[np.ndarray, np.ndarray, float]:
  """The optimum by scipy, standard errors to first order, and the cost."""
  found = optimize.least_squares(residuals, start, x_scale=np.abs(start), xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=5000)
  cov = np.linalg.inv(found.jac.T @ found.jac) * 2 * found.cost / (points - parameters)
  return found.x, np.sqrt(np.diagonal(cov)), 2 * found.cost


def test_fixed_parameters_leave_the_others_smaller_errors():
  x, y = family(3)
  plain = fit_law(x, y, "chinchilla", points="independent")
  fit = fit_law(x, y, "chinchilla", points="independent", borrowed=Borrowed(fixed={"alpha": 0.34, "E": 1.7}))
  best, errors, cost = judged(
    lambda t: np.log(chinchilla(np.array([t[0], 0.34, t[1], t[2], 1.7]), x) / y), [np.log(400.0), np.log(900.0), 0.36], len(y), 3
  )
  np.testing.assert_allclose(fit.objective, cost, rtol=1e-9)
  for name, value, error in zip(("A", "B", "beta"), best, errors, strict=True):
    value, error = (np.exp(value), np.exp(value) * error) if name != "beta" else (value, error)
    np.testing.assert_allclose(fit.params[name].estimate, value, rtol=1e-5)
    np.testing.assert_allclose(fit.params[name].std_error, error, rtol=1e-4)
    assert fit.params[name].std_error < 0.8 * plain.params[name].std_error
  assert (fit.params["alpha"].estimate, fit.params["E"].estimate) == (0.34, 1.7)
  assert fit.params["alpha"].std_error is None and fit.borrowed == {"alpha": "fixed", "E": "fixed"}
  np.testing.assert_allclose(fit.predict(x), y, rtol=0.02)


def test_a_family_of_two_sizes_is_fitted_with_borrowed_parameters():
  """Fewer points than parameters: four points, two free."""
  x, y = family(2)
  x, y = x[[0, 4, 5, 9]], y[[0, 4, 5, 9]]
  assert "distinct x" in fit_law(x, y, "chinchilla", points="independent").status
  fit = fit_law(x, y, "chinchilla", points="independent", borrowed=Borrowed(fixed={"alpha": 0.34, "beta": 0.36, "E": 1.7}))
  assert fit.status == "ok"
  for name in ("A", "B"):
    assert fit.params[name].ci_low < TRUE[name] < fit.params[name].ci_high


def test_a_tie_is_the_fit_of_the_tied_law():
  x, y = family(4)
  fit = fit_law(x, y, "chinchilla", points="independent", borrowed=Borrowed(tied=(("alpha", "beta"),)))
  best, errors, cost = judged(
    lambda t: np.log(chinchilla(np.array([t[0], t[1], t[2], t[1], t[3]]), x) / y), [6.0, 0.35, 6.8, 1.7], len(y), 4
  )
  np.testing.assert_allclose(fit.objective, cost, rtol=1e-9)
  np.testing.assert_allclose([fit.params["alpha"].estimate, fit.params["alpha"].std_error], [best[1], errors[1]], rtol=1e-4)
  assert fit.params["alpha"] == fit.params["beta"] and fit.borrowed == {"beta": "tied to alpha"}


def test_a_prior_of_a_linear_law_is_the_closed_form_of_ridge_regression():
  """Law power is linear in log alpha and beta. Sigma and the determined parameters are iterated here by hand."""
  y = 3.0 * X**-0.1 * np.exp(0.05 * np.random.default_rng(0).standard_normal(len(X)))
  columns, mean, deviation = np.column_stack([np.ones(len(X)), -np.log(X)]), 0.13, 0.004
  precision = np.diag([0.0, deviation**-2])
  sigma = 0.05
  for _ in range(200):
    inverse = np.linalg.inv(columns.T @ columns / sigma**2 + precision)
    best = inverse @ (columns.T @ np.log(y) / sigma**2 + precision @ [0.0, mean])
    determined = np.trace(inverse @ columns.T @ columns) / sigma**2
    sigma = np.sqrt(np.sum((np.log(y) - columns @ best) ** 2) / (len(X) - determined))
  fit = fit_law(X, y, "power", points="independent", borrowed=Borrowed(priors={"beta": (mean, deviation)}))
  error = np.sqrt(inverse[1, 1])
  half = stats.t.ppf(0.975, len(X) - determined) * error
  beta = fit.params["beta"]
  np.testing.assert_allclose([beta.estimate, beta.std_error], [best[1], error], rtol=1e-6)
  np.testing.assert_allclose([beta.ci_low, beta.ci_high], [best[1] - half, best[1] + half], rtol=1e-4)
  np.testing.assert_allclose(np.log(fit.params["alpha"].estimate), best[0], rtol=1e-6)
  assert fit.borrowed == {"beta": "prior 0.13 +- 0.004"}
  plain = fit_law(X, y, "power", points="independent").params["beta"]
  assert error < 0.85 * plain.std_error and min(plain.estimate, mean) < beta.estimate < max(plain.estimate, mean)


def test_a_prior_with_the_noise_of_passes_is_generalised_ridge_regression():
  u = np.log(X)
  known = Noise(4e-6, 9e-6, 1e-6, 2.0, 0.0, float(u.mean()), ())
  known = Noise(4e-6, 9e-6, 1e-6, 2.0, 0.0, float(u.mean()), (Scatter(u, 5000 * known.covariance(u), 5000),))
  root = np.linalg.cholesky(known.covariance(u))
  log_y = np.log(3.0) - 0.1 * u + np.random.default_rng(1).standard_normal((3, len(u))) @ root.T
  columns, precision = np.column_stack([np.ones(len(u)), -u]), np.diag([0.0, 5e-4**-2])
  weight = np.linalg.inv(known.covariance(u) / 3)
  inverse = np.linalg.inv(columns.T @ weight @ columns + precision)
  best = inverse @ (columns.T @ weight @ log_y.mean(axis=0) + precision @ [0.0, 0.101])
  prior = Borrowed(priors={"beta": (0.101, 5e-4)})
  fit = fit_law(np.tile(X, 3), np.exp(log_y.ravel()), "power", np.repeat([0, 1, 2], len(u)), noise=known, borrowed=prior)
  np.testing.assert_allclose(fit.params["beta"].estimate, best[1], rtol=1e-8)
  np.testing.assert_allclose(fit.params["beta"].std_error, np.sqrt(inverse[1, 1]), rtol=1e-2)


def test_the_prior_of_a_scale_is_one_of_its_logarithm():
  """Against scipy, with sigma as the fit found it."""
  x, y = family(3)
  borrowed = Borrowed(fixed={"E": 1.7}, priors={"A": (500.0, 50.0)})
  fit = fit_law(x, y, "chinchilla", points="independent", borrowed=borrowed)
  names = ("A", "alpha", "B", "beta")
  theta = np.array([np.log(v) if n in "AB" else v for n, v in ((n, fit.params[n].estimate) for n in names)])
  rest = np.log(chinchilla(np.array([*theta, 1.7]), x) / y)

  def residuals(t: np.ndarray, sigma: float) -> np.ndarray:
    return np.append(np.log(chinchilla(np.array([*t, 1.7]), x) / y), (t[0] - np.log(500.0)) * sigma / 0.1)

  sigma = 0.005
  for _ in range(100):
    found = optimize.least_squares(residuals, theta, args=(sigma,), x_scale=np.abs(theta), xtol=1e-15, ftol=1e-15, gtol=1e-15)
    points = found.jac[:-1]
    determined = np.trace(np.linalg.solve(found.jac.T @ found.jac, points.T @ points))
    sigma = np.sqrt(np.sum(found.fun[:-1] ** 2) / (len(y) - determined))
  np.testing.assert_allclose(theta, found.x, rtol=1e-5)
  np.testing.assert_allclose(np.sum(rest**2), np.sum(found.fun[:-1] ** 2), rtol=1e-6)


@pytest.mark.parametrize("name", [*LAWS, "additive", "nested", "smooth_max"])
def test_every_parameter_of_every_law_can_be_fixed(name):
  """Fixed at its true value, without noise, it gives the others."""
  rng = np.random.default_rng(0)
  of_one = {
    "power": {"alpha": 5.0, "beta": 0.3},
    "power_constant": {"alpha": 5.0, "beta": 0.3, "gamma": 0.7},
    "broken_power": {"alpha": 5.0, "beta": 0.1, "gamma": 0.5, "delta": 0.3, "x_break": 2.0**21, "width": 0.5},
    "m4": {"span": 1.0, "beta": 0.4, "gamma": 0.5, "delta": 0.8, "x_scale": 2.0**17},
  }
  if name in of_one:
    law, values, x = LAWS[name], of_one[name], 2.0 ** np.linspace(14, 30, 20)[:, None]
  else:
    law = law_of(name, ("rows", "examples"))
    x = np.exp(rng.uniform(np.log([1e3, 1e6]), np.log([1e6, 1e9]), (40, 2)))
    values = TRUE | {"A_rows": 2.0, "A_examples": 40.0, "alpha_rows": 0.15, "alpha_examples": 0.25, "p": 3.0}
    if name == "repeated":
      x, values = np.column_stack([x[:, 0], np.tile([1.0, 2.0, 4.0, 8.0], 10)]), {"B": 30.0, "E": 0.3, "beta": 0.35, "R_star": 5.0}
    values = {n: values[n] for n in law.names} | ({"E": 0.3} if "A_rows" in law.names else {})
  y = law.predict(values, x)
  for fixed in law.names[:: 3 if law.curved else 1]:
    fit = fit_law(x, y, law, points="independent", borrowed=Borrowed(fixed={fixed: values[fixed]}))
    assert set(fit.params) == set(law.names)
    np.testing.assert_allclose(fit.predict(x), y, rtol=1e-6, err_msg=fixed)
    np.testing.assert_allclose([fit.params[n].estimate for n in law.names], [values[n] for n in law.names], rtol=2e-3, err_msg=fixed)


def test_borrowing_makes_the_joint_laws_without_a_constant_and_of_one_exponent():
  rng = np.random.default_rng(0)
  x = np.exp(rng.uniform(np.log([1e3, 1e6]), np.log([1e6, 1e9]), (40, 2)))
  columns = ("rows", "examples")
  y = 2.0 * x[:, 0] ** -0.2 + 40 * x[:, 1] ** -0.25
  y *= np.exp(0.01 * rng.standard_normal(40))
  for shape, name in (("sum", "additive"), ("nested", "nested"), ("fitted", "smooth_max")):
    for borrowed, tied, constant in (
      (Borrowed({"E": 0.0}), False, False),
      (Borrowed(tied=(("alpha_rows", "alpha_examples"),)), True, True),
    ):
      fit = fit_law(x, y, law_of(name, columns), points="independent", borrowed=borrowed)
      want = fit_law(x, y, joint(columns, shape, tied, constant), points="independent")
      np.testing.assert_allclose(fit.objective, want.objective, rtol=1e-8)
      mine, other = (f.params["alpha_rows" if f is fit or not tied else "alpha"] for f in (fit, want))
      np.testing.assert_allclose([mine.estimate, mine.std_error], [other.estimate, other.std_error], rtol=1e-4)
      np.testing.assert_allclose([mine.ci_low, mine.ci_high], [other.ci_low, other.ci_high], rtol=5e-3)


def test_borrowed_values_that_the_points_contradict_are_reported():
  """A constant and scales of another family are called a misfit where they are far off, and noted where they are a little off."""
  x, y = family(6)
  right = {"A": 400.0, "B": 900.0, "alpha": 0.34}
  assert "contradict" not in fit_law(x, y, "chinchilla", points="independent", borrowed=Borrowed(right)).note
  near = fit_law(x, y, "chinchilla", points="independent", borrowed=Borrowed(right | {"A": 412.0, "B": 890.0}))
  assert near.status == "ok" and "with A and B and alpha free it would be" in near.note
  far = fit_law(x, y, "chinchilla", points="independent", borrowed=Borrowed(right | {"A": 600.0}))
  assert far.status == "misfit" and far.reason.startswith("the law misses the points")
  prior = fit_law(x, y, "chinchilla", points="independent", borrowed=Borrowed(priors={"E": (1.2, 0.1)}))
  assert "E is 5 standard deviations above the mean of its prior" in prior.note


@pytest.mark.parametrize(("mean", "status", "size"), [(0.6, "misfit", 2.6), (0.98, "ok", 0.25), (1.0, "ok", None)])
def test_points_that_contradict_a_narrow_prior_are_reported(mean, status, size):
  """The estimate is at the prior's mean, so that its distance from there tells nothing."""
  x = np.geomspace(1e3, 1e6, 20)
  y = (1 + 10 * x**-0.3) * np.exp(np.random.default_rng(0).normal(0, 0.003, 20))
  fit = fit_law(x, y, "power_constant", points="independent", borrowed=Borrowed(priors={"gamma": (mean, 0.001)}))
  assert abs(fit.params["gamma"].estimate - mean) < 0.002 and fit.status == status
  assert (f"with gamma free it would be {size:g}% of the loss closer" if size else "") in fit.note
  assert bool(fit.note) == bool(size)


def test_a_fit_whose_free_parameters_are_all_on_a_bound_has_a_result():
  x = np.geomspace(1e3, 1e6, 12)
  fit = fit_law(x, 1 + 10 * x**-0.3, "power_constant", points="independent", borrowed=Borrowed({"alpha": 0.3, "gamma": 1.0}))
  assert fit.params["beta"].estimate == 0 and fit.status == "misfit" and fit.condition_number == 1


def test_names_of_columns_with_blanks_and_signs_have_priors():
  law = law_of("additive", ("a b", "c~d"))
  got = parsed(law, (), (), ("alpha_a b ~ 0.3+-0.1", "alpha_c~d~0.2 ± 0.05")).priors
  assert got == {"alpha_a b": (0.3, 0.1), "alpha_c~d": (0.2, 0.05)}


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (("gamma=1", "", ""), "--fix=gamma=1: law chinchilla has no parameter gamma, it has A, B, E, alpha, beta"),
    (("alpha", "", ""), "--fix=alpha: must be a parameter and its value"),
    (("alpha=", "", ""), "--fix=alpha=: nothing is not a finite number"),
    (("alpha=0.3,alpha=0.4", "", ""), "--fix=alpha=0.4: alpha is fixed twice"),
    (("alpha=-1", "", ""), "--fix=alpha=-1: alpha must be from 0 to 10"),
    (("A=0", "", ""), "--fix=A=0: A must be above 0"),
    (("A=1,B=1,E=1,alpha=1,beta=1", "", ""), "no parameter of law chinchilla is left to fit"),
    (("", "alpha", ""), "--tie=alpha: must be two parameters or more"),
    (("", "alpha:A", ""), "--tie=alpha:A: must be parameters of one kind"),
    (("", "alpha:alpha", ""), "--tie=alpha:alpha: alpha is tied already"),
    (("alpha=1", "alpha:beta", ""), "--tie=alpha:beta: alpha is fixed already"),
    (("", "", "alpha~0.3"), "--prior=alpha~0.3: must be a parameter, a mean and a standard deviation"),
    (("", "", "alpha~0.3+-0"), "--prior=alpha~0.3.-0: the standard deviation must be above 0"),
    (("", "", "alpha~0.3+-1e-20"), "must be 1e-09 of the mean or more; --fix holds alpha at a value"),
    (("", "", "alpha~x±1"), "--prior=alpha~x±1: x is not a finite number"),
    (("", "", "delta~1±1"), "--prior=delta~1±1: law chinchilla has no parameter delta"),
    (("alpha=1", "", "alpha~0.3+-0.1"), "alpha is fixed already"),
    (("", "alpha:beta", "alpha~0.3+-0.1,beta~0.3+-0.1"), "beta has a prior already"),
  ],
)
def test_what_cannot_be_borrowed_is_refused_in_one_line(given, message):
  with pytest.raises(flags.UserError, match=message) as error:
    parsed(LAWS["chinchilla"], *(tuple(filter(None, text.split(","))) for text in given))
  assert "\n" not in str(error.value)


def test_both_signs_of_a_prior_are_read():
  for text in ("alpha~0.3+-0.1", "alpha~0.3±0.1", "alpha ~ 0.3 +- 0.1", "alpha~3e-1+/-1e-1"):
    assert parsed(LAWS["chinchilla"], (), (), (text,)).priors == {"alpha": (0.3, 0.1)}


def write(path, x: np.ndarray, y: np.ndarray) -> str:
  path.write_text("\n".join(["n,d,y", *(f"{a},{b},{c}" for (a, b), c in zip(x, y, strict=True))]))
  return str(path)


def test_the_program_shows_what_is_borrowed(tmp_path, capsys):
  x, y = family(3)
  out = tmp_path / "o.json"
  given = {"fix": ("E=1.7",), "tie": ("alpha:beta",), "prior": ("alpha~0.35+-0.02",)}
  program.main(program.FitConfig(write(tmp_path / "p.csv", x, y), ("n", "d"), "y", str(out), "chinchilla", **given))
  (fit,) = record.read_json(out)["fits"]
  assert fit["borrowed"] == {"E": "fixed", "beta": "tied to alpha", "alpha": "prior 0.35 +- 0.02"}
  assert fit["params"]["E"] == {"estimate": 1.7, "std_error": None, "ci_low": None, "ci_high": None}
  shown = " ".join(capsys.readouterr().out.split())
  assert "fixed" in shown and "tied to" in shown and "prior" in shown
  assert f"{fit['extrapolation']['mean_abs_relative_error']:.2%}" in shown
  with pytest.raises(flags.UserError, match=r"E is fixed at 9, above every loss"):
    program.main(program.FitConfig(str(tmp_path / "p.csv"), ("n", "d"), "y", str(out), "chinchilla", fix=("E=9",)))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"prior": ("alpha~1+-1",), "loss": "huber"}, "--prior=.*: must be left out with --loss=huber"),
    ({"prior": ("alpha~1+-1",), "bootstrap_draws": 200}, "--prior=.*: must be left out"),
    ({"fix": ("alpha=1",), "budget_flops": 1e20}, "--budget_flops=1e.20: must be left out with --fix"),
    ({"burn_in": 1.0}, "--burn_in=1.0: must be below 1"),
    ({"fix": ("z=1",)}, "--fix=z=1: law chinchilla has no parameter z"),
  ],
)
def test_choices_that_do_not_go_together(tmp_path, change, message):
  with pytest.raises(flags.UserError, match=message):
    program.FitConfig("p.csv", ("n", "d"), "y", "o.json", "chinchilla", **change)


def test_burn_in_leaves_out_the_start_of_each_run(tmp_path, capsys):
  """Runs of two lengths in each group: the points below a tenth of the run's own largest x are left out."""
  rows = ["x,y,g,s"]
  lengths = {"0": 1e6, "1": 1e7}
  for seed, last in lengths.items():
    for x in np.linspace(0.02, 1.0, 50) * last:
      early = 1.5 if x < 0.1 * last * (1 - 1e-9) else 1.0
      rows.append(f"{float(x)!r},{early * 2.0 * x**-0.1},a,{seed}")
  (tmp_path / "p.csv").write_text("\n".join(rows))
  config = program.FitConfig(
    str(tmp_path / "p.csv"), ("x",), "y", str(tmp_path / "o.json"), "power", seed="s", points="independent", burn_in=0.1
  )
  program.main(config)
  (fit,) = record.read_json(tmp_path / "o.json")["fits"]
  assert (fit["num_points"], fit["x_min"]) == (92, 1e5)
  np.testing.assert_allclose(fit["params"]["beta"]["estimate"], 0.1, rtol=1e-9)
  assert "8 points left out: x is below 0.1 of the largest x of their run" in " ".join(capsys.readouterr().out.split())
