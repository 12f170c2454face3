"""Parses the text of a compiled program into arrays, instructions and computations. Used by hlo.py, exchanged.py and trace.py."""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*->.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_CALLED = re.compile(r"\b(?:calls|body|condition|to_apply|\w+_computations?)=\{?((?:%[\w.-]+(?:, )?)+)")
# These operations run the computations they name. A fusion runs its computation in one piece. The computation of a reduction or a sort is
# only a formula. A TPU gives scatters to its SparseCores by call-start.
_RUNS_CALLED = ("while", "conditional", "call", "async-start", "call-start")


@dataclass(frozen=True)
class HloArray:
  """One array. `tile` pads the dimensions that vary fastest. `element_bits` is 0 where the layout does not give it."""

  dtype: str
  dims: tuple[int, ...]
  minor_to_major: tuple[int, ...]
  tile: tuple[int, ...]
  element_bits: int

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.dims))}]"

  @property
  def _bits(self) -> int:
    if self.element_bits or self.dtype in ("token", "opaque"):
      return self.element_bits
    if self.dtype == "pred":
      return 8
    return 8 * math.ceil(int(re.findall(r"\d+", self.dtype)[0]) / 8)  # s4 takes a byte unless its layout packs it

  @property
  def bytes(self) -> int:
    """Bytes of the elements, without padding."""
    return math.ceil(math.prod(self.dims) * self._bits / 8)

  @property
  def padded_bytes(self) -> int:
    """Bytes with the padding of the tile: f32[8,64]{1,0:T(8,128)} takes 8*128*4."""
    order = [self.dims[d] for d in reversed(self.minor_to_major or range(len(self.dims))[::-1])]
    dims = [1] * (len(self.tile) - len(order)) + order
    for place, size in enumerate(reversed(self.tile), start=1):
      dims[-place] = math.ceil(dims[-place] / size) * size
    return math.ceil(math.prod(dims) * self._bits / 8)


def parse_arrays(text: str) -> tuple[HloArray, ...]:
  """The arrays of a type as printed, tuples flattened: "(f32[8,64]{1,0:T(8,128)}, u32[])"."""
  out = []
  for dtype, dims, order, layout in _ARRAY.findall(text):
    tile = re.search(r"T\(([\d,]+)\)", layout)
    bits = re.search(r"E\((\d+)\)", layout)
    sizes = tuple(int(size.removeprefix("<=")) for size in dims.split(",") if size)
    out.append(HloArray(dtype, sizes, _numbers(order), _numbers(tile[1]) if tile else (), int(bits[1]) if bits else 0))
  return tuple(out)


def _numbers(text: str) -> tuple[int, ...]:
  return tuple(int(part) for part in text.split(",") if part)


@dataclass(frozen=True)
class Instruction:
  """One line: `%name = arrays opcode(operands), attributes`."""

  computation: str
  name: str
  arrays: tuple[HloArray, ...]
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  def attribute(self, pattern: str) -> str | None:
    """The first group of `pattern` in the text after the operands."""
    found = re.search(pattern, self.attributes)
    return found[1] if found else None

  @property
  def op_name(self) -> str:
    """The name that jax gave the operation, named scopes included; empty where the compiler dropped it."""
    return self.attribute(r'op_name="([^"]*)"') or ""

  @property
  def called(self) -> list[str]:
    """Names of the computations it refers to."""
    return [name for names in _CALLED.findall(self.attributes) for name in re.findall(r"%([\w.-]+)", names)]


def _closing(text: str) -> int:
  """The index after the parenthesis that closes the one `text` starts with."""
  depth = 0
  for found in re.finditer(r"[()]", text):
    depth += 1 if found[0] == "(" else -1
    if depth == 0:
      return found.end()
  raise ValueError(f"unbalanced parentheses: {text[:80]}")


def _instruction(computation: str, line: str) -> Instruction | None:
  found = _INSTRUCTION.match(line)
  if not found:
    return None
  is_root, name, rest = found.groups()
  end = _closing(rest) if rest.startswith("(") else rest.index(" ")
  kind, rest = rest[:end], rest[end:].lstrip()
  opcode, parenthesis, _ = rest.partition("(")
  rest = rest[len(opcode) :]
  end = _closing(rest) if parenthesis else 0
  operands = tuple(re.findall(r"%([\w.-]+)", rest[:end]))
  return Instruction(computation, name, parse_arrays(kind), opcode, operands, rest[end:], bool(is_root))


class Module:
  """A whole program.

  Attributes:
    computations: computation -> name -> instruction, in the order of the text.
    placed: each computation that runs -> (whether in a while loop, whether as part of a fusion).
    num_devices: number of devices that the program is compiled for.
  """

  def __init__(self, text: str):
    self.computations: dict[str, dict[str, Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
      if header := _HEADER.match(line):
        current = header[2]
        self.computations[current] = {}
        entry = current if header[1] else entry
      elif line.startswith("}"):
        current = ""
      elif current and (instruction := _instruction(current, line)):
        self.computations[current][instruction.name] = instruction
    if not entry:
      raise ValueError("no ENTRY computation: not the text of a compiled program")
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", text.partition("\n")[0])
    self.num_devices = math.prod(map(int, counts))
    found: dict[str, tuple[bool, bool]] = {}
    self._place(entry, False, False, found)
    self.placed = {name: found[name] for name in self.computations if name in found}

  def _place(self, name: str, in_loop: bool, fused: bool, found: dict[str, tuple[bool, bool]]) -> None:
    before = found.get(name)
    now = (in_loop or before[0], fused and before[1]) if before else (in_loop, fused)
    if now == before:
      return
    found[name] = now
    for instruction in self.computations[name].values():
      if instruction.opcode == "fusion" or instruction.opcode in _RUNS_CALLED:
        for called in instruction.called:
          self._place(called, now[0] or instruction.opcode == "while", now[1] or instruction.opcode == "fusion", found)

  def root(self, computation: str) -> Instruction:
    """The instruction whose result is the computation's."""
    return next(instruction for instruction in self.computations[computation].values() if instruction.is_root)

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """The instructions whose results it takes."""
    return [self.computations[instruction.computation][name] for name in instruction.operands]

  def users(self, instruction: Instruction) -> Iterator[Instruction]:
    """The instructions that take its result, in the same computation."""
    names = self._users[instruction.computation].get(instruction.name, [])
    return (self.computations[instruction.computation][name] for name in names)

  @functools.cached_property
  def _users(self) -> dict[str, dict[str, list[str]]]:
    out: dict[str, dict[str, list[str]]] = {name: {} for name in self.computations}
    for name, instructions in self.computations.items():
      for instruction in instructions.values():
        for operand in dict.fromkeys(instruction.operands):
          out[name].setdefault(operand, []).append(instruction.name)
    return out
