"""Rejected lines: counted by reason, kept in `rejects.tsv`, and too many of them are an error. Used by `prepare` and its readers."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from dlrm_jax.flags import UserError

HOPELESS_LINES = 10_000  # once this many are rejected, and most of what was read, the rest of the log is not read


@dataclasses.dataclass(frozen=True)
class Reject:
  """A line that is not used.

  Attributes:
    line: its number in the file; the first line is 1.
    reason: why, one of a few.
    detail: what exactly, such as the column and its cell; may be empty.
    text: the line's bytes, without the newline.
  """

  line: int
  reason: str
  detail: str
  text: bytes


class Rejects:
  """Writes `rejects.tsv`: source file, line number, reason, detail, and the line itself, byte for byte (it may hold more tabs)."""

  def __init__(self, path: Path, allowed: float):
    self._path, self._allowed, self._first = path, allowed, ""
    self._by_reason: Counter[str] = Counter()
    path.write_bytes(b"source\tline\treason\tdetail\ttext\n")

  def add(self, source: Path, rejects: list[Reject], num_good: int) -> None:
    """Keeps the rejects of a chunk. Raises UserError when nearly everything is rejected: a wrong format, most likely.

    Args:
      source: the file that they are from.
      rejects: in order of lines.
      num_good: the good rows of all files so far.
    """
    if not rejects:
      return
    if not self._first:
      first = rejects[0]
      self._first = f"{source} line {first.line}: {first.reason}" + (f" ({first.detail})" if first.detail else "")
    self._by_reason.update(reject.reason for reject in rejects)
    with self._path.open("ab") as file:
      file.writelines(f"{source.name}\t{r.line}\t{r.reason}\t{r.detail}\t".encode() + r.text + b"\n" for r in rejects)
    total = self._by_reason.total()
    if total >= HOPELESS_LINES and total > max(0.5, self._allowed) * (num_good + total):
      self.finish(num_good)

  def finish(self, num_good: int) -> dict[str, Any]:
    """The entry in `dataset.json`: total, share, by_reason. Raises UserError when the share is above what is allowed."""
    total = self._by_reason.total()
    share = total / (num_good + total)
    if share > self._allowed:
      raise UserError(
        f"{total:,} of {num_good + total:,} lines rejected ({share:.2%}), above --max_reject_fraction={self._allowed:g};"
        f" the first: {self._first}"
      )
    return {"total": total, "share": share, "by_reason": dict(self._by_reason.most_common())}
