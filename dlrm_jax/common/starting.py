"""Ctrl-C, and packages that are missing, while a program imports. The packages' `__init__` call it first, so it imports next to nothing."""

import os
import signal
import sys

from dlrm_jax.common import extras

EXIT_CODE = 130  # 128 + SIGINT, as a shell reports it


def end_at_once(signum: int, frame: object) -> None:
  """A handler that ends the process. An exception would be lost in, or renamed by, whatever is being imported."""
  del signum, frame
  os.write(2, b"interrupted\n")
  os._exit(EXIT_CODE)


def while_starting(package: str) -> None:
  """Lets SIGINT end the process at once until `interrupts.raising` begins, and again after its end, and a missing package end it in a line.

  It does nothing unless `python -m` is about to start a program of `package`, so that importing a package changes no handler. It respects a
  SIGINT that is ignored, as a shell does for programs in the background.
  """
  starts = sys.argv[:1] == ["-m"] and any(word.removeprefix("-m").split(".")[0] == package for word in sys.orig_argv[1:])
  if starts:
    sys.excepthook = extras.hook
  if starts and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
