"""Runs on meshes, in several processes and under pmap give the losses of one device; meshes and placements that cannot be are refused."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest
from places import HELPERS, ROOT
from process_losses import losses, run

from dlrm_jax import train
from dlrm_jax.common import flags, record
from dlrm_jax.config import MeshConfig, RunConfig, TrainConfig
from dlrm_jax.data import pipeline, shard_format
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.data.prepare.program import PrepareConfig, prepare
from dlrm_jax.data.source import open_source
from dlrm_jax.identity import config_id
from dlrm_jax.machine import mesh
from dlrm_jax.presets import PRESETS
from dlrm_jax.training import loop

WORDS = [
  *("--batch_size=64", "--num_examples=600", "--embed_dim=8", "--num_rows=300", "--overarch=16,1", "--table_lr=0.2"),
  *("--planted_zipf_s=1.25", "--planted_bag_length=3", "--planted_dense_variance=0.3"),
]


def config_of(*words: str) -> RunConfig:
  return flags.parse(["test", *WORDS, *words], RunConfig)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
  """Losses and examples of one device; the last batch is not full."""
  out = run(config_of())
  assert len(out["losses"]) == 10 and out["losses"][-1] != out["losses"][0] and len(out["seen"]) == 600
  return out


@pytest.mark.parametrize(
  "words",
  [
    ["--mesh=2x4"],
    ["--mesh=8", "--placement=row", "--table_optimizer=rowwise_adagrad"],
    ["--mesh=4", "--placement=auto,tail0:table,tail1:column,tail2:replicated,tail3:row"],
    ["--mesh=4", "--parallelism=pmap"],
  ],
  ids=" ".join,
)
def test_a_mesh_gives_the_losses_of_one_device(words: list[str], alone: dict[str, Any]):
  np.testing.assert_allclose(run(config_of(*words))["losses"], alone["losses"], rtol=1e-5)


def processes(count: int, *words: str) -> list[dict[str, Any]]:
  """Returns what each of `count` processes that share the mesh prints."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  given = [*WORDS, *words, f"--coordinator=localhost:{port}", f"--num_processes={count}"]
  script = str(HELPERS / "process_losses.py")
  env = os.environ | {"JAX_NUM_CPU_DEVICES": str(4 // count), "PYTHONPATH": str(ROOT)}
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  running = [subprocess.Popen([sys.executable, script, *given, f"--process_id={i}"], env=env, **pipes) for i in range(count)]
  out = [process.communicate(timeout=300) for process in running]
  assert all(process.returncode == 0 for process in running), out[0][1][-2000:]
  return [json.loads(next(line for line in printed.splitlines() if line.startswith('{"losses"'))) for printed, _ in out]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_the_losses_of_one(count: int, alone: dict[str, Any]):
  """On planted data, of which each draws its part."""
  got = processes(count, "--mesh=2x2", "--placement=row,tail0:table,tail1:column,tail2:replicated")
  for each in got:
    np.testing.assert_allclose(each["losses"], alone["losses"], rtol=1e-5)
  assert max(len(each["seen"]) for each in got) < 600
  np.testing.assert_allclose(sorted(value for each in got for value in each["seen"]), sorted(alone["seen"]), rtol=1e-5)


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """403 training rows in row groups of 20; the dense input of row i is i / 1024."""
  rng = np.random.default_rng(0)
  ids = {name: rng.zipf(1.5, 440) % 50 for name in ("u", "v")}
  pl.DataFrame({"y": rng.integers(0, 2, 440), "a": np.arange(440) / 1024} | ids).write_csv(tmp_path / "log.csv")
  (tmp_path / "schema.toml").write_text('name = "toy"\nlabel = "y"\ncategorical = ["u", "v"]\n[dense]\na = { transform = "none" }\n')
  monkeypatch.setattr(shard_format, "ROWS_PER_GROUP", 20)
  words = ["--format=csv", f"--input={tmp_path}/log.csv", f"--schema={tmp_path}/schema.toml", "--eval_rows=37"]
  prepare(flags.parse(["prepare", f"--output={tmp_path}/out", "--workers=1", *words], PrepareConfig))
  return tmp_path / "out"


@pytest.mark.parametrize("order", ["shuffled", pytest.param("time", marks=pytest.mark.slow)])
def test_two_processes_see_a_data_set_once_and_train_on_it_as_one_would(order: str, prepared: Path):
  """One process that is given the batches of both, side by side, has the same losses."""
  words = (f"--data={prepared}", "--mesh=2x2", "--num_examples=403", f"--order={order}", "--seed=3")
  got = processes(2, *words)
  assert sorted(value * 1024 for each in got for value in each["seen"]) == list(range(403))
  assert [len(each["seen"]) for each in got] == [202, 201]
  config, dataset = config_of(*words), open_dataset(prepared)
  parts = [list(pipeline.batches(dataset, "train", 64, None, 0, order, 3, (p, 2))) for p in range(2)]
  whole = [jax.tree.map(lambda *x: np.concatenate(x), *pair) for pair in zip(*parts, strict=True)]
  expected = losses(config, open_source(config), whole)
  assert len(expected) == 7 and expected[0] != expected[1]
  for each in got:
    np.testing.assert_allclose(each["losses"], expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--mesh=16"], "--mesh=16: needs 16 devices, there are 8 (cpu); JAX_NUM_CPU_DEVICES=16 simulates them on the CPU"),
    (["--mesh=2x2x2"], "--mesh=2x2x2: must be a number of devices such as 8, or two such as 2x4"),
    (["--mesh=0"], "--mesh=0: must be a number of devices"),
    (["--mesh=3", "--batch_size=256"], "--batch_size=256: must be a multiple of the 3 devices of --mesh=3"),
    (["--mesh=8", "--placement=column"], "--placement=tail0:column: embed_dim=4 does not split into 8 equal slices"),
    (["--mesh=2", "--placement=columns"], "--placement=columns: must be among auto, replicated, row, table, column"),
    (["--mesh=2", "--placement=auto,C3:row"], "--placement=C3:row: no such feature; there are tail0, tail1"),
    (["--mesh=2", "--placement=row,table"], "--placement=row,table: must be one placement for all"),
    (["--coordinator=localhost"], "--coordinator=localhost: must be host:port or auto"),
    (["--restore=nowhere"], "--restore=nowhere: there is no checkpoint; give WORKDIR/checkpoint, or one of the directories in it"),
    (["--mesh=2", "--device_memory_gib=0.00001"], "GiB too much; use more devices, or lower --num_rows, --embed_dim or --batch_size"),
    (["--mesh=2", "--parallelism=pmap", "--placement=row"], "--placement=row: must be replicated with --parallelism=pmap"),
    (["--num_processes=2"], "--num_processes=2 needs --coordinator=host:port"),
    (["--num_processes=2", "--process_id=2"], "--process_id=2: must be from 0 to 1"),
    (["--lr_schedule=cosine"], "--decay_examples=0: must be at least 1 with --lr_schedule=cosine"),
    (["--order=shuffled"], "--order=shuffled: planted examples are independent draws, without an order; leave it out"),
    (["--order=random"], "--order=random: must be among time, shuffled"),
    (["--seed=-1"], "--seed=-1: must be from 0 to 2147483647"),
    (["--mesh=2", "--learner=per_id"], "--mesh=2: --learner=per_id runs on one device"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(words: list[str], message: str, tmp_path: Path, refusal: Callable[..., str]):
  shown = refusal(train.main, RunConfig, PRESETS, ["--preset=tiny", f"--workdir={tmp_path}/run", *words])
  assert message in shown, shown
  assert list(tmp_path.iterdir()) == []


def test_mesh_and_placement_change_the_config_id_and_their_defaults_do_not():
  base = config_id(RunConfig())
  assert config_id(RunConfig(mesh=MeshConfig(mesh="1", placement=("auto",)))) == base
  eight = [MeshConfig(mesh="8"), MeshConfig(mesh="8", placement=("row",)), MeshConfig(mesh="8", parallelism="pmap")]
  assert len({base, *(config_id(RunConfig(mesh=mesh)) for mesh in eight)}) == 4
  assert config_id(RunConfig(mesh=MeshConfig(placement=("row",), device_memory_gib=3))) == base  # one device has nothing to place


def test_the_number_of_processes_changes_the_config_id_of_prepared_data_alone():
  """Planted examples do not depend on it; the order of a data set does."""
  two = {"coordinator": "localhost:1", "num_processes": 2}
  assert config_id(RunConfig(**two)) == config_id(RunConfig())
  alone, both, four = (config_id(RunConfig(data="x", **words), "d") for words in ({}, two, two | {"num_processes": 4}))
  shuffled = config_id(RunConfig(data="x", train=TrainConfig(order="shuffled")), "d")
  assert len({alone, both, four, shuffled}) == 4
  assert config_id(RunConfig(data="x", coordinator="auto"), "d") == alone
  assert mesh.connect(config_of()) == config_of()


def test_a_run_goes_on_from_a_checkpoint_on_another_mesh(tmp_path: Path):
  """8 devices by rows, then 2 by tables, against one device without a stop: the same evaluations at the same counts."""
  evals = ("--first_eval=1600", "--eval_examples=4096")
  half, whole = ("--num_examples=3200", *evals), ("--num_examples=6400", *evals)
  loop.train(config_of(*half, "--mesh=8", "--placement=row", "--checkpoint"), tmp_path / "half", quiet=True)
  there = f"--restore={tmp_path}/half/checkpoint"
  went_on = loop.train(config_of(*whole, "--mesh=2", "--placement=table", there), tmp_path / "rest", quiet=True)
  at_once = loop.train(config_of(*whole), tmp_path / "whole", quiet=True)
  curves = {name: record.read_curve(tmp_path / name / "curve.jsonl") for name in ("half", "rest", "whole")}
  assert [row["examples"] for row in curves["rest"]] == [row["examples"] for row in curves["whole"] if row["examples"] > 3200]
  assert went_on["log_loss"] == pytest.approx(at_once["log_loss"], rel=1e-6)
  by_count = {row["examples"]: row["log_loss"] for row in curves["whole"]}
  for row in curves["half"] + curves["rest"]:
    assert row["log_loss"] == pytest.approx(by_count[row["examples"]], rel=1e-5)
  for words, message in (
    (("--batch_size=128",), "its train.batch_size is 64, this run's is 128; they must be the same"),
    (("--num_examples=3200",), "--num_examples=3200: the checkpoint has seen 3200: nothing is left to train on"),
    (("--planted_seed=5",), "its planted is"),
    (("--embed_dim=4",), "its model.embed_dim is 8, this run's is 4; they must be the same"),
    (("--table_lr=0.9",), "was trained at --table_lr=0.2 --dense_lr=0.02; give these flags, or --lr_find"),
  ):
    with pytest.raises(flags.UserError, match=message):
      loop.train(config_of(*whole, there, *words), tmp_path / "refused", quiet=True)
  assert not (tmp_path / "refused").exists()
