"""Reads a trace of jax.profiler and divides the wall time of its steps among the operations of its programs. Used by benchmarks/profile.py.

A trace event of a compiled operation names the program and the instruction that ran (`hlo_module`, `hlo_op`). The text of the program
gives the `jax.named_scope` of the instruction.
"""

import collections
import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compiled.hlo_text import Module
from dlrm_jax.common.flags import UserError

STEP = "train"  # the name under which benchmarks/profile.py marks its steps
SCOPES = ("draws", "lookup", "bottom", "interaction", "overarch", "loss", "dense_update", "update")  # names of jax.named_scope in dlrm_jax
_EXCHANGE = re.compile(r"exchange_\w+")
# One component of an op_name, with what jax wraps around it: transpose(jvp(overarch)). jit(update) is a function of that name, not a scope.
_COMPONENT = re.compile(r"(?:(?!p?jit\()\w+\()*(\w+)\)*")
_HEAVY = ("gather", "scatter", "dot", "convolution")
_MOST_EVENTS = 1_000_000  # the profiler cuts a trace.json.gz off there

Op = tuple[str, str]  # (program, instruction)


@dataclass(frozen=True)
class OpEvent:
  """One execution of an operation on a lane, which is a thread of the host or a stream of a device; microseconds."""

  lane: tuple[int, int]
  start: float
  end: float
  op: Op


@dataclass(frozen=True)
class Division:
  """The wall time of all steps, microseconds: of each operation, and idle before, between and after operations."""

  ops: dict[Op, float]
  before: float
  between: float
  after: float

  @property
  def wall(self) -> float:
    return sum(self.ops.values()) + self.before + self.between + self.after


def read(path: Path, most_events: int = _MOST_EVENTS) -> tuple[list[OpEvent], list[tuple[float, float]]]:
  """The operations and the (start, end) of every marked step in a trace.json.gz.

  Raises UserError where either is missing or the trace was cut off.
  """
  found = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
  whole = [event for event in found if event.get("ph") == "X"]
  if len(whole) >= most_events:
    raise UserError(f"{path}: holds {len(whole):,} events and is cut off there; ask for fewer --steps")
  events, steps = [], {}
  for event in whole:
    start, args = float(event["ts"]), event.get("args", {})
    end = start + float(event.get("dur", 0))
    if "hlo_op" in args:
      events.append(OpEvent((event["pid"], event["tid"]), start, end, (args.get("hlo_module", ""), args["hlo_op"])))
    elif event["name"] == STEP and "step_num" in args:
      steps[args["step_num"]] = (start, end)
  for what, missing in (("operation (hlo_op)", not events), ("step", not steps)):
    if missing:
      raise UserError(f"{path}: names no {what}, so no time can be divided; XProf and Perfetto open it as it is")
  return events, sorted(steps.values())


def divide(events: Iterable[OpEvent], steps: Iterable[tuple[float, float]]) -> Division:
  """Divides the steps' wall time so that every microsecond is counted once.

  On one lane the operation that began last gets the time, so a loop or call gets only the time that the operations in it leave. When
  several lanes work at once, each gets an equal share. Time outside the steps is left out.
  """
  queue = sorted(events, key=lambda event: (event.start, -event.end))
  ops: dict[Op, float] = collections.defaultdict(float)
  before = between = after = 0.0
  for first, last in steps:
    mine = [event for event in queue if event.end > first and event.start < last]
    edges = sorted({first, last, *(min(max(time, first), last) for event in mine for time in (event.start, event.end))})
    begun = max(first, min((event.start for event in mine), default=last))
    ended = min(last, max((event.end for event in mine), default=last))
    running: dict[tuple[int, int], list[OpEvent]] = collections.defaultdict(list)
    waiting = collections.deque(mine)
    for left, right in zip(edges, edges[1:]):
      while waiting and waiting[0].start <= left:
        event = waiting.popleft()
        running[event.lane].append(event)
      for lane in list(running):
        running[lane] = [event for event in running[lane] if event.end > left]
        if not running[lane]:
          del running[lane]
      for stack in running.values():
        ops[stack[-1].op] += (right - left) / len(running)
      if not running:
        if right <= begun:
          before += right - left
        elif left >= ended:
          after += right - left
        else:
          between += right - left
  return Division(dict(ops), before, between, after)


def scope_of(op_name: str) -> str:
  """The innermost scope in an op_name, with the exchange where it belongs to one: "lookup/exchange_ids". Empty without a scope."""
  parts = [found[1] for part in op_name.split("/") if (found := _COMPONENT.fullmatch(part))]
  scopes = [part for part in parts if part in SCOPES][-1:]
  return "/".join(scopes + [part for part in parts if _EXCHANGE.fullmatch(part)][-1:])


def op_names(text: str) -> dict[str, str]:
  """The op_name that jax gave each instruction of a compiled program, or "".

  A fusion gets the op_name of the instruction that takes its time: its largest gather, scatter or product, or else its root. Otherwise a
  gather of rows would count for the operation that it is fused into. An instruction without an op_name, which the compiler made or
  rewrote, gets that of its operands or of its users if all of these are in one scope. A copy gets none, since it serves the compiler.
  Names of instructions are unique in the whole program.
  """
  module = Module(text)
  instructions = [found for computation in module.computations.values() for found in computation.values()]
  names = {found.name: found.op_name for found in instructions}
  for found in instructions:
    if found.opcode == "fusion":
      inside = [part for part in module.computations[found.called[0]].values() if scope_of(part.op_name)]
      heavy = [part for part in inside if part.opcode in _HEAVY] or [part for part in inside if part.is_root] or inside[-1:]
      names[found.name] = max(heavy, key=lambda part: sum(array.bytes for array in part.arrays)).op_name if heavy else found.op_name
  for found in instructions:
    if not names[found.name] and found.opcode not in ("copy", "parameter", "constant"):
      for others in (module.operands(found), module.users(found)):
        near = {scope_of(names[other.name]): names[other.name] for other in others if scope_of(names[other.name])}
        if len(near) == 1 and not names[found.name]:
          names[found.name] = next(iter(near.values()))
  return names
