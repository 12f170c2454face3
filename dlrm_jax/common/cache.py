"""The user's cache directory, for what takes long to make and depends on versions alone: compiled code, the JavaScript of pages."""

import os
from pathlib import Path


def cache_dir() -> Path:
  """Returns `dlrm_jax` below $XDG_CACHE_HOME or ~/.cache, and makes it if it is absent. Raises OSError if it cannot be made."""
  path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlrm_jax"
  path.mkdir(parents=True, exist_ok=True)
  return path
