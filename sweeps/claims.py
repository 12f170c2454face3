"""Who does a run: generations of claims under WORKDIR/runs/<config_id>/attempts/, for any number of sweepers on one file system.

Generation n is the file NNNN.json, made whole by linking it, which one sweeper alone can win, on NFS too. The highest owns the run.
Its owner rewrites it every few seconds and says at the end how it went (`outcome`); nobody else writes it. Taking a run over is
linking the next number. No clock is compared with another machine's: whoever waits for a run watches, by its own clock, whether the
file goes on changing. An owner that was only suspended finds the higher number before it writes anything, and lets go.

Called by `standing` (which runs may be claimed) and `worker` (which claims them).
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from dlrm_jax.common import record

BEAT_S = 5.0  # an owner rewrites its claim so often, at least
LOST_WORDS = "its process died without a word (killed from outside, or for want of memory?)"


class Lost(Exception):
  """Somebody else has taken the run over; nothing more is to be written for it."""


@functools.cache
def _machine() -> dict[str, str | None]:
  """What must be equal for process numbers to mean the same: host, boot and, for containers, the space of process numbers."""
  boot = namespace = None
  with contextlib.suppress(OSError):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.readlink("/proc/self/ns/pid")
  return {"host": socket.gethostname(), "boot_id": boot, "pid_namespace": namespace}


def process_started(pid: int) -> int | None:
  """When a process of this machine started, in clock ticks since the boot; None where there is none, or one that has ended."""
  try:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return None
  return None if fields[0] in "ZX" else int(fields[19])  # proc(5): field 3 is the state, field 22 the start


def identity() -> dict[str, Any]:
  """Which process this is, for its claims."""
  pid, job = os.getpid(), os.environ.get("SLURM_JOB_ID")
  restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
  return _machine() | {"pid": pid, "process_started": process_started(pid), "slurm_job": job, "slurm_restarts": restarts}


def _gone(owner: dict[str, Any]) -> bool | None:
  """Whether the process that made a claim has ended for sure (True), lives (False), or cannot be seen from here (None)."""
  here = identity()
  if here["boot_id"] and all(owner.get(name) == value for name, value in _machine().items()):
    return process_started(owner["pid"]) != owner["process_started"]
  if here["slurm_job"] and owner.get("slurm_job") == here["slurm_job"] and owner["slurm_restarts"] < here["slurm_restarts"]:
    return True  # this is the same job, requeued
  return None


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One generation as it was read.

  Attributes:
    generation: its number, from 1.
    text: the file; compared, to see a sign of life.
    facts: what it says: the owner's identity, `began` (examples it went on from), beats, examples, total, examples_per_s, loss,
      outcome (None until it has ended: done, diverged, failed, broke, stopped, interrupted, or given_up). Empty where a file is damaged.
  """

  generation: int
  text: bytes
  facts: dict[str, Any]

  @property
  def outcome(self) -> str | None:
    return self.facts.get("outcome")

  @property
  def began(self) -> int:
    return int(self.facts.get("began", 0))


def attempts(directory: Path) -> list[Attempt]:
  """Every generation of a run, oldest first."""
  out = []
  for generation in _generations(directory):
    try:
      text = _file(directory, generation).read_bytes()
      facts = json.loads(text)
    except FileNotFoundError:
      continue  # withdrawn meanwhile
    except ValueError:
      facts = None
    out.append(Attempt(generation, text, facts if isinstance(facts, dict) else {}))
  return out


def _generations(directory: Path) -> list[int]:
  try:
    names = os.listdir(directory / "attempts")
  except FileNotFoundError:
    return []
  return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal())


def _file(directory: Path, generation: int) -> Path:
  return directory / "attempts" / f"{generation:04d}.json"


def counted(history: list[Attempt], saved: int) -> int:
  """How many attempts count towards `--max_attempts`: those that failed, and those lost, or broken, without having moved the checkpoint on.

  A run of several processes breaks when one of them raises, which may be for the death of another, on another machine.

  Args:
    history: all generations of a run that nobody does now.
    saved: examples of its newest checkpoint.
  """
  later = [max([saved, *(other.began for other in history[n:])]) for n in range(1, len(history) + 1)]
  lost = sum(attempt.outcome in (None, "broke") and furthest <= attempt.began for attempt, furthest in zip(history, later))
  return lost + sum(attempt.outcome == "failed" for attempt in history)


