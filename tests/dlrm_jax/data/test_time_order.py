"""Logs with a time column: rows sorted by it, split by date, and its features, against a slow reference over rows in memory."""

import collections
import datetime
import json
import os
import random
import subprocess
import sys
import zoneinfo
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import ROOT
from prepared_case import criteo_lines, rows_of

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data import shard_format
from dlrm_jax.data.prepare import arrange, program, read, scoring, shards, vocabulary
from dlrm_jax.data.prepare.options import PrepareConfig
from dlrm_jax.data.prepare.program import prepare
from dlrm_jax.data.prepare.rejects import Tally

UTC = datetime.UTC
START = datetime.datetime(2024, 4, 28, 21, tzinfo=UTC)  # a Sunday
Row = tuple[datetime.datetime, int, str | None, int]  # time, label, category, number of the row

SCHEMA = 'label = "y"\ncategorical = ["c"]\n[dense]\nrow = { transform = "none" }\n[time]\ncolumn = "ts"\n'


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """Pieces of bytes, and shards of two groups of 31 rows."""
  monkeypatch.setattr(program, "_MIB", 1)
  monkeypatch.setattr(shard_format, "ROWS_PER_GROUP", 31)
  monkeypatch.setattr(shard_format, "GROUPS_PER_SHARD", 2)
  monkeypatch.setattr(read, "CHUNK_ROWS", 8)


def log_of(seed: int, rows: int = 150, kinds: int = 12) -> list[Row]:
  """Rows in a random order of time, with ties."""
  rng = random.Random(seed)
  times = [START + datetime.timedelta(minutes=rng.randrange(0, 60 * 24 * 6, 60 * rng.choice([1, 24]))) for _ in range(rows)]
  if seed % 3 == 0:  # nearly in order
    times.sort()
    for _ in range(3):
      i, j = rng.randrange(rows), rng.randrange(rows)
      times[i], times[j] = times[j], times[i]
  return [(time, rng.randrange(2), rng.choice([None, *"abcdefghijkl"[:kinds]]), i) for i, time in enumerate(times)]


def write_log(directory: Path, log: list[Row], files: int, kind: str) -> list[str]:
  """Writes the log as several files of one kind, and returns the flags that name them."""
  cuts = [0, *sorted(random.Random(len(log)).sample(range(1, len(log)), files - 1)), len(log)]
  for i, (start, stop) in enumerate(zip(cuts, cuts[1:])):
    rows = log[start:stop]
    if kind == "csv":
      text = "".join(f"{time.isoformat()},{y},{c or ''},{row}\n" for time, y, c, row in rows)
      (directory / f"log_{i}").write_text("ts,y,c,row\n" + text)
    else:
      columns = dict(zip(("ts", "y", "c", "row"), map(list, zip(*rows, strict=True)), strict=True))
      table = pa.table(columns | {"ts": pa.array(columns["ts"], pa.timestamp("ms", "UTC")), "c": pa.array(columns["c"], pa.string())})
      pq.write_table(table, directory / f"log_{i}", row_group_size=9)
  return [f"--format={kind}", f"--input={directory}/log_*", "--min_count=1"]


def run(directory: Path, words: list[str], *more: str, schema: str = "", output: str = "out") -> Path:
  (directory / "s.toml").write_text(SCHEMA + schema)
  given = ["prepare", "--piece_mib=100000", *words, f"--schema={directory}/s.toml", f"--output={directory / output}", "--workers=1", *more]
  prepare(flags.parse(given, PrepareConfig))
  return directory / output


def numbers(out: Path) -> dict[str, list[int]]:
  """The numbers of the rows of each split, in order."""
  splits = json.loads((out / "dataset.json").read_text())["splits"]
  return {split: [int(row) for row in rows_of(out, split)["dense.row"]] for split in splits}


def files_of(out: Path) -> dict[str, bytes]:
  """The contents of a data set's files, without the name and the command."""
  files = {path.name: path.read_bytes() for path in out.iterdir()}
  contents = json.loads(files["dataset.json"])
  files["dataset.json"] = json.dumps({k: v for k, v in contents.items() if k not in ("command", "name", "sources")}).encode()
  return files


