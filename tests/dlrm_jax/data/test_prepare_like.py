"""prepare --like: a new log gets the ids, transforms and columns of a data set."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from prepared_case import criteo_lines, rows_of
from served_case import HEADER, SCHEMA, prepare, rows_of_log, text_of, trained

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data.dataset import encoding_of, open_dataset
from dlrm_jax.data.prepare import program
from dlrm_jax.data.prepare.like import Like
from dlrm_jax.data.prepare.scoring import Encoder

ROWS = rows_of_log(1500)
TOMORROW = rows_of_log(400, seed=9, new_users=True)


def files_of(directory: Path, ending: str) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in directory.iterdir() if path.name.endswith(ending)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
  place = tmp_path_factory.mktemp("like")
  prepare(place, ROWS, "--eval_rows=300")
  return place


def test_the_same_log_like_its_own_data_set_is_the_same_data_set(place: Path):
  """Ids, transforms and digest: nothing depends on the log's own counts."""
  made = prepare(place, ROWS, f"--like={place}/set", "--eval_rows=300", output="again")
  before = json.loads((place / "set" / "dataset.json").read_text())
  assert made["digest"] == before["digest"]
  assert files_of(place / "again", ".parquet") == files_of(place / "set", ".parquet")
  assert made["vocabulary"] == before["vocabulary"]
  assert encoding_of(made) == encoding_of(before)
  open_dataset(place / "again", verify=True)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tomorrows_rows_have_yesterdays_ids(place: Path, tmp_path: Path, form: str):
  """A value has the id that it had; others have id 0, however often they are there; all rows are training rows unless flags say more."""
  known: dict[str, dict[str, int]] = {}
  before = rows_of(place / "set", "train")
  for name, column in (("user", 1), ("item", 2), ("age", 3)):
    known[name] = {row[column]: found for row, found in zip(ROWS, before[f"id.{name}"].to_list(), strict=False)}
  text = text_of(TOMORROW)
  (tmp_path / "log.csv").write_text(text)
  if form == "parquet":
    pl.read_csv(text.encode(), infer_schema_length=None).write_parquet(tmp_path / "log.parquet")
  words = [f"--format={form}", f"--input={tmp_path}/log.{form}", f"--output={tmp_path}/new", f"--like={place}/set", "--workers=1"]
  made = program.prepare(flags.parse(["prepare", *words], program.PrepareConfig))
  assert made is not None
  after, contents = rows_of(tmp_path / "new", "train"), json.loads((place / "set" / "dataset.json").read_text())
  assert list(made["splits"]) == ["train"] and len(after) == len(TOMORROW)
  for name, column in (("user", 1), ("item", 2), ("age", 3)):
    assert after[f"id.{name}"].to_list() == [known[name].get(row[column], 0) for row in TOMORROW]
  assert sum(row[1].startswith("new") for row in TOMORROW) > 100  # seen many times, and yet unknown
  np.testing.assert_allclose(after["dense.age"], [np.log1p(float(row[3])) if row[3] else 0 for row in TOMORROW], rtol=1e-6)
  np.testing.assert_allclose(after["dense.price"], [float(row[4]) if row[4] else 2.5 for row in TOMORROW], rtol=1e-6)
  assert made["digest"] != contents["digest"] and encoding_of(made) == encoding_of(contents)
  assert [c["cardinality"] for c in made["columns"]["categorical"]] == [c["cardinality"] for c in contents["columns"]["categorical"]]
  assert files_of(tmp_path / "new", ".arrow") == files_of(place / "set", ".arrow")
  assert made["like"] == {"name": "set", "digest": contents["digest"]}


def test_rows_are_held_out_where_flags_say_so_and_a_chain_goes_on(place: Path):
  made = prepare(place, TOMORROW, f"--like={place}/set", "--eval_fraction=0.25", output="tomorrow")
  assert {name: split["rows"] for name, split in made["splits"].items()} == {"train": 300, "eval": 100}
  again = prepare(place, TOMORROW, f"--like={place}/tomorrow", output="chain")
  assert encoding_of(again) == encoding_of(made)
  assert files_of(place / "chain", ".arrow") == files_of(place / "set", ".arrow")


