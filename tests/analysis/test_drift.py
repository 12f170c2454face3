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


def frame(held_out, progressive=None, seeds=1, planted=False, noise=0.0, base_rate=0.5, window=None) -> pl.DataFrame:
  """Evaluations of one configuration at powers of two."""
  rng, rows = np.random.default_rng(0), []
  place = {"workload": "w", "learner": "dlrm", "axis": "data", "size": 1.0, "planted": planted, "order": "time", "window": window}
  place |= {"epochs": None, "base_rate": base_rate}
  for seed in range(seeds):
    for i, loss in enumerate(held_out):
      recent = None if progressive is None else progressive[i]
      losses = {"log_loss": loss * np.exp(noise * rng.standard_normal()), "progressive_log_loss_recent": recent}
      rows.append(place | {"config_id": f"c{seed}", "examples": 2 ** (16 + i)} | losses)
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
  np.testing.assert_allclose([drift.gap_low, drift.gap_high], [0.55 / 0.50 - 1, 0.45 / 0.25 - 1], rtol=1e-12)
  assert "1.10 times the progressive loss at 131,072 examples and 1.80 times at 2,097,152" in drift.reason


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
  assert "the log drifts along the passes of 6 of 6 configurations" in text[0] and "--order=shuffled" in text[0]
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
