"""predict: its metrics are the record's, its inputs are those of a slow reference, and the form of a file changes no score."""

import csv
import dataclasses
import gzip
import hashlib
import json
import math
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prepared_case import criteo_lines
from served_case import HEADER, SCHEMA, prepare, rows_of_log, text_of, trained

from dlrm_jax import predict
from dlrm_jax.common import flags, record
from dlrm_jax.data.prepare import inputs
from dlrm_jax.data.prepare.rejects import Tally
from dlrm_jax.data.prepare.scoring import Encoder, Examples, read_examples, scored_file
from dlrm_jax.serving.restored import config_of

ROWS = rows_of_log(2400)
METRICS = ("log_loss", "ne", "base_rate_ne", "roc_auc", "calibration")


@dataclasses.dataclass(frozen=True)
class Case:
  """A directory with a data set `set`, whose last 400 rows are held out, and a run `run` on it."""

  place: Path
  contents: dict[str, Any]
  record: dict[str, Any]

  def predict(self, *words: str, output: str = "scores.parquet", run: str = "run") -> dict[str, Any]:
    """Runs the program and returns the entry of its metrics."""
    given = [f"--restore={self.place}/{run}/checkpoint", f"--output={self.place}/{output}", f"--metrics={self.place}/metrics.json"]
    predict.main(flags.parse(["predict", *given, *words], predict.PredictConfig))
    written = record.read_json(self.place / "metrics.json")
    assert {"schema_version", "command", "hardware", "software"} <= set(written)
    return written["results"][0]

  def file(self, name: str, text: str | bytes) -> str:
    path = self.place / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"--input={path}"

  def scores(self, output: str = "scores.parquet") -> pl.DataFrame:
    path = self.place / output
    return pl.read_parquet(path) if output.endswith("parquet") else pl.read_csv(path)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
  place = tmp_path_factory.mktemp("served")
  contents = prepare(place, ROWS, "--eval_rows=400")
  return Case(place, contents, trained(place, place / "set"))


def agrees(found: dict[str, Any], wanted: dict[str, Any]) -> None:
  for name in METRICS:
    assert found[name] == pytest.approx(wanted[name], rel=1e-6), name


def test_metrics_are_those_of_the_record_on_the_same_rows(case: Case, capsys):
  found = case.predict(case.file("held_out.csv", text_of(ROWS[2000:])))
  agrees(found, case.record)
  assert found["rows"] == found["labelled"] == 400
  assert found["base_rate"] == case.record["base_rate"] == case.contents["splits"]["train"]["base_rate"]
  assert f"ne={found['ne']:.5f} (training click rate {found['base_rate']:.4g})" in capsys.readouterr().out
  table = case.scores()
  assert table.columns == ["file", "line", "label", "logit", "prob"]
  assert table["line"].to_list() == list(range(2, 402))  # the header is line 1
  assert table["label"].to_list() == [int(row[0]) for row in ROWS[2000:]]
  assert set(table["file"]) == {"held_out.csv"}
  prob = table["prob"].to_numpy()
  np.testing.assert_allclose(prob, 1 / (1 + np.exp(-table["logit"].to_numpy().astype(np.float64))), rtol=1e-12)
  label = table["label"].to_numpy()
  assert -np.mean(np.where(label == 1, np.log(prob), np.log1p(-prob))) == pytest.approx(case.record["log_loss"], rel=1e-6)
  assert np.std(table["logit"].to_numpy()) > 0.3  # it has learned something


@pytest.mark.parametrize("setting", ["num_tables", "hash", "rows", "dcn"])
def test_metrics_are_those_of_the_record_for_other_models(case: Case, setting: str):
  words = ("--vocabulary=hash",) if setting == "hash" else ()
  data = case.place / f"set_{setting}"
  prepare(case.place, ROWS, "--eval_rows=400", *words, output=data.name)
  fields: dict[str, Any] = {
    "num_tables": {"num_tables": 2},
    "hash": {"rows_by": "hash"},
    "rows": {"num_rows": 5, "pooling": "mean", "table_dtype": "bfloat16"},
    "dcn": {"interaction": "dcn_v2", "cross_rank": 4, "dense_optimizer": "adam", "table_optimizer": "adam"},
  }
  made = trained(case.place, data, f"run_{setting}", **fields[setting])
  agrees(case.predict(case.file("held_out.csv", text_of(ROWS[2000:])), run=f"run_{setting}"), made)


