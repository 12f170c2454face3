"""Which accelerator a run uses, and what it is called in records."""

import functools
import glob
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import jax

from dlrm_jax.common import record
from dlrm_jax.common.cache import cache_dir
from dlrm_jax.machine import compile_cache, host_memory, native

_DEVICE_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidiactl", "/dev/kfd")
_USERS_BYTES = 2**30


def select_platform() -> None:
  """Without any accelerator's device file, tells jax to use the CPU at once: libtpu would search the network for TPUs and log errors.

  Keeps `JAX_PLATFORMS` where it is set. On the CPU, sets up the host's memory (`host_memory.py`). Call before the first jax computation.
  """
  platforms = os.environ.get("JAX_PLATFORMS")
  if platforms is None and not any(glob.glob(pattern) for pattern in _DEVICE_FILES):
    jax.config.update("jax_platforms", platforms := "cpu")
  if platforms == "cpu":
    host_memory.keep_pages()


def share_compiled(directory: str | Path | None = None) -> None:
  """Has jax keep the programs that it compiles in a directory, and take those that it finds there, instead of compiling them again.

  Programs of a CPU go into a directory for the processor and the number of cores that this process may use: XLA compiles for both, and
  with other cores the last bits of the results differ. Processes of any number may share it, and may be killed.
  Call after `select_platform` and `mesh.connect`. `JAX_COMPILATION_CACHE_DIR` names another directory, `JAX_ENABLE_COMPILATION_CACHE=0`
  does without.

  Args:
    directory: where; None: in the user's cache directory, of which the programs used last are kept, 1 GiB of them.
  """
  if wanted := os.environ.get("JAX_COMPILATION_CACHE_DIR") or directory:
    base = Path(wanted).absolute()
  else:
    try:
      base = cache_dir() / "compiled"
    except OSError as error:
      print(f"compiled programs are not kept: {error.filename}: {error.strerror}", file=sys.stderr, flush=True)
      return
    compile_cache.trim(base, _USERS_BYTES)
  kind = jax.default_backend()
  if kind == "cpu":
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = f"cpu-{hashlib.sha256(native.processor().encode()).hexdigest()[:8]}-{cores}"
  compile_cache.install(base / kind)


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
