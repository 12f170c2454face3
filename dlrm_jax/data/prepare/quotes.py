"""Follows quoted cells from line to line, so that no line from inside a quoted line break is taken for a row. Used by `delimited`.

One line is one row. A quoted cell with a line break spans several lines, each of which is rejected. Where a quoted cell ends is decided as
Python's csv module and pandas decide it: a quote opens a cell only as its first character, a doubled quote is one quote, and what follows
the closing quote up to the delimiter is not quoted.

A piece of a file may begin inside quotes, which only the lines before it show. A piece is read as if it began outside. `Quotes` states
where it ends if that is true, and if it is not. The first pass then reads the pieces again that began inside.
"""

import dataclasses
from collections.abc import Sequence


def open_after(line: bytes, inside: bool, delimiter: bytes) -> bool:
  """Whether a quoted cell is open at the end of a line that begins inside or outside of one."""
  place = 0
  while True:
    if not inside:
      if line[place : place + 1] != b'"':
        place = line.find(delimiter, place) + 1
        if not place:
          return False
        continue
      place += 1
    inside = False
    while True:
      place = line.find(b'"', place) + 1
      if not place:
        return True
      if line[place : place + 1] != b'"':
        break
      place += 1
    place = line.find(delimiter, place) + 1
    if not place:
      return False


@dataclasses.dataclass
class Quotes:
  """The state before the next line of a piece.

  Attributes:
    delimiter: of the file's cells.
    inside: whether the line begins inside a quoted cell.
    otherwise: the same if the piece's first line had begun in the other state.
  """

  delimiter: bytes
  inside: bool
  otherwise: bool

  @classmethod
  def at_start(cls, delimiter: str, inside: bool) -> "Quotes":
    """The state before the first line of a piece."""
    return cls(delimiter.encode(), inside, not inside)

  @property
  def settled(self) -> bool:
    """Whether the state does not depend on that of the piece's first line."""
    return self.inside == self.otherwise

  def follow(self, line: bytes, complete: bool = False) -> None:
    """Goes past a line that holds a quote. `complete`: it is known to be one row, if it begins outside of quotes."""
    settled, before = self.settled, self.inside
    self.inside = False if complete and not before else open_after(line, before, self.delimiter)
    self.otherwise = self.inside if settled else open_after(line, not before, self.delimiter)

  def at_end(self, began_inside: bool) -> tuple[bool, bool]:
    """The state after the piece if its first line begins (outside, inside) of quotes. `began_inside` is what was assumed."""
    return (self.otherwise, self.inside) if began_inside else (self.inside, self.otherwise)


def first_states(at_ends: Sequence[tuple[bool, bool]], starts_file: Sequence[bool]) -> list[bool]:
  """Whether each of consecutive pieces begins inside quotes, from `Quotes.at_end` of each. A file begins outside."""
  out, inside = [], False
  for at_end, first in zip(at_ends, starts_file, strict=True):
    inside = inside and not first
    out.append(inside)
    inside = at_end[inside]
  return out
