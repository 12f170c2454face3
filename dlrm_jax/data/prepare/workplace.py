"""Where `prepare` works: a directory beside the output that survives a kill, so that the same command goes on where it was.

    .NAME.partial/plan.json   settings and files: what the rest is worth depends on them
                 /rows        parts and PIECE.json of each piece that is done            (parts.py)
                 /ids         vocabularies                                               (vocabulary.py)
                 /done        SHARD.json of each shard that is done                      (shards.py)
                 /out         what becomes the output, by a rename at the end
    .NAME.finished            plan.json, from just before that rename until the rest is removed

The output is absent or whole, whatever happens.
"""

import contextlib
import dataclasses
import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError

WORTH_KEEPING = 10**9  # bytes of a log: of a larger one, bad input leaves what was read, so that another flag does not cost hours


@dataclasses.dataclass(frozen=True)
class Workplace:
  """The directories of one run. `finished`: the output is there already, and only what is left behind was to be removed."""

  path: Path
  output: Path
  finished: bool = False

  @property
  def rows(self) -> Path:
    return self.path / "rows"

  @property
  def ids(self) -> Path:
    return self.path / "ids"

  @property
  def done(self) -> Path:
    return self.path / "done"

  @property
  def out(self) -> Path:
    return self.path / "out"

  @property
  def plan(self) -> Path:
    return self.path / "plan.json"

  @property
  def marker(self) -> Path:
    return self.output.parent / f".{self.output.name}.finished"

  def publish(self, files: set[str]) -> None:
    """Makes `out` the output, in place of a data set that is there; of its files only these are kept."""
    for file in self.out.iterdir():
      if file.name not in files:
        file.unlink()  # of a run that was killed while it wrote
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
    """Whether a run of this plan was killed after it had made the output; removes what it left behind."""
    if not self.marker.exists():
      return False
    if self.out.exists():  # it had only been about to
      self.marker.rename(self.plan)
      return False
    same = record.read_json(self.marker) == plan and (self.output / "dataset.json").exists()
    shutil.rmtree(self.path, ignore_errors=True)
    self.marker.unlink(missing_ok=True)
    return same


def refuse_occupied(output: Path, overwrite: bool) -> None:
  """Raises UserError when `output` is there already, unless it is an empty directory, or a data set and `overwrite` is set."""
  if not output.exists() or (output.is_dir() and not any(output.iterdir())):
    return
  if not (output / "dataset.json").is_file():
    raise UserError(f"--output={output}: there is something else there already; choose a new directory")
  if not overwrite:
    raise UserError(f"--output={output}: holds a data set already; choose a new directory, or replace it with --overwrite")


@contextlib.contextmanager
def opened(output: Path, plan: dict[str, Any], overwrite: bool, shard: int | None) -> Iterator[Workplace]:
  """The workplace of `output`, as a run with the same plan left it, or new. Bad input (UserError) leaves nothing behind.

  Args:
    output: the directory to make.
    plan: JSON that is equal where work can go on; `reading` in it is what the first pass depends on.
    overwrite: whether a data set there may be replaced.
    shard: which of several runs this is that share the work; None: the only one.

  Raises:
    UserError: the output is occupied, or another run is at work on it. An OSError says what is kept.
  """
  output = output.absolute()
  path = output.parent / f".{output.name}.partial"
  place = Workplace(path, output)
  if place.ended(plan):
    yield dataclasses.replace(place, finished=True)
    return
  refuse_occupied(output, overwrite)
  made = [p for p in (output.parent, *output.parent.parents) if not p.exists()]  # innermost first
  path.mkdir(parents=True, exist_ok=True)
  with (path / "lock").open("w") as lock, (path / f"lock-{shard}").open("w") as share:
    try:  # any number of shares at once, each by one run; or one run of all
      fcntl.flock(lock, (fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH) | fcntl.LOCK_NB)
      fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"--output={output}: another run is at work on it ({path} is locked)") from None
    try:
      _resume(place, plan, shard)
      yield place
    except UserError as error:
      if sum(file["bytes"] for file in plan["reading"]["files"]) >= WORTH_KEEPING and any(place.rows.glob("*.json")):
        raise UserError(f"{error}; {_kept(path, 'a command with other flags')}") from None
      if shard is None:
        shutil.rmtree(path, ignore_errors=True)
        for directory in made:
          with contextlib.suppress(OSError):
            directory.rmdir()
      raise
    except OSError as error:
      where = f"{error.filename}: " if error.filename else ""
      raise UserError(f"{where}{error.strerror or error}; {_kept(path)}") from None
    except KeyboardInterrupt:
      print(_kept(path), file=sys.stderr, flush=True)
      raise


def _kept(path: Path, command: str = "the same command") -> str:
  return f"what is done so far is in {path}: {command} goes on from there, or delete it"


def _resume(place: Workplace, plan: dict[str, Any], shard: int | None) -> None:
  """Makes the directories; throws away what another plan left, but for what was read where that part of the plan is the same."""
  there = record.read_json(place.plan) if place.plan.exists() else plan
  if there != plan:
    if shard is not None:
      raise UserError(f"{place.plan}: another shard has other settings or other files; all must have the same, or delete {place.path}")
    same = there.get("reading") == plan["reading"]
    print(f"{place.path}: of other settings; " + ("what was read is kept" if same else "starting anew"), file=sys.stderr, flush=True)
    for directory in (place.ids, place.done, place.out, *([] if same else [place.rows])):
      shutil.rmtree(directory, ignore_errors=True)
    place.plan.unlink()
  for directory in (place.rows, place.ids, place.done, place.out):
    directory.mkdir(exist_ok=True)
  if not place.plan.exists():
    record.write_json(place.plan, plan)
