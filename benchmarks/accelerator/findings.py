"""What the rows of a check say, in sentences: whether results are right, what sets the speed, what is lost where. Read by `summary.py`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from benchmarks.measure.table import Row

_HOST_SETS = 0.9  # the host sets the speed where it needs this share of a pipelined step to start it
_FLAT = 1.05  # a step over larger tables that takes at most this many times as long counts as no slower


@dataclasses.dataclass(frozen=True)
class Finding:
  """One sentence, and whether it is good news (True), bad news (False), or neither (None)."""

  text: str
  good: bool | None = None


def of_section(found: dict[str, Any], section: str) -> list[Row]:
  """The rows of a section."""
  return [row for row in found["results"] if row["section"] == section]


def is_right(found: dict[str, Any]) -> bool:
  """Whether the checks of results that were asked for were made, one at least, and none found a wrong result or ended in an error."""
  checks = [row for row in found["results"] if "ok" in row or (row["section"] == "correct" and row.get("error"))]
  asked = any(ran["section"] == "correct" for ran in found["sections"])
  return all(row.get("ok") for row in checks) and bool(checks or not asked)


def findings(found: dict[str, Any]) -> list[Finding]:
  """Every sentence that the rows allow, in the order of the sections."""
  out = [Finding("Tiny sizes: this tried the program, and its times say nothing.")] if found.get("size") == "tiny" else []
  asked = any(ran["section"] == "correct" for ran in found["sections"])
  out += [*_correct(of_section(found, "correct"), asked), *_growth(of_section(found, "w1"))]
  out += _host(of_section(found, "w1"), found["hardware"].get("platform", ""))
  out += [*_calls(of_section(found, "w1")), *_large(of_section(found, "large")), *_lookup(of_section(found, "lookup"))]
  out += _peers(of_section(found, "peer"), of_section(found, "large"))
  out += [
    Finding(f"{row['section']}: {_name(row)} was not measured: {row['error']}", False) for row in found["results"] if row.get("error")
  ]
  for ran in found["sections"]:
    if ran["status"] == "failed":
      out.append(Finding(f"Section {ran['section']} failed with exit code {ran['exit_code']}; logs/{ran['section']}.txt says why.", False))
    elif ran["status"] == "out of time":
      out.append(Finding(f"Section {ran['section']} was stopped after {ran['seconds']:.0f} s; its rows so far count.", None))
    elif ran["status"] == "not begun":
      out.append(Finding(f"Section {ran['section']} was not begun: no time was left.", None))
  return out


def _name(row: Row) -> str:
  return str(row.get("name") or row.get("case") or row.get("what") or row.get("trainer") or "a case")


def _correct(rows: Sequence[Row], asked: bool) -> list[Finding]:
  engine = [row for row in rows if row.get("what") == "engine" and "ok" in row]
  steps = [row for row in rows if row.get("what") == "steps beside the CPU's" and "ok" in row]
  out = []
  if asked and not any("ok" in row for row in rows):
    out.append(Finding("Nothing was checked: whether results are right here is not known.", False))
  if engine:
    wrong = [row["case"] for row in engine if not row["ok"]]
    text = f"The engine equals the dense oracle in {len(engine) - len(wrong)} of {len(engine)} cases"
    out.append(Finding(text + (f"; not with {'; '.join(wrong)}." if wrong else "."), not wrong))
  for row in steps:
    if row["tables_difference"] is None or row["tables_difference_of_order"] is None:
      where = "here" if row["tables_difference"] is None else "on the CPU"
      out.append(Finding(f"{row['steps']} steps of {row['case']} {where} end in tables that hold NaN or infinity.", row["ok"]))
      continue
    text = f"{row['steps']} steps of {row['case']} end in tables {row['tables_difference']:.2g} from the CPU's"
    judge = f", whose own are {row['tables_difference_of_order']:.2g} apart if examples come in another order"
    out.append(Finding(f"{text}{judge}: {'rounding explains that' if row['ok'] else 'rounding does not explain that'}.", row["ok"]))
  if steps:
    same = all(row["same_bits_twice"] for row in steps)
    out.append(Finding("The same steps give the same bits twice." if same else "The same steps do not give the same bits twice.", None))
  return out


def _timed(rows: Sequence[Row], name: str) -> list[Row]:
  return [row for row in rows if row.get("name") == name and "pipelined_ms" in row]


def _growth(rows: Sequence[Row]) -> list[Finding]:
  sizes = sorted(_timed(rows, "W1"), key=lambda row: row["num_rows"])
  if len(sizes) < 2:
    return []
  first, last = sizes[0], sizes[-1]
  ratio = last["pipelined_ms"] / first["pipelined_ms"]
  worst = max(sizes, key=lambda row: row["pipelined_ms"])
  text = (
    f"A step of W1 takes {first['pipelined_ms']:.3g} ms with tables of {first['num_rows']:,} rows and {last['pipelined_ms']:.3g} ms with "
  )
  text += f"{last['num_rows']:,}, {ratio:.2f} times as long"
  if worst not in (first, last):
    text += f"; the longest is {worst['pipelined_ms']:.3g} ms, with {worst['num_rows']:,}"
  return [Finding(text + ".", max(row["pipelined_ms"] for row in sizes) <= _FLAT * first["pipelined_ms"] or None)]


def _host(rows: Sequence[Row], platform: str) -> list[Finding]:
  if platform == "cpu":  # its host is its device
    return []
  timed = [row for row in rows if "pipelined_host_ms" in row]
  held = [row for row in timed if row["pipelined_host_ms"] >= _HOST_SETS * row["pipelined_ms"]]
  if not held:
    return []
  names = "; ".join(f"{row['name']}, {row['num_rows']:,} rows" for row in held)
  return [Finding(f"The host, not the device, sets the time of {len(held)} of {len(timed)} small steps: {names}.", None)]


def _calls(rows: Sequence[Row]) -> list[Finding]:
  several = _timed(rows, "W1, 8 steps a call")
  alone = [row for row in _timed(rows, "W1") if several and row["num_rows"] == several[0]["num_rows"]]
  if not alone:
    return []
  ratio = several[0]["pipelined_ms"] / alone[0]["pipelined_ms"]
  return [Finding(f"With 8 steps in a call, a step of W1 takes {ratio:.2f} times as long as alone.", None)]


def _large(rows: Sequence[Row]) -> list[Finding]:
  out = []
  for row in rows:
    if "pipelined_ms" in row and row["num_rows"] >= 1_000_000:
      text = f"{row['name']}: {row['pipelined_ms']:.3g} ms a step, {row['pipelined_examples_per_s']:,.0f} examples/s"
      shares = f"{row['pipelined_mfu']:.0%} of the peak FLOP/s, {row['pipelined_bandwidth_share']:.0%} of the peak bandwidth"
      out.append(Finding(f"{text}, {shares} ({row['peak_source']}).", None))
  return out


def _lookup(rows: Sequence[Row]) -> list[Finding]:
  out = []
  for row in rows:
    if "share_of_copy" in row and row["num_rows"] >= 1_000_000 and row["embed_dim"] == 128 and row["operation"] != "both":
      text = f"A {row['operation']} of {row['num_rows']:,} rows a table, dim 128, skew {row['skew']:g}, moves its bytes at"
      out.append(Finding(f"{text} {row['share_of_copy']:.0%} of a copy's bandwidth.", None))
  return out


def _peers(peers: Sequence[Row], large: Sequence[Row]) -> list[Finding]:
  out = []
  for ours in (row for row in large if "pipelined_ms" in row):
    alike = [
      row
      for row in peers
      if "pipelined_ms" in row
      and row["workload"] == "step"
      and all(row[name] == ours[name] for name in ("num_rows", "embed_dim", "batch_size", "compute_dtype"))
    ]
    if alike and ours["table_dtype"] == "float32":
      best = min(alike, key=lambda row: row["pipelined_ms"])
      ratio = best["pipelined_ms"] / ours["pipelined_ms"]
      text = f"{ours['name']}: the fastest of {len(alike)} others, {best['trainer']}, takes {best['pipelined_ms']:.3g} ms"
      out.append(Finding(f"{text}, {ratio:.2f} times as long as ours.", ratio >= 1 if math.isfinite(ratio) else None))
  return out