def scores_of(case: Case, name: str, text: str | bytes, *words: str) -> list[float]:
  case.predict(case.file(name, text), *words)
  return case.scores()["logit"].to_list()


def test_the_form_of_a_file_changes_no_score(case: Case):
  """Order of columns, columns left out, gzip, Parquet, CSV output, batch size."""
  rows = ROWS[1900:2100]
  wanted = scores_of(case, "a.csv", text_of(rows))
  shuffled = list(HEADER)
  random.Random(1).shuffle(shuffled)
  assert scores_of(case, "b.csv", text_of(rows, [*shuffled, "unused"][:-1])) == wanted
  needed = [name for name in shuffled if name != "unused"]
  assert scores_of(case, "c.csv", text_of(rows, needed)) == wanted
  assert scores_of(case, "d.csv.gz", gzip.compress(text_of(rows).encode())) == wanted
  pl.read_csv(text_of(rows).encode(), infer_schema_length=None).write_parquet(case.place / "e.parquet")
  case.predict(f"--input={case.place}/e.parquet")
  assert case.scores()["logit"].to_list() == wanted
  assert case.scores()["line"].to_list() == list(range(1, 201))  # a row of a Parquet file is a line
  np.testing.assert_allclose(scores_of(case, "a.csv", text_of(rows), "--batch_size=7"), wanted, atol=1e-6)
  case.predict(f"--input={case.place}/a.csv", output="scores.csv")
  table = case.scores("scores.csv")
  assert table.columns == ["file", "line", "label", "logit", "prob"]
  np.testing.assert_array_equal(table["logit"].cast(pl.Float32).to_numpy(), np.array(wanted, np.float32))
  assert next(csv.reader((case.place / "scores.csv").read_text().splitlines()[1:]))[:3] == ["a.csv", "2", rows[0][0]]


def test_several_files_are_one_stream_in_natural_order(case: Case):
  """One of them has no label, another has no rows, and some rows have no label."""
  place = case.place / "days"
  place.mkdir()
  (place / "day_2.csv").write_text(text_of(ROWS[:50]))
  (place / "day_10.csv").write_text(text_of(ROWS[50:90], HEADER[1:]))
  missing = [["" if i % 2 else row[0], *row[1:]] for i, row in enumerate(ROWS[90:100])]
  (place / "day_11.csv").write_text(text_of(missing))
  (place / "day_12.csv").write_text(text_of([]))
  found = case.predict(f"--input={place}/*.csv")
  table = case.scores()
  assert table["file"].to_list() == ["day_2.csv"] * 50 + ["day_10.csv"] * 40 + ["day_11.csv"] * 10
  labels = [int(row[0]) for row in ROWS[:50]] + [None] * 40 + [None if i % 2 else int(row[0]) for i, row in enumerate(ROWS[90:100])]
  assert table["label"].to_list() == labels
  assert (found["rows"], found["labelled"]) == (100, 55)
  prob, known = table["prob"].to_numpy(), np.array([x is not None for x in labels])
  label = np.array([x or 0 for x in labels])
  loss = -np.where(label == 1, np.log(prob), np.log1p(-prob))[known].mean()
  assert found["log_loss"] == pytest.approx(loss, rel=1e-6)
  assert table["logit"].to_list() == scores_of(case, "all.csv", text_of(ROWS[:100]))


