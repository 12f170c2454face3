"""Which sweeper owns a run: claims under WORKDIR/runs/<config_id>/attempts/, for any number of sweepers on one file system.

Claim number n is the file NNNN.json (its generation). It is created by a hard link, which only one sweeper can make, on NFS too. The
highest generation owns the run. Its owner rewrites the file every few seconds and writes the outcome at the end; nobody else writes it.
A sweeper takes a run over by linking the next number. Clocks of different machines are never compared. Whoever waits for a run checks,
by its own clock, whether the file still changes. An owner that was only suspended finds the higher number before it writes, and lets go.

Called by `states` (which runs may be claimed) and `worker` (which claims them).
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

BEAT_S = 5.0  # longest time between two rewrites of a claim by its owner
LOST_WORDS = "its process died without an error message (killed from outside, or out of memory?)"


class Lost(Exception):
  """Another sweeper has taken the run over; nothing more may be written for it."""


@functools.cache
def _machine() -> dict[str, str | None]:
  """What must be equal before process numbers can be compared: host, boot and, for containers, the namespace of process numbers."""
  boot = namespace = None
  with contextlib.suppress(OSError):
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.readlink("/proc/self/ns/pid")
  return {"host": socket.gethostname(), "boot_id": boot, "pid_namespace": namespace}


def process_started(pid: int) -> int | None:
  """When a process of this machine started, in clock ticks since the boot. None where no such process lives."""
  try:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return None
  return None if fields[0] in "ZX" else int(fields[19])  # proc(5): field 3 is the state, field 22 the start


def identity() -> dict[str, Any]:
  """What identifies this process in its claims."""
  pid, job = os.getpid(), os.environ.get("SLURM_JOB_ID")
  restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
  return _machine() | {"pid": pid, "process_started": process_started(pid), "slurm_job": job, "slurm_restarts": restarts}


def _gone(owner: dict[str, Any]) -> bool | None:
  """Whether the process that made a claim has certainly ended (True), lives (False), or cannot be seen from here (None)."""
  here = identity()
  if here["boot_id"] and all(owner.get(name) == value for name, value in _machine().items()):
    return process_started(owner["pid"]) != owner["process_started"]
  if here["slurm_job"] and owner.get("slurm_job") == here["slurm_job"] and owner["slurm_restarts"] < here["slurm_restarts"]:
    return True  # this is the same job, requeued
  return None


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One generation of claim as it was read.

  Attributes:
    generation: its number, from 1.
    text: the file's content; an owner lives while it changes.
    facts: the parsed content, empty where the file is damaged: the owner's identity, beats, total, examples, examples_per_s, loss, began,
      outcome. `began` is the number of examples that the attempt started from. `outcome` is None until the attempt has ended, then one of
      done, diverged, failed, broke, stopped, interrupted, given_up.
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
      continue  # withdrawn since the directory was listed
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
  """How many attempts count towards `--max_attempts`.

  An attempt that failed counts. One that was lost or broke counts only if it added no checkpoint. A run of several processes breaks when
  one of them raises; the cause may be the death of another process on another machine.

  Args:
    history: all generations of a run that has no owner now.
    saved: examples of its newest checkpoint.
  """
  later = [max([saved, *(other.began for other in history[n:])]) for n in range(1, len(history) + 1)]
  lost = sum(attempt.outcome in (None, "broke") and furthest <= attempt.began for attempt, furthest in zip(history, later))
  return lost + sum(attempt.outcome == "failed" for attempt in history)


class Observer:
  """Finds out whether the owners of runs live, from the changes of their files by this process's own clock.

  Args:
    stale_after_s: an owner counts as dead when its file has not changed for this long, seconds.
  """

  def __init__(self, stale_after_s: float):
    self._stale_after_s = stale_after_s
    self._seen: dict[Path, tuple[bytes, float, float, bool]] = {}  # text, seconds without a change, last look, whether it ever changed

  def lives(self, directory: Path, attempt: Attempt) -> bool | None:
    """Whether the owner of an attempt without outcome lives. None: not known yet; ask again."""
    gone = _gone(attempt.facts) if attempt.facts else None
    if gone:
      return False
    path, now = _file(directory, attempt.generation), time.monotonic()
    patience = max(self._stale_after_s, 3 * attempt.facts.get("beat_every_s", 0))
    text, age, last, moved = self._seen.get(path, (attempt.text, 0.0, now, False))
    if text == attempt.text:
      age += min(now - last, patience / 2)  # a pause of this process, or of the file system, must not count as a death
    else:
      age, moved = 0.0, True
    self._seen[path] = (attempt.text, age, now, moved)
    if age >= patience:
      return False  # suspended, or on a machine that died
    return True if moved or gone is False else None


class Claim:
  """A run that this process owns. Inside the block `with claim:` its file is rewritten regularly. Made by `claim`.

  Args:
    directory: the run's directory.
    generation: the number that was linked.
    facts: the content of its file.
  """

  def __init__(self, directory: Path, generation: int, facts: dict[str, Any]):
    self.directory, self.generation, self._facts = directory, generation, facts
    self._path = _file(directory, generation)
    self._lock, self._ending, self._taken = threading.Lock(), threading.Event(), False
    self._first: tuple[int, float] | None = None
    self._thread = threading.Thread(target=self._beat, daemon=True)

  @property
  def began(self) -> int:
    """Examples of the newest checkpoint when the run was claimed."""
    return int(self._facts["began"])

  def __enter__(self) -> "Claim":
    self._thread.start()
    return self

  def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
    self._ending.set()
    self._thread.join()

  def _beat(self) -> None:
    while not self._ending.wait(self._facts["beat_every_s"]):
      with contextlib.suppress(OSError):  # the training meets a full or broken disk, too, and reports it
        if self.overtaken():
          return
        with self._lock:
          self._facts["beats"] += 1
          text = record.dumps(self._facts)
        _replace(self._path, text)

  def overtaken(self) -> bool:
    """Whether another sweeper owns the run by now."""
    self._taken = self._taken or max(_generations(self.directory), default=0) > self.generation
    return self._taken

  def progress(self, examples: int, loss: float) -> None:
    """Notes how far the run is, for the next rewrite of the file. Called before each write of the run, too.

    Raises Lost where another sweeper owns the run by now: nothing more may be written for it.
    """
    if self.overtaken():
      raise Lost(f"{self.directory}: attempt {self.generation} was overtaken by another, which goes on")
    now = time.monotonic()
    first, since = self._first = self._first or (examples, now)
    speed = (examples - first) / (now - since) if now > since else math.nan
    with self._lock:
      self._facts |= {"examples": examples, "loss": loss, "examples_per_s": speed}

  def end(self, outcome: str) -> None:
    """Writes how the attempt ended, unless another owns the run. Removes temporary files of killed attempts. Call it after the block."""
    if self.overtaken():
      return
    record.write_json(self._path, self._facts | {"outcome": outcome})
    if outcome in ("done", "diverged"):
      for path in (*self.directory.glob(".*"), *self.directory.glob("attempts/.*")):
        path.unlink(missing_ok=True)

  def withdraw(self) -> None:
    """Ends an attempt for a reason that is not the run's fault. Where even the outcome cannot be written (full disk), removes the file."""
    with contextlib.suppress(OSError):
      try:
        self.end("interrupted")
      except OSError:
        if not self.overtaken():
          self._path.unlink()


def claim(directory: Path, generation: int, began: int, total: int, stale_after_s: float) -> Claim | None:
  """Creates `generation` of a run's claims, or returns None where another sweeper was first. Raises OSError where it cannot be written.

  Args:
    directory: the run's directory.
    generation: one more than the highest that exists.
    began: examples of the checkpoint that the attempt starts from.
    total: examples of the whole run.
    stale_after_s: this sweeper's flag; the file is rewritten at least six times as often.
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
      except (FileExistsError, FileNotFoundError):  # not found: removed by the sweeper that has just done the run
        if os.fstat(file.fileno()).st_nlink != 2:  # 2: the link was made and only the answer was lost (NFS; open(2))
          return None
  finally:
    Path(temporary).unlink(missing_ok=True)
  return Claim(directory, generation, facts)


def _replace(path: Path, text: str) -> None:
  """Replaces a file atomically without waiting for the disk. A sign of life is of no use after a crash of the machine."""
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "w") as file:
      file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    Path(temporary).unlink(missing_ok=True)
    raise
