"""The process of one section: `python -m benchmarks.accelerator.section NAME LINES [tiny]`. Called by `runner`."""

import sys
from pathlib import Path

from benchmarks.accelerator.rows import Rows
from benchmarks.accelerator.sections import SECTIONS


def main(name: str, lines: str, *size: str) -> None:
  """Runs a section. Its programs are kept with those of training, so that no section compiles what another has compiled."""
  from dlrm_jax.machine import hardware

  if name not in ("peer", "small"):  # which only start processes of their own, or have another library
    hardware.select_platform()
    hardware.share_compiled()
  SECTIONS[name].load()(Rows(name, Path(lines), "tiny" in size))


if __name__ == "__main__":
  main(*sys.argv[1:])
