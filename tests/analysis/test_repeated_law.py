"""The law of repeated data: by hand, against scipy's fit, in `analysis.fit`, and points that are outside it."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from analysis import fit as program
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS
from analysis.fitting.repeated import rises
from dlrm_jax.common import flags

LAW = LAWS["repeated"]
TRUTH = {"B": 30.0, "E": 0.3, "beta": 0.35, "R_star": 5.0}
UNIQUE, EPOCHS = (a.ravel() for a in np.meshgrid(np.geomspace(1e4, 1e6, 5), [1.0, 2.0, 4.0, 8.0, 16.0]))
X = np.column_stack([UNIQUE, EPOCHS])


def test_values_by_hand():
  """At R_star = 2, 3 epochs are D = U (1 + 2 (1 - 1/e)) = 2.2642 U; half an epoch is U/2; many are U (1 + R_star)."""
  got = LAW.predict({"B": 8.0, "E": 0.5, "beta": 1.0, "R_star": 2.0}, np.array([[4.0, 1.0], [4.0, 3.0], [4.0, 0.5], [4.0, 1e3]]))
  np.testing.assert_allclose(got, [2.5, 0.5 + 2 / 2.2642411, 4.5, 0.5 + 2 / 3], rtol=1e-7)


def test_limits_of_r_star():
  """At the low end of its domain repeated examples teach nothing, at the high end up to 16 epochs are as good as new examples."""
  low, high = ({**TRUTH, "R_star": end} for end in (0.02, 1000.0))
  alone = {"alpha": TRUTH["B"], "beta": TRUTH["beta"], "gamma": TRUTH["E"]}
  np.testing.assert_allclose(LAW.predict(low, X), LAWS["power_constant"].predict(alone, UNIQUE), rtol=0.008)
  np.testing.assert_allclose(LAW.predict(high, X), LAWS["power_constant"].predict(alone, UNIQUE * EPOCHS), rtol=0.003)


def test_fit_against_scipy():
  y = LAW.predict(TRUTH, X) * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(X)))
  fit = fit_law(X, y, "repeated", points="independent")

  def residuals(p: np.ndarray) -> np.ndarray:
    effective = UNIQUE + UNIQUE * p[3] * (1 - np.exp(-(EPOCHS - 1) / p[3]))
    return np.log(p[0] * 100 * effective ** -p[2] + p[1]) - np.log(y)

  found = optimize.least_squares(residuals, [0.4, 0.2, 0.4, 3.0], xtol=1e-15, ftol=1e-15, gtol=1e-15)
  assert fit.status == "ok" and fit.objective == pytest.approx(2 * found.cost, rel=1e-9)
  got = [fit.value("B") / 100, fit.value("E"), fit.value("beta"), fit.value("R_star")]
  np.testing.assert_allclose(got, found.x, rtol=1e-5)
  cov = np.linalg.inv(found.jac.T @ found.jac) * 2 * found.cost / (len(y) - 4)
  errors = [fit.params[name].std_error for name in ("E", "beta", "R_star")]
  np.testing.assert_allclose(errors, np.sqrt(np.diagonal(cov))[1:], rtol=1e-3)
  for name, value in TRUTH.items():
    assert fit.params[name].ci_low < value < fit.params[name].ci_high, name


def test_repeats_that_count_as_new_put_r_star_at_its_edge():
  y = LAWS["power_constant"].predict({"alpha": 30.0, "beta": 0.35, "gamma": 0.3}, UNIQUE * EPOCHS)
  fit = fit_law(X, y * np.exp(0.002 * np.random.default_rng(1).standard_normal(len(X))), "repeated", points="independent")
  assert fit.params["R_star"].ci_low > 50 and fit.params["R_star"].ci_high == pytest.approx(1000)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_loss_that_rises_is_refused(seeds: int):
  rng = np.random.default_rng(2)
  x, y = np.tile(X, (seeds, 1)), np.tile(LAW.predict(TRUTH, X), seeds)
  y = y * np.exp(0.003 * rng.standard_normal(len(y)))
  assert rises(x, y) == ""
  at = (x[:, 0] == x[:, 0].max()) & (x[:, 1] == 16)
  last = np.exp(np.log(y[at]).mean())
  y[at] *= 1.5
  fit = fit_law(x, y, "repeated", np.repeat(np.arange(seeds), len(X)), points="independent")
  assert fit.refused and fit.reason.startswith("the loss rises when 1e+06 unique examples are repeated, from ")
  assert fit.reason.endswith(f" to {1.5 * last:.4g} after 16 epochs; this law only falls")
  if seeds == 3:  # a fall that turns by less than seeds scatter is none, and one that turns by more is seen though it ends below the first
    y[at] *= np.exp([0.003, -0.003, 0.0]) / 1.5
    assert rises(x, y) == ""
    y[at] *= 1.05
    assert y[at].max() < y[(x[:, 0] == x[:, 0].max()) & (x[:, 1] == 1)].min() and rises(x, y) != ""


def test_points_within_the_first_epoch_say_nothing_of_a_rise():
  x = np.array([[100.0, 0.25], [100.0, 0.5], [200.0, 1.0], [400.0, 1.0]])
  assert rises(x, np.array([1.0, 2.0, 1.5, 1.0])) == ""


def test_the_program_fits_unique_examples_and_epochs(tmp_path: Path, refusal):
  lines = ["unique,epochs,loss,seed"]
  rng = np.random.default_rng(3)
  lines += [f"{u},{e},{v},{s}" for s in range(3) for (u, e), v in zip(X, LAW.predict(TRUTH, X) * np.exp(0.003 * rng.standard_normal(25)))]
  (tmp_path / "points.csv").write_text("\n".join(lines))
  words = ["fit", f"--input={tmp_path}/points.csv", "--y=loss", f"--output={tmp_path}/out.json", "--law=repeated"]
  program.main(flags.parse([*words, "--x=unique,epochs", "--seed=seed"], program.FitConfig))
  (fit,) = json.loads((tmp_path / "out.json").read_text())["fits"]
  assert fit["method"] == "gls" and fit["params"]["R_star"]["ci_low"] < 5 < fit["params"]["R_star"]["ci_high"] < 6
  assert "2 columns for --law=repeated" in refusal(program.main, program.FitConfig, {}, [*words[1:], "--x=unique"])
