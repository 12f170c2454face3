"""Rejected lines: they are counted by reason and kept in `rejects.tsv`. Too many of them are an error. Used by readers and `contents`."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common.flags import UserError
from dlrm_jax.common.text import visible

HOPELESS_LINES = 10_000  # a log is not read to its end once this many lines, and most lines, were rejected
LINE_BREAK = "line break in quotes"
HEADER = b"source\tline\treason\tdetail\ttext\n"


@dataclasses.dataclass(frozen=True)
class Reject:
  """A line that is not used.

  Attributes:
    line: its number; the first line is 1.
    reason: one of a few reasons.
    detail: more about the reason, such as the column and its cell; may be empty.
    text: the line's bytes, without the newline.
  """

  line: int
  reason: str
  detail: str
  text: bytes


def text_of(reject: Reject) -> bytes:
  """A line of a piece's file: line number, reason, detail and the line itself, byte for byte (it may hold more tabs), separated by tabs."""
  return f"{reject.line}\t{reject.reason}\t{visible(reject.detail)}\t".encode() + reject.text + b"\n"


def of_log(piece_lines: bytes, source: str, lines_before: int) -> bytes:
  """A line of a piece's file as a line of `rejects.tsv`: with the name of its file, and numbered from the file's first line."""
  number, _, rest = piece_lines.partition(b"\t")
  return f"{source}\t{int(number) + lines_before}\t".encode() + rest


def hint(by_reason: Counter[str]) -> str:
  """What to do about rejects that one quote too many may have caused, for the end of a message; else an empty text."""
  many = by_reason[LINE_BREAK] > 0
  return "; a row is one line; quotes = false in the schema makes a quote a character like others" if many else ""


class Tally:
  """Counts accepted lines, lines of weight 0 (if the reader says how many), and rejected ones by reason."""

  def __init__(self) -> None:
    self.good = self.weightless = 0
    self.by_reason: Counter[str] = Counter()
    self.first: tuple[int, str] | None = None  # line, reason

  def add(self, rejects: Sequence[Reject], num_good: int) -> None:
    self.good += num_good
    self.by_reason.update(reject.reason for reject in rejects)
    if rejects and self.first is None:
      first = rejects[0]
      self.first = first.line, first.reason + (f" ({first.detail})" if first.detail else "")

  def as_json(self) -> dict[str, Any]:
    return {"good": self.good, "by_reason": dict(self.by_reason), "first": self.first}

  def refuse_hopeless(self, path: Path, start: int) -> None:
    """Raises UserError if many lines and most lines are rejected: the format is probably wrong. `start`: first byte of the piece."""
    total = self.by_reason.total()
    if total >= HOPELESS_LINES and total > self.good and self.first is not None:
      where = f"line {self.first[0]}" + (f" after byte {start}" if start else "")
      raise UserError(
        f"{path}: {total:,} of the first {self.good + total:,} lines rejected; the first: {where}: {self.first[1]}{hint(self.by_reason)}"
      )