def test_a_file_without_labels_has_no_metrics(case: Case, capsys):
  found = case.predict(case.file("new.csv", text_of(ROWS[:30], HEADER[1:])))
  assert case.scores().columns == ["file", "line", "logit", "prob"]
  assert {found[name] for name in predict.METRICS} == {None} and found["labelled"] == 0
  out = capsys.readouterr().out.splitlines()
  assert out[0] == f"rows=30  in {case.place}/scores.parquet"
  one_class = case.predict(case.file("ones.csv", text_of([["1", *row[1:]] for row in ROWS[:30]])))
  assert one_class["roc_auc"] is None and one_class["log_loss"] > 0
  assert "roc_auc" not in capsys.readouterr().out


def reference_inputs(rows: list[list[str]], training: list[list[str]]) -> tuple[list[list[float]], list[list[int]], list[list[float]]]:
  """Dense inputs, ids and bag weights of rows of the log, cell by cell, from the training rows alone."""

  def hash_of(feature: str, text: str) -> int:
    key = hashlib.blake2b(feature.encode()).digest()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")

  place = {name: i for i, name in enumerate(HEADER)}
  columns = {"user": ["user"], "item": ["item"], "age": ["age"], "genres": ["genre_1", "genre_2"]}
  ids = {}
  for feature, names in columns.items():
    cells = [row[place[name]] for row in training for name in names]
    counts = Counter(cell for cell in cells if cell or feature != "genres")
    ranked = sorted((cell for cell, n in counts.items() if n >= 2), key=lambda cell: (-counts[cell], hash_of(feature, cell)))
    ids[feature] = {cell: i + 1 for i, cell in enumerate(ranked)}
  dense, found, weights = [], [], []
  for row in rows:
    age, price = row[place["age"]], row[place["price"]]
    dense.append([math.log1p(max(float(age), 0)) if age else 0.0, float(price) if price else 2.5])
    cells = [(feature, row[place[name]]) for feature, names in columns.items() for name in names]
    found.append([ids[feature].get(cell, 0) for feature, cell in cells])
    weights.append([float(bool(cell) or feature != "genres") for feature, cell in cells])
  return dense, found, weights


def examples_of(case: Case, path: Path, log_format: str | None = None) -> tuple[list[Examples], Tally]:
  encoder, tally = Encoder.of(case.place / "set", case.contents), Tally()
  files = [scored_file(path, log_format, encoder.schema)]
  return list(read_examples(files, encoder, [tally], lambda count: None)), tally


def test_inputs_are_those_of_a_slow_reference(case: Case):
  """Held-out rows, rows with values that were never seen, and rows with missing cells."""
  rows = ROWS[2000:] + rows_of_log(200, seed=5, new_users=True)
  (case.place / "rows.csv").write_text(text_of(rows))
  found, _ = examples_of(case, case.place / "rows.csv")
  dense, ids, weights = reference_inputs(rows, ROWS[:2000])
  np.testing.assert_allclose(np.concatenate([one.dense_nm for one in found]), dense, rtol=1e-6)
  np.testing.assert_array_equal(np.concatenate([one.ids_nl for one in found]), ids)
  np.testing.assert_array_equal(np.concatenate([one.bag_weight_nl for one in found]), weights)
  assert 50 < sum(row[0] == 0 for row in ids[400:]) < 150  # unseen users


CELL = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=("Cs",)), max_size=8)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, CELL, st.one_of(st.just(""), st.floats(-1e30, 1e30).map(repr))), min_size=1, max_size=20))
def test_nasty_values_have_the_ids_and_numbers_of_the_reference(case: Case, cells):
  rows = [["1", user, "3", "", price, genre, "", "x"] for user, genre, price in cells]
  path = case.place / "nasty.csv"
  path.write_bytes(text_of(rows).encode())
  found, tally = examples_of(case, path)
  dense, ids, weights = reference_inputs(rows, ROWS[:2000])
  assert not tally.by_reason
  np.testing.assert_array_equal(np.concatenate([one.ids_nl for one in found]), ids)
  np.testing.assert_array_equal(np.concatenate([one.bag_weight_nl for one in found]), weights)
  np.testing.assert_allclose(
    np.concatenate([one.dense_nm for one in found]), dense, rtol=1e-6, atol=1e-37
  )  # float32 has no smaller numbers


