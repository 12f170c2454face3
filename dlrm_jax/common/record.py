"""Reads and writes JSON files, and makes the header that every JSON file of the suite has.

Files are written whole or not at all (temporary file, fsync, rename). The trainer, the sweeps, the analysis and the benchmarks use it.
"""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dlrm_jax.common.flags import UserError

SCHEMA_VERSION = 1
_PACKAGES = ("dlrm-jax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "polars")


def write_text(path: str | Path, text: str) -> None:
  """Replaces `path` with `text` atomically: readers see either the old file or the new one."""
  write_bytes(path, text.encode(errors="surrogateescape"))  # names of files need not be UTF-8


def write_bytes(path: str | Path, data: bytes) -> None:
  """Replaces `path` with `data` atomically."""
  with written_whole(path) as file:
    file.write(data)


@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[BinaryIO]:
  """Opens a temporary file, which replaces `path` when the block ends: fsync, rename, fsync of the directory."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    Path(temporary).unlink(missing_ok=True)
    raise
  sync(path.parent)


def sync(path: str | Path) -> None:
  """Waits until a file, or the entries of a directory, are on disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def _json_value(value: Any) -> Any:
  """Replaces NaN and infinities by None and numpy scalars by Python numbers, as strict JSON requires."""
  if isinstance(value, dict):
    return {str(k): _json_value(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_json_value(v) for v in value]
  if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def dumps(value: Any, indent: int | None = 2) -> str:
  """Converts a value to strict JSON. Undefined numbers (NaN, infinity) become null."""
  return json.dumps(_json_value(value), indent=indent, allow_nan=False)


def write_json(path: str | Path, value: dict[str, Any]) -> None:
  """Writes a JSON object atomically."""
  write_text(path, dumps(value) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
  """Reads a JSON object. Raises UserError naming the file if it is absent or not JSON."""
  try:
    value = json.loads(Path(path).read_text())
  except FileNotFoundError:
    raise UserError(f"{path}: no such file") from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise UserError(f"{path}: not valid JSON ({error})") from None
  if not isinstance(value, dict):
    raise UserError(f"{path}: not a JSON object")
  return value


def read_curve(path: str | Path) -> list[dict[str, Any]]:
  """Reads `curve.jsonl`, which has one evaluation a line, in order of examples. Raises UserError for a line that is no JSON object."""
  with open(path) as file:
    rows = [json.loads(line) for line in file if line.strip()]
  for number, row in enumerate(rows, start=1):
    if not isinstance(row, dict):
      raise UserError(f"{path}:{number}: not a JSON object")
  return rows


def header() -> dict[str, Any]:
  """Returns the first fields of every JSON file: schema_version, command, hardware, software."""
  return {"schema_version": SCHEMA_VERSION, "command": command(), "hardware": hardware(), "software": software()}


def command() -> list[str]:
  """Returns the words of this process's command line: `python -m module --flags`."""
  spec = getattr(sys.modules.get("__main__"), "__spec__", None)
  return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]] if spec else list(sys.argv)


def hardware() -> dict[str, Any]:
  """Describes the host: its processor, the cores that this process may use, and its memory in bytes."""
  model = platform.processor() or platform.machine()
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
  except (OSError, StopIteration):
    pass
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  return {"cpu": model, "cores": cores, "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


def software() -> dict[str, Any]:
  """Returns the versions of Python and of the libraries that change the numbers, and the commit of the source tree if there is one."""
  versions: dict[str, Any] = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  return versions | {"git_commit": git_commit()}


@functools.cache
def git_commit() -> str | None:
  """Returns the commit of the source tree, with `+changes` if the tree was modified, or None outside a checkout. Asked once a process."""
  here = Path(__file__).parent
  try:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    dirty = subprocess.run(
      ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10, check=True
    ).stdout
  except (OSError, subprocess.SubprocessError):
    return None
  return head + ("+changes" if dirty.strip() else "")
