"""Sweeps that run: no run is done twice, one directory holds one base, the report reads what the trainer wrote."""

import dataclasses
import json
from pathlib import Path

import pytest
from tiny_sweep import in_directory, sweep_of, with_train

from analysis.report import program
from dlrm_jax import train
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig, PlantedConfig
from dlrm_jax.training import found_rates, lr_find
from sweeps import run, slurm, store
from sweeps.launch_flags import LaunchConfig
from sweeps.points import SweepConfig, expand


def test_a_finished_run_is_never_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  sweep = in_directory(sweep_of(axes=("data", "rows"), measure=False), tmp_path)
  run.main(sweep)
  records = sorted(tmp_path.glob("runs/*/record.json"))
  assert len(records) == 2
  before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in records}
  described = json.loads((tmp_path / "sweep.json").read_text())["points"]
  assert [p["axis"] for p in described] == ["data", "rows", "rows"]
  assert {p["config_id"] for p in described} == {path.parent.name for path in records}
  capsys.readouterr()
  run.main(sweep)
  assert "2 runs of 2,048 examples, 2 done before, 0 to do" in capsys.readouterr().err
  assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in records} == before
  records[0].write_text('{"broken')  # not a record: that run, and only that, is done again
  run.main(sweep)
  assert json.loads(records[0].read_text())["excess"] == json.loads(before[records[0]][1])["excess"]
  assert records[1].stat().st_mtime_ns == before[records[1]][0]


def test_another_base_in_the_same_directory_is_refused(tmp_path: Path):
  """Its points would be fitted together with those that are there."""
  sweep = sweep_of(axes=("data",), measure=False)
  run.main(in_directory(sweep, tmp_path))
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
  """Records of the real trainer in the real report: data laws on the tail, sizes on the whole where their part is not planted."""
  sweep = sweep_of(axes=("data", "dim"), sizes_dim=(1, 4), seeds=2, measure=False)
  run.main(in_directory(with_train(sweep, num_examples=16_384), tmp_path))
  program.main(program.ReportConfig(workdir=str(tmp_path)))
  laws = record.read_json(tmp_path / "report" / "laws.json")
  assert laws["num_runs"] == 4
  assert {(fit["axis"], fit["x"], fit["metric"]) for fit in laws["fits"]} >= {
    ("data", "examples", "excess_tail"),
    ("dim", "examples", "excess_tail"),
    ("dim", "size", "excess"),
    ("dim", "params", "excess"),
  }
  assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_a_sweep_finds_learning_rates_once_for_all_its_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """Its runs are those of the same rates given as flags. Their records say what was tried."""
  monkeypatch.setattr(lr_find, "MAX_TRIALS", 8)
  sweep = with_train(sweep_of(axes=("data", "rows"), measure=False), table_lr=0.001, dense_lr=0.001)
  finding = in_directory(sweep, tmp_path)
  run.main(dataclasses.replace(finding, run=dataclasses.replace(finding.run, lr_find=True)))
  found = record.read_json(tmp_path / "lr_find.json")["picked"]
  assert found["table_lr"] > 0.001
  outs = store.records(tmp_path)
  assert {out["config"]["train"]["table_lr"] for out in outs.values()} == {found["table_lr"]}
  assert {out["lr_find"]["picked"]["loss"] for out in outs.values()} == {found["loss"]}
  given = with_train(sweep, table_lr=found["table_lr"], dense_lr=found["dense_lr"])
  assert set(outs) == {point.config_id for point, _ in expand(given)}


def test_a_sweep_of_jobs_finds_its_rates_before_it_submits_them(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  """The jobs get the rates as flags and search nothing. A kept result is used again. Jobs of several devices are refused."""
  monkeypatch.setattr(lr_find, "MAX_TRIALS", 8)
  submitted = list[SweepConfig]()
  monkeypatch.setattr(slurm, "launch", lambda sweep, todo, tick: submitted.append(sweep))
  sweep = with_train(sweep_of(axes=("rows",), measure=False, launch=LaunchConfig(launcher="slurm")), table_lr=0.001, dense_lr=0.001)
  finding = in_directory(dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, lr_find=True)), tmp_path)
  monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
  with pytest.raises(UserError, match="there is no sbatch here"):
    run.main(finding)
  assert not (tmp_path / "lr_find.json").exists()
  monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
  mesh = dataclasses.replace(finding, run=dataclasses.replace(finding.run, mesh=MeshConfig(mesh="2")))
  with pytest.raises(UserError, match="--lr_find: its trials would be trained in this process, which has not the 2 devices of the jobs"):
    run.main(mesh)
  run.main(finding)
  assert "rates: the trials are trained here, in this process, before the jobs are submitted" in capsys.readouterr().err
  picked = record.read_json(tmp_path / "lr_find.json")["picked"]
  (jobs,) = submitted
  assert not jobs.run.lr_find and (jobs.run.train.table_lr, jobs.run.train.dense_lr) == (picked["table_lr"], picked["dense_lr"])
  assert picked["table_lr"] > 0.001
  monkeypatch.setattr(found_rates, "_found", lambda *_: pytest.fail("searched again"))
  run.main(finding)
  assert submitted == [jobs, jobs]
