"""The runs of a sweep: axes, grids, seeds, learning rates, lengths, and what is refused before anything runs."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_sweep import sweep_of, with_train

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import ALL
from sweeps import points, presets, run
from sweeps.points import SweepConfig, expand


def test_points_of_a_sweep():
  got = [p for p, _ in expand(sweep_of(seeds=2))]
  assert [(p.axis, p.size, p.seed) for p in got] == [
    (axis, size, seed) for seed in (0, 1) for axis, size in [("data", 2048), ("rows", 50), ("rows", 200), ("mlp", 0.5), ("mlp", 1)]
  ]
  base_ids = [p.config_id for p in got if p.seed == 0 and (p.axis, p.size) in [("data", 2048), ("rows", 200), ("mlp", 1)]]
  assert len(base_ids) == 3 and len(set(base_ids)) == 1  # the base is one run, however many axes it is on
  assert len({p.config_id for p in got}) == 2 * 3
  assert {p.base for p in got} == {got[0].base}
  assert got[1].name == "s=1.111 rows=50 seed 0 dlrm"
  assert got[1].describe() == {
    "workload": "s=1.111",
    "axis": "rows",
    "size": 50.0,
    "label": "50",
    "sizes": {"rows": 50.0},
    "lr_factor": 1.0,
    "seed": 0,
    "learner": "dlrm",
    "examples": 2048,
    "config_id": got[1].config_id,
    "base": got[1].base,
    "order": "time",
    "window": "oldest",
    "epochs": 1,
    "data_mode": "online",
  }


def test_ids_of_existing_runs_stay():
  """Golden: whoever changes one of these orphans records."""
  ids = {(p.axis, p.label): p.config_id for p, _ in expand(sweep_of())}
  base = "7721af15ec5165f3"
  assert ids == {
    ("data", "2048"): base,
    ("rows", "50"): "157043a491b39327",
    ("rows", "200"): base,
    ("mlp", "0.5"): "d71a424bb859452a",
    ("mlp", "1"): base,
  }


def test_a_grid_runs_every_combination_and_shares_what_stands_on_axes():
  sweep = sweep_of(axes=("rows",), grid=("rows", "dim"), sizes_dim=(2, 4))
  got = [p for p, _ in expand(sweep)]
  grid = [p for p in got if p.axis == "rows*dim"]
  assert [(p.size, p.label, p.sizes) for p in grid] == [
    (0, "50*2", {"rows": 50, "dim": 2}),
    (1, "50*4", {"rows": 50, "dim": 4}),
    (2, "200*2", {"rows": 200, "dim": 2}),
    (3, "200*4", {"rows": 200, "dim": 4}),
  ]
  assert [(p.config.model.num_rows, p.config.model.embed_dim) for p in grid] == [(50, 2), (50, 4), (200, 2), (200, 4)]
  assert {p.config_id for p in got if p.axis == "rows"} == {grid[1].config_id, grid[3].config_id}
  alone = [p.axis for p, _ in expand(dataclasses.replace(sweep, axes=()))]
  assert alone == ["rows*dim"] * 4


def test_tables_come_with_their_source():
  """The examples of a run show as many features as its model reads."""
  got = expand(sweep_of(axes=(), grid=("rows", "tables"), sizes_tables=(2, 8), sizes_rows=(50,)))
  (two, all_) = [source for _, source in got]
  assert [point.config.model.num_tables for point, _ in got] == [2, 0]
  assert (two.shape.field_names, all_.shape.field_names) == (("tail0", "tail1"), tuple(f"tail{f}" for f in range(8)))
  (batch, truth), (whole, whole_truth) = (source.batch(1, 0, 64) for source in (two, all_))
  np.testing.assert_array_equal(batch.ids_bl, whole.ids_bl[:, :2])
  np.testing.assert_array_equal(truth.logit_b, whole_truth.logit_b)  # clicks depend on the omitted features, too


def test_learning_rates_multiply_both_and_leave_the_base_as_it_is():
  sweep = sweep_of(axes=("rows",), lr_factors=(0.5, 1.0), seeds=2)
  got = [p for p, _ in expand(sweep)]
  assert [(p.size, p.seed, p.lr_factor) for p in got] == [(r, s, f) for s in (0, 1) for r in (50, 200) for f in (0.5, 1.0)]
  train = sweep.run.train
  for p in got:
    assert (p.config.train.table_lr, p.config.train.dense_lr) == (train.table_lr * p.lr_factor, train.dense_lr * p.lr_factor)
  assert {p.config_id for p in got if p.lr_factor == 1} == {p.config_id for p, _ in expand(sweep_of(axes=("rows",), seeds=2))}
  assert got[0].name.endswith("seed 0 dlrm lr x0.5")


def test_transferred_rates_follow_the_batch_by_the_optimiser_s_power():
  sweep = sweep_of(axes=("batch_size", "dim"), sizes_batch_size=(32, 256, 2048), sizes_dim=(2,), lr_factors=(1.0, 2.0), lr_rule="transfer")
  mixed = with_train(sweep, table_optimizer="adam", dense_optimizer="sgd", table_lr=0.01, dense_lr=0.1)
  for config, powers in [(sweep, (1 / 3, 1 / 3)), (mixed, (1 / 2, 1))]:
    train = config.run.train
    for point, _ in expand(config):
      ratio = point.config.train.batch_size / 256
      expected = [lr * point.lr_factor * ratio**p for lr, p in zip((train.table_lr, train.dense_lr), powers, strict=True)]
      np.testing.assert_allclose([point.config.train.table_lr, point.config.train.dense_lr], expected, rtol=1e-12)
  constant = {p.config_id for p, _ in expand(dataclasses.replace(sweep, lr_rule="constant"))}
  assert {p.config_id for p, _ in expand(sweep) if p.axis == "dim" or p.size == 256} <= constant


def test_retrained_lengths_keep_the_shape_of_their_schedule():
  sweep = with_train(
    sweep_of(axes=("data", "rows"), axis_examples=1024), num_examples=16_384, warmup_examples=512, lr_schedule="cosine",
    decay_examples=16_384, data_mode="retrain",
  )  # fmt: skip
  got = [p for p, _ in expand(sweep)]
  trained = [(p.axis, p.examples, p.config.train.decay_examples, p.config.train.warmup_examples) for p in got]
  assert trained == [("data", 1024 * 2**k, 1024 * 2**k, 32 * 2**k) for k in range(5)] + [("rows", 1024, 1024, 32)] * 2


@pytest.mark.parametrize("schedule", ["linear", "quadratic", "cosine"])
def test_one_pass_under_a_horizon_is_no_data_curve(schedule):
  for axes, grid in [(("data",), ()), (("rows",), ("rows", "data"))]:
    with pytest.raises(UserError, match=f"--lr_schedule={schedule}: its horizon makes one pass no data curve; give --data_mode=retrain"):
      with_train(sweep_of(axes=axes, grid=grid), lr_schedule=schedule, decay_examples=2048)
  with_train(sweep_of(axes=("rows",)), lr_schedule=schedule, decay_examples=2048)
  with_train(sweep_of(), lr_schedule="inverse_sqrt", decay_examples=2048)


def test_workloads_judge_and_axis_examples():
  sweep = dataclasses.replace(presets.PRESETS["quick"], sizes_rows=(30,), seeds=2, lr_factors=(1.0, 2.0))
  got = [(p.workload, p.axis, p.learner, p.seed, p.examples, p.lr_factor) for p, _ in expand(sweep)]
  for name in ("s=1.111", "s=1.25"):
    assert (name, "data", "per_id", 0, 2**22, 1.0) in got
    assert (name, "rows", "dlrm", 1, 2**19, 2.0) in got
  assert sum(g[2] == "per_id" for g in got) == 2  # one of each workload, whatever the seeds and learning rates
  assert len(got) == 2 * (2 * 2 * 2 + 1)


def test_narrow_widths_that_round_alike_are_run_once():
  base = sweep_of().run
  sweep = sweep_of(axes=("overarch",), run=dataclasses.replace(base, model=dataclasses.replace(base.model, overarch=(4, 1))))
  assert [p.size for p, _ in expand(sweep)] == [0.125, 0.5, 1.0, 2.0]  # 0.5 and 1 units both make 1


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--axes=depth"], "--axes=depth: must be among data, rows, dim, overarch, mlp, overarch_depth"),
    (["--axes="], "--axes=: must be some of data"),
    (["--grid=rows"], "--grid=rows: must be two or more different axes"),
    (["--grid=rows,rows"], "--grid=rows,rows: must be two or more different axes"),
    (["--axes=mlp"], "--axes=mlp: the data has no dense inputs, so there is no bottom MLP to scale"),
    (["--axes=rows", "--sizes_rows=1"], "--num_rows=1: must be from 2"),
    (["--axes=tables", "--sizes_tables=9"], "--sizes_tables=9: the data has 8 categorical features"),
    (["--num_tables=9"], "--num_tables=9: the data has 8 categorical features; 0 takes all"),
    (["--axes=tables", "--sizes_tables=1", "--overarch_inputs=dots"], "--overarch_inputs=dots: one feature has no pairs"),
    (["--axes=devices", "--sizes_devices=3"], "--batch_size=256: must be a multiple of the 3 devices"),
    (["--axes=placement", "--mesh=2", "--sizes_placement=shuffled"], "--placement=shuffled: must be among"),
    (["--seeds=0"], "--seeds=0: must be at least 1"),
    (["--lr_factors=1,0"], "--lr_factors=1.0,0.0: must be different numbers above 0"),
    (["--lr_factors=2,2"], "--lr_factors=2.0,2.0: must be different numbers above 0"),
    (["--lr_rule=guess"], "--lr_rule=guess: must be among constant, transfer"),
    (["--data_mode=twice"], "--data_mode=twice: must be among online, retrain"),
    (["--lr_schedule=linear", "--decay_examples=9"], "--lr_schedule=linear: its horizon makes one pass no data curve"),
    (["--axes=rows", "--sizes_rows=inf"], "flag --sizes_rows=inf: expected a comma-separated list, each a finite number"),
    (["--data=nowhere"], "nowhere: no such directory"),
    (["--axess=rows"], "Unknown command line flag 'axess'. Did you mean: axes ?"),
    (["--launcher=cloud"], "--launcher=cloud: must be among inline, local, slurm"),
  ],
)
def test_bad_sweeps_are_refused_in_one_line_before_anything_is_written(
  words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "argv", ["run", "--preset=tiny", "--workdir=W", *words])
  with pytest.raises(SystemExit) as stop:
    flags.run(run.main, SweepConfig, presets.PRESETS)
  shown = capsys.readouterr().err
  assert stop.value.code == 2
  assert shown.startswith("error: ") and shown.count("\n") == 1 and message in shown, shown
  assert list(tmp_path.iterdir()) == []


def test_every_preset_expands():
  for name, preset in presets.PRESETS.items():
    if preset.run.data != "planted":  # a log of which only the shape is known: its rows must be named with --data
      with pytest.raises(UserError, match=f"{preset.run.data}: no such directory; a data set is made by"):
        points.expand(preset)
      continue
    if preset.run.train.num_examples == ALL:
      with pytest.raises(
        UserError, match=r"^--num_examples=all: planted examples have no end; give a number, or a data set with --data=DIR$"
      ):
        points.expand(preset)
      preset = with_train(preset, num_examples=4096, eval_examples=1024)
    assert points.expand(preset if name == "paper" else dataclasses.replace(preset, axes=("data", "rows"))), name
