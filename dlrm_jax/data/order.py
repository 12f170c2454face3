"""In which order a process sees the rows of a split: a function of the split's size, the order's name, the seed and the process alone.

Called by `pipeline.py`. The rows of a split lie in blocks (row groups); all are full but the last, which may be partial.

1. The full blocks are taken as they lie in the log ("time"), or permuted by the seed ("shuffled").
2. Of every P of them, process p of P has the p-th. What is left, fewer than P full blocks and the partial one, is cut by rows into P
   pieces, equal to within one row; the p-th is the last block of process p. So the partial block comes last, every other block but
   those left is read by one process only, and every row is seen once.
3. "shuffled" then permutes the rows of every `WINDOW` blocks that follow each other in a process.

A batch of B examples holds the next B/P of every process. The first n examples of a pass are therefore those of any longer pass, and n
alone says where a pass is, given the data set, order, seed and P. With one process and "time" they are the first n rows of the log.

Permutations come from RandomState, since numpy promises that its streams never change; neither Grain's shuffle nor numpy's Generator,
which Grain's random_map hands out, does.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from dlrm_jax.common.flags import UserError

WINDOW = 8  # blocks: more shuffle better and take more memory, 41 MB of Criteo's rows for each thread that reads; part of the order


@dataclasses.dataclass(frozen=True)
class Piece:
  """Rows `low .. high - 1` of a block."""

  block: int
  low: int
  high: int


def part_size(batch_size: int, part: tuple[int, int]) -> int:
  """Examples of a batch that each process holds. Raises UserError where they are not the same number.

  Args:
    batch_size: examples of the whole batch.
    part: (p, P), process p of P.
  """
  if batch_size % part[1]:
    raise UserError(f"batch_size={batch_size}: must be a multiple of the {part[1]} processes")
  return batch_size // part[1]


def share(count: int, part: tuple[int, int]) -> int:
  """How many of the first `count` examples process p of P has: equal to within one, the first processes having more."""
  return (count + part[1] - 1 - part[0]) // part[1]


@dataclasses.dataclass(frozen=True)
class Share:
  """What one process sees of a split, as units to be read whole: blocks, or windows of blocks where their rows are shuffled.

  Attributes:
    rows: of the split.
    rows_per_block: of every block but the last.
    order: "time" or "shuffled".
    seed: of the permutations, from 0 to 2**32 - 1; "time" has none.
    part: (p, P), process p of P.
  """

  rows: int
  rows_per_block: int
  order: str
  seed: int
  part: tuple[int, int]

  @property
  def blocks_per_unit(self) -> int:
    return WINDOW if self.order == "shuffled" else 1

  @property
  def rows_per_unit(self) -> int:
    """Rows of every unit but the last."""
    return self.blocks_per_unit * self.rows_per_block

  def __len__(self) -> int:
    """The number of units."""
    return -(-share(self.rows, self.part) // self.rows_per_unit)

  @functools.cached_property
  def _full(self) -> Int[np.ndarray, " blocks"]:
    """All full blocks in order."""
    count = self.rows // self.rows_per_block
    return np.random.RandomState([self.seed, 0]).permutation(count) if self.order == "shuffled" else np.arange(count)

  @property
  def _rounds(self) -> int:
    return len(self._full) // self.part[1]

  @functools.cached_property
  def _last(self) -> list[Piece]:
    """This process's piece of what is left after the rounds, at most a block's rows of two blocks."""
    num_processes = self.part[1]
    left = self.rows - self._rounds * num_processes * self.rows_per_block
    before = sum(share(left, (q, num_processes)) for q in range(self.part[0]))
    after, out = before + share(left, self.part), []
    for block in (*self._full[self._rounds * num_processes :].tolist(), len(self._full)):
      size = min(self.rows_per_block, self.rows - block * self.rows_per_block)
      low, high = max(before, 0), min(after, size)
      if low < high:
        out.append(Piece(block, low, high))
      before, after = before - size, after - size
    return out

  def pieces(self, unit: int) -> list[Piece]:
    """Where the rows of a unit lie, in the order in which they are read."""
    out = []
    for i in range(unit * self.blocks_per_unit, min((unit + 1) * self.blocks_per_unit, self._rounds + 1)):
      out += [Piece(int(self._full[i * self.part[1] + self.part[0]]), 0, self.rows_per_block)] if i < self._rounds else self._last
    return out

  def places(self, unit: int, rows: int) -> Int[np.ndarray, " rows"] | None:
    """Where in the unit each of its rows goes, in the order in which they are read; None: they stay. `rows`: how many the unit has."""
    return np.random.RandomState([self.seed, 1, unit, self.part[0]]).permutation(rows) if self.order == "shuffled" else None
