"""`dlrm_jax.data.pipeline`: the batches are the rows of the log, in order, once each; a damaged data set does not open."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dlrm_jax import flags
from dlrm_jax.batch import check_ids
from dlrm_jax.data import shards
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.data.pipeline import batches
from dlrm_jax.data.prepare import PrepareConfig, prepare
from dlrm_jax.flags import UserError

ROWS, EVAL_ROWS = 523, 60
SCHEMA = 'name = "toy"\nlabel = "y"\ncategorical = ["user", "item"]\n[dense]\na = { transform = "none" }\nb = {}\n'


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
  """523 rows in row groups of 32 and shards of 3 groups; column `a` is the row's number."""
  directory = tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  log = pl.DataFrame(
    {
      "y": rng.integers(0, 2, ROWS),
      "user": [f"u{i}" for i in rng.zipf(1.5, ROWS) % 50],
      "item": rng.integers(0, 9, ROWS),
      "a": np.arange(ROWS),
      "b": rng.integers(0, 100, ROWS),
    }
  )
  log.write_csv(directory / "log.csv")
  (directory / "schema.toml").write_text(SCHEMA)
  words = ["--format=csv", f"--input={directory}/log.csv", f"--schema={directory}/schema.toml", f"--eval_rows={EVAL_ROWS}"]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shards, "ROWS_PER_GROUP", 32)
    patch.setattr(shards, "GROUPS_PER_SHARD", 3)
    patch.setattr("dlrm_jax.data.prepare.ROWS_PER_GROUP", 32)
    prepare(flags.parse(["x", f"--output={directory}/out", *words], PrepareConfig))
  return directory


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
  return Path(shutil.copytree(prepared / "out", tmp_path / "copy"))


def test_open_dataset(prepared):
  dataset = open_dataset(prepared / "out")
  log = pl.read_csv(prepared / "log.csv")
  assert (dataset.name, dataset.dense, dataset.categorical) == ("toy", ("a", "b"), ("user", "item"))
  assert (dataset.train_rows, dataset.eval_rows) == (ROWS - EVAL_ROWS, EVAL_ROWS)
  assert dataset.train_base_rate == log["y"][:-EVAL_ROWS].sum() / (ROWS - EVAL_ROWS)
  assert dataset.cardinalities[1] == 10
  assert [shard.rows for shard in dataset.train_shards] == [96, 96, 96, 96, 79]
  assert open_dataset(str(prepared / "out"), verify=True) == dataset
  assert dataset.digest == json.loads((prepared / "out" / "dataset.json").read_text())["digest"]


