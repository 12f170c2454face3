"""Has the tests keep their compiled programs in the user's cache, as every program of this project does. A pytest plugin of conftest.py.

Workers and the programs that tests start share what is compiled. A second run compiles little.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_directory: list[str] = []
_of_jax: dict[str, Any] = {}  # what `compile_cache.install` replaces


def _trim_others(users: Path, trim: Callable[[Path, int], None]) -> Callable[[Path, int], None]:
  """`compile_cache.trim` without the walk through the user's cache, which every program begins with. It was trimmed just now."""
  return lambda directory, most_bytes: None if directory == users else trim(directory, most_bytes)


@pytest.fixture(autouse=True)
def kept_programs(request: pytest.FixtureRequest) -> None:
  """Points jax at the cache again where a test has pointed it elsewhere, unless this one uses the fixture `compiled_anew`."""
  jax = sys.modules.get("jax")
  if jax is None or "compiled_anew" in request.fixturenames or _directory == [jax.config.jax_compilation_cache_dir]:
    return
  from dlrm_jax.machine import compile_cache, hardware  # only now: conftest.py has set the environment, and jaxtyping's hook is in place

  _of_jax.setdefault("get_file_cache", compile_cache.jax_cache.get_file_cache)
  hardware.share_compiled()
  if not _directory and jax.config.jax_compilation_cache_dir:
    compile_cache.trim = _trim_others(Path(jax.config.jax_compilation_cache_dir).parent, compile_cache.trim)
  _directory[:] = [jax.config.jax_compilation_cache_dir]


@pytest.fixture
def compiled_anew() -> None:
  """For tests of the cache, and of programs for absent machines, which jax can write to the cache but not read."""
  import jax

  from dlrm_jax.machine.compile_cache import jax_cache

  jax.config.update("jax_compilation_cache_dir", None)
  for name, value in _of_jax.items():
    setattr(jax_cache, name, value)
  jax_cache.reset_cache()
