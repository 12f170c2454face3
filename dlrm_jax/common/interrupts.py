"""Ctrl-C ends a program in one line with exit code 130 at any moment: while it imports, while it works, while it ends.

Each package calls `while_starting` in its `__init__`, before its slow imports. `flags.run` enters `raising` around `main`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

EXIT_CODE = 130  # 128 + SIGINT, as a shell reports it
_AGAIN_S = 0.05  # until a dropped KeyboardInterrupt is raised again


def _end(signum: int, frame: FrameType | None) -> None:
  """Ends the process at once. An exception would be lost in, or renamed by, whatever is being imported."""
  del signum, frame
  os.write(2, b"interrupted\n")
  os._exit(EXIT_CODE)


def while_starting(package: str) -> None:
  """Lets SIGINT end the process at once until `raising` begins, and again after its end.

  It does nothing unless `python -m` is about to start a program of `package`, so that importing a package changes no handler. It respects a
  SIGINT that is ignored, as a shell does for programs in the background.
  """
  starts = sys.argv[:1] == ["-m"] and any(word.removeprefix("-m").split(".")[0] == package for word in sys.orig_argv[1:])
  if starts and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)


@contextlib.contextmanager
def raising() -> Iterator[None]:
  """Within it SIGINT raises KeyboardInterrupt, also where Python or a library drops it.

  Python drops an exception in a callback of the garbage collector (jax has one) or in a `__del__`. It is then raised again. A library may
  turn it into an error of its own while it is imported. An error after SIGINT therefore leaves as KeyboardInterrupt.
  """
  if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) not in (_end, signal.default_int_handler):
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
    signal.signal(signal.SIGINT, handler)
    sys.unraisablehook = hook
