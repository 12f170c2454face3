"""Being asked to stop: SIGTERM (a scheduler wants the machine back) and SIGUSR2 (submitit: the time limit is near).

`installed` is entered by programs that train. The loop looks at `requested` wherever it could save, saves and raises `Stopped`, which
`flags.run` turns into one line and exit code 75.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command, given again, goes on


class Stopped(Exception):
  """The work stopped because a signal asked for it; the same command goes on from what the message says was saved.

  Attributes:
    signum: the signal that came.
  """

  def __init__(self, message: str):
    super().__init__(message)
    self.signum = _asked.signum or signal.SIGTERM


@dataclasses.dataclass
class _Asked:
  """What has come so far. `calls` counts the looks of a program of several processes, which all take them in the same order."""

  signum: int = 0
  several: bool = False
  calls: int = 0
  agreed: bool = False


_asked = _Asked()


@contextlib.contextmanager
def installed() -> Iterator[None]:
  """Within it SIGTERM and SIGUSR2 ask the program to stop instead of ending it. The handlers before it come back afterwards.

  Enter it in the main thread, in programs of several processes after these are connected (`mesh.connect`): there jax itself watches for
  SIGTERM and tells the other processes.
  """
  import jax  # here, not above: programs that do not train know `Stopped` too, and start faster without

  global _asked
  _asked = _Asked(several=jax.process_count() > 1)
  signals = (signal.SIGUSR2,) if _asked.several else (signal.SIGTERM, signal.SIGUSR2)
  before = {signum: signal.signal(signum, _note) for signum in signals}
  try:
    yield
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)
    _asked = _Asked()


def _note(signum: int, frame: FrameType | None) -> None:
  del frame
  _asked.signum = _asked.signum or signum
  if _asked.several:
    os.kill(os.getpid(), signal.SIGTERM)  # the one signal that jax's watcher passes on to the other processes


def requested() -> bool:
  """Whether to stop here. False outside `installed`.

  In programs of several processes all must call it equally often, in the same places: they are then told at the same call.
  """
  if not _asked.several:
    return _asked.signum != 0
  from jax.experimental import multihost_utils

  _asked.calls += 1
  _asked.agreed = _asked.agreed or multihost_utils.reached_preemption_sync_point(_asked.calls)
  return _asked.agreed


def check() -> None:
  """Raises Stopped if it is requested: for places where nothing would be lost."""
  if requested():
    raise Stopped(f"{name()}: there was nothing new to save; the same command begins again")


def name() -> str:
  """What came, for people: SIGTERM or SIGUSR2."""
  return signal.Signals(_asked.signum or signal.SIGTERM).name
