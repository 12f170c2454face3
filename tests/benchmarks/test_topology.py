"""Compiles small training steps for absent TPUs, and tests their exchange, memory and copies. Large presets: test_topology_slow.py."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from absent_machines import NO_GPU_COMPILER

from benchmarks import topology
from benchmarks.compiled import hlo, targets
from dlrm_jax.common import flags
from dlrm_jax.config import MeshConfig, ModelConfig, RunConfig, TrainConfig
from dlrm_jax.data.shapes import SHAPES
from dlrm_jax.embedding.exchange.row import capacity
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import Machine, make_plan
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.training.build import Build
from dlrm_jax.training.step import OneRun, lower_train

pytestmark = pytest.mark.usefixtures("compiled_anew")

BATCH, DIM, ROWS = 1024, 64, 1_000_000  # tables beyond what the compiler may keep in a TPU's fast memory
SMALL = RunConfig(
  data="criteo_like",
  model=ModelConfig(embed_dim=DIM, num_rows=ROWS, bottom=(32, DIM), overarch=(32, 1), overarch_inputs=("dense", "dots")),
  train=TrainConfig(batch_size=BATCH),
)
FEWER = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, num_tables=7))  # one for all devices but one; compiles sooner


def with_placement(*placement: str, config: RunConfig = SMALL) -> RunConfig:
  return dataclasses.replace(config, mesh=MeshConfig(placement=placement))


def test_a_row_placed_step_moves_the_capacity_and_copies_no_table():
  """By hand: 26 lookups of 128 examples with 1.2 times the room, a multiple of 8; 64 values of 4 bytes, as rows and as gradients."""
  out = topology.compile_for(with_placement("row"), targets.parse("tpu:v5e:2x4"))
  room = 496
  assert capacity(26 * BATCH // 8, 8) == room
  values = [c for c in out["collectives"] if c["category"] == "exchange_values"]
  assert [(c["kind"], c["shapes"][0].partition("[")[2]) for c in values] == [("all-to-all", f"8,{room},{DIM}]")] * 2
  assert out["exchange"]["least_bytes"] == 2 * 26 * BATCH // 8 * DIM * 4
  assert out["exchange"]["values_over_least"] == 2 * 8 * room * DIM * 4 / out["exchange"]["least_bytes"]
  assert 1 < out["exchange"]["values_over_least"] < 1.25
  assert out["whole_table_copies"] == []
  memory, rows = out["memory"], 26 * ROWS / 8
  assert memory["fits"]
  assert rows * (DIM + 2) * 4 <= memory["argument_bytes"] < 1.2 * rows * (DIM + 2) * 4  # a row, its accumulator, the election scratch
  assert memory["needed_bytes"] == memory["argument_bytes"] + memory["output_bytes"] - memory["alias_bytes"] + memory["temporary_bytes"]
  assert memory["alias_bytes"] > 0.99 * memory["output_bytes"]  # tables are updated where they are


@pytest.mark.parametrize(
  ("placement", "name"),
  [
    *((placement, "tpu:v5e:2x4") for placement in ("column", "table", "replicated")),
    pytest.param("column", "gpu:h100:1x8", marks=NO_GPU_COMPILER),
    *(pytest.param(placement, "gpu:h100:1x8", marks=[NO_GPU_COMPILER, pytest.mark.slow]) for placement in ("table", "replicated")),
  ],
)
def test_other_placements_stay_near_the_least(placement: str, name: str):
  out = topology.compile_for(with_placement(placement, config=FEWER), targets.parse(name))
  assert 0.99 <= out["exchange"]["values_over_least"] <= 1.25
  assert out["whole_table_copies"] == []


def test_a_whole_table_copy_would_be_seen(monkeypatch: pytest.MonkeyPatch):
  """A TPU copies whole tables whose rows of 64 values are stored one a line. storage.py avoids that."""
  monkeypatch.setattr(topology, "LANES", 0)
  out = topology.compile_for(with_placement("row", config=FEWER), targets.parse("tpu:v5e:2x4"))
  assert out["whole_table_copies"]


def test_the_program_writes_its_json_and_prints_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
  path = tmp_path / "out.json"
  monkeypatch.setattr(sys, "argv", ["topology", "--preset=tiny", "--topology=tpu:v5e:2x2", f"--output={path}", "--mesh=2x2"])
  flags.run(topology.main, topology.TopologyConfig, topology.CONFIGS)
  shown, out = capsys.readouterr().out, json.loads(path.read_text())
  assert "fits" in shown and "all-to-all" in shown
  assert {"schema_version", "command", "hardware", "software", "memory", "collectives", "exchange", "placement", "flops"} <= set(out)
  assert out["mesh"] == "2x2" and out["flops"]["counted_per_device"] > 0


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--topology=tpu:v5e:3x3"], "--topology=tpu:v5e:3x3: the shape of tpu:v5e must be among"),
    (["--topology=tpu:v5e:2x4", "--mesh=4"], "--mesh=4: must be a mesh of the 8 devices of tpu:v5e:2x4"),
    (["--topology=tpu:v5e:2x4", "--mesh=16"], "--mesh=16: needs 16 devices, there are 8 (tpu)"),
    (["--topology=tpu:v5e:1x1", "--preset=mlperf_v1"], "GiB too much; use more devices"),
    (["--topology=tpu:v5e:2x4", "--output=/proc/none/x.json"], "/proc/none"),
    ([], "--topology=: must be PLATFORM:CHIP:SHAPE such as tpu:v5e:2x4"),
    (["--topology=tpu:v5e:2x4", "--output="], "--output=: must be a JSON file to write"),
  ],
)
def test_bad_input_is_one_line(words: list[str], message: str, tmp_path: Path, refusal: Callable[..., str]):
  shown = refusal(topology.main, topology.TopologyConfig, topology.CONFIGS, ["--preset=tiny", f"--output={tmp_path}/o.json", *words])
  assert message in shown, shown
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("optimizer", list(OPTIMIZER_SLOTS))
def test_no_table_is_copied_on_the_cpu_either(optimizer: str):
  """The step that sweeps run, on one device. A slot that is read before it is written would keep a copy of a table alive."""
  train = TrainConfig(batch_size=64, table_optimizer=optimizer)
  model = dataclasses.replace(SMALL.model, embed_dim=8, bottom=(8,), num_rows=100_000)
  config, shape = dataclasses.replace(SMALL, model=model, train=train), SHAPES["criteo_like"]
  plan = make_plan(config, make_layout(config.model, shape), Machine(1))
  compiled = lower_train(OneRun(Build.of(config, plan, shape.num_dense, make_mesh(config))), full=True).compile()
  slots = 2_600_000 * 4  # one value a row: the smallest array that must not be copied
  assert hlo.largest_arrays(compiled.as_text() or "", slots // 2) == []
  assert compiled.memory_analysis().temp_size_in_bytes < slots / 4
