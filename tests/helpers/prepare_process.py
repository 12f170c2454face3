"""`dlrm_jax.data.prepare` with small pieces and shards, as a program that can be killed. Run by test_prepare_kills.py.

prepare_process.py FLAGS           prepares
prepare_process.py count FLAGS     says how many steps on disk that takes (renames, syncs, removals)
prepare_process.py each A B FLAGS  for each step from A to below B: is killed right before it, and prepares again, in the directory
                                   of that number; prints what the second run said of those that failed
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags
from dlrm_jax.data import shard_format
from dlrm_jax.data.prepare import read

# Also in spawned workers, which run this file's top level.
shard_format.ROWS_PER_GROUP, shard_format.GROUPS_PER_SHARD = 512, 4
from dlrm_jax.data.prepare import program  # noqa: E402

_pieces_of = read.pieces_of
read.pieces_of = lambda source, path, log_format, piece_bytes: _pieces_of(
  source, path, log_format, piece_bytes // 4
)  # of 256 KiB with --piece_mib=1

STEPS = ("replace", "rename", "fsync", "unlink", "rmdir")


def hooked(at: int) -> list[int]:
  """From now on steps on disk are counted in the list that is returned; at number `at` this process kills itself."""
  count = [0]

  def hook(step: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
      if count[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)
      count[0] += 1
      return step(*args, **kwargs)

    return counted

  for name in STEPS:
    setattr(os, name, hook(getattr(os, name)))
  return count


def in_a_child(run: Callable[[], object]) -> int:
  """Runs something in a fork, which has started no threads, and returns how it ended: an exit code, or the number of a signal below 0."""
  sys.stdout.flush()
  child = os.fork()
  if not child:
    try:
      run()
    except BaseException as error:
      print(f"{type(error).__name__}: {error}", flush=True)
      os._exit(1)
    os._exit(0)
  return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
  words = sys.argv[1:]
  if words[0] == "count":
    config = flags.parse(["prepare", *words[1:]], program.PrepareConfig)
    count = hooked(-1)
    program.prepare(config)
    print(count[0])
  elif words[0] == "each":
    config = flags.parse(["prepare", *words[3:]], program.PrepareConfig)
    here = Path.cwd()
    for at in range(int(words[1]), int(words[2])):
      (here / str(at)).mkdir()
      os.chdir(here / str(at))
      if (here / "before").exists():
        shutil.copytree(here / "before", config.output)
      code = in_a_child(lambda: (hooked(at), program.prepare(config)))  # noqa: B023
      if code != -signal.SIGKILL:
        print(f"step {at}: ended with {code}, not killed")
      if Path(config.output).exists():
        shutil.copytree(config.output, "seen")
      if code := in_a_child(lambda: program.prepare(config)):
        print(f"step {at}: the second run ended with {code}")
  else:
    flags.run(program.main, program.PrepareConfig)


if __name__ == "__main__":
  main()
