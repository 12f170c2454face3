"""Drift along a log: found where the held-out loss does not follow the progressive one, not found in passes without it."""

import numpy as np
import polars as pl
import pytest
from made_sweep import EXAMPLES, additive, drifting, write_sweep
from places import REAL

from analysis.load import load
from analysis.questions.curves import curves
from analysis.questions.drift import GAP, RISE, drift_of
from analysis.report.analysis import analyse
from analysis.report.findings import findings

TX = REAL / "completejourney" / "tx_sweep.parquet"


def frame(held_out, progressive=None, seeds=1, planted=False, noise=0.0, base_rate=0.5, window=None, at=None, size=1.0) -> pl.DataFrame:
  """Evaluations of one configuration, at powers of two unless `at` says where."""
  rng, rows = np.random.default_rng(0), []
  place = {"workload": "w", "learner": "dlrm", "axis": "data", "size": size, "planted": planted, "order": "time", "window": window}
  place |= {"epochs": None, "base_rate": base_rate}
  for seed in range(seeds):
    for i, loss in enumerate(held_out):
      recent = None if progressive is None else progressive[i]
      losses = {"log_loss": loss * np.exp(noise * rng.standard_normal()), "progressive_log_loss_recent": recent}
      rows.append(place | {"config_id": f"c{size:g}.{seed}", "examples": 2 ** (16 + i) if at is None else at[i]} | losses)
  kinds = {"progressive_log_loss_recent": pl.Float64, "epochs": pl.Float64, "window": pl.String}
  return pl.DataFrame(rows, schema_overrides=kinds)


FALLING = [0.60, 0.55, 0.51, 0.48, 0.46, 0.45]


def test_a_rise_is_found_with_its_figures():
  drift = drift_of(frame([0.50, 0.46, 0.60, 0.52, 0.44, 0.45], [0.5, 0.48, 0.40, 0.38, 0.37, 0.36]))
  assert drift is not None and drift.rises and drift.drifts
  assert (drift.rise_from, drift.rise_to) == (2**17, 2**18)
  np.testing.assert_allclose(drift.rise, 0.60 / 0.46 - 1, rtol=1e-12)
  np.testing.assert_allclose(drift.progressive_change, 0.40 / 0.48 - 1, rtol=1e-12)
  assert "rises by 30.4% from 131,072 to 262,144 examples, while the progressive loss falls by 16.7%" in drift.reason


def test_losses_that_part_are_found_with_their_figures():
  progressive = [0.60, 0.50, 0.40, 0.33, 0.28, 0.25]
  drift = drift_of(frame(FALLING, progressive))
  assert drift is not None and drift.parts and not drift.rises
  np.testing.assert_allclose([drift.gap_low, drift.gap_high], [0.51 / 0.40 - 1, 0.45 / 0.25 - 1], rtol=1e-12)
  assert "1.27 times the progressive loss from 131,072 to 262,144 examples and 1.80 times from 1,048,576 to 2,097,152" in drift.reason


@pytest.mark.parametrize("ratio", [1.0, 0.97, 1.3])
def test_losses_that_fall_together_do_not_drift(ratio):
  """A ratio that stays, such as that of harder held-out rows, is no drift."""
  drift = drift_of(frame(FALLING, [loss / ratio for loss in FALLING]))
  assert drift is not None and not drift.drifts and drift.reason == "" and drift.short == ""


def test_noise_is_no_drift():
  rng = np.random.default_rng(1)
  found = 0
  for _ in range(200):
    held = np.array(FALLING) * np.exp(0.004 * rng.standard_normal(6))
    recent = np.array(FALLING) * np.exp(0.004 * rng.standard_normal(6))
    drift = drift_of(frame(list(held), list(recent)))
    found += drift is not None and drift.drifts
  assert found == 0


