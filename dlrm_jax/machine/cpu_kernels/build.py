"""Registers the kernels with jax, and compiles them if necessary (`native.py`)."""

import ctypes
import functools
from pathlib import Path

import jax

from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.machine import native

_HERE = Path(__file__).parent
_SOURCES = ("tables.cc", "interaction.cc", "layers.cc")
_TARGETS: tuple[str, ...] = ("dlrm_take", "dlrm_sgd", "dlrm_adagrad", "dlrm_interact", "dlrm_interact_backward")
_TARGETS += ("dlrm_bias_relu", "dlrm_bias_relu_backward")
# These let the compiler sum in vectors. NaN and infinity keep their meaning.
_FLAGS = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")


def ready(choice: str) -> bool:
  """Returns whether the kernels can be called, and compiles them if necessary.

  Args:
    choice: `--kernels`. "xla": False. "auto": False with a line on standard error if they cannot be compiled. "native": UserError then.
  """
  if choice == "xla":
    return False
  problem = _register()
  if problem and choice == "native":
    raise UserError(f"--kernels=native: {problem}; --kernels=xla needs none")
  if problem and problem not in _said:
    _said.add(problem)
    say(f"{problem}; XLA's own loops are used instead and are slower")
  return not problem


_said: set[str] = set()  # problems that were printed


@functools.cache
def _register() -> str:
  """Registers the kernels with jax. Returns why that is impossible, or an empty text."""
  try:
    library = ctypes.CDLL(str(_built()))
  except native.ERRORS as error:
    return f"the CPU kernels cannot be compiled or loaded (CXX names the compiler, XDG_CACHE_HOME their directory): {error}"
  for name in _TARGETS:
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
  return ""


def _built() -> Path:
  sources = [_HERE / name for name in _SOURCES]
  return native.library("CPU kernels", sources, _FLAGS, [Path(jax.ffi.include_dir())], [jax.__version__], seconds=15)
