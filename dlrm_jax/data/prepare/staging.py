"""`Staging`: the directory next to the output in which `prepare` works. It survives a kill, so that the same command goes on.

    .NAME.partial/plan.json   settings and files, on which all other files here depend
                 /rows        parts and TASK.json of each task that is done              (parts.py)
                 /order       parts in another order, if rows are sorted                 (arrange.py)
                 /kept        parts without the negatives that are left out              (thin.py)
                 /done        SHARD.json of each shard that is done                      (shards.py)
                 /out         becomes the output, by a rename at the end: vocabularies, then shards
    .NAME.finished            plan.json, from just before that rename until .NAME.partial is removed

The output is absent or whole, whatever happens.
"""

import contextlib
import dataclasses
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say

WORTH_KEEPING = 10**9  # bytes. On bad input the rows that were read of a larger log are kept, so that another flag does not cost hours


@dataclasses.dataclass(frozen=True)
class Staging:
  """The paths of one run, as above. `finished`: the output is there already, and only remains of the run had to be removed."""

  output: Path
  path: Path
  plan: Path
  rows: Path
  order: Path
  kept: Path
  done: Path
  out: Path
  marker: Path
  finished: bool = False

  @classmethod
  def of(cls, output: Path) -> "Staging":
    """The paths for the output directory `output`."""
    path, marker = (output.parent / f".{output.name}.{ending}" for ending in ("partial", "finished"))
    plan, rows, order, kept, done, out = (path / name for name in ("plan.json", "rows", "order", "kept", "done", "out"))
    return cls(output, path, plan, rows, order, kept, done, out, marker)

  def publish(self, files: set[str]) -> None:
    """Makes `out` with these files the output; replaces a data set that is there."""
    for file in self.out.iterdir():
      if file.name not in files:
        file.unlink()  # it is left from a run that was killed while it wrote
    record.sync(self.out)
    self.plan.rename(self.marker)
    if self.output.exists():
      shutil.rmtree(self.path / "old", ignore_errors=True)
      self.output.rename(self.path / "old")
    self.out.rename(self.output)
    record.sync(self.output.parent)
    shutil.rmtree(self.path, ignore_errors=True)
    self.marker.unlink(missing_ok=True)

  def ended(self, plan: dict[str, Any]) -> bool:
    """Whether a run of this plan was killed after it had made the output. Removes what it left behind."""
    if not self.marker.exists():
      return False
    if self.out.exists():  # it was killed just before
      self.marker.rename(self.plan)
      return False
    same = record.read_json(self.marker) == plan and (self.output / "dataset.json").exists()
    shutil.rmtree(self.path, ignore_errors=True)
    self.marker.unlink(missing_ok=True)
    return same


def refuse_occupied(output: Path, overwrite: bool) -> None:
  """Raises UserError if `output` exists, unless it is an empty directory, or a data set and `overwrite` is set."""
  if not output.exists() or (output.is_dir() and not any(output.iterdir())):
    return
  if not (output / "dataset.json").is_file():
    raise UserError(f"--output={output}: exists already and is no data set; choose a new directory")
  if not overwrite:
    raise UserError(f"--output={output}: holds a data set already; choose a new directory, or replace it with --overwrite")


@contextlib.contextmanager
def opened(output: Path, plan: dict[str, Any], overwrite: bool, share: int | None, resumable: bool = True) -> Iterator[Staging]:
  """The staging directory of `output`, as a run with the same plan left it, or a new one. Bad input (UserError) leaves nothing behind.

  Args:
    output: the directory to make.
    plan: JSON. Runs with equal plans can go on with each other's work; the first pass depends on its `reading` alone.
    overwrite: whether a data set at `output` may be replaced.
    share: the number of this run among several that share the work; None: the only one.
    resumable: whether a run that does not end well leaves its work for another; if not, it leaves nothing.

  Raises:
    UserError: the output is occupied, or another run is at work on it. The message for an OSError names what is kept.
    KeyboardInterrupt: with a message that names what is kept.
  """
  output = output.absolute()
  place = Staging.of(output)
  path = place.path
  if place.ended(plan):
    yield dataclasses.replace(place, finished=True)
    return
  refuse_occupied(output, overwrite)
  made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]  # innermost first
  path.mkdir(parents=True, exist_ok=True)
  with (path / "lock").open("w") as lock, (path / f"lock-{share}").open("w") as share_lock:
    try:  # several runs at once, each with its own share, or a single run
      fcntl.flock(lock, (fcntl.LOCK_EX if share is None else fcntl.LOCK_SH) | fcntl.LOCK_NB)
      fcntl.flock(share_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"--output={output}: another run is at work on it ({path} is locked)") from None
    try:
      _resume(place, plan, share)
      yield place
    except UserError as error:
      if resumable and sum(file["bytes"] for file in plan["reading"]["files"]) >= WORTH_KEEPING and any(place.rows.glob("*.json")):
        raise UserError(f"{error}; {_kept(path, 'a command with other flags')}") from None
      if share is None:
        _remove(path, made)
      raise
    except OSError as error:
      if not resumable:
        _remove(path, made)
      raise UserError(_named(error) + (f"; {_kept(path)}" if resumable else "")) from None
    except KeyboardInterrupt:
      if not resumable:
        _remove(path, made)
        raise
      raise KeyboardInterrupt(f"interrupted: {_kept(path)}") from None


def _remove(path: Path, made: list[Path]) -> None:
  """Removes the staging directory, and those of `made` (innermost first) that are empty."""
  shutil.rmtree(path, ignore_errors=True)
  for directory in made:
    with contextlib.suppress(OSError):
      directory.rmdir()


def _named(error: OSError) -> str:
  return (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))


def _kept(path: Path, command: str = "the same command") -> str:
  return f"what is done so far is in {path}: {command} goes on from there, or delete it"


def _resume(place: Staging, plan: dict[str, Any], share: int | None) -> None:
  """Makes the directories. Removes the work of another plan, but keeps the rows that were read if `reading` is equal."""
  there = record.read_json(place.plan) if place.plan.exists() else plan
  if there != plan:
    if share is not None:
      raise UserError(f"{place.plan}: another share has other settings or other files; all must have the same, or delete {place.path}")
    same = there.get("reading") == plan["reading"]
    say(f"{place.path}: of other settings; " + ("what was read is kept" if same else "starting anew"))
    for directory in (place.order, place.kept, place.done, place.out, *([] if same else [place.rows])):
      shutil.rmtree(directory, ignore_errors=True)
    place.plan.unlink()
  for directory in (place.rows, place.order, place.kept, place.done, place.out):
    directory.mkdir(exist_ok=True)
  if not place.plan.exists():
    record.write_json(place.plan, plan)
