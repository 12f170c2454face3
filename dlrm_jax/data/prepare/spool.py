"""Copies standard input or a pipe to disk, because programs read a log in pieces, and `prepare` reads it twice. Called by
`program` and `predict`.

The copy is in `.NAME.spool` next to the output, as long as the run lasts. What a killed run leaves is removed by the next run.
"""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.data.prepare.inputs import STDIN, open_stream

_BLOCK, _SAY_S = 1 << 20, 30.0


def _directory(output: Path) -> Path:
  return output.absolute().parent / f".{output.absolute().name}.spool"


def remove_left(output: Path) -> None:
  """Removes the copy that a killed run has left, and says so. Raises UserError if a run is at work on it."""
  path = _directory(output)
  if not path.is_dir():
    return
  with (path / "lock").open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"--output={output}: another run is at work on it ({path} is locked)") from None
    shutil.rmtree(path, ignore_errors=True)
  say(f"{path}: removed; a killed run had copied its input there from a pipe, which cannot be read again")


@contextlib.contextmanager
def spooled(given: str, output: Path) -> Iterator[Path]:
  """The path of a copy of what `given` (`--input`) holds, until the block ends.

  Whatever the block raises, no copy is left, and no directory that was made for it. Messages of a UserError name `given`, not the copy.
  """
  path = _directory(output)
  made = [p for p in (path.parent, *path.parent.parents) if not p.exists()]  # innermost first
  copy = path / ("stdin" if given in STDIN else Path(given).name)
  path.mkdir(parents=True)
  try:
    with (path / "lock").open("w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      _copy(given, copy)
      yield copy
  except UserError as error:
    raise UserError(str(error).replace(str(copy), given)) from None
  except KeyboardInterrupt:
    raise KeyboardInterrupt(f"interrupted: nothing is kept, because --input={given} cannot be read twice") from None
  finally:
    shutil.rmtree(path, ignore_errors=True)
    for directory in made:
      with contextlib.suppress(OSError):  # it holds the output
        directory.rmdir()


def _copy(given: str, copy: Path) -> None:
  said = time.monotonic()
  with open_stream(given, "input") as source, copy.open("wb") as target:
    while block := source.read(_BLOCK):
      target.write(block)
      if time.monotonic() > said + _SAY_S:
        say(f"--input={given}: {target.tell() / 1e6:,.0f} MB copied to {copy}")
        said = time.monotonic()
