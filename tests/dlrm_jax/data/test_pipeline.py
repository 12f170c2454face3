"""`dlrm_jax.data.pipeline`: the batches of all processes are the rows of the log, in order, once each, from any start; a damaged data set
does not open, or is not read."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numbered_case import numbered, rows_in
from order_case import reference

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data import pipeline, shard_format
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.data.order import local_count
from dlrm_jax.data.pipeline import batches
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.shard_format import check_ids

ROWS, EVAL_ROWS = 523, 60
SCHEMA = 'name = "toy"\nlabel = "y"\ncategorical = ["user", "item"]\n[dense]\na = { transform = "none" }\nb = { transform = "log1p" }\n'


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
    patch.setattr(shard_format, "ROWS_PER_GROUP", 32)
    patch.setattr(shard_format, "GROUPS_PER_SHARD", 3)
    prepare(flags.parse(["x", f"--output={directory}/out", "--workers=1", *words], PrepareConfig))
  return directory


def blocks_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
  """A list that gets every block that is read."""
  read: list[int] = []
  real = pipeline._Units._read
  monkeypatch.setattr(pipeline._Units, "_read", lambda units, piece: read.append(piece.block) or real(units, piece))
  return read


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
  return Path(shutil.copytree(prepared / "out", tmp_path / "copy"))


def test_open_dataset(prepared):
  dataset = open_dataset(prepared / "out")
  log = pl.read_csv(prepared / "log.csv")
  assert (dataset.name, dataset.dense, dataset.shape.field_names) == ("toy", ("a", "b"), ("user", "item"))
  assert (dataset.rows("train"), dataset.rows("eval")) == (ROWS - EVAL_ROWS, EVAL_ROWS)
  assert dataset.base_rates["train"] == log["y"][:-EVAL_ROWS].sum() / (ROWS - EVAL_ROWS)
  assert dataset.shape.cardinalities[1] == 10
  assert [shard.rows for shard in dataset.shards("train")] == [96, 96, 96, 96, 79]
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
  stop = dataset.rows("train") if count is None else start + count
  np.testing.assert_array_equal(rows, np.arange(start, stop))


def test_subsets_nest(prepared):
  dataset = open_dataset(prepared / "out")
  few, many = (np.concatenate([b.ids_bl for b in batches(dataset, "train", 10, num_examples=n)]) for n in (100, 300))
  np.testing.assert_array_equal(few, many[:100])


@pytest.mark.parametrize("order", ["time", "shuffled"])
@pytest.mark.parametrize("num_processes", [1, 2, 3])
@pytest.mark.parametrize(("rows", "per_group"), [(1, 8), (2, 8), (8, 8), (15, 8), (203, 8), (240, 8), (203, 1), (50, 64)])
def test_parts_are_the_data_set_once(tmp_path, rows, per_group, num_processes, order):
  """Batches of 12 in 1, 2 and 3 processes against a slow reference, for all examples and for fewer."""
  dataset = numbered(tmp_path, rows, per_group, groups=3)
  expected, size = reference(rows, per_group, order, 5, num_processes), 12 // num_processes
  for count in {rows, rows // 2, max(rows - 1, 0), min(rows, 24), 0}:
    got = [list(batches(dataset, "train", 12, count, 0, order, 5, (p, num_processes))) for p in range(num_processes)]
    assert [len(mine) for mine in got] == [-(-count // 12)] * num_processes
    assert {len(batch.label_b) for mine in got for batch in mine} <= {size}
    for p, mine in enumerate(got):
      assert rows_in(mine) == expected[p][: local_count(count, (p, num_processes))]
      assert all(batch.weight_b.all() for batch in mine[:-1])
    if count == rows:
      assert sorted(row for mine in got for row in rows_in(mine)) == list(range(rows))


@pytest.mark.parametrize("order", ["time", "shuffled"])
@pytest.mark.parametrize("part", [(0, 1), (0, 2), (1, 2)])
def test_a_pass_goes_on_from_any_batch(tmp_path, monkeypatch, order, part):
  """The batches are equal bit for bit. Of the rows before, at most those in the block or window of the start are read again."""
  dataset, read = numbered(tmp_path, 1003, 8, groups=5), blocks_read(monkeypatch)
  whole = list(batches(dataset, "train", 20, None, 0, order, 1, part))
  first_pass, window = list(read), {"time": 1, "shuffled": 8}[order]
  for k in np.random.default_rng(part[0]).integers(0, len(whole), 8):
    read.clear()
    rest = list(batches(dataset, "train", 20, None, 20 * int(k), order, 1, part))
    assert len(rest) == len(whole) - k
    for one, other in zip(rest, whole[k:], strict=True):
      for name in ("dense_bm", "ids_bl", "label_b", "weight_b"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    before = int(k) * 20 // part[1] // 8 // window * window
    assert read == first_pass[before:]
  assert list(batches(dataset, "train", 20, 0, 1000, order, 1, part)) == []


@pytest.mark.parametrize("order", ["time", "shuffled"])
def test_fewer_examples_are_the_first_of_more(tmp_path, order):
  dataset = numbered(tmp_path, 203, 8, groups=3)
  for part in ((0, 1), (1, 3)):
    many = rows_in(list(batches(dataset, "train", 6, 200, 0, order, 2, part)))
    for count in range(0, 200, 7):
      few = rows_in(list(batches(dataset, "train", 6, count, 0, order, 2, part)))
      assert few == many[: local_count(count, part)]


def test_many_threads_and_few_open_files_change_nothing(tmp_path, monkeypatch):
  dataset = numbered(tmp_path, 2003, 8, groups=2)
  few = [rows_in(list(batches(dataset, "train", 50, order=order, seed=4))) for order in ("time", "shuffled")]
  monkeypatch.setattr(pipeline.record, "hardware", lambda: {"cores": 12})
  monkeypatch.setattr(pipeline, "_OPEN_FILES", 2)
  assert [rows_in(list(batches(dataset, "train", 50, order=order, seed=4))) for order in ("time", "shuffled")] == few


def test_few_files_stay_open(tmp_path, monkeypatch):
  if not Path("/proc/self/fd").exists():
    pytest.skip("no /proc on this system")
  monkeypatch.setattr(pipeline, "_OPEN_FILES", 2)
  files, shards_ = pipeline._OpenFiles(), numbered(tmp_path, 200, 8, groups=2).shards("train")
  for shard in (*shards_, shards_[-1]):
    files.get(shard.path)
  links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
  held = {path.name for path in (link.readlink() for link in links if link.exists()) if path.parent == tmp_path}
  assert held == {shard.path.name for shard in shards_[-2:]}


def test_a_shard_unlike_its_description_is_refused(tmp_path):
  dataset = numbered(tmp_path, 64, 8, groups=2)
  path = dataset.shards("train")[2].path
  for table, message in (
    (pq.read_table(path).slice(0, 15), "block 1 has 7 rows, not 8 as dataset.json states"),
    (pq.read_table(path).rename_columns(["label", "dense.a", "id.v"]), "has the columns label, dense.a, not label, dense.a, id.u"),
    (pq.read_table(path).set_column(2, "id.u", pa.array(np.zeros(16))), "column id.u is double with 0 nulls, not int32 with none"),
    (
      pq.read_table(path).set_column(1, "dense.a", pa.array([None] * 16, pa.float32())),
      "column dense.a is float with 8 nulls, not float with none",
    ),
  ):
    pq.write_table(table, path, row_group_size=8)
    with pytest.raises(UserError, match=f"^{path}: {message}$"):
      list(batches(dataset, "train", 8))


def test_an_unfinished_pass_can_be_left(prepared):
  dataset = open_dataset(prepared / "out")
  for _ in range(3):
    first = next(iter(batches(dataset, "train", 8)))
    assert first.dense_bm[:, 0].tolist() == list(range(8))


def test_asking_for_more_than_there_is(prepared):
  dataset = open_dataset(prepared / "out")
  with pytest.raises(UserError, match="num_examples=464 from example 0 on: the train split of toy has 463 rows"):
    batches(dataset, "train", 8, num_examples=464)
  with pytest.raises(UserError, match="split 'third' must be among train, eval"):
    batches(dataset, "third", 8)
  with pytest.raises(UserError, match="batch_size=0"):
    batches(dataset, "train", 0)
  with pytest.raises(UserError, match=r"^order 'random' must be among time, shuffled$"):
    batches(dataset, "train", 8, order="random")
  with pytest.raises(UserError, match=r"^batch_size=8: must be a multiple of the 3 processes$"):
    batches(dataset, "train", 8, process=(0, 3))


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
    (json.dumps(contents | {"columns": contents["columns"] | {"dense": [1e300]}}), "not made by"),
    (json.dumps(contents | {"vocabulary": [1, "a"]}), "not made by"),
    (json.dumps(contents | {"columns": {}}), "not made by"),
    (json.dumps(contents | {"schema_version": 99}), "schema_version 99, but this version reads 1"),
    (good.replace('"rows": 96', '"rows": 97', 1), "do not add up"),
    (re.sub(r'"xxh3_128": "[0-9a-f]+"', '"xxh3_128": []', good), "changed since it was prepared"),
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
  large = open_dataset(copy)  # checked shard by shard as they are read
  assert len(list(batches(large, "eval", 20))) == 3
  before = []
  with pytest.raises(UserError, match=r"^.*train-00002\.parquet: changed since it was prepared.*$"):
    before.extend(batches(large, "train", 32))
  assert len(before) <= 6  # two shards of three blocks each
  with pytest.raises(UserError, match="changed since it was prepared"):
    open_dataset(copy, verify=True)
  shard.write_bytes(data[:-1])
  with pytest.raises(UserError, match=f"{len(data) - 1} bytes, but dataset.json states {len(data)}"):
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
  fewer = dataclasses.replace(dataset, shape=dataclasses.replace(dataset.shape, cardinalities=(dataset.shape.cardinalities[0], 9)))
  with pytest.raises(UserError, match=r"train-00000.parquet: feature item has id 9; ids are from 0 to 8$"):
    list(batches(fewer, "train", 50))
