"""Checks the types of what `sweep.json`, `record.json` and `curve.jsonl` hold, before tables are made of it. Called by `load.py`.

Files of another version, or written by hand, may hold anything. Each check raises UserError in one line that names file, field, value and
what is allowed.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dlrm_jax.common.flags import UserError

_SHOWN = 60  # characters of a value in a message
Kind = tuple[str, Callable[[Any], bool]]  # in words, and whether a value is of the kind


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
  return _is_number(value) and value == int(value) and abs(value) < 2**63


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _all(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
  return lambda value: isinstance(value, dict) and all(map(kind, value.values()))


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
  return lambda value: value is None or kind(value)


NUMBER, WHOLE, TEXT = ("a number", _is_number), ("a whole number", _is_whole), ("text", _is_text)
COUNT = ("a whole number from 0 on", lambda value: _is_whole(value) and value >= 0)
OBJECT, LIST = ("an object", _all(lambda _: True)), ("a list", lambda value: isinstance(value, list))
NUMBERS = ("an object of numbers", _all(_or_none(_is_number)))
TABLES = ("a list of objects with num_rows", lambda value: isinstance(value, list) and all(map(_is_table, value)))


def _is_table(value: Any) -> bool:
  return isinstance(value, dict) and _is_number(value.get("num_rows"))


POINT = {"workload": TEXT, "axis": TEXT, "size": NUMBER, "seed": WHOLE, "learner": TEXT, "config_id": TEXT}
POINT_MORE = {"label": TEXT, "sizes": NUMBERS, "lr_factor": NUMBER}  # may be absent
_HEADER = {"command": LIST, "hardware": OBJECT, "software": OBJECT}
_RECORD = {
  **_HEADER,
  "config_id": TEXT,
  "status": TEXT,
  "examples": COUNT,
  "config": OBJECT,
  "theory": OBJECT,
  "tables": TABLES,
  "params": NUMBERS,
  "flops_per_example": NUMBERS,
  "flops_total": NUMBER,
  "base_rate": NUMBER,
  "trained_together": NUMBER,
  "wall_s": NUMBER,
  "examples_per_s": NUMBER,
  "eval_examples": COUNT,
  "restored_examples": COUNT,
  **dict.fromkeys(("logistic_log_loss", "logistic_ne", "base_rate_log_loss", "base_rate_ne"), NUMBER),
}
_CONFIG = {"model": OBJECT, "train": OBJECT, "data": TEXT}
_MODEL = {"embed_dim": NUMBER, "num_rows": NUMBER}
_TRAIN = {"seed": WHOLE, "learner": TEXT, "lr_schedule": TEXT, "order": TEXT, "window": TEXT}
_THEORY = {"s": NUMBER, "beta_data": NUMBER, "beta_rows": NUMBER}


def check_header(path: Path, content: Mapping[str, Any]) -> None:
  """The fields that every file begins with, where they are there."""
  _check(f"{path}: has", content, _HEADER)


def check_points(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """The points of `sweep.json`, each an object with the fields of `POINT`."""
  for number, row in enumerate(rows):
    _check(f"{path}: point {number} has", row, POINT | POINT_MORE)


def check_record(path: Path, entry: Mapping[str, Any], numbers: Iterable[str]) -> None:
  """A record, whose fields `numbers` are numbers too."""
  _check(f"{path}: has", entry, _RECORD | dict.fromkeys(numbers, NUMBER))
  config = entry.get("config") or {}
  _check(f"{path}: config has", config, _CONFIG)
  for name, kinds in {"model": _MODEL, "train": _TRAIN}.items():
    _check(f"{path}: config.{name} has", config.get(name) or {}, kinds)
  _check(f"{path}: theory has", entry.get("theory") or {}, _THEORY)


def check_curve(path: Path, rows: Iterable[Mapping[str, Any]], numbers: Iterable[str]) -> None:
  """The lines of a curve, whose fields `numbers` are numbers."""
  names = [name for name in numbers if name not in ("config_id", "examples")]
  for number, row in enumerate(rows, start=1):
    if not _is_whole(row.get("examples")):
      raise UserError(f"{path}:{number}: has examples={_shown(row.get('examples'))}: must be a whole number")
    _check(f"{path}:{number}: has", row, dict.fromkeys(names, NUMBER) | {"eval_examples": COUNT})


def _check(where: str, values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
  for name, (words, is_kind) in kinds.items():
    value = values.get(name)
    if value is not None and not is_kind(value):
      raise UserError(f"{where} {name}={_shown(value)}: must be {words}")


def _shown(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
