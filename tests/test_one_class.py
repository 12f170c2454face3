"""Splits whose labels are all the same, through every program: a log that is sorted by its label, or has few clicks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from places import REAL

from analysis.report import program as report
from dlrm_jax import train
from dlrm_jax.common import flags
from dlrm_jax.config import RunConfig
from dlrm_jax.data.describe import program as describe
from dlrm_jax.data.prepare import program as prepare
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import metrics
from sweeps import run as sweep_run
from sweeps import status as sweep_status
from sweeps.points import SweepConfig
from sweeps.presets import PRESETS as SWEEPS

RUN = (
  "--preset=tiny",
  "--num_examples=512",
  "--batch_size=64",
  "--first_eval=256",
  "--eval_examples=100",
  "--overarch_inputs=dense,dots,rows",
)
PREPARE = ("--format=csv", "--workers=1", "--eval_rows=100", "--test_fraction=0.5")


def write_log(folder: Path, train: list[int], evaluated: list[int], test: list[int]) -> list[str]:
  labels = [*train, *evaluated, *test]
  rng = np.random.default_rng(2)
  pl.DataFrame({"y": labels, "c": rng.integers(0, 9, len(labels)), "x": rng.integers(0, 9, len(labels))}).write_csv(folder / "log.csv")
  (folder / "log.toml").write_text('label = "y"\ncategorical = ["c"]\n[dense]\nx = {}\n')
  return [*PREPARE, f"--input={folder / 'log.csv'}", f"--schema={folder / 'log.toml'}", f"--output={folder / 'set'}"]


MIXED = [0, 1] * 25


def slow(*values: Any) -> Any:
  """A case for `make test-slow`."""
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  ("evaluated", "test", "split", "warned"),
  [
    ([0] * 50, MIXED, "eval", ["every label of the 50 rows of split eval is 0: ROC AUC is undefined there"]),
    slow([1] * 50, MIXED, "eval", ["every label of the 50 rows of split eval is 1: ROC AUC is undefined there"]),
    slow(MIXED, [0] * 50, "test", ["every label of the 50 rows of split test is 0: ROC AUC is undefined there"]),
    slow(MIXED, [1] * 50, "test", ["every label of the 50 rows of split test is 1: ROC AUC is undefined there"]),
    slow([0] * 50, [1] * 50, "test", ["split eval is 0: ROC AUC is undefined", "split test is 1: ROC AUC is undefined"]),
  ],
)
def test_held_out_rows_of_one_class(
  tmp_path: Path, capsys: pytest.CaptureFixture[str], evaluated: list[int], test: list[int], split: str, warned: list[str]
) -> None:
  words = write_log(tmp_path, [0, 1] * 300, evaluated, test)
  prepare.main(flags.parse(["prepare", *words], prepare.PrepareConfig))
  lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: every label")]
  assert len(lines) == len(warned) and all(text in line for text, line in zip(warned, lines, strict=True))

  describe.main(flags.parse(["describe", str(tmp_path / "set")], describe.DescribeConfig))
  assert "ROC AUC is undefined there" in " ".join(capsys.readouterr().out.split())

  shared = (*RUN, f"--data={tmp_path / 'set'}", f"--eval_split={split}")
  train.main(flags.parse(["train", *shared, f"--workdir={tmp_path / 'one'}"], RunConfig, PRESETS))
  shown = capsys.readouterr()
  assert "roc_auc=nan" in shown.out
  said = [line for line in shown.err.splitlines() if line.startswith("alarm ")]
  assert said[0].startswith("alarm one_class: ")  # in the run already, at the first evaluation
  assert not any("evaluation_rises" in line or "ne_above_1" in line for line in said)
  made = json.loads((tmp_path / "one" / "record.json").read_text())
  assert made["status"] == "done" and made["roc_auc"] is None and math.isfinite(made["ne"])
  one_class = {"eval": evaluated, "test": test}[split][0]
  assert (made["calibration"] is None) == (one_class == 0)
  alarm = made["alarms"][0]
  assert alarm["code"] == "one_class" and f"every label is {one_class}, " in alarm["text"]

  sweep = (*shared, "--axes=data,dim", "--sizes_dim=2,4", "--axis_examples=512", f"--workdir={tmp_path / 'sweep'}", "--measure=false")
  sweep_run.main(flags.parse(["run", *sweep], SweepConfig, SWEEPS))
  sweep_status.main(flags.parse(["status", f"--workdir={tmp_path / 'sweep'}"], sweep_status.StatusConfig))
  for workdir in ("one", "sweep"):
    report.main(flags.parse(["report", f"--workdir={tmp_path / workdir}"], report.ReportConfig))
    assert (tmp_path / workdir / "report" / "index.html").exists()
    assert pl.read_csv(tmp_path / workdir / "report" / "points.csv")["roc_auc"].null_count() > 0


@pytest.mark.parametrize("label", [0, 1])
def test_training_rows_of_one_class_are_refused(tmp_path: Path, refusal: Callable[..., str], label: int) -> None:
  words = write_log(tmp_path, [label] * 600, MIXED, MIXED)
  shown = refusal(prepare.main, prepare.PrepareConfig, None, words)
  assert f"every label of the 600 training rows is {label}: nothing can be learned; if the log is sorted by its label" in shown
  assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_without_entropy_there_is_no_ne(rate: float) -> None:
  """NE is log loss over the entropy of the training rate, which is 0 here. An undefined number is NaN."""
  measured = metrics.evaluate(np.array([-1.0, 2.0, 0.5]), np.array([0.0, 1.0, 1.0]), rate)
  assert math.isnan(measured.ne) and math.isfinite(measured.log_loss) and measured.roc_auc == 1.0


def test_the_case_of_a_log_sorted_by_its_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
  case = REAL / "cases" / "one_class"
  if not case.exists():
    pytest.skip("the cases are not in ../shared/data")
  words: list[Any] = ["--format=csv", f"--input={case / 'eval_zero.csv'}", f"--schema={case / 'log.toml'}", f"--output={tmp_path / 'set'}"]
  prepare.main(flags.parse(["prepare", *words, "--workers=1"], prepare.PrepareConfig))
  assert capsys.readouterr().err.count("warning: every label of the") == 1
  sweep = (*RUN, f"--data={tmp_path / 'set'}", "--axes=data", f"--workdir={tmp_path / 'sweep'}", "--measure=false", "--num_examples=256")
  sweep_run.main(flags.parse(["run", *sweep], SweepConfig, SWEEPS))
  report.main(flags.parse(["report", f"--workdir={tmp_path / 'sweep'}"], report.ReportConfig))
  assert (tmp_path / "sweep" / "report" / "index.html").exists()
