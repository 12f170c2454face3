"""The table of the README: a column for each kind of machine that was measured. Written by `--markdown`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.accelerator.findings import of_section
from benchmarks.accelerator.summary import title
from benchmarks.measure.table import Row
from dlrm_jax.common import markdown, record

SECTION = "new-machine"
COMPILED = "H100, A100, TPU v4 to v6e"  # machines that programs are compiled for (benchmarks.topology)
RESULTS = Path(__file__).resolve().parents[1] / "results"
_NOT_RUN = "not run"
Cell = Callable[[dict[str, Any]], str]


def section() -> str:
  """The table, from the files in benchmarks/results."""
  found = [record.read_json(path) for path in sorted(RESULTS.glob("*.json"))]
  lines = [["", *(title(one) for one in found), COMPILED]]
  lines += [[name, *(cell(one) for one in found), "compiled, not run"] for name, cell in LINES.items()]
  note = "*Pipelined times of a training step. Made by `python -m benchmarks.accelerator --markdown=README.md` from `benchmarks/results`.*"
  return f"{markdown.table(lines, 1)}\n\n{note}"


def _right(found: dict[str, Any]) -> str:
  checked = [bool(row["ok"]) for row in of_section(found, "correct") if "ok" in row]
  return f"{sum(checked)} of {len(checked)}" if checked else _NOT_RUN


def _cell(name: str, fields: Row, show: str, form: str) -> Cell:
  """The cell of the first row of a section whose fields have these values."""

  def text(found: dict[str, Any]) -> str:
    rows = [row for row in of_section(found, name) if show in row and all(row.get(field) == value for field, value in fields.items())]
    return form.format(rows[0][show]) if rows else _NOT_RUN

  return text


def _step(section: str, name: str, num_rows: int) -> Cell:
  return _cell(section, {"name": name, "num_rows": num_rows}, "pipelined_ms", "{:.3g} ms")


def _lookup(operation: str) -> Cell:
  return _cell("lookup", {"operation": operation, "num_rows": 1_000_000, "embed_dim": 128, "skew": 3.0}, "share_of_copy", "{:.0%}")


LINES: dict[str, Cell] = {
  "checks that passed: the engine against an oracle, steps against the CPU's": _right,
  "W1, tables of 1,000 rows": _step("w1", "W1", 1000),
  "W1, 1M rows": _step("w1", "W1", 1_000_000),
  "W1, 10M rows": _step("w1", "W1", 10_000_000),
  "`small`, 8 steps a call": _step("w1", "small", 100_000),
  "26 tables x 1M x 128, batch 65,536, float32": _step("large", "large, float32", 1_000_000),
  "the same, bfloat16 products": _step("large", "large, bfloat16", 1_000_000),
  "a lookup of that size, share of a copy's bandwidth": _lookup("gather"),
  "an update": _lookup("update"),
}
