"""Which files `--input` and `--schema` name: paths, patterns, standard input and pipes. Called by `program` and `schema_file`."""

import dataclasses
import glob
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say

STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_OPEN_FILES = ("/dev/fd/", "/proc/self/fd/")  # of this process: its workers have others


@dataclasses.dataclass(frozen=True)
class Inputs:
  """The files of a log.

  Attributes:
    files: in the order in which they are read.
    hidden: files that the pattern matches, and that are left out because their names begin with "_" or ".". Hadoop and Spark name the
      files so that hold no rows, such as _SUCCESS.
  """

  files: tuple[Path, ...]
  hidden: tuple[Path, ...] = ()


def _natural(path: str) -> list[tuple[int, str]]:
  """A sort key that puts day_2 before day_10."""
  return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"([0-9]+)", path)]


def find_inputs(pattern: str) -> Inputs:
  """The files that match, in natural order. Raises UserError if there are none or a match is not a readable file."""
  matches, hidden = [pattern], list[str]()
  if not os.path.exists(pattern):
    found = sorted(glob.glob(pattern, recursive=True), key=_natural)
    matches = [path for path in found if not os.path.basename(path).startswith(("_", "."))]
    hidden = [path for path in found if os.path.basename(path).startswith(("_", "."))]
  if not matches:
    directory = Path(pattern).parent
    absent = not any(c in str(directory) for c in "*?[") and not directory.is_dir()
    only = f"only {hidden[0]}, and names that begin with _ or . are no part of a log" if hidden else "no such file"
    raise UserError(f"--input={pattern}: " + (f"no such directory {directory}" if absent else only))
  names = set(matches)
  for path in matches:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
      raise UserError(f"--input={pattern}: {path} is a directory; match the files in it, such as {path.rstrip('/')}/*")
    if not stat.S_ISREG(mode):
      what = "pipe; give it alone, not by a pattern" if stat.S_ISFIFO(mode) else "device, not a file"
      raise UserError(f"--input={pattern}: {path} is a {what}")
    if path.removesuffix(".gz") != path and path.removesuffix(".gz") in names:
      raise UserError(f"--input={pattern}: {path} and {path.removesuffix('.gz')} both match: are they not the same log?")
    with Path(path).open("rb"):  # fail now, not hours later
      pass
  return Inputs(tuple(map(Path, matches)), tuple(map(Path, hidden)))


def names_of(sources: Sequence[Path], beside: Sequence[Path] = ()) -> list[str]:
  """The names of files in the output: their paths relative to the directory that contains all of them and those of `beside`."""
  common = os.path.commonpath([source.absolute().parent for source in (*sources, *beside)])
  return [os.path.relpath(source.absolute(), common) for source in sources]


def is_stream(path: str) -> bool:
  """Whether a path is standard input or a pipe: what can be read once, and by this process alone."""
  if path in STDIN:
    return True
  try:
    mode = os.stat(path).st_mode
  except OSError:
    return False
  return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or path.startswith(_OPEN_FILES)


def open_stream(path: str, flag: str) -> BinaryIO:
  """Opens standard input, a pipe or a file. Says so where the writer of a pipe may let us wait. Raises UserError naming the flag."""
  try:
    if path in STDIN:
      return open(0, "rb", closefd=False)
    if stat.S_ISFIFO(os.stat(path).st_mode) and not path.startswith(_OPEN_FILES):
      say(f"--{flag}={path}: waiting for a program that writes to this pipe")
    return open(path, "rb")
  except FileNotFoundError:
    raise UserError(f"--{flag}={path}: no such file") from None
  except OSError as error:
    what = "standard input is closed" if path in STDIN else error.strerror
    raise UserError(f"--{flag}={path}: {what}") from None
