"""Dense columns of `prepare`: statistics and inputs against numpy and scipy on whole columns and by hand; which bytes they depend on."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.stats
from places import REAL
from prepared_case import criteo_lines, rows_of

from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.data import shard_format, transform
from dlrm_jax.data.dataset import encoding_of, open_dataset
from dlrm_jax.data.describe import inventory
from dlrm_jax.data.describe import program as describe_program
from dlrm_jax.data.prepare import counting, program, shards, statistics
from dlrm_jax.data.prepare.dense import DenseColumn
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.prepare.rejects import Tally
from dlrm_jax.data.prepare.schema_file import load_schema
from dlrm_jax.data.prepare.scoring import Encoder, read_examples, scored_file
from dlrm_jax.data.timestamps import kind_of_time
from dlrm_jax.data.transform import Bins, Input

ROWS, TRAIN = 3000, 2689  # the split is inside a part, whatever the parts here
HEAD = 'label = "y"\ncategorical = ["c"]\n[dense]\n'


def run(tmp_path: Path, frame: pl.DataFrame, dense: str, *words: str, output: str = "out", **parquet: int) -> tuple[dict, Path]:
  """Prepares a frame with a label `y` and a category `c`, of which the rows after TRAIN are held out."""
  frame.write_parquet(tmp_path / "log.parquet", **(parquet or {"row_group_size": 700}))
  (tmp_path / "schema.toml").write_text(HEAD + dense)
  files = [f"--input={tmp_path}/log.parquet", f"--schema={tmp_path}/schema.toml", f"--output={tmp_path / output}"]
  words = ("prepare", "--format=parquet", *files, f"--eval_rows={len(frame) - TRAIN}", "--workers=1", *words)
  made = prepare(flags.parse(list(words), PrepareConfig))
  assert made is not None
  assert json.loads((tmp_path / output / "dataset.json").read_text())["digest"] == made["digest"]
  return record.read_json(tmp_path / output / "dataset.json"), tmp_path / output


def log_of(**columns: object) -> pl.DataFrame:
  return pl.DataFrame({"y": [i % 2 for i in range(ROWS)], "c": [i % 7 for i in range(ROWS)], **columns})


def holes(values: np.ndarray, share: float, seed: int = 0) -> pl.Series:
  gone = np.random.default_rng(seed).random(len(values)) < share
  return pl.Series([None if empty else value for empty, value in zip(gone, values.tolist(), strict=True)])


RNG = np.random.default_rng(7)
COLUMNS = {
  "normal": RNG.normal(3, 2, ROWS),
  "clock": 1.7e18 + RNG.integers(0, 10**9, ROWS) * 1e3,  # nanoseconds: a huge mean, a deviation a billion times smaller
  "tight": 1e6 + RNG.normal(0, 1e-3, ROWS),
  "skewed": RNG.lognormal(2, 1.5, ROWS),
  "signed": RNG.lognormal(0, 2, ROWS) * RNG.choice([-1, 1], ROWS),
  "zeros": RNG.poisson(0.4, ROWS).astype(float),
  "large": (2**60 + RNG.integers(0, 2**40, ROWS)).astype(np.int64),
  "even": RNG.integers(0, 1440, ROWS),
}


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("name", list(COLUMNS))
def test_statistics_are_those_of_the_whole_column(tmp_path, monkeypatch, name, share):
  monkeypatch.setattr(statistics, "_BLOCK", 97)
  column = holes(COLUMNS[name], share)
  contents, _ = run(tmp_path, log_of(x=column), "x = {}\n")
  (entry, *_) = contents["columns"]["dense"]
  found, train = entry["statistics"], column[:TRAIN]
  whole = train.drop_nulls().to_numpy().astype(np.float64)
  assert (found["rows"], found["missing"], found["zeros"]) == (TRAIN, train.null_count(), int((whole == 0).sum()))
  assert (found["low"], found["high"], found["distinct"]) == (whole.min(), whole.max(), len(np.unique(whole)))
  for prefix, x in (("", whole), ("log_", np.log1p(np.maximum(whole, 0)))):
    x = x - x[0] if x.std() < 1e-3 * abs(x.mean()) else x  # numpy's own sums lose digits that far from 0
    origin = np.log1p(max(whole[0], 0)) if prefix else whole[0]
    shift = origin if x[0] == 0 else 0.0
    np.testing.assert_allclose(found[f"{prefix}mean"] - shift, x.mean(), rtol=0, atol=max(2e-6 * x.std(), np.spacing(abs(shift))))
    np.testing.assert_allclose(found[f"{prefix}deviation"], x.std(), rtol=2e-6)
    np.testing.assert_allclose(found[f"{prefix}skewness"], scipy.stats.skew(x), rtol=1e-5, atol=1e-5)
  expected = np.quantile(whole, statistics.SHARES, method="inverted_cdf")
  np.testing.assert_array_equal(list(found["quantiles"].values()), expected)
  assert entry["missing_share"] == column.null_count() / ROWS


def test_inputs_against_numpy(tmp_path):
  """Every transform in all rows, from the training rows alone."""
  columns = {name: holes(values, 0.1, seed=i) for i, (name, values) in enumerate(COLUMNS.items())}
  asked = "".join(f"{name} = {{}}\n" for name in ("normal", "clock", "tight", "skewed", "signed", "large"))
  asked += 'zeros = { transform = "log1p" }\neven = { transform = "none", missing = -5 }\n'
  contents, out = run(tmp_path, log_of(**columns), asked)
  got = pl.concat([rows_of(out, "train"), rows_of(out, "eval")])
  stated = {entry["name"]: entry for entry in contents["columns"]["dense"]}
  for name in ("normal", "clock", "tight", "skewed", "signed", "large"):
    column, log = columns[name], name == "skewed"
    assert stated[name].get("log", False) == log
    number = column.to_numpy().astype(np.float64)
    x = np.log1p(number) if log else number - column.drop_nulls()[0]
    train = x[:TRAIN][~np.isnan(x[:TRAIN])]
    expected = np.clip((x - train.mean()) / train.std(), -10, 10)
    empty = np.isnan(number)
    np.testing.assert_allclose(got[f"dense.{name}"].to_numpy()[~empty], expected[~empty], rtol=1e-4, atol=1e-4)
    assert not got[f"dense.{name}"].to_numpy()[empty].any()  # the mean
    np.testing.assert_array_equal(got[f"dense.{name}.missing"], empty)
  np.testing.assert_allclose(got["dense.zeros"], np.log1p(columns["zeros"].fill_null(0)), rtol=1e-6)
  np.testing.assert_array_equal(got["dense.even"], columns["even"].fill_null(-5))
  assert "zeros.missing" not in stated and "even.missing" not in stated
  dataset = open_dataset(out)
  assert dataset.shape.num_dense == len(dataset.dense) == 8 + 6


def test_the_same_function_makes_the_inputs_of_new_rows(tmp_path):
  """`transform` alone gives the held-out rows of the shards from their raw numbers and dataset.json."""
  columns = {name: holes(values, 0.1, seed=i) for i, (name, values) in enumerate(COLUMNS.items())}
  asked = 'normal = { bins = 5 }\nclock = { transform = "quantile" }\nskewed = { missing = 3 }\nzeros = { transform = "bins" }\n'
  asked += 'signed = { transform = "quantile", indicator = false }\neven = { transform = "log1p", indicator = true, missing = -1 }\n'
  contents, out = run(tmp_path, log_of(**columns), asked)
  held_out = rows_of(out, "eval")
  inputs, bins = transform.inputs_of(contents), transform.bins_of(contents)
  assert [one.name for one in inputs] == [
    *("normal", "normal.missing", "clock", "clock.missing", "skewed", "skewed.missing", "signed", "even", "even.missing")
  ]
  assert [one.name for one in bins] == ["normal.bins", "zeros.bins"]
  assert held_out.columns == ["label", *(f"dense.{one.name}" for one in inputs), "id.c", "id.normal.bins", "id.zeros.bins"]
  for one in inputs:
    raw = columns[one.column][TRAIN:].to_numpy().astype(np.float64)
    np.testing.assert_array_equal(one.apply(raw), held_out[f"dense.{one.name}"].to_numpy())
  for feature in bins:
    raw = columns[feature.column][TRAIN:].to_numpy().astype(np.float64)
    np.testing.assert_array_equal(feature.ids(raw), held_out[f"id.{feature.name}"].to_numpy())
  skewed = inputs[4]
  assert skewed.missing == skewed.apply(np.array([3.0]))[0] != 0
  assert inputs[7].missing == -1
  dataset = open_dataset(out)
  assert dataset.shape.field_names == ("c", "normal.bins", "zeros.bins")
  assert dataset.shape.cardinalities[1:] == (6, 2 + len(bins[1].edges))


def test_a_new_log_gets_the_transforms_of_a_data_set(tmp_path):
  """prepare --like: means, edges and bins are those of the older rows; the statistics, which warnings use, are those of the new ones."""
  frame = log_of(**{name: holes(values, 0.1, seed=i) for i, (name, values) in enumerate(COLUMNS.items())})
  before, out = run(tmp_path, frame, ALL)
  new = frame[TRAIN:].with_columns(pl.col("normal") + 100)
  new.write_parquet(tmp_path / "new.parquet")
  words = ["--format=parquet", f"--input={tmp_path}/new.parquet", f"--output={tmp_path}/new", f"--like={out}", "--workers=1"]
  after = prepare(flags.parse(["prepare", *words], PrepareConfig))
  assert after is not None and encoding_of(after) == encoding_of(before)
  assert transform.inputs_of(after) == transform.inputs_of(before) and transform.bins_of(after) == transform.bins_of(before)
  rows, old = rows_of(tmp_path / "new", "train"), rows_of(out, "eval")
  same = [name for name in old.columns if "normal" not in name]
  assert rows.select(same).equals(old.select(same))
  expected = transform.inputs_of(before)[0].apply(new["normal"].to_numpy().astype(np.float64))
  np.testing.assert_array_equal(rows["dense.normal"], expected)
  assert np.nanmax(expected) == 10 and rows["id.normal.bins"].max() == 3
  assert after["columns"]["dense"][0]["statistics"]["mean"] > 100 > before["columns"]["dense"][0]["statistics"]["mean"]


def test_scoring_reads_the_inputs_of_the_shards(tmp_path):
  """`predict` reads the file of the log to what `prepare` wrote, also for the first features alone."""
  frame = log_of(**{name: holes(values, 0.1, seed=i) for i, (name, values) in enumerate(COLUMNS.items())})
  contents, out = run(tmp_path, frame, ALL)
  rows = pl.concat([rows_of(out, "train"), rows_of(out, "eval")])
  for num_tables, ids in ((0, ["c", "normal.bins", "zeros.bins"]), (2, ["c", "normal.bins"]), (1, ["c"])):
    encoder = Encoder.of(out, contents, num_tables)
    files = [scored_file(tmp_path / "log.parquet", None, encoder.schema)]
    read = list(read_examples(files, encoder, [Tally()], lambda count: None))
    assert encoder.lookup_names == tuple(ids)
    np.testing.assert_array_equal(np.concatenate([one.ids_nl for one in read]), rows.select([f"id.{name}" for name in ids]).to_numpy())
    dense = rows.select([name for name in rows.columns if name.startswith("dense.")]).to_numpy()
    np.testing.assert_array_equal(np.concatenate([one.dense_nm for one in read]), dense)


def test_statistics_are_of_training_rows_alone(tmp_path):
  """What comes after the split changes no training row, not even a hole or an absurd number."""
  x = COLUMNS["normal"].copy()
  first, out = run(tmp_path, log_of(x=x), "x = {}\n", output="first")
  x[TRAIN:] = 1e30
  x[TRAIN + 1] = -1e30
  column = pl.Series(x.tolist())
  column[TRAIN + 2] = None
  second, other = run(tmp_path, log_of(x=column), "x = {}\n", output="second")
  assert first["columns"]["dense"][0]["statistics"] == second["columns"]["dense"][0]["statistics"]
  assert rows_of(out, "train").equals(rows_of(other, "train"))
  assert rows_of(other, "eval")["dense.x"].to_list()[:4] == [10.0, -10.0, 0.0, 10.0]  # far numbers are moved to 10 deviations
  assert [entry["name"] for entry in second["columns"]["dense"]] == ["x"]  # no training row is empty


@pytest.mark.parametrize(
  ("column", "transforms"),
  [
    ([5.0] * ROWS, {"standard": 0.0, "quantile": 0.0, "none": 5.0, "log1p": math.log(6)}),
    ([None] * ROWS, {"standard": 0.0, "quantile": 0.0, "none": 0.0, "log1p": 0.0}),
    ([1.7e18] * ROWS, {"standard": 0.0, "quantile": 0.0}),
    ([None] * TRAIN + [4.0] * (ROWS - TRAIN), {"standard": 0.0, "quantile": 0.0}),
    ([5.0] * TRAIN + [9e9] * (ROWS - TRAIN), {"standard": 0.0, "quantile": 0.0}),
  ],
)
def test_constant_and_empty_columns(tmp_path, column, transforms):
  """A deviation of 0 divides nothing. A number that training never saw says nothing to a model that could not learn from it."""
  contents, out = run(
    tmp_path,
    log_of(**{name: pl.Series(column, dtype=pl.Float64) for name in transforms}),
    "".join(f'{name} = {{ transform = "{name}", bins = 8 }}\n' for name in transforms),
  )
  assert [entry["name"] for entry in contents["columns"]["dense"]] == list(transforms)
  got = pl.concat([rows_of(out, "train"), rows_of(out, "eval")])
  for name, value in transforms.items():
    np.testing.assert_allclose(got[f"dense.{name}"], np.full(ROWS, value), rtol=1e-6)
    assert set(got[f"id.{name}.bins"].to_list()) == {0 if cell is None else 1 for cell in column}


def test_quantile_ranks_by_hand():
  """Equal numbers share the middle of their ranks; between two training numbers, and beyond them, the rank is still defined."""
  column = DenseColumn("x", "quantile")
  numbers = np.array([0.0] * 6 + [1.0, 2.0, 3.0, 10.0])
  measured = statistics.measure(column, iter([numbers]), len(numbers))
  (one,) = column.inputs(measured)
  asked = np.array([0.0, 1.0, 2.0, 3.0, 10.0, -5.0, 99.0, 6.5])
  rank = scipy.stats.norm.cdf(one.apply(asked))
  assert rank[0] == pytest.approx(0.3, abs=0.005)  # 0 to .6
  np.testing.assert_allclose(rank[1:4], [0.65, 0.75, 0.85], atol=0.005)
  assert rank[4] == pytest.approx(0.95, abs=0.005)
  np.testing.assert_allclose(rank[5:7], [0.5 / 256, 1 - 0.5 / 256], rtol=1e-4)
  assert 0.85 < rank[7] < 0.95
  assert np.all(np.diff(one.apply(np.sort(asked))) >= 0)


def test_quantile_scores_of_a_continuous_column_are_normal():
  x = np.random.default_rng(0).lognormal(0, 3, 20_000) * np.where(np.arange(20_000) % 2, -1, 1)
  column = DenseColumn("x", "quantile")
  (one,) = column.inputs(statistics.measure(column, iter([x]), len(x)))
  score = one.apply(x)
  expected = scipy.stats.norm.ppf((scipy.stats.rankdata(x) - 0.5) / len(x))
  middle = np.abs(expected) < 2
  np.testing.assert_allclose(score[middle], expected[middle], atol=0.02)
  assert abs(score.mean()) < 0.01 and abs(score.std() - 1) < 0.02


def test_bins_by_hand():
  few = statistics.bin_edges(np.sort(np.array([3.0, 3, 1, 7, 7, 7])), 4)
  assert few == [3.0, 7.0]  # a bin for each of 1, 3, 7
  feature = Bins("x.bins", "x", tuple(few))
  asked = np.array([np.nan, -9.0, 1, 2.9, 3, 6, 7, 99])
  assert feature.ids(asked).tolist() == [0, 1, 1, 1, 2, 2, 3, 3]
  assert feature.cardinality == 4
  assert statistics.bin_edges(np.zeros(0), 4) == []
  assert statistics.bin_edges(np.arange(100.0), 4) == [25.0, 50.0, 75.0]
  heavy = np.sort(np.concatenate([np.zeros(70), np.arange(1, 31)]))  # more than half of the bins begin at 0
  edges = statistics.bin_edges(heavy, 4)
  assert edges == [6.0]
  even = Bins("x.bins", "x", tuple(statistics.bin_edges(np.sort(COLUMNS["normal"]), 10)))
  counts = np.bincount(even.ids(COLUMNS["normal"]))
  assert counts[0] == 0 and len(counts) == 11 and counts[1:].min() == counts[1:].max() == ROWS // 10


def test_large_logs_are_sampled_evenly(monkeypatch):
  """The sample has one row of every stratum, whatever the blocks, and its quantiles are close to those of all rows."""
  monkeypatch.setattr(statistics, "_SAMPLE", 1000)
  rng = np.random.default_rng(5)
  x = rng.normal(size=30_011)
  sizes, column = (64, 1000, 30_011), DenseColumn("x", bins=4)
  found = [statistics.measure(column, iter(np.split(x, range(size, len(x), size))), len(x)) for size in sizes]
  assert found[0]["edges"] == found[1]["edges"] == found[2]["edges"]
  assert set(found[0]["edges"]) <= set(x.tolist())
  assert found[0]["statistics"]["distinct"] in range(960, 1001)
  shares = scipy.stats.norm.cdf(found[0]["edges"])
  assert np.abs(shares - np.linspace(0, 1, 257)).max() < 0.06  # four deviations of a sample of 1,000
  every = np.arange(30_000.0) % 10  # of period 10: a sample of every tenth row would see one value
  assert statistics.measure(DenseColumn("x"), iter([every]), 30_000)["statistics"]["distinct"] == 10


def files_of(out: Path) -> dict[str, bytes]:
  files = {path.name: path.read_bytes() for path in out.iterdir()}
  contents = json.loads(files["dataset.json"])
  files["dataset.json"] = json.dumps({k: v for k, v in contents.items() if k not in ("command", "name", "sources")}).encode()
  return files


ALL = 'normal = { bins = 3 }\nclock = { transform = "quantile" }\nskewed = { missing = 3 }\nzeros = { transform = "bins" }\n'
ALL += 'signed = { indicator = false }\ntight = { transform = "none" }\neven = { transform = "log1p", indicator = true }\n'


def test_bytes_depend_on_the_log_alone(tmp_path, monkeypatch):
  """Pieces, workers, shares and a stop at every stage change nothing, in shards or statistics."""
  monkeypatch.setattr(shard_format, "ROWS_PER_GROUP", 301)
  monkeypatch.setattr(shard_format, "GROUPS_PER_SHARD", 2)
  monkeypatch.setattr(program, "_MIB", 1)
  frame = log_of(**{name: holes(values, 0.1, seed=i) for i, (name, values) in enumerate(COLUMNS.items())})
  _, out = run(tmp_path, frame, ALL, f"--piece_mib={10**9}", row_group_size=70)
  expected = files_of(out)
  assert len(list(out.glob("train-*"))) >= 4
  size = (tmp_path / "log.parquet").stat().st_size
  for i, (pieces, workers) in enumerate(((3, 1), (43, 1), (7, 2))):
    _, out = run(tmp_path, frame, ALL, f"--piece_mib={size // pieces}", f"--workers={workers}", output=f"pieces{i}", row_group_size=70)
    assert files_of(out) == expected

  class Stop(BaseException):
    pass

  for owner, after in ((counting.Counting, 0), (counting.Counting, 3), (counting.Counting, 7), (shards.Writing, 1)):
    real, calls = owner.do, 0

    def do(self, index, advance, real=real, after=after):
      nonlocal calls
      calls += 1
      if calls > after:
        raise Stop
      real(self, index, advance)

    with monkeypatch.context() as patch:
      patch.setattr(owner, "do", do)
      with pytest.raises(Stop):
        run(tmp_path, frame, ALL, f"--piece_mib={size // 5}", output="stopped", row_group_size=70)
    (tmp_path / "schema.toml").write_text(HEAD + ALL)
  words = ["prepare", "--format=parquet", f"--input={tmp_path}/log.parquet", f"--schema={tmp_path}/schema.toml", "--workers=1"]
  words += [f"--output={tmp_path}/stopped", f"--eval_rows={ROWS - TRAIN}", f"--piece_mib={size // 5}"]
  assert prepare(flags.parse(words, PrepareConfig)) is not None
  assert files_of(tmp_path / "stopped") == expected


def test_criteo_keeps_its_bytes(tmp_path):
  """The digest that these lines had when dense values were transformed in the first pass."""
  lines = criteo_lines(400, seed=11)
  lines[7] = lines[7].replace("\t", "\t-0", 1) if lines[7].split("\t")[1] == "" else lines[7]
  lines[9] = "\t".join(["01", "999999999999999999", "-7", "4095", "4096", *lines[9].split("\t")[5:]])  # read by the careful reader
  lines[10] = "\t".join(["1", "2147483647", "2147483648", "-2147483648", "", *lines[10].split("\t")[5:]])
  (tmp_path / "log.tsv").write_text("\n".join(lines) + "\n")
  made = prepare(PrepareConfig(format="criteo_tsv", input=str(tmp_path / "log.tsv"), output=str(tmp_path / "out"), workers=1))
  assert made is not None
  assert made["digest"] == "5ebac0194ff89aeecd5b1de7f806e99d106db93c591423f6559fc1f4af34f06b"
  rows = pl.concat([rows_of(tmp_path / "out", "train"), rows_of(tmp_path / "out", "eval")])
  for i in range(13):
    expected = [math.log1p(max(int(line.split("\t")[1 + i] or 0), 0)) for line in lines]
    np.testing.assert_array_equal(rows[f"dense.I{i + 1}"], np.array(expected).astype(np.float32))


def test_the_study_keeps_its_digest(tmp_path):
  path = REAL / "ml1m" / "ml1m_events.parquet"
  if not path.exists():
    pytest.skip("the real data ml1m is not in ../shared/data")
  schema = load_schema("analysis/study/movielens.toml")
  assert schema.dense == (DenseColumn("age", "log1p"),)


def test_older_data_sets_still_say_how_inputs_are_made():
  dense = [{"name": "a", "transform": "none", "missing": 40.0, "integer": False}, {"name": "b", "transform": "log1p", "missing": 0.0}]
  columns = {"dense": [{"name": "a", "missing_share": 0.1}, {"name": "b", "missing_share": 0.0}], "categorical": [{"name": "c"}]}
  contents = {"schema": {"dense": dense}, "columns": columns}
  first, second = transform.inputs_of(contents)
  assert (first, second) == (Input("a", "a", "none", missing=40.0), Input("b", "b", "log1p"))
  np.testing.assert_array_equal(first.apply(np.array([2.5, np.nan])), [2.5, 40])
  np.testing.assert_allclose(second.apply(np.array([-2.0, np.nan, 1.0])), [0, 0, math.log(2)], rtol=1e-6)
  assert transform.bins_of(contents) == ()


def test_packed_numbers_come_back():
  missing = np.array([False, True, False])
  for numbers, dtype in (([1, 0, -(2**31) + 1], np.int32), ([1, 0, 2**31], np.float64), ([1, 0, -(2**31)], np.float64)):
    packed = transform.pack(np.array(numbers, np.int64), missing)
    assert packed.dtype == dtype
    np.testing.assert_array_equal(transform.as_float(packed), [numbers[0], np.nan, numbers[2]])
    np.testing.assert_array_equal(transform.is_missing(packed), missing)
    mixed = transform.joined([packed, transform.pack(np.array([0.5]), np.array([False]))])
    np.testing.assert_array_equal(mixed, [numbers[0], np.nan, numbers[2], 0.5])
  big = np.array([4094, 4095, 4096, -3, 2**31 - 1, 0], np.int64)
  none = np.zeros(6, bool)
  one = Input("x", "x", "log1p")
  np.testing.assert_array_equal(one.apply(transform.pack(big, none)), one.apply(transform.pack(big.astype(np.float64), none)))


@pytest.mark.parametrize(
  ("dense", "message"),
  [
    ('x = { transform = "log" }', "transform 'log' must be among standard, quantile, log1p, none, bins"),
    ("x = { missing = true }", "missing = True must be a finite number"),
    ("x = { missing = inf }", "missing = inf must be a finite number"),
    ("x = { indicator = 1 }", "indicator = 1 must be true or false"),
    ("x = { bins = 1 }", "bins = 1 must be from 2 to 10,000"),
    ("x = { bins = 4.0 }", "bins = 4.0 must be a whole number"),
    ("x = { bins = true }", "bins = True must be a whole number"),
    ('x = { transform = "bins", missing = 3 }', "missing cells are a bin of their own"),
    ('x = {}\n"x.missing" = {}', "write indicator = false for 'x'"),
    ('x = { bins = 4 }\n[bags]\n"x.bins" = ["p", "q"]', "'x.bins' is there twice"),
  ],
)
def test_bad_dense_columns_are_refused_in_one_line(tmp_path, dense, message):
  (tmp_path / "s.toml").write_text(HEAD + dense)
  with pytest.raises(UserError) as error:
    load_schema(str(tmp_path / "s.toml"))
  assert message in str(error.value) and str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_names_that_indicators_could_take(tmp_path):
  (tmp_path / "s.toml").write_text(HEAD + 'x = { indicator = false }\n"x.missing" = { transform = "log1p" }\n')
  assert load_schema(str(tmp_path / "s.toml")).dense_names == ("x", "x.missing")


def test_numbers_that_fit_no_input_are_rejected(tmp_path):
  x = COLUMNS["normal"].copy()
  x[5], x[9] = 1e39, np.nan
  contents, out = run(tmp_path, log_of(x=x, z=x), 'x = {}\nz = { transform = "log1p" }\n', "--max_reject_fraction=0.1")
  assert contents["rejects"]["by_reason"] == {"not finite": 2}
  contents, out = run(tmp_path, log_of(z=x), 'z = { transform = "log1p" }\n', "--max_reject_fraction=0.1", output="log1p")
  assert contents["rejects"]["total"] == 1  # 1e39 has a logarithm
  assert np.isfinite(rows_of(out, "train")["dense.z"].to_numpy()).all()


def test_bins_alone_are_a_data_set(tmp_path):
  """A schema may have no categorical column if it has bins. A column may be dense, categorical and binned at once."""
  frame = log_of(x=holes(COLUMNS["even"], 0.1))
  frame.write_parquet(tmp_path / "log.parquet")
  for name, schema in {
    "alone": 'label = "y"\n[dense]\nx = { transform = "bins", bins = 10 }\n',
    "thrice": 'label = "y"\ncategorical = ["x"]\n[dense]\nx = { bins = 10 }\n',
  }.items():
    (tmp_path / "s.toml").write_text(schema)
    config = PrepareConfig("parquet", f"{tmp_path}/log.parquet", str(tmp_path / name), str(tmp_path / "s.toml"), workers=1)
    assert prepare(config) is not None
  alone, thrice = open_dataset(tmp_path / "alone"), open_dataset(tmp_path / "thrice")
  assert (alone.dense, alone.shape.field_names, alone.shape.cardinalities) == ((), ("x.bins",), (11,))
  assert (thrice.dense, thrice.shape.field_names) == (("x", "x.missing"), ("x", "x.bins"))
  one, other = (rows_of(tmp_path / name, "train") for name in ("alone", "thrice"))
  np.testing.assert_array_equal(one["id.x.bins"], other["id.x.bins"])
  bins = other.with_columns(pl.Series("raw", frame["x"][: len(other)])).group_by("id.x.bins").agg(pl.col("raw").min(), pl.len())
  assert bins.filter(pl.col("id.x.bins") > 0)["len"].min() > 0.8 * len(other) * 0.9 / 10


def test_describe_shows_inputs_indicators_and_bins(tmp_path):
  frame = log_of(**{name: holes(values, 0.1, seed=i) for i, (name, values) in enumerate(COLUMNS.items())})
  contents, out = run(tmp_path, frame, ALL)
  dataset = open_dataset(out)
  found = json.loads(record.dumps(describe_program.as_json(dataset, contents, inventory.take(dataset, 0))))
  shown = {entry["name"]: entry for entry in found["dense"]}
  assert shown["skewed"]["transform"] == "standard of log1p" and shown["normal.missing"]["transform"] == "missing"
  assert shown["clock"]["mean"] == pytest.approx(0, abs=0.05)
  train = rows_of(out, "train")
  assert shown["normal.missing"]["mean"] == pytest.approx(train["dense.normal.missing"].mean())
  assert [entry["name"] for entry in found["categorical"]] == ["c", "normal.bins", "zeros.bins"]
  assert found["categorical"][1]["zero_share"] == pytest.approx((train["id.normal.bins"] == 0).mean())


def test_kinds_of_time():
  days = np.array([20240131, 20231201, 19991231], np.float64)
  rng = np.random.default_rng(0)
  cases = {
    "Unix seconds": rng.uniform(1.7e9, 1.71e9, 500),
    "Unix milliseconds": rng.integers(1.7e12, 1.71e12, 500).astype(float),
    "Unix microseconds": rng.integers(1.7e15, 1.71e15, 500).astype(float),
    "Unix nanoseconds": rng.integers(17 * 10**17, 171 * 10**16, 500).astype(float),
    "dates as YYYYMMDD": days,
    "hours as YYYYMMDDHH": days * 100 + 23,
    "hours as YYMMDDHH": np.array([14102100.0, 14102123, 14103011]),
    "times as YYYYMMDDHHMMSS": days * 10**6 + 235959,
  }
  for kind, numbers in cases.items():
    assert kind_of_time(numbers) == kind
    assert kind_of_time(np.concatenate([np.repeat(numbers, 100), [0.0]])) == kind  # 0 for unknown
    assert kind_of_time(np.concatenate([numbers, np.zeros(len(numbers))])) is None
  for numbers in (
    rng.uniform(0, 4e9, 500),
    rng.integers(19_000_000, 21_000_000, 500).astype(float),
    rng.integers(10**7, 10**8, 500).astype(float),
    rng.uniform(0, 1440, 500),
    np.zeros(0),
    np.full(9, 1e300),
    (days - 20_000_000) * 100 + 24,
    days + 0.5,
  ):
    assert kind_of_time(numbers) is None
