"""How often intervals of predictions hold the truth: curves of other laws, the closed form of planted data, laws of three columns."""

from collections.abc import Callable

import numpy as np
import pytest
from closed_sweep import ALL_ROWS, KINDS, NOISE, excess

from analysis.coverage import pass_noise
from analysis.fitting import adequacy, settings
from analysis.fitting.laws import LAWS, Law, law_of
from analysis.fitting.least_squares import solve
from analysis.fitting.marquardt import SQUARES
from analysis.fitting.noise import Noise
from analysis.fitting.result import Fit
from analysis.questions.ensemble import of_one
from analysis.questions.joint_fit import fit_joint
from analysis.questions.members import Member
from analysis.questions.predictions import Prediction, predict

TIMES = np.array([2.0, 4.0, 10.0])
X = 2.0 ** np.arange(16, 28)
Held = list[tuple[bool, float]]  # whether an interval holds the truth, and its width in log y; for each place


def held(made: list[Prediction], truth: np.ndarray) -> Held:
  return [(p.ci_low <= t <= p.ci_high, float(np.log(p.ci_high / p.ci_low))) for p, t in zip(made, truth, strict=True)]  # type: ignore


def by_law(setting: settings.Setting, law: Law, columns: tuple[str, ...], at: np.ndarray) -> list[Prediction]:
  """The predictions of one law, without the intervals of its parameters; none where the points contradict it."""
  solution = solve(setting.problem)
  lack = setting.misfit(solution)
  if adequacy.misses(setting.problem, solution, setting.known_variance, setting.known_free, lack):
    return []
  laws = of_one(Member(law, setting, solution, ""))
  return predict(Fit("all", law.name, {}, None, 0, 0, "ok"), laws, columns, at)


