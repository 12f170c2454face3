"""The label of a log: a column of 0 and 1, or a comparison such as `delay > 15`. Used by `schema`, `schema_file` and `parse`."""

import dataclasses
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from dlrm_jax.common.flags import UserError
from dlrm_jax.data.prepare import cells as cells_of

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
  ">=": operator.ge,
  "<=": operator.le,
  "==": operator.eq,
  "!=": operator.ne,
  ">": operator.gt,
  "<": operator.lt,
}
MISSING = "label is missing"  # the reason to reject a row without a label
TRUE, FALSE = ("true", "yes"), ("false", "no")  # in any case
# Tokens that programs write for a missing value. A label of one of them is missing, unless the label compares with this very text. In other
# columns only the schema's `null` makes them so, since a category may be called NA. A label that is none would count as a negative.
NULL_TOKENS = ("NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NAN", "null", "NULL", "Null", "None", "\\N")
# Texts that a schema's `null` probably lacks, where a column of numbers has them.
NULL_TEXTS = (*NULL_TOKENS, "none", "na", "n/a", "?", "-", ".")
_QUOTED = r'"(?:[^"]|"")*"|' + r"'(?:[^']|'')*'"
_COMPARISON = re.compile(rf"\s*({_QUOTED}|[^\"'<>=][^<>=]*?)\s*(>=|<=|==|!=|>|<)\s*({_QUOTED}|[^\"'<>=]*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)


def _unquoted(text: str) -> str:
  """The contents of quoted text, in which the quote is written twice. Other text stays as it is."""
  if re.fullmatch(_QUOTED, text, re.DOTALL):
    return text[1:-1].replace(text[0] * 2, text[0])
  return text


def _quoted(text: str) -> str:
  return '"' + text.replace('"', '""') + '"'


@dataclasses.dataclass(frozen=True)
class Label:
  """What makes a row a click.

  Attributes:
    column: the column that holds it.
    operator: one of `OPERATORS`, or None if the column holds 0 and 1, or True and False, or yes and no.
    value: a number (compared as float64), or text, which is compared by == and != alone.
    optional: whether rows without a label are kept. They are in files that a model scores.
  """

  column: str
  operator: str | None = None
  value: int | float | str | None = None
  optional: bool = False

  @classmethod
  def parse(cls, text: str) -> "Label":
    """The label that a schema names: `clicked`, `delay > 15`, `"arrival delay" >= 15`, `status == "paid"`.

    The name of a column that holds <, > or = is written in quotes, a quote in it twice. Raises UserError.
    """
    if not re.search("[<>=]", re.sub(_QUOTED, "", text)):
      return cls(_unquoted(text))
    found = _COMPARISON.fullmatch(text)
    if found is None:
      example = 'such as delay > 15 or status == "paid"; the name of a column that holds <, > or = is written in double quotes'
      raise UserError(f"label = {text!r} must be a column, or a column compared by one of {', '.join(OPERATORS)}, {example}")
    column, name, value = found.groups()
    if re.fullmatch(_QUOTED, value, re.DOTALL):
      return cls(_unquoted(column), name, _unquoted(value))
    if not _NUMBER.fullmatch(value) or not math.isfinite(float(value)):
      raise UserError(f'label = {text!r}: {value!r} must be a number, or text in quotes such as "paid"')
    return cls(_unquoted(column), name, int(value) if re.fullmatch("[-+]?[0-9]+", value) else float(value))

  def __post_init__(self) -> None:
    if isinstance(self.value, str) and self.operator not in ("==", "!="):
      raise UserError(f"label = {self.text!r}: text is compared by == or !=; write a number without quotes")

  @property
  def text(self) -> str:
    """The label as a schema file has it, from which `parse` makes it again."""
    if self.operator is None:
      simple = self.column == _unquoted(self.column) and not re.search("[<>=]", self.column)
      return self.column if simple else _quoted(self.column)
    simple = re.fullmatch(r"\w+", self.column) is not None
    value = _quoted(self.value) if isinstance(self.value, str) else repr(self.value)
    return f"{self.column if simple else _quoted(self.column)} {self.operator} {value}"


def clicks(label: Label, cells: pa.Array, strict: bool) -> tuple[Bool[np.ndarray, " n"], list[tuple[Bool[np.ndarray, " n"], str]]]:
  """Which rows are clicks, and the faults: which rows have no label, each with its reason.

  Args:
    label: the schema's.
    cells: the raw cells of its column.
    strict: whether the label must be an integer, as in Criteo's logs.
  """
  if isinstance(label.value, str):
    return _compared_with_text(label, cells)
  number_n, missing_n, malformed_n = cells_of.numbers(cells, strict)
  if malformed_n.any() and not strict:
    words = cells_of.as_text(cells)
    missing_n = missing_n | cells_of.flags(pc.is_in(words, pa.array(NULL_TOKENS)))
    if label.operator is None:
      lower = pc.utf8_lower(words)
      true_n, false_n = (cells_of.flags(pc.is_in(lower, pa.array(tokens))) for tokens in (TRUE, FALSE))
      number_n, malformed_n = np.where(true_n, 1.0, number_n), malformed_n & ~true_n & ~false_n
  missing_n = missing_n | np.isnan(number_n)
  faults = [(missing_n, MISSING)]
  if label.operator is None:
    return number_n == 1, [*faults, (malformed_n | ~((number_n == 0) | (number_n == 1)), "label is not 0 or 1")]
  return OPERATORS[label.operator](number_n, label.value), [*faults, (malformed_n, "label is not a number")]


def _compared_with_text(label: Label, cells: pa.Array) -> tuple[Bool[np.ndarray, " n"], list[tuple[Bool[np.ndarray, " n"], str]]]:
  words = cells_of.as_text(cells).fill_null("")
  tokens = [token for token in ("", *NULL_TOKENS) if token != label.value]
  missing_n = cells_of.flags(pc.is_in(words, pa.array(tokens)))
  equal_n = cells_of.flags(pc.equal(words, pa.scalar(label.value, pa.string())))
  return equal_n if label.operator == "==" else ~equal_n, [(missing_n, MISSING)]