@pytest.mark.parametrize("batch_size", [1, 7, 32, 33, 100, 1000])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_batches_are_the_rows_in_order(prepared, split, batch_size):
  dataset = open_dataset(prepared / "out")
  log = pl.read_csv(prepared / "log.csv")
  log = log[:-EVAL_ROWS] if split == "train" else log[-EVAL_ROWS:]
  got = list(batches(dataset, split, batch_size))
  assert len(got) == -(-len(log) // batch_size)
  for batch in got:
    assert batch.dense_bm.shape == batch.ids_bl.shape == (batch_size, 2)
    assert (batch.dense_bm.dtype, batch.ids_bl.dtype, batch.label_b.dtype, batch.weight_b.dtype) == (
      np.float32,
      np.int32,
      np.float32,
      np.float32,
    )
  weight = np.concatenate([batch.weight_b for batch in got])
  np.testing.assert_array_equal(weight, (np.arange(len(weight)) < len(log)).astype(np.float32))
  dense, ids, label = (np.concatenate([getattr(batch, field) for batch in got]) for field in ("dense_bm", "ids_bl", "label_b"))
  np.testing.assert_array_equal(dense[: len(log), 0], log["a"].to_numpy())
  np.testing.assert_allclose(dense[: len(log), 1], np.log1p(log["b"].to_numpy()), rtol=1e-6)
  np.testing.assert_array_equal(label[: len(log)], log["y"].to_numpy())
  for padding in (dense, ids, label):
    assert not padding[len(log) :].any()
  stored = pl.concat([pl.read_parquet(shard.path) for shard in dataset.shards(split)])
  np.testing.assert_array_equal(ids[: len(log)], stored.select("id.user", "id.item").to_numpy())


@pytest.mark.parametrize(("start", "count"), [(0, 1), (31, 2), (32, 32), (95, 100), (100, None), (462, 1), (463, None), (200, 0)])
def test_start_and_num_examples(prepared, start, count):
  dataset = open_dataset(prepared / "out")
  got = list(batches(dataset, "train", 16, num_examples=count, start=start))
  rows = np.concatenate([batch.dense_bm[batch.weight_b > 0, 0] for batch in got]) if got else np.zeros(0)
  stop = dataset.train_rows if count is None else start + count
  np.testing.assert_array_equal(rows, np.arange(start, stop))


def test_subsets_nest(prepared):
  dataset = open_dataset(prepared / "out")
  few, many = (np.concatenate([b.ids_bl for b in batches(dataset, "train", 10, num_examples=n)]) for n in (100, 300))
  np.testing.assert_array_equal(few, many[:100])


def test_an_unfinished_pass_can_be_left(prepared):
  dataset = open_dataset(prepared / "out")
  for _ in range(3):
    first = next(iter(batches(dataset, "train", 8)))
    assert first.dense_bm[:, 0].tolist() == list(range(8))


def test_asking_for_more_than_there_is(prepared):
  dataset = open_dataset(prepared / "out")
  with pytest.raises(UserError, match="num_examples=464 from example 0 on: the train split of toy has 463 rows"):
    batches(dataset, "train", 8, num_examples=464)
  with pytest.raises(UserError, match="split 'test' must be among train, eval"):
    batches(dataset, "test", 8)
  with pytest.raises(UserError, match="batch_size=0"):
    batches(dataset, "train", 0)


def test_missing_or_broken_data_sets(copy, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="no such directory; a data set is made by"):
    open_dataset(tmp_path / "absent")
  (tmp_path / "other").mkdir()
  with pytest.raises(UserError, match=r"no dataset\.json in it"):
    open_dataset(tmp_path / "other")
  good, contents = (copy / "dataset.json").read_text(), json.loads((copy / "dataset.json").read_text())
  for text, message in (
    (good[:100], "not valid JSON"),
    ("{}", "not made by"),
    (json.dumps(contents | {"columns": {}}), "not made by"),
    (json.dumps(contents | {"schema_version": 99}), "schema_version 99, but this version reads 1"),
    (good.replace('"rows": 96', '"rows": 97', 1), "do not add up"),
  ):
    (copy / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=message):
      open_dataset(copy)
  (copy / "dataset.json").write_text(good)
  open_dataset(copy)
  shard = copy / "train-00002.parquet"
  data = bytearray(shard.read_bytes())
  data[200] ^= 1
  shard.write_bytes(data)
  with pytest.raises(UserError, match=r"train-00002\.parquet: changed since it was prepared"):
    open_dataset(copy)
  monkeypatch.setattr("dlrm_jax.data.dataset.VERIFY_BYTES", 0)
  open_dataset(copy)  # large data sets are only checked on request
  with pytest.raises(UserError, match="changed since it was prepared"):
    open_dataset(copy, verify=True)
  shard.write_bytes(data[:-1])
  with pytest.raises(UserError, match=f"{len(data) - 1} bytes, but dataset.json says {len(data)}"):
    open_dataset(copy)
  shard.unlink()
  with pytest.raises(UserError, match=r"train-00002\.parquet: missing"):
    open_dataset(copy)


def test_ids_out_of_range_are_caught_on_the_host():
  columns = [np.array([0, 4], np.int32), np.array([2, 1], np.int32)]
  check_ids(columns, ["a", "b"], [5, 3], "x")
  for bad, message in ((5, "x: feature a has id 5; ids are from 0 to 4"), (-1, "x: feature a has id -1; ids are from 0 to 4")):
    with pytest.raises(UserError, match=f"^{message}$"):
      check_ids([np.array([0, bad], np.int32), columns[1]], ["a", "b"], [5, 3], "x")
  check_ids([np.array([-1], np.int32)], ["a"], [5], "x", lowest=-1)


def test_a_shard_with_ids_beyond_the_tables_is_refused(prepared):
  dataset = open_dataset(prepared / "out")
  fewer = dataclasses.replace(dataset, cardinalities=(dataset.cardinalities[0], 9))
  with pytest.raises(UserError, match=r"train-00000.parquet: feature item has id 9; ids are from 0 to 8$"):
    list(batches(fewer, "train", 50))