def check_rows(out: Path, log: list[Row], expected: dict[str, list[int]]) -> None:
  """Every column of every split, ids by a count of the training rows."""
  assert numbers(out) == expected
  seen = collections.Counter(log[row][2] for row in expected["train"])
  hash_of = {value: int(vocabulary.hash_text("c", [(value or "").encode()])[0]) for value in seen}
  ids = {value: i + 1 for i, value in enumerate(sorted(seen, key=lambda v: (-seen[v], hash_of[v])))}
  contents = json.loads((out / "dataset.json").read_text())
  for split, rows in expected.items():
    frame = rows_of(out, split)
    assert frame["label"].to_list() == [log[row][1] for row in rows]
    assert frame["id.c"].to_list() == [ids.get(log[row][2], 0) for row in rows]
    entry, times = contents["splits"][split], [log[row][0] for row in rows]
    assert entry["first_time"] == min(times).isoformat().replace("+00:00", "Z")
    assert entry["last_time"] == max(times).isoformat().replace("+00:00", "Z")
    assert entry["base_rate"] == np.mean([log[row][1] for row in rows])


def went_back(log: list[Row]) -> int:
  """How many rows are earlier than a row before them."""
  return sum(any(before[0] > row[0] for before in log[:i]) for i, row in enumerate(log))


@pytest.mark.parametrize("seed", [0, 2, 5, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 3, 4))])
def test_rows_are_sorted_and_split_as_by_a_slow_sort(tmp_path, seed, capsys):
  """Ties keep the order of files. Pieces have a few rows or all, and files are one or several."""
  log, rng = log_of(seed), random.Random(seed)
  words = write_log(tmp_path, log, rng.choice([1, 2, 5]), rng.choice(["csv", "parquet"]))
  words.append(f"--piece_mib={rng.choice([200, 300, 1000, 1 << 20])}")
  by_time = [row[3] for row in sorted(log, key=lambda row: row[0])]
  out = run(tmp_path, words, "--eval_rows=40", "--test_fraction=0.5", schema="order = true\n")
  check_rows(out, log, {"train": by_time[:-40], "eval": by_time[-40:-20], "test": by_time[-20:]})
  assert capsys.readouterr().err == ""
  contents = json.loads((out / "dataset.json").read_text())
  assert contents["time"] == {"column": "ts", "ordered_by": "time", "earlier_rows": went_back(log)}

  first, second = START + datetime.timedelta(days=3, hours=3), START + datetime.timedelta(days=5)
  limits = [f"--eval_from={first.date()}", f"--test_from={second.strftime('%Y-%m-%dT%H:%M')}"]
  out = run(tmp_path, words, *limits, schema="order = true\n", output="dates")
  which = {"train": lambda t: t < first, "eval": lambda t: first <= t < second, "test": lambda t: t >= second}
  check_rows(out, log, {split: [row for row in by_time if inside(log[row][0])] for split, inside in which.items()})

  out = run(tmp_path, words, *limits, output="unordered")
  check_rows(out, log, {split: [row[3] for row in log if inside(row[0])] for split, inside in which.items()})
  said = f"time column 'ts': {went_back(log)} of 150 rows ({went_back(log) / 150:.2%}) are earlier than a row before them. Rows keep"
  assert capsys.readouterr().err.startswith(said)
  assert json.loads((out / "dataset.json").read_text())["time"] == {"column": "ts", "ordered_by": "files", "earlier_rows": went_back(log)}

  out = run(tmp_path, words, "--eval_rows=40", output="place")
  check_rows(out, log, {"train": list(range(110)), "eval": list(range(110, 150))})
  assert json.loads((out / "dataset.json").read_text())["splits"]["eval"]["last_time"] == max(r[0] for r in log[110:]).isoformat().replace(
    "+00:00", "Z"
  )


@pytest.mark.parametrize("schema", ["order = true\n", ""])
def test_pieces_and_workers_change_nothing(tmp_path, schema):
  log = log_of(4, rows=250)
  words = [*write_log(tmp_path, log, 3, "csv"), "--eval_from=2024-05-02"]
  expected = files_of(run(tmp_path, words, schema=schema))
  for size, workers in ((250, 1), (2000, 2 if schema else 1)):
    out = run(tmp_path, words, f"--piece_mib={size}", f"--workers={workers}", schema=schema, output=f"out{size}")
    assert files_of(out) == expected
  if schema:  # files in any order give the same rows but for ties
    for i, name in enumerate(("log_1", "log_2", "log_0")):
      (tmp_path / name).rename(tmp_path / f"other_{i}")
    other = run(tmp_path, [words[0], f"--input={tmp_path}/other_*", *words[2:]], schema=schema, output="other")
    times = [log[row][0] for row in numbers(other)["train"]]
    assert times == sorted(times)
    assert sorted(numbers(other)["train"]) == sorted(numbers(tmp_path / "out")["train"])


