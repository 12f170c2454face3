"""Handles requests to stop: SIGTERM (a scheduler wants the machine back) and SIGUSR2 (submitit: the time limit is near).

Programs that train enter `installed`. The loop checks `requested` wherever it could save. It then saves and raises `Stopped`, for which
`flags.run` prints one line and exits with code 75.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command continues the work


class Stopped(Exception):
  """A signal stopped the work. The message says what was saved, and the same command continues from there.

  Attributes:
    signum: the signal that was received.
  """

  def __init__(self, message: str):
    super().__init__(message)
    self.signum = _asked.signum or signal.SIGTERM


@dataclasses.dataclass
class _Asked:
  """The signals received so far. In a program of several processes, `calls` counts the calls of `requested`."""

  signum: int = 0
  several: bool = False
  calls: int = 0
  agreed: bool = False


_asked = _Asked()


@contextlib.contextmanager
def installed(several: bool | None = None) -> Iterator[None]:
  """Within this context SIGTERM and SIGUSR2 request a stop instead of ending the program. The earlier handlers are restored at its end.

  Enter it in the main thread. In a program of several processes, enter it after they are connected (`mesh.connect`): jax itself then
  watches for SIGTERM and informs the other processes.

  Args:
    several: whether the program has several processes. None: jax is asked, which takes this process's devices.
  """
  global _asked
  if several is None:
    import jax  # not at the top: programs that do not train import `Stopped` too, and start faster without jax

    several = jax.process_count() > 1
  _asked = _Asked(several=several)
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
    os.kill(os.getpid(), signal.SIGTERM)  # the only signal that jax passes on to the other processes


def requested() -> bool:
  """Returns whether to stop here. It is False outside `installed`.

  In a program of several processes all must call it equally often and in the same places. It then becomes True at the same call in all.
  """
  if not _asked.several:
    return _asked.signum != 0
  from jax.experimental import multihost_utils

  _asked.calls += 1
  _asked.agreed = _asked.agreed or multihost_utils.reached_preemption_sync_point(_asked.calls)
  return _asked.agreed


def check() -> None:
  """Raises Stopped if a stop is requested. Call it where nothing would be lost."""
  if requested():
    raise Stopped(f"{name()}: there was nothing new to save; the same command begins again")


def name() -> str:
  """Returns the name of the signal that was received, SIGTERM or SIGUSR2, for messages."""
  return signal.Signals(_asked.signum or signal.SIGTERM).name
