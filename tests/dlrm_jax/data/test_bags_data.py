"""Bags in prepared data sets and in planted data, against hand-computed cases, a slow reference and exact sums."""

import json
import math
import random
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_case import rows_of

from dlrm_jax.common import flags, hashing
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import PlantedConfig, RunConfig, TrainConfig
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.data.pipeline import batches
from dlrm_jax.data.planted import closed_forms as theory
from dlrm_jax.data.planted.clicks import EVAL_STREAM, Planted
from dlrm_jax.data.planted.closed_forms import decaying_shares
from dlrm_jax.data.planted.draws import zipf_ids
from dlrm_jax.data.planted.teacher import PAIR_TERMS
from dlrm_jax.data.planted.theory import ideal
from dlrm_jax.data.planted.theory import theory as theory_of
from dlrm_jax.data.prepare import contents as contents_module
from dlrm_jax.data.prepare import read, vocabulary
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.prepare.schema import Bag
from dlrm_jax.data.prepare.schema_file import load_schema
from dlrm_jax.data.source import PreparedSource, open_source
from dlrm_jax.identity import config_id
from dlrm_jax.training import metrics

GENRES = 'label = "y"\ncategorical = ["c"]\n[bags]\ngenres = ["g1", "g2", "g3"]\n'


def run(tmp_path: Path, schema: str, log: str | pa.Table, *words: str, output: str = "out") -> tuple[dict, Path]:
  """Prepares a log: CSV text, or a table written as Parquet."""
  (tmp_path / "s.toml").write_text(schema)
  kind = "csv" if isinstance(log, str) else "parquet"
  if isinstance(log, str):
    (tmp_path / "log.csv").write_text(log)
  else:
    pq.write_table(log, tmp_path / "log.parquet", row_group_size=64)
  given = [f"--format={kind}", f"--input={tmp_path}/log.{kind}", f"--schema={tmp_path}/s.toml", f"--output={tmp_path / output}"]
  return prepare(flags.parse(["prepare", "--workers=1", *given, *words], PrepareConfig)), tmp_path / output


# --- prepared data


