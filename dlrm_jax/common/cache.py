"""The directory of what takes long to make and depends on versions alone: compiled code, the JavaScript of pages."""

import os
from pathlib import Path


def cache_dir() -> Path:
  """`dlrm_jax` below $XDG_CACHE_HOME or ~/.cache, made if it is not there. Raises OSError where it cannot be made."""
  path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlrm_jax"
  path.mkdir(parents=True, exist_ok=True)
  return path
