"""`ReadLog`: what the first pass of `prepare` found, which files it left out, and the lines that it rejected. Called by `program`."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.data.prepare import parts, read, rejects
from dlrm_jax.data.prepare.inputs import Inputs, names_of
from dlrm_jax.data.prepare.parts import PieceResult, TaskResult


@dataclasses.dataclass(frozen=True)
class ReadLog:
  """The log after the first pass.

  Attributes:
    inputs: its files.
    tasks: the pieces of the files, task by task, in the order of the log.
    results: of each task.
  """

  inputs: Inputs
  tasks: tuple[tuple[read.Piece, ...], ...]
  results: tuple[TaskResult, ...]

  def pieces(self) -> list[tuple[read.Piece, PieceResult]]:
    """Every piece and its result, in the order of the log."""
    pairs = zip(self.tasks, self.results, strict=True)
    return [pair for task, result in pairs for pair in zip(task, result.pieces, strict=True)]

  def lines_before(self) -> list[int]:
    """The number of lines of its file before each piece. The rows of a Parquet file are its lines."""
    out, lines = [], Counter[int]()
    for piece, result in self.pieces():
      out.append(lines[piece.source])
      lines[piece.source] += result.lines
    return out

  def rows_of_file(self) -> list[int]:
    """The number of accepted rows of each file."""
    rows = [0] * len(self.inputs.files)
    for piece, result in self.pieces():
      rows[piece.source] += result.rows
    return rows

  def empty_files(self) -> list[Path]:
    """The files without a line other than a header."""
    full = {piece.source for piece, result in self.pieces() if not result.empty}
    return [path for i, path in enumerate(self.inputs.files) if i not in full]


def say_left_out(log: ReadLog) -> None:
  """Says which files of the log hold no rows, and which are no part of it."""
  for paths, what in ((log.empty_files(), "without rows"), (log.inputs.hidden, "whose names begin with _ or .")):
    if paths:
      count = f"{len(paths)} of {len(log.inputs.files) + len(log.inputs.hidden)} files {what}"
      say(f"{count}: skipped; the first: {paths[0]}")


def rejected(log: ReadLog, allowed: float) -> dict[str, Any]:
  """The entry of the rejects: total, share, by_reason.

  Raises UserError if no file has rows, or if more than the share `allowed` is rejected: it names the commonest reason and its
  first line.
  """
  pieces = log.pieces()
  tallies = [rejects.Tally.from_json(result.rejects) for _, result in pieces]
  by_reason = sum((tally.by_reason for tally in tallies), Counter[str]())
  total, lines = by_reason.total(), by_reason.total() + sum(tally.good for tally in tallies)
  if not lines:
    files = log.inputs.files
    size = sum(file.stat().st_size for file in files)
    raise UserError(f"{files[0]}: no rows in it" + (f", nor in the other {len(files) - 1} files" if files[1:] else "") + f" ({size} bytes)")
  if total / lines > allowed:
    before = log.lines_before()
    why = rejects.blamed(tallies, lambda i, line: f"{log.inputs.files[pieces[i][0].source]} line {line + before[i]}")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_reason.most_common())
    raise UserError(
      f"{total:,} of {lines:,} lines rejected ({total / lines:.2%}), above --max_reject_fraction={allowed:g}; {why}"
      + (f"; in all: {reasons}" if len(by_reason) > 1 else "")
      + rejects.hint(tallies)
    )
  return {"total": total, "share": total / lines, "by_reason": dict(by_reason.most_common())}


def write_rejects(path: Path, tasks: Sequence[Path], log: ReadLog) -> None:
  """Writes `rejects.tsv`: source file, line number, reason, detail, and the line itself, byte for byte (it may hold more tabs).

  `tasks` are the paths of the tasks' files, without their endings.
  """
  names, before = names_of(log.inputs.files), iter(log.lines_before())
  with record.written_whole(path) as out:
    out.write(rejects.HEADER)
    for task, pieces, result in zip(tasks, log.tasks, log.results, strict=True):
      with parts.rejects_path(task).open("rb") as lines:
        for piece, found in zip(pieces, result.pieces, strict=True):
          of_piece = itertools.islice(lines, sum(found.rejects["by_reason"].values()))
          first = next(before)
          out.writelines(rejects.of_log(line, names[piece.source], first) for line in of_piece)
