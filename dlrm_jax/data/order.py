"""The order in which a process reads the rows of a split: a function of the split's size, the order's name, the seed and the process.

Called by `pipeline.py`. A split is stored in blocks (row groups). All blocks are full but the last, which may be partial.

1. The full blocks are taken in the order of the log ("time") or permuted by the seed ("shuffled").
2. Process p of P reads the p-th of every P blocks. Fewer than P full blocks and the partial one are left. Their rows are cut into P
   ranges, equal to within one row, and the p-th range is the last block of process p. So the partial block comes last, every row is
   read once, and only the blocks that are left are read by several processes.
3. "shuffled" then permutes the rows of every `WINDOW` consecutive blocks of a process.

A batch of B examples holds the next B/P of every process. Therefore the first n examples of a pass are those of any longer pass. Given
the data set, order, seed and P, the number n alone says where a pass is. With one process and "time" they are the first n rows of the log.

A window of the most recent rows is cut into blocks anew from its first row on, and then read like a split of its own.

A later epoch reads the same rows: in the order of the log again, or, "shuffled", with the full units of the first epoch permuted and the
rows of each unit permuted anew. Process p then takes the part of another process, so that all have had equally many rows, to within one.

Permutations come from RandomState, because numpy promises that its streams never change. Grain's shuffle promises no such thing, and
neither does numpy's Generator, which Grain's random_map passes.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from dlrm_jax.common.flags import UserError

WINDOW = 8  # blocks. More would shuffle better and take more memory: 8 hold 41 MB of Criteo's rows for each thread that reads


@dataclasses.dataclass(frozen=True)
class BlockRows:
  """Rows `low .. high - 1` of a block."""

  block: int
  low: int
  high: int


def local_batch_size(batch_size: int, process: tuple[int, int]) -> int:
  """The number of examples of a batch that each process holds. Raises UserError if that is no whole number.

  Args:
    batch_size: examples of the whole batch.
    process: (p, P), process p of P.
  """
  if batch_size % process[1]:
    raise UserError(f"batch_size={batch_size}: must be a multiple of the {process[1]} processes")
  return batch_size // process[1]


def local_count(count: int, process: tuple[int, int]) -> int:
  """How many of the first `count` examples process p of P has. Counts are equal to within one; the first processes have more."""
  return (count + process[1] - 1 - process[0]) // process[1]


@dataclasses.dataclass(frozen=True)
class ReadOrder:
  """The rows that one process reads of a split, in units that are read whole: a block, or a window of blocks if rows are shuffled.

  Attributes:
    rows: number of rows of the split, or of the window.
    rows_per_block: rows of every block but the last.
    order: "time" or "shuffled".
    seed: of the permutations, from 0 to 2**32 - 1; "time" has none.
    process: (p, P), process p of P.
    first: number of rows of the split before the window.
  """

  rows: int
  rows_per_block: int
  order: str
  seed: int
  process: tuple[int, int]
  first: int = 0

  @property
  def blocks_per_unit(self) -> int:
    return WINDOW if self.order == "shuffled" else 1

  @property
  def rows_per_unit(self) -> int:
    """Rows of every unit but the last."""
    return self.blocks_per_unit * self.rows_per_block

  def __len__(self) -> int:
    """The number of units."""
    return -(-local_count(self.rows, self.process) // self.rows_per_unit)

  @functools.cached_property
  def _full(self) -> Int[np.ndarray, " blocks"]:
    """All full blocks in order."""
    count = self.rows // self.rows_per_block
    return np.random.RandomState([self.seed, 0]).permutation(count) if self.order == "shuffled" else np.arange(count)

  @property
  def _rounds(self) -> int:
    return len(self._full) // self.process[1]

  @functools.cached_property
  def _last(self) -> list[BlockRows]:
    """This process's rows of the blocks that are left after the rounds: at most as many as a block has, from two blocks."""
    num_processes = self.process[1]
    left = self.rows - self._rounds * num_processes * self.rows_per_block
    before = sum(local_count(left, (q, num_processes)) for q in range(self.process[0]))
    after, out = before + local_count(left, self.process), []
    for block in (*self._full[self._rounds * num_processes :].tolist(), len(self._full)):
      size = min(self.rows_per_block, self.rows - block * self.rows_per_block)
      low, high = max(before, 0), min(after, size)
      if low < high:
        out.append(BlockRows(block, low, high))
      before, after = before - size, after - size
    return out

  def blocks(self, unit: int) -> list[BlockRows]:
    """The rows of a unit, in the order in which they are read, as rows of the split's blocks."""
    out = []
    for i in range(unit * self.blocks_per_unit, min((unit + 1) * self.blocks_per_unit, self._rounds + 1)):
      out += [BlockRows(int(self._full[i * self.process[1] + self.process[0]]), 0, self.rows_per_block)] if i < self._rounds else self._last
    return [stored for block in out for stored in self._stored(block)]

  def _stored(self, block: BlockRows) -> list[BlockRows]:
    """Rows of a block of the window as rows of the split's blocks: two of them where the window begins inside a block."""
    low, high = (self.first + block.block * self.rows_per_block + row for row in (block.low, block.high))
    out = []
    while low < high:
      begin = low // self.rows_per_block * self.rows_per_block
      out.append(BlockRows(begin // self.rows_per_block, low - begin, min(high - begin, self.rows_per_block)))
      low = begin + self.rows_per_block
    return out

  def places(self, unit: int, rows: int) -> Int[np.ndarray, " rows"] | None:
    """The position in the unit of each of its `rows` rows, in the order in which they are read; None: positions do not change."""
    return np.random.RandomState([self.seed, 1, unit, self.process[0]]).permutation(rows) if self.order == "shuffled" else None

  def units_again(self, epoch: int, count: int) -> Int[np.ndarray, " units"]:
    """The units with this process's first `count` rows, in the order of a later epoch; a unit that is not full comes last."""
    full = count // self.rows_per_unit
    units = np.random.RandomState([self.seed, 2, epoch]).permutation(full) if self.order == "shuffled" else np.arange(full)
    return np.append(units, full) if count % self.rows_per_unit else units

  def rows_again(self, epoch: int, unit: int, rows: int) -> Int[np.ndarray, " rows"]:
    """The order in which a later epoch reads the first `rows` rows of a unit: their positions in the first epoch's order."""
    if self.order == "time":
      return np.arange(rows)
    return np.random.RandomState([self.seed, 3, epoch, unit, self.process[0]]).permutation(rows)


def spread(count: int, octaves: int) -> Int[np.ndarray, " n"]:
  """Positions of one in every 2**octaves consecutive rows of `count`, evenly spread and sorted; those of more octaves are among them.

  A pseudo-random one, since logs may have a period: every fourth row of a log that has three negatives after each positive is a positive.
  Each row is as likely as any other.
  """
  position_n = np.arange(-(-count >> octaves), dtype=np.int64)
  for octave in range(octaves, 0, -1):
    position_n = 2 * position_n + (_mixed(position_n, octave) & 1)
  return position_n[position_n < count]


def _mixed(x: Int[np.ndarray, " n"], salt: int) -> Int[np.ndarray, " n"]:
  """The high half of a 64-bit mix of each number (the finaliser of MurmurHash3)."""
  x = x.astype(np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
  for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
    x = (x ^ (x >> np.uint64(33))) * np.uint64(factor)
  return (x >> np.uint64(32)).astype(np.int64)
