"""Starts a worker process, sends it requests and ends it. The worker's side is worker.py."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.worker import Spec
from dlrm_jax.common.flags import UserError

ROOT = Path(__file__).resolve().parents[2]
# With these, glibc keeps the memory that PyTorch frees instead of returning pages: fbgemm's step took 5% less of a core. Our own step gets
# no such help: it must set what it needs itself.
_PEERS_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_TOP_PAD_": "268435456"}
_PEERS_MALLOC |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # their tables on huge pages like ours: emb at 1M rows takes a fifth less
_DROPPED = ("JAX_NUM_CPU_DEVICES", "PYTHONWARNINGS")  # so that a worker has one device


def command_of(spec: Spec, peers_python: str) -> list[str]:
  """The command line of a worker."""
  if spec.trainer == "ours":
    return [sys.executable, "-m", "benchmarks.peers.ours"]
  return [peers_python, "-m", "benchmarks.peers.torch_trainers"]


def environment(spec: Spec) -> dict[str, str]:
  """The environment of a worker: this process's, with as many threads as cores. The threads sleep while they wait."""
  threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(len(spec.cores)))
  kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
  malloc = {} if spec.trainer == "ours" else _PEERS_MALLOC
  return kept | threads | malloc | {"OMP_WAIT_POLICY": "passive", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


class Worker(contextlib.AbstractContextManager):
  """A running worker. A worker that dies or answers anything but a JSON object raises a one-line UserError that names it.

  Args:
    spec: what it times.
    command: the program and its arguments.
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
    """Sends one request and returns the answer."""
    assert self.process.stdin and self.process.stdout
    with contextlib.suppress(BrokenPipeError):  # the worker has ended: its empty answer is reported below
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
    """Ends the process, and kills it if it does not end within 10 s."""
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

  def __exit__(self, *_: object) -> None:
    self.close()