def test_new_parts_have_about_as_many_rows_as_old_ones(tmp_path, monkeypatch):
  """All times are equal but a few: rows of one time are cut, too."""
  log = [(START + datetime.timedelta(hours=i % 97 == 5), i % 2, "ab"[i % 2], i) for i in range(3000)]
  log.insert(0, (START + datetime.timedelta(days=1), 1, "a", 3000))
  sizes = []
  real = arrange.plan

  def plan(directory, parts):
    edges, new = real(directory, parts)
    sizes.append(([part.rows for part in parts], [part.rows for part in new]))
    return edges, new

  monkeypatch.setattr(arrange, "plan", plan)
  words = [*write_log(tmp_path, log, 2, "csv"), "--piece_mib=4000"]
  out = run(tmp_path, words, "--eval_rows=100", schema="order = true\n")
  assert numbers(out)["train"] == [row[3] for row in sorted(log, key=lambda row: row[0])][:-100]
  old, new = sizes[0]
  assert sum(new) == sum(old) == 3001
  assert len(old) > 20
  assert max(new) <= 2 * max(old)
  assert len(new) <= 2 * len(old)


def test_an_ordered_log_is_not_sorted_again(tmp_path, monkeypatch, capsys):
  """Nor is it written twice, and its bytes are those of a schema without a time column."""
  log = sorted(log_of(1), key=lambda row: row[0])
  log = [(*row[:3], i) for i, row in enumerate(log)]
  words = [*write_log(tmp_path, log, 3, "parquet"), "--piece_mib=400"]
  monkeypatch.setattr(arrange.Sorting, "do", lambda *args: pytest.fail("sorted"))
  found = [files_of(run(tmp_path, words, schema=schema, output=f"out{i}")) for i, schema in enumerate(["", "order = true\n"])]
  by_date = run(tmp_path, words, f"--eval_from={log[-15][0].strftime('%Y-%m-%dT%H:%M')}", output="date")
  assert numbers(by_date)["train"] == [row[3] for row in log if row[0] < log[-15][0].replace(second=0)]
  (tmp_path / "s.toml").write_text(SCHEMA.split("[time]")[0])
  prepare(flags.parse(["prepare", *words, f"--schema={tmp_path}/s.toml", f"--output={tmp_path}/plain", "--workers=1"], PrepareConfig))
  assert capsys.readouterr().err == ""
  plain = files_of(tmp_path / "plain")
  assert {name: found[0][name] for name in plain if name != "dataset.json"} == {n: f for n, f in plain.items() if n != "dataset.json"}
  digests = {json.loads(files["dataset.json"])["digest"] for files in (*found, plain)}
  assert len(digests) == 1


def test_dense_statistics_and_bins_are_those_of_the_sorted_training_rows(tmp_path):
  """A log in any order gives the data set of the sorted log: means, deviations and bins are of the rows that time puts into training."""
  log = log_of(2, rows=300)
  dense = '[dense]\nrow = { transform = "standard", indicator = true, bins = 8 }\n'
  made = []
  for name, rows, order in (("shuffled", log, "order = true\n"), ("sorted", sorted(log, key=lambda row: row[0]), "")):
    (tmp_path / name).mkdir()
    words = write_log(tmp_path / name, rows, 2, "csv")
    (tmp_path / name / "s.toml").write_text(f'label = "y"\ncategorical = ["c"]\n{dense}[time]\ncolumn = "ts"\n{order}')
    words = [*words, f"--schema={tmp_path / name}/s.toml", "--piece_mib=2000", f"--output={tmp_path / name}/out", "--workers=1"]
    made.append(prepare(flags.parse(["prepare", *words], PrepareConfig)))
  assert made[0]["digest"] == made[1]["digest"]
  assert made[0]["columns"] == made[1]["columns"]


