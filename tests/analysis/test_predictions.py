"""Predictions of larger runs: how laws are weighted, how errors grow with the distance, and that 95% intervals hold the closed form."""

from pathlib import Path

import numpy as np
import pytest
from closed_sweep import KINDS, excess, write_closed

from analysis import publish
from analysis.fitting.laws import joint
from analysis.load import load
from analysis.questions import ensemble
from analysis.questions.additive import Model, models
from analysis.questions.advice import advise
from analysis.questions.origins import Origin, Points, origins
from analysis.questions.tuning import tuned

STUDY = Path(publish.PublishConfig().study)
EXPONENTS = (10 / 9, 1.25)
TRUTH = {"s=1.111": 0.2036, "s=1.25": 0.3685}  # by how much ten times 2**24 examples lower the closed form


def origin(errors: list[list[float]], noise: float = 0.0, fitted_to: float = 100.0, along: str = "examples") -> Origin:
  """Forecasts of two laws at twice and four times what was fitted."""
  e = np.array(errors)
  at = fitted_to * 2.0 ** np.arange(1, e.shape[1] + 1)
  return Origin(along, fitted_to, at, np.zeros(len(at)), e, np.full(e.shape, noise), np.zeros(len(at)))


def test_weights_are_the_likelihood_of_errors_by_hand():
  """Errors of 1% and 2% at two origins: 4 to 1. A law that an origin allows no fit of counts there as the worst."""
  twice = [origin([[0.01, -0.01], [0.02, 0.02]]), origin([[0.01, 0.01], [-0.02, 0.02]], fitted_to=200.0)]
  np.testing.assert_allclose(ensemble._weights(twice, [True, True]), [0.8, 0.2])
  np.testing.assert_allclose(ensemble._weights(twice, [False, True]), [0.0, 1.0])
  np.testing.assert_allclose(ensemble._weights([origin([[0.01, 0.01], [np.nan, np.nan]])], [True, True]), [0.5, 0.5])
  np.testing.assert_allclose(ensemble._weights([], [True, True]), [0.5, 0.5])


def test_growth_is_what_noise_does_not_explain_by_hand():
  """Errors of .03 and .06 at distances of log 2 and 2 log 2, of which .0009 is noise's variance."""
  given = origin([[0.03, 0.06]], noise=0.0009)
  want = np.sqrt((0.03**2 + 0.06**2 - 2 * 0.0009) / (5 * np.log(2) ** 2))
  np.testing.assert_allclose(ensemble._growth([given]), np.hypot(want, ensemble._LEAST_GROWTH), rtol=1e-12)
  assert ensemble._growth([origin([[0.01, 0.01]], noise=0.0009)]) == ensemble._LEAST_GROWTH


def test_own_forecasts_use_what_had_been_measured_then():
  """The second law is better up to 200 and worse later: at 200 the procedure would have taken it."""
  first = origin([[0.1, 0.001], [0.001, 0.1]], fitted_to=100.0)  # of 200 and 400
  second = origin([[0.01, 0.01], [0.5, 0.5]], fitted_to=200.0)
  _, own = ensemble._own_forecasts([first, second], [True, True], np.array([1.0, 0.0]))
  assert own.fitted_to == 200.0
  np.testing.assert_allclose(own.errors[0], np.array([0.01, 0.5]) @ [0.001, 0.1] / 0.101 * np.ones(2), rtol=1e-2)


