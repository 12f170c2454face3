"""Reads the text of a compiled program (`compiled.as_text()`): its collectives and its large arrays. Used by benchmarks/topology.py.

Syntax: https://openxla.org/xla/operation_semantics and https://openxla.org/xla/shapes (layouts, tiles). Bytes are per device.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.compiled.hlo_text import HloArray, Instruction, Module

KINDS = ("all-reduce", "all-gather", "all-to-all", "ragged-all-to-all", "reduce-scatter", "collective-permute", "collective-broadcast")
SCOPE = re.compile(r"exchange_\w+")  # jax.named_scope names of the embedding exchange
_PRIMITIVE = re.compile(r"/(psum|pmax|pmin|all_gather|all_to_all|ragged_all_to_all|reduce_scatter|ppermute)\w*\)?$")
# Operations whose result has an operand's buffer or none. XLA inserts a `copy` where an update in place is not possible.
_NO_NEW_BUFFER = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "opt-barrier", "after-all"),
  *("add-dependency", "dynamic-update-slice", "scatter", "async-start", "async-update", "call-start"),
}


@dataclass(frozen=True)
class Collective:
  """One collective operation of a program.

  Attributes:
    kind: one of KINDS, as compiled. A TPU may run psum_scatter or all_gather as an all-reduce.
    shapes: the arrays it delivers, such as "f32[8,64,128]" (reduce-scatter: those it takes). Their dtype may be narrower than asked for.
    bytes: size of these arrays without padding. It includes what a device keeps (1/group_size of an all-to-all).
    channel: its channel id, which all collectives of a shard_map share.
    group_size: number of devices that take part together; for collective-permute, of devices that send.
    scopes: its op_name and, if several collectives were combined, those of its parts. Where the compiler dropped them, the nearest ones.
    in_loop: whether it is in a while loop, so that it runs once per round.
  """

  kind: str
  name: str
  shapes: tuple[str, ...]
  bytes: int
  channel: int | None
  group_size: int
  scopes: tuple[str, ...]
  in_loop: bool


@dataclass(frozen=True)
class LargeArray:
  """A newly written array. `bytes` is the size of its elements, `padded_bytes` the size of its tiled layout."""

  name: str
  opcode: str
  shape: str
  bytes: int
  padded_bytes: int
  op_name: str
  in_loop: bool


def category(collective: Collective) -> str:
  """The exchange it belongs to ("exchange_values", ...), or "dense". Several are joined by "+"; "unknown" where it has no name."""
  found = {(SCOPE.findall(name) or ["dense"])[-1] for scope in collective.scopes for name in alternatives(scope)}
  return "+".join(sorted(found)) or "unknown"


def alternatives(scope: str) -> list[str]:
  """The op_names of a combined collective. A GPU names jit(f)/a/psum and jit(f)/b/psum together jit(f)/(a/psum:b/psum)."""
  prefix, _, parts = scope.partition("/(")
  return [f"{prefix}/{part}" for part in parts.removesuffix(")").split(":")] if ":" in parts else [scope]


def collectives(text: str) -> list[Collective]:
  """Every collective that a program runs, listed once, in the order of the text: a loop body comes before its loop."""
  module = Module(text)
  found: dict[tuple, Collective] = {}
  for computation, (in_loop, fused) in module.placed.items():
    for instruction in module.computations[computation].values():
      if instruction.opcode.removesuffix("-start") in KINDS:
        collective = replace(_collective(module, instruction), in_loop=in_loop)
        found.setdefault(_identity(instruction, collective, fused), collective)
  return list(found.values())


def _identity(instruction: Instruction, collective: Collective, fused: bool) -> tuple:
  """A key that repetitions of one collective share: a TPU prints a collective in each fusion that it overlaps with."""
  if not fused:
    return (instruction.computation, instruction.name)
  chain = instruction.attribute(r'chain_id="(\d+)"')
  return (collective.kind, collective.channel, collective.shapes, chain or instruction.attribute(r"metadata=(\{[^}]*\})"))


def _delivered(instruction: Instruction) -> tuple[HloArray, ...]:
  """The arrays that a collective or a copy delivers, without the operands and handles that its -start form also lists."""
  if not instruction.opcode.endswith("-start") or instruction.opcode == "all-reduce-start":
    return instruction.arrays
  if instruction.opcode == "copy-start":
    return instruction.arrays[:1]
  count = len(instruction.operands)
  return instruction.arrays[count : 2 * count]


def _collective(module: Module, instruction: Instruction) -> Collective:
  kind = instruction.opcode.removesuffix("-start")
  arrays = _delivered(instruction)
  if kind == "reduce-scatter":
    arrays = tuple(array for operand in module.operands(instruction) for array in operand.arrays)
  channel = instruction.attribute(r"channel_id=(\d+)")
  return Collective(
    kind=kind,
    name=instruction.name,
    shapes=tuple(str(array) for array in arrays),
    bytes=sum(array.bytes for array in arrays),
    channel=int(channel) if channel else None,
    group_size=_group_size(module, instruction),
    scopes=_scopes(module, instruction),
    in_loop=False,
  )


def _group_size(module: Module, instruction: Instruction) -> int:
  """Reads {{0,1},{2,3}}, the iota form [groups,size]<=[...], mesh['x'=2,'y'=4] {'y'}, and {} (all devices)."""
  if pairs := instruction.attribute(r"source_target_pairs=\{(\{.*?\})\}"):
    return pairs.count("{")
  if group := instruction.attribute(r"replica_groups=\{\{([\d,]*)\}"):
    return group.count(",") + 1
  if size := instruction.attribute(r"replica_groups=\[\d+,(\d+)\]"):
    return int(size)
  if axes := instruction.attribute(r"replica_groups=mesh\[([^\]]*)\]"):
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    used = instruction.attribute(r"replica_groups=mesh\[[^{]*\{([^}]*)\}") or ""
    return math.prod(int(part) if part else sizes[name] for name, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", used))
  groups = instruction.attribute(r"replica_groups=(\S+?),? ")
  if groups not in (None, "{}"):
    raise ValueError(f"{instruction.name}: replica_groups={groups} is written in an unknown way")
  return module.num_devices


def _scopes(module: Module, instruction: Instruction) -> tuple[str, ...]:
  if instruction.op_name:
    users = list(module.users(instruction))
    users += [after for user in users if user.opcode.endswith("-done") for after in module.users(user)]
    parts = [user.op_name for user in users if user.opcode == "get-tuple-element" and user.op_name]
    return tuple(dict.fromkeys([instruction.op_name, *parts]))
  before, after = list(_nearest(module, instruction, module.operands)), list(_nearest(module, instruction, module.users))
  return tuple(dict.fromkeys([name for name in before + after if _PRIMITIVE.search(name)] or before or after))


def _nearest(module: Module, instruction: Instruction, step: Callable[[Instruction], Iterable[Instruction]]) -> Iterator[str]:
  """op_names met first when following operands or users through instructions that have none."""
  seen, todo = {instruction.name}, [instruction]
  while todo:
    for other in step(todo.pop()):
      if other.name not in seen:
        seen.add(other.name)
        if other.opcode == "parameter":
          continue
        if other.op_name:
          yield other.op_name
        else:
          todo.append(other)


def largest_arrays(text: str, at_least_bytes: int) -> list[LargeArray]:
  """Every array of at least `at_least_bytes` (padding included) that a program newly writes, largest first.

  With the bytes of a table it finds each whole copy, transposition, conversion, zero-filling or dense update of that table. It leaves out
  parameters, instructions that only pass on a buffer, and updates in place: scatter, dynamic-update-slice, fusions that end in one on an
  operand, and declared aliases. A fusion counts by its results, since it writes nothing else to memory.
  """
  module = Module(text)
  found: list[LargeArray] = []
  for computation, (in_loop, fused) in module.placed.items():
    for instruction in [] if fused else module.computations[computation].values():
      found += [
        LargeArray(instruction.name, instruction.opcode, str(array), array.bytes, array.padded_bytes, instruction.op_name, in_loop)
        for array in _written(module, instruction)
        if array.padded_bytes >= at_least_bytes
      ]
  return sorted(found, key=lambda array: -array.padded_bytes)


def _written(module: Module, instruction: Instruction) -> list[HloArray]:
  if instruction.opcode in _NO_NEW_BUFFER or instruction.opcode.endswith("-done"):
    return []
  arrays = _delivered(instruction)
  declared = instruction.attribute(r"output_to_operand_aliasing=\{(.*?\))\}") or ""
  passed = {int(index or 0) for index in re.findall(r"\{(\d*)[^}]*\}: \(", declared)}
  if instruction.opcode == "fusion":
    root = module.root(instruction.called[0])
    ends = module.operands(root) if root.opcode == "tuple" else [root]
    passed |= {index for index, end in enumerate(ends) if _is_in_place(module, end)}
  return [array for index, array in enumerate(arrays) if index not in passed]


def _is_in_place(module: Module, end: Instruction) -> bool:
  """Whether a result of a fusion is an operand of that fusion, updated or as it was."""
  follow = functools.partial(_behind_bitcasts, module)
  end = follow(end)
  while end.opcode in ("scatter", "dynamic-update-slice"):
    end = follow(module.operands(end)[0])
  if end.opcode == "fusion":
    inner = module.root(end.called[0])
    return inner.opcode != "tuple" and _is_in_place(module, inner)
  return end.opcode == "parameter"


def _behind_bitcasts(module: Module, instruction: Instruction) -> Instruction:
  while instruction.opcode in ("bitcast", "get-tuple-element"):
    instruction = module.operands(instruction)[0]
  return instruction