def test_only_the_features_that_are_asked_for_depend_on_times(tmp_path):
  log = log_of(5)
  schema = 'order = true\nfeatures = ["weekday", "hour"]\n'
  contents = []
  for i, shift in enumerate([datetime.timedelta(0), datetime.timedelta(days=7, minutes=1), datetime.timedelta(hours=2)]):
    (tmp_path / str(i)).mkdir()
    words = write_log(tmp_path / str(i), [(row[0] + shift, *row[1:]) for row in log], 2, "csv")
    out = run(tmp_path / str(i), words, schema=schema)
    contents.append(json.loads((out / "dataset.json").read_text()))
    plain = json.loads((run(tmp_path / str(i), words, schema="order = true\n", output="plain") / "dataset.json").read_text())
    contents[-1]["plain"] = plain["digest"]
  assert rows_of(out, "train").columns == ["label", "dense.row", "id.c", "id.weekday", "id.hour"]
  assert contents[0]["digest"] == contents[1]["digest"] != contents[2]["digest"]  # hours are hashed as themselves
  assert len({entry["plain"] for entry in contents}) == 1
  assert contents[0]["splits"]["train"]["first_time"] != contents[1]["splits"]["train"]["first_time"]


def test_hour_weekday_and_crosses_against_dicts(tmp_path):
  """Ids of pairs are ranks of pairs among the training rows; hours are those of the zone."""
  log = log_of(7, rows=300, kinds=3)
  schema = 'zone = "Asia/Kolkata"\nfeatures = ["hour", "weekday"]\n[crosses]\nwhen = ["weekday", "hour"]\nc_hour = ["c", "hour"]\n'
  parts = {}
  for row in log:
    local = row[0].astimezone(zoneinfo.ZoneInfo("Asia/Kolkata"))
    cells = {"hour": str(local.hour), "weekday": str(local.weekday()), "c": row[2] or ""}
    parts[row[3]] = cells | {
      name: f"{len(cells[a])}:{cells[a]}:{cells[b]}" for name, a, b in (("when", "weekday", "hour"), ("c_hour", "c", "hour"))
    }
  digests = set()
  for kind in ("csv", "parquet"):
    (tmp_path / kind).mkdir()
    out = run(tmp_path / kind, write_log(tmp_path / kind, log, 2, kind), "--eval_rows=60", schema=schema)
    contents = json.loads((out / "dataset.json").read_text())
    digests.add(contents["digest"])
    assert [column["name"] for column in contents["columns"]["categorical"]] == ["c", "hour", "weekday", "when", "c_hour"]
    for name in ("hour", "weekday", "when", "c_hour"):
      seen = collections.Counter(parts[row][name] for row in range(240))
      hash_of = {value: int(vocabulary.hash_text(name, [value.encode()])[0]) for value in seen}
      ids = {value: i + 1 for i, value in enumerate(sorted(seen, key=lambda v: (-seen[v], hash_of[v])))}
      assert rows_of(out, "train")[f"id.{name}"].to_list() == [ids[parts[row][name]] for row in range(240)]
      assert rows_of(out, "eval")[f"id.{name}"].to_list() == [ids.get(parts[row][name], 0) for row in range(240, 300)]
      assert contents["columns"]["categorical"][[c["name"] for c in contents["columns"]["categorical"]].index(name)]["missing_share"] == 0
  assert len(digests) == 1


@pytest.mark.parametrize("features", ['features = ["weekday", "hour"]\n[crosses]\nx = ["c", "hour"]\n', ""])
def test_new_rows_have_the_ids_that_they_have_in_the_data_set(tmp_path, features):
  """Also those without a label. Without features of time, the files to score need no time column."""
  log = log_of(6)
  out = run(tmp_path, [*write_log(tmp_path, log, 1, "csv"), "--eval_rows=30"], schema=features)
  expected = pl.concat([rows_of(out, split) for split in ("train", "eval")])
  lines = ["ts,c,row\n", *(f"{time.isoformat()},{c or ''},{row}\n" for time, _, c, row in log)]
  (tmp_path / "new.csv").write_text("".join(line if features else line.partition(",")[2] for line in lines))
  encoder = scoring.Encoder.of(out, json.loads((out / "dataset.json").read_text()))
  file = scoring.scored_file(tmp_path / "new.csv", None, encoder.schema)
  (examples,) = scoring.read_examples([file], encoder, [Tally()], lambda count: None)
  np.testing.assert_array_equal(examples.ids_nl, expected.select(f"id.{name}" for name in encoder.lookup_names).to_numpy())
  np.testing.assert_array_equal(examples.dense_nm[:, 0], expected["dense.row"])


class Stopped(BaseException):
  """Raised in place of a kill."""


