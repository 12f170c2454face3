"""Tests benchmarks.input: times and bytes by hand, each example once a pass, JSON of small runs on planted and prepared data, bad input."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

from benchmarks import input as bench
from benchmarks.input import InputConfig, batch_bytes, consume, runs, taker
from dlrm_jax.batch import Batch
from dlrm_jax.common import flags
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.source import open_source
from dlrm_jax.machine.mesh import make_mesh

ROWS, EVAL_ROWS = 400, 40


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
  """360 training rows of one dense column and three categorical ones, one of them a bag of two."""
  directory, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
  log = {name: [f"{name}{i}" for i in rng.integers(0, 9, ROWS)] for name in ("user", "item", "tag_1", "tag_2")}
  pl.DataFrame({"y": rng.integers(0, 2, ROWS), "a": rng.integers(0, 100, ROWS)} | log).write_csv(directory / "log.csv")
  schema = 'name = "toy"\nlabel = "y"\ncategorical = ["user", "item"]\n[dense]\na = {}\n[bags]\ntags = ["tag_1", "tag_2"]\n'
  (directory / "schema.toml").write_text(schema)
  words = ["--format=csv", f"--input={directory}/log.csv", f"--schema={directory}/schema.toml", f"--eval_rows={EVAL_ROWS}"]
  prepare(flags.parse(["x", f"--output={directory}/out", "--workers=1", *words], PrepareConfig))
  return directory / "out"


def test_bytes_of_a_batch_by_hand():
  ids, weights = np.zeros((4, 7), np.int32), np.ones((4, 7), np.float32)
  batch = Batch(np.zeros((4, 3), np.float32), ids, np.zeros(4, np.float32), np.ones(4, np.float32), weights)
  assert batch_bytes(batch) == 4 * (3 + 7 + 1 + 1 + 7) * 4


def test_times_go_from_one_batch_to_the_next():
  """A source takes 1, 2 and 4 s, and 0.5 s to end, which is not counted. A put takes 0.25 s. The CPU clock runs half as fast."""
  now, took = [100.0], []
  batch = Batch(*(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.int32), np.zeros(2, np.float32), np.ones(2, np.float32)))

  def source():
    for seconds in (1.0, 2.0, 4.0):
      now[0] += seconds
      yield batch
    now[0] += 0.5

  def take(given: Batch) -> Any:
    now[0] += 0.25
    took.append(given)
    return given.label_b

  timing, num_bytes = consume(source(), take, (lambda: now[0], lambda: now[0] / 2))
  assert timing.step_s == (1.25, 2.25, 4.25) and timing.cpu_s == (0.625, 1.125, 2.125)
  assert took == [batch] * 3 and num_bytes == 3 * 2 * 4 * 4


@pytest.mark.parametrize("mesh", ["1", "8", "2x4"])
@pytest.mark.parametrize("data", ["planted", "prepared"])
def test_a_step_would_get_every_batch_whole(data, mesh, prepared):
  """The taker's program accepts only batches of these shapes and shardings."""
  config = InputConfig("", data="planted" if data == "planted" else str(prepared), batch_size=(64,), num_examples=200, mesh=mesh)
  (run,) = runs(config)
  source = open_source(run)
  take = taker(run, source, make_mesh(run))
  taken = [take(batch) for batch in source.train_batches(0, 64, 200)]
  assert [float(weights.sum()) for weights in taken] == [64, 64, 64, 8]
  assert {len(weights.sharding.device_set) for weights in taken} == {1 if mesh == "1" else 8}


