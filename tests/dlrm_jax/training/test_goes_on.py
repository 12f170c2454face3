"""train --restore with another data set: a model goes on with tomorrow's rows as if they had been in its own log."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from served_case import config, prepare, rows_of_log, trained

from dlrm_jax import predict, train
from dlrm_jax.common import flags, record, stopping
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.source import open_source
from dlrm_jax.training import checkpoint, found_rates, loop

DAYS = [rows_of_log(count, seed=day, new_users=day > 0) for day, count in enumerate((1600, 500, 300))]
BATCH = 64


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Three days, each prepared like the first; the first two and all three in one; and a run on the first."""
  place = tmp_path_factory.mktemp("days")
  prepare(place, DAYS[0], "--eval_rows=320", output="day_0")  # 1,280 training rows: 20 batches
  prepare(place, DAYS[1], f"--like={place}/day_0", "--eval_rows=52", output="day_1")  # 448 training rows: 7 batches
  prepare(place, DAYS[2], f"--like={place}/day_0", output="day_2")
  both = [*DAYS[0][:1280], *DAYS[1]]
  prepare(place, both, f"--like={place}/day_0", "--eval_rows=52", output="both")
  trained(place, place / "day_0", "run_0", num_examples=1280)
  return place


def logits(place: Path, run: str) -> list[float]:
  words = [f"--restore={place / run}", f"--input={place}/day_2.csv", f"--output={place / run}.parquet"]
  predict.main(flags.parse(["predict", *words], predict.PredictConfig))
  return pl.read_parquet(place / f"{run}.parquet")["logit"].to_list()


def goes_on(place: Path, day: str, run: str, of: str, **settings: Any) -> dict[str, Any]:
  return trained(place, place / day, run, restore=str(place / of / "checkpoint"), **({"num_examples": 10**6} | settings))


def test_it_is_the_run_on_both_days(place: Path):
  """The rows of two days in one log, of the same vocabulary, leave the same weights, to the last bit."""
  made = goes_on(place, "day_1", "run_1", "run_0")
  whole, day_0 = trained(place, place / "both", "whole", num_examples=10**6), record.read_json(place / "run_0" / "record.json")
  assert (made["examples"], made["restored_examples"]) == (1280 + 448, 1280)
  assert whole["examples"] == 1728
  assert logits(place, "run_1") == logits(place, "whole")
  for name in ("log_loss", "ne", "roc_auc"):  # on the same held-out rows; NE by the click rate of the second day's rows
    if name != "ne":
      assert made[name] == pytest.approx(whole[name], rel=1e-6), name
  assert made["log_loss"] / made["ne"] != pytest.approx(whole["log_loss"] / whole["ne"], rel=1e-6)
  losses = [made["progressive_log_loss"] * 448, *(run["progressive_log_loss"] * run["examples"] for run in (whole, day_0))]
  assert losses[0] == pytest.approx(losses[1] - losses[2], rel=1e-5)  # the loss of the second day's rows alone
  assert "logistic_ne" in whole and "logistic_ne" not in made  # a regression on the second day alone is no baseline of both
  curve = record.read_curve(place / "run_1" / "curve.jsonl")
  assert [row["examples"] for row in curve][-1] == 1728 and min(row["examples"] for row in curve) > 1280


def test_ids_name_the_rows_that_a_run_has_seen(place: Path, tmp_path: Path):
  """The same way gives the same id; another way, or the second day alone, another one. Ids of runs on one data set are as they were."""
  for name in ("day_0", "day_1", "day_2", "run_0"):
    shutil.copytree(place / name, tmp_path / name)
  first = goes_on(tmp_path, "day_1", "a", "run_0")
  again = goes_on(tmp_path, "day_1", "b", "run_0")
  alone = trained(tmp_path, tmp_path / "day_1", "alone", num_examples=10**6)
  other = trained(tmp_path, tmp_path / "day_0", "short", num_examples=640)
  shorter = goes_on(tmp_path, "day_1", "c", "short")
  third = goes_on(tmp_path, "day_2", "d", "a")
  assert again["config_id"] == first["config_id"]
  ids = [made["config_id"] for made in (first, alone, other, shorter, third)]
  assert len(set(ids)) == 5
  facts = checkpoint.read_run(next((tmp_path / "d" / "checkpoint").iterdir()))
  digests = [record.read_json(tmp_path / f"day_{day}" / "dataset.json")["digest"] for day in (0, 1)]
  assert facts["earlier_data"] == [[digests[0], 1280], [digests[1], 1728]]
  assert third["examples"] == 1728 + 300


def test_days_that_end_inside_a_batch_and_hold_nothing_out(place: Path):
  """All rows of a day count, whatever the batch; without held-out rows the curve has the progressive loss alone."""
  made = goes_on(place, "day_2", "run_2", "run_0", batch_size=BATCH)
  assert made["status"] == "done" and made["examples"] == 1280 + 300
  assert record.read_json(place / "run_2" / "record.json")["log_loss"] is None and made["progressive_log_loss"] > 0
  assert {row["log_loss"] for row in record.read_curve(place / "run_2" / "curve.jsonl")} == {None}
  more = goes_on(place, "day_1", "run_3", "run_2")  # 1,580 examples are no whole number of batches
  assert more["examples"] == 1580 + 448 and more["log_loss"] > 0