def stop_after(monkeypatch: pytest.MonkeyPatch, job: type, done: int) -> list[int]:
  asked: list[int] = []
  real = job.do

  def do(self, index, advance):
    asked.append(index)
    if len(asked) > done:
      raise Stopped
    real(self, index, advance)

  monkeypatch.setattr(job, "do", do)
  return asked


@pytest.mark.parametrize("job", [arrange.Sorting, arrange.Arranging, shards.Writing])
@pytest.mark.parametrize("schema", ["order = true\n", ""])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(tmp_path, monkeypatch, job, schema):
  log = log_of(2, rows=250)
  words = [*write_log(tmp_path, log, 2, "csv"), "--piece_mib=900", "--eval_from=2024-05-02"]
  expected = files_of(run(tmp_path, words, schema=schema, output="whole"))
  with monkeypatch.context() as patch:
    stop_after(patch, job, 2)
    with pytest.raises(Stopped):
      run(tmp_path, words, schema=schema)
  with monkeypatch.context() as patch:
    asked = stop_after(patch, job, 1000)
    assert files_of(run(tmp_path, words, schema=schema)) == expected
    assert min(asked) == 2
  with monkeypatch.context() as patch:  # other dates need other parts
    stop_after(patch, job, 2)
    with pytest.raises(Stopped):
      run(tmp_path, words, schema=schema, output="other")
  words[-1] = "--eval_from=2024-05-01"
  expected = files_of(run(tmp_path, words, schema=schema, output="whole2"))
  assert files_of(run(tmp_path, words, schema=schema, output="other")) == expected


def test_two_runs_share_the_work(tmp_path):
  log = log_of(8, rows=600)
  words = [*write_log(tmp_path, log, 2, "csv"), "--piece_mib=900"]
  out = run(tmp_path, words, schema="order = true\n", output="whole")
  code = (
    "from dlrm_jax.data import shard_format as s; s.ROWS_PER_GROUP, s.GROUPS_PER_SHARD = 31, 2\n"
    "from dlrm_jax.data.prepare import program as p; p._MIB = 1; from dlrm_jax.common import flags; flags.run(p.main, p.PrepareConfig)"
  )

  def start(share: str) -> subprocess.Popen:
    command = [
      sys.executable,
      "-c",
      code,
      *words,
      f"--schema={tmp_path}/s.toml",
      f"--output={tmp_path}/out",
      "--workers=1",
      f"--shard={share}",
    ]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

  runs = [start("0/2"), start("1/2")]
  outs = [process.communicate(timeout=120) for process in runs]
  assert [process.returncode for process in runs] == [0, 0], outs
  assert files_of(tmp_path / "out") == files_of(out)


def test_bad_times_are_rejects_with_a_reason(tmp_path):
  text = "ts,y,c,row\n2024-05-01,1,a,0\n,0,a,1\n2023-02-29,1,a,2\n1500-01-01,0,a,3\nnoon,1,a,4\n2024-05-02,0,a,5\n2024-05-03,1,a,6\n"
  (tmp_path / "log_0").write_text(text)
  words = ["--format=csv", f"--input={tmp_path}/log_*", "--max_reject_fraction=0.9", "--eval_rows=1"]
  out = run(tmp_path, words)
  kept = [line.split("\t")[1:4] for line in (out / "rejects.tsv").read_text().splitlines()[1:]]
  assert kept == [
    ["3", "time is missing", "ts is None"],
    ["4", "not a time", "ts is '2023-02-29'"],
    ["5", "time is not from 1678 to 2261", "ts is '1500-01-01'"],
    ["6", "not a time", "ts is 'noon'"],
  ]
  assert numbers(out) == {"train": [0, 5], "eval": [6]}
  last = 1714588200123456789
  stamps = pa.array([last, None, 3, last - 2, last - 1], pa.timestamp("ns"))  # Python's datetime has no nanoseconds
  pq.write_table(pa.table({"ts": stamps, "y": [1, 0, 7, 0, 1], "c": ["a"] * 5, "row": [0, 1, 2, 3, 4]}), tmp_path / "log_0")
  out = run(tmp_path, ["--format=parquet", *words[1:]], schema="order = true\n", output="parquet")
  assert numbers(out) == {"train": [3, 4], "eval": [0]}
  kept = [line.split("\t")[1:] for line in (out / "rejects.tsv").read_text().splitlines()[1:]]
  assert [line[:3] for line in kept] == [["2", "time is missing", "ts is None"], ["3", "label is not 0 or 1", "y is 7"]]
  assert json.loads(kept[1][3])["ts"] == "1970-01-01 00:00:00.000000003"


