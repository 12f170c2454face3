"""Turns the numbers of a log's columns into the inputs of a model, as dataset.json states them: dense inputs, and features of bins.

The second pass of `prepare` and `predict` use it, so that a number becomes the same input in both:

    for one in inputs_of(contents): one.apply(numbers[one.column])     # contents: dataset.json as `record.read_json` returns it
    for one in bins_of(contents):   one.ids(numbers[one.column])
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

MISSING = np.int32(-(2**31))  # marks a missing cell in a column of int32; NaN does in a column of float64
MOST = 10.0  # a standardised number that is farther from 0 is moved to +-MOST: one absurd cell must not undo what was learned
TRANSFORMS = ("standard", "quantile", "log1p", "none")  # of a dense input; an indicator of missing cells has "missing"

# Raw numbers of a column, with missing cells marked: int32 where all of them fit, which takes half the room, else float64.
Numbers = Int32[np.ndarray, " n"] | Float64[np.ndarray, " n"]


def pack(number_n: Int64[np.ndarray, " n"] | Float64[np.ndarray, " n"], missing_n: Bool[np.ndarray, " n"]) -> Numbers:
  """A copy of finite numbers with the missing cells marked."""
  packed: Numbers
  if number_n.dtype == np.int64 and number_n.min(initial=0) > MISSING and number_n.max(initial=0) < 2**31:
    packed = number_n.astype(np.int32)
    packed[missing_n] = MISSING
  else:
    packed = number_n.astype(np.float64)
    packed[missing_n] = np.nan
  return packed


def is_missing(numbers: Numbers) -> Bool[np.ndarray, " n"]:
  """Which cells are missing."""
  return numbers == MISSING if numbers.dtype == np.int32 else np.isnan(numbers)


def as_float(numbers: Numbers) -> Float64[np.ndarray, " n"]:
  """The numbers as float64, NaN where missing."""
  if numbers.dtype == np.float64:
    return numbers
  return np.where(numbers == MISSING, np.nan, numbers)


def joined(columns: Sequence[np.ndarray]) -> Numbers:
  """Columns of `Numbers`, one after the other."""
  same = len({column.dtype for column in columns}) == 1
  return np.concatenate(columns if same else [as_float(column) for column in columns])


@functools.cache
def _small_logarithms() -> Float32[np.ndarray, " n"]:
  """log(1 + x) of x = 0, 1, ..., because most integers of a log are small."""
  return np.log1p(np.arange(4096, dtype=np.float64)).astype(np.float32)


def log1p(number_n: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
  """log(1 + max(x, 0)), NaN where missing."""
  return np.log1p(np.maximum(number_n, 0.0))


@dataclasses.dataclass(frozen=True)
class Input:
  """A dense input of the model, which is a function of one column of the log.

  Attributes:
    name: of the input, in the data set.
    column: of the log.
    transform: "standard" is (x - mean) / deviation, between -MOST and MOST, and 0 if the deviation is 0; "quantile" is the normal score
      of x's rank among `edges`; "log1p" is log(1 + max(x, 0)), so that negative numbers become 0; "none" keeps x; "missing" is 1 where
      the cell is missing, else 0.
    log: whether "standard" is of log(1 + max(x, 0)) instead of x.
    mean, deviation: of the training rows, in float64.
    edges: evenly spaced quantiles of the training rows, ascending.
    missing: the input of a missing cell.
  """

  name: str
  column: str
  transform: str
  log: bool = False
  mean: float = 0.0
  deviation: float = 1.0
  edges: tuple[float, ...] = ()
  missing: float = 0.0

  def apply(self, numbers: Numbers) -> Float32[np.ndarray, " n"]:
    """The inputs of a column's cells. With "none", numbers too large for float32 become infinite."""
    if self.transform == "missing":
      return is_missing(numbers).astype(np.float32)
    if self.transform == "log1p" and numbers.dtype == np.int32:
      table = _small_logarithms()
      value_n = table.take(np.maximum(np.minimum(numbers, len(table) - 1), 0))
      if numbers.max(initial=0) >= len(table):
        large_n = np.flatnonzero(numbers >= len(table))
        value_n[large_n] = np.log1p(numbers[large_n].astype(np.float64))
    else:
      with np.errstate(over="ignore"):
        value_n = self._value(as_float(numbers)).astype(np.float32)
    if self.missing != 0.0 or numbers.dtype == np.float64 or self.transform != "log1p":
      value_n[is_missing(numbers)] = self.missing
    return value_n

  def _value(self, number_n: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    if self.transform == "none":
      return number_n
    if self.transform == "quantile":
      return normal_scores(number_n, np.array(self.edges))
    value_n = log1p(number_n) if self.transform == "log1p" or self.log else number_n
    if self.transform == "log1p":
      return value_n
    if not self.deviation:
      return np.zeros(len(number_n))
    return np.clip((value_n - self.mean) / self.deviation, -MOST, MOST)

  def as_json(self) -> dict[str, Any]:
    """The entry of dataset.json: every attribute that differs from its default."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

  @classmethod
  def from_json(cls, entry: dict[str, Any]) -> "Input":
    """The input that an entry of dataset.json states. Other keys of the entry are left out."""
    values = {field.name: entry[field.name] for field in dataclasses.fields(cls) if field.name in entry}
    return cls(**(values | {"edges": tuple(values.get("edges", ()))}))


def normal_scores(number_n: Float64[np.ndarray, " n"], edge_q: Float64[np.ndarray, " q"]) -> Float64[np.ndarray, " n"]:
  """The normal quantile of each number's rank among evenly spaced quantiles. Equal numbers get the middle of their ranks.

  The rank is interpolated between quantiles (van der Waerden scores). It stays half a step away from 0 and 1, so that scores are finite.
  """
  from scipy.special import ndtri  # half a second, which workers that need no scores save

  if not len(edge_q):
    return np.zeros(len(number_n))
  rank_q = np.linspace(0, 1, len(edge_q))
  upper_n = np.interp(number_n, edge_q, rank_q)  # of equal quantiles it takes the last
  lower_n = -np.interp(-number_n, -edge_q[::-1], -rank_q[::-1])  # the first
  half = 0.5 / max(len(edge_q) - 1, 1)
  return ndtri(np.clip((lower_n + upper_n) / 2, half, 1 - half))


@dataclasses.dataclass(frozen=True)
class Bins:
  """A categorical feature whose ids are the bins of a column's numbers: bin i holds the numbers from edge i - 1 up to below edge i.

  Attributes:
    name: of the feature, in the data set.
    column: of the log.
    edges: ascending. Numbers below the first have id 1, a missing cell has id 0.
  """

  name: str
  column: str
  edges: tuple[float, ...]

  @property
  def cardinality(self) -> int:
    return len(self.edges) + 2

  def ids(self, numbers: Numbers) -> Int32[np.ndarray, " n"]:
    """The bin of each cell."""
    id_n = (1 + np.searchsorted(np.array(self.edges), as_float(numbers), side="right")).astype(np.int32)
    id_n[is_missing(numbers)] = 0
    return id_n


def inputs_of(contents: dict[str, Any]) -> tuple[Input, ...]:
  """The M dense inputs that dataset.json states, in order. In older data sets the schema states the transform."""

  def stated(entry: dict[str, Any]) -> dict[str, Any]:
    if "transform" in entry:
      return entry
    of_name = {column["name"]: column for column in contents["schema"]["dense"]}
    return of_name[entry["name"]] | {"column": entry["name"]}

  return tuple(Input.from_json(stated(entry)) for entry in contents["columns"]["dense"])


def bins_of(contents: dict[str, Any]) -> tuple[Bins, ...]:
  """The features of bins that dataset.json states. They are the last features of the data set, in this order."""
  entries = [entry for entry in contents["columns"]["categorical"] if "bins" in entry]
  return tuple(Bins(entry["name"], entry["bins"]["column"], tuple(entry["bins"]["edges"])) for entry in entries)
