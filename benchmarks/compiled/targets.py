"""Machines to compile for without having them: the names that `--topology` takes, and their jax devices. Used by benchmarks/topology.py.

A name is PLATFORM:CHIP:SHAPE. A TPU shape is the number of chips along each axis of the interconnect. A GPU shape is HOSTSxGPUS.
"""

import math
import os
import re
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jax
from jax.experimental import topologies

from dlrm_jax.common.flags import UserError

_GIB = 1 << 30
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")  # https://cloud.google.com/tpu/docs/v5e and /v6e
_CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")  # the same for /v4 and /v5p
_HOSTS = (*(f"1x{gpus}" for gpus in range(1, 9)), *(f"{hosts}x8" for hosts in (2, 4, 8, 16, 32)))  # NVIDIA's boards hold eight
# Otherwise XLA would time kernels on the device, which is absent.
_NO_AUTOTUNE = "--xla_gpu_autotune_level=0"
# libtpu asks which machine it is on, and prints long errors where nothing answers; any name works here. It also admits one process at a
# time, since a chip belongs to one process, but there is no chip here.
_TPU_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class _Chip:
  shapes: tuple[str, ...]
  usable_bytes: int = 0  # memory of a device that XLA lets a program use: "exceeds available HBM (15.75G)", messages of libtpu 0.0.42
  options: dict[str, Any] = field(default_factory=dict)  # options of the topology


# A v4 or v5p chip has two cores that jax sees as one device (megacore).
_CHIPS = {
  "tpu:v4": _Chip(_CUBE, int(30.75 * _GIB), {"chip_config_name": "megacore"}),
  "tpu:v5e": _Chip(_FLAT, int(15.75 * _GIB)),
  "tpu:v5p": _Chip(_CUBE, int(95.74 * _GIB)),
  "tpu:v6e": _Chip(_FLAT, int(31.25 * _GIB)),
  "gpu:a100": _Chip(_HOSTS),
  "gpu:h100": _Chip(_HOSTS),
  "gpu:h200": _Chip(_HOSTS),
}


@dataclass(frozen=True)
class Target:
  """A machine to compile for.

  Attributes:
    platform: "tpu" or "gpu".
    chip: "v5e", "h100" and so on.
    shape: see the top of this file.
    usable_bytes: memory of one device that XLA lets a program use. On a GPU it is the whole memory, as the driver reports it; jax reserves
      75% of it unless XLA_PYTHON_CLIENT_MEM_FRACTION is set.
  """

  platform: str
  chip: str
  shape: tuple[int, ...]
  usable_bytes: int

  @property
  def name(self) -> str:
    return f"{self.platform}:{self.chip}:{'x'.join(map(str, self.shape))}"

  @property
  def num_devices(self) -> int:
    return math.prod(self.shape)


def _gpu_description(chip: str) -> str:
  return (resources.files("benchmarks.compiled") / "gpu_targets" / f"{chip}.txt").read_text()


def parse(name: str) -> Target:
  """The machine of `--topology=name`. Raises UserError where there is no such machine."""
  platform_chip, _, shape = name.rpartition(":")
  chip = _CHIPS.get(platform_chip)
  if chip is None:
    raise UserError(f"--topology={name}: must be PLATFORM:CHIP:SHAPE such as tpu:v5e:2x4, PLATFORM:CHIP among {', '.join(_CHIPS)}")
  if shape not in chip.shapes:
    raise UserError(f"--topology={name}: the shape of {platform_chip} must be among {', '.join(chip.shapes)}")
  platform, kind = platform_chip.split(":")
  usable = chip.usable_bytes or int(re.findall(r"device_memory_size: (\d+)", _gpu_description(kind))[0])
  return Target(platform, kind, tuple(map(int, shape.split("x"))), usable)


def devices(target: Target) -> list[jax.Device]:
  """The devices of the machine. Programs can be lowered and compiled for them, but not run.

  Call it before the first jax computation. It selects the CPU as jax's own platform unless JAX_PLATFORMS is set, and sets variables that
  the compilers read from the environment, unless the user has set them. Raises UserError where the compiler is not installed.
  """
  if "JAX_PLATFORMS" not in os.environ:
    jax.config.update("jax_platforms", "cpu")
  shape = "x".join(map(str, target.shape))
  if target.platform == "gpu":
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_autotune_level" not in given:
      os.environ["XLA_FLAGS"] = f"{given} {_NO_AUTOTUNE}".strip()
    try:
      description = _gpu_description(target.chip)
      return list(topologies.get_topology_desc(platform="cuda", target_config=description, topology=f"1x{shape}").devices)
    except NotImplementedError:
      raise UserError(f"--topology={target.name}: compiling for a GPU needs jax's CUDA plugin: pip install 'jax[cuda13]'") from None
  for key, value in _TPU_ENVIRONMENT.items():
    os.environ.setdefault(key, value)
  options = dict(_CHIPS[f"{target.platform}:{target.chip}"].options)
  if target.num_devices == 1:
    options["chips_per_host_bounds"] = [1, 1, 1]  # a host has 2x2 chips otherwise
  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=f"{target.chip}:{shape}", **options).devices)
  except RuntimeError as error:
    if "TPU support not installed" not in str(error):
      raise
    raise UserError(f"--topology={target.name}: compiling for a TPU needs libtpu: pip install 'jax[tpu]'") from None
