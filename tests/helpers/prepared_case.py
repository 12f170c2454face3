"""Small logs for the tests of prepare, and the rows that it makes of them."""

import random
from pathlib import Path

import polars as pl


def criteo_lines(count: int, seed: int = 0) -> list[str]:
  """Random good lines; categories repeat, as in the real logs."""
  rng = random.Random(seed)
  lines = []
  for i in range(count):
    numbers = ["" if rng.random() < 0.2 else str(rng.randrange(-3, 10 ** rng.randrange(1, 8))) for _ in range(13)]
    categories = ["" if rng.random() < 0.1 else f"{int(rng.paretovariate(0.7)) * 2654435761 % 2**32:08x}" for _ in range(26)]
    lines.append("\t".join([str(int(i % 3 == 0)), *numbers, *categories]))
  return lines


def rows_of(out: Path, split: str) -> pl.DataFrame:
  """The rows of a split, shard after shard."""
  return pl.concat([pl.read_parquet(path) for path in sorted(out.glob(f"{split}-*.parquet"))])