def test_bad_lines_are_counted_and_said(case: Case, capsys):
  lines = text_of(ROWS[:20]).splitlines()
  lines[3] = lines[3].replace(lines[3].split(",")[0], "7", 1)  # a label
  lines[5] += ",more"
  lines[7] = "1,u1,3,old,1.0,,,x"
  found = case.predict(case.file("bad.csv", "\n".join(lines)))
  assert (found["rows"], found["rejected"]) == (17, 3)
  assert found["rejected_by_reason"] == {"label is not 0 or 1": 1, "wrong number of columns": 1, "not a number": 1}
  assert case.scores()["line"].to_list() == [n for n in range(2, 22) if n not in (4, 6, 8)]
  said = [line for line in capsys.readouterr().err.splitlines() if "not scored" in line]
  assert len(said) == 1 and said[0].startswith("3 of 20 lines are not scored: ") and "line 4" in said[0]


def test_values_without_an_id_are_counted_and_said(case: Case, capsys):
  """Those of a column that is written in another way, above all: 3.0 is not 3."""
  rows = [[*row[:2], f"{row[2]}.0", *row[3:]] for row in ROWS[2000:]]
  found = case.predict(case.file("floats.csv", text_of(rows)))
  _, ids, weights = reference_inputs(rows, ROWS[:2000])
  unknown, known = np.array(ids) == 0, np.array(weights) > 0
  wanted = {
    "user": unknown[:, 0].mean(),
    "item": 1.0,
    "age": unknown[:, 2].mean(),
    "genres": (unknown & known)[:, 3:].sum() / known[:, 3:].sum(),
  }
  assert found["unknown_share"] == pytest.approx(wanted)
  out, err = capsys.readouterr()
  shares = sorted(((share, name) for name, share in wanted.items() if share), reverse=True)
  text = ", ".join(f"{name} {share:.2%}" for share, name in shares)
  assert out.splitlines()[1:] == [f"values without an id of their own (unseen or rare in training): {text}"] and "item 100.00%" in text
  said = [line for line in err.splitlines() if "unseen or rare" in line]
  assert said == [
    "values that were unseen or rare in training: item 100%; are they written as in the training log (3 and 3.0 are two values)?"
  ]


def test_rows_of_weight_0_are_scored_and_count_nothing_in_the_metrics(tmp_path: Path, capsys):
  """Metrics are those of the record, whose evaluation has no rows of weight 0; scores are those of a file without weights."""
  place, weights = HEADER.index("unused"), ("0", "0.5", "1", "4")
  rows = [[*row[:place], weights[i % 4]] for i, row in enumerate(ROWS)]
  contents = prepare(tmp_path, rows, "--eval_rows=300", schema='weight = "unused"\n' + SCHEMA)
  case = Case(tmp_path, contents, trained(tmp_path, tmp_path / "set", num_examples=1500))
  held_out = rows[2000:]
  found = case.predict(case.file("held_out.csv", text_of(held_out)))
  agrees(found, case.record)
  assert (found["rows"], found["labelled"], found["rows_of_weight_0"]) == (400, 400, 100)
  wanted = case.scores()
  assert wanted["line"].to_list() == list(range(2, 402))
  assert "100 of 400 rows have weight 0: they are scored, and count nothing in the metrics" in capsys.readouterr().err
  without = case.predict(case.file("held_out.csv", text_of(held_out, HEADER[:place])))
  assert without["rows_of_weight_0"] == 0 and case.scores()["logit"].to_list() == wanted["logit"].to_list()
  assert capsys.readouterr().err == "no file has the column 'unused' of weights: all rows count alike in the metrics\n"
  ones = case.predict(case.file("ones.csv", text_of([[*row[:place], "1"] for row in held_out])))
  assert {name: ones[name] for name in predict.METRICS} == {name: without[name] for name in predict.METRICS}
  (tmp_path / "some_1.csv").write_text(text_of(held_out))
  (tmp_path / "some_2.csv").write_text(text_of(held_out, HEADER[:place]))
  (tmp_path / "some_3.csv").write_text("")
  with pytest.raises(flags.UserError, match=r"some_2.csv: lacks the column 'unused' of weights, which other files have: add it, or give"):
    case.predict(f"--input={tmp_path}/some_*.csv")
  (tmp_path / "some_2.csv").write_text(text_of(held_out, HEADER[1:place]))  # without labels, it is in no metric
  capsys.readouterr()
  assert case.predict(f"--input={tmp_path}/some_*.csv")["labelled"] == 400 and "of weights" not in capsys.readouterr().err
  weightless = case.predict(case.file("zeros.csv", text_of([row for row in held_out if row[place] == "0"])))
  assert weightless["rows"] == 100 and weightless["log_loss"] is None


