"""The places at which `analysis.fit --predict_at` predicts: from the flag itself, or from a CSV file."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float

from analysis.questions.csv_points import Columns, read_table
from dlrm_jax.common import flags

Array = np.ndarray
_FORM = "a CSV file with the columns of --x, or such as {example}; a column that is named again begins the next place"
_SHOWN = 10  # groups that an error names


@dataclasses.dataclass(frozen=True)
class Place:
  """A place in the columns of x, for one group or, where `group` is None, for all of them."""

  x: tuple[float, ...]
  group: str | None = None


def places_of(words: Sequence[str], columns: Columns) -> list[Place]:
  """The places that the elements of the flag name. Raises UserError with flag, value and what is allowed."""
  if not words:
    return []
  path = Path(",".join(words))
  if path.is_file() or "=" not in words[0]:
    return _of_file(path, columns)
  count, out = len(columns.x), []
  for start in range(0, len(words), count):
    part = words[start : start + count]
    values = dict(_value(word, words, columns) for word in part)
    if set(values) != set(columns.x):
      _refuse(words, columns, f"each place needs {' and '.join(columns.x)} once")
    out.append(Place(tuple(values[name] for name in columns.x)))
  return out


def check_groups(places: Sequence[Place], groups: Iterable[str], columns: Columns) -> None:
  """Raises UserError where a place is for a group that the points do not have."""
  known = list(groups)
  if unknown := [place.group for place in places if place.group is not None and place.group not in known]:
    shown = ", ".join(known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    raise flags.UserError(f"--predict_at: no points have {columns.group}={unknown[0]}, they have {shown}")


def of_group(places: Sequence[Place], group: str, columns: int) -> Float[Array, "T C"]:
  """The places of one group."""
  return np.array([place.x for place in places if place.group in (None, group)], np.float64).reshape(-1, columns)


def _value(word: str, words: Sequence[str], columns: Columns) -> tuple[str, float]:
  name, _, number = (part.strip() for part in word.rpartition("="))
  if name not in columns.x:
    _refuse(words, columns, f"--x has no column {name or word}, it has {', '.join(columns.x)}")
  value = _positive(number)
  if value is None:
    _refuse(words, columns, f"{word} is not a positive number")
  return name, value


def _positive(text: str) -> float | None:
  """The number that a text holds; None where it is not positive and finite."""
  try:
    value = float(text)
  except ValueError:
    return None
  return value if np.isfinite(value) and value > 0 else None


def _refuse(words: Sequence[str], columns: Columns, reason: str) -> NoReturn:
  example = ",".join(f"{name}=1e9" for name in columns.x)
  raise flags.UserError(f"--predict_at={','.join(words)}: {reason}; it must be {_FORM.format(example=example)}")


def _of_file(path: Path, columns: Columns) -> list[Place]:
  """One place a line. A file with the column of --group has places for the groups that it names, another one for all groups."""
  names, rows = read_table(path, "predict_at")
  if missing := [name for name in columns.x if name not in names]:
    raise flags.UserError(f"--predict_at={path}: no column {missing[0]}, it has {', '.join(names)}")
  at_group = names.index(columns.group) if columns.group and columns.group in names else None
  out = []
  for number, row in rows:
    values = []
    for name in columns.x:
      cell = row[names.index(name)].strip()
      value = _positive(cell)
      if value is None:
        raise flags.UserError(f"{path}:{number}: column {name} holds '{cell}', a positive number is needed")
      values.append(value)
    out.append(Place(tuple(values), None if at_group is None else row[at_group].strip()))
  if not out:
    raise flags.UserError(f"--predict_at={path}: no places below the header")
  return out
