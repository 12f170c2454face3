"""Times collectives between the devices of this machine: the building blocks of the row exchange and of the MLPs' gradient sums.

  python -m benchmarks.collectives --output=collectives.json
  JAX_NUM_CPU_DEVICES=8 python -m benchmarks.collectives --output=x.json --sizes_mib=1,16 --dtypes=float32,bfloat16

All devices of the mesh take part in each collective. Sizes and bandwidths are defined as in nccl-tests
(NVIDIA/nccl-tests, doc/PERFORMANCE.md), so figures can be compared with it. S is the size of a device's data before or after
the collective, whichever is larger. Algorithm bandwidth is S / time. Bus bandwidth is algorithm bandwidth times 2(n-1)/n for
all-reduce and (n-1)/n for the others. It is the speed of each device's link and does not depend on n.

Every result is compared with numpy's. An existing output file is replaced.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int8

from benchmarks.measure.output import check_output, write_and_show
from benchmarks.measure.table import Columns, Row, number
from benchmarks.measure.timing import peak_rss_bytes, time_steps
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.common.progress import say
from dlrm_jax.config import MeshConfig, RunConfig, TrainConfig
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import make_mesh, split

KINDS = ("all_to_all", "all_gather", "reduce_scatter", "all_reduce")
_COLUMNS: Columns = {
  "collective": "collective",
  "dtype": "dtype",
  "kB on a device": number("size_bytes", ",.1f", 1e-3),
  "ms p50": number("step_ms_p50", ".3f"),
  "p90": number("step_ms_p90", ".3f"),
  "CPU ms": number("cpu_ms_p50", ".3f"),
  "algorithm GB/s": number("algorithm_bytes_per_s", ".3f", 1e-9),
  "bus GB/s": number("bus_bytes_per_s", ".3f", 1e-9),
}


@dataclasses.dataclass(frozen=True)
class CollectivesConfig:
  """Flags of `python -m benchmarks.collectives`."""

  output: str = option("", "JSON file to write; required")
  mesh: str | None = option(None, "devices: a number, or two axes such as 2x4; none: all there are")
  kinds: tuple[str, ...] = option(KINDS, "which collectives", KINDS)
  dtypes: tuple[str, ...] = option(("float32",), "data types of the values", ("float32", "bfloat16"))
  sizes_mib: tuple[float, ...] = option((0.0625, 0.25, 1.0, 4.0, 16.0), "data of a device before or after, whichever is larger, MiB")
  steps: int = option(20, "timed steps of each row", at_least=1)
  warmup: int = option(3, "untimed steps before them", at_least=0)

  def __post_init__(self) -> None:
    flags.check_fields(self)
    for name in ("kinds", "dtypes", "sizes_mib"):
      flags.check(len(getattr(self, name)) > 0, self, name, "a list of at least one")
    flags.check(min(self.sizes_mib) > 0, self, "sizes_mib", "above 0 each")
    if self.mesh is not None:
      MeshConfig(mesh=self.mesh)


def mesh_of(config: CollectivesConfig) -> Mesh:
  """The mesh of the flags. Raises UserError where it has one device, or more devices than there are."""
  word = config.mesh or str(len(jax.devices()))
  place = MeshConfig(mesh=word)
  mesh = make_mesh(RunConfig(mesh=place, train=TrainConfig(batch_size=place.num_devices)))
  if mesh.size == 1:
    kind = mesh.devices.flat[0].platform
    hint = "; JAX_NUM_CPU_DEVICES=8 in front of the command simulates eight" if kind == "cpu" else ""
    raise UserError(f"--mesh={word}: must be at least 2 devices, there is {len(jax.devices())} ({kind}){hint}")
  return mesh


def elements(size_mib: float, dtype: str, num_devices: int) -> int:
  """S as a number of values, a multiple of the number of devices. Raises UserError where that is 0."""
  count = round(size_mib * 2**20 / jnp.dtype(dtype).itemsize) // num_devices * num_devices
  if not count:
    raise UserError(
      f"--sizes_mib={size_mib:g}: must be at least {num_devices * jnp.dtype(dtype).itemsize} bytes, a {dtype} for each device"
    )
  return count


def bus_factor(kind: str, num_devices: int) -> float:
  """Bus bandwidth over algorithm bandwidth (nccl-tests, doc/PERFORMANCE.md)."""
  return (2 if kind == "all_reduce" else 1) * (num_devices - 1) / num_devices


def program(kind: str, mesh: Mesh) -> Callable[[Float[Array, " m"]], Float[Array, " k"]]:
  """The collective over all axes of the mesh, as a function of an array that is sharded over all devices."""
  axes = mesh.axis_names
  local = {
    "all_to_all": functools.partial(jax.lax.all_to_all, axis_name=axes, split_axis=0, concat_axis=0, tiled=True),
    "all_gather": functools.partial(jax.lax.all_gather, axis_name=axes, tiled=True),
    "reduce_scatter": functools.partial(jax.lax.psum_scatter, axis_name=axes, tiled=True),
    "all_reduce": functools.partial(jax.lax.psum, axis_name=axes),
  }[kind]
  return jax.shard_map(local, mesh=mesh, in_specs=split(mesh), out_specs=split(mesh), check_vma=False)


def expected(kind: str, x_nm: Int8[np.ndarray, "n m"], device: int) -> np.ndarray:
  """The result on one device, computed by numpy from the inputs of all devices."""
  num = len(x_nm)
  if kind == "all_gather":
    return x_nm.reshape(-1)
  if kind == "all_to_all":
    return x_nm.reshape(num, num, -1)[:, device].reshape(-1)
  total = x_nm.sum(axis=0, dtype=np.int32)
  return total if kind == "all_reduce" else total.reshape(num, -1)[device]


def verify(kind: str, x_nm: Int8[np.ndarray, "n m"], result: Array) -> None:
  """Raises RuntimeError unless each local device holds exactly the expected values."""
  for shard in result.addressable_shards:
    device = (shard.index[0].start or 0) // len(shard.data)
    if not np.array_equal(np.asarray(shard.data).astype(np.float32), expected(kind, x_nm, device)):
      raise RuntimeError(f"{kind} of {x_nm.shape} {result.dtype}: device {device} has other values than numpy")


def measure(config: CollectivesConfig, mesh: Mesh, kind: str, dtype: str, size_mib: float) -> Row:
  """Compiles, checks and times one collective at one size. Returns its row."""
  n, count = mesh.size, elements(size_mib, dtype, mesh.size)
  here = NamedSharding(mesh, split(mesh))
  # Small integers: their sums over up to 128 devices are exact in bfloat16 too.
  x_nm = np.random.default_rng(0).integers(0, 3, (n, count // n if kind == "all_gather" else count), dtype=np.int8)
  x = jax.device_put(x_nm.reshape(-1).astype(jnp.dtype(dtype)), here)
  collective = program(kind, mesh)

  def step(old: Float[Array, " k"], x: Float[Array, " m"]) -> Float[Array, " k"]:
    del old  # its buffer takes the result: a new one would cost page faults on a CPU
    return collective(x)

  first = jax.jit(collective)(x)
  verify(kind, x_nm, first)
  timing = time_steps(jax.jit(step, donate_argnums=0, keep_unused=True), first, [x], config.warmup, config.steps)
  num_bytes = count * jnp.dtype(dtype).itemsize
  speed = num_bytes / (timing.percentile_ms(50) / 1e3)
  return {
    "name": f"{kind} {dtype}",
    "collective": kind,
    "dtype": dtype,
    "mesh": "x".join(map(str, mesh.devices.shape)),
    "num_devices": n,
    "size_bytes": num_bytes,
    **timing.fields(),
    "algorithm_bytes_per_s": speed,
    "bus_bytes_per_s": speed * bus_factor(kind, n),
    "peak_rss_bytes": peak_rss_bytes(),  # of this process so far
  }


def main(config: CollectivesConfig) -> None:
  """Checks the flags, times every collective, writes the JSON file and prints a table."""
  hardware.select_platform()
  mesh = mesh_of(config)
  todo = [(kind, dtype, size) for kind in config.kinds for dtype in config.dtypes for size in sorted(config.sizes_mib)]
  for _, dtype, size in todo:
    elements(size, dtype, mesh.size)
  check_output(config.output)
  rows = []
  for count, (kind, dtype, size) in enumerate(todo, start=1):
    rows.append(measure(config, mesh, kind, dtype, size))
    say(f"{count}/{len(todo)} {kind} {dtype} {size:g} MiB: {rows[-1]['step_ms_p50']:.3f} ms")
  title = f"collectives over {rows[0]['num_devices']} devices, mesh {rows[0]['mesh']}"
  write_and_show(config.output, rows, title, _COLUMNS, mesh.size)


if __name__ == "__main__":
  flags.run(main, CollectivesConfig)
