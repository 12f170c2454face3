"""Which accelerator a run uses, and what it is called in records."""

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


def header() -> dict[str, Any]:
  """`record.header()` with the jax devices added to the hardware."""
  out = record.header()
  devices = jax.devices()
  out["hardware"] |= {"platform": devices[0].platform, "device": devices[0].device_kind, "num_devices": len(devices)}
  return out
