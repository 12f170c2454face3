"""A sweep kept in one file reads as the directory did, without the places of the machine that ran it."""

import json
import shutil

import polars as pl
import pytest
from made_sweep import additive, write_sweep
from report_sweeps import write_real
from tiny_sweep import in_directory, sweep_of

from analysis import kept
from analysis.load import load
from analysis.report import program
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from sweeps import run


def keep(root, target):
  kept.main(kept.KeepConfig(workdir=str(root), output=str(target)))
  return target


def test_what_was_kept_is_read_as_the_directory_was(tmp_path, real, capsys):
  target = keep(real, tmp_path / "small.parquet")
  assert "small.parquet: 24 runs" in capsys.readouterr().out
  before, after = load(real), load(target)
  for name in ("points", "runs", "curves"):
    assert getattr(before, name).equals(getattr(after, name)), name
  assert (before.diverged, before.not_done, before.failed) == (after.diverged, after.not_done, after.failed) and after.diverged
  assert after.path == target
  with pytest.raises(UserError, match=r"--output=: give a directory, since --workdir=.*small\.parquet is a file"):
    program.main(program.ReportConfig(workdir=str(target)))


def test_what_was_kept_is_reported_as_the_directory_is(tmp_path):
  root = write_sweep(tmp_path / "sweep", additive, seeds=1, axes=())
  for name, workdir in {"before": root, "after": keep(root, tmp_path / "kept.parquet")}.items():
    program.main(program.ReportConfig(workdir=str(workdir), output=str(tmp_path / name)))
  assert (tmp_path / "after" / "index.html").exists()
  assert (tmp_path / "before" / "points.csv").read_bytes() == (tmp_path / "after" / "points.csv").read_bytes()


def test_directories_are_left_out(tmp_path):
  run.main(in_directory(sweep_of(axes=("data",), measure=False), tmp_path / "deep" / "mine"))
  path = tmp_path / "deep" / "mine" / "sweep.json"
  source = record.read_json(path)
  source["command"] = ["python", "-m", "sweeps.run", f"--workdir={tmp_path}/deep/mine", f"--data={tmp_path}/logs/ml1m", "--axes=data"]
  source["command"].append(f"--slurm_setup=source {tmp_path}/env")
  record.write_json(path, source)
  (entry_path,) = path.parent.glob("runs/*/record.json")
  entry = record.read_json(entry_path)
  entry["config"]["data"], entry["error"] = f"{tmp_path}/logs/ml1m", {"traceback": f"File {tmp_path}/x.py"}
  record.write_json(entry_path, entry)
  target = keep(path.parent, tmp_path / "mine.parquet")
  table = pl.read_parquet(target)
  texts = table["text"].to_list()
  assert not any(str(tmp_path) in text for text in texts)
  records = [json.loads(text) for path, text in table.rows() if path.endswith("record.json")]
  assert [r["config"]["data"] for r in records] == ["ml1m"] and not {"command", "error"} & set(records[0])
  assert json.loads(texts[0])["command"][3:] == ["--workdir=mine", "--data=ml1m", "--axes=data"]


def test_what_cannot_be_kept_or_read_is_one_line(tmp_path):
  root = write_real(tmp_path / "sweep")
  shutil.rmtree(next((root / "runs").iterdir()))
  with pytest.raises(UserError, match="1 of 24 runs have no record: let the sweep end first"):
    keep(root, tmp_path / "x.parquet")
  assert not (tmp_path / "x.parquet").exists()
  with pytest.raises(UserError, match="--output=x: must be a name ending in .parquet"):
    kept.KeepConfig(workdir=str(root), output="x")
  (tmp_path / "bad.parquet").write_text("no")
  pl.DataFrame({"path": ["../out"], "text": ["{}"]}).write_parquet(tmp_path / "evil.parquet")
  pl.DataFrame({"path": ["sweep.json"], "text": ['{"points": []}']}).write_parquet(tmp_path / "empty.parquet")
  with pytest.raises(UserError, match="has no sweep.json"):
    keep(tmp_path, tmp_path / "x.parquet")
  for name, text in {
    "bad": "not a file of analysis.kept",
    "evil": "has the path ../out",
    "empty": r"empty\.parquet: no finished run",
  }.items():
    with pytest.raises(UserError, match=text):
      load(tmp_path / f"{name}.parquet")
  assert not (tmp_path / "out").exists()
