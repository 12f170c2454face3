"""Tests benchmarks.step: arithmetic by hand with made-up times, bytes against closed forms, JSON of a small run, bad input."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.compiled import hlo
from benchmarks.compiled.exchanged import exchanged
from benchmarks.measure import ceilings
from benchmarks.measure.ceilings import Ceilings
from benchmarks.measure.timing import Pipelined, Timing, peak_rss_bytes, time_pipelined, time_steps
from benchmarks.step import PRESETS, StepConfig, cases, compared, leading_to, measure, step_bytes
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig, ModelConfig, RunConfig, TrainConfig
from dlrm_jax.data.shapes import shape_of
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.model.flops import cost

BATCH, DIM, FEATURES, DEVICES = 256, 16, 26, 8
# Weights and biases: bottom 13-64-16; overarch over the 351 pairs of 27 vectors and the dense vector, 64-1.
DENSE_PARAMS = 14 * 64 + 65 * 16 + (351 + 16 + 1) * 64 + 65
FLOPS = 3 * 2 * (13 * 64 + 64 * 16) + 2 * 2 * 27 * 27 * 16 + 3 * 2 * ((351 + 16) * 64 + 64)
SMALL = RunConfig(
  data="criteo_like",
  model=ModelConfig(embed_dim=DIM, num_rows=5000, bottom=(64, DIM), overarch=(64, 1), overarch_inputs=("dense", "dots")),
  train=TrainConfig(batch_size=BATCH),
)


@pytest.fixture(autouse=True)
def ceilings_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
  """Replaces the measurement of ceilings. Returns the arguments of its calls."""
  asked: list[tuple[str, ...]] = []
  monkeypatch.setattr(ceilings, "measure", lambda *what: asked.append(what) or Ceilings(8e9, 2e9, "measured"))
  return asked


def parse(*words: str) -> StepConfig:
  return flags.parse(["step", *words], StepConfig, PRESETS)


class State:
  """A state that is ready `seconds` after its step was dispatched, by a clock of its own."""

  now = 0.0

  def __init__(self, seconds: float):
    self.seconds = seconds

  def block_until_ready(self) -> "State":
    State.now += self.seconds
    self.seconds = 0.0
    return self


def test_times_are_of_whole_steps_after_warmup():
  took, seen = [9.0, 7.0, 0.010, 0.020, 0.100, 0.030, 0.040], []

  def one(state: State, batch: str) -> State:
    assert state.seconds == 0.0  # the step before is done
    seen.append(batch)
    return State(took[len(seen) - 1])

  clocks = {"clock": lambda: State.now, "cpu_clock": lambda: 3 * State.now}  # three threads at work
  timing = time_steps(one, State(100.0), ["a", "b", "c"], warmup=2, steps=5, **clocks)
  assert seen == ["a", "b", "c", "a", "b", "c", "a"]
  assert timing.step_s == pytest.approx(took[2:])
  assert timing.cpu_s == pytest.approx([3 * seconds for seconds in took[2:]])


def test_pipelined_steps_are_waited_for_once_a_round():
  """Steps of 2 s on the device that the host starts in .25 s each: a round of 4 takes 8 s, and the host is done after 1."""
  seen, waited = [], []

  class Ahead:
    def __init__(self, started: int):
      self.started = started

    def block_until_ready(self) -> "Ahead":
      waited.append(self.started)
      State.now = max(State.now, 2.0 * self.started)  # the device began at 0
      return self

  State.now = 0.0

  def one(state: Ahead, batch: str) -> Ahead:
    seen.append(batch)
    State.now += 0.25
    return Ahead(state.started + 1)

  found = time_pipelined(one, Ahead(0), ["a", "b", "c"], warmup=2, steps=18, clock=lambda: State.now)
  assert waited == [0, 2, 6, 10, 14, 18, 22]  # the state, the warm-up, five rounds of four
  assert seen[:5] == ["a", "b", "a", "b", "c"]
  assert found.step_s == (2.0,) * 5 and found.host_s == (0.25,) * 5
  assert found.divided(4).fields() == {"pipelined_ms": 500.0, "pipelined_host_ms": 62.5}
  assert Pipelined((3.0, 1.0, 9.0), (0.5, 0.25, 2.0)).fields() == {"pipelined_ms": 3000.0, "pipelined_host_ms": 500.0}


def test_percentiles_and_speed_by_hand():
  timing = Timing((0.010, 0.020, 0.100, 0.030, 0.040))
  assert timing.percentile_ms(50) == pytest.approx(30)
  assert timing.percentile_ms(90) == pytest.approx(40 + 0.6 * 60)  # 0.9 of the way from the first to the fifth
  assert timing.per_second(50) == pytest.approx(50 * 5 / 0.2)
  assert math.isnan(timing.cpu_percentile_ms(50))
  fields = Timing(timing.step_s, (0.01, 0.03, 0.02, 0.05, 0.04)).fields()
  assert fields == pytest.approx({"steps": 5, "step_ms_p50": 30, "step_ms_p90": 76, "step_ms_p99": 97.6, "cpu_ms_p50": 30})


@pytest.mark.parametrize(
  ("train", "slots_of_a_row", "dense_slots"),
  [
    (TrainConfig(batch_size=BATCH), 1, 1),
    (TrainConfig(batch_size=BATCH, table_optimizer="sgd", dense_optimizer="sgd"), 0, 0),
    (TrainConfig(batch_size=BATCH, table_optimizer="adagrad", dense_optimizer="adam"), DIM, 2),
  ],
)
def test_bytes_of_a_step_by_hand(train, slots_of_a_row, dense_slots):
  """The lookup reads rows; the update reads and writes rows and slots. Every device reads and writes the MLPs and their slots."""
  run = dataclasses.replace(SMALL, train=train)
  counts = cost(run.model, run.train, make_layout(run.model, shape_of(run)), 13)
  tables = BATCH * FEATURES * 4 * (DIM + 2 * (DIM + slots_of_a_row))
  dense = 2 * 4 * DENSE_PARAMS * (1 + dense_slots)
  assert [step_bytes(run, counts, n) for n in (1, 8)] == [tables + dense, tables + 8 * dense]


def test_efficiency_and_cost_by_hand():
  speeds = [("weak", 8, 3200.0), ("weak", 2, 1000.0), ("strong", 1, 600.0), ("strong", 4, 1200.0)]
  rows = [{"scaling": kind, "num_devices": n, "examples_per_s": speed} for kind, n, speed in speeds]
  got = compared(rows, price_per_device_hour=3.6)
  assert [row["efficiency"] for row in got] == pytest.approx([400 / 500, 1, 1, 300 / 600])
  assert [row["cost_per_million_examples"] for row in got] == pytest.approx([2.5, 2, 1 / 0.6, 4 / 1.2])  # 0.001 a device and second
  alone = compared([rows[0] | {"scaling": "none"}], None)[0]
  assert alone["efficiency"] is None and "cost_per_million_examples" not in alone


def test_peak_rss_has_the_unit_of_bytes():
  status = Path("/proc/self/status").read_text()
  kibibytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
  assert peak_rss_bytes() == pytest.approx(kibibytes * 1024, rel=0.05)


@pytest.mark.parametrize(
  ("mesh", "series"), [("1", "1"), ("8", "1 2 4 8"), ("6", "1 2 4 6"), ("2x4", "1x1 1x2 1x4 2x4"), ("4x3", "1x1 1x2 1x3 2x3 4x3")]
)
def test_meshes_that_lead_to_a_mesh(mesh, series):
  assert leading_to(MeshConfig(mesh=mesh)) == series.split()


def test_weak_and_strong_batches():
  run = dataclasses.replace(SMALL, mesh=MeshConfig(mesh="2x2"))
  got = [
    (case.scaling, case.run.mesh.mesh, case.run.train.batch_size, case.build.mesh.devices.shape, case.build.plan.num_devices)
    for case in cases(StepConfig(scaling="both", run=run), shape_of(run))
  ]
  assert got == [
    *[("weak", "1x1", 256, (1, 1), 1), ("weak", "1x2", 512, (1, 2), 2), ("weak", "2x2", 1024, (2, 2), 4)],
    *[("strong", "1x1", 256, (1, 1), 1), ("strong", "1x2", 256, (1, 2), 2), ("strong", "2x2", 256, (2, 2), 4)],
  ]


DENSE_BYTES = 4 * (DENSE_PARAMS + 2)  # with the loss and the number of examples
LOOKUPS = BATCH * FEATURES
ROOM = int(1.2 * LOOKUPS / DEVICES / DEVICES) // 8 * 8  # requests of a device to one owner: 1.2 even shares, a multiple of 8
# (values, ids and the like) of a device and step; float32 rows and gradients, int32 ids, one byte whether a lookup counts
ROW = (2 * DEVICES * ROOM * DIM * 4, 2 * (DEVICES * ROOM * 4 + DEVICES * 4))
COLUMN = (2 * LOOKUPS // DEVICES * DIM * 4, LOOKUPS * 5 + LOOKUPS * 4)
SUMMED = (FEATURES * 20 * DIM * 4, FEATURES * 20 * 4)  # 20 rows a table: the gradients of whole tables, and which rows were touched


def check_bytes(row: dict, placement: str, expected: tuple[int, int]) -> None:
  assert (row["exchange_bytes_per_device"], row["exchange_other_bytes_per_device"]) == expected
  assert row["dense_bytes_per_device"] == DENSE_BYTES
  assert row["mixed_bytes_per_device"] == 0
  assert row["planned_bytes_per_device"] == pytest.approx(expected[0], rel=0.1 if placement == "row" else 0)  # rooms are rounded
  assert row["least_bytes_per_device"] == (2 * LOOKUPS // DEVICES * DIM * 4 if placement == "row" else expected[0])
  assert row["placements"] == f"26 {placement}"


@pytest.mark.parametrize(("placement", "expected"), [("row", ROW), ("column", COLUMN)])
def test_exchanged_bytes_against_closed_forms(placement, expected):
  run = dataclasses.replace(SMALL, mesh=MeshConfig(mesh="8", placement=(placement,)))
  (case,) = cases(StepConfig(run=run), shape_of(run))
  check_bytes(measure(StepConfig(steps=1, warmup=0, run=run), case, shape_of(run)), placement, expected)


def program(*words: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run([sys.executable, "-m", "benchmarks.step", *words], capture_output=True, text=True, check=False)


def test_pmap_as_a_program(tmp_path: Path):
  """Runs in a process of its own: arrays with a leading axis of devices fail the shape checks of tests."""
  small = ("--num_rows=20", "--batch_size=256", "--bottom=64,16", "--overarch=64,1", "--steps=2")
  done = program("--parallelism=pmap", "--meshes=8", *small, f"--output={tmp_path}/step.json")
  assert done.returncode == 0, done.stderr
  (row,) = json.loads((tmp_path / "step.json").read_text())["results"]
  check_bytes(row, "replicated", SUMMED)
  assert (row["name"], row["parallelism"], row["scaling"], row["efficiency"]) == ("W1", "pmap", "none", None)


JOINED = """HloModule jit_f, is_scheduled=true, replica_count=1, num_partitions=8

