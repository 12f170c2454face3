"""Compiles the training step for a machine that is absent, and reports its memory, exchanged bytes and FLOPs.

python -m benchmarks.topology --topology=tpu:v5e:2x4 --preset=mlperf_v1 --output=v5e.json

Nothing is run, and tables are only shapes. Compiled text is read by benchmarks/compiled/hlo.py.
"""

import dataclasses
import math
import time
from typing import Any

import jax

from benchmarks.compiled import hlo, targets
from benchmarks.compiled.exchanged import by_purpose, exchanged
from benchmarks.compiled.hlo_text import parse_arrays
from benchmarks.measure.output import check_output
from dlrm_jax.common import flags, record, terminal
from dlrm_jax.config import MeshConfig, RunConfig
from dlrm_jax.data.shapes import shape_of
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import LANES, Machine, TableCost, costs, make_plan, plan_bytes
from dlrm_jax.embedding.print_plan import size_of
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.model.flops import FLOAT_BYTES, cost
from dlrm_jax.presets import PRESETS
from dlrm_jax.training.build import Build
from dlrm_jax.training.step import OneRun, lower_train

_GPU_SHARE = 0.75  # share of a GPU's memory that jax reserves unless XLA_PYTHON_CLIENT_MEM_FRACTION is set


@dataclasses.dataclass(frozen=True)
class TopologyConfig:
  """Flags of `python -m benchmarks.topology`."""

  topology: str = flags.option(help="machine to compile for: tpu:v5e:2x4, tpu:v5p:2x2x2, gpu:h100:1x8, gpu:a100:1x8 and the like")
  output: str = flags.option(help="JSON file to write")
  run: RunConfig = RunConfig(data="criteo_like")


