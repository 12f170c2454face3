"""The driver's side of a worker: starts it, asks it, ends it."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers.worker import Spec
from dlrm_jax.common.flags import UserError

ROOT = Path(__file__).resolve().parents[2]
# glibc keeps what PyTorch frees, instead of giving pages back and asking for them again: fbgemm's step took 5% less of a core. What our
# own step needs, it must set itself.
_PEERS_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_TOP_PAD_": "268435456"}
_PEERS_MALLOC |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # their tables on huge pages, as ours: emb at 1M rows takes a fifth less
_DROPPED = ("JAX_NUM_CPU_DEVICES", "PYTHONWARNINGS")  # a worker has one device


def command_of(spec: Spec, peers_python: str) -> list[str]:
  """The command line of a worker."""
  if spec.trainer == "ours":
    return [sys.executable, "-m", "benchmarks.peers.ours"]
  return [peers_python, "-m", "benchmarks.peers.torch_trainers"]


def environment(spec: Spec) -> dict[str, str]:
  """This process's environment, with as many threads as cores, which sleep while they wait."""
  threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(len(spec.cores)))
  kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
  malloc = {} if spec.trainer == "ours" else _PEERS_MALLOC
  return kept | threads | malloc | {"OMP_WAIT_POLICY": "passive", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


class Worker:
  """A running worker. UserError naming it, in one line, when it dies or answers something else than a JSON object with what was asked.

  Args:
    spec: what it times.
    command: its program and arguments.
  """

  def __init__(self, spec: Spec, command: list[str]):
    self.spec, self.log = spec, tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
    self.process = subprocess.Popen(
      command, cwd=ROOT, env=environment(spec), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log
    )
    try:
      self.versions = self.ask(dataclasses.asdict(spec))["versions"]
    except BaseException:
      self.close()
      raise

  def ask(self, request: dict[str, Any]) -> dict[str, Any]:
    """Its answer to one request."""
    assert self.process.stdin and self.process.stdout
    with contextlib.suppress(BrokenPipeError):  # it has ended: the empty answer says so
      self.process.stdin.write(json.dumps(request).encode() + b"\n")
      self.process.stdin.flush()
    line = self.process.stdout.readline()
    if not line.endswith(b"\n"):
      raise UserError(f"worker {self.spec.label} ended with exit code {self.process.wait()}: {self._last_words()}")
    try:
      answer = json.loads(line)
    except ValueError:
      answer = None
    if not isinstance(answer, dict):
      raise UserError(f"worker {self.spec.label} answered {line[:80].decode(errors='replace').strip()!r}, which is not a JSON object")
    return answer

  def _last_words(self) -> str:
    self.log.seek(0)
    lines = self.log.read().decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")

  def close(self) -> None:
    """Ends the process, at once if it does not end by itself."""
    assert self.process.stdin and self.process.stdout
    with contextlib.suppress(BrokenPipeError):
      self.process.stdin.close()
    try:
      self.process.wait(timeout=10)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
    self.process.stdout.close()
    self.log.close()

  def __enter__(self) -> "Worker":
    return self

  def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
    self.close()
