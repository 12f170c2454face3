"""The loss that rows cost on one planted teacher."""

import numpy as np
import pytest

from analysis.study.teacher_floor import teacher_rows_floor
from dlrm_jax.config import PlantedConfig
from dlrm_jax.data.planted import closed_forms as theory
from dlrm_jax.data.planted.clicks import Planted


@pytest.mark.parametrize("rows_by", ["top", "hash"])
def test_the_floor_of_one_teacher_is_that_of_theory_on_average(rows_by: str):
  """Judge: the mean over teachers, whose hash functions stay; few rows of s = 1.25, where a teacher's luck is a few per cent."""
  floors = [teacher_rows_floor(PlantedConfig(zipf_s=1.25, seed=seed), 50, rows_by) for seed in range(4)]
  expected = theory.rows_floor(50, 1.25, Planted(PlantedConfig(zipf_s=1.25)).tau, 8, rows_by)
  assert np.mean(floors) == pytest.approx(expected, rel=0.05) and len(set(floors)) == 4
