"""XLA programs on disk, so that what was compiled once is not compiled again: jax's persistent cache, with files that can be trusted.

jax writes an entry straight into its place and never replaces it: a kill in the middle would leave a broken one for good, and other
processes read what is half written. Here entries appear whole, carry a checksum, and one that is damaged counts as absent.
Installed by `hardware.share_compiled`.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import jax
import xxhash
from jax._src import compilation_cache as jax_cache
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from dlrm_jax.common import record

_DIGEST_BYTES = 16


class Entries:
  """What jax asks of a cache: programs by key, one file each in `path`. Any number of processes may read and write it."""

  def __init__(self, path: str | Path):
    self._path, self._told = Path(path), False

  def _file(self, key: str) -> Path:
    return self._path / f"{key}.xla"

  def get(self, key: str) -> bytes | None:
    """The program; None where there is none, or one that is damaged or cannot be read."""
    with contextlib.suppress(OSError):
      data = self._file(key).read_bytes()
      digest, value = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
      if xxhash.xxh3_128_digest(value) == digest:
        os.utime(self._file(key))  # `trim` removes those that were not used for longest
        return value
    return None

  def put(self, key: str, value: bytes) -> None:
    """Keeps a program, in place of a damaged one too. Where that is impossible a line on standard error says so, once; nothing else
    depends on it."""
    try:
      record.write_bytes(self._file(key), xxhash.xxh3_128_digest(value) + value)
    except OSError as error:
      if not self._told:
        print(f"compiled programs cannot be kept in {self._path}: {error.strerror}", file=sys.stderr, flush=True)
      self._told = True


def _entries(path: str) -> Any:
  """In place of jax's function of this purpose, which it has no setting for; a jax without it would keep its own kind of files."""
  return Entries(path), path


def install(path: Path) -> None:
  """Has jax keep and look for every program, however fast it compiled, in the directory `path`."""
  jax_cache.get_file_cache = _entries
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  # XLA's own caches would be named in each program's options, and keys would depend on the path by which the directory was reached.
  jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  reset_cache()  # of what jax found when it first compiled


def trim(directory: Path, most_bytes: int) -> None:
  """Removes the programs below a directory that were not used for longest, until the others fit in so many bytes. Other processes may do
  the same."""
  files = []
  for file in directory.rglob("*.xla*"):  # and what a kill left of one
    with contextlib.suppress(OSError):
      files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
  kept = 0
  for _, size, file in sorted(files, reverse=True):
    kept += size
    if kept > most_bytes:
      file.unlink(missing_ok=True)