def test_errors_of_a_straight_line_have_the_variance_of_a_forecast():
  """A power law is a line on logs: its forecast from independent points has the variance that textbooks give."""
  rng, n, sigma, size = np.random.default_rng(0), 12, 0.01, 2.0
  log_x = np.array([(rows, 0.5 * step) for rows in (0.0, 1.0, size) for step in range(n)])
  law, theta = joint(("rows", "examples"), "sum", True, False), np.array([-40.0, 0.0, 0.3])  # the term of rows is nothing
  log_y = law.log_value(theta[None], log_x)[0][0] + sigma * rng.standard_normal(len(log_x))
  points = Points(log_x, log_y, 0.0, sigma**2 * np.eye(len(log_x)))
  given = origins(points, [(law, theta)], np.array([size, 0.5 * (n - 1)]))[0]
  kept = log_x[:, 1] <= np.log(given.fitted_to) + 1e-9
  u = log_x[kept, 1]
  slope, level = np.polyfit(u, log_y[kept], 1)
  targets = np.flatnonzero(~kept & (log_x[:, 0] == size))
  at = log_x[targets, 1]
  np.testing.assert_allclose(given.errors[0], level + slope * at - log_y[targets], atol=1e-6)
  spread = 1 / len(u) + (at - u.mean()) ** 2 / np.sum((u - u.mean()) ** 2)
  np.testing.assert_allclose(given.noise[0], sigma**2 * (1 + spread), rtol=1e-4)


def gain_of(model: Model) -> tuple[float, float, float]:
  """The gain of ten times the examples, with its interval, as the verdict gives it."""
  option = next(o for o in advise(model, 10.0).options if o.buy == "examples")
  return tuple(1 - loss / model.measured for loss in (option.loss, option.ci_high, option.ci_low))  # type: ignore[return-value]


def test_the_advice_of_the_study_holds_the_closed_form():
  found = {model.workload: model for model in models(tuned(load(STUDY / "paper_tail.parquet"))[0]) if isinstance(model, Model)}
  assert set(found) == set(TRUTH)
  for workload, model in found.items():
    gain, low, high = gain_of(model)
    assert low <= TRUTH[workload] <= high and high - low < 0.09, (workload, gain, low, high)
    assert any(note.startswith("law: ") and "by their errors on larger runs" in note for note in model.notes)
    assert not any("sum of terms" in row["law"] for row in advise(model, 10.0).laws)  # which the points contradict


def held(root: Path, kind: str, s: float, seed: int, seeds: int = 3) -> list[tuple[bool, float]]:
  """Whether the intervals of four and ten times the examples hold the closed form, and their widths over the loss."""
  (model,) = models(load(write_closed(root, kind, s, seed, seeds)))
  assert isinstance(model, Model), model.reason
  out = []
  for times in (4.0, 10.0):
    option = next(o for o in advise(model, times).options if o.buy == "examples")
    truth = excess(kind, s, times * model.base.examples)
    out.append((option.ci_low <= truth <= option.ci_high, (option.ci_high - option.ci_low) / option.loss))
  return out


@pytest.mark.parametrize(("kind", "seed", "seeds"), [*((kind, 0, 3) for kind in KINDS), ("quick", 1, 1)])
def test_intervals_of_a_sweep_hold_the_closed_form(kind, seed, seeds, tmp_path):
  (near, narrow), (far, wide) = held(tmp_path, kind, 1.25, seed, seeds)
  assert near and far and narrow < wide < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 1])
def test_intervals_hold_the_closed_form_in_nine_of_ten_sweeps(seeds, tmp_path):
  """25 sweeps for each exponent and size: 200 intervals, of which 90 to 98% hold the truth. Prints how many, and the widths."""
  found: list[tuple[bool, float]] = []
  for kind in KINDS:
    for s in EXPONENTS:
      mine = [held(tmp_path / f"{kind}{s:.2f}-{seed}", kind, s, seed, seeds) for seed in range(25)]
      for i, times in enumerate((4, 10)):
        print(kind, f"{s:.3f} {times}x", sum(one[i][0] for one in mine), f"median width {np.median([one[i][1] for one in mine]):.2%}")
      found += [pair for one in mine for pair in one]
  share = float(np.mean([inside for inside, _ in found]))
  print(f"{share:.1%} of {len(found)}")
  assert 0.90 <= share <= 0.98
