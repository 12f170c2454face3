"""The Slurm launcher without a Slurm: needs, groups, refusals, GPUs of a process, starts without progress."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import in_directory, sweep_of

from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig
from dlrm_jax.machine import mesh
from sweeps import run, slurm, slurm_cluster, slurm_job
from sweeps.launch_flags import LaunchConfig, SlurmConfig
from sweeps.points import Point, SweepConfig, expand
from sweeps.slurm_cluster import Needs, Node
from sweeps.worker import WorkerConfig

SINFO = """\
n1|cpu*|64|256000|(null)|2-00:00:00
n2|cpu*|32|128000|(null)|2-00:00:00
n3|gpu|16|512000|gpu:a100:4(S:0-1),shard:8|infinite
n3|short|16|512000|gpu:a100:4(S:0-1)|30:00
n4|gpu|16|512000|gpu:2,license:1|infinite
"""


def on_slurm(devices: int, **settings: Any) -> SweepConfig:
  """A tiny sweep for Slurm, on a mesh of `devices`."""
  sweep = sweep_of(axes=("rows",), launch=LaunchConfig(launcher="slurm"), slurm=SlurmConfig(**settings))
  return dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, mesh=MeshConfig(mesh=str(devices))))


@pytest.mark.parametrize(
  ("devices", "settings", "nodes", "tasks", "gpus", "processes"),
  [
    (1, {}, 1, 1, 0, 1),
    (4, {}, 4, 1, 0, 4),  # a device of a CPU is a process
    (4, {"devices_per_node": 2}, 2, 2, 0, 4),
    (2, {"devices_per_node": 8}, 1, 2, 0, 2),
    (8, {"devices_per_node": 8, "gpus": True}, 1, 1, 8, 1),
    (16, {"devices_per_node": 8, "gpus": True}, 2, 1, 8, 2),  # of GPUs each node has one process
    (2, {"devices_per_node": 8, "gpus": True}, 1, 1, 2, 1),
  ],
)
def test_nodes_processes_and_gpus_follow_from_the_mesh(
  devices: int, settings: dict[str, Any], nodes: int, tasks: int, gpus: int, processes: int
):
  sweep = on_slurm(devices, mem_gib=7.0, cpus_per_task=3, **settings)
  point, source = expand(sweep)[0]
  assert slurm.needs_of(point, source, sweep) == Needs(nodes, tasks, 3, gpus, 7.0)
  assert point.config.num_processes == processes
  assert point.config.coordinator == ("auto" if processes > 1 else None)


def test_devices_that_do_not_fill_their_nodes_are_refused():
  with pytest.raises(UserError, match="--mesh=8: its devices do not divide evenly over 3 nodes of --slurm_devices_per_node=3"):
    expand(on_slurm(8, devices_per_node=3))


def test_memory_follows_the_tables_and_comes_in_few_sizes():
  def gib(num_rows: int, **settings: Any) -> float:
    sweep = on_slurm(2, **settings)
    model = dataclasses.replace(sweep.run.model, num_rows=num_rows, embed_dim=64)
    sweep = dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, model=model), sizes_rows=(num_rows,))
    return slurm.needs_of(*expand(sweep)[0], sweep).mem_gib

  assert gib(1000) == gib(2000) == 2  # a process alone
  # 8 tables of 3M rows of 64 + 1 values, two accumulators, a scratch word, dealt out to two processes; a node holds one of them.
  held = 8 * 3_000_000 * (64 + 1 + 2 + 1) * 4 / 2 / 2**30
  assert 1.5 + 2 * held < gib(3_000_000) <= 1.5 * (2 + 2 * held)
  assert gib(3_000_000, devices_per_node=2) > 1.5 * gib(3_000_000)  # both on one node
  assert {math.log2(gib(rows) / 3) % 1 == 0 or math.log2(gib(rows)) % 1 == 0 for rows in (10**5, 10**6, 10**7)} == {True}


def test_a_worker_gets_the_sweep_its_runs_and_the_way_to_the_other_processes(tmp_path: Path):
  sweep = in_directory(on_slurm(2, time_min=33), tmp_path)
  (point, source), *_ = expand(sweep)
  words = slurm.words_of(sweep, slurm.needs_of(point, source, sweep), (point.config_id,))
  got = flags.parse(["sweeps.worker", *words], WorkerConfig)
  assert (got.only, got.wait, got.run.coordinator) == ((point.config_id,), False, "auto")
  assert got.slurm == sweep.slurm and got.sizes_rows == sweep.sizes_rows
  connected = dataclasses.replace(got, run=dataclasses.replace(got.run, num_processes=2, process_id=1))
  assert [p.config_id for p, _ in expand(connected)] == [
    p.config_id for p, _ in expand(sweep)
  ]  # every process knows the runs by these names
  alone = slurm.words_of(sweep, Needs(1, 1, 2, 0, 2.0), (point.config_id,))
  assert flags.parse(["sweeps.worker", *alone], WorkerConfig).run.coordinator is None


def test_nodes_are_read_from_sinfo(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(slurm_cluster, "ask", lambda *command: SINFO)
  n1, n2 = slurm_cluster.nodes_of(None)
  assert n1 == Node("n1", "cpu", 64, 250.0, 0, 2880.0) and n2.name == "n2"
  assert [(n.name, n.gpus, n.limit_min) for n in slurm_cluster.nodes_of("gpu")] == [("n3", 4, math.inf), ("n4", 2, math.inf)]
  assert [(n.name, n.limit_min) for n in slurm_cluster.nodes_of("cpu,short")] == [("n1", 2880.0), ("n2", 2880.0), ("n3", 30.0)]
  assert slurm_cluster.nodes_of("nowhere") == []


@pytest.mark.parametrize(
  ("needs", "time_min", "partition", "why"),
  [
    (Needs(2, 1, 32, 0, 100.0), 60, None, ""),
    (Needs(2, 1, 33, 0, 100.0), 60, None, "partition cpu has 1 such nodes; its largest has 64 cores, 250 GiB"),
    (Needs(1, 2, 33, 0, 100.0), 60, None, "has 0 such nodes"),
    (Needs(1, 1, 1, 0, 251.0), 60, None, "has 0 such nodes"),
    (Needs(3, 1, 1, 0, 1.0), 60, None, "has 2 such nodes"),
    (Needs(2, 1, 1, 4, 1.0), 60, "gpu", "partition gpu has 1 such nodes; its largest has 16 cores, 4 GPUs, 500 GiB"),
    (Needs(1, 1, 1, 0, 1.0), 2881, None, "--slurm_time_min=2881: partition cpu allows jobs of at most 2880 minutes"),
    (Needs(1, 1, 1, 0, 1.0), 31, "short,gpu", ""),  # one of them allows it
    (Needs(9, 9, 999, 9, 1e9), 60, "nowhere", ""),  # sbatch tells
  ],
)
def test_jobs_that_no_node_can_hold_are_refused(
  monkeypatch: pytest.MonkeyPatch, needs: Needs, time_min: int, partition: str | None, why: str
):
  monkeypatch.setattr(slurm_cluster, "ask", lambda *command: SINFO)
  nodes = slurm_cluster.nodes_of(partition)
  if not why:
    slurm_cluster.check(needs, time_min, nodes)
    return
  with pytest.raises(UserError) as refused:
    slurm_cluster.check(needs, time_min, nodes)
  assert why in str(refused.value)


def test_reasons_and_complaints_are_read(monkeypatch: pytest.MonkeyPatch):
  lines = "7 R None\n7 PD JobArrayTaskLimit\n8 PD Nodes required for job are DOWN, DRAINED\n9 CG None\n"
  monkeypatch.setattr(slurm_cluster, "ask", lambda *command: lines)
  assert slurm_cluster.alive() == {"7": "JobArrayTaskLimit", "8": "Nodes required for job are DOWN, DRAINED", "9": ""}
  assert slurm_cluster.one_line("sbatch: error: a: b\nsbatch: error: c\n\n") == "a: b; c"
  assert [slurm_cluster.minutes(text) for text in ("30:30", "1:00:00", "3-01:00:00", "infinite")] == [30.5, 60, 4380, math.inf]


def test_without_slurm_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
  monkeypatch.setenv("PATH", str(tmp_path))
  sweep = in_directory(on_slurm(1), tmp_path / "sweep")
  with pytest.raises(
    UserError, match="--launcher=slurm: there is no sbatch here; start it where jobs are submitted, or choose --launcher=l"
  ):
    run.main(sweep)
  assert not (tmp_path / "sweep").exists()


def test_arrays_are_taken_back_when_a_later_one_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
  sweep, asked = in_directory(on_slurm(1), tmp_path), []
  point = expand(sweep)[0][0]

  def submit(sweep: SweepConfig, folder: Path, needs: Needs, points: list[Point]) -> dict[str, Any]:
    if needs.nodes == 1:
      return {"job": "77", "runs": [point.config_id for point in points]}
    raise UserError("sbatch: no")

  monkeypatch.setattr(slurm_cluster, "nodes_of", lambda partition: [])
  monkeypatch.setattr(slurm_cluster, "ask", lambda *command: asked.append(command))
  monkeypatch.setattr(slurm, "_submit", submit)
  with pytest.raises(UserError, match="sbatch: no"):
    slurm._submit_all(sweep, tmp_path, {Needs(1, 1, 1, 0, 2.0): [point], Needs(2, 1, 1, 0, 2.0): [point]}, [])
  assert asked == [("scancel", "77")]


def test_a_job_that_starts_again_and_again_without_coming_on_is_given_up(tmp_path: Path):
  words = slurm.words_of(in_directory(sweep_of(), tmp_path), Needs(1, 1, 1, 0, 2.0), ("abc", "def"))
  config = flags.parse(["sweeps.worker", *words], WorkerConfig)
  run = tmp_path / "runs" / "abc"
  run.mkdir(parents=True)
  for _ in range(slurm_job.FRUITLESS_STARTS):
    slurm_job.check_fruitful(config, "12")
  (run / "checkpoint/000000004096").mkdir(parents=True)
  (run / "checkpoint/000000004096/checkpoint.json").write_text("{}")
  for _ in range(slurm_job.FRUITLESS_STARTS):  # the checkpoint was progress
    slurm_job.check_fruitful(config, "12")
  (run / "attempts").mkdir()
  (run / "attempts/0001.json").write_text(json.dumps({"outcome": "failed", "began": 0}))
  for _ in range(slurm_job.FRUITLESS_STARTS):  # so is a failure, since --max_attempts limits their number
    slurm_job.check_fruitful(config, "12")
  slurm_job.check_fruitful(config, "13")
  with pytest.raises(UserError, match="job 12 was started 5 times in a row without progress of any of its runs"):
    slurm_job.check_fruitful(config, "12")


@pytest.mark.parametrize(
  ("visible", "tasks", "nodes", "local", "devices"),
  [
    ("0,1,2,3", 2, 2, 0, [0, 1, 2, 3]),  # one process a node takes all
    ("0,1,2,3", 4, 2, 1, [2, 3]),  # two share
    ("0,1,2,3", 8, 2, 3, [3]),
    ("5", 8, 2, 3, [0]),  # each sees its own
    ("", 2, 2, 0, None),
  ],
)
def test_gpus_of_a_node_are_shared_by_its_processes(visible: str, tasks: int, nodes: int, local: int, devices: list[int] | None):
  environ = {"CUDA_VISIBLE_DEVICES": visible, "SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_LOCALID": str(local)}
  assert mesh.slurm_devices(environ) == devices
  assert mesh.slurm_devices(environ | {"JAX_LOCAL_DEVICE_IDS": "0"}) is None  # the user has set it
  assert mesh.slurm_devices({"CUDA_VISIBLE_DEVICES": visible}) is None  # no Slurm
