"""Tests peaks against the tables of jax and XLA, ceilings from given times, and shares by hand."""

import math
import re
from typing import Any
from unittest import mock

import jax
import pytest
from jax._src.pallas.mosaic import tpu_info
from places import ROOT

from benchmarks.measure import ceilings, peaks
from benchmarks.measure.ceilings import Ceilings
from benchmarks.measure.timing import Pipelined

TARGETS = ROOT / "benchmarks" / "compiled" / "gpu_targets"


@pytest.mark.parametrize(
  ("kind", "platform", "dtype", "precision", "teraflops", "terabytes"),
  [
    ("TPU v5 lite", "tpu", "bfloat16", "default", 197, 0.819),
    ("TPU v5 lite", "tpu", "bfloat16", "highest", 197, 0.819),
    ("TPU v5 lite", "tpu", "float32", "default", 197, 0.819),
    ("TPU v6 lite", "tpu", "float32", "high", 306, 1.638),
    ("TPU v5p", "tpu", "float32", "highest", 76.5, 2.765),
    ("NVIDIA H100 80GB HBM3", "gpu", "bfloat16", "default", 989.4, 3.35),
    ("NVIDIA H100 80GB HBM3", "gpu", "float32", "default", 494.7, 3.35),
    ("NVIDIA A100-SXM4-80GB", "gpu", "float32", "high", 156, 2.039),
    ("NVIDIA A100-SXM4-40GB", "gpu", "float32", "highest", 19.5, 1.555),
    ("Tesla V100-SXM2-32GB", "gpu", "float32", "default", 15.7, 0.9),  # no TF32
    ("nvidia  l4", "gpu", "float32", "default", 60, 0.3),
  ],
)
def test_the_peak_a_product_could_reach(kind, platform, dtype, precision, teraflops, terabytes):
  assert peaks.peak(kind, platform, dtype, precision) == pytest.approx((teraflops * 1e12, terabytes * 1e12))


@pytest.mark.parametrize(
  "kind",
  [
    "cpu",
    "TPU v4 lite",
    "TPU v7x",
    "NVIDIA GH200 480GB",
    "NVIDIA GB200",
    "NVIDIA H100 NVL",
    "NVIDIA L40",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
  ],
)
def test_a_name_that_is_only_like_another_is_not_guessed(kind):
  assert peaks.peak(kind, "gpu", "float32", "default") is None


def test_a_dtype_without_units_has_no_peak():
  assert peaks.peak("Tesla V100-SXM2-16GB", "gpu", "bfloat16", "default") is None


@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5 lite", "TPU v5p", "TPU v6 lite"])
def test_tpus_against_the_table_that_comes_with_jax(kind):
  """Pallas keeps figures of its own, rounded (a v5p's bandwidth 11% below its data sheet)."""
  version = tpu_info.chip_version_from_device_kind(kind)
  of_chip = getattr(tpu_info, "get_tpu_info_for_chip", None) or tpu_info._get_tpu_info_impl  # the latter up to jax 0.10
  info = of_chip(version, 1)
  cores = version.num_physical_tensor_cores_per_chip if info.bf16_ops_per_second < 0.6 * peaks.find(kind).bfloat16 else 1
  sheet = peaks.find(kind)
  assert sheet.bfloat16 == pytest.approx(cores * info.bf16_ops_per_second, rel=0.01)
  assert sheet.bytes_per_s == pytest.approx(cores * info.mem_bw_bytes_per_second, rel=0.13)
  assert sheet.memory_bytes == pytest.approx(cores * info.hbm_capacity_bytes, rel=0.02)


@pytest.mark.parametrize(
  ("target", "kind"), [("h100", "NVIDIA H100 80GB HBM3"), ("h200", "NVIDIA H200"), ("a100", "NVIDIA A100-SXM4-80GB")]
)
def test_gpus_against_what_xla_compiles_for(target, kind):
  text = (TARGETS / f"{target}.txt").read_text()
  found = {name: float(value) for name, value in re.findall(r"(\w+): ([\d.]+)", text)}
  sheet = peaks.find(kind)
  assert sheet.float32 == pytest.approx(2 * found["core_count"] * found["fpus_per_core"] * found["clock_rate_ghz"] * 1e9, rel=0.01)
  assert sheet.bytes_per_s == pytest.approx(found["memory_bandwidth"], rel=0.01)
  assert sheet.memory_bytes == pytest.approx(found["device_memory_size"], rel=0.02)