def test_standard_input_and_pipes_are_scored_like_files(case: Case, monkeypatch):
  wanted = scores_of(case, "a.csv", text_of(ROWS[:60]))
  read, write = os.pipe()
  os.write(write, text_of(ROWS[:60]).encode())
  os.close(write)
  opened = open
  monkeypatch.setattr(inputs, "open", lambda path, *more, **named: opened(read if path == 0 else path, *more, **named), raising=False)
  case.predict("--input=-")
  os.close(read)
  assert case.scores()["logit"].to_list() == wanted and set(case.scores()["file"]) == {"stdin"}
  os.mkfifo(case.place / "fifo")
  thread = threading.Thread(target=(case.place / "fifo").write_text, args=(text_of(ROWS[:60]),), daemon=True)
  thread.start()
  case.predict(f"--input={case.place}/fifo")
  thread.join(60)
  (case.place / "fifo").unlink()
  assert case.scores()["logit"].to_list() == wanted
  assert not list(case.place.glob(".scores*"))


def test_criteo_files_with_and_without_labels(tmp_path: Path):
  lines = criteo_lines(700)
  (tmp_path / "log.tsv").write_text("\n".join(lines) + "\n")
  words = ["--format=criteo_tsv", f"--input={tmp_path}/log.tsv", f"--output={tmp_path}/set", "--eval_rows=100", "--workers=1"]
  from dlrm_jax.data.prepare import program

  contents = program.prepare(flags.parse(["prepare", *words], program.PrepareConfig))
  assert contents is not None
  case = Case(tmp_path, contents, trained(tmp_path, tmp_path / "set", num_examples=600))
  found = case.predict(case.file("held_out.tsv", "\n".join(lines[600:])))
  agrees(found, case.record)
  wanted = case.scores()["logit"].to_list()
  without = case.predict(case.file("test.txt", "\n".join(line.partition("\t")[2] for line in lines[600:]) + "\n"))
  assert without["labelled"] == 0
  assert case.scores()["logit"].to_list() == wanted
  assert case.scores()["line"].to_list() == list(range(1, 101))


def refused(case: Case, refusal, *words: str) -> str:
  before = sorted(path for path in case.place.iterdir())
  shown = refusal(predict.main, predict.PredictConfig, {}, [f"--restore={case.place}/run/checkpoint", *words])
  assert sorted(path for path in case.place.iterdir()) == before
  return shown


def test_bad_input_is_refused_in_one_line(case: Case, refusal):
  good, out = case.file("good.csv", text_of(ROWS[:5])), f"--output={case.place}/none.parquet"
  shown = refused(case, refusal, case.file("few.csv", text_of(ROWS[:5], [n for n in HEADER if n != "item"])), out)
  assert "few.csv: no column 'item', which the schema names" in shown
  (case.place / "dir.csv").mkdir()
  assert "must be a name ending in .parquet or .csv" in refused(case, refusal, good, "--output=scores.txt")
  assert "must be a file; it is a directory" in refused(case, refusal, good, f"--output={case.place}/dir.csv")
  assert "is one of the inputs" in refused(case, refusal, good, f"--output={case.place}/good.csv")
  assert "no such file" in refused(case, refusal, f"--input={case.place}/absent.csv", out)
  assert "no row to score" in refused(case, refusal, case.file("empty.csv", text_of([])), out)
  assert "there is no checkpoint" in refused(case, refusal, good, out, f"--restore={case.place}/set")
  assert "no dataset.json in it" in refused(case, refusal, good, out, f"--data={case.place}")


