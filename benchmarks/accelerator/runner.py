"""Runs sections one after the other, each in a process with a time limit, and keeps what they find on disk after each.

The runner itself imports no jax: a process that holds an accelerator would leave none for the sections.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator import rows
from benchmarks.accelerator.sections import Section
from dlrm_jax.common import record
from dlrm_jax.common.progress import say

RESULTS, LINES, LOGS = "results.json", "rows.jsonl", "logs"
_LEAST_S = 15.0  # a section is not begun with less time left
_GRACE_S = 5.0  # between the signal that asks a section to stop and the one that ends it


@dataclasses.dataclass(frozen=True)
class Ran:
  """How a section ended.

  Attributes:
    section: its name.
    status: `done`, `failed` (with its exit code), `out of time` (stopped at its limit), or `not begun`.
    seconds: how long it ran.
    exit_code: of its process; None where it was stopped or not begun.
  """

  section: str
  status: str
  seconds: float
  exit_code: int | None = None


def run(
  sections: Sequence[Section],
  output: Path,
  budget_s: float,
  tiny: bool,
  slower: float = 1.0,
  command: Callable[[Section], list[str]] | None = None,
) -> list[Ran]:
  """Runs the sections in order; those for which no time is left are not begun.

  Args:
    sections: in order of value.
    output: directory; `results.json` there is written anew after each section, `logs/NAME.txt` has what it printed.
    budget_s: seconds for all.
    tiny: see `Rows`.
    slower: times the limit of each section, for machines without an accelerator.
    command: the words of a section's process; None: those of `section.py`.
  """
  lines, start, ended = output / LINES, time.monotonic(), list[Ran]()
  about = {"budget_s": budget_s, "size": "tiny" if tiny else "full"}
  (output / LOGS).mkdir(parents=True, exist_ok=True)
  lines.write_text("")
  write(output, ended, about)  # nothing of an earlier check is left
  for number, section in enumerate(sections):
    left = budget_s - (time.monotonic() - start)
    if left < _LEAST_S:
      ended.append(Ran(section.name, "not begun", 0.0))
    else:
      limit = min(left, section.most_s * slower)
      say(f"{number + 1}/{len(sections)} {section.name}: {section.about} (at most {limit:.0f} s)")
      words = command(section) if command else _words(section, output, tiny)
      ended.append(_one(section.name, words, output / LOGS / f"{section.name}.txt", limit))
      say(f"{section.name}: {ended[-1].status} after {ended[-1].seconds:.0f} s")
    write(output, ended, about)
  return ended


def _words(section: Section, output: Path, tiny: bool) -> list[str]:
  return [sys.executable, "-m", "benchmarks.accelerator.section", section.name, str(output / LINES), *(["tiny"] if tiny else [])]


def _one(name: str, words: list[str], log: Path, limit: float) -> Ran:
  """Runs one process. It is asked to stop at its limit, and ended soon after."""
  start = time.monotonic()
  with log.open("w", encoding="utf-8") as file:
    process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
      code = process.wait(limit)
    except subprocess.TimeoutExpired:
      _signal(process, signal.SIGTERM)
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
      _signal(process, signal.SIGKILL)
      process.wait()
      return Ran(name, "out of time", time.monotonic() - start)
    except BaseException:
      _signal(process, signal.SIGKILL)
      process.wait()
      raise
  return Ran(name, "done" if code == 0 else "failed", time.monotonic() - start, code)


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
  """Sends a signal to a section and to the processes that it started: one that goes on would hold the accelerator of the next section."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, number)


def write(output: Path, ended: Sequence[Ran], about: dict[str, Any]) -> None:
  """Writes results.json: `about` the check, how the sections ended, and all rows so far."""
  found = rows.read(output / LINES)
  header = record.header()
  machine = next((row for row in found if row.get("what") == "machine" and "platform" in row), {})
  header["hardware"] |= {name: machine[name] for name in ("platform", "device", "num_devices") if name in machine}
  sections = [dataclasses.asdict(one) for one in ended]
  record.write_json(output / RESULTS, header | about | {"sections": sections, "results": found})