def test_statistics_of_transforms_are_those_of_the_first_log(tmp_path: Path):
  schema = SCHEMA.replace('transform = "log1p"', 'transform = "standard"').replace(
    'transform = "none", missing = 2.5', 'transform = "quantile"'
  )
  schema = schema.replace("age = {", 'item = { transform = "bins", bins = 5 }\nage = {')
  first = prepare(tmp_path, ROWS, "--eval_rows=300", schema=schema)
  shifted = [[*row[:4], str(float(row[4]) + 5) if row[4] else "", *row[5:]] for row in TOMORROW]
  made = prepare(tmp_path, shifted, f"--like={tmp_path}/set", output="new")
  assert encoding_of(made) == encoding_of(first)
  new = rows_of(tmp_path / "new", "train")
  price = np.array([float(row[4]) for row in shifted if row[4]])
  found = np.array([x for x, row in zip(new["dense.price"].to_list(), shifted, strict=True) if row[4]])
  assert found[price > 6].min() > 2  # beyond all that the first log had: its own quantiles would centre them


def test_criteo_and_hashed_ids_too(tmp_path: Path):
  lines = criteo_lines(400)
  (tmp_path / "a.tsv").write_text("\n".join(lines[:300]) + "\n")
  (tmp_path / "b.tsv").write_text("\n".join(lines[200:]) + "\n")
  for mode in ("frequency", "hash"):
    a = [f"--input={tmp_path}/a.tsv", f"--output={tmp_path}/a_{mode}", f"--vocabulary={mode}", "--eval_rows=1"]
    b = [f"--input={tmp_path}/b.tsv", f"--output={tmp_path}/b_{mode}", f"--like={tmp_path}/a_{mode}"]
    first, second = (
      program.prepare(flags.parse(["prepare", "--format=criteo_tsv", "--workers=1", *words], program.PrepareConfig)) for words in (a, b)
    )
    assert first and second and encoding_of(first) == encoding_of(second)
    before, after = rows_of(tmp_path / f"a_{mode}", "train"), rows_of(tmp_path / f"b_{mode}", "train")
    assert before[200:299].equals(after[:99])


def edited(place: Path, **entries: Any) -> Path:
  """A copy of dataset.json with other entries, in a directory of its own without shards."""
  contents = json.loads((place / "set" / "dataset.json").read_text()) | entries
  old = place / f"edited_{len(list(place.iterdir()))}"
  old.mkdir()
  (old / "dataset.json").write_text(json.dumps(contents))
  return old


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_log_without_weights_counts_all_rows_alike_and_says_so(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]):
  """It is the data set of the log with weights of 1, but for that column; the next log may have weights again."""
  place = HEADER.index("unused")
  prepare(tmp_path, [[*row[:place], str(i % 3)] for i, row in enumerate(ROWS)], "--eval_rows=300", schema='weight = "unused"\n' + SCHEMA)
  trained(tmp_path, tmp_path / "set", num_examples=640)

  def tomorrow(name: str, *files: str) -> dict[str, Any]:
    for i, text in enumerate(files):
      (tmp_path / f"{name}_{i}.csv").write_text(text)
      if text and form == "parquet":
        pl.read_csv(text.encode(), infer_schema_length=None).write_parquet(tmp_path / f"{name}_{i}.parquet")
    words = [f"--format={form}", f"--input={tmp_path}/{name}_*.{form}", f"--like={tmp_path}/set", f"--output={tmp_path}/{name}"]
    program.main(flags.parse(["prepare", *words, "--workers=1"], program.PrepareConfig))
    return json.loads((tmp_path / name / "dataset.json").read_text())

  capsys.readouterr()
  ones = tomorrow("ones", text_of([[*row[:place], "1"] for row in TOMORROW]))
  assert "of weights" not in capsys.readouterr().out
  without = tomorrow("without", text_of(TOMORROW[:100], HEADER[:place]), "", text_of(TOMORROW[100:], HEADER[:place]))
  assert "no weights: no file has the column 'unused' of weights: all rows count alike, with weight 1" in capsys.readouterr().out
  assert without["splits"]["train"]["base_rate"] == ones["splits"]["train"]["base_rate"]
  assert encoding_of(without) == encoding_of(ones) and without["schema"]["weight"] == "unused"
  read = rows_of(tmp_path / "ones", "train")
  assert rows_of(tmp_path / "without", "train").equals(read.drop("weight")) and (read["weight"] == 1).all()
  runs = [trained(tmp_path, tmp_path / name, f"run_{name}", num_examples=10**6, restore=f"{tmp_path}/run") for name in ("ones", "without")]
  assert runs[0]["progressive_log_loss"] == runs[1]["progressive_log_loss"]
  again = flags.parse(
    [
      "p",
      f"--format={form}",
      "--workers=1",
      f"--input={tmp_path}/ones_0.{form}",
      f"--like={tmp_path}/without",
      f"--output={tmp_path}/again",
    ],
    program.PrepareConfig,
  )
  made = program.prepare(again)
  assert made is not None and made["digest"] == ones["digest"]
  with pytest.raises(UserError, match=rf"some_1.{form}: lacks the column 'unused' of weights, which other files have: add it, or give"):
    tomorrow("some", text_of(TOMORROW[:200]), text_of(TOMORROW[200:], HEADER[:place]))


