"""Which accelerator a run uses, and what it is called in records."""

import functools
import glob
import os
from typing import Any

import jax

from dlrm_jax import host_memory, record

_DEVICE_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidiactl", "/dev/kfd")


def select_platform() -> None:
  """Without any accelerator's device file, tells jax to use the CPU at once: libtpu would search the network for TPUs and log errors.

  Keeps `JAX_PLATFORMS` where it is set. On the CPU, sets up the host's memory (`host_memory.py`). Call before the first jax computation.
  """
  platforms = os.environ.get("JAX_PLATFORMS")
  if platforms is None and not any(glob.glob(pattern) for pattern in _DEVICE_FILES):
    jax.config.update("jax_platforms", platforms := "cpu")
  if platforms == "cpu":
    host_memory.keep_pages()


_NO_YNN: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def compiler_options(platform: str) -> dict[str, str | bool]:
  """XLA options for programs that train on a platform.

  On the CPU, matrix products are left to Eigen: YNNPACK's, which jax 0.10 prefers, reached 93 GFLOP/s where Eigen's reached 119 (512x256
  layer, batch 2048, one core with AVX-512), 84 against 75 ms a step of W1. Nothing is set where XLA_FLAGS does, or for an XLA that does
  not know the option.
  """
  if platform != "cpu" or "ynn_fusion_type" in os.environ.get("XLA_FLAGS", ""):
    return {}
  try:
    jax.jit(lambda: 0).lower().compile(_NO_YNN)
  except jax.errors.JaxRuntimeError as error:
    if "No such compile option" not in str(error):
      raise
    return {}
  return _NO_YNN


def header() -> dict[str, Any]:
  """`record.header()` with the jax devices added to the hardware."""
  out = record.header()
  devices = jax.devices()
  out["hardware"] |= {"platform": devices[0].platform, "device": devices[0].device_kind, "num_devices": len(devices)}
  return out
