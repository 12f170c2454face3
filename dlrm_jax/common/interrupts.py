"""Ctrl-C while a program works. `flags.run` enters `raising` around `main`; `starting.py` has the time before and after."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from dlrm_jax.common.starting import end_at_once

_AGAIN_S = 0.05  # until a dropped KeyboardInterrupt is raised again


@contextlib.contextmanager
def raising() -> Iterator[None]:
  """Within it SIGINT raises KeyboardInterrupt, also where Python or a library drops it.

  Python drops an exception in a callback of the garbage collector (jax has one) or in a `__del__`. It is then raised again. A library may
  turn it into an error of its own while it is imported. An error after SIGINT therefore leaves as KeyboardInterrupt.
  """
  known = signal.getsignal(signal.SIGINT) in (end_at_once, signal.default_int_handler)
  if not known or threading.current_thread() is not threading.main_thread():
    yield
    return
  asked = False

  def interrupt(signum: int, frame: FrameType | None) -> None:
    nonlocal asked
    asked = True
    signal.default_int_handler(signum, frame)

  def dropped(unraisable: Any) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
      again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT))
      again.daemon = True
      again.start()
    else:
      hook(unraisable)

  hook, handler = sys.unraisablehook, signal.signal(signal.SIGINT, interrupt)
  sys.unraisablehook = dropped
  try:
    yield
  except Exception as error:
    if asked:
      raise KeyboardInterrupt from error
    raise
  finally:
    ending = asked and handler is end_at_once
    signal.signal(signal.SIGINT, signal.SIG_IGN if ending else handler)
    sys.unraisablehook = hook
