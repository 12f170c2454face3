"""Section `large`: 26 tables of 1M rows of 128, batch 65,536, in float32, with bfloat16 products, and with bfloat16 tables."""

import dataclasses

from benchmarks.accelerator.rows import Rows
from benchmarks.accelerator.small_steps import case, with_batch, with_model
from benchmarks.measure.workloads import RUNS


def measure(rows: Rows) -> None:
  """Keeps a row for each dtype, then for fewer rows and a smaller batch, then for products of full precision."""
  base = with_model(dataclasses.replace(RUNS["mlperf_v1"], data="criteo_like"), num_rows=2000 if rows.tiny else 1_000_000)
  base = with_batch(base, 64) if rows.tiny else base
  half = with_model(base, compute_dtype="bfloat16")
  case(rows, "large, float32", base, 20)
  case(rows, "large, bfloat16", half, 20)
  case(rows, "large, bfloat16 tables", with_model(half, table_dtype="bfloat16"), 20)
  if not rows.tiny:
    case(rows, "large, bfloat16, 100,000 rows", with_model(half, num_rows=100_000), 20)
    case(rows, "large, bfloat16, batch 8,192", with_batch(half, 8192), 40)
    case(rows, "large, highest precision", with_model(base, matmul_precision="highest"), 20)
