"""Additions of gradients on a GPU are single instructions: the flag for older versions of jax, and the assembly of absent machines."""

import os
import subprocess
import sys
from importlib import util

import jax
import pytest
from places import ROOT

from dlrm_jax.machine import device_files, hardware

FLAG = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"
COMPILES = """
import jax, jax.numpy as jnp
from benchmarks.compiled import targets
here = jax.sharding.SingleDeviceSharding(targets.devices(targets.parse("gpu:{chip}:1x1"))[0])
for shape in ((), (128,)):
  of = lambda n: jax.ShapeDtypeStruct((n, *shape), jnp.float32, sharding=here)
  rows = jax.ShapeDtypeStruct((4096,), jnp.int32, sharding=here)
  jax.jit(lambda x, i, g: x.at[i].add(g, mode="drop"), donate_argnums=0).lower(of(100_000), rows, of(4096)).compile()
"""


def test_the_flag_is_added_for_old_versions_alone():
  assert hardware.gpu_flags((0, 10, 2), "") == FLAG
  assert hardware.gpu_flags((0, 11, 2), "") == "" == hardware.gpu_flags((0, 12, 0), "")
  assert hardware.gpu_flags((0, 10, 2), "--xla_backend_extra_options=-other") == ""


@pytest.mark.parametrize("there", [True, False])
def test_only_where_there_is_a_gpu(there: bool, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv("XLA_FLAGS", "--a=b")
  monkeypatch.setattr(device_files.glob, "glob", lambda pattern: ["found"] if there and pattern == "/dev/nvidiactl" else [])
  monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
  hardware.select_platform()
  assert os.environ["XLA_FLAGS"] == (f"--a=b {FLAG}" if there else "--a=b")


@pytest.mark.skipif(util.find_spec("jax_cuda13_plugin") is None, reason="jax's CUDA plugin is not installed")
@pytest.mark.parametrize("chip", ["h100", "a100"])
def test_no_addition_is_a_loop_of_compare_and_swap(chip: str, tmp_path):
  flags = f"--xla_gpu_autotune_level=0 --xla_dump_to={tmp_path} {hardware.gpu_flags(jax.__version_info__, '')}"
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
  subprocess.run([sys.executable, "-c", COMPILES.format(chip=chip)], env=environment, cwd=ROOT, check=True, capture_output=True)
  assembly = "".join(path.read_text() for path in tmp_path.glob("*.ptx"))
  if not assembly:
    pytest.skip("this version of XLA writes no assembly")
  assert "atom" in assembly
  assert ".cas." not in assembly
