"""What the runs of a sweep take of a data set: all of it by default, recent windows, epochs. Plan, run and sweep.json say it."""

import dataclasses
from pathlib import Path

import pytest
from epochs_case import TRAIN_ROWS, config_of, prepared_log

from analysis.load import load, on_data_curve
from dlrm_jax.common import flags, record
from dlrm_jax.config import ALL
from dlrm_jax.data.source import open_source
from dlrm_jax.training.eval_plan import evaluated_examples
from sweeps import data_used, estimate, presets, run
from sweeps.launch_flags import extended
from sweeps.plan import PlanConfig
from sweeps.plan import main as plan
from sweeps.points import SweepConfig, expand


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return prepared_log(tmp_path_factory.mktemp("data"))


def sweep_of(data: Path, axes: tuple[str, ...] = ("data",), data_mode: str = "online", axis_examples: int = 0, **train) -> SweepConfig:
  return SweepConfig(axes=axes, data_mode=data_mode, axis_examples=axis_examples, sizes_rows=(50,), run=config_of(data, **train))


@pytest.mark.parametrize("preset", ["click_log", "paper_click_log"])
def test_the_presets_of_click_logs_take_all_rows(data: Path, preset: str):
  """The id of a run is that of the number of rows, as before there was a word for it."""
  sweep = flags.parse(["sweep", f"--preset={preset}", f"--data={data}", "--axes=data,rows", "--seeds=1"], SweepConfig, presets.PRESETS)
  assert (sweep.run.train.num_examples, sweep.run.train.eval_examples) == (ALL, ALL)
  points = expand(sweep)
  assert {point.examples for point, _ in points} == {TRAIN_ROWS}
  known = flags.parse(
    ["sweep", f"--preset={preset}", f"--data={data}", "--axes=data,rows", "--seeds=1", "--num_examples=10000000"],
    SweepConfig,
    presets.PRESETS,
  )
  assert [point.config_id for point, _ in expand(known)] == [point.config_id for point, _ in points]
  assert {point.base for point, _ in expand(known)} == {point.base for point, _ in points}


def test_retrained_lengths_take_the_most_recent_rows(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  sweep = sweep_of(data, ("data", "rows"), "retrain", 1000, num_examples=ALL, window="recent", warmup_examples=210)
  points = [point for point, _ in expand(sweep)]
  lengths = [TRAIN_ROWS // 2**k for k in (4, 3, 2, 1, 0)]
  assert [(p.axis, p.examples, p.config.train.warmup_examples) for p in points] == [
    *(("data", n, round(210 * n / TRAIN_ROWS)) for n in lengths),
    ("rows", 1000, 100),
  ]
  assert {(p.window, p.order, p.epochs, p.data_mode) for p in points} == {("recent", "time", 1, "retrain")}
  workdir = tmp_path / "sweep"
  run.main(dataclasses.replace(sweep, measure=False, run=dataclasses.replace(sweep.run, workdir=str(workdir))))
  written = record.read_json(workdir / "sweep.json")
  assert {(p["window"], p["data_mode"]) for p in written["points"]} == {("recent", "retrain")}
  said = capsys.readouterr().err
  for line in written["data_used"]:
    assert line in said
  assert any("runs of 131 examples: training on the newest 131 of 2,100 training rows" in line for line in written["data_used"])
  out = {p.examples: record.read_json(workdir / "runs" / p.config_id / "record.json") for p in points}
  assert {entry["config"]["train"]["window"] for entry in out.values()} == {"recent"}
  assert out[131]["coverage"]["left_out"][0].startswith("training on the newest 131 of 2,100 training rows; the oldest 1,969 are left out")
  loaded = load(workdir)  # curves of such runs see their oldest rows first: only their ends count
  assert not loaded.evaluations().filter(on_data_curve()).height and loaded.runs["horizon"].all()


def test_one_pass_over_a_recent_window_is_no_data_curve(data: Path):
  for axes in (("data",), ("rows", "data")):
    with pytest.raises(flags.UserError, match=r"^--window=recent: one pass begins with the oldest of its rows.*; give --data_mode=retrain"):
      sweep_of(data, axes, window="recent")
  assert len(expand(sweep_of(data, ("rows",), window="recent"))) == 1


def test_points_after_the_first_epoch_are_not_on_the_data_curve(data: Path, tmp_path: Path):
  sweep = sweep_of(data, num_examples=600, epochs=3)
  ((point, _),) = expand(sweep)
  assert (point.examples, point.epochs, point.size) == (1800, 3, 600)
  run.main(dataclasses.replace(sweep, measure=False, run=dataclasses.replace(sweep.run, workdir=str(tmp_path / "sweep"))))
  rows = load(tmp_path / "sweep").evaluations()
  assert rows["examples"].to_list() == [256, 448, 832, 1600, 1800]
  assert rows.filter(on_data_curve())["examples"].to_list() == [256, 448]


def test_plan_says_what_is_left_out(data: Path, capsys: pytest.CaptureFixture[str]):
  sweep = sweep_of(data, ("data", "rows"), axis_examples=5000, num_examples=9999, order="shuffled")
  plan(extended(sweep, PlanConfig, measure=False))
  shown = capsys.readouterr().err.splitlines()
  assert shown == [
    (
      "shop is read in an order drawn from the seed; runs shorter than its 2,100 training rows take the first rows of that order "
      "(--window=oldest)"
    ),
    "data axis: one pass is the whole curve (--data_mode=online)",
    "--num_examples=9999: the data has 2,100 training rows; all of them are used",
    "--axis_examples=5000: the data has 2,100 training rows; all of them are used",
    "evaluating the first 256 of 900 held-out rows (--eval_examples=all takes all)",
  ]


def test_planted_sweeps_say_nothing_of_rows():
  sweep = presets.PRESETS["tiny"]
  assert data_used.lines(sweep, expand(sweep)) == []


def test_the_estimate_counts_the_evaluated_rows(data: Path):
  """Twice as long a held-out set costs what its rows cost, and early evaluations what they predict."""
  speed = estimate.Speed((estimate.Sample("dlrm", estimate.work_of(*expand(sweep_of(data))[0]), 0.64, 0.25, 0.0),), "by hand")
  for settings in ({"eval_examples": 300}, {"eval_examples": ALL}, {"eval_examples": ALL, "epochs": 2}):
    ((point, source),) = expand(sweep_of(data, **settings))
    train = point.config.train
    evaluated = evaluated_examples(train, open_source(point.config).num_eval_examples(train.eval_examples))
    assert speed.seconds(point, source) == pytest.approx(0.01 * (point.examples + 0.25 * evaluated))
