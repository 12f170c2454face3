"""Example weights and left-out negatives in a data set: what prepare keeps, counts and states, and what batches hold."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_case import criteo_lines, rows_of

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.data import shard_format
from dlrm_jax.data.dataset import left_out, open_dataset
from dlrm_jax.data.describe import tables
from dlrm_jax.data.pipeline import batches
from dlrm_jax.data.prepare import program, thin, vocabulary
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.prepare.schema_file import load_schema

SCHEMA = 'label = "y"\ncategorical = ["c", "d"]\n{}\n[dense]\nx = {{ transform = "log1p" }}\n'


def run(tmp_path: Path, *more: str, output: str = "out", kind: str = "csv") -> tuple[dict, Path]:
  schema = [] if kind == "criteo_tsv" else [f"--schema={tmp_path}/s.toml"]
  words = ["prepare", f"--format={kind}", f"--input={tmp_path}/log*", f"--output={tmp_path}/{output}", "--workers=1", *schema, *more]
  made = prepare(flags.parse(words, PrepareConfig))
  assert made is not None
  return made, tmp_path / output


def log(count: int, seed: int = 0) -> list[dict]:
  rng = random.Random(seed)
  weights = [0, 0.0, 1, 2, 0.25, 3.5, 1e20, 1e-20]
  return [
    {"y": i % 2, "c": rng.choice("abcde"), "d": rng.randrange(9), "x": rng.randrange(99), "w": rng.choice(weights)} for i in range(count)
  ]


def write_csv(tmp_path: Path, rows: list[dict], name: str = "log.csv", zipped: bool = False) -> None:
  text = "y,c,d,x,w\n" + "".join(",".join(str(row[name]) for name in ("y", "c", "d", "x", "w")) + "\n" for row in rows)
  (tmp_path / name).write_bytes(gzip.compress(text.encode()) if zipped else text.encode())


def test_shards_keep_weights_and_rows_of_weight_0_are_left_out(tmp_path, monkeypatch):
  monkeypatch.setattr(shard_format, "ROWS_PER_GROUP", 16)
  monkeypatch.setattr(shard_format, "GROUPS_PER_SHARD", 2)
  rows = log(200)
  kept = [row for row in rows if row["w"]]
  write_csv(tmp_path, rows)
  (tmp_path / "s.toml").write_text(SCHEMA.format('weight = "w"'))
  made, out = run(tmp_path, "--eval_rows=20")
  got = [rows_of(out, split) for split in ("train", "eval")]
  assert got[0].columns == ["label", "dense.x", "id.c", "id.d", "weight"]
  assert [len(frame) for frame in got] == [len(kept) - 20, 20]
  for frame, some in zip(got, (kept[:-20], kept[-20:]), strict=True):
    assert frame["label"].to_list() == [row["y"] for row in some]
    np.testing.assert_array_equal(frame["weight"], np.array([row["w"] for row in some], np.float32))
    np.testing.assert_allclose(frame["dense.x"], np.log1p([row["x"] for row in some]), rtol=1e-6)
  assert made["columns"]["weight"] == {"name": "w", "rows_of_weight_0": len(rows) - len(kept)}
  for split, some in (("train", kept[:-20]), ("eval", kept[-20:])):
    weights = np.array([row["w"] for row in some], np.float32).astype(float)
    assert made["splits"][split]["weights"] == pytest.approx(weights.sum(), rel=1e-12)
    assert made["splits"][split]["base_rate"] == pytest.approx(weights @ [row["y"] for row in some] / weights.sum(), rel=1e-12)
  dataset = open_dataset(out)
  assert dataset.shape.weight_column == "w"
  assert dataset.base_rates["train"] == made["splits"]["train"]["base_rate"]
  for order in ("time", "shuffled"):
    read = list(batches(dataset, "train", 32, order=order))
    assert [batch.weight_b.dtype for batch in read] == [np.float32] * len(read)
    pairs = [(x, y) for batch in read for x, y in zip(batch.dense_bm[:, 0].tolist(), batch.weight_b.tolist()) if y]
    expected = list(zip(got[0]["dense.x"].to_list(), got[0]["weight"].to_list()))
    assert pairs == expected if order == "time" else sorted(pairs) == sorted(expected)
  assert np.count_nonzero(read[-1].weight_b) == (len(kept) - 20) % 32  # padding has weight 0


def test_a_weight_is_a_column_of_the_digest_and_formats_agree(tmp_path):
  rows = [row | {"w": row["w"] or 1} for row in log(80)]
  write_csv(tmp_path, rows)
  (tmp_path / "s.toml").write_text(SCHEMA.format('weight = "w"'))
  made, _ = run(tmp_path)
  (tmp_path / "log.csv").unlink()
  pq.write_table(
    pa.table({name: [float(row[name]) if name == "w" else row[name] for row in rows] for name in rows[0]}), tmp_path / "log.parquet"
  )
  assert run(tmp_path, output="parquet", kind="parquet")[0]["digest"] == made["digest"]
  (tmp_path / "log.parquet").unlink()
  write_csv(tmp_path, [row | {"w": 1} for row in rows])
  ones, _ = run(tmp_path, output="ones")
  (tmp_path / "s.toml").write_text(SCHEMA.format(""))
  plain, out = run(tmp_path, output="plain")
  assert len({made["digest"], ones["digest"], plain["digest"]}) == 3
  assert "weight" not in rows_of(out, "train").columns
  assert "weight" not in plain["columns"]


@pytest.mark.parametrize(
  ("weight", "good"),
  [("", False), ("-1", False), ("nan", False), ("1e21", False), ("1e-21", False), ("x", False), ("0", True), ("1e3", True)],
)
def test_what_is_no_weight_is_rejected(tmp_path, weight, good):
  write_csv(tmp_path, [row | {"w": weight if i == 7 else 1} for i, row in enumerate(log(40))])
  (tmp_path / "s.toml").write_text(SCHEMA.format('weight = "w"'))
  made, out = run(tmp_path, "--max_reject_fraction=0.1")
  assert made["rejects"]["total"] == (not good)
  if not good:
    assert (out / "rejects.tsv").read_text().splitlines()[1].startswith("log.csv\t9\tweight is not 0 or from 1e-20 to 1e20\tw is ")


@pytest.mark.parametrize(
  ("key", "message"), [("weight = 3", "weight = 3 must be text"), ('weight = "y"', "'y' cannot be the weight and the label too")]
)
def test_bad_weight_columns(tmp_path, key, message):
  (tmp_path / "s.toml").write_text(SCHEMA.format(key))
  with pytest.raises(UserError, match=message):
    load_schema(str(tmp_path / "s.toml"))


def test_the_share_of_kept_negatives_and_their_places():
  """Every second place has a click. The hash is independent of labels, near its share in every range, and larger shares keep more."""
  label_n = (np.arange(100_000) % 2).astype(np.uint8)
  before = np.zeros(50_000, bool)
  for share in (0.01, 0.1, 0.5, 0.9):
    kept_n = thin.is_kept(label_n, 0, 80_000, share)
    assert kept_n[label_n == 1].all() and kept_n[80_000:].all()
    negatives_n = kept_n[label_n == 0]
    for some in np.split(negatives_n[:40_000], 4):
      assert abs(some.mean() - share) < 5 * (share * (1 - share) / len(some)) ** 0.5
    assert (negatives_n | ~before).all()  # what a smaller share keeps
    before = negatives_n
    np.testing.assert_array_equal(thin.is_kept(label_n[777:], 777, 80_000, share), kept_n[777:])


def test_golden_places_of_kept_negatives():
  """If these change, every such data set is made otherwise."""
  assert np.flatnonzero(thin.is_kept(np.zeros(100, np.uint8), 10**10, 10**12, 0.1)).tolist() == GOLDEN


GOLDEN = [1, 10, 19, 25, 34, 40, 50, 58]


@pytest.mark.parametrize("kind", ["csv", "criteo_tsv"])
@pytest.mark.parametrize("weighted", [False, True])
def test_left_out_negatives_by_a_slow_reference(tmp_path, monkeypatch, kind, weighted):
  """Rows, ids and rates are those of a log in which the rows were left out before; pieces and shards change nothing."""
  if kind == "criteo_tsv" and weighted:
    pytest.skip("Criteo's logs have no weights")
  monkeypatch.setattr(shard_format, "ROWS_PER_GROUP", 64)
  monkeypatch.setattr(shard_format, "GROUPS_PER_SHARD", 2)
  (tmp_path / "s.toml").write_text(SCHEMA.format('weight = "w"' * weighted))
  rng = random.Random(5)
  rows = [row | {"y": int(rng.random() < 0.2), "w": row["w"] if weighted and 0.1 < row["w"] < 10 else 1} for row in log(900, seed=1)]
  lines = criteo_lines(900)
  labels = [int(line[0]) for line in lines] if kind == "criteo_tsv" else [row["y"] for row in rows]
  place_n = vocabulary.hash_uint32("negative", np.arange(900, dtype=np.uint64))
  kept = [i for i in range(900) if labels[i] or i >= 810 or int(place_n[i]) < 0.2 * 2**64]
  assert 200 < len(kept) < 600

  def write(places: list[int]) -> None:
    if kind == "criteo_tsv":
      (tmp_path / "log").write_text("".join(lines[i] + "\n" for i in places))
    else:
      write_csv(tmp_path, [rows[i] for i in places], "log")

  write(list(range(900)))
  thinned, out = run(tmp_path, "--eval_rows=90", "--keep_negatives=0.2", "--min_count=3", kind=kind)
  with monkeypatch.context() as patch:
    patch.setattr(program, "_MIB", 1)
    size = 30_000 if kind == "criteo_tsv" else 3000
    options = ("--eval_rows=90", "--keep_negatives=0.2", "--min_count=3", f"--piece_mib={size}")
    pieces, _ = run(tmp_path, *options, output="pieces", kind=kind)
  whole, _ = run(tmp_path, "--eval_rows=90", "--min_count=3", output="whole", kind=kind)
  write(kept)
  expected, expected_out = run(tmp_path, "--eval_rows=90", "--min_count=3", output="expected", kind=kind)
  for split in ("train", "eval"):
    assert rows_of(out, split).equals(rows_of(expected_out, split))
    for shard, wanted in zip(thinned["splits"][split]["shards"], expected["splits"][split]["shards"], strict=True):
      assert shard == wanted
  assert pieces["digest"] == thinned["digest"] != expected["digest"]
  facts = thinned["keep_negatives"]
  assert (facts["share"], facts["train_rows"]) == (0.2, 810)
  weight_n = np.array([1.0 if kind == "criteo_tsv" else row["w"] for row in rows[:810]])
  assert facts["base_rate"] == pytest.approx(weight_n @ labels[:810] / weight_n.sum())
  assert thinned["splits"]["train"]["base_rate"] == facts["base_rate"] == pytest.approx(whole["splits"]["train"]["base_rate"])
  assert "keep_negatives" not in whole
  assert whole["columns"]["categorical"][0]["cardinality"] >= thinned["columns"]["categorical"][0]["cardinality"]
  dataset = open_dataset(out)
  assert dataset.shape.negatives_kept == 0.2
  assert open_dataset(tmp_path / "whole").shape.negatives_kept == 1.0
  assert json.loads((out / "dataset.json").read_text())["keep_negatives"] == facts


def test_what_is_left_out_is_said(tmp_path, capsys):
  """By prepare's summary and by describe: rows of weight 0, and negatives with the base rate of all rows and of those kept."""
  (tmp_path / "s.toml").write_text(SCHEMA.format('weight = "w"'))
  rows = [row | {"y": int(i % 4 == 0), "w": [0, 1, 2][i % 3]} for i, row in enumerate(log(600))]
  write_csv(tmp_path, rows)
  words = ["prepare", "--format=csv", f"--input={tmp_path}/log*", f"--schema={tmp_path}/s.toml", f"--output={tmp_path}/out", "--workers=1"]
  program.main(flags.parse([*words, "--eval_rows=100", "--keep_negatives=0.2"], PrepareConfig))
  shown, contents = capsys.readouterr().out, json.loads((tmp_path / "out" / "dataset.json").read_text())
  train = rows_of(tmp_path / "out", "train")
  rate, kept_rate = contents["keep_negatives"]["base_rate"], float(np.average(train["label"], weights=train["weight"]))
  assert contents["keep_negatives"]["kept_base_rate"] == pytest.approx(kept_rate)
  assert 0.2 < rate == contents["splits"]["train"]["base_rate"] < kept_rate / 2
  facts = dict(left_out(contents))
  assert facts == {
    "negatives left out": f"20.00% of the negatives are kept: {len(train)} of 300 training rows; "
    f"base rate {rate:.2%} among all of these and {kept_rate:.2%} among those kept",
    "rows of weight 0": "200 of 600 rows are left out (w is 0)",
  }
  assert all(f"{name}: {text}\n" in shown for name, text in facts.items())
  assert [fact for fact in tables.facts(contents) if fact[0] in facts] == list(facts.items())
  assert "with the negatives that are left out" in tables.splits(contents).note
  program.main(flags.parse([*words[:-2], f"--output={tmp_path}/whole", "--eval_rows=100"], PrepareConfig))
  assert "negatives" not in capsys.readouterr().out


@pytest.mark.parametrize("share", ["0", "-1", "1.5"])
def test_bad_shares(tmp_path, share):
  write_csv(tmp_path, log(40))
  (tmp_path / "s.toml").write_text(SCHEMA.format(""))
  with pytest.raises(UserError, match=r"--keep_negatives=.*: must be above 0 and at most 1"):
    run(tmp_path, f"--keep_negatives={share}")
