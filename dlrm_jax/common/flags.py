"""Generates command-line flags from frozen dataclasses. `run` starts the `main` of every program.

A field made with `option(default, help, choices)` becomes one absl flag of the same name. Nested dataclasses are flattened, and their
`PREFIX` comes first. The dataclass is the only place where a setting, its default and its check are written.
"""

import dataclasses
import functools
import io
import math
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from absl import flags as absl_flags

from dlrm_jax.common import interrupts, starting
from dlrm_jax.common.stopping import EXIT_CODE, Stopped
from dlrm_jax.common.text import visible

T = TypeVar("T")
_TYPE_WORDS = {int: "an integer", float: "a finite number", str: "text", bool: "true or false"}
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")
# An element of a list: in quotes, within which "" is a quote, with what follows up to the comma; or whatever is before the comma.
_ELEMENT = re.compile(r'\s*(?:"((?:[^"]|"")*+)"([^,]*)|([^,]*))(?:,|$)')


class UserError(ValueError):
  """Bad input. `run` prints it as one line, without a traceback, and exits with code 2."""


def option(
  default: Any = dataclasses.MISSING,
  help: str = "",  # noqa: A002
  choices: tuple[str, ...] = (),
  words: bool = False,
  affects: object = None,
  at_least: float | None = None,
  above: float | None = None,
  zero: str = "",
) -> Any:
  """A dataclass field that is also a flag. Without a default the flag is required.

  Args:
    default: the value when the flag is not given.
    help: one line for `--help`, with the unit where there is one.
    choices: the allowed values; for tuple fields, of each element.
    words: not a flag: the field takes the words between the flags, such as names of files. A program has one such field at most.
    affects: what the field of a run's config affects (`affects.Affects`).
    at_least, above: the bound of a number. None passes where the field may be None.
    zero: a word that the flag takes for 0, and that is shown for it, such as "all".
  """
  bounds = {"at_least": at_least, "above": above, "zero": zero}
  return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "words": words, "affects": affects, **bounds})


def check(ok: bool, config: Any, field: str, allowed: str) -> None:
  """Unless `ok`, raises UserError with the flag, its value and what is allowed."""
  if not ok:
    raise UserError(f"--{getattr(config, 'PREFIX', '')}{field}={_shown(getattr(config, field))}: must be {allowed}")


def check_fields(config: Any) -> None:
  """Checks all fields of a dataclass that were declared with `choices`, `at_least` or `above`. Raises UserError for the first bad one."""
  for field in dataclasses.fields(config):
    value, choices = getattr(config, field.name), field.metadata.get("choices")
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    if choices:
      check(all(v in choices for v in values), config, field.name, "among " + ", ".join(choices))
    if (at_least := field.metadata.get("at_least")) is not None:
      check(all(v >= at_least for v in values), config, field.name, f"at least {at_least}")
    if (above := field.metadata.get("above")) is not None:
      check(all(v > above for v in values), config, field.name, f"above {above}")


def _without_none(kind: Any) -> Any:
  """Returns X for a type `X | None`, and any other type as it is."""
  union = typing.get_origin(kind) in (typing.Union, types.UnionType)
  return next(k for k in typing.get_args(kind) if k is not type(None)) if union else kind


def split_list(text: str) -> list[str]:
  """Splits a comma-separated list. Blanks around an element and empty elements are dropped.

  An element in double quotes, or one that begins with them, keeps its commas and blanks, as in CSV: `"c,d":row` is one element. Two quotes
  within it are a quote. A quote at another place, or one that is never closed, is text.
  """
  out = []
  for found in _ELEMENT.finditer(text):
    quoted, after, plain = found.groups()
    if quoted is not None:
      out.append(quoted.replace('""', '"') + after.rstrip())
    elif plain.strip():
      out.append(plain.strip())
  return out


def join_list(elements: Iterable[Any]) -> str:
  """Returns the list that `split_list` splits into these elements: in quotes where they need them."""

  def written(element: str) -> str:
    plain = element and element == element.strip() and "," not in element and not element.startswith('"') and element != "none"
    return element if plain else '"' + element.replace('"', '""') + '"'

  return ",".join(written(str(element)) for element in elements)


