"""Section `small`: whole runs of `dlrm_jax.train` by preset small, with draws, evaluations and records, and several runs in one program."""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.accelerator.rows import Rows
from benchmarks.measure.table import Row
from dlrm_jax.common import record

_KEPT = ("examples_per_s", "training_s", "wall_s", "log_loss", "excess", "status")
_MOST_S = 60  # of one run


def measure(rows: Rows) -> None:
  """Keeps a row for each run, then one for four runs trained together."""
  work = rows.path.parent / "runs"
  for batch_size, log2 in [(256, 13)] if rows.tiny else [(256, 21), (4096, 23), (16_384, 24)]:
    words = ["--preset=small", f"--batch_size={batch_size}", f"--num_examples={2**log2}"]
    rows.case(functools.partial(_run, words, work), name="small", batch_size=batch_size, num_examples=2**log2)
  output = work / "together.json"
  short = ["--steps=8", "--rounds=1"] if rows.tiny else ["--rounds=4"]
  words = ["benchmarks.together", f"--output={output}", "--preset=small", "--runs=4", *short]
  rows.case(functools.partial(_together, words, output), what="four runs")


def _program(words: list[str]) -> None:
  """Runs a program of this project. Raises RuntimeError with its last line where it fails."""
  done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=_MOST_S, check=False)
  if done.returncode:
    raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")


def _run(words: list[str], work: Path) -> Row:
  """The figures of a run's record. Its directory is a new one: an earlier check may have left its own run."""
  work.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=work) as workdir:
    _program(["dlrm_jax.train", *words, f"--workdir={workdir}"])
    found = record.read_json(Path(workdir) / "record.json")
  return {name: found.get(name) for name in _KEPT}


def _together(words: list[str], output: Path) -> list[Row]:
  """The rows of benchmarks.together: four runs one after the other, and in one program."""
  _program(words)
  found = record.read_json(output)["results"]
  return [row | {"name": f"small, {row['name']}: {row['runs']} runs that differ in {row['differ_in']}"} for row in found]
