"""Measures by simulation how often the 95% intervals contain the truth, and how often points of a law are called its misfit: known laws,
sweeps of the usual size, measured kinds of noise.

  python -m analysis.coverage --output=coverage.json [--simulations=1000]

Every simulation counts. Where the points do not determine a parameter, its interval is open and contains every value on that side. How many
simulations have an open interval is reported, too.

There are three kinds of points. `independent` points are separate runs. `curves` are training passes of three seeds each. With `curves, one
seed`, every pass is of another size, or follows a law of one x of its own. Such a law absorbs the offset of its pass in its scale
and constant, so that these are compared with the truth times the offset.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.fitting import one_pass
from analysis.fitting.fit_law import fit_law
from analysis.fitting.laws import LAWS
from analysis.fitting.noise import Noise
from analysis.fitting.result import Fit
from analysis.fitting.settings import noise_of
from dlrm_jax.common import flags, record, terminal
from dlrm_jax.common.progress import Bar

Array = np.ndarray
SEEDS = 3
LEVELS = (0.003, 0.01, 0.03)  # standard deviation of log loss
CONFIGURATIONS = 5  # configurations of a sweep, over whose seeds the noise is pooled
PASSES = (5, 10, 20, 40)  # of one seed each
KINDS = ("independent", "curves", "curves, one seed")
PASS_POINTS = 2.0 ** np.arange(14, 26)  # examples at the evaluations of a pass
SIZES = np.geomspace(1e5, 1e8, 12)  # of a model axis
GRID = np.array([(n, d) for n in np.geomspace(1e5, 3e7, 4) for d in np.geomspace(1e6, 1e9, 4)])[:14]
PAPER = "paper"  # a curve like the published ones with noise of a tenth of its range: no sweep determines it
TRUTHS: dict[str, dict[str, dict[str, float]]] = {
  "power_constant": {
    "steep": {"alpha": 30.0, "beta": 0.4, "gamma": 0.1},
    "like NE": {"alpha": 0.9, "beta": 0.25, "gamma": 0.75},
    PAPER: {"alpha": 0.015 * SIZES[0] ** 0.1, "beta": 0.1, "gamma": 0.98},
  },
  "chinchilla": {
    "steep": {"A": 40.0, "B": 60.0, "E": 0.1, "alpha": 0.4, "beta": 0.35},
    "like NE": {"A": 1.0, "B": 3.0, "E": 0.75, "alpha": 0.25, "beta": 0.3},
  },
}
_SHARES = {"offset": 0.5, "drift": 0.4, "nugget": 0.1}  # shares of the variance of a pass
_DRIFT_SPAN = 1 / 3  # length of the drift over the pass's span in log x


@dataclasses.dataclass(frozen=True)
class CoverageConfig:
  """Flags of `python -m analysis.coverage`."""

  output: str = flags.option(help="JSON file to write")
  simulations: int = flags.option(1000, "sweeps to simulate for every law, truth, noise level and kind of points", at_least=1)
  one_seed: bool = flags.option(False, "simulate passes of one seed alone")
  seed: int = flags.option(0, "seed of the noise")
  workers: int = flags.option(0, "processes; 0: one for each core")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(bool(self.output), self, "output", "a name")
    flags.check(self.workers >= 0, self, "workers", "0 or more")


@dataclasses.dataclass(frozen=True)
class Case:
  """One row of the table: law, name of the truth, standard deviation of log loss, kind of points, number of passes of one seed each."""

  law: str
  truth: str
  level: float
  points: str
  passes: int | None = None

  @property
  def values(self) -> dict[str, float]:
    return TRUTHS[self.law][self.truth]


def cases() -> list[Case]:
  """Every row of the table."""
  rows = [
    Case(law, truth, level, points)
    for law, truths in TRUTHS.items()
    for truth in truths
    if truth != PAPER
    for points in ("independent", "curves")
    for level in LEVELS
  ]
  single = [
    Case(law, truth, level, KINDS[2], passes)
    for law, truths in TRUTHS.items()
    for truth in truths
    if truth != PAPER
    for passes in PASSES
    for level in LEVELS
  ]
  span = float(np.ptp(np.log(LAWS["power_constant"].predict(TRUTHS["power_constant"][PAPER], SIZES))))
  return [*rows, Case("power_constant", PAPER, 0.1 * span, "independent"), *single]


def pass_noise(level: float, u: Float[Array, " n"]) -> Noise:
  """The noise of the simulated passes."""
  variances = {name: share * level**2 for name, share in _SHARES.items()}
  return Noise(**variances, length=_DRIFT_SPAN * float(np.ptp(u)), tilt=0.0, origin=float(u.mean()), scatters=())


def simulate(case: Case, rng: np.random.Generator) -> Fit:
  """Draws one sweep and fits its law."""
  law = LAWS[case.law]
  if case.passes is not None:
    return _one_seed(case, case.passes, rng)
  if case.points == "independent":
    x = np.tile(GRID, (SEEDS, 1)) if law.num_x == 2 else np.tile(SIZES, SEEDS)
    log_y = np.log(law.predict(case.values, x)) + case.level * rng.standard_normal(len(x))
    return fit_law(x, np.exp(log_y), case.law, points="independent")
  u = np.log(PASS_POINTS)
  root = np.linalg.cholesky(pass_noise(case.level, u).covariance(u))
  rest = rng.standard_normal((CONFIGURATIONS, SEEDS, len(u))) @ root.T
  if law.num_x == 2:
    sizes = np.geomspace(SIZES[0], SIZES[-1], CONFIGURATIONS)
    x = np.array([(size, at) for size in sizes for _ in range(SEEDS) for at in PASS_POINTS])
    seed = np.tile(np.repeat(np.arange(SEEDS), len(u)), CONFIGURATIONS)
    return fit_law(x, law.predict(case.values, x) * np.exp(rest.ravel()), case.law, seed)
  log_y = np.log(law.predict(case.values, PASS_POINTS)) + rest
  pooled = noise_of([(PASS_POINTS[:, None], one) for one in log_y])
  seed = np.repeat(np.arange(SEEDS), len(u))
  return fit_law(np.tile(PASS_POINTS, SEEDS), np.exp(log_y[0].ravel()), case.law, seed, noise=pooled)


def _one_seed(case: Case, passes: int, rng: np.random.Generator) -> Fit:
  """A fit to passes of one seed each: of one joint law, or to the first of passes that have a law each, with noise pooled over all."""
  law, u = LAWS[case.law], np.log(PASS_POINTS)
  known = pass_noise(case.level, u)
  run, x = np.repeat(np.arange(passes), len(u)), np.tile(PASS_POINTS, passes)[:, None]
  if law.num_x == 2:
    x = np.column_stack([np.repeat(np.geomspace(SIZES[0], SIZES[-1], passes), len(u)), x])
  else:  # the offset of a pass is part of its law
    known = dataclasses.replace(known, offset=0.0)
  rest = rng.standard_normal((passes, len(u))) @ np.linalg.cholesky(known.covariance(u)).T
  y = law.predict(case.values, x) * np.exp(rest.ravel())
  groups = [run >= 0] if law.num_x == 2 else [run == i for i in range(passes)]
  noise = one_pass.pooled([one_pass.Passes(law, x[mine], y[mine], run[mine]) for mine in groups], runs=True)
  return fit_law(x[groups[0]], y[groups[0]], case.law, run[groups[0]], noise=noise)


def _some(case: Case, seeds: list[np.random.SeedSequence]) -> list[Fit]:
  return [simulate(case, np.random.default_rng(s)) for s in seeds]


def summary(case: Case, fits: list[Fit]) -> dict[str, Any]:
  """The row of a case: the shares of intervals that contain the truth, the bias of the median estimates, the shares of statuses."""
  out: dict[str, Any] = dataclasses.asdict(case) | {"simulations": len(fits)}
  out["not_identifiable"] = float(np.mean([f.status == "not_identifiable" for f in fits]))
  out["misfit"] = float(np.mean([f.status == "misfit" for f in fits]))
  out["refused"] = float(np.mean([f.refused for f in fits]))
  out["open"] = float(np.mean([any(p.ci_low is None or p.ci_high is None for p in f.params.values()) or f.refused for f in fits]))
  for name, truth in case.values.items():
    known = [f.params.get(name) for f in fits]
    held = [p is None or ((p.ci_low is None or p.ci_low <= truth) and (p.ci_high is None or p.ci_high >= truth)) for p in known]
    out[f"coverage_{name}"] = float(np.mean(held))
    out[f"bias_{name}"] = float(np.median([p.estimate for p in known if p is not None]) / truth - 1)
  return out


def run(config: CoverageConfig) -> list[dict[str, Any]]:
  """Every case, over worker processes."""
  everything, rows = [case for case in cases() if case.passes is not None or not config.one_seed], []
  workers = config.workers or os.cpu_count() or 1
  chunk = max(1, -(-config.simulations // (8 * workers)))
  context = multiprocessing.get_context("spawn")
  with (
    concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool,
    Bar("simulating", len(everything) * config.simulations) as bar,
  ):
    for number, case in enumerate(everything):
      seeds = np.random.SeedSequence([config.seed, number]).spawn(config.simulations)
      futures = [pool.submit(_some, case, seeds[i : i + chunk]) for i in range(0, len(seeds), chunk)]
      fits: list[Fit] = []
      for future in futures:
        fits += future.result()
        bar(chunk)
      rows.append(summary(case, fits))
  return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
  """The table on standard output."""
  cells = []
  for row in rows:
    names = list(TRUTHS[row["law"]][row["truth"]])
    cover = "  ".join(f"{name} {row[f'coverage_{name}']:.1%} ({row[f'bias_{name}']:+.1%})" for name in names)
    shares = [f"{row[name]:.1%}" for name in ("not_identifiable", "open", "misfit", "refused")]
    points = row["points"] if row["passes"] is None else f"{row['passes']} {row['points']}"
    cells.append([row["law"], row["truth"], f"{row['level']:.2%}", points, cover, *shares])
  columns = ("law", "truth", "noise", "points", "coverage", "not identifiable", "open", "misfit", "refused")
  title = "Share of 95% intervals that contain the truth (in brackets the median estimate's bias)"
  terminal.show(terminal.console(200), title, columns, cells)


def main(config: CoverageConfig) -> None:
  rows = run(config)
  record.write_json(config.output, record.header() | {"results": rows})
  print_rows(rows)


if __name__ == "__main__":
  flags.run(main, CoverageConfig)