def _shown(value: Any, zero: str = "") -> str:
  """Returns a value as it is written after a flag; 0 as the word `zero`, if there is one."""
  if zero and value == 0:
    return zero
  return join_list(value) if isinstance(value, tuple) else "none" if value is None else str(value)


def parse_value(text: str, kind: Any) -> Any:
  """Converts flag text to `kind`: int, float, bool, str, `tuple[X, ...]` (see `split_list`), or any of these `| None`.

  Raises ValueError if the text does not fit.
  """
  wanted, kind = kind, _without_none(kind)
  if kind is not wanted and text in ("", "none", "None"):
    return None
  if typing.get_origin(kind) is tuple:
    element = typing.get_args(kind)[0]
    text = "" if text == "none" else text
    return tuple(parse_value(part, element) for part in split_list(text))
  if kind is bool:
    if text.lower() in _TRUE + _FALSE:
      return text.lower() in _TRUE
  elif kind is int:
    try:
      return int(text.replace("_", ""))
    except ValueError:
      value = float(text)
      if "e" in text.lower() and value.is_integer():  # 1e6
        return int(value)
  elif kind is float:
    value = float(text)
    if not math.isfinite(value):
      raise ValueError(text)
    return value
  else:
    return text
  raise ValueError(text)


def _describe(kind: Any, zero: str = "") -> str:
  kind = _without_none(kind)
  if zero:
    return f"{_TYPE_WORDS[kind]} or {zero}"
  if typing.get_origin(kind) is tuple:
    element = typing.get_args(kind)[0]
    return f"a comma-separated list, each {_TYPE_WORDS[element]}" + (', in "quotes" where it has a comma' if element is str else "")
  return _TYPE_WORDS[kind]


class _Parser(absl_flags.ArgumentParser):
  """An absl parser for one dataclass field."""

  def __init__(self, kind: Any, zero: str = ""):
    self.kind, self.zero, self.syntactic_help = kind, zero, _describe(kind, zero)

  def parse(self, argument: Any) -> Any:
    if not isinstance(argument, str):
      return argument
    if self.zero and argument == self.zero:
      return 0
    try:
      return parse_value(argument, self.kind)
    except ValueError:
      raise ValueError(f"expected {self.syntactic_help}") from None


def _leaves(cls: type) -> list[tuple[tuple[str, ...], str, Any, dataclasses.Field]]:
  """Returns (path, flag name, type, field) for each option of a dataclass and of the dataclasses nested in it."""
  hints = typing.get_type_hints(cls)
  out = []
  for field in dataclasses.fields(cls):
    kind = hints[field.name]
    if dataclasses.is_dataclass(kind):
      out += [((field.name, *path), flag, k, f) for path, flag, k, f in _leaves(typing.cast(type, kind))]
    elif "help" in field.metadata:
      out.append(((field.name,), getattr(cls, "PREFIX", "") + field.name, kind, field))
  return out


def _help(cls: type, presets: Mapping[str, Any] | None, base: Any) -> str:
  """Returns the text of `--help`. Where the program has presets, the defaults are those of the preset `base`."""
  wrapped = functools.partial(textwrap.wrap, width=110, initial_indent="  ", subsequent_indent="    ")
  lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "flags:"]
  if presets:
    lines += wrapped(f"--preset: where the other flags start from: {', '.join(presets)}")
    chosen = next(name for name, preset in presets.items() if preset is base)
    lines.append(f"    default: {next(iter(presets))}; the defaults below are those of {chosen}")
  for path, flag, kind, field in _leaves(cls):
    if field.metadata["words"]:
      lines.insert(2, f"{flag.upper()} ...: {field.metadata['help']}\n")
      continue
    text = field.metadata["help"] + (f" ({', '.join(field.metadata['choices'])})" if field.metadata["choices"] else "")
    lines += wrapped(f"--{flag}: {text}")
    default = field.default if base is None else functools.reduce(getattr, path, base)
    required = field.default is dataclasses.MISSING
    shown = "required" if required else f"default: {_shown(default, field.metadata['zero']) or 'none'}"
    lines.append(f"    {_describe(kind, field.metadata['zero'])}; {shown}")
  return "\n".join([*lines, "  --flagfile: read flags from this file, one a line", "  --help: print this"])


