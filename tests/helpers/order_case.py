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


def reference_epochs(
  rows: int, per_block: int, order: str, seed: int, num_processes: int, each: int, epochs: int, window: str = "oldest"
) -> list[list[int]]:
  """The rows of each process over several epochs of `each` rows, by lists: a window is a log of its own, and later epochs permute units."""
  first = rows - each if window == "recent" else 0
  once = reference(rows - first, per_block, order, seed, num_processes)
  size, out = per_block * (WINDOW if order == "shuffled" else 1), [list[int]() for _ in range(num_processes)]
  for epoch in range(epochs):
    for p in range(num_processes):
      q = (p - epoch * each) % num_processes
      mine = [first + row for row in once[q][: len(range(q, each, num_processes))]]
      if epoch and order == "shuffled":
        units = [mine[i : i + size] for i in range(0, len(mine), size)]
        for unit, read in enumerate(units):
          units[unit] = [read[i] for i in np.random.RandomState([seed, 3, epoch, unit, q]).permutation(len(read))]
        full = len(mine) // size
        order_of = [*np.random.RandomState([seed, 2, epoch]).permutation(full).tolist(), *range(full, len(units))]
        mine = [row for unit in order_of for row in units[unit]]
      out[p] += mine
  return out