def test_columns_of_a_bag_share_one_vocabulary_and_missing_is_padding(tmp_path, capsys):
  log = "y,c,g1,g2,g3\n1,a,x,y,\n0,,y,,x\n1,a,x,x,x\n0,b,,,\n1,b,z,w,y\n"  # x 5 times, y 3, z and w once, 5 of 15 cells empty
  log += "0,b,w,x,\n1,a,,y,q\n"
  contents, out = run(tmp_path, GENRES, log, "--eval_rows=2")
  train, held_out = rows_of(out, "train"), rows_of(out, "eval")
  assert train.columns == ["label", "id.c", "id.genres.0", "id.genres.1", "id.genres.2"]
  assert train.dtypes == [pl.UInt8, *[pl.Int32] * 4]
  assert train.select(pl.col("^id.genres.*$")).rows() == [(1, 2, -1), (2, -1, 1), (1, 1, 1), (-1, -1, -1), (0, 0, 2)]
  assert held_out.select(pl.col("^id.genres.*$")).rows() == [(0, 1, -1), (-1, 2, 0)]
  assert train["id.c"].to_list()[1] == 0  # a categorical column's missing cell is a value, seen once
  assert contents["columns"]["categorical"] == [
    {"name": "c", "cardinality": 3, "missing_share": 1 / 7, "bag_length": 1},
    {"name": "genres", "cardinality": 3, "missing_share": 7 / 21, "bag_length": 3},
  ]
  dataset = open_dataset(out)
  assert (dataset.shape.field_names, dataset.shape.bag_lengths, dataset.shape.weighted) == (("c", "genres"), (1, 3), True)
  source = open_source(RunConfig(data=str(out)))
  assert isinstance(source, PreparedSource)
  assert source.shape == dataset.shape
  first, last = source.train_batches(0, 3, 5)
  np.testing.assert_array_equal(first.bag_weight_bl, [[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1]])
  np.testing.assert_array_equal(first.ids_bl[:, 1:], [[1, 2, 0], [2, 0, 1], [1, 1, 1]])
  np.testing.assert_array_equal(last.bag_weight_bl, [[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
  np.testing.assert_array_equal(last.ids_bl[1:, 1:], [[0, 0, 2], [0, 0, 0]])
  assert (first.bag_weight_bl.dtype, first.ids_bl.dtype) == (np.float32, np.int32)
  contents_module.print_summary(contents, "out")
  assert [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "genres" in line] == [
    [" genres      ", "   3 ", "  33.33% ", "   3 ", "           "]
  ]
  every, out = run(tmp_path, GENRES, log, "--eval_rows=2", "--min_count=1", output="every")
  assert every["columns"]["categorical"][1]["cardinality"] == 5
  assert sorted(rows_of(out, "train").row(4)[2:4]) == [3, 4]


def random_log(rows: int, kind: pa.DataType, seed: int) -> pa.Table:
  """Values repeat within and across bags. Lists are null, empty, too long, or hold nulls. Some labels are bad."""
  rng = random.Random(seed)
  fixed = kind.list_size if pa.types.is_fixed_size_list(kind) else None

  def value() -> str | int | None:
    number = int(rng.paretovariate(0.6)) % 60
    return None if rng.random() < 0.15 else number if pa.types.is_integer(kind.value_type) else f"v{number}"

  def values() -> list | None:
    return None if rng.random() < 0.1 else [value() for _ in range(rng.randrange(8) if fixed is None else fixed)]

  tags = [values() for _ in range(rows)]
  tags[0] = ["v1"] * 4 if not pa.types.is_integer(kind.value_type) else [1] * 4  # repeats stay
  columns = {
    f"g{i}": pa.array([value() for _ in range(rows)], pa.int64() if pa.types.is_integer(kind.value_type) else None) for i in (1, 2)
  }
  label = pa.array([7 if rng.random() < 0.05 else rng.randrange(2) for _ in range(rows)])
  return pa.table({"y": label, "tags": pa.array(tags, kind), **columns, "c": pa.array([f"c{rng.randrange(5)}" for _ in range(rows)])})


def reference_ids(name: str, bags: list[list], train_rows: int, min_count: int) -> list[list[int]]:
  """Ids by frequency over all cells of a bag's training rows, ties by hash; -1 if there is no value."""
  hash_of = {str(v): int(vocabulary.hash_text(name, [str(v).encode()])[0]) for bag in bags for v in bag if v is not None}
  counts = Counter(str(v) for bag in bags[:train_rows] for v in bag if v is not None)
  ranked = sorted((v for v, n in counts.items() if n >= min_count), key=lambda v: (-counts[v], hash_of[v]))
  ids = {v: i + 1 for i, v in enumerate(ranked)}
  return [[-1 if v is None else ids.get(str(v), 0) for v in bag] for bag in bags]


@pytest.mark.parametrize(
  "kind",
  [
    pa.list_(pa.string()),
    pa.list_(pa.int64()),
    pa.large_list(pa.large_string()),
    pa.list_(pa.string(), 4),
  ],
  ids=str,
)
def test_random_bags_against_a_slow_reference(tmp_path, monkeypatch, kind):
  monkeypatch.setattr(read, "CHUNK_ROWS", 37)
  log = random_log(600, kind, seed=4)
  length = 3
  schema = f'label = "y"\ncategorical = ["c"]\n[bags]\ntags = {{ column = "tags", length = {length} }}\npair = ["g2", "g1"]\n'
  contents, out = run(tmp_path, schema, log, "--eval_rows=50", "--min_count=3", "--max_reject_fraction=1")
  good = [row for row in log.to_pylist() if row["y"] != 7]
  lists = [row["tags"] or [] for row in good]
  tags = [(values + [None] * length)[:length] for values in lists]
  pairs = [[row["g2"], row["g1"]] for row in good]
  train_rows = len(good) - 50
  expected = np.concatenate([np.array(reference_ids(n, bags, train_rows, 3)) for n, bags in (("tags", tags), ("pair", pairs))], axis=1)
  got = pl.concat([rows_of(out, "train"), rows_of(out, "eval")])
  assert got.columns[1:] == ["id.c", "id.tags.0", "id.tags.1", "id.tags.2", "id.pair.0", "id.pair.1"]
  np.testing.assert_array_equal(got[:, 2:].to_numpy(), expected)
  entries = {entry["name"]: entry for entry in contents["columns"]["categorical"]}
  assert entries["tags"]["truncated"] == sum(len(values) > length for values in lists)
  assert entries["tags"]["truncated"] > 100
  assert "truncated" not in entries["pair"]
  assert "truncated" not in entries["c"]
  for name, bags in (("tags", tags), ("pair", pairs)):
    assert entries[name]["missing_share"] == sum(v is None for bag in bags for v in bag) / sum(map(len, bags))
    assert entries[name]["cardinality"] == expected[:, {"tags": slice(3), "pair": slice(3, 5)}[name]].max() + 1
  assert contents["schema"]["bags"][0] == {"name": "tags", "columns": ["tags"], "list_length": 3}
  dataset = open_dataset(out)
  for start, split in ((0, "train"), (train_rows, "eval")):
    drawn = list(batches(dataset, split, 32))
    ids, weights = (np.concatenate([getattr(batch, name) for batch in drawn])[:, 1:] for name in ("ids_bl", "bag_weight_bl"))
    part = expected[start : start + dataset.rows(split)]
    np.testing.assert_array_equal(ids[: len(part)], np.maximum(part, 0))
    np.testing.assert_array_equal(weights[: len(part)], part >= 0)
    assert not weights[len(part) :].any()
    assert not ids[len(part) :].any()


def test_hash_vocabulary_of_a_bag(tmp_path):
  schema = 'label = "y"\n[bags]\ntags = { column = "tags", length = 2 }\n'
  tags = [["a", "b"], None, ["b", None], [None, "a", "c"], [""], []] * 3
  contents, out = run(tmp_path, schema, pa.table({"y": [0, 1] * 9, "tags": tags}), "--vocabulary=hash", "--eval_rows=6")
  a, b = (int(h) >> 33 for h in vocabulary.hash_text("tags", [b"a", b"b"]))
  assert rows_of(out, "train").rows()[:6] == [(0, a, b), (1, -1, -1), (0, b, -1), (1, -1, a), (0, -1, -1), (1, -1, -1)]
  entry = {"name": "tags", "cardinality": 2**31, "missing_share": 8 / 12, "bag_length": 2, "truncated": 3}
  assert contents["columns"]["categorical"] == [entry]


def test_csv_columns_and_parquet_lists_of_a_log_give_one_digest(tmp_path):
  rng = random.Random(1)
  rows = [[rng.choice(["a", "b", "ü", None]) for _ in range(3)] for _ in range(80)]
  text = "y,c,g1,g2,g3\n" + "".join(f"{i % 2},k,{','.join(v or '' for v in row)}\n" for i, row in enumerate(rows))
  of_columns, _ = run(tmp_path, GENRES, text, output="csv")
  table = pa.table({"y": [i % 2 for i in range(80)], "c": ["k"] * 80, "g": rows})
  schema = 'label = "y"\ncategorical = ["c"]\n[bags]\ngenres = { column = "g", length = 3 }\n'
  of_lists, _ = run(tmp_path, schema, table, output="parquet")
  assert of_columns["digest"] == of_lists["digest"]
  assert of_lists["columns"]["categorical"][1] == of_columns["columns"]["categorical"][1] | {"truncated": 0}


def test_a_bag_of_one_column_has_padding_instead_of_a_missing_value(tmp_path):
  schema = 'label = "y"\ncategorical = ["g"]\n[bags]\none = ["g"]\n'
  _, out = run(tmp_path, schema, "y,g\n1,\n0,a\n1,\n0,a\n1,\n0,\n", "--eval_rows=1")
  assert rows_of(out, "train").rows() == [(1, 1, -1), (0, 2, 1), (1, 1, -1), (0, 2, 1), (1, 1, -1)]
  (batch,) = batches(open_dataset(out), "train", 5)
  np.testing.assert_array_equal(batch.bag_weight_bl[:, 1], [0, 1, 0, 1, 0])
  np.testing.assert_array_equal(batch.ids_bl, [[1, 0], [2, 1], [1, 0], [2, 1], [1, 0]])


def test_a_bag_that_is_empty_in_every_training_row(tmp_path):
  contents, out = run(tmp_path, GENRES, "y,c,g1,g2,g3\n" + "1,a,,,\n0,b,,,\n" * 4 + "1,a,x,,\n", "--eval_rows=1")
  assert contents["columns"]["categorical"][1] == {"name": "genres", "cardinality": 1, "missing_share": 26 / 27, "bag_length": 3}
  assert rows_of(out, "eval").rows()[0][2:] == (0, -1, -1)
  (batch,) = batches(open_dataset(out), "train", 8)
  assert batch.bag_weight_bl.sum(axis=0).tolist() == [8, 0, 0, 0]
  assert not batch.ids_bl[:, 1:].any()


def test_bag_lengths_are_in_the_digest(tmp_path):
  """The same ids in other bags give another digest."""
  log = "y,a,b,c\n" + "1,v,v,v\n0,,,\n" * 5
  digests = {
    run(tmp_path, f'label = "y"\n[bags]\nx = {x}\nz = {z}\n', log, output=str(i))[0]["digest"]
    for i, (x, z) in enumerate([('["a", "b"]', '["c"]'), ('["a"]', '["b", "c"]'), ('["b", "a"]', '["c"]')])
  }
  assert len(digests) == 2


def test_data_sets_without_bags_are_as_before(tmp_path):
  log = "y,c,d,n\n" + "".join(f"{i % 2},{i % 3},{'' if i % 4 else 'w'},{i}\n" for i in range(40))
  schema = 'label = "y"\ncategorical = ["c", "d"]\n[dense]\nn = { transform = "log1p" }\n'
  contents, out = run(tmp_path, schema, log)
  assert contents["digest"] == "681bd766b3589952546b7c2b5aba74ea5f66342ec904b9cd4445199d0bd6972b"
  assert contents["columns"]["categorical"][0] == {"name": "c", "cardinality": 4, "missing_share": 0.0}
  assert list(contents["schema"]) == ["label", "dense", "categorical", "name", "header"]
  dataset = open_dataset(out)
  assert (dataset.shape.bag_lengths, dataset.shape.weighted) == ((1, 1), False)
  assert [batch.bag_weight_bl for batch in batches(dataset, "train", 16)] == [None] * 3
  empty, _ = run(tmp_path, schema + "[bags]\n", log, output="empty")
  assert empty["digest"] == contents["digest"]


@pytest.mark.parametrize(
  ("bags", "message"),
  [
    ("genres = []", "bag 'genres' is empty"),
    ('genres = ["a", "a"]', "the columns of bag 'genres' must differ: 'a' is there twice"),
    ('genres = ["a", 3]', "bag 'genres' must be a list of column names, or"),
    ('genres = "a"', "bag 'genres' must be a list of column names, or"),
    ('genres = { column = "a" }', "bag 'genres' must be a list of column names, or"),
    ('genres = { column = "a", length = true }', "bag 'genres' must be a list of column names, or"),
    ('genres = { column = "a", length = 0 }', "bag 'genres': a length of 0 must be from 1 to 1000"),
    ('genres = { column = "a", lenght = 3 }', "bag 'genres': unknown key 'lenght'; there are column, length"),
    ('c = ["a", "b"]', "categorical columns and bags must differ: 'c' is there twice"),
    ('d = ["a", "b"]\n"d.0" = ["e"]', "names of a schema's ids must differ: 'd.0' is there twice"),
    ('genres = ["a", "y"]', "the label column 'y' cannot be a bag column too"),
    ('genres = ["a", "b"]\ntags = { column = "a", length = 2 }', "column 'a' cannot hold lists in one place and single values in another"),
    ('tags = { column = "c", length = 2 }', "column 'c' cannot hold lists in one place"),
  ],
)
def test_bad_bags_are_refused_in_one_line(tmp_path, bags, message):
  (tmp_path / "s.toml").write_text(f'label = "y"\ncategorical = ["c"]\n[bags]\n{bags}\n')
  with pytest.raises(UserError, match=message) as error:
    load_schema(str(tmp_path / "s.toml"))
  assert str(error.value).startswith(str(tmp_path / "s.toml"))
  assert "\n" not in str(error.value)


def test_bags_come_in_file_order_after_the_categorical_columns(tmp_path):
  (tmp_path / "s.toml").write_text(
    'label = "y"\ncategorical = ["c", "b"]\n[bags]\nz = ["a", "b"]\nk = { column = "l", length = 4 }\n[dense]\na = {}\n'
  )
  schema = load_schema(str(tmp_path / "s.toml"))
  assert [(feature.name, feature.length) for feature in schema.features] == [("c", 1), ("b", 1), ("z", 2), ("k", 4)]
  assert schema.bags == (Bag("z", ("a", "b")), Bag("k", ("l",), 4))
  assert schema.columns == ("y", "a", "c", "b", "l")
  (tmp_path / "s.toml").write_text('label = "y"\nbags = 1\n')
  with pytest.raises(UserError, match="bags = 1 must be a table of features"):
    load_schema(str(tmp_path / "s.toml"))


@pytest.mark.parametrize(
  ("bag", "column", "message"),
  [
    ('["t"]', [[1], [2]], "column 't' is list<.*the columns of a bag must hold .*lists are read as { column = \"t\", length = 5 }"),
    ('["t"]', [1.5, 2.5], "column 't' is double: the columns of a bag must hold integers, text or booleans$"),
    ('{ column = "t", length = 2 }', ["a", "b"], "column 't' is string: a bag with a length must be a column of lists of"),
    ('{ column = "t", length = 2 }', [[1.5], [2.5]], "column 't' is list<.*double>: a bag with a length must be a column of lists of"),
    ('{ column = "t", length = 2 }', [[[1]], [[2]]], "column 't' is list<.*>: a bag with a length must be a column of lists of"),
    (
      '{ column = "t", length = 2 }',
      pa.array([["a"], ["b"]]).cast(pa.list_(pa.dictionary(pa.int32(), pa.string()))),
      "column 't' is list<.*dictionary.*: a bag with a length must be a column of lists of integers, plain text or booleans",
    ),
  ],
)
def test_parquet_columns_that_are_no_bag(tmp_path, bag, column, message):
  with pytest.raises(UserError, match=message):
    run(tmp_path, f'label = "y"\n[bags]\nb = {bag}\n', pa.table({"y": [0, 1], "t": column}))
  assert not (tmp_path / "out").exists()


def test_csv_has_no_lists(tmp_path):
  with pytest.raises(UserError, match=r"s\.toml: column 't' of lists: only --format=parquet has lists; name one column for each value"):
    run(tmp_path, 'label = "y"\n[bags]\nb = { column = "t", length = 2 }\n', "y,t\n1,a\n0,b\n")


# --- planted data


def effects(seed: int, field: int, ids: np.ndarray) -> np.ndarray:
  """The effects of ids from 0 of one tail field, in float64."""
  return np.asarray(hashing.normal(hashing.word(seed, 0, field, jnp.asarray(ids.astype(np.uint32) + np.uint32(1)))), np.float64)


def test_one_id_a_field_is_bit_for_bit_as_before():
  """Without bags the draws are those of the time before bags existed."""
  seed, n, index = 3, 512, jnp.arange(70, 70 + 512, dtype=jnp.uint32)
  planted = Planted(PlantedConfig(seed=seed, pair_variance=0.1))
  batch, truth = planted.batch(2, 70, n)
  words = hashing.word(seed, 1, 2, jnp.zeros((n, 1), jnp.uint32), index[:, None], jnp.arange(24)).reshape(n, 8, 3)
  ids = jax.jit(zipf_ids, static_argnums=1)(words, 10 / 9)
  np.testing.assert_array_equal(batch.ids_bl[:, :8].view(jnp.uint32), ids - 1)
  np.testing.assert_array_equal(
    truth.parts["tail"], jax.jit(lambda i: 0.5 * hashing.normal(hashing.word(seed, 0, jnp.arange(8), i)).sum(axis=1))(ids)
  )
  assert batch.bag_weight_bl is None
  assert (planted.shape.bag_lengths, planted.shape.weighted, planted.draws) == ((1,) * 12, False, 1.0)
  golden, _ = Planted(PlantedConfig(zipf_s=3.0)).batch(1, 0, 6)
  assert np.asarray(golden.ids_bl).tolist() == [
    [3, 0, 0, 1, 0, 0, 0, 0],
    [7, 1, 0, 1, 3, 2, 0, 0],
    [0, 0, 0, 0, 3, 0, 0, 0],
    [0, 0, 0, 1, 1, 0, 0, 9],
    [0, 0, 1, 0, 0, 0, 1, 1],
    [0, 0, 0, 0, 2, 0, 6, 0],
  ]
  assert config_id(RunConfig()) == config_id(RunConfig(planted=PlantedConfig(bag_length=1)))
  assert config_id(RunConfig()) != config_id(RunConfig(planted=PlantedConfig(bag_length=2)))


def test_bag_sizes_are_uniform_and_independent():
  length, n = 5, 2**15
  planted = Planted(PlantedConfig(bag_length=length, tail_fields=4, pair_variance=0.1, score_variance=0.1))
  assert planted.shape.bag_lengths == (5,) * 4 + (1,) * 8
  assert planted.shape.weighted
  assert planted.draws == 3.0
  batch, _ = planted.batch(1, 0, n)
  weight, ids = np.asarray(batch.bag_weight_bl), np.asarray(batch.ids_bl)
  assert weight.shape == ids.shape == (n, 28)
  assert weight.dtype == np.float32
  assert (weight[:, 20:] == 1).all()
  assert ids[:, 20:].max() == 63
  bags = weight[:, :20].reshape(n, 4, length)
  assert (np.diff(bags, axis=2) <= 0).all()  # the ids first, then padding
  assert set(np.unique(bags)) == {0.0, 1.0}
  assert not ids[:, :20][weight[:, :20] == 0].any()
  size = bags.sum(axis=2).astype(int)
  words = np.asarray(hashing.word(0, 6, 1, 0, jnp.arange(n)[:, None], jnp.arange(4)))  # words of their own: purpose 6
  np.testing.assert_array_equal(size, 1 + words % length)
  for field in range(4):
    share = np.bincount(size[:, field], minlength=length + 1)[1:] / n
    np.testing.assert_allclose(share, 1 / length, atol=5 * math.sqrt(0.16 / n))
  corr = np.corrcoef(np.concatenate([size, (ids[:, :20:5] > 0) * 1.0], axis=1).T)
  assert np.abs(corr - np.eye(8)).max() < 5 / math.sqrt(n)


@pytest.mark.parametrize("s", [10 / 9, 1.25])
def test_every_place_of_a_bag_has_the_zipf_law(s: float):
  batch, _ = Planted(PlantedConfig(bag_length=3, zipf_s=s)).batch(1, 0, 2**15)
  ids = (np.asarray(batch.ids_bl).view(np.uint32).astype(np.uint64) + 1).reshape(-1, 8, 3)
  present = np.asarray(batch.bag_weight_bl).reshape(-1, 8, 3) > 0
  for place in range(3):
    drawn = ids[:, :, place][present[:, :, place]]
    assert drawn.size == pytest.approx(2**18 * (3 - place) / 3, rel=0.02)
    for k in (1, 2, 3, 17, 1000, 2**20 + 1, 2**31):
      expected = k ** -(s - 1)
      assert (drawn >= k).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected / drawn.size)), (place, k)
    expected = 1 - 2 ** -(s - 1)
    assert (drawn == 1).mean() == pytest.approx(expected, abs=5 * math.sqrt(expected / drawn.size))
  both = (ids[..., 0] == 1) & (ids[..., 1] == 1)  # ids of a bag are independent, so they repeat
  p1 = 1 - 2 ** -(s - 1)
  assert both[present[..., 1]].mean() == pytest.approx(p1**2, rel=0.1)


def test_the_logit_is_the_sum_over_the_ids_present():
  config = PlantedConfig(seed=2, bag_length=4, tail_fields=3, tail_sigma=0.3, bias=-0.7, pair_variance=0.6, zipf_s=1.4)
  planted = Planted(config)
  batch, truth = planted.batch(1, 1000, 400)
  ids, weight = np.asarray(batch.ids_bl), np.asarray(batch.bag_weight_bl)
  z_fkj, scale_j = np.asarray(planted.latents["pair_fkj"], np.float64), np.sqrt(0.1 * decaying_shares(PAIR_TERMS, 1.0))
  effect = [effects(2, field, ids[:, 4 * field : 4 * field + 4]) for field in range(3)]
  repeats = 0
  for i in range(400):
    tail = 0.0
    for field in range(3):
      size = int(weight[i, 4 * field : 4 * field + 4].sum())
      tail += 0.3 * sum(effect[field][i, j] for j in range(size))
      repeats += len(set(ids[i, 4 * field : 4 * field + size].tolist())) < size
    z = [z_fkj[f, ids[i, 12 + f]] for f in range(4)]
    pairs = sum(scale_j @ (z[f] * z[g]) for f in range(4) for g in range(f + 1, 4))
    assert float(truth.parts["tail"][i]) == pytest.approx(tail, abs=2e-6)
    assert float(truth.logit_b[i]) == pytest.approx(-0.7 + tail + pairs, abs=3e-5)
  assert repeats > 100  # the same id twice counts twice


def test_bags_depend_on_the_example_alone():
  planted = Planted(PlantedConfig(bag_length=3, score_variance=0.2))
  whole, truth = planted.batch(1, 2**32 - 8, 32)
  part, part_truth = planted.batch(1, 2**32 + 2, 4)
  for a, b in zip(jax.tree.leaves((whole, truth)), jax.tree.leaves((part, part_truth)), strict=True):
    np.testing.assert_allclose(a[10:14], b, rtol=1e-6)
  few = list(planted.train_batches(0, 64, 200, start=128))
  many = list(planted.train_batches(0, 64, 640))
  assert [float(batch.weight_b.sum()) for batch in few] == [64, 8]
  for name in ("ids_bl", "bag_weight_bl", "label_b"):
    np.testing.assert_array_equal(getattr(few[0], name), getattr(many[2], name))
    np.testing.assert_array_equal(getattr(few[1], name)[:8], getattr(many[3], name)[:8])
  other = next(planted.train_batches(1, 64, 64))
  assert not np.array_equal(other.bag_weight_bl, many[0].bag_weight_bl)


def test_bag_settings_are_refused_in_one_line():
  with pytest.raises(UserError, match="--planted_bag_length=0: must be at least 1"):
    PlantedConfig(bag_length=0)
  with pytest.raises(UserError, match="--planted_bag_length=2: must be 1 with --learner=per_id") as error:
    RunConfig(train=TrainConfig(learner="per_id"), planted=PlantedConfig(bag_length=2))
  assert "\n" not in str(error.value)


# --- theory with bags


def exact_excess(length: int, examples: int, num_ids: int, tau: float, curvature: float, seed: int) -> tuple[float, np.ndarray]:
  """c/2 E x'Sx of a linear model over bags in two fields, S the whole posterior covariance; and the ids' probabilities."""
  rng, k = np.random.default_rng(seed), np.arange(1, num_ids + 1, dtype=np.float64)
  p = k**-0.25 - (k + 1) ** -0.25
  p /= p.sum()

  def counts(size: int) -> np.ndarray:
    x = np.zeros((size, 2 * num_ids))
    for field in range(2):
      filled, ids = rng.integers(1, length + 1, size), rng.choice(num_ids, (size, length), p=p)
      for i in range(length):
        on = np.flatnonzero(filled > i)
        np.add.at(x, (on, field * num_ids + ids[on, i]), 1)
    return x

  x = counts(examples)
  covariance = np.linalg.inv(np.eye(2 * num_ids) * curvature / tau + curvature * x.T @ x)
  y = counts(20_000)
  return curvature / 2 * float(((y @ covariance) * y).sum(axis=1).mean()), p


@pytest.mark.parametrize(("length", "tolerance"), [(1, 0.025), (3, 0.04), (6, 0.06)])
def test_first_order_theory_against_an_exact_posterior(length: int, tolerance: float):
  """Of the tolerance, 1% comes from the spread of the counts (as with one id a field), the other part from ids that share a bag."""
  tau, examples, m = 0.05, 3000, (length + 1) / 2
  got, p = exact_excess(length, examples, num_ids=250, tau=tau, curvature=0.2, seed=length)
  expected = m * (p * tau / (1 + m * examples * p * tau)).sum()
  assert got == pytest.approx(expected, rel=tolerance)
  if length > 1:  # the judge tells bags from single ids
    assert got > 1.3 * (p * tau / (1 + examples * p * tau)).sum()


def test_closed_forms_with_bags():
  s, tau, m, n = 1.25, 0.02, 3.0, 5e4
  k = np.arange(1, 1000, dtype=np.float64)
  p = k ** -(s - 1) - (k + 1) ** -(s - 1)
  capped = theory.excess_ideal(n, s, tau, 8, num_rows=1000, draws=m) / (4 * m)
  assert capped == pytest.approx((p * tau / (1 + m * n * p * tau)).sum() + tau * 1000 ** -(s - 1), rel=1e-9)
  assert theory.rows_floor(1000, s, tau, 8, "top", m) == pytest.approx(4 * m * tau * 1000 ** -(s - 1))
  planted = PlantedConfig(bag_length=5, zipf_s=s)
  config, source = RunConfig(planted=planted), Planted(planted)
  floor = theory.rows_floor(100_000, s, source.tau, 8, draws=3.0)
  assert theory_of(config, source) == {
    "s": s,
    "beta_data": 0.2,
    "beta_rows": 0.25,
    "rows_floor": floor,
    "pairs_floor": None,
    "dense_floor": None,
  }
  assert ideal(config, source, 4096) == theory.excess_ideal(4096, s, source.tau, 8, 100_000, draws=3.0)


@pytest.mark.parametrize("s", [10 / 9, 1.25])
def test_repeats_in_a_bag_add_as_little_as_is_said(s: float):
  count, p = theory._ids(s, 2**31)
  for length, bounds in ((8, {1e3: 0.02, 1e4: 0.003, 1e5: 0.0003}), (32, {1e5: 0.0012})):
    m = (length + 1) / 2
    tau, q = 0.036 / m, m * p + (length**2 - 1) / 3 * p**2
    for n, bound in bounds.items():
      first = (count * m * p * tau / (1 + n * m * p * tau)).sum() + m * tau * 2.0 ** (-31 * (s - 1))
      second = (count * q * tau / (1 + n * q * tau)).sum() + m * tau * 2.0 ** (-31 * (s - 1))
      assert 0 < second / first - 1 < bound, (length, n)
  rng, p3 = np.random.default_rng(0), 0.3  # the second moment itself, by counting
  size = rng.integers(1, 6, 400_000)
  assert (rng.binomial(size, p3) ** 2).mean() == pytest.approx(3 * p3 + 8 * p3**2, rel=0.01)


def test_rows_shared_by_ids_lose_m_times_as_much():
  """Least squares on sampled bags of 2,000 ids in 40 rows, by hash and by top: each draw loses what a row cannot tell apart."""
  rng, k = np.random.default_rng(1), np.arange(1, 2001, dtype=np.float64)
  p = k**-1.25 / (k**-1.25).sum()
  effect = rng.standard_normal(2000)
  for row in (rng.integers(0, 40, 2000), np.minimum(np.arange(2000), 39)):
    mean = np.bincount(row, p * effect, 40) / np.bincount(row, p, 40)
    lost = (p * (effect - mean[row]) ** 2).sum()  # one id a field
    size, ids = rng.integers(1, 5, 100_000), rng.choice(2000, (100_000, 4), p=p)
    present = np.arange(4) < size[:, None]
    x = np.zeros((100_000, 40))
    np.add.at(x, (np.nonzero(present)[0], row[ids[present]]), 1)
    target = (effect[ids] * present).sum(axis=1)
    left = target - x @ np.linalg.lstsq(x, target, rcond=None)[0]
    assert (left**2).mean() == pytest.approx(2.5 * lost, rel=0.03)


def test_a_diagonal_bayesian_learner_of_bags_is_close_to_the_closed_form():
  """`per_id`'s rule for counts x_k of an id in its bag: prec += x^2 q(1-q), w += x (y-q)/prec."""
  config = PlantedConfig(zipf_s=1.25, bag_length=3, tail_fields=4)
  planted, examples = Planted(config), 16384
  mean: dict[tuple[int, int], float] = {}
  precision: dict[tuple[int, int], float] = {}

  def keys(batch) -> list[Counter]:
    ids, on = np.asarray(batch.ids_bl).tolist(), np.asarray(batch.bag_weight_bl).tolist()
    return [Counter((j // 3, i) for j, i in enumerate(row) if w[j]) for row, w in zip(ids, on, strict=True)]

  for batch in planted.train_batches(0, 8192, examples):
    for bag, label in zip(keys(batch), np.asarray(batch.label_b).tolist(), strict=True):
      q = 1 / (1 + math.exp(1 - sum(x * mean.get(key, 0.0) for key, x in bag.items())))
      for key, x in bag.items():
        precision[key] = precision.get(key, 4.0) + x * x * q * (1 - q)
        mean[key] = mean.get(key, 0.0) + x * (label - q) / precision[key]
  evaluation, truth = planted.batch(EVAL_STREAM, 0, 2**15)
  logit = np.array([-1 + sum(x * mean.get(key, 0.0) for key, x in bag.items()) for bag in keys(evaluation)])
  got = metrics.excess(logit, np.asarray(truth.logit_b, np.float64))
  expected = theory.excess_ideal(examples, 1.25, planted.tau, 4, draws=planted.draws)
  assert got == pytest.approx(expected, rel=0.08)
  assert abs(got / theory.excess_ideal(examples, 1.25, planted.tau, 4) - 1) > 0.3


def test_older_dataset_files_open(tmp_path):
  """A dataset.json from the time before bags has no bag_length."""
  _, out = run(tmp_path, GENRES.split("[bags]")[0], "y,c\n" + "1,a\n0,b\n" * 6)
  assert "bag" not in json.dumps(json.loads((out / "dataset.json").read_text())["columns"])
  assert open_dataset(out).shape.bag_lengths == (1,)