def check(row: dict[str, Any], batch_size: int, num_examples: int, bytes_per_example: int) -> None:
  assert (row["batch_size"], row["num_examples"], row["steps"]) == (batch_size, num_examples, -(-num_examples // batch_size))
  assert row["bytes_per_example"] == bytes_per_example
  assert 0 < row["step_ms_p50"] <= row["step_ms_p90"] <= row["step_ms_p99"]
  assert row["cores_used"] == pytest.approx(row["examples_per_s"] / row["examples_per_cpu_s"])
  padded = row["steps"] * batch_size / num_examples
  assert row["bytes_per_s"] == pytest.approx(padded * bytes_per_example * row["examples_per_s"])
  assert num_examples / row["examples_per_s"] >= row["steps"] * row["step_ms_p50"] / 2e3  # at least half the steps take the median


def test_json_of_planted_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  output = tmp_path / "new" / "input.json"
  words = ["--batch_size=32,64", "--num_examples=128", "--planted_tail_fields=5", "--planted_dense_variance=0.1", "--mesh=8"]
  bench.main(flags.parse(["input", f"--output={output}", *words], InputConfig))
  written = json.loads(output.read_text())
  assert {"schema_version", "command", "hardware", "software", "results"} == set(written)
  assert [(row["name"], row["put"], row["batch_size"]) for row in written["results"]] == [
    ("planted", put, size) for size in (32, 64) for put in ("host", "devices")
  ]
  for row in written["results"]:
    check(row, row["batch_size"], 128, 4 * (16 + 5 + 1 + 1))  # dense inputs, ids, label, weight
    assert (row["mesh"], row["num_devices"]) == ("8", 8)
  printed, progress = capsys.readouterr()
  assert "share the host's cores" in printed and "examples/CPU s" in printed
  assert "planted, batch 64, to devices: " in progress


def test_json_of_prepared_data(tmp_path: Path, prepared: Path, capsys: pytest.CaptureFixture[str]):
  """A pass over the whole data set. The last batch is padded, and its padding counts as bytes."""
  output = tmp_path / "input.json"
  bench.main(
    flags.parse(["input", f"--output={output}", f"--data={prepared}", "--batch_size=50", "--warmup=0", "--order=shuffled"], InputConfig)
  )
  host, devices = json.loads(output.read_text())["results"]
  for row in (host, devices):
    check(row, 50, ROWS - EVAL_ROWS, 4 * (1 + 4 + 1 + 1 + 4))  # a dense input, ids, label, weight, weights of the bags
    assert (row["name"], row["order"]) == ("toy", "shuffled")
  assert "share the host's cores" not in capsys.readouterr().out


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--data=nowhere"], "nowhere: no such directory; a data set is made by python -m dlrm_jax.data.prepare"),
    (["--batch_size="], "--batch_size=: must be a list of numbers of at least 1"),
    (["--batch_size=0,8"], "--batch_size=0,8: must be a list of numbers of at least 1"),
    (["--batch_size=8,12", "--mesh=8"], "--batch_size=12: must be a multiple of the 8 devices of --mesh=8"),
    (["--num_examples=100"], "--num_examples=100: must be at least one batch (2048)"),
    (["--data={data}", "--batch_size=64,361"], "--batch_size=64,361: must be at most the 360 training examples of toy"),
    (["--warmup=-1"], "--warmup=-1: must be at least 0"),
    (["--order=shuffled"], "--order=shuffled: planted examples are independent draws"),
    (["--mesh=16"], "--mesh=16: needs 16 devices"),
    (["--planted_zipf_s=1"], "--planted_zipf_s=1.0: must be above 1"),
    (["--output={tmp}"], "must be a JSON file to write, not a directory"),
  ],
)
def test_bad_input(words, message, refusal, monkeypatch, tmp_path, prepared):
  monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("timed"))
  words = [word.replace("{data}", str(prepared)).replace("{tmp}", str(tmp_path)) for word in words]
  assert message in refusal(bench.main, InputConfig, {}, [f"--output={tmp_path}/x.json", *words])
  assert not list(tmp_path.iterdir())


def test_the_whole_pass_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """Warm-up passes have fewer batches, and their times are not in the row."""
  passes: list[int] = []
  real = bench.consume

  def counted(batches: Any, *rest: Any) -> Any:
    timing, num_bytes = real(batches, *rest)
    passes.append(len(timing.step_s))
    return timing, num_bytes

  monkeypatch.setattr(bench, "consume", counted)
  bench.main(InputConfig(str(tmp_path / "x.json"), batch_size=(16,), num_examples=160, warmup=3))
  assert passes == [3, 10, 3, 10]
  assert jax.device_count() == 8
