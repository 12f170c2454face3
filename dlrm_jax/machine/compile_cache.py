"""Keeps compiled XLA programs on disk, so that none is compiled twice. It is jax's persistent cache with files of our own.

jax writes an entry in place and never replaces it. A kill in the middle would leave a broken entry for good, and other processes would
read half of one. Here an entry appears whole and carries a checksum, and a damaged entry counts as absent.

jax has no setting for this, so `install` replaces a private function of jax, `get_file_cache`. `test_compile_cache.py` pins all that this
relies on, and pyproject.toml bounds the versions of jax. `hardware.share_compiled` calls `install`.
"""

import contextlib
import hashlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from dlrm_jax.common import record
from dlrm_jax.common.progress import say

jax_cache: Any = sys.modules[reset_cache.__module__]  # private: jax._src.compilation_cache
_DIGEST_BYTES = 16


def _digest(value: bytes) -> bytes:
  return hashlib.blake2b(value, digest_size=_DIGEST_BYTES).digest()


class Entries:
  """jax's interface of a cache (`CacheInterface`): one file in `path` for each program. Many processes may read and write it at once."""

  def __init__(self, path: str | Path):
    self._path, self._warned = Path(path), False  # jax reads `_path`

  def _file(self, key: str) -> Path:
    return self._path / f"{key}.xla"

  def get(self, key: str) -> bytes | None:
    """The program; None if it is absent, damaged or unreadable."""
    with contextlib.suppress(OSError):
      data = self._file(key).read_bytes()
      digest, value = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
      if _digest(value) == digest:
        os.utime(self._file(key))  # `trim` removes the least recently used
        return value
    return None

  def put(self, key: str, value: bytes) -> None:
    """Writes a program, over a damaged one too. The first failure prints one line on standard error; none raises."""
    try:
      record.write_bytes(self._file(key), _digest(value) + value)
    except OSError as error:
      if not self._warned:
        say(f"compiled programs cannot be kept in {self._path}: {error.strerror}")
      self._warned = True


def _get_file_cache(path: str) -> tuple[Entries, str]:
  """Replaces jax's function of this name."""
  return Entries(path), path


def install(path: Path) -> None:
  """Makes jax write every program that it compiles to the directory `path`, and look there first.

  Where jax no longer has the function that is replaced, programs are not kept and one line on standard error says so.
  """
  made_by = getattr(jax_cache, "get_file_cache", None)
  if made_by is None or list(inspect.signature(made_by).parameters) != ["path"]:
    reason = f"jax {jax.__version__} has no get_file_cache(path) to replace; install a version of jax that dlrm-jax requires"
    say(f"compiled programs are not kept: {reason}")
    return
  jax_cache.get_file_cache = _get_file_cache
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  # XLA's own caches would be named in each program's options. Keys would then depend on the path to the directory.
  jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  reset_cache()  # jax has chosen a cache already if it has compiled anything


def trim(directory: Path, most_bytes: int) -> None:
  """Removes the least recently used programs below a directory until the others fit in `most_bytes`. Other processes may do the same."""
  files = []
  for file in directory.rglob("*.xla*"):  # temporary files of killed processes match too
    with contextlib.suppress(OSError):
      files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
  kept = 0
  for _, size, file in sorted(files, reverse=True):
    kept += size
    if kept > most_bytes:
      file.unlink(missing_ok=True)