ENTRY %main (a: f32[5], b: f32[2,3]) -> (f32[5], f32[2,3]) {{
  %a = f32[5]{{0}} parameter(0)
  %b = f32[2,3]{{1,0}} parameter(1)
  %both = (f32[5]{{0}}, f32[2,3]{{1,0}}) all-reduce(%a, %b), replica_groups={groups}, to_apply=%add, metadata={{op_name="{name}"}}
  %first = f32[5]{{0}} get-tuple-element(%both), index=0, metadata={{op_name="jit(f)/shard_map/exchange_values/psum"}}
  %second = f32[2,3]{{1,0}} get-tuple-element(%both), index=1, metadata={{op_name="jit(f)/transpose(jvp())/dot_general"}}
  ROOT %out = (f32[5]{{0}}, f32[2,3]{{1,0}}) tuple(%first, %second)
}}
"""


@pytest.mark.parametrize(
  ("name", "groups", "expected"),
  [
    ("jit(f)/(shard_map/exchange_values/psum:transpose(jvp())/dot_general)", "{}", {"values": 20, "dense": 24}),
    ("jit(f)/(transpose(jvp())/dot_general:shard_map/exchange_squares/psum)", "{}", {"other": 24, "dense": 20}),
    ("jit(f)/shard_map/exchange_values/psum", "{}", {"mixed": 44}),  # the compiler kept the name of one
    ("jit(f)/shard_map/exchange_values/psum", "{{0},{1},{2},{3},{4},{5},{6},{7}}", {}),  # each device with itself
  ],
)
def test_parts_of_a_joined_collective(name, groups, expected):
  got = exchanged(hlo.collectives(JOINED.format(name=name, groups=groups)))
  assert got == {"values": 0, "other": 0, "dense": 0, "mixed": 0} | expected


def test_json_of_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], ceilings_asked_for: list[tuple[str, ...]]):
  output = tmp_path / "new" / "step.json"
  model = dataclasses.replace(SMALL.model, matmul_precision="high")
  run = dataclasses.replace(SMALL, model=model, mesh=MeshConfig(placement=("replicated",)))  # compiles soonest
  config = StepConfig(str(output), "mine", steps=4, warmup=1, scaling="weak", meshes=("1", "4"), price_per_device_hour=2.0, run=run)
  step.main(config)
  written = json.loads(output.read_text())
  assert {"schema_version", "command", "hardware", "software", "results"} == set(written)
  assert written["hardware"]["platform"] == "cpu" and written["hardware"]["num_devices"] == 8
  rows = written["results"]
  sizes = [(row["scaling"], row["mesh"], row["num_devices"], row["batch_size"]) for row in rows]
  assert sizes == [("weak", "1", 1, 256), ("weak", "4", 4, 1024)]
  for row in rows:
    assert (row["name"], row["parallelism"], row["num_rows"], row["embed_dim"], row["steps"]) == ("mine", "jit", 5000, 16, 4)
    assert row["flops_per_example"] == FLOPS
    assert 0 < row["step_ms_p50"] <= row["step_ms_p90"] <= row["step_ms_p99"] and row["cpu_ms_p50"] > 0
    assert (row["compute_dtype"], row["matmul_precision"], row["peak_source"]) == ("float32", "high", "measured")
    assert row["flops_per_s"] == pytest.approx(FLOPS * row["examples_per_s"])
    assert row["mfu"] == pytest.approx(row["flops_per_s"] / 8e9)  # simulated devices have the ceilings of one
    dense = row["num_devices"] * 2 * 2 * 4 * DENSE_PARAMS  # Adagrad has a slot a parameter
    moved = FEATURES * 4 * (DIM + 2 * (DIM + 1)) + dense / row["batch_size"]  # of an example
    assert row["bytes_per_s"] == pytest.approx(moved * row["examples_per_s"])
    assert row["bandwidth_share"] == pytest.approx(row["bytes_per_s"] / 2e9)
    assert row["examples_per_s"] >= 1e3 * row["batch_size"] / row["step_ms_p90"] / 4  # the slowest of four
    assert row["efficiency"] == pytest.approx(row["examples_per_s"] / rows[0]["examples_per_s"] / row["num_devices"])
    assert row["cost_per_million_examples"] == pytest.approx(2e6 * row["num_devices"] / 3600 / row["examples_per_s"])
    assert row["peak_rss_bytes"] > 50e6 and row["peak_device_bytes"] is None
    assert 0 < row["pipelined_host_ms"] <= row["pipelined_ms"]
    assert row["pipelined_examples_per_s"] == pytest.approx(1e3 * row["batch_size"] / row["pipelined_ms"])
    assert row["pipelined_mfu"] == pytest.approx(FLOPS * row["pipelined_examples_per_s"] / 8e9)
    assert row["pipelined_bandwidth_share"] == pytest.approx(
      row["bandwidth_share"] * row["pipelined_examples_per_s"] / row["examples_per_s"]
    )
    moved = [value for field, value in row.items() if field.endswith("_bytes_per_device")]
    assert len(moved) == 7 and (row["num_devices"] > 1 or not any(moved))
    assert not any(isinstance(value, (dict, list)) for value in row.values())
  assert set(ceilings_asked_for) == {("float32", "high")}
  printed, progress = capsys.readouterr()
  assert "share the host's cores" in printed and "efficiency" in printed and "ceilings: measured" in printed
  assert "2/2 mine weak mesh 4, batch 1024: " in progress


def test_one_device_is_not_called_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  step.main(
    StepConfig(str(tmp_path / "step.json"), steps=1, warmup=0, run=dataclasses.replace(SMALL, mesh=MeshConfig(placement=("replicated",))))
  )
  assert "share the host's cores" not in capsys.readouterr().out


def test_without_flags_it_is_w1():
  run = parse("--output=x").run
  model, shape = run.model, shape_of(run)
  assert (model.embed_dim, model.num_rows, model.interaction) == (16, 100_000, "dot")
  assert (model.bottom, model.overarch, model.overarch_inputs) == ((512, 256, 64, 16), (512, 256, 1), ("dense", "dots"))
  assert (run.train.batch_size, run.train.table_optimizer, run.mesh.mesh) == (2048, "rowwise_adagrad", "1")
  assert (shape.num_dense, len(shape.field_names), set(shape.bag_lengths)) == (13, 26, {1})
  assert {table.num_rows for table in make_layout(run.model, shape).tables} == {100_000}
  wide = parse("--output=x", "--preset=W2", "--num_rows=1000")
  assert (wide.name, wide.run.model.embed_dim, wide.run.model.bottom, wide.run.model.num_rows) == ("W2", 64, (512, 256, 64, 64), 1000)
  assert {"tiny", "criteo_kaggle", "mlperf_v2"} < set(PRESETS)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("--mesh=16",), r"--mesh=16: needs 16 devices, there are 8 \(cpu\); JAX_NUM_CPU_DEVICES=16 .*"),
    (("--meshes=2,3y",), "--meshes=2,3y: '3y' must be a number of devices such as 8, or two such as 2x4"),
    (("--scaling=strong", "--meshes=1,3"), "--batch_size=2048: must be a multiple of the 3 devices of --mesh=3"),
    (("--price_per_device_hour=0",), "--price_per_device_hour=0.0: must be above 0"),
    (("--steps=0",), "--steps=0: must be at least 1"),
    (("--warmup=-1",), "--warmup=-1: must be at least 0"),
    (("--scaling=up",), "--scaling=up: must be among none, weak, strong, both"),
    (("--preset=tiny", "--learner=per_id"), "--learner=per_id: must be dlrm: nothing else is timed"),
    (("--output=",), "--output=: must be a JSON file to write"),
    (("--output={tmp}",), "--output={tmp}: must be a JSON file to write, not a directory"),
    (("--output={tmp}/file/x.json",), r"--output={tmp}/file/x.json: must be in a directory that can be written \(.*\)"),
    (("--output=/proc/none/x.json",), r"--output=/proc/none/x.json: must be in a directory that can be written \(.*\)"),
  ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_timed(words, message, tmp_path, monkeypatch):
  monkeypatch.setattr(step, "measure", lambda *_: pytest.fail("timed"))
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match=f"^{message.replace('{tmp}', str(tmp_path))}$"):
    step.main(parse(*(word.replace("{tmp}", str(tmp_path)) for word in (f"--output={tmp_path}/x.json", *words))))
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_program_ends_with_code_2():
  done = program("--output=x", "--stepz=3")
  assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and "steps" in done.stderr