def broken(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
  """A power law with a break anywhere within the points, half of them with a constant."""
  beta = rng.uniform(0.1, 0.4)
  values = {"alpha": X[0] ** beta, "beta": beta, "gamma": 0.0, "delta": beta * rng.uniform(-0.6, 1.0)}
  values |= {"x_break": np.exp(rng.uniform(np.log(X[0]), np.log(X[-1]))), "width": np.exp(rng.uniform(np.log(0.3), np.log(3)))}
  law = LAWS["broken_power"]
  constant = rng.choice([0.0, rng.uniform(0, 2)]) * law.predict(values, X)[-1]
  return lambda x: law.predict(values, x) + constant


def smooth(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
  """A power law, half of them with a constant."""
  beta, constant = rng.uniform(0.1, 0.5), rng.choice([0.0, rng.uniform(0, 3)])
  return lambda x: x**-beta + constant * X[-1] ** -beta


def report(name: str, found: list[Held], refused: int = 0, places: tuple[str, ...] = ("2x", "4x", "10x")) -> np.ndarray:
  """Prints and returns the shares of intervals that hold the truth."""
  share, width = (np.array([[one[i] for one in sweep] for sweep in found], float) for i in (0, 1))
  times = [f"{t} {s:.1%}, width {w:.1%}" for t, s, w in zip(places, share.mean(axis=0), np.median(width, axis=0), strict=True)]
  print(name, f"{len(found)} of {len(found) + refused}:", "; ".join(times))
  return share.mean(axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.003, 0.01, 0.03])
@pytest.mark.parametrize("truth", [broken, smooth])
def test_power_constant_predicts_curves_that_are_its_own_and_that_are_not(truth, level):
  """Twelve independent points of each of 300 curves: 90 to 98% of the intervals at 2, 4 and 10 times the largest x hold the truth."""
  law, found = LAWS["power_constant"], []
  for number in range(300):
    rng = np.random.default_rng([7, number])
    curve = truth(rng)
    setting = settings.independent(law, X[:, None], curve(X) * np.exp(level * rng.standard_normal(len(X))), SQUARES)
    at = X[-1] * TIMES
    if made := by_law(setting, law, ("x",), at[:, None]):
      found.append(held(made, curve(at)))
  share = report(f"{truth.__name__} {level:.1%}", found, 300 - len(found))
  assert np.all((share >= 0.90) & (share <= 0.98))


def closed_points(kind: str, s: float, seed: int, seeds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """x, y and seeds of a sweep of the closed form over rows and examples, with the noise that was measured."""
  sizes, rng = KINDS[kind], np.random.default_rng(seed)
  noise, x, y, names = Noise(**NOISE[kind, round(s, 3)]._asdict(), scatters=()), [], [], []
  for rows, log2 in [(ALL_ROWS, sizes.base_log2), *((rows, sizes.axis_log2) for rows in sizes.rows)]:
    examples = 2.0 ** (np.arange(34, 2 * log2 + 1) / 2)
    root = np.linalg.cholesky(noise.covariance(np.log(examples)))
    truth = np.log([excess(kind, s, n, rows) for n in examples])
    for number in range(seeds):
      x += [(float(rows), n) for n in examples]
      y += list(np.exp(truth + root @ rng.standard_normal(len(examples))))
      names += [number] * len(examples)
  return np.array(x), np.array(y), np.array(names)


@pytest.mark.slow
def test_joint_laws_predict_the_closed_form():
  """Ten triples of seeds of each size and exponent: of 120 intervals at 2, 4 and 10 times the examples 90% or more hold it."""
  columns, every = ("rows", "examples"), []
  for kind in KINDS:
    for s in (10 / 9, 1.25):
      found, most = [], 2.0 ** KINDS[kind].base_log2
      truth = np.array([excess(kind, s, times * most, ALL_ROWS) for times in TIMES])
      for seed in range(10):
        x, y, seeds = closed_points(kind, s, seed)
        noise = settings.noise_of(settings.passes_of(x, y, seeds)[0])
        fit, laws = fit_joint(x, y, columns, seeds, "all", "curves", noise)
        found.append(held(predict(fit, laws, columns, np.column_stack([np.full(3, ALL_ROWS), most * TIMES])), truth))
      every.append(report(f"{kind} {s:.3f}", found))
  assert np.mean(every) >= 0.90


AXES = ("rows", "dim", "examples")
VALUES = {"A_rows": 0.5, "A_dim": 0.15, "A_examples": 6.0, "alpha_rows": 0.35, "alpha_dim": 0.6, "alpha_examples": 0.25, "E": 0.05}
BASE, EXAMPLES = (1000.0, 8.0), 2.0 ** np.arange(17, 23.5, 0.5)
SIZES = [BASE, *((rows, 8.0) for rows in (30.0, 100.0, 300.0, 3000.0)), *((1000.0, dim) for dim in (1.0, 2.0, 4.0, 16.0))]


@pytest.mark.slow
def test_laws_of_three_columns_predict_sweeps_of_their_own():
  """100 sweeps around a base of two laws each, three seeds, noise of .5%: 92 to 98% of 800 intervals hold the truth.

  They are at 4 and 10 times the examples, at 4 times the rows, and at 4, 2 and 4 times rows, dim and examples together.
  """
  u, every = np.log(EXAMPLES), []
  root = np.linalg.cholesky(pass_noise(0.005, u).covariance(u))
  x = np.array([(*size, n) for size in SIZES for _ in range(3) for n in EXAMPLES])
  seeds = np.tile(np.repeat(np.arange(3), len(u)), len(SIZES))
  most = EXAMPLES[-1]
  at = np.array([(*BASE, 4 * most), (*BASE, 10 * most), (12000.0, 8.0, most), (12000.0, 32.0, 4 * most)])
  for name in ("additive", "nested"):
    law, found = law_of(name, AXES), []
    for number in range(100):
      rest = np.random.default_rng(number).standard_normal((3 * len(SIZES), len(u))) @ root.T
      y = law.predict(VALUES, x) * np.exp(rest.ravel())
      setting = settings.of_passes(law, x, y, seeds, settings.noise_of(settings.passes_of(x, y, seeds)[0]))
      assert setting is not None
      if made := by_law(setting, law, AXES, at):
        found.append(held(made, law.predict(VALUES, at)))
    every.append(report(name, found, 100 - len(found), ("4x", "10x", "rows 4x", "all")))
  assert 0.92 <= np.mean(every) <= 0.98