def test_the_data_set_is_found_checked_and_may_be_named(case: Case, tmp_path: Path, refusal):
  """A copy elsewhere will do; another data set, or one without its vocabularies, is refused."""
  import shutil

  good, out = case.file("good.csv", text_of(ROWS[:5])), f"--output={case.place}/none.parquet"
  wanted = scores_of(case, "good.csv", text_of(ROWS[:5]))
  shutil.copytree(case.place / "set", tmp_path / "copy")
  for shard in (tmp_path / "copy").glob("*.parquet"):
    shard.unlink()  # a server needs dataset.json and the vocabularies alone
  assert scores_of(case, "good.csv", text_of(ROWS[:5]), f"--data={tmp_path}/copy") == wanted
  prepare(tmp_path, ROWS, "--eval_rows=400", "--min_count=1", output="other")
  shown = refused(case, refusal, good, out, f"--data={tmp_path}/other")
  assert "has other inputs or another vocabulary than the one that the checkpoint was trained on" in shown
  place = case.contents["vocabulary"]["files"][1]["file"]
  path = tmp_path / "copy" / place
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))
  assert f"{path}: " in refused(case, refusal, good, out, f"--data={tmp_path}/copy")
  path.unlink()
  assert f"{path}: no such file" in refused(case, refusal, good, out, f"--data={tmp_path}/copy")
  contents = json.loads((tmp_path / "copy" / "dataset.json").read_text())
  del contents["vocabulary"]["files"]
  (tmp_path / "copy" / "dataset.json").write_text(json.dumps(contents))
  shown = refused(case, refusal, good, out, f"--data={tmp_path}/copy")
  assert "was prepared by a version that kept no vocabulary: prepare the log again" in shown


def test_planted_models_cannot_score_files(tmp_path: Path, refusal):
  from dlrm_jax.config import ModelConfig, RunConfig, TrainConfig
  from dlrm_jax.training import loop

  train = TrainConfig(num_examples=256, batch_size=64, eval_examples=64)
  loop.train(RunConfig(checkpoint=True, model=ModelConfig(embed_dim=4, num_rows=10), train=train), tmp_path / "run", quiet=True)
  (tmp_path / "x.csv").write_text("a\n1\n")
  words = [f"--restore={tmp_path}/run", f"--input={tmp_path}/x.csv", f"--output={tmp_path}/y.csv"]
  assert "was trained on planted data" in refusal(predict.main, predict.PredictConfig, {}, words)


def test_a_kill_leaves_no_half_written_file(case: Case, monkeypatch):
  """What stops the program in the middle leaves the file that was there."""
  case.predict(case.file("good.csv", text_of(ROWS[:50])))
  before = (case.place / "scores.parquet").read_bytes()

  def stopped(*args: Any) -> Iterator[Any]:
    yield next(iter(scored(*args)))
    raise KeyboardInterrupt

  scored = predict.scored
  monkeypatch.setattr(predict, "scored", stopped)
  with pytest.raises(KeyboardInterrupt):
    case.predict(case.file("good.csv", text_of(ROWS[:70])))
  assert (case.place / "scores.parquet").read_bytes() == before
  assert not list(case.place.glob(".scores*"))


DAMAGED = [("model.embed_dim", "zzz"), ("model.overarch", 3), ("train.batch_size", -1), ("train.seed", None)]


@pytest.mark.parametrize(("name", "value"), DAMAGED)
def test_a_setting_that_is_damaged_is_one_line(name, value):
  with pytest.raises(flags.UserError, match=f"place: its {name.partition('.')[0]} settings are damaged") as caught:
    config_of({name: value}, Path("place"))
  assert "\n" not in str(caught.value)
