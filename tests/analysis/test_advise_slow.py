"""Advice on trained planted sweeps agrees with theory about what to buy, seed after seed."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from analysis.load import load
from analysis.questions.additive import models
from analysis.questions.advice import advise
from analysis.report.analysis import NEXT_TIMES
from dlrm_jax.common import flags
from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted import closed_forms as planted_theory
from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.data.planted.teacher import DENSE_INPUTS, PAIR_TERMS
from sweeps.points import SweepConfig
from sweeps.presets import PRESETS
from sweeps.run import main as run_sweep

GROUPS, SEEDS = 10, 2
_SHARED = ("--preset=small", "--data=planted", f"--seeds={GROUPS * SEEDS}", "--eval_examples=32768", "--overarch=32,1")
_TAIL = ("--axes=data,rows", "--planted_zipf_s=1.25", "--embed_dim=4", "--num_examples=524288", "--axis_examples=524288")
# Pairs and dense terms take many small steps to learn; before that, examples are what helps, whatever the ideal learner would do.
_LEARNED = ("--planted_tail_sigma=0.1", "--num_rows=65536", "--batch_size=128", "--dense_lr=0.1")
_LEARNED += ("--num_examples=1048576", "--axis_examples=1048576")
CASES = {
  "rows": (*_TAIL, "--num_rows=200", "--sizes_rows=25,50,100,200"),
  "examples": (*_TAIL, "--num_rows=32768", "--sizes_rows=128,1024,8192,32768"),
  "dim": (*_LEARNED, "--axes=data,dim", "--planted_pair_variance=1.0", "--table_lr=0.1", "--embed_dim=2", "--sizes_dim=1,2,4,8"),
  "mlp": (*_LEARNED, "--axes=data,mlp", "--planted_dense_variance=1.0", "--embed_dim=4", "--bottom=4,4", "--sizes_mlp=0.5,1,2,4"),
}


def theory(run: RunConfig, axis: str) -> dict[str, float]:
  """Excess of the ideal learner where ten times as much is spent on examples, or on the axis: `dim` terms of the pairs, half as many dense
  terms as the bottom MLP is wide."""
  config, source = run.planted, Planted(run.planted)

  def excess(examples: float, rows: float, dim: float, width: float) -> float:
    tail = planted_theory.excess_ideal(examples, config.zipf_s, source.tau, config.tail_fields, int(rows))
    pairs = planted_theory.terms_floor(int(dim), PAIR_TERMS, config.pair_variance, config.delta, source.moments[1])
    dense = planted_theory.terms_floor(int(width // 2), DENSE_INPUTS, config.dense_variance, config.delta, source.moments[1])
    return tail + pairs + dense

  at = {"examples": run.train.num_examples, "rows": run.model.num_rows, "dim": run.model.embed_dim, "width": (run.model.bottom or (0,))[0]}
  name = "width" if axis == "mlp" else axis
  return {buy: excess(**at | {key: at[key] * NEXT_TIMES}) for buy, key in (("examples", "examples"), (axis, name))}


@pytest.mark.slow
@pytest.mark.parametrize("buy", CASES)
def test_advice_agrees_with_theory(buy, tmp_path):
  config = flags.parse(["sweep", *_SHARED, *CASES[buy], f"--workdir={tmp_path}"], SweepConfig, PRESETS)
  run_sweep(config)
  sweep, chosen = load(tmp_path), []
  expected = theory(config.run, "rows" if buy == "examples" else buy)
  assert min(expected, key=lambda name: expected[name]) == buy
  for group in range(GROUPS):
    seeds = pl.col("seed").is_in(range(group * SEEDS, (group + 1) * SEEDS))
    (found,) = models(dataclasses.replace(sweep, points=sweep.points.filter(seeds)))
    advice = advise(found, NEXT_TIMES)
    chosen.append(advice.choice)
    print(group, advice.verdict)
    assert all(np.isfinite(o.loss) for o in advice.options)
  assert chosen.count(buy) >= 9, chosen