def daily(rng, per_day: float, swing: float, last: float = 0.0, days: float = 60) -> pl.DataFrame:
  """A pass of some days whose progressive loss follows the hours, with this swing; the log ratio of the losses moves by `last` along it."""
  total = days * per_day
  at = np.unique(np.round(total * 2 ** -np.arange(0, 6.1, 0.5)))
  held, start = 0.55 * (at / at[0]) ** -0.03, np.concatenate([[at[0] / 2], at[:-1]])
  phase = rng.uniform(0, 2 * np.pi)
  turn = -np.diff(np.cos(2 * np.pi * np.stack([start, at]) / per_day + phase), axis=0)[0] * per_day / (2 * np.pi)
  cycle = swing * turn / (at - start)  # the mean of a sine over each window
  ratio = last * np.log(at / at[0]) / np.log(64) + cycle + 1.26 / np.sqrt(at - start) * rng.standard_normal(len(at))
  return frame(list(held), list(held / np.exp(ratio)), base_rate=0.28, at=[int(n) for n in at])


@pytest.mark.parametrize("per_day", [500, 5_000, 100_000, 1_000_000])
def test_a_daily_cycle_is_no_drift_and_hides_none(per_day):
  """Windows of a part of a day have a ratio of up to 1.3 or down to 0.75, by their hours."""
  rng = np.random.default_rng(2)
  still = [drift_of(daily(rng, per_day, 0.3)) for _ in range(200)]
  assert sum(drift is not None and drift.drifts for drift in still) <= 2
  moving = [drift_of(daily(rng, per_day, 0.3, last=0.6)) for _ in range(50)]
  assert sum(drift is not None and drift.parts for drift in moving) >= 45


def test_octaves_of_a_part_of_a_day_count_by_the_scatter_of_their_windows():
  """Ten days: the first of four octaves is fifteen hours."""
  rng = np.random.default_rng(3)
  still = [drift_of(daily(rng, 100_000, 0.3, days=10)) for _ in range(100)]
  assert sum(drift is not None and drift.drifts for drift in still) <= 2


def test_a_measured_log_with_a_daily_cycle_does_not_drift():
  """Losses of a made log whose click probabilities never change, with 5,000 rows a day; no single window but whole octaves count."""
  at = [4096, 5888, 8192, 11648, 16384, 23296, 32768, 46464, 65536, 92800, 131072, 185472, 262144, 270000]
  held = [0.5830, 0.5839, 0.5683, 0.5614, 0.5572, 0.5619, 0.5626, 0.5361, 0.5316, 0.5250, 0.5200, 0.5160, 0.5120, 0.5126]
  ratio = [0.945, 1.277, 0.878, 1.078, 1.015, 0.976, 1.038, 1.017, 1.010, 0.976, 1.002, 1.000, 0.993, 0.998]
  drift = drift_of(frame(held, list(np.array(held) / ratio), base_rate=0.28, at=at))
  assert drift is not None and not drift.drifts
  (low, high), rows = (drift.gap_low, drift.gap_high), np.diff(at)
  octaves = [np.average(np.log(ratio[1:])[k : k + 2], weights=rows[k : k + 2]) for k in range(0, 10, 2)]  # by hand, without the last
  assert 0.9 < 1 + low <= 1 + high < 1.05 and max(np.abs(octaves)) < 0.05


def test_a_change_in_the_middle_of_a_log_is_found():
  """Held-out rows are of the new kind, like the last third of the log."""
  at = [int(2**20 * 2 ** (-k / 2)) for k in range(12, -1, -1)]
  held = [0.6 * (n / at[0]) ** -0.05 for n in at]
  drift = drift_of(frame(held, [h / (1.5 if n < 0.8 * at[-1] else 1.1) for h, n in zip(held, at, strict=True)], at=at))
  assert drift is not None and drift.parts and drift.gap_at is not None and drift.gap_at[0] == (2**19, 2**20)


def test_all_configurations_of_a_log_are_judged_together():
  """The ratio moves by more than the limit in six configurations and by less in the seventh, on average by more."""
  moves = [0.16] * 6 + [0.08]
  frames = [frame(FALLING, [loss * np.exp(-m * i / 4) for i, loss in enumerate(FALLING)], size=k) for k, m in enumerate(moves)]
  alone = [drift_of(f) for f in frames]
  assert [d is not None and d.drifts for d in alone] == [True] * 6 + [False]
  drift = drift_of(pl.concat(frames))
  assert drift is not None and drift.parts and drift.configurations == 7 and len(drift.runs) == 7
  np.testing.assert_allclose(np.log1p(drift.gap_high) - np.log1p(drift.gap_low), 0.75 * np.mean(moves), rtol=1e-9)  # of four octaves


