"""The tables of the summary: which columns each section has, and how their cells are written. Read by `summary.py`."""

from collections.abc import Callable
from typing import Any

from benchmarks.accelerator.findings import of_section
from benchmarks.measure.table import Row

Cell = Callable[[Row], str]


def _number(field: str, form: str, scale: float = 1.0) -> Cell:
  return lambda row: format(row[field] * scale, form) if isinstance(row.get(field), (int, float)) else "-"


def _text(field: str) -> Cell:
  return lambda row: str(row.get(field, "-"))


def _truth(field: str, yes: str, no: str) -> Cell:
  return lambda row: "-" if row.get(field) is None else yes if row[field] else no


_STEP: dict[str, Cell] = {
  "workload": _text("name"),
  "rows a table": _number("num_rows", ",.0f"),
  "batch": _number("batch_size", ",.0f"),
  "pipelined, ms": _number("pipelined_ms", ".3f"),
  "of it the host, ms": _number("pipelined_host_ms", ".3f"),
  "waited for, ms": _number("step_ms_p50", ".3f"),
  "million examples/s": _number("pipelined_examples_per_s", ",.3f", 1e-6),
  "of peak FLOP/s": _number("pipelined_mfu", ".1%"),
  "of measured FLOP/s": _number("measured_mfu", ".1%"),
  "of peak bandwidth": _number("pipelined_bandwidth_share", ".1%"),
  "of measured bandwidth": _number("measured_bandwidth_share", ".1%"),
  "device memory, GB": _number("peak_device_bytes", ",.2f", 1e-9),
}
TABLES: dict[str, dict[str, Cell]] = {
  "env": {
    "products": lambda row: f"{row['dtype']}, {row['precision']}" if "dtype" in row else "-",
    "TFLOP/s": _number("flops_per_s", ",.2f", 1e-12),
    "of the data sheet": _number("flops_share_of_sheet", ".1%"),
    "copy, GB/s": _number("bytes_per_s", ",.0f", 1e-9),
    "of the sheet's": _number("bytes_share_of_sheet", ".1%"),
  },
  "correct": {
    "what": _text("what"),
    "case": _text("case"),
    "right": _truth("ok", "yes", "NO"),
    "first loss off by": _number("first_loss_difference", ".1e"),
    "tables off by": _number("tables_difference", ".1e"),
    "of the CPU's in another order of sums": _number("tables_difference_of_order", ".1e"),
    "same bits twice": _truth("same_bits_twice", "yes", "no"),
  },
  "w1": _STEP,
  "large": _STEP,
  "lookup": {
    "operation": _text("operation"),
    "rows a table": _number("num_rows", ",.0f"),
    "dim": _number("embed_dim", ".0f"),
    "skew": _number("skew", "g"),
    "distinct": _number("distinct_share", ".1%"),
    "pipelined, ms": _number("pipelined_ms", ".3f"),
    "waited for, ms": _number("step_ms_p50", ".3f"),
    "of a copy's bandwidth": _number("share_of_copy", ".1%"),
  },
  "peer": {
    "trainer": _text("trainer"),
    "what": _text("workload"),
    "rows a table": _number("num_rows", ",.0f"),
    "dim": _number("embed_dim", ".0f"),
    "batch": _number("batch_size", ",.0f"),
    "products": _text("compute_dtype"),
    "pipelined, ms": _number("pipelined_ms", ".3f"),
    "waited for, ms": _number("step_ms_p50", ".3f"),
    "device memory, GB": _number("peak_device_bytes", ",.2f", 1e-9),
  },
  "small": {
    "run": _text("name"),
    "batch": _number("batch_size", ",.0f"),
    "examples": _number("num_examples", ",.0f"),
    "examples/s": _number("examples_per_s", ",.0f"),
    "training, s": _number("training_s", ",.1f"),
    "whole run, s": _number("wall_s", ",.1f"),
    "excess": _number("excess", ".4f"),
    "times as fast as in turn": _number("speedup", ".2f"),
  },
  "exchange": {
    "what": lambda row: str(row.get("what") or row.get("name", "-")),
    "which": lambda row: str(row.get("kind") or row.get("case") or "-"),
    "right": _truth("ok", "yes", "NO"),
    "bus, GB/s": _number("bus_bytes_per_s", ",.1f", 1e-9),
    "pipelined, ms": _number("pipelined_ms", ".3f"),
  },
  "profile": {
    "workload": _text("name"),
    "what": _text("what"),
    "scope": _text("scope"),
    "operation": _text("op"),
    "ms a step": lambda row: _number("ms_per_step" if "ms_per_step" in row else "step_ms_profiled", ".3f")(row),
  },
}


def table_of(found: dict[str, Any], section: str) -> tuple[list[str], list[list[str]]]:
  """Headings and cells of a section's rows; columns without a value are left out."""
  rows = [row for row in of_section(found, section) if not row.get("error") and not (section == "env" and row.get("what") == "machine")]
  columns = {name: [cell(row) for row in rows] for name, cell in TABLES[section].items()}
  columns = {name: cells for name, cells in columns.items() if any(cell != "-" for cell in cells)}
  return list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)]