GOLDEN = {
  "criteo_tsv": "25e07e43079201b84179e706a9a660f726ddcbf82aca95f655d68c982da0249d",
  "csv": "ab606788e6770c7d2abdfd032d424098428631809e5efac58299c4337929f7b7",
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_data_sets_without_these_options_keep_their_digest(tmp_path, monkeypatch, kind):
  """As they were prepared before there were time columns, crosses and labels that compare."""
  monkeypatch.undo()
  (tmp_path / "c.tsv").write_text("\n".join(criteo_lines(200)) + "\n")
  rng, words = random.Random(0), []
  lines = [
    f"{rng.randrange(2)},{rng.choice('abcde')},{rng.randrange(9)},{rng.random():.3f},{rng.choice(['', '3', '4.5'])},{rng.choice('xyz')}\n"
    for _ in range(300)
  ]
  (tmp_path / "log.csv").write_text("y,c,d,a,b,e\n" + "".join(lines))
  dense = '[dense]\na = { transform = "none" }\nb = { transform = "log1p", missing = 2 }\n'
  (tmp_path / "s.toml").write_text(f'label = "y"\ncategorical = ["c", "d"]\n{dense}[bags]\nbag = ["c", "e"]\n')
  words = [f"--input={tmp_path}/c.tsv"] if kind == "criteo_tsv" else [f"--input={tmp_path}/log.csv", f"--schema={tmp_path}/s.toml"]
  made = prepare(flags.parse(["prepare", f"--format={kind}", *words, f"--output={tmp_path}/out", "--workers=1"], PrepareConfig))
  assert made["digest"] == GOLDEN[kind]
  assert "time" not in made and not {"time", "crosses"} & set(made["schema"])


def write_csv(tmp_path: Path, times: list[str]) -> list[str]:
  (tmp_path / "log_0").write_text("ts,y,c,row\n" + "".join(f"{time},{i % 2},a,{i}\n" for i, time in enumerate(times)))
  return ["--format=csv", f"--input={tmp_path}/log_*", "--eval_rows=2"]


def test_units_that_cannot_be_recognised_are_refused(tmp_path, capsys):
  words = write_csv(tmp_path, ["1714588200", "1714588200123", "1714588201", "1714588202"])
  with pytest.raises(UserError, match="time column 'ts': numbers look like s in some rows and like ms in others; state unit"):
    run(tmp_path, words)
  words = write_csv(tmp_path, ["20240501", "20240502", "20240503", "20240504"])
  with pytest.raises(UserError, match='numbers from 20240501 to 20240504 look like dates; state format = "%Y%m%d" in .time., or unit'):
    run(tmp_path, words)
  out = run(tmp_path, words, schema='format = "%Y%m%d"\n')
  assert json.loads((out / "dataset.json").read_text())["splits"]["eval"]["last_time"] == "2024-05-04T00:00:00Z"
  assert capsys.readouterr().err == ""
  run(tmp_path, words, schema='unit = "s"\n', output="seconds")
  assert "the log runs from 1970-08-23T" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("words", "schema", "message"),
  [
    (["--eval_from=2024-05-99"], "", "--eval_from=2024-05-99: must be a date or time that exists, such as 2024-05-01 or"),
    (["--eval_from=1714588200"], "", "--eval_from=1714588200: must be a date or time that exists"),
    (["--eval_from=2023-01-01"], "", "--eval_from=2023-01-01 of 150 rows from 2024-04-.* holds out 150: neither split may be empty"),
    (["--eval_from=2025-01-01"], "", "holds out 0: neither split may be empty"),
    (["--eval_from=2024-05-01", "--eval_rows=3"], "", "--eval_from=2024-05-01: must be left out with --eval_rows, --eval_files and"),
    (["--eval_from=2024-05-01", "--eval_fraction=0.2"], "", "--eval_from=2024-05-01: must be left out with --eval_rows, --eval_files and"),
    (["--test_from=2024-05-01"], "", "--test_from=2024-05-01: must be given with --eval_from and without --test_fraction"),
    (["--eval_from=2024-05-01", "--test_from=2024-05-01"], "", "--test_from=2024-05-01: must be later than --eval_from=2024-05-01"),
    (
      ["--eval_from=2024-05-01", "--test_from=2025-05-01"],
      "",
      "--test_from=2025-05-01 of 150 rows from .* leaves .* for eval and 0 for test",
    ),
    (["--eval_files=1"], "order = true\n", "--eval_files=1: must be left out where order = true sorts the rows"),
    ([], 'column = "ts2"\n', "s.toml: not valid TOML"),
    ([], "order = 1\n", "s.toml: time: order = 1 must be true or false"),
    ([], 'orders = "x"\n', "s.toml: time: unknown key 'orders'; there are column, unit, format, zone, order, features"),
    ([], 'features = ["c"]\n', "s.toml: time: feature 'c' must be among hour, weekday"),
    ([], '[crosses]\nx = ["c", "hour"]\n', "cross 'x': 'hour' must be a categorical column, or hour or weekday among the features of"),
    ([], '[crosses]\nx = ["c", "c"]\n', "cross 'x' must have two different columns"),
    ([], '[crosses]\nx = ["c"]\n', "cross 'x' must have two different columns"),
    ([], '[crosses]\nx = "c"\n', "crosses must be a table of features, such as"),
    ([], 'features = ["hour"]\n[crosses]\nc = ["c", "hour"]\n', "'c' is there twice"),
  ],
)
def test_what_is_refused(tmp_path, words, schema, message):
  given = write_log(tmp_path, log_of(1), 2, "csv")
  with pytest.raises(UserError, match=message) as error:
    run(tmp_path, [*given, *words], schema=schema)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()
  assert not (tmp_path / ".out.partial").exists()


