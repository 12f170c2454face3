"""The rows as a table on standard output, and as the table of README.md between its markers."""

import datetime
import math
from typing import Any

from benchmarks.measure.table import Columns, Row, number
from dlrm_jax.common import markdown

SECTION = "how-fast"  # name of the markers in a Markdown file
TITLE = "a training step, compared with ours; ratios are medians over rounds"
COLUMNS: Columns = {
  "trainer": "name",
  "series": "series",
  "rows": number("num_rows", ",d"),
  "cores": number("cores", "d"),
  "ms p50": number("step_ms_p50", ".2f"),
  "ms p90": number("step_ms_p90", ".2f"),
  "x ours": number("ratio_to_ours", ".2f"),
  "cpu ms": number("cpu_ms_p50", ".2f"),
  "cpu x ours": number("cpu_ratio_to_ours", ".2f"),
  "least": number("cpu_ratio_to_ours_min", ".2f"),
  "most": number("cpu_ratio_to_ours_max", ".2f"),
  "growth": number("cpu_growth", ".2f"),
  "speedup": number("speedup", ".2f"),
  "peak GiB": number("peak_rss_bytes", ".2f", 2**-30),
  "floor": number("floor_cpu_ms", ".1f"),
  "x floor": number("times_floor", ".2f"),
}
_TABLES = {"rowwise_adagrad": "row-wise Adagrad", "adagrad": "Adagrad", "sgd": "SGD"}
_LABELS = {"ours": "dlrm-jax", "fbgemm": "fbgemm + PyTorch", "torchrec": "torchrec", "pytorch_sgd": "PyTorch", "pytorch_adagrad": "PyTorch"}


def time_of(rows: list[Row]) -> tuple[str, str, str]:
  """Returns the field of the time to show, the prefix of its ratios, and its unit as text.

  On one core, which other processes may share, that is processor time. On several cores it is wall time.
  """
  if all(row["cores"] == 1 for row in rows):
    return "cpu_ms_p50", "cpu_", "ms of processor time on one core"
  return "step_ms_p50", "", f"ms on {max(row['cores'] for row in rows)} cores"


def _short(rows: int) -> str:
  """Writes 1000 as 1k and 1000000 as 1M."""
  for size, letter in ((10**6, "M"), (1000, "k")):
    if rows >= size and rows % size == 0:
      return f"{rows // size}{letter}"
  return str(rows)


def markdown_table(rows: list[Row]) -> str:
  """One line a trainer, for the series W1, W2 and emb: its time at each size with its ratio to ours, growth and memory."""
  time, prefix, _ = time_of(rows)
  cases = list(dict.fromkeys((row["workload"], row["num_rows"]) for row in rows))
  sizes = [size for workload, size in cases if workload == "W1"]
  head = ["trainer", "tables learn by"]
  for workload, size in cases:
    head.append(f"{workload} {_short(size)}")
    if workload == "W1" and size == max(sizes):
      head += (["growth"] if len(sizes) > 1 else []) + [f"peak GiB at {_short(size)}"]
  lines = [head]
  for name in dict.fromkeys(row["name"] for row in rows):
    mine = {(row["workload"], row["num_rows"]): row for row in rows if row["name"] == name}
    optimizer = next(iter(mine.values()))["table_optimizer"]
    bold = "**" if name == "ours" else ""
    line = [f"{bold}{_LABELS[name]}{bold}", _TABLES[optimizer]]
    for case in cases:
      row = mine[case]
      times = row[f"{prefix}ratio_to_ours"]
      line.append(f"{row[time]:.1f}" + ("" if name == "ours" or math.isnan(times) else f" ({times:.2f}x)"))
      if case == ("W1", max(sizes, default=0)):
        line += ([f"{row[f'{prefix}growth']:.2f}"] if len(sizes) > 1 else []) + [f"{row['peak_rss_bytes'] / 2**30:.2f}"]
    lines.append(line)
  return markdown.table(lines, 2)


def section(rows: list[Row], header: dict[str, Any], date: datetime.date) -> str:
  """The Markdown table and a note: what was timed, by which command, on which machine and when. Rows of `scaling` are left out."""
  rows = [row for row in rows if row["series"] != "scaling"]
  _, _, unit = time_of(rows)
  versions = ", ".join(dict.fromkeys(", ".join(row["versions"] for row in rows).split(", ")))
  floor = next((row for row in rows if not math.isnan(row["floor_ms"])), None)
  products = (
    f" The matrix products of {floor['workload']} alone take us {floor['floor_cpu_ms']:.1f} ms: our step is {floor['times_floor']:.2f} "
    "times that."
    if floor
    else ""
  )
  return (
    f"{markdown_table(rows)}\n\n"
    f"*{unit[0].upper()}{unit[1:]} for a step of {rows[0]['batch_size']:,} examples, median; in brackets, how many times ours, "
    f"paired by round. W1, W2: whole training steps of a DLRM with 26 tables of so many rows, dim 16 and 64; emb: lookup, gradient and "
    f"update of W1's tables alone; growth: from the smallest tables to the largest.{products} "
    f"Made by {markdown.made_by(header, date)}, {versions}.*"
  )
