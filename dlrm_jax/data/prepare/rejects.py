"""Rejected lines: they are counted by reason and kept in `rejects.tsv`. Too many of them are an error. Used by readers and `contents`."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common.flags import UserError
from dlrm_jax.common.text import visible

HOPELESS_LINES = 10_000  # a log is not read to its end once this many lines, and most lines, were rejected
LINE_BREAK = "line break in quotes"
_BAD_QUOTES = (LINE_BREAK, "bad quoting")
NO_REMEDY = "no key"  # in place of a remedy's key: the value is bad whatever the schema says
HEADER = b"source\tline\treason\tdetail\ttext\n"


@dataclasses.dataclass(frozen=True)
class Reject:
  """A line that is not used.

  Attributes:
    line: its number; the first line is 1.
    reason: one of a few reasons.
    detail: more about the reason, such as the column and its cell; may be empty.
    text: the line's bytes, without the newline.
    remedy: a key of the schema and a value of it that may make lines such as this one good; NO_REMEDY and the value that no schema makes
      good; or two empty texts.
  """

  line: int
  reason: str
  detail: str
  text: bytes
  remedy: tuple[str, str] = ("", "")


def text_of(reject: Reject) -> bytes:
  """A line of a piece's file: line number, reason, detail and the line itself, byte for byte (it may hold more tabs), separated by tabs."""
  return f"{reject.line}\t{reject.reason}\t{visible(reject.detail)}\t".encode() + reject.text + b"\n"


def of_log(piece_lines: bytes, source: str, lines_before: int) -> bytes:
  """A line of a piece's file as a line of `rejects.tsv`: with the name of its file, and numbered from the file's first line."""
  number, _, rest = piece_lines.partition(b"\t")
  return f"{source}\t{int(number) + lines_before}\t".encode() + rest


class Tally:
  """Counts accepted lines, and rejected ones by reason.

  Attributes:
    good: number of accepted lines.
    by_reason: number of rejected lines of each reason.
    firsts: for each reason the number of its first line, and the reason with its detail.
    remedies: how many lines of each reason have each remedy, by (reason, key, value).
  """

  def __init__(self) -> None:
    self.good = 0
    self.by_reason: Counter[str] = Counter()
    self.firsts: dict[str, tuple[int, str]] = {}
    self.remedies: Counter[tuple[str, str, str]] = Counter()

  @classmethod
  def from_json(cls, entry: dict[str, Any]) -> "Tally":
    """The tally that `as_json` returned."""
    out = cls()
    out.good, out.by_reason = entry["good"], Counter(entry["by_reason"])
    out.firsts = {reason: (line, why) for reason, (line, why) in entry["firsts"].items()}
    out.remedies = Counter({(reason, key, value): count for reason, key, value, count in entry["remedies"]})
    return out

  def add(self, rejects: Sequence[Reject], num_good: int) -> None:
    self.good += num_good
    self.by_reason.update(reject.reason for reject in rejects)
    self.remedies.update((reject.reason, *reject.remedy) for reject in rejects if reject.remedy[0])
    for reject in rejects:
      if reject.reason not in self.firsts:
        self.firsts[reject.reason] = reject.line, reject.reason + (f" ({reject.detail})" if reject.detail else "")

  def as_json(self) -> dict[str, Any]:
    remedies = [[*remedy, count] for remedy, count in self.remedies.items()]
    return {"good": self.good, "by_reason": dict(self.by_reason), "firsts": self.firsts, "remedies": remedies}

  def refuse_hopeless(self, path: Path, start: int) -> None:
    """Raises UserError if many lines and most lines are rejected: the format is probably wrong. `start`: first byte of the piece."""
    total = self.by_reason.total()
    if total >= HOPELESS_LINES and total > self.good:
      after = f" after byte {start}" if start else ""
      why = blamed([self], lambda _, line: f"line {line}{after}")
      raise UserError(f"{path}: {total:,} of the first {self.good + total:,} lines rejected; {why}{hint([self])}")


def blamed(tallies: Sequence[Tally], place: Callable[[int, int], str]) -> str:
  """The commonest reason for which lines were rejected, with its first line and its count; for a message.

  Args:
    tallies: of consecutive parts of the log. They have rejected at least one line.
    place: the words for a line, from the number of its tally and its number there.
  """
  by_reason = sum((tally.by_reason for tally in tallies), Counter[str]())
  ((reason, count),) = by_reason.most_common(1)
  number, tally = next((i, tally) for i, tally in enumerate(tallies) if reason in tally.firsts)
  line, why = tally.firsts[reason]
  some = "the first" if len(by_reason) == 1 else f"{count:,} of them for the commonest reason, the first"
  return f"{some}: {place(number, line)}: {why}"


def hint(tallies: Sequence[Tally]) -> str:
  """What may make the lines good that were rejected for the commonest reason, for the end of a message; else an empty text."""
  ((reason, count),) = sum((tally.by_reason for tally in tallies), Counter[str]()).most_common(1)
  if reason in _BAD_QUOTES:
    return "; a row is one line; quotes = false in the schema makes a quote a character like others"
  remedies = sum((tally.remedies for tally in tallies), Counter[tuple[str, str, str]]())
  found = [(key, value) for (of, key, value), _ in remedies.most_common() if of == reason]
  if not found or 2 * sum(n for (of, _, _), n in remedies.items() if of == reason) < count:
    return ""
  key = found[0][0]
  values = [value for other, value in found if other == key]
  if key == NO_REMEDY:
    texts = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
    return f"; {texts} in a label is a missing one whatever the schema's null says, which is for the other columns"
  if key == "null":
    return f"; null = {json.dumps(values, ensure_ascii=False)} in the schema makes such cells missing ones"
  return f"; a label may be a comparison, such as {key} = {json.dumps(values[0], ensure_ascii=False)} in the schema"
