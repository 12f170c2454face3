"""The main claims, by training: exponents of the DLRM and of the estimator on planted data. It takes minutes (`make test-slow`)."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dlrm_jax.common import record
from dlrm_jax.config import PlantedConfig
from dlrm_jax.training import loop
from sweeps.presets import PRESETS

pytestmark = pytest.mark.slow


def exponent(curve: list[dict], column: str = "excess") -> float:
  """Slope of log excess against log examples from 2**17 on."""
  kept = [row for row in curve if row["examples"] >= 2**17]
  return -np.polyfit(np.log([r["examples"] for r in kept]), np.log([r[column] for r in kept]), 1)[0]


@pytest.mark.parametrize(
  ("s", "learner", "tolerance"), [(10 / 9, "dlrm", 0.02), (1.25, "dlrm", 0.03), (10 / 9, "per_id", 0.01), (1.25, "per_id", 0.01)]
)
def test_data_exponent_is_that_of_theory(s: float, learner: str, tolerance: float, tmp_path: Path):
  base = PRESETS["quick"].run
  config = dataclasses.replace(base, planted=PlantedConfig(zipf_s=s), train=dataclasses.replace(base.train, learner=learner, seed=11))
  loop.train(config, tmp_path, quiet=True)
  assert exponent(record.read_curve(tmp_path / "curve.jsonl")) == pytest.approx((s - 1) / s, abs=tolerance)


@pytest.mark.parametrize("rows_by", ["top", "hash"])
def test_small_tables_saturate_where_theory_says(rows_by: str, tmp_path: Path):
  """Averages over teachers, because the few largest effects of one teacher move the excess by several per cent."""
  ratios = []
  for seed in range(3):
    base = PRESETS["quick"].run
    model = dataclasses.replace(base.model, num_rows=100, rows_by=rows_by)
    config = dataclasses.replace(base, model=model, planted=PlantedConfig(zipf_s=1.25, seed=seed))
    config = dataclasses.replace(config, train=dataclasses.replace(base.train, num_examples=2**20))
    out = loop.train(config, tmp_path / f"{rows_by}{seed}", quiet=True)
    ratios.append(out["excess"] / out["theory"]["rows_floor"])
  assert np.mean(ratios) == pytest.approx(1, abs=0.15)
