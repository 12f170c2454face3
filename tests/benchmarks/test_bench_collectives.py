"""Tests benchmarks.collectives: sizes and bandwidths by hand, results against numpy, the JSON file of a small run, bad input."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from benchmarks import collectives
from benchmarks.collectives import KINDS, CollectivesConfig, bus_factor, elements, expected, measure, mesh_of, program, verify
from benchmarks.measure.timing import Timing
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError
from dlrm_jax.machine.mesh import split


def test_what_each_collective_means_by_hand():
  """Two devices hold 1 2 3 4 and 5 6 7 8."""
  x_nm = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int8)
  got = {kind: [expected(kind, x_nm, device).tolist() for device in (0, 1)] for kind in KINDS}
  assert got == {
    "all_to_all": [[1, 2, 5, 6], [3, 4, 7, 8]],
    "all_gather": [[1, 2, 3, 4, 5, 6, 7, 8]] * 2,
    "reduce_scatter": [[6, 8], [10, 12]],
    "all_reduce": [[6, 8, 10, 12]] * 2,
  }


def test_sizes_are_whole_values_for_each_device():
  assert elements(1.0, "float32", 8) == 2**18
  assert elements(1.0, "bfloat16", 8) == 2**19
  assert elements(100 / 2**20, "float32", 8) == 24  # 25 values fit
  with pytest.raises(UserError, match=r"^--sizes_mib=1e-05: must be at least 32 bytes, a float32 for each device$"):
    elements(1e-5, "float32", 8)


def test_bus_factors():
  """nccl-tests, doc/PERFORMANCE.md: 2(n-1)/n for all-reduce, (n-1)/n for the others."""
  assert [bus_factor(kind, 4) for kind in KINDS] == [0.75, 0.75, 0.75, 1.5]
  assert bus_factor("all_reduce", 2) == 1


@pytest.mark.parametrize("mesh", ["8", "2x4"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_from_given_times(kind, mesh, monkeypatch):
  """S is the size of a device's data before or after, whichever is larger. The devices hold different data."""
  ran = []

  def time_steps(step, state, inputs, warmup, steps):
    ran.append((inputs[0], step(state, inputs[0])))
    return Timing((0.5, 0.25, 0.125), (0.1, 0.1, 0.1))

  monkeypatch.setattr(collectives, "time_steps", time_steps)
  config = CollectivesConfig("", mesh=mesh)
  row = measure(config, mesh_of(config), kind, "bfloat16", 1 / 64)
  (before, after) = (array.addressable_shards[0].data.nbytes for array in ran[0])
  assert max(before, after) == row["size_bytes"] == 2**14
  assert (before == 2**14, after == 2**14) == (kind != "all_gather", kind != "reduce_scatter")
  assert row["algorithm_bytes_per_s"] == 2**16
  assert row["bus_bytes_per_s"] == 2**16 * (1.75 if kind == "all_reduce" else 0.875)
  assert (row["name"], row["mesh"], row["num_devices"], row["step_ms_p50"]) == (f"{kind} bfloat16", mesh, 8, 250)
  host = np.asarray(ran[0][0]).astype(np.int8).reshape(8, -1)
  verify(kind, host, ran[0][1])
  assert len(np.unique(host, axis=0)) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_result_is_an_error(kind):
  mesh = mesh_of(CollectivesConfig(""))
  x_nm = np.random.default_rng(0).integers(0, 3, (8, 64), dtype=np.int8)
  x = jax.device_put(x_nm.reshape(-1).astype(np.float32), NamedSharding(mesh, split(mesh)))
  right = jax.jit(program(kind, mesh))(x)
  verify(kind, x_nm, right)
  with pytest.raises(RuntimeError, match=rf"^{kind} of .* float32: device 5 has other values than numpy$"):
    verify(kind, x_nm, jnp.asarray(right).at[5 * (right.size // 8) + 3].add(1))


def test_json_of_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  output = tmp_path / "new" / "collectives.json"
  words = ["--sizes_mib=0.01,0.001", "--dtypes=float32,bfloat16", "--steps=3", "--warmup=1", "--mesh=4", "--kinds=all_gather,all_to_all"]
  collectives.main(flags.parse(["collectives", f"--output={output}", *words], CollectivesConfig))
  written = json.loads(output.read_text())
  assert {"schema_version", "command", "hardware", "software", "results"} == set(written)
  rows = written["results"]
  assert [(row["collective"], row["dtype"], row["size_bytes"]) for row in rows] == [
    (kind, dtype, size)
    for kind in ("all_gather", "all_to_all")
    for dtype, sizes in (("float32", (1040, 10_480)), ("bfloat16", (1048, 10_480)))
    for size in sizes
  ]
  for row in rows:
    assert (row["num_devices"], row["mesh"], row["steps"]) == (4, "4", 3)
    assert 0 < row["step_ms_p50"] <= row["step_ms_p90"] <= row["step_ms_p99"]
    assert row["bus_bytes_per_s"] == pytest.approx(0.75 * row["algorithm_bytes_per_s"])
    assert row["algorithm_bytes_per_s"] == pytest.approx(row["size_bytes"] / row["step_ms_p50"] * 1e3)
  printed, progress = capsys.readouterr()
  assert "share the host's cores" in printed and "bus GB/s" in printed
  assert "8/8 all_to_all bfloat16 0.01 MiB: " in progress


def test_without_a_mesh_all_devices_take_part():
  assert mesh_of(CollectivesConfig("")).devices.shape == (8,)


def test_one_device_is_refused(monkeypatch):
  one = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda: one)
  with pytest.raises(UserError, match=r"^--mesh=1: must be at least 2 devices, there is 1 \(cpu\); JAX_NUM_CPU_DEVICES=8 in front .*$"):
    mesh_of(CollectivesConfig(""))


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--mesh=1"], "--mesh=1: must be at least 2 devices"),
    (["--mesh=16"], "--mesh=16: needs 16 devices"),
    (["--mesh=two"], "--mesh=two: must be a number of devices"),
    (["--sizes_mib="], "--sizes_mib=: must be a list of at least one"),
    (["--sizes_mib=0,1"], "--sizes_mib=0.0,1.0: must be above 0 each"),
    (["--sizes_mib=1,0.00001"], "--sizes_mib=1e-05: must be at least 32 bytes"),
    (["--dtypes=int8"], "--dtypes=int8: must be among float32, bfloat16"),
    (["--kinds=broadcast"], "--kinds=broadcast: must be among all_to_all, all_gather"),
    (["--steps=0"], "--steps=0: must be at least 1"),
    (["--warmup=-1"], "--warmup=-1: must be at least 0"),
    (["--output="], "--output=: must be a JSON file to write"),
  ],
)
def test_bad_input(words, message, refusal, monkeypatch, tmp_path):
  monkeypatch.setattr(collectives, "measure", lambda *_: pytest.fail("timed"))
  assert message in refusal(collectives.main, CollectivesConfig, {}, [f"--output={tmp_path}/x.json", *words])
  assert not list(tmp_path.iterdir())