def test_dates_need_a_time_column(tmp_path):
  words = write_log(tmp_path, log_of(1), 2, "csv")
  (tmp_path / "s.toml").write_text(SCHEMA.split("[time]")[0])
  with pytest.raises(UserError, match="--eval_from=2024-05-01: needs a time column; a schema names it by"):
    prepare(
      flags.parse(["prepare", *words, f"--schema={tmp_path}/s.toml", f"--output={tmp_path}/out", "--eval_from=2024-05-01"], PrepareConfig)
    )
  (tmp_path / "log_0").write_text("y,c,row\n1,a,3\n")
  with pytest.raises(UserError, match=r"no column 'ts', which the schema names"):
    run(tmp_path, words)


def test_times_of_other_types_are_refused(tmp_path):
  for column, message in (
    (pa.array([datetime.time(3)] * 2), "is time64.us.: the time column must hold timestamps, dates, numbers or text"),
    (pa.array([True, False]), "is bool: the time column must hold"),
  ):
    pq.write_table(pa.table({"ts": column, "y": [1, 0], "c": ["a", "b"], "row": [0, 1]}), tmp_path / "log_0")
    with pytest.raises(UserError, match=message):
      run(tmp_path, ["--format=parquet", f"--input={tmp_path}/log_0"])
  pq.write_table(pa.table({"ts": pa.array([1, 2], pa.timestamp("s")), "y": [1, 0], "c": ["a", "b"], "row": [0, 1]}), tmp_path / "log_0")
  with pytest.raises(UserError, match='is timestamp.*: unit = "s" is for numbers and text alone; leave it out'):
    run(tmp_path, ["--format=parquet", f"--input={tmp_path}/log_0"], schema='unit = "s"\n')


def test_a_label_that_compares_times_with_nothing_else(tmp_path):
  """An expression from the file to the shards, with rejects for what has no label."""
  rows = ["3,a,0", "15,a,1", "16,b,2", "NA,b,3", ",b,4", "soon,b,5", "1e2,b,6", "-2,b,7"]
  (tmp_path / "log_0").write_text("arrival delay,c,row\n" + "\n".join(rows) + "\n")
  (tmp_path / "s.toml").write_text('label = \'"arrival delay" > 15\'\ncategorical = ["c"]\n[dense]\nrow = { transform = "none" }\n')
  words = ["--format=csv", f"--input={tmp_path}/log_0", f"--schema={tmp_path}/s.toml", "--max_reject_fraction=0.5", "--eval_rows=1"]
  contents = prepare(flags.parse(["prepare", *words, f"--output={tmp_path}/out", "--workers=1"], PrepareConfig))
  assert pl.concat([rows_of(tmp_path / "out", split) for split in ("train", "eval")])["label"].to_list() == [0, 0, 1, 1, 0]
  assert contents["rejects"]["by_reason"] == {"label is missing": 2, "label is not a number": 1}
  assert contents["schema"]["label"] == '"arrival delay" > 15'
