"""Selects the platform of a run, shares its compiled programs, and describes its devices for records."""

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import jax

from dlrm_jax.common import record
from dlrm_jax.common.cache import cache_dir
from dlrm_jax.common.progress import say
from dlrm_jax.machine import compile_cache, host_memory, native
from dlrm_jax.machine.device_files import accelerators

_USERS_BYTES = 2**30


def select_platform() -> None:
  """Selects the CPU where no accelerator has a device file. Otherwise libtpu would search the network for TPUs and log errors.

  `JAX_PLATFORMS` wins where it is set. On the CPU it also sets up the host's memory (`host_memory.py`). On a GPU it adds the flags of
  `gpu_flags` to `XLA_FLAGS`. Call it before the first jax computation.
  """
  if accelerators("nvidia") and (added := gpu_flags(jax.__version_info__, os.environ.get("XLA_FLAGS", ""))):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {added}".strip()
  platforms = os.environ.get("JAX_PLATFORMS")
  if platforms is None and not accelerators():
    jax.config.update("jax_platforms", platforms := "cpu")
  if platforms == "cpu":
    host_memory.keep_pages()


def gpu_flags(jax_version: tuple[int, ...], given: str) -> str:
  """The flag that XLA needs before jax 0.11 to add to float32 values on a GPU by one instruction; empty where it is not needed.

  Without it, the additions of gradients compile to loops of compare-and-swap: to single values on an H100, to rows on an A100 too. One
  address that many lookups share then took 450 times as long (openxla/xla issue 46225). A flag that `given` sets is left alone.
  """
  return "" if jax_version >= (0, 11) or "xla_backend_extra_options" in given else "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"


def share_compiled(directory: str | Path | None = None) -> None:
  """Makes jax keep the programs that it compiles in a directory, and load those that are there instead of compiling them again.

  XLA compiles CPU programs for the processor and for the number of cores that this process may use. With other cores the last bits of the
  results differ. So each processor and number of cores has a directory of its own. Any number of processes may share it, and may be killed.
  Call it after `select_platform` and `mesh.connect`. `JAX_COMPILATION_CACHE_DIR` names another directory, and
  `JAX_ENABLE_COMPILATION_CACHE=0` turns it off.

  Args:
    directory: where to keep them. None: in the user's cache directory, which keeps 1 GiB of the programs used last.
  """
  if wanted := os.environ.get("JAX_COMPILATION_CACHE_DIR") or directory:
    base = Path(wanted).absolute()
  else:
    try:
      base = cache_dir() / "compiled"
    except OSError as error:
      say(f"compiled programs are not kept: {error.filename}: {error.strerror}")
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
  """Returns the XLA options for programs that train on a platform.

  On the CPU, Eigen does the matrix products instead of YNNPACK, which jax 0.10 prefers. Eigen reached 119 GFLOP/s and YNNPACK 93 (512x256
  layer, batch 2048, one core with AVX-512), and a step of W1 took 75 ms against 84. No option is set where XLA_FLAGS sets it, or where XLA
  does not know it.
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
  """Returns `record.header()` with the jax devices added to the hardware."""
  out = record.header()
  devices = jax.devices()
  out["hardware"] |= {"platform": devices[0].platform, "device": devices[0].device_kind, "num_devices": len(devices)}
  return out
