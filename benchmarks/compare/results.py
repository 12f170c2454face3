"""Reads benchmark files: their rows, metrics, hardware, software and command. Used by `benchmarks.compare`."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.table import Row
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError

# Names of fields that hold measurements, and which values are better. The first pattern that matches counts.
_METRICS = (
  (r"(\w+_)?mfu|efficiency|(\w+_)?bandwidth_share|\w*speedup|\w+_per_s|\w+_per_cpu_s", "higher"),
  (
    r"(\w+_)?ms(_p\d+|_per_step)?|\w+_bytes|\w+_bytes_per_device|\w*growth|\w+_over_least|compile_s|cost_per_million_examples",
    "lower",
  ),
)
DEFAULT_METRICS = (
  "step_ms_p50",
  "ms_per_step",
  "examples_per_s",
  "bytes_per_s",
  "needed_bytes",
)  # compared by default


def direction(field: str) -> str | None:
  """Whether "lower" or "higher" values of a field are better; None for a field that is no measurement."""
  if field == "size_bytes":  # asked for, not measured
    return None
  return next((better for pattern, better in _METRICS if re.fullmatch(pattern, field)), None)


def is_number(value: Any) -> bool:
  """Whether a field holds a finite number."""
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class File:
  """One benchmark file: its rows, and the header with hardware, software and command."""

  path: str
  header: dict[str, Any]
  rows: tuple[Row, ...]

  @property
  def device(self) -> str:
    """The accelerator or processor in a few words; the topology if the program was only compiled."""
    if "topology" in self.header:
      return str(self.header["topology"])
    hardware = self.header["hardware"]
    count = hardware.get("num_devices", 1)
    if hardware.get("platform", "cpu") != "cpu":
      return (f"{count} x " if count > 1 else "") + str(hardware.get("device"))
    name = " ".join(re.sub(r"\((R|TM|r|tm)\)|\b(CPU|Processor)\b|@ ?[\d.]+ ?GHz", " ", str(hardware.get("cpu"))).split())
    return name + (f" as {count} simulated devices" if count > 1 else "")

  @property
  def settings(self) -> dict[str, str]:
    """Hardware, software and command line: name -> text."""
    out = {f"{part}.{name}": str(value) for part in ("hardware", "software") for name, value in self.header[part].items()}
    words = self.header.get("command", [])
    out["program"] = next((after for word, after in zip(words, words[1:]) if word == "-m"), str(words[:1]))
    for word in words:
      name, _, value = word.partition("=")
      if name.startswith("--") and name not in ("--output", "--workdir", "--name"):
        out[name] = value or "given"
    return out


def load(path: str) -> File:
  """Reads one file, or DIR/results.json of a directory. Raises UserError where it is absent or not from a benchmark."""
  content = record.read_json(Path(path) / "results.json" if Path(path).is_dir() else path)
  header: dict[str, Any] = {
    name: content[name] for name in ("schema_version", "command", "hardware", "software", "topology") if name in content
  }
  if not all(isinstance(content.get(part), dict) for part in ("hardware", "software")):
    raise UserError(f"{path}: not a benchmark file: it has no hardware and software")
  rows = content.get("results")
  if rows is None and isinstance(content.get("memory"), dict):
    rows = _topology_rows(content)
  if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
    raise UserError(f"{path}: not a benchmark file: it has no results")
  return File(path, header, tuple(rows))


def _topology_rows(content: dict[str, Any]) -> list[Row]:
  """The rows of a compiled step: one for its memory, one for each kind of collective."""
  same = {name: content.get(name) for name in ("topology", "mesh", "batch_size")}
  collectives: dict[tuple[str, bool], int] = {}
  for found in content.get("collectives", []):
    key = (f"{found['kind']} {found['category']}", found["in_loop"])
    collectives[key] = collectives.get(key, 0) + found["bytes"]
  memory = {name: value for name, value in content["memory"].items() if direction(name)} | {"compile_s": content.get("compile_s")}
  rows = [{"operation": "step"} | same | memory | {"values_over_least": content.get("exchange", {}).get("values_over_least")}]
  return rows + [{"operation": name, "in_loop": loop} | same | {"collective_bytes": size} for (name, loop), size in collectives.items()]


def metrics_of(files: Sequence[File]) -> list[str]:
  """The metrics for which every file has a row with a number, in the order of the first file."""
  every = [{name for row in file.rows for name, value in row.items() if direction(name) and is_number(value)} for file in files]
  order = dict.fromkeys(name for row in files[0].rows for name in row)
  return [name for name in order if all(name in some for some in every)]


def differences(files: Sequence[File]) -> dict[str, tuple[str, ...]]:
  """Differences in hardware, software and command line; "-" where a file does not have the setting."""
  every = [file.settings for file in files]
  names = dict.fromkeys(name for settings in every for name in settings)
  out = {name: tuple(settings.get(name, "-") for settings in every) for name in names}
  return {name: values for name, values in out.items() if len(set(values)) > 1}


def value_text(metric: str, value: float | int | None) -> str:
  """A value with at least three digits, and with a prefix where it is large: 38.8, 1.77GB, 52.6k; "-" for None."""
  if value is None:
    return "-"
  unit = "B" if "bytes" in metric else ""
  for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= size and (unit or "_per_s" in metric):
      return f"{value / size:.3g}{prefix}{unit}"
  return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}") + unit


def ratio_text(ratio: float) -> str:
  """A ratio as text: 1.79x, 0.041x."""
  return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.2g}x"
