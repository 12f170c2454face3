"""Writes files of lines like those of Criteo's Kaggle log, of any size, for `benchmarks.prepare`."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from dlrm_jax.common import record
from dlrm_jax.data.criteo import KAGGLE_CARDINALITIES, NUM_CATEGORICAL, NUM_DENSE

_ROWS = 20_000  # rows of the made-up block, which is repeated with other categories each time
_MISSING_DENSE, _MISSING_CATEGORICAL = 0.2, 0.12  # together 15% of the cells, as in the first 10,000 lines of the real log
_MANY = 10_000  # the digits of columns with more values are varied
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def _block(rng: np.random.Generator) -> bytes:
  """Lines with skewed values: log-uniform integers up to 10^5, and categories by x^3 among as many values as the real columns have."""
  cells = [np.where(rng.random(_ROWS) < 0.22, "1", "0")]
  for _ in range(NUM_DENSE):
    values = np.exp(rng.random(_ROWS) ** 2 * np.log(1e5)).astype(np.int64) - 1
    cells.append(np.where(rng.random(_ROWS) < _MISSING_DENSE, "", values.astype(str)))
  for cardinality in KAGGLE_CARDINALITIES:
    index_n = (cardinality * rng.random(_ROWS) ** 3).astype(np.uint64)
    mixed_n = (index_n * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    texts = np.array([f"{x:08x}" for x in mixed_n.tolist()])
    cells.append(np.where(rng.random(_ROWS) < _MISSING_CATEGORICAL, "", texts))
  return ("\n".join("\t".join(line) for line in zip(*(column.tolist() for column in cells), strict=True)) + "\n").encode()


def _varied_places(block: UInt8[np.ndarray, " n"]) -> Int64[np.ndarray, " k"]:
  """The positions of the first digits of categories in columns with many values."""
  end = np.flatnonzero((block == ord("\t")) | (block == ord("\n"))).reshape(-1, 1 + NUM_DENSE + NUM_CATEGORICAL)
  start, stop = end[:, NUM_DENSE:-1] + 1, end[:, NUM_DENSE + 1 :]
  many = np.array(KAGGLE_CARDINALITIES) > _MANY
  return start[(stop - start == 8) & many]


def write(path: Path, num_bytes: int, head: Path | None = None, seed: int = 0) -> None:
  """Writes whole lines, about `num_bytes` in all: the lines of `head`, which must all be good, or made-up ones, again and again.

  In columns with many values half of the cells get other digits each time, by a Zipf law.
  """
  rng = np.random.default_rng(seed)
  block = np.frombuffer(_block(rng) if head is None else head.read_bytes().rstrip(b"\n") + b"\n", np.uint8)
  places, written = _varied_places(block), 0
  with record.written_whole(path) as file:
    while written < num_bytes:
      lines = block.copy()
      start = places[rng.random(len(places)) < 0.5]
      digits = rng.zipf(1.2, len(start)) % 2**24
      for i in range(6):
        lines[start + 7 - i] = _HEX[digits >> (4 * i) & 15]
      file.write(lines.tobytes())
      written += len(lines)
