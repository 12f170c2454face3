"""The dense columns of a schema: their options, and the inputs and bins that follow from these and the statistics."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.transform import TRANSFORMS, Bins, Input

MAX_BINS = 10_000
DEFAULT_BINS = 32
_SKEWED = 2.0  # skewness of the exponential distribution
_ALL = (*TRANSFORMS, "bins")
_AS_DOCUMENTED = ("log1p", "none")  # these transforms keep what they always did with missing cells


@dataclasses.dataclass(frozen=True)
class DenseColumn:
  """A column of numbers, which are inputs of the bottom MLP, or a feature of bins, or both.

  Attributes:
    name: the column's name in the log.
    transform: "standard" is (x - mean) / deviation over the training rows, of log(1 + x) instead of x where x is skewed; "quantile" is the
      normal score of the rank among the training rows; "log1p" is log(1 + max(x, 0)), so negative numbers become 0; "none" keeps x;
      "bins" makes no dense input.
    missing: the number that fills an empty cell, with "log1p" after the transform; None: the mean with "standard" and "quantile",
      else 0.
    integer: whether text other than a decimal integer is rejected.
    indicator: whether an input of its own, NAME.missing, is 1 where the cell is empty, if any is in the training rows; None: with
      "standard" and "quantile" it is.
    bins: number of quantile bins of the feature NAME.bins; None: there is no such feature, except with "bins".
  """

  name: str
  transform: str = "standard"
  missing: float | None = None
  integer: bool = False
  indicator: bool | None = None
  bins: int | None = None

  def __post_init__(self) -> None:
    where = f"dense column '{self.name}'"
    if self.transform not in _ALL:
      raise UserError(f"{where}: transform '{self.transform}' must be among {', '.join(_ALL)}")
    if self.missing is not None and not math.isfinite(self.missing):
      raise UserError(f"{where}: missing = {self.missing} must be a finite number")
    if self.bins is not None and not 2 <= self.bins <= MAX_BINS:
      raise UserError(f"{where}: bins = {self.bins} must be from 2 to {MAX_BINS:,}")
    if self.transform == "bins" and (self.missing is not None or self.indicator):
      raise UserError(f'{where}: with transform = "bins" missing cells are a bin of their own; leave out missing and indicator')

  @property
  def num_bins(self) -> int:
    """The most bins that the feature may have; 0: there is no such feature."""
    return self.bins or (DEFAULT_BINS if self.transform == "bins" else 0)

  @property
  def bins_name(self) -> str:
    """The name of the feature of bins."""
    return f"{self.name}.bins"

  @property
  def indicator_name(self) -> str:
    """The name of the input that says whether the cell is missing."""
    return f"{self.name}.missing"

  @property
  def may_have_indicator(self) -> bool:
    """Whether there is an indicator if cells are missing."""
    return self.indicator if self.indicator is not None else self.transform in ("standard", "quantile")

  def accepts(self, number_n: Float64[np.ndarray, " n"]) -> np.ndarray:
    """Which numbers are neither infinite nor NaN, nor too large for float32 (float64 with "log1p")."""
    if self.transform == "log1p":
      return np.isfinite(number_n)
    with np.errstate(over="ignore"):
      return np.isfinite(number_n.astype(np.float32))

  def inputs(self, measured: dict[str, Any]) -> list[Input]:
    """The dense inputs, from what `statistics.measure` returned."""
    if self.transform == "bins":
      return []
    found = measured["statistics"]
    made = Input(self.name, self.name, self.transform)
    if self.transform == "standard":
      log = (
        found["low"] is not None and found["low"] >= 0 and found["skewness"] > _SKEWED and abs(found["log_skewness"]) < found["skewness"]
      )
      of = "log_" if log else ""
      made = dataclasses.replace(made, log=log, mean=found[f"{of}mean"], deviation=found[f"{of}deviation"])
    elif self.transform == "quantile":
      made = dataclasses.replace(made, edges=tuple(measured["edges"]))
    if self.missing is not None:
      fill = self.missing if self.transform == "log1p" else float(made.apply(np.array([float(self.missing)]))[0])
      made = dataclasses.replace(made, missing=fill)
    states = self.may_have_indicator and 0 < found["missing"] < found["rows"]
    return [made, *([Input(self.indicator_name, self.name, "missing")] if states else [])]

  def feature(self, measured: dict[str, Any]) -> Bins:
    """The feature of bins, where `num_bins` is not 0."""
    return Bins(self.bins_name, self.name, tuple(measured["bins"]))


def refuse_shared_names(columns: Sequence[DenseColumn]) -> None:
  """Raises UserError if an indicator would have the name of a column."""
  names = {column.name for column in columns}
  for column in columns:
    if column.may_have_indicator and column.indicator_name in names:
      raise UserError(
        f"dense column '{column.indicator_name}' has the name of the input that says where '{column.name}' is missing: "
        f"write indicator = false for '{column.name}'"
      )
