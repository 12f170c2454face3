"""Tests the names of absent machines, and their devices."""

import importlib.metadata

import pytest

from benchmarks.compiled import targets
from dlrm_jax.common.flags import UserError


@pytest.mark.parametrize(
  ("name", "devices", "gib"),
  [
    *[("tpu:v5e:2x4", 8, 15.75), ("tpu:v5p:2x2x2", 8, 95.74), ("tpu:v4:2x2x1", 4, 30.75)],
    *[("tpu:v6e:1x1", 1, 31.25), ("tpu:v5e:8x16", 128, 15.75)],
  ],
)
def test_tpus(name, devices, gib):
  target = targets.parse(name)
  assert (target.name, target.num_devices, target.usable_bytes) == (name, devices, int(gib * 2**30))
  found = targets.devices(target)
  assert len(found) == devices and found[0].device_kind.startswith("TPU v" + target.chip[1])


@pytest.mark.parametrize(
  ("name", "devices", "gigabytes"), [("gpu:h100:1x8", 8, 84.9), ("gpu:a100:1x3", 3, 85.1), ("gpu:h100:2x8", 16, 84.9)]
)
def test_gpus(name, devices, gigabytes):
  target = targets.parse(name)
  assert (target.name, target.num_devices) == (name, devices)
  assert target.usable_bytes == pytest.approx(gigabytes * 1e9, rel=1e-3)
  if any("jax-cuda" in str(package.name) for package in importlib.metadata.distributions()):
    assert len(targets.devices(target)) == devices
  else:
    with pytest.raises(UserError, match=r"^--topology=gpu:.*pip install 'jax\[cuda13\]'$"):
      targets.devices(target)


@pytest.mark.parametrize("name", ["", "v5e", "tpu:v5e", "tpu:v9:2x2", "cpu:x86:1x1"])
def test_unknown_machines(name):
  with pytest.raises(UserError, match=rf"^--topology={name}: must be PLATFORM:CHIP:SHAPE .*tpu:v5e, .*gpu:h200$"):
    targets.parse(name)


@pytest.mark.parametrize("name", ["tpu:v5e:3x3", "tpu:v5p:2x4", "gpu:h100:8", "gpu:a100:1x9", "tpu:v5e:2x4x"])
def test_unknown_shapes(name):
  with pytest.raises(UserError, match=rf"^--topology={name}: the shape of {name.rpartition(':')[0]} must be among .*, "):
    targets.parse(name)
