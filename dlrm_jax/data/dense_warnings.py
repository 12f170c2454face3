"""Warnings about dense columns that harm a model or teach it nothing, from the statistics in dataset.json.

`prepare`, `describe` and `train` say them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from dlrm_jax.common.progress import say
from dlrm_jax.data.transform import Input

# Root mean square of an input. On a log whose NE is .59 with a scaled column, 3 gave .61, 10 gave .72 and 30 gave .91.
UNSCALED = {"none": 5.0, "log1p": 10.0}  # Criteo's I5 has 7.8, and its reference model reads it so
FAR = 20.0  # deviations of the farthest number from the mean. A normal column has 6, an exponential one 18, in 100 million rows
MOSTLY = 0.9  # share of missing cells


def dense_warnings(contents: dict[str, Any]) -> list[str]:
  """One line for each fault of a dense column: which column, what is wrong, what to do. None for data sets without statistics."""
  columns: dict[str, dict[str, Any]] = {}
  inputs: dict[str, Input] = {}
  stated = set()
  for entry in contents["columns"]["dense"]:
    if entry.get("transform") == "missing":
      stated.add(entry["column"])
    elif "statistics" in entry:
      columns[entry["column"]], inputs[entry["column"]] = entry["statistics"], Input.from_json(entry)
  for entry in contents["columns"]["categorical"]:
    if "bins" in entry:
      columns[entry["bins"]["column"]] = entry["statistics"]
      stated.add(entry["bins"]["column"])
  return [f"dense column {name!r} {fault}" for name, found in columns.items() for fault in _faults(found, inputs.get(name), name in stated)]


def say_warnings(lines: Sequence[str]) -> None:
  """Prints warnings on standard error."""
  for line in lines:
    say(f"warning: {line}")


def _faults(found: dict[str, Any], one: Input | None, states_missing: bool) -> Iterator[str]:
  """What is wrong with a column and what to do, most serious first.

  Args:
    found: its statistics.
    one: the dense input of its numbers; None if it has bins alone.
    states_missing: whether the model sees which cells are missing.
  """
  rows, missing = found["rows"], found["missing"]
  if missing == rows:
    yield "is empty in all training rows: take it out of [dense]"
    return
  if found["low"] == found["high"] and not (missing and states_missing) and not _fills_apart(found, one):
    yield f"is {found['low']:g} in all training rows, which teaches nothing: take it out of [dense]"
    return
  if missing > MOSTLY * rows:
    remedy = "take it out of [dense]" if states_missing else "set indicator = true, so that the model sees where, or take it out of [dense]"
    yield f"is empty in {missing / rows:.1%} of the training rows: {remedy}"
  if found["time"]:
    yield (
      f"looks like time stamps ({found['time']}), which are larger in new rows than in all training rows: "
      "take it out of [dense]; [time] makes hour and weekday features of it"
    )
  elif one is not None:
    yield from _shape_faults(found, one)


def _fills_apart(found: dict[str, Any], one: Input | None) -> bool:
  """Whether the missing cells of a constant column have an input that differs from that of the constant."""
  if one is None or not found["missing"] or one.transform not in ("log1p", "none"):
    return False
  return one.missing != (math.log1p(max(found["low"], 0.0)) if one.transform == "log1p" else found["low"])


def _shape_faults(found: dict[str, Any], one: Input) -> Iterator[str]:
  """Faults of the distribution of a dense input."""
  if one.transform == "quantile" or found["low"] == found["high"]:
    return
  logged = one.transform == "log1p" or one.log
  mean, deviation = (found[f"{'log_' * logged}{name}"] for name in ("mean", "deviation"))
  low, high = (math.log1p(max(found[name], 0.0)) if logged else found[name] for name in ("low", "high"))
  if math.hypot(mean, deviation) > UNSCALED.get(one.transform, math.inf):
    yield (
      f"is not scaled: with transform = {one.transform!r} its mean is {mean:.4g} and its deviation {deviation:.4g}, "
      'which swamps the other inputs: use transform = "standard"'
    )
  elif deviation and found["distinct"] > 2 and max(high - mean, mean - low) > FAR * deviation:
    far = max(high - mean, mean - low) / deviation
    yield (
      f"has a heavy tail: with transform = {one.transform!r} its farthest number is {far:.0f} deviations from the mean: "
      'use transform = "quantile", or "bins"'
    )
