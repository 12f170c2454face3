"""The process that runs one trainer. It reads requests and writes answers, one JSON object a line.

Workers run in environments with jax or with torch, so this file imports neither.

  {"run": steps, "warmup": steps}   -> {"wall_s": [...], "cpu_s": [...], "losses": [...], "peak_rss_bytes": ...}
  {"export": path}, {"floor": repeats}   only our own worker answers these (ours.py)

The first line is the `Spec`. When the trainer is ready, the worker answers {"ready": true, "versions": ...}.
"""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a worker times.

  Attributes:
    trainer: name of the trainer.
    workload: W1 or W2 (whole steps), or emb (lookup, gradient and update of W1's tables alone).
    num_rows, embed_dim: V and D of every table.
    bottom, overarch: widths of the MLPs.
    table_optimizer: sgd, adagrad or rowwise_adagrad.
    table_lr, dense_lr, table_init: as in dlrm_jax.config.TrainConfig.
    cores: the cores that the process is pinned to.
    inputs: .npz file of the batches: dense_kbm, ids_kbf, label_kb, and grad_bfd, the gradient that emb uses.
    weights: .npz file of the initial weights, from our worker's `export`; "": random weights.
  """

  trainer: str
  workload: str
  num_rows: int
  embed_dim: int
  bottom: tuple[int, ...]
  overarch: tuple[int, ...]
  table_optimizer: str
  table_lr: float
  dense_lr: float
  table_init: float
  cores: tuple[int, ...]
  inputs: str
  weights: str = ""

  @property
  def label(self) -> str:
    """The name of the worker in messages."""
    return f"{self.trainer} {self.workload} {self.num_rows:,} rows" + ("" if len(self.cores) == 1 else f" on {len(self.cores)} cores")


@runtime_checkable
class Trainer(Protocol):
  """One trainer, ready to step."""

  versions: str

  def step(self, number: int) -> float:
    """Trains on one batch, waits, and returns the loss. `number` counts steps; batches are used in turn. NaN for emb, which has no loss."""


def load(path: str) -> dict[str, np.ndarray]:
  """The arrays of an .npz file."""
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


def peak_rss_bytes() -> int:
  """The most memory this program has held, bytes. getrusage would also count what the process held before it became this program."""
  status = Path("/proc/self/status").read_text()
  return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


class Clock:
  """Runs steps and times each: wall time, and processor time of all threads of this process."""

  def __init__(self, trainer: Trainer):
    self.trainer, self.number, self.cpu_at_rest = trainer, 0, time.process_time()

  def run(self, steps: int, warmup: int) -> dict[str, Any]:
    """Runs `warmup` untimed steps, then `steps` timed ones."""
    idle = time.process_time() - self.cpu_at_rest  # processor time spent while other workers had their turn
    wall, cpu, losses = [], [], []
    for number in range(warmup + steps):
      at, at_cpu = time.perf_counter(), time.process_time()
      loss = self.trainer.step(self.number)
      if number >= warmup:
        wall.append(time.perf_counter() - at)
        cpu.append(time.process_time() - at_cpu)
        losses.append(loss)
      self.number += 1
    self.cpu_at_rest = time.process_time()
    return {"wall_s": wall, "cpu_s": cpu, "losses": losses, "idle_cpu_s": idle, "peak_rss_bytes": peak_rss_bytes()}


def serve(make: Callable[[Spec], Trainer], more: dict[str, Callable[[Any, Any], dict[str, Any]]] | None = None) -> None:
  """Reads the spec, makes the trainer, and answers requests until standard input ends.

  Args:
    make: makes the trainer of a spec. It is called after the process was pinned to its cores.
    more: other requests, by name: (trainer, value) -> answer.
  """
  answers = os.fdopen(os.dup(1), "w", buffering=1)
  os.dup2(2, 1)  # what libraries print must not mix with the answers

  def answer(value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")

  values: dict[str, Any] = json.loads(sys.stdin.readline())
  values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
  spec = Spec(**values)
  os.sched_setaffinity(0, spec.cores)
  trainer = make(spec)
  clock = Clock(trainer)
  answer({"ready": True, "versions": trainer.versions})
  for line in sys.stdin:
    request = json.loads(line)
    if "run" in request:
      answer(clock.run(request["run"], request["warmup"]))
      continue
    ((name, value),) = request.items()
    answer((more or {})[name](trainer, value))
