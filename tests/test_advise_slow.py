"""Advice on trained planted sweeps agrees with theory about what to buy, seed after seed."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from analysis.additive import models
from analysis.advise import advise
from analysis.load import load
from analysis.report import NEXT_TIMES
from dlrm_jax import flags
from dlrm_jax.config import PlantedConfig
from dlrm_jax.data import planted_theory
from dlrm_jax.data.planted import PAIR_TERMS, Planted, decaying_shares
from sweeps.points import SweepConfig
from sweeps.presets import PRESETS
from sweeps.run import main as run_sweep

GROUPS, SEEDS, EXAMPLES = 10, 3, 2**19
_SHARED = (
  "--preset=small",
  "--data=planted",
  "--eval_examples=32768",
  "--batch_size=2048",
  f"--seeds={GROUPS * SEEDS}",
  f"--num_examples={EXAMPLES}",
  f"--axis_examples={EXAMPLES}",
)
CASES = {
  "rows": ("--axes=data,rows", "--planted_zipf_s=1.25", "--num_rows=200", "--sizes_rows=25,50,100,200", "--embed_dim=4", "--overarch=32,1"),
  "examples": (
    "--axes=data,rows",
    "--planted_zipf_s=1.25",
    "--num_rows=32768",
    "--sizes_rows=128,1024,8192,32768",
    "--embed_dim=4",
    "--overarch=32,1",
  ),
  "dim": (
    "--axes=data,dim",
    "--planted_tail_sigma=0.1",
    "--planted_pair_variance=1.0",
    "--embed_dim=2",
    "--sizes_dim=1,2,3,4",
    "--overarch=32,1",
    "--num_rows=65536",
  ),
}


def theory(config: PlantedConfig, rows: int, dim: int | None) -> dict[str, float]:
  """Excess of the ideal learner under each way to spend ten times as much."""
  source = Planted(config)

  def excess(examples: float, num_rows: float, pair_terms: float) -> float:
    tail = planted_theory.excess_ideal(examples, config.zipf_s, source.tau, config.tail_fields, int(num_rows))
    left = float(decaying_shares(PAIR_TERMS, config.delta)[int(pair_terms) :].sum())
    return tail + source.moments[1] / 2 * config.pair_variance * left

  start = dim or PAIR_TERMS
  options = {"examples": excess(EXAMPLES * NEXT_TIMES, rows, start), "rows": excess(EXAMPLES, rows * NEXT_TIMES, start)}
  return options | ({} if dim is None else {"dim": excess(EXAMPLES, rows, dim * NEXT_TIMES)})


@pytest.mark.slow
@pytest.mark.parametrize("buy", CASES)
def test_advice_agrees_with_theory(buy, tmp_path):
  config = flags.parse(["sweep", *_SHARED, *CASES[buy], f"--workdir={tmp_path}"], SweepConfig, PRESETS)
  run_sweep(config)
  sweep, chosen = load(tmp_path), []
  model = config.run.model
  expected = theory(config.run.planted, model.num_rows, model.embed_dim if buy == "dim" else None)
  assert min(expected, key=lambda name: expected[name]) == buy
  for group in range(GROUPS):
    seeds = pl.col("seed").is_in(range(group * SEEDS, (group + 1) * SEEDS))
    (found,) = models(dataclasses.replace(sweep, points=sweep.points.filter(seeds)))
    advice = advise(found, NEXT_TIMES)
    chosen.append(advice.choice)
    print(group, advice.verdict)
    assert all(np.isfinite(o.loss) for o in advice.options)
  assert chosen.count(buy) >= 9, chosen
