"""Packages that only some programs need, and the extra that installs each. A program that lacks one ends in a line that names the extra.

`starting.py` sets `hook` before a program's own imports.
"""

import sys
from types import TracebackType

EXTRAS = {  # package -> extra of pyproject.toml
  "grain": "data",
  "polars": "data",
  "xxhash": "data",
  "altair": "report",
  "jinja2": "report",
  "vl_convert": "report",
  "submitit": "slurm",
  "flatbuffers": "export",
  "tensorboardX": "tensorboard",
}


def missing(error: BaseException) -> str:
  """The line for a package of an extra that is not installed; empty for any other error."""
  package = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
  if package not in EXTRAS:
    return ""
  return f"{package} is not installed, which this needs: pip install 'dlrm-jax[{EXTRAS[package]}]' (all brings every extra)"


def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
  """In place of `sys.excepthook`: one line for a missing package, else Python's own."""
  if line := missing(error):
    from dlrm_jax.common.progress import say  # only now: this file is imported before anything else

    say(f"error: {line}")
  else:
    sys.__excepthook__(kind, error, trace)
