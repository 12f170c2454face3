"""The most FLOP/s and bytes/s that the devices of this machine could reach, from data sheets or measured. Used by step.py and lookup.py.

Ceilings are measured where the data sheet is not known. Rows record in `peak_source` which of the two they are shares of.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.measure import peaks
from benchmarks.measure.timing import time_pipelined
from dlrm_jax.machine.hardware import compiler_options

_CPU_SIZES, _SIZES = (512, 1024, 2048), (2048, 4096, 8192)  # of square matrices; the fastest product counts
_CPU_COPY_BYTES, _COPY_BYTES = 256 << 20, 1 << 30
_WARMUP, _STEPS = 1, 20  # four a round


@dataclasses.dataclass(frozen=True)
class Ceilings:
  """The most that some devices could reach together.

  Attributes:
    flops_per_s: FLOP/s of matrix products.
    bytes_per_s: memory bandwidth, reads and writes together.
    source: "datasheet" or "measured".
  """

  flops_per_s: float
  bytes_per_s: float
  source: str

  def shares(self, seconds: float, flops: float = math.nan, num_bytes: float = math.nan) -> dict[str, float | str]:
    """Fields of a row: FLOP/s and bytes/s of work that takes `seconds`, and their shares of the ceilings. Unknown FLOPs have no fields."""
    out: dict[str, float | str] = {}
    if not math.isnan(flops):
      out |= {"flops_per_s": flops / seconds, "mfu": flops / seconds / self.flops_per_s}
    return out | {
      "bytes_per_s": num_bytes / seconds,
      "bandwidth_share": num_bytes / seconds / self.bytes_per_s,
      "peak_source": self.source,
    }


def of(devices: Sequence[jax.Device], compute_dtype: str, matmul_precision: str) -> Ceilings:
  """The ceilings of these devices together.

  Where the table has no data sheet, they are measured once a process, on the first local device. The CPU devices of one process share
  its cores and its memory, so together they have the ceilings of one.

  Args:
    devices: devices of one kind.
    compute_dtype, matmul_precision: of the products, as `peaks.peak` takes them.
  """
  first = devices[0]
  sheet = peaks.peak(first.device_kind, first.platform, compute_dtype, matmul_precision)
  one = Ceilings(*sheet, "datasheet") if sheet else measure(compute_dtype, matmul_precision)
  num = len({device.process_index for device in devices}) if first.platform == "cpu" else len(devices)
  return Ceilings(num * one.flops_per_s, num * one.bytes_per_s, one.source)


@functools.lru_cache
def measure(compute_dtype: str, matmul_precision: str) -> Ceilings:
  """Measures the ceilings of the first local device. It takes seconds on a CPU.

  FLOP/s are the best of square products of a few sizes, with operands on the device. Bytes/s are those of `x += 1` over 1 GiB of
  float32, 256 MiB on a CPU. The old array is donated: each byte is read once and written once, and a CPU touches no fresh page. Several
  calls follow each other without a wait, since a wait for each would count the host's time: on an H200 half of the bandwidth was lost so.
  The fastest of some rounds counts, not the median. Other work on the machine can only slow a round down, and a ceiling that is too low
  would flatter what is compared with it.
  """
  device = jax.local_devices()[0]
  sizes = _CPU_SIZES if device.platform == "cpu" else _SIZES
  return Ceilings(
    max(_matmul_flops_per_s(n, compute_dtype, matmul_precision, device) for n in sizes), _copy_bytes_per_s(device), "measured"
  )


def _matmul_flops_per_s(n: int, compute_dtype: str, matmul_precision: str, device: jax.Device) -> float:
  """2 n^3 FLOPs over the time of the fastest product of two [n, n] matrices."""

  def product(old: Float[Array, "n n"], pair: tuple[Float[Array, "n n"], Float[Array, "n n"]]) -> Float[Array, "n n"]:
    del old  # its buffer takes the result
    return pair[0] @ pair[1]

  # Uniform in +-1: some units are slower on denormals and infinities.
  keys = jax.random.split(jax.random.key(0), 3)
  draw = [jax.device_put(jax.random.uniform(key, (n, n), jnp.dtype(compute_dtype), -1, 1), device) for key in keys]
  with jax.default_matmul_precision(matmul_precision):
    lowered = jax.jit(product, donate_argnums=0, keep_unused=True).lower(draw[2], (draw[0], draw[1]))
  timing = time_pipelined(lowered.compile(compiler_options(device.platform)), draw[2], [(draw[0], draw[1])], _WARMUP, _STEPS)
  return 2 * n**3 / min(timing.step_s)


def _copy_bytes_per_s(device: jax.Device) -> float:
  """Bytes read and written, over the time of the fastest `x += 1`."""
  num_bytes = _CPU_COPY_BYTES if device.platform == "cpu" else _COPY_BYTES
  x = jax.device_put(jnp.zeros(num_bytes // 4), device)
  step = jax.jit(lambda x, one: x + one, donate_argnums=0)
  timing = time_pipelined(step, x, [jax.device_put(jnp.float32(1), device)], _WARMUP, _STEPS)
  return 2 * num_bytes / min(timing.step_s)
