"""The process of one section: `python -m benchmarks.accelerator.section NAME LINES [tiny]`. Called by `runner`."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from benchmarks.accelerator.rows import Rows
from benchmarks.accelerator.sections import SECTIONS


def main(name: str, lines: str, *size: str) -> None:
  """Runs a section. Its programs are kept with those of training, so that no section compiles what another has compiled."""
  from dlrm_jax.machine import hardware

  _end_with(os.getppid())
  if name not in ("peer", "small"):  # which only start processes of their own, or have another library
    hardware.select_platform()
    hardware.share_compiled()
  SECTIONS[name].load()(Rows(name, Path(lines), "tiny" in size))


def _end_with(runner: int) -> None:
  """From now on this process and those that it starts end when the runner has ended, however it ended. They have a group of their own."""

  def watch() -> None:
    while os.getppid() == runner:
      time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)

  threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
  main(*sys.argv[1:])