def compile_for(config: RunConfig, target: targets.Target) -> dict[str, Any]:
  """Plans and compiles one step. Returns the content of the JSON file: memory, collectives, exchange, placement, copies and FLOPs.

  Bytes are per device. Raises UserError where the tables do not fit, by the plan or by the compiler.
  """
  if config.mesh.mesh == MeshConfig().mesh:
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, mesh=str(target.num_devices)))
  config = dataclasses.replace(config, steps_per_call=1)
  devices = targets.devices(target)
  mesh, shape = make_mesh(config, devices), shape_of(config)
  flags.check(mesh.size == len(devices), config.mesh, "mesh", f"a mesh of the {len(devices)} devices of {target.name}")
  usable = int(target.usable_bytes * (_GPU_SHARE if target.platform == "gpu" else 1))
  machine, layout = Machine(mesh.size, usable, LANES if target.platform == "tpu" else 0), make_layout(config.model, shape)
  plan = make_plan(config, layout, machine)
  started = time.perf_counter()
  lowered = lower_train(OneRun(Build.of(config, plan, shape.num_dense, mesh)), full=True)
  compiled = _compiled(lowered, target)
  compile_s, text = time.perf_counter() - started, compiled.as_text() or ""
  found = hlo.collectives(text)
  planned, counted = costs(plan, config, machine), cost(config.model, config.train, layout, shape.num_dense)
  largest_stack = 4 * max(math.prod(group.local_shape(layout.dims["rows"])) for group in plan.groups)
  analysis = compiled.cost_analysis() or {}
  return {
    "topology": target.name,
    "mesh": config.mesh.mesh,
    "batch_size": config.train.batch_size,
    "memory": _memory(compiled, target, usable)
    | {"planned_table_bytes": plan_bytes(plan, config.train.table_optimizer), "largest_stack_bytes": largest_stack},
    "collectives": [dataclasses.asdict(c) | {"category": hlo.category(c)} for c in found],
    "exchange": _exchange(found, planned, FLOAT_BYTES * counted.params["dense"], layout.dtype),
    "placement": [dataclasses.asdict(t) | dataclasses.asdict(c) for t, c in zip(layout.tables, planned, strict=True)],
    "whole_table_copies": [dataclasses.asdict(a) for a in hlo.largest_arrays(text, largest_stack // 2)],
    "flops": {
      "counted_per_device": counted.flops_per_example["total"] * config.train.batch_size // mesh.size,
      "xla_per_device": analysis.get("flops"),
    },
    "compile_s": compile_s,
  }


def _compiled(lowered: jax.stages.Lowered, target: targets.Target) -> jax.stages.Compiled:
  """Compiles a step. Raises UserError where the compiler refuses it for lack of memory."""
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    line = next(line for line in str(error).splitlines() if "RESOURCE_EXHAUSTED" in line)
    raise flags.UserError(f"--topology={target.name}: the compiler refuses: {line.strip()}; lower --batch_size or --num_rows") from None


def _memory(compiled: jax.stages.Compiled, target: targets.Target, usable: int) -> dict[str, int | bool]:
  """The memory that the compiler needs for a step, and whether it fits into `usable` bytes."""
  sizes = compiled.memory_analysis()
  if sizes is None:
    raise flags.UserError(f"--topology={target.name}: the compiler does not report how much memory the step takes")
  needed = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
  return {
    "argument_bytes": sizes.argument_size_in_bytes,
    "output_bytes": sizes.output_size_in_bytes,
    "alias_bytes": sizes.alias_size_in_bytes,
    "temporary_bytes": sizes.temp_size_in_bytes,
    "needed_bytes": needed,
    "usable_bytes": usable,
    "fits": needed <= usable,
  }


def _exchange(found: list[hlo.Collective], planned: list[TableCost], dense_bytes: int, dtype: str) -> dict[str, float | None]:
  """Compiled bytes by purpose, and the bytes of rows and gradients over the least that the placements can move.

  A TPU may send rows as bfloat16 if only a product of default precision reads them. In the ratio such rows count as float32.
  A GPU joins sums of rows' gradients with counts, squares and the MLPs' gradients. The bytes of these, by the plan and the model, are
  subtracted.
  """
  moved = exchanged(found)
  delivered = [shape for c in found for purpose, shapes in by_purpose(c) if purpose == "values" for shape in shapes]
  arrays = [array for shape in delivered for array in parse_arrays(shape)]
  whole = sum(math.prod(array.dims) * (FLOAT_BYTES if dtype == "float32" else array.bytes / math.prod(array.dims)) for array in arrays)
  apart = moved["dense"] + sum(c.bytes for c in found if hlo.category(c) in ("exchange_counts", "exchange_squares"))
  others = max(0.0, sum(c.sum_bytes for c in planned) + dense_bytes - apart)
  values, least = whole + max(0.0, moved["mixed"] - others), sum(c.least_bytes for c in planned)
  ratio = values / least if least else None
  return {f"{purpose}_bytes": float(size) for purpose, size in moved.items()} | {"least_bytes": least, "values_over_least": ratio}


def print_result(out: dict[str, Any]) -> None:
  """Prints the placement, the collectives and the memory."""
  console = terminal.console(least=110)  # numbers of rows stay whole
  title = f"{out['topology']}, mesh {out['mesh']}, batch {out['batch_size']:,}: placement, per device and step"
  table = terminal.Grid(title, simple=True)
  for heading in ("table", "rows", "dim", "bag", "placement", "holds", "rows, gradients", "the least", "ids, sums"):
    table.column(heading, justify="left" if heading in ("table", "placement") else "right")
  for t in out["placement"]:
    sizes = (t["held_bytes"], t["value_bytes"], t["least_bytes"], t["id_bytes"] + t["sum_bytes"])
    table.row(t["name"], f"{t['num_rows']:,}", t["dim"], t["bag_length"], t["placement"], *map(size_of, sizes))
  console.print(table)
  table = terminal.Grid("collectives as compiled (of rows: in one round of requests)", simple=True)
  for heading in ("kind", "for", "arrays", "bytes", "in a loop"):
    table.column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
  for c in out["collectives"]:
    arrays = " ".join(c["shapes"][:2]) + (f" and {len(c['shapes']) - 2} more" if len(c["shapes"]) > 2 else "")
    purpose = c["category"].replace("exchange_", "")
    table.row(c["kind"], purpose, arrays, size_of(c["bytes"]), "once a round" if c["in_loop"] else "")
  console.print(table)
  memory, exchange = out["memory"], out["exchange"]
  sizes_of = {name: size_of(memory[f"{name}_bytes"]) for name in ("argument", "temporary", "needed", "usable")}
  verdict, copies = "fits" if memory["fits"] else "DOES NOT FIT", len(out["whole_table_copies"])
  held = f"{sizes_of['argument']} in arguments, {sizes_of['temporary']} in temporaries, {sizes_of['needed']} of {sizes_of['usable']} in all"
  lines = [
    f"a device holds {held}: {verdict}",
    f"copies of whole tables in a step: {copies} (a small table that a TPU keeps in its fast memory counts as one)",
  ]
  if exchange["least_bytes"]:
    lines.append(f"rows and gradients exchanged: {exchange['values_over_least']:.2f}x the least that these placements can move")
  console.print("\n".join([*lines, f"compiled in {out['compile_s']:.0f} s"]), soft_wrap=True)


def main(config: TopologyConfig) -> None:
  """Compiles the step, writes the JSON file and prints tables. Raises UserError where the step does not fit."""
  target = targets.parse(config.topology)
  check_output(config.output)
  out = compile_for(config.run, target)
  record.write_json(config.output, record.header() | out)
  print_result(out)
  if not out["memory"]["fits"]:
    raise flags.UserError(f"--topology={target.name}: the step does not fit; {config.output} has the details")


CONFIGS = {name: TopologyConfig("", "", run) for name, run in PRESETS.items()}

if __name__ == "__main__":
  flags.run(main, TopologyConfig, CONFIGS)
