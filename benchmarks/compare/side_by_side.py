"""Matches the rows of several benchmark files by the fields that identify them, and labels rows and files. Used by `benchmarks.compare`."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.results import File, direction, is_number, value_text
from benchmarks.measure.table import Row
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError

# Fields that neither identify a row nor are compared. Other fields with fractions are treated alike, except for the settings _FRACTIONS.
_FACTS = re.compile(r"steps|rounds|warmup|peak_source|top_op|num_ops|flops_per_example|fits|versions|\w+_per_device")
_FRACTIONS = ("skew",)
_ALWAYS = ("name", "workload", "operation", "scope", "batch_size", "num_rows", "embed_dim")  # rows that differ in these are never matched


@dataclasses.dataclass(frozen=True)
class Line:
  """Matched rows of several files: their label, the fields that identify them, and the metric in each file (None: no number)."""

  label: str
  fields: Row
  values: tuple[float | None, ...]

  @property
  def ratios(self) -> tuple[float | None, ...]:
    """Each value over the first file's; None where either is missing or the first is 0."""
    first = self.values[0]
    return tuple(None if value is None or not first else value / first for value in self.values)


@dataclasses.dataclass(frozen=True)
class Match:
  """The result of matching.

  Attributes:
    lines: rows that at least two files have, in the order of the files.
    alone: (path, label, value) of rows that only one file has.
    common: fields that are the same in all lines.
    differing: fields with one value in each file that differ between files. Rows were matched in spite of them.
  """

  lines: tuple[Line, ...]
  alone: tuple[tuple[str, str, float | None], ...]
  common: Row
  differing: dict[str, tuple[Any, ...]]


def match(files: Sequence[File], metric: str, ignore: Sequence[str] = ()) -> Match:
  """Matches the rows that have `metric` by all other fields that are not measurements, except those in `ignore`.

  A field such as a placement may have one value in one file and another value in another file. Then it is what is compared, and rows
  are matched in spite of it. But name, operation, batch and table sizes must always be equal.

  Raises UserError where no rows match, rows of one file are equal in all fields, or `ignore` names an unknown field.
  """
  rows = [[{n: v if direction(n) else _plain(v) for n, v in row.items()} for row in file.rows if metric in row] for file in files]
  fields = _identifying([row for some in rows for row in some])
  names = [name for name in (*_ALWAYS, *(name for name in fields if name not in _ALWAYS)) if name in fields]
  unknown = [name for name in ignore if name not in names]
  if unknown:
    raise UserError(f"--ignore={unknown[0]}: must be among {', '.join(names)}")
  found = {name: [list(dict.fromkeys(row.get(name) for row in some)) for some in rows] for name in names}
  single = {name: tuple(v[0] for v in each) for name, each in found.items() if all(len(v) == 1 for v in each)}
  differing = {n: values for n, values in single.items() if len(set(values)) > 1 and (n not in _ALWAYS or n in ignore)}
  keys = [name for name in names if name not in differing and name not in ignore]
  by_key: dict[tuple, dict[int, float | None]] = {}
  for number, (file, some) in enumerate(zip(files, rows, strict=True)):
    for row in some:
      key = tuple(row.get(name) for name in keys)
      if number in by_key.setdefault(key, {}):
        shown = ", ".join(f"{name}={value}" for name, value in zip(keys, key, strict=True) if value is not None)
        only = " but what --ignore names" if ignore else ""
        raise UserError(f"{file.path}: several rows are {shown}: nothing tells them apart{only}")
      by_key[key][number] = row[metric] if is_number(row[metric]) else None
  shared = {key: mine for key, mine in by_key.items() if len(mine) > 1}
  if not shared:
    apart = [f"{name} ({' | '.join(_texts(each))})" for name, each in found.items() if name in keys and _disjoint(each)]
    hint = f": they differ in {', '.join(apart)}; --ignore=NAME matches in spite of one" if apart else ""
    raise UserError(f"{' and '.join(file.path for file in files)}: no rows in common" + hint)
  labels = labels_of(keys, list(by_key))
  lines = tuple(
    Line(labels[key], dict(zip(keys, key, strict=True)), tuple(mine.get(n) for n in range(len(files)))) for key, mine in shared.items()
  )
  alone = tuple((files[n].path, labels[key], value) for key, mine in by_key.items() if len(mine) == 1 for n, value in mine.items())
  common = {name: lines[0].fields[name] for name in keys if len({line.fields[name] for line in lines}) == 1}
  return Match(lines, alone, common, differing)


def _identifying(rows: Sequence[Row]) -> list[str]:
  """The fields that identify a row."""
  names = dict.fromkeys(name for row in rows for name, value in row.items() if value is not None)
  fractions = {name for row in rows for name, value in row.items() if isinstance(value, float) and name not in _FRACTIONS}
  return [name for name in names if not (direction(name) or _FACTS.fullmatch(name) or name in fractions)]


def _plain(value: Any) -> Any:
  """A value that can be a key: lists and objects become JSON."""
  return record.dumps(value, indent=None) if isinstance(value, (list, dict)) else value


def _disjoint(each: list[list]) -> bool:
  return all(not set(a) & set(b) for i, a in enumerate(each) for b in each[:i])


def _texts(each: list[list]) -> list[str]:
  return [", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "") for values in each]


def field_text(name: str, value: Any) -> str:
  """One field of a row as text: "batch 2,048"."""
  short = {"batch_size": "batch {}", "num_rows": "{} rows", "embed_dim": "dim {}"}
  bare = ("name", "workload", "operation", "scope", "placements", "series")
  if name == "size_bytes" and isinstance(value, int):
    return value_text(name, value)
  text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
  return short.get(name, "{}" if name in bare else name.replace("_", " ") + " {}").format(text)


def labels_of(keys: Sequence[str], rows: Sequence[tuple]) -> dict[tuple, str]:
  """A label for each row, made of the first fields that distinguish the rows; the first field where there is one row."""
  chosen: list[int] = []
  for place in range(len(keys)):
    if len({tuple(row[i] for i in (*chosen, place)) for row in rows}) > len({tuple(row[i] for i in chosen) for row in rows}):
      chosen.append(place)
  chosen = chosen or [0]
  return {row: " · ".join(field_text(keys[i], row[i]) for i in chosen if row[i] is not None) or "-" for row in rows}


def file_labels(files: Sequence[File], differing: dict[str, tuple[Any, ...]], changed: dict[str, tuple[str, ...]]) -> list[str]:
  """A label for each file: its shortest unique name, its device, and the first settings that differ."""
  parts = [Path(file.path).with_suffix("").parts for file in files]
  depth = next((n for n in range(1, max(map(len, parts)) + 1) if len({p[-n:] for p in parts}) == len(files)), max(map(len, parts)))
  software = [name for name in ("software.jax", "hardware.cores") if name in changed]
  others = [name for name in changed if name.startswith("--") and name.removeprefix("--") not in differing]
  labels = []
  for number, file in enumerate(files):
    shown = [field_text(name, values[number]) for name, values in differing.items() if name != "topology" and values[number] is not None]
    shown += [f"{name.partition('.')[2]} {changed[name][number]}" for name in software]
    shown += [f"{name}={changed[name][number]}" for name in others if changed[name][number] != "-"]
    more = ["..."] if len(shown) > 3 else []
    labels.append(f"{'/'.join(parts[number][-depth:])}: " + ", ".join([file.device, *shown[:3], *more]))
  return labels
