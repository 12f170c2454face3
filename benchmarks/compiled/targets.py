"""Machines that are absent: the names `--topology` takes, and jax devices of them to compile for. Used by benchmarks/topology.py.

A name is PLATFORM:CHIP:SHAPE. TPU shapes are chips along each axis of the interconnect, GPU shapes HOSTSxGPUS.
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
# XLA would otherwise time kernels on the device, which is not there.
_NO_AUTOTUNE = "--xla_gpu_autotune_level=0"
# libtpu asks what machine it is on and complains at length where nothing answers (any name will do here), and lets one process in
# at a time, since a chip is one process's: there is no chip here.
_TPU_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclass(frozen=True)
class _Chip:
  shapes: tuple[str, ...]
  memory_bytes: int = 0  # of one device, by the data sheet
  usable_bytes: int = 0  # what XLA lets a program have: "exceeds available HBM (15.75G)" in the messages of libtpu 0.0.42
  options: dict[str, Any] = field(default_factory=dict)  # of the topology


# Memory of a chip: the pages named above. A v4 or v5p chip has two cores that jax sees as one device (megacore).
_CHIPS = {
  "tpu:v4": _Chip(_CUBE, 32 * _GIB, int(30.75 * _GIB), {"chip_config_name": "megacore"}),
  "tpu:v5e": _Chip(_FLAT, 16 * _GIB, int(15.75 * _GIB)),
  "tpu:v5p": _Chip(_CUBE, 95 * _GIB, int(95.74 * _GIB)),
  "tpu:v6e": _Chip(_FLAT, 32 * _GIB, int(31.25 * _GIB)),
  "gpu:a100": _Chip(_HOSTS),
  "gpu:h100": _Chip(_HOSTS),
}


@dataclass(frozen=True)
class Target:
  """A machine to compile for.

  Attributes:
    platform: "tpu" or "gpu"; chip: "v5e", "h100", ...; shape: as in the module's docstring.
    memory_bytes: of one device, by its data sheet (GPU: as the driver reports it).
    usable_bytes: of one device, the most XLA lets a program have. On a GPU the memory itself: jax then reserves 75% of it unless
      XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
  """

  platform: str
  chip: str
  shape: tuple[int, ...]
  memory_bytes: int
  usable_bytes: int

  @property
  def name(self) -> str:
    return f"{self.platform}:{self.chip}:{'x'.join(map(str, self.shape))}"

  @property
  def num_devices(self) -> int:
    return math.prod(self.shape)


def _gpu_description(chip: str) -> str:
  return (resources.files("benchmarks") / "gpu_targets" / f"{chip}.txt").read_text()


def parse(name: str) -> Target:
  """The machine that `--topology=name` means. UserError where there is no such machine."""
  platform_chip, _, shape = name.rpartition(":")
  chip = _CHIPS.get(platform_chip)
  if chip is None:
    raise UserError(f"--topology={name}: must be PLATFORM:CHIP:SHAPE such as tpu:v5e:2x4, PLATFORM:CHIP among {', '.join(_CHIPS)}")
  if shape not in chip.shapes:
    raise UserError(f"--topology={name}: the shape of {platform_chip} must be among {', '.join(chip.shapes)}")
  platform, kind = platform_chip.split(":")
  memory, usable = chip.memory_bytes, chip.usable_bytes
  if platform == "gpu":
    memory = usable = int(re.findall(r"device_memory_size: (\d+)", _gpu_description(kind))[0])
  return Target(platform, kind, tuple(map(int, shape.split("x"))), memory, usable)


def devices(target: Target) -> list[jax.Device]:
  """The devices of the machine: programs can be lowered and compiled for them, not run.

  Call it before the first jax computation: it selects the CPU as jax's own platform unless JAX_PLATFORMS is set, and sets what the
  compilers read from the environment, where the user has not. UserError where the compiler is not installed.
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
