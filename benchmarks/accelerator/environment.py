"""Section `env`: the machine, its versions, and its ceilings, measured and by the data sheet."""

import dataclasses
import functools
import os
import shutil
import subprocess

import jax

from benchmarks.accelerator.rows import Rows
from benchmarks.measure import ceilings, peaks
from benchmarks.measure.table import Row
from dlrm_jax.machine import hardware

_PRODUCTS = (("bfloat16", "default"), ("float32", "default"), ("float32", "highest"))
_SMI = "name,memory.total,driver_version,clocks.sm,clocks.mem,power.limit,ecc.mode.current"


def measure(rows: Rows) -> None:
  """Keeps a row about the machine, and one for the products of each precision."""
  rows.case(_machine, what="machine")
  for dtype, precision in _PRODUCTS[1:2] if rows.tiny else _PRODUCTS:
    rows.case(functools.partial(_ceilings, dtype, precision), what="ceilings", dtype=dtype, precision=precision)


def _machine() -> Row:
  header, device = hardware.header(), jax.devices()[0]
  return {
    **header["hardware"],
    **{f"version_{name}": version for name, version in header["software"].items()},
    "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "usable_bytes": (device.memory_stats() or {}).get("bytes_limit"),
    "driver": _driver(),
  }


def _driver() -> str | None:
  """The output of nvidia-smi about the cards; None where it is not installed."""
  if shutil.which("nvidia-smi") is None:
    return None
  return subprocess.run(
    ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader"], capture_output=True, text=True, check=False
  ).stdout.strip()


def _ceilings(dtype: str, precision: str) -> Row:
  """Measured FLOP/s and bytes/s, and their shares of the data sheet's."""
  device, found = jax.local_devices()[0], ceilings.measure(dtype, precision)
  sheet = peaks.peak(device.device_kind, device.platform, dtype, precision)
  out = dataclasses.asdict(found)
  del out["source"]
  return out | (
    {"flops_share_of_sheet": found.flops_per_s / sheet[0], "bytes_share_of_sheet": found.bytes_per_s / sheet[1]} if sheet else {}
  )