@pytest.mark.parametrize("name", sorted(peaks._PEAKS))
def test_a_sheet_does_not_count_zeros(name):
  """bfloat16 is twice TF32 on every chip that has both. A figure with sparsity would break that. Sheets round their figures."""
  sheet = peaks._PEAKS[name]
  if sheet.tfloat32:
    assert sheet.bfloat16 == pytest.approx(2 * sheet.tfloat32, rel=0.02)
  assert sheet.source and 1e10 < sheet.memory_bytes < 2e11 < sheet.bytes_per_s < 1e13


def device(kind: str, platform: str, process_index: int = 0) -> jax.Device:
  """A device with the attributes that ceilings read."""
  return mock.Mock(spec=jax.Device, device_kind=kind, platform=platform, process_index=process_index)


def test_ceilings_of_several_devices(monkeypatch):
  asked: list[Any] = []

  def measure(*what: str) -> Ceilings:
    asked.append(what)
    return Ceilings(100e9, 20e9, "measured")

  monkeypatch.setattr(ceilings, "measure", measure)
  chips = [device("TPU v5e", "tpu", index // 4) for index in range(8)]
  assert ceilings.of(chips, "bfloat16", "default") == Ceilings(8 * 197e12, 8 * 819e9, "datasheet") and not asked
  simulated = [device("cpu", "cpu", index // 4) for index in range(8)]  # two processes on hosts of their own
  assert ceilings.of(simulated, "bfloat16", "high") == Ceilings(200e9, 40e9, "measured")
  assert ceilings.of(simulated[:4], "float32", "default") == Ceilings(100e9, 20e9, "measured")
  assert asked == [("bfloat16", "high"), ("float32", "default")]


def test_shares_by_hand():
  limits = Ceilings(200e9, 50e9, "measured")
  shares = limits.shares(0.5, flops=30e9, num_bytes=5e9)
  assert shares == {"flops_per_s": 60e9, "mfu": 0.3, "bytes_per_s": 10e9, "bandwidth_share": 0.2, "peak_source": "measured"}
  assert set(limits.shares(0.5, num_bytes=5e9)) == {"bytes_per_s", "bandwidth_share", "peak_source"}


def test_measured_ceilings_from_given_times(monkeypatch):
  """The fastest time of each size counts, and the best size."""
  given = iter([Pipelined(times, times) for times in ((0.5, 0.002, 0.004), (0.1, 0.2, 0.03), (0.04, 0.02, 0.09))])
  ran = []

  def time_pipelined(step: Any, state: Any, inputs: list[Any], *_: int) -> Pipelined:
    ran.append(jax.block_until_ready(step(state, inputs[0])))
    return next(given)

  monkeypatch.setattr(ceilings, "time_pipelined", time_pipelined)
  monkeypatch.setattr(ceilings, "_CPU_SIZES", (64, 128))
  monkeypatch.setattr(ceilings, "_CPU_COPY_BYTES", 1 << 20)
  found = ceilings.measure.__wrapped__("bfloat16", "default")
  assert [(x.shape, x.dtype.name) for x in ran] == [((64, 64), "bfloat16"), ((128, 128), "bfloat16"), ((1 << 18,), "float32")]
  assert found.flops_per_s == pytest.approx(2 * 64**3 / 0.002)
  assert found.bytes_per_s == pytest.approx(2 * 2**20 / 0.02)
  assert found.source == "measured"
  assert (ran[2] == 1).all()


def test_measured_ceilings_are_there(monkeypatch):
  monkeypatch.setattr(ceilings, "_CPU_SIZES", (128,))
  monkeypatch.setattr(ceilings, "_CPU_COPY_BYTES", 1 << 22)
  found = ceilings.measure.__wrapped__("float32", "highest")
  assert 1e7 < found.flops_per_s < 1e14 and 1e7 < found.bytes_per_s < 1e13 and math.isfinite(found.flops_per_s)