def _build(cls: type, given: dict[tuple[str, ...], Any], base: Any) -> Any:
  """Makes `cls` from the given leaves. The other fields come from `base`, or are the defaults."""
  hints = typing.get_type_hints(cls)
  values: dict[str, Any] = {}
  for field in dataclasses.fields(cls):
    kind, below = hints[field.name], {path[1:]: v for path, v in given.items() if path[0] == field.name}
    if dataclasses.is_dataclass(kind):
      values[field.name] = _build(typing.cast(type, kind), below, getattr(base, field.name, None))
    elif () in below:
      values[field.name] = below[()]
    elif base is not None:
      values[field.name] = getattr(base, field.name)
    elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
      raise UserError(f"--{getattr(cls, 'PREFIX', '')}{field.name} is required: {field.metadata['help']}")
  return cls(**values)


def parse(argv: list[str], cls: type[T], presets: Mapping[str, T] | None = None) -> T:
  """Builds `cls` from command-line words, of which `argv[0]` is the program. Raises UserError for bad input. `--help` exits with code 0."""
  values = absl_flags.FlagValues()
  absl_flags.DEFINE_boolean("help", False, "print this", flag_values=values, short_name="h")
  values.set_gnu_getopt(True)  # flags may follow words
  leaves = [leaf for leaf in _leaves(cls) if not leaf[3].metadata["words"]]
  word_paths = [path for path, _, _, field in _leaves(cls) if field.metadata["words"]]
  for _, flag, kind, field in leaves:
    if kind is bool:
      absl_flags.DEFINE_boolean(flag, None, field.metadata["help"], flag_values=values)
    else:
      absl_flags.DEFINE(_Parser(kind, field.metadata["zero"]), flag, None, field.metadata["help"], flag_values=values)
  if presets:
    absl_flags.DEFINE_string("preset", next(iter(presets)), "", flag_values=values)
  try:
    rest = values(argv, known_only=False)
  except absl_flags.Error as error:
    raise UserError(" ".join(str(error).split())) from None
  if len(rest) > 1 and not word_paths:
    raise UserError(f"unexpected argument '{rest[1]}': flags are written --name=value")
  base = None
  if presets:
    name = str(values["preset"].value)
    if name not in presets:
      raise UserError(f"--preset={name}: must be among {', '.join(presets)}")
    base = presets[name]
  if values["help"].value:
    print(_help(cls, presets, base))
    sys.exit(0)
  given = {path: values[flag].value for path, flag, _, _ in leaves if values[flag].present}
  given |= {path: tuple(rest[1:]) for path in word_paths}
  return _build(cls, given, base)


def words(config: Any) -> list[str]:
  """Returns the flags from which `parse` builds `config` again, whatever the defaults are. One program starts another with them."""
  return [f"--{flag}={_shown(functools.reduce(getattr, path, config))}" for path, flag, _, _ in _leaves(type(config))]


def fail(message: str) -> NoReturn:
  """Prints one line to standard error and exits with code 2."""
  print(f"error: {visible(message)}", file=sys.stderr)
  sys.exit(2)


def run(main: Callable[[T], None], cls: type[T], presets: Mapping[str, T] | None = None) -> None:
  """Parses the command line into `cls` and calls `main` with it. Bad input gives one line and exit code 2.

  Errors of the operating system (no such file, no permission, disk full) count as bad input. Any other exception is a bug and keeps its
  traceback. `Stopped` gives one line and exit code 75: the same command continues the work. Ctrl-C gives one line and exit code 130.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")  # names have characters that a terminal's encoding may lack
  try:
    with interrupts.raising():
      main(parse(sys.argv, cls, presets))
  except Stopped as stop:
    print(stop, file=sys.stderr, flush=True)
    sys.exit(EXIT_CODE)
  except UserError as error:
    fail(str(error))
  except OSError as error:
    fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
  except KeyboardInterrupt:
    message = "interrupted: unfinished work wrote no result; the same command continues from what was saved, if anything"
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(starting.EXIT_CODE)  # at once: a step that still runs in XLA's threads would crash when the interpreter ends
