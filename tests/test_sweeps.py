"""Sweeps: what an axis means, which runs a sweep holds, that none is done twice, that bad axes are refused before anything runs."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from analysis import report
from dlrm_jax import flags, record, train
from dlrm_jax.config import ModelConfig, PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.flags import UserError
from sweeps import plan, points, presets, run
from sweeps.axes import default_sizes, scaled
from sweeps.points import SweepConfig, expand

BASE = RunConfig(model=ModelConfig(embed_dim=8, num_rows=1000, bottom=(32, 16, 8), overarch=(64, 32, 1)))


def test_each_axis_scales_its_own_part_and_nothing_else():
  changes = {
    "data": (5000, {"train": dataclasses.replace(BASE.train, num_examples=5000)}),
    "rows": (70, {"model": dataclasses.replace(BASE.model, num_rows=70)}),
    "dim": (4, {"model": dataclasses.replace(BASE.model, embed_dim=4, bottom=(32, 16, 4))}),  # the bottom's last width moves with it
    "overarch": (0.5, {"model": dataclasses.replace(BASE.model, overarch=(32, 16, 1))}),
    "mlp": (2.0, {"model": dataclasses.replace(BASE.model, bottom=(64, 32, 8))}),
  }
  for axis, (size, expected) in changes.items():
    assert scaled(BASE, axis, size, num_dense=13) == dataclasses.replace(BASE, **expected), axis


def test_mlp_without_a_bottom_setting_scales_the_default_one():
  base = RunConfig(model=ModelConfig(embed_dim=8))
  assert scaled(base, "mlp", 0.5, num_dense=3).model.bottom == (16, 8)
  assert scaled(base, "dim", 2, num_dense=3).model.bottom is None


def test_impossible_sizes_are_refused():
  for axis, size, message in [
    ("rows", 2.5, "--sizes_rows=2.5: must be whole numbers"),
    ("dim", 0, "--sizes_dim=0: must be whole numbers"),
    ("overarch", 0.0, "--sizes_overarch=0: must be above 0"),
    ("width", 1, "--axes=width: must be among"),
  ]:
    with pytest.raises(UserError, match=message):
      scaled(BASE, axis, size, num_dense=13)
  with pytest.raises(UserError, match="--axes=mlp: the data has no dense inputs"):
    scaled(dataclasses.replace(BASE, model=ModelConfig()), "mlp", 2, num_dense=0)


def test_default_sizes_are_at_least_four_and_hold_the_base():
  for axis in ("rows", "dim", "overarch", "mlp"):
    sizes = default_sizes(BASE, axis, (None,))
    assert len(sizes) >= 4
    assert any(scaled(BASE, axis, size, 13).model == BASE.model for size in sizes), axis


def test_default_rows_start_where_every_id_has_one():
  base = dataclasses.replace(BASE, model=dataclasses.replace(BASE.model, num_rows=100_000))
  assert default_sizes(base, "rows", (6041, 22)) == (23, 94, 377, 1510, 100_000)
  assert default_sizes(base, "rows", (6041, None))[-2:] == (25_000, 100_000)


def sweep_of(**changes) -> SweepConfig:
  base = RunConfig(
    model=ModelConfig(embed_dim=4, num_rows=200, overarch=(8, 1)),
    train=TrainConfig(num_examples=2048, batch_size=256, eval_examples=1024, first_eval=512),
    planted=PlantedConfig(dense_variance=0.2),
  )
  return dataclasses.replace(SweepConfig(run=base, axes=("data", "rows", "mlp"), sizes_rows=(50, 200), sizes_mlp=(0.5, 1)), **changes)


def test_points_of_a_sweep():
  got = [p for p, _ in expand(sweep_of(seeds=2))]
  assert [(p.axis, p.size, p.seed) for p in got] == [
    (axis, size, seed) for seed in (0, 1) for axis, size in [("data", 2048), ("rows", 50), ("rows", 200), ("mlp", 0.5), ("mlp", 1)]
  ]
  base_ids = [p.config_id for p in got if p.seed == 0 and (p.axis, p.size) in [("data", 2048), ("rows", 200), ("mlp", 1)]]
  assert len(base_ids) == 3 and len(set(base_ids)) == 1  # the base is one run, however many axes it stands on
  assert len({p.config_id for p in got}) == 2 * 3


def test_workloads_judge_and_axis_examples():
  sweep = dataclasses.replace(presets.PRESETS["quick"], sizes_rows=(30,), seeds=2)
  got = [(p.workload, p.axis, p.learner, p.seed, p.config.train.num_examples) for p, _ in expand(sweep)]
  for name in ("s=1.111", "s=1.25"):
    assert (name, "data", "per_id", 0, 2**22) in got
    assert (name, "data", "per_id", 1, 2**22) not in got
    assert (name, "rows", "dlrm", 1, 2**19) in got
  assert len(got) == 2 * (2 * 2 + 1)


def test_a_finished_run_is_never_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  sweep = sweep_of(axes=("data", "rows"))
  sweep = dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, workdir=str(tmp_path)))
  run.main(sweep)
  records = sorted(tmp_path.glob("runs/*/record.json"))
  assert len(records) == 2
  before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in records}
  described = json.loads((tmp_path / "sweep.json").read_text())["points"]
  assert [p["axis"] for p in described] == ["data", "rows", "rows"]
  assert {p["config_id"] for p in described} == {path.parent.name for path in records}
  capsys.readouterr()
  run.main(sweep)
  assert "2 runs, 2 done before, 0 to do" in capsys.readouterr().err
  assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in records} == before
  records[0].write_text('{"broken')  # not a record: that run, and only that, is done again
  run.main(sweep)
  assert json.loads(records[0].read_text())["excess"] == json.loads(before[records[0]][1])["excess"]
  assert records[1].stat().st_mtime_ns == before[records[1]][0]


def test_narrow_widths_that_round_alike_are_run_once():
  base = sweep_of().run
  sweep = sweep_of(axes=("overarch",), run=dataclasses.replace(base, model=dataclasses.replace(base.model, overarch=(4, 1))))
  assert [p.size for p, _ in expand(sweep)] == [0.125, 0.5, 1.0, 2.0]  # 0.5 and 1 units both make 1


def test_another_base_in_the_same_directory_is_refused(tmp_path: Path):
  """Its points would be fitted together with those that are there."""
  sweep = sweep_of(axes=("data",))
  run.main(dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, workdir=str(tmp_path))))
  before = (tmp_path / "sweep.json").read_bytes()
  wider = dataclasses.replace(sweep.run, workdir=str(tmp_path), model=dataclasses.replace(sweep.run.model, overarch=(16, 1)))
  with pytest.raises(UserError, match="holds a sweep of another base configuration"):
    run.main(dataclasses.replace(sweep, run=wider))
  elsewhere = dataclasses.replace(sweep.run, workdir=str(tmp_path), planted=PlantedConfig(zipf_s=1.5))
  with pytest.raises(UserError, match=r"holds a sweep of s=1\.111; choose another"):
    run.main(dataclasses.replace(sweep, run=elsewhere))
  with pytest.raises(UserError, match=r"holds a sweep \(sweep.json\)"):
    train.main(dataclasses.replace(sweep.run, workdir=str(tmp_path)))
  assert (tmp_path / "sweep.json").read_bytes() == before


def test_a_sweep_can_be_reported(tmp_path: Path):
  """Records of the real trainer, through the real report: the dim axis is read on the total excess, the data axis on the tail's."""
  sweep = sweep_of(axes=("data", "dim"), sizes_dim=(1, 4), seeds=2)
  longer = dataclasses.replace(sweep.run.train, num_examples=16_384)
  run.main(dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, train=longer, workdir=str(tmp_path))))
  report.main(report.ReportConfig(workdir=str(tmp_path)))
  laws = record.read_json(tmp_path / "report" / "laws.json")
  assert laws["num_runs"] == 4
  assert {(fit["axis"], fit["x"], fit["metric"]) for fit in laws["fits"]} >= {
    ("data", "examples", "excess_tail"),
    ("dim", "examples", "excess"),
    ("dim", "size", "excess"),
  }
  assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_plan_lists_the_runs_and_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(tmp_path)
  sweep = sweep_of(seeds=2)
  config = plan.PlanConfig(**{f.name: getattr(sweep, f.name) for f in dataclasses.fields(sweep)}, assumed_examples_per_s=1024.0)
  plan.main(config)
  shown = capsys.readouterr().out
  assert "6 runs, 0 done" in shown
  assert "about 12 s at 1,024 examples/s" in shown
  first = expand(sweep)[0][0]
  assert first.config_id in shown
  assert list(tmp_path.iterdir()) == []


def test_plan_costs_are_those_of_the_record(tmp_path: Path):
  sweep = sweep_of(axes=("rows",), sizes_rows=(50,))
  (point, source) = expand(sweep)[0]
  run.main(dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, workdir=str(tmp_path))))
  written = record.read_json(tmp_path / "runs" / point.config_id / "record.json")
  counted = plan.point_cost(point, source)
  assert counted is not None
  assert dataclasses.asdict(counted) == {name: written[name] for name in ("params", "flops_per_example", "bytes")}


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--axes=depth"], "--axes=depth: must be among data, rows, dim, overarch, mlp"),
    (["--axes=mlp"], "--axes=mlp: the data has no dense inputs, so there is no bottom MLP to scale"),
    (["--axes=rows", "--sizes_rows=1"], "--num_rows=1: must be from 2"),
    (["--seeds=0"], "--seeds=0: must be at least 1"),
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
    assert points.expand(dataclasses.replace(preset, axes=("data", "rows"))), name