def test_all_curves_of_a_log_have_the_same_verdict(tmp_path):
  """The held-out loss rises in the models with a small dim only, and on average by more than the limit."""

  def loss(n: float, rows: float, dim: float) -> float:
    return additive(n, rows, dim) * (1.0 + (0.3 / dim if 2**16 < n < 2**18 else 0.0))

  found = analyse(write_sweep(tmp_path, loss, progressive=lambda n: 0.6 * additive(n, 1000, 8), level=1e-5, axes=("dim",)))
  verdicts = {row.fit.status for row in found.rows}
  assert len(found.rows) > 3 and (verdicts == {"refused: the log drifts"})


def test_the_noise_of_few_examples_of_a_rare_class_is_no_drift():
  """2^16 examples at a click rate of .1%: the progressive loss scatters by more than 10%."""
  loss = [0.008 * f for f in (1.0, 0.98, 0.96, 0.95)]
  drift = drift_of(frame(loss, [loss[0], loss[1] * 1.13, loss[2] * 0.97, loss[3]], base_rate=0.001))
  assert drift is not None and not drift.parts


def test_seeds_tell_the_noise_of_a_rise():
  """A rise of 5%: drift where seeds agree, none where they differ by as much."""
  held = [0.60, 0.55, 0.50, 0.525, 0.50, 0.49]
  sure, unsure = (drift_of(frame(held, held, seeds=3, noise=noise)) for noise in (0.001, 0.05))
  assert sure is not None and sure.rises and unsure is not None and not unsure.rises
  assert RISE < 0.05 < GAP


def test_planted_data_recent_rows_and_short_curves_have_no_drift():
  assert drift_of(frame([0.5, 0.7, 0.6, 0.5, 0.4], window="recent")) is None
  assert drift_of(frame([0.5, 0.7, 0.6, 0.5, 0.4], planted=True)) is None
  assert drift_of(frame([0.5, 0.7, 0.6])) is None


def test_a_drifting_sweep_has_no_data_law_and_says_why(tmp_path):
  root = write_sweep(tmp_path, drifting, progressive=lambda n: 0.45 - 0.03 * np.log2(n / 2**14), seeds=1)
  found = analyse(root)
  assert all(row.fit.status == "refused: the log drifts" for row in found.rows)
  text = findings(found)
  assert "the log drifts (6 configurations together). Its passes are no data law: " in text[0] and "--order=shuffled" in text[0]
  assert any(line.startswith("clicks: No advice: the log drifts") for line in text)
  assert not any("data exponent" in line for line in text)
  assert {row.fit.status for row in found.schemes if row.resource in ("data", "compute")} == {"refused: the log drifts"}


def test_a_shuffled_pass_whose_loss_rises_is_not_called_drifting(tmp_path):
  root = write_sweep(tmp_path, drifting, seeds=1, order="shuffled")
  (curve,) = [c for c in curves(load(root), "auto", None, None) if c.axis == "data"]
  assert curve.drift is not None and curve.drift.short == "the held-out loss rises"


def test_a_sweep_without_drift_keeps_its_law(tmp_path):
  root = write_sweep(tmp_path, additive, progressive=lambda n: 0.6 * additive(n / 1.2, 1000, 8))
  found = analyse(root)
  assert not any(c.drifts for c in found.curves) and all(c.drift is not None for c in found.curves)
  assert any("data exponent" in line for line in findings(found))


def test_the_retail_log_drifts():
  if not TX.exists():
    pytest.skip(f"{TX} is not here")
  found = analyse(TX)
  text = " ".join(findings(found))
  assert all(c.drifts for c in found.curves) and "data exponent" not in text
  assert "No advice: the log drifts" in text and "lower" not in text
  assert not {r.regime for r in found.schemes if r.resource in ("data", "compute")} & {"saturated", "power law", "transition"}
  assert EXAMPLES