def test_bad_input_is_refused_in_one_line(place: Path):
  with pytest.raises(UserError, match=r"--like=.*/set: has a schema of its own; leave out --schema"):
    prepare(place, TOMORROW, f"--like={place}/set", f"--schema={place}/schema.toml", output="x")
  with pytest.raises(UserError, match=r"--min_count=3: must be left out with --like"):
    prepare(place, TOMORROW, f"--like={place}/set", "--min_count=3", output="x")
  with pytest.raises(UserError, match=r"--vocabulary=hash: must be left out with --like"):
    prepare(place, TOMORROW, f"--like={place}/set", "--vocabulary=hash", output="x")
  (place / "x.csv").write_text(text_of(TOMORROW, HEADER[1:]))
  words = ["--format=csv", f"--input={place}/x.csv", f"--output={place}/x", f"--like={place}/set"]
  with pytest.raises(UserError, match=r"no column 'clicked', .*; rows without their label can be scored alone \(dlrm_jax\.predict\)$"):
    program.prepare(flags.parse(["prepare", *words], program.PrepareConfig))
  with pytest.raises(UserError, match=r"no dataset\.json in it"):
    prepare(place, TOMORROW, f"--like={place}", output="x")
  old = edited(place, vocabulary={"mode": "frequency", "min_count": 2})
  with pytest.raises(UserError, match=r"was prepared by a version that kept no vocabulary: prepare the log again"):
    prepare(place, TOMORROW, f"--like={old}", output="x")
  with pytest.raises(UserError, match=r"vocabulary-00000\.arrow: no such file"):
    prepare(place, TOMORROW, f"--like={edited(place)}", output="x")
  assert not (place / "x").exists() and not (place / ".x.partial").exists()


def test_a_damaged_dataset_json_is_refused_in_one_line(place: Path, tmp_path: Path):
  """Any value of its columns, vocabularies and splits replaced or taken out is refused, or does no harm to what is read."""
  schema = SCHEMA.replace('"none", missing = 2.5', '"quantile", bins = 4').replace('"log1p"', '"standard"')
  prepare(tmp_path, ROWS[:300], schema=schema)
  file = tmp_path / "set" / "dataset.json"
  good, tried, refused = file.read_text(), 0, list[str]()

  def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ():
      yield (*here, key)
      yield from places(inner, (*here, key))

  for place_ in places({name: json.loads(good)[name] for name in ("columns", "vocabulary", "splits", "digest")}):
    for bad in (None, "zzz", -5, 1e300, [1, "a"], {}, "gone"):
      contents = json.loads(good)
      at = contents
      for key in place_[:-1]:
        at = at[key]
      if bad == "gone":
        del at[place_[-1]]
      else:
        at[place_[-1]] = bad
      file.write_text(json.dumps(contents))
      tried += 1
      try:
        like = Like.open(str(tmp_path / "set"))
        Encoder.of(like.directory, like.contents)
      except UserError as error:
        refused.append(str(error))
  assert not any("\n" in line for line in refused)
  assert tried > 500 and len(refused) > 0.4 * tried


@pytest.mark.parametrize(
  ("where", "bad"),
  [(("dense", 0, "mean"), None), (("dense", 0, "deviation"), "1"), (("dense", 0, "transform"), "sqrt"), (("categorical", 0), 1e300)],
)
def test_what_is_damaged_is_said(tmp_path: Path, where: tuple[Any, ...], bad: Any):
  prepare(tmp_path, ROWS[:300], schema=SCHEMA.replace('"log1p"', '"standard"'))
  file = tmp_path / "set" / "dataset.json"
  contents = json.loads(file.read_text())
  at = contents["columns"]
  for key in where[:-1]:
    at = at[key]
  at[where[-1]] = bad
  file.write_text(json.dumps(contents))
  with pytest.raises(UserError, match=r"set/dataset\.json: not made by dlrm_jax\.data\.prepare \(.+\)$"):
    prepare(tmp_path, TOMORROW, f"--like={tmp_path}/set", output="new")
  assert not (tmp_path / "new").exists()
