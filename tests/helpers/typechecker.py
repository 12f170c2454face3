"""The run-time type checker of the tests: beartype, with whole numbers accepted where floats are expected (PEP 484).

jaxtyping's own decorator binds the arguments of every call and checks them twice. The one here checks the same once, which halves the time
of tests that make many small calls. A pytest plugin: conftest.py loads it before any module of the packages.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping

try:
  from beartype import BeartypeConf, beartype
except ModuleNotFoundError:  # the lean environment: types are not checked there
  beartype = None

check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError)) if beartype else lambda fn: fn
_of_jaxtyping = jaxtyping.jaxtyped


def has_arrays(hint: Any) -> bool:
  """Whether a type hint contains one of jaxtyping's types."""
  if isinstance(hint, list | tuple):  # the types of a Callable's arguments, or several hints
    return any(map(has_arrays, hint))
  return type(hint).__module__.startswith("jaxtyping") or has_arrays(typing.get_args(hint))


def _hints(fn: Callable[..., Any]) -> tuple[Any, ...] | None:
  """The type hints of a function. None for those that are left to jaxtyping: generators, and types that are defined later."""
  if inspect.isgeneratorfunction(fn) or inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
    return None
  try:
    hints = tuple(typing.get_type_hints(fn, include_extras=True).values())
  except Exception:  # such as a NameError
    return None
  return None if "{" in repr(hints) else hints  # a size that an argument gives


def checked(fn: Any = None, *, typechecker: Any) -> Any:
  """Replaces `jaxtyping.jaxtyped`, with which jaxtyping's import hook decorates every function and class of the packages."""
  if fn is None:
    return functools.partial(checked, typechecker=typechecker)
  if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
    fn.__init__ = checked(fn.__init__, typechecker=typechecker)
  if not inspect.isfunction(fn) or (hints := _hints(fn)) is None:
    return fn if inspect.isclass(fn) else _of_jaxtyping(fn, typechecker=typechecker)
  checks = typechecker(fn)
  if not has_arrays(hints):
    return checks

  @functools.wraps(fn)
  def with_sizes(*args: Any, **kwargs: Any) -> Any:
    __tracebackhide__ = True
    with _of_jaxtyping("context"):  # the sizes of this call
      return checks(*args, **kwargs)

  return with_sizes


jaxtyping.jaxtyped = checked