def test_a_stop_in_the_second_day_changes_nothing(place: Path, monkeypatch):
  """The same command goes on from its own checkpoint, to the same bits, also where the first run's is gone by then."""
  goes_on(place, "day_1", "whole_1", "run_0")
  settings = config(place / "day_1", num_examples=10**6, first_eval=100, evals_per_octave=4)
  shutil.copytree(place / "run_0", place / "moved")
  settings = dataclasses.replace(settings, restore=str(place / "moved" / "checkpoint"))
  goes_on(place, "day_1", "fine", "run_0", first_eval=100, evals_per_octave=4)
  stops = iter([False] * 6 + [True])
  monkeypatch.setattr(stopping, "requested", lambda: next(stops, True))
  with pytest.raises(stopping.Stopped):
    loop.train(settings, place / "stopped", quiet=True)
  monkeypatch.undo()
  seen = checkpoint.read_run(max((place / "stopped" / "checkpoint").iterdir()))["examples"]
  assert 1280 < seen < 1728
  shutil.rmtree(place / "moved")
  out = loop.train(settings, place / "stopped", quiet=True)
  wanted = record.read_json(place / "fine" / "record.json")
  assert (out["config_id"], out["examples"], out["log_loss"]) == (wanted["config_id"], wanted["examples"], wanted["log_loss"])
  assert logits(place, "stopped") == logits(place, "fine")


def test_rates_that_were_found_go_on(place: Path, capsys: pytest.CaptureFixture[str]):
  """The flags of the first run, with --restore: --lr_find takes the checkpoint's rates, also where the run goes on after a stop."""
  found = trained(place, place / "day_0", "found", num_examples=1280, table_lr=0.4, dense_lr=0.0075)
  wanted = "was trained at --table_lr=0.4 --dense_lr=0.0075; give these flags, or --lr_find, which takes the rates of a checkpoint"
  with pytest.raises(UserError, match=rf"^--restore=\S+: {wanted}$"):
    goes_on(place, "day_1", "none", "found")
  with pytest.raises(UserError, match=rf"^--restore=\S+: {wanted}$"):
    goes_on(place, "day_1", "none", "found", table_lr=0.4)
  given = goes_on(place, "day_1", "given", "found", table_lr=0.4, dense_lr=0.0075)
  shutil.copytree(place / "found", place / "gone")
  finding = dataclasses.replace(config(place / "day_1", num_examples=10**6), lr_find=True, restore=str(place / "gone" / "checkpoint"))
  finding = dataclasses.replace(finding, workdir=str(place / "finding"))
  train.main(finding)
  out = record.read_json(place / "finding" / "record.json")
  assert (out["config_id"], out["log_loss"], out["lr_find"]) == (given["config_id"], given["log_loss"], None)
  assert found["config_id"] != out["config_id"]
  said = capsys.readouterr().err
  assert "rates: --table_lr=0.4 --dense_lr=0.0075, those of the checkpoint that this run goes on from" in said
  assert not (place / "finding" / "lr_find.json").exists()
  shutil.rmtree(place / "gone")  # its own checkpoint has the rates, too
  assert found_rates.at_found_rates(finding, open_source(finding)).train.table_lr == 0.4


def test_other_vocabularies_are_refused_in_one_line(place: Path):
  prepare(place, DAYS[1], output="own")  # its own ids
  with pytest.raises(UserError) as error:
    goes_on(place, "own", "none", "run_0")
  wanted = r"--restore=\S+: was trained on day_0, and \S+own has other inputs or another vocabulary; prepare the log with --like=\S+day_0"
  assert re.fullmatch(wanted, str(error.value))
  with pytest.raises(UserError, match="embed_dim is 4, this run's is 8"):
    goes_on(place, "day_1", "none", "run_0", embed_dim=8)
  with pytest.raises(UserError, match="no rows are held out"):
    trained(place, place / "day_2", "none")
  assert not (place / "none").exists()


def test_predictions_of_the_second_run_find_its_data(place: Path):
  """NE refers to the rows that it was trained on last; its own held-out rows give its record's metrics."""
  made = goes_on(place, "day_1", "run_4", "run_0")
  lines = (place / "day_1.csv").read_text().splitlines(keepends=True)
  (place / "held_out.csv").write_text("".join([lines[0], *lines[449:]]))
  words = [f"--restore={place}/run_4", f"--input={place}/held_out.csv", f"--output={place}/x.csv", f"--metrics={place}/metrics.json"]
  predict.main(flags.parse(["predict", *words], predict.PredictConfig))
  found = record.read_json(place / "metrics.json")["results"][0]
  assert found["rows"] == 52
  for name in ("log_loss", "ne", "roc_auc", "calibration"):
    assert found[name] == pytest.approx(made[name], rel=1e-6), name
  assert np.isfinite(found["ne"])
