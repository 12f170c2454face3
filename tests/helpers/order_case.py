"""The order in which processes read rows, made slowly from lists."""

import numpy as np

from dlrm_jax.data.order import WINDOW


def reference(rows: int, per_block: int, order: str, seed: int, num_processes: int) -> list[list[int]]:
  """The rows of each process, by lists. Blocks are dealt in turn, the others are cut by rows, then windows are shuffled."""
  blocks = [list(range(first, min(first + per_block, rows))) for first in range(0, rows, per_block)]
  full, partial = [block for block in blocks if len(block) == per_block], [block for block in blocks if len(block) < per_block]
  if order == "shuffled":
    full = [full[i] for i in np.random.RandomState([seed, 0]).permutation(len(full))]
  dealt: list[list[list[int]]] = [[] for _ in range(num_processes)]
  while len(full) >= num_processes:
    for process in dealt:
      process.append(full.pop(0))
  rest = [row for block in full + partial for row in block]
  for p, process in enumerate(dealt):
    count = len(rest) // num_processes + (p < len(rest) % num_processes)
    start = sum(len(rest) // num_processes + (q < len(rest) % num_processes) for q in range(p))
    process.append(rest[start : start + count])
  out = []
  for p, process in enumerate(dealt):
    mine: list[int] = []
    for window, first in enumerate(range(0, len(process), WINDOW if order == "shuffled" else len(process))):
      read = [row for block in process[first : first + WINDOW if order == "shuffled" else None] for row in block]
      shuffled = list(read)
      if order == "shuffled":
        for row, place in zip(read, np.random.RandomState([seed, 1, window, p]).permutation(len(read)), strict=True):
          shuffled[place] = row
      mine += shuffled
    out.append(mine)
  return out