class Observer:
  """Tells whether owners of runs live, by watching their files through one process's own clock.

  Args:
    stale_after_s: a file that stays the same for so long is that of a dead owner, seconds.
  """

  def __init__(self, stale_after_s: float):
    self._stale_after_s = stale_after_s
    self._seen: dict[Path, tuple[bytes, float, float, bool]] = {}  # text, unchanged for s, last look, whether it was seen to change

  def lives(self, directory: Path, attempt: Attempt) -> bool | None:
    """Whether the owner of an attempt without outcome lives; None: not known yet, ask again."""
    gone = _gone(attempt.facts) if attempt.facts else None
    if gone:
      return False
    path, now = _file(directory, attempt.generation), time.monotonic()
    patience = max(self._stale_after_s, 3 * attempt.facts.get("beat_every_s", 0))
    text, age, last, moved = self._seen.get(path, (attempt.text, 0.0, now, False))
    if text == attempt.text:
      age += min(now - last, patience / 2)  # a pause of this process, or of the file system, is nobody's death
    else:
      age, moved = 0.0, True
    self._seen[path] = (attempt.text, age, now, moved)
    if age >= patience:
      return False  # suspended, or on a machine that died
    return True if moved or gone is False else None


class Claim:
  """A run that this process owns, alive as long as the block `with claim:` lasts. Made by `claim`.

  Args:
    directory: of the run.
    generation: what was linked.
    facts: what its file says.
  """

  def __init__(self, directory: Path, generation: int, facts: dict[str, Any]):
    self.directory, self.generation, self._facts = directory, generation, facts
    self._path = _file(directory, generation)
    self._lock, self._ending, self._taken = threading.Lock(), threading.Event(), False
    self._first: tuple[int, float] | None = None
    self._thread = threading.Thread(target=self._beat, daemon=True)

  @property
  def began(self) -> int:
    """Examples of the checkpoint that was there when the run was claimed."""
    return int(self._facts["began"])

  def __enter__(self) -> "Claim":
    self._thread.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
    self._ending.set()
    self._thread.join()

  def _beat(self) -> None:
    while not self._ending.wait(self._facts["beat_every_s"]):
      with contextlib.suppress(OSError):  # a full or broken disk is met, and told, by whoever trains
        if self.overtaken():
          return
        with self._lock:
          self._facts["beats"] += 1
          text = record.dumps(self._facts)
        _replace(self._path, text)

  def overtaken(self) -> bool:
    """Whether somebody else owns the run by now."""
    self._taken = self._taken or max(_generations(self.directory), default=0) > self.generation
    return self._taken

  def progress(self, examples: int, loss: float) -> None:
    """Notes how far the run has come, for the next beat; called right before anything is written, too.

    Raises Lost where somebody else owns the run by now: nothing more may be written for it.
    """
    if self.overtaken():
      raise Lost(f"{self.directory}: attempt {self.generation} was overtaken by another, which goes on")
    now = time.monotonic()
    first, since = self._first = self._first or (examples, now)
    speed = (examples - first) / (now - since) if now > since else math.nan
    with self._lock:
      self._facts |= {"examples": examples, "loss": loss, "examples_per_s": speed}

  def end(self, outcome: str) -> None:
    """Says how the attempt ended, unless somebody else has the run; tidies up what killed attempts left. After the `with` block."""
    if self.overtaken():
      return
    record.write_json(self._path, self._facts | {"outcome": outcome})
    if outcome in ("done", "diverged"):
      for path in (*self.directory.glob(".*"), *self.directory.glob("attempts/.*")):
        path.unlink(missing_ok=True)

  def withdraw(self) -> None:
    """Ends an attempt for a reason that is not its own, such as a full disk, on which the outcome may not even be written."""
    with contextlib.suppress(OSError):
      try:
        self.end("interrupted")
      except OSError:
        if not self.overtaken():
          self._path.unlink()


def claim(directory: Path, generation: int, began: int, total: int, stale_after_s: float) -> Claim | None:
  """Makes `generation` of a run, or returns None where another was first. Raises OSError where nothing can be written.

  Args:
    directory: of the run.
    generation: one more than the highest that is there.
    began: examples of the checkpoint that it goes on from.
    total: examples of the run.
    stale_after_s: as this sweeper's flags say; beats come at least six times as often.
  """
  progress = {"began": began, "beats": 0, "examples": began, "total": total, "examples_per_s": None, "loss": None}
  facts = identity() | {"beat_every_s": min(BEAT_S, stale_after_s / 6)} | progress | {"outcome": None}
  path = _file(directory, generation)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "w") as file:
      file.write(record.dumps(facts))
      file.flush()
      os.fsync(file.fileno())
      os.fchmod(file.fileno(), 0o644)
      try:
        os.link(temporary, path)
      except (FileExistsError, FileNotFoundError):  # not found: tidied up by whoever has just done the run
        if os.fstat(file.fileno()).st_nlink != 2:  # 2: it was linked, and the answer got lost on its way (NFS; open(2))
          return None
  finally:
    Path(temporary).unlink(missing_ok=True)
  return Claim(directory, generation, facts)


def _replace(path: Path, text: str) -> None:
  """Replaces a file at once, without waiting for the disk: after a crash of the machine nobody asks who was alive."""
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "w") as file:
      file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    Path(temporary).unlink(missing_ok=True)
    raise
