"""The simulation of coverage: what it draws and how it counts; and, slow, that 95% intervals hold the truth in 92 to 98% of sweeps."""

import numpy as np
import pytest

from analysis import coverage
from analysis.coverage import Case, cases, pass_noise, simulate, summary
from analysis.fitting.result import Estimate, Fit
from dlrm_jax.common import flags, record


def test_passes_are_drawn_with_the_noise_they_say():
  """Points of one configuration: the spread of its log losses about the truth, and the correlation of neighbours."""
  u = np.log(coverage.PASS_POINTS)
  cov = pass_noise(0.03, u).covariance(u)
  np.testing.assert_allclose(np.sqrt(np.diagonal(cov)), 0.03, rtol=1e-12)
  assert 0.7 < cov[0, 1] / cov[0, 0] < 0.99
  fit = simulate(Case("power_constant", "steep", 0.01, "curves"), np.random.default_rng(0))
  assert (fit.method, fit.num_seeds, fit.num_points) == ("gls", coverage.SEEDS, coverage.SEEDS * len(u))
  joint = simulate(Case("chinchilla", "steep", 0.01, "independent"), np.random.default_rng(0))
  assert (joint.method, joint.num_points) == ("profile_independent_points", 14 * coverage.SEEDS)


def fit_with(**ends) -> Fit:
  params = {name: Estimate(estimate, None, low, high) for name, (estimate, low, high) in ends.items()}
  return Fit("all", "power_constant", params, 0.0, 12, 3, "ok" if params else "refused: none")


def test_open_ends_count_by_hand():
  """Truth of like NE: alpha .9, beta .25, gamma .75."""
  case = Case("power_constant", "like NE", 0.01, "curves")
  sure = fit_with(alpha=(0.9, 0.8, 1.0), beta=(0.3, 0.26, 0.4), gamma=(0.75, 0.7, 0.8))  # beta misses
  wide = fit_with(alpha=(0.7, None, 0.8), beta=(0.2, 0.1, None), gamma=(0.5, None, None))  # alpha misses
  row = summary(case, [sure, wide, fit_with()])  # no fit: nothing is claimed
  assert [row[f"coverage_{name}"] for name in ("alpha", "beta", "gamma")] == [pytest.approx(2 / 3), pytest.approx(2 / 3), 1.0]
  np.testing.assert_allclose([row["bias_beta"], row["refused"], row["misfit"]], [0.0, 1 / 3, 0.0], atol=1e-12)


def test_program(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(coverage, "cases", lambda: [Case("power_constant", "steep", 0.01, "curves")])
  out = tmp_path / "coverage.json"
  coverage.main(coverage.CoverageConfig(output=str(out), simulations=4, workers=1))
  (row,) = record.read_json(out)["results"]
  assert row["simulations"] == 4 and 0 <= row["coverage_beta"] <= 1 and "1.00%" in capsys.readouterr().out
  with pytest.raises(flags.UserError, match="--simulations=0"):
    coverage.CoverageConfig(output="x", simulations=0)


def test_cases_are_those_of_our_sweeps():
  everything = cases()
  assert {c.law for c in everything} == {"power_constant", "chinchilla"} and {c.points for c in everything} == set(coverage.KINDS)
  assert {0.003, 0.01, 0.03} < {c.level for c in everything} and len([c for c in everything if c.passes is None]) == 25
  assert {c.passes for c in everything} == {None, 5, 10, 20, 40} and len(everything) == 73


@pytest.mark.slow
def test_intervals_hold_the_truth(monkeypatch):
  seeds = [case for case in cases() if case.passes is None]  # those of one seed: test_one_pass.py
  monkeypatch.setattr(coverage, "cases", lambda: seeds)
  rows = coverage.run(coverage.CoverageConfig(output="-", simulations=1000))
  coverage.print_rows(rows)
  for row in rows:
    names = coverage.TRUTHS[row["law"]][row["truth"]]
    share = [row[f"coverage_{name}"] for name in names]
    most = 0.98 if row["not_identifiable"] < 0.9 else 1.0  # where nothing is determined, intervals are wide and may hold it more often
    assert min(share) >= 0.92 and max(share) <= most, row
    assert row["misfit"] <= 0.06, row  # the points are those of the law
  (paper,) = [row for row in rows if row["truth"] == coverage.PAPER]
  assert paper["not_identifiable"] > 0.5
