"""Measures how fast a Criteo log is prepared, and in how much memory, compared with polars, which parses, hashes and writes the same file.

  python -m benchmarks.prepare --output=prepare.json --gb=1,4                # made-up files, removed at the end
  python -m benchmarks.prepare --output=prepare.json --gb=4 --head=head.txt  # files of the lines of a real log
  python -m benchmarks.prepare --output=prepare.json --input=train.txt       # a log of your own

Each way runs `--rounds` times in turn, as a process of its own on one core. `polars` scans the file with the columns' types, hashes the
categories to 31 bits and writes Parquet. It neither checks lines nor has a vocabulary. `prepare` is `python -m dlrm_jax.data.prepare`,
everything included, with ids by hash and by frequency. MB/s are per second of the wall. MB per CPU second are given as well, since other
programs may take turns on the core. The work takes as much disk as the file has, in addition to it. An output file that exists is
replaced.
"""

import dataclasses
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import criteo_like, table
from benchmarks.measure.output import check_output
from benchmarks.measure.table import number
from dlrm_jax.common import flags, markdown, record
from dlrm_jax.common.flags import option
from dlrm_jax.common.progress import say
from dlrm_jax.machine import hardware

# The same work by a library without checks: it rejects no line, takes a bad value for a missing one, and has no vocabulary.
_POLARS = """
import sys
import polars as pl
source, target = sys.argv[1:]
numbers, keys = [f"I{i}" for i in range(1, 14)], [f"C{i}" for i in range(1, 27)]
types = {"label": pl.UInt8} | dict.fromkeys(numbers, pl.Int64) | dict.fromkeys(keys, pl.String)
log = pl.scan_csv(source, schema=types, separator="\\t", has_header=False, quote_char=None)
dense = [pl.col(name).clip(0).cast(pl.Float32).log1p().fill_null(0) for name in numbers]
ids = [(pl.col(name).hash(1) // 2**33).cast(pl.Int32) for name in keys]
log.select("label", *dense, *ids).sink_parquet(target, compression="lz4", statistics=False)
"""
_LOOK_S = 0.02  # between looks at a process
_WAYS = ("polars", "hash", "frequency")


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
  """Flags of `python -m benchmarks.prepare`."""

  output: str = option("", "JSON file to write; required")
  input: str = option("", "a Criteo log to read; otherwise files are made")
  head: str = option("", "the beginning of a Criteo log, whose lines are repeated with varied categories; none: made-up lines")
  gb: tuple[float, ...] = option((1.0,), "sizes of the files that are made, in 10^9 bytes, a list")
  rounds: int = option(3, "how often each way runs; medians are reported", at_least=1)
  markdown: str = option("", "put the table between <!-- prepare --> and <!-- /prepare --> of this file")
  core: int = option(min(os.sched_getaffinity(0)), "the core on which all run")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(not self.input or Path(self.input).is_file(), self, "input", "a file")
    flags.check(not self.head or Path(self.head).is_file(), self, "head", "a file")
    flags.check(len(self.gb) > 0 and min(self.gb) > 0, self, "gb", "a list of numbers above 0")
    flags.check(self.core in os.sched_getaffinity(0), self, "core", "among " + ", ".join(map(str, sorted(os.sched_getaffinity(0)))))


def command(way: str, source: Path, target: Path) -> list[str]:
  """The program that is timed."""
  if way == "polars":
    return [sys.executable, "-c", _POLARS, str(source), str(target)]
  words = ["--format=criteo_tsv", f"--input={source}", f"--output={target}", f"--vocabulary={way}", "--workers=1", "--overwrite"]
  return [sys.executable, "-m", "dlrm_jax.data.prepare", *words]


def run(config: PrepareConfig, way: str, source: Path, target: Path) -> tuple[float, float, int]:
  """Runs one way: seconds of the wall, seconds of the CPU, peak memory in bytes. Raises RuntimeError if it fails."""
  environment, peak = os.environ | {"POLARS_MAX_THREADS": "1"}, 0
  pinned = ["taskset", "-c", str(config.core), *command(way, source, target)]
  with tempfile.TemporaryFile() as said:
    started = time.perf_counter()
    process = subprocess.Popen(pinned, env=environment, stdout=subprocess.DEVNULL, stderr=said)
    while True:
      peak = max(peak, _peak_bytes(process.pid))
      ended, status, usage = os.wait4(process.pid, os.WNOHANG)
      if ended:
        break
      time.sleep(_LOOK_S)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    said.seek(0)
    if process.returncode:
      raise RuntimeError(f"{way} failed: {said.read().decode(errors='replace').strip().splitlines()[-1]}")
  return seconds, usage.ru_utime + usage.ru_stime, peak


def _peak_bytes(process: int) -> int:
  """The peak memory of a process since its program began. (The figure of wait4 includes memory of this process.)"""
  lines = Path(f"/proc/{process}/status").read_text().splitlines()
  return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def measure(config: PrepareConfig, source: Path, directory: Path) -> list[dict[str, Any]]:
  """Runs all ways in turn on a file. Returns a row for each."""
  size = source.stat().st_size
  seen: dict[str, list[tuple[float, float, int]]] = {way: [] for way in _WAYS}
  for round_ in range(config.rounds):
    for way in _WAYS:
      seen[way].append(run(config, way, source, directory / way))
      speed = f"{size / seen[way][-1][0] / 1e6:,.0f} MB/s"
      say(f"{size / 1e9:.3g} GB, round {round_ + 1} of {config.rounds}, {way}: {speed}")
  rows = []
  for way, runs in seen.items():
    wall_s, cpu_s = (statistics.median_low([run[place] for run in runs]) for place in (0, 1))
    pairs = zip(seen["polars"], runs, strict=True)
    row = {"name": way, "input_bytes": size, "wall_s": wall_s, "cpu_s": cpu_s}
    row |= {"bytes_per_s": size / wall_s, "bytes_per_cpu_s": size / cpu_s, "peak_rss_bytes": max(run[2] for run in runs)}
    rows.append(row | {"speed_over_polars": statistics.median_low([polars[1] / run[1] for polars, run in pairs])})
  return rows


def show(rows: list[dict[str, Any]]) -> None:
  """The rows as a table on standard output."""
  columns: dict[str, Any] = {
    "ids by": "name",
    "GB": number("input_bytes", ".3g", 1e-9),
    "s": number("wall_s", ".1f"),
    "MB/s": number("bytes_per_s", ",.0f", 1e-6),
    "MB/CPU s": number("bytes_per_cpu_s", ",.0f", 1e-6),
    "of polars": number("speed_over_polars", ".2f"),
    "peak GiB": number("peak_rss_bytes", ".2f", 2**-30),
  }
  table.show("prepare on one core; of polars: CPU seconds, paired by round", columns, rows)


def section(rows: list[dict[str, Any]], header: dict[str, Any], date: datetime.date) -> str:
  """The table, with a note that explains it."""
  lines = [["on one core", "GB", "MB/s", "MB a CPU second", "times polars", "peak GiB"]]
  for row in rows:
    name = "polars: parse, hash, write" if row["name"] == "polars" else f"**prepare**, ids by {row['name']}"
    cells = f"{row['input_bytes'] / 1e9:.3g}", f"{row['bytes_per_s'] / 1e6:.0f}", f"{row['bytes_per_cpu_s'] / 1e6:.0f}"
    lines.append([name, *cells, f"{row['speed_over_polars']:.2f}", f"{row['peak_rss_bytes'] / 2**30:.2f}"])
  note = "Polars neither checks lines nor counts values; medians, times by CPU seconds and paired by round."
  return f"{markdown.table(lines, 1)}\n\n*{note} Made by {markdown.made_by(header, date)}.*"


def main(config: PrepareConfig) -> None:
  """Makes the files, times all ways, writes the JSON file and prints a table."""
  hardware.select_platform()
  check_output(config.output)
  if config.markdown:
    markdown.check_markers(config.markdown, "prepare")
  rows = []
  with tempfile.TemporaryDirectory(dir=Path(config.output).absolute().parent) as directory:
    sources = [Path(config.input)] if config.input else []
    for gb in config.gb if not config.input else ():
      sources.append(Path(directory) / f"criteo_{gb:g}gb.tsv")
      say(f"making a file of {gb:g} GB")
      criteo_like.write(sources[-1], int(gb * 1e9), Path(config.head) if config.head else None)
    for source in sources:
      rows += measure(config, source, Path(directory))
  header = hardware.header()
  record.write_json(config.output, header | {"results": rows})
  show(rows)
  if config.markdown:
    markdown.write(config.markdown, "prepare", section(rows, header, datetime.date.today()))


if __name__ == "__main__":
  flags.run(main, PrepareConfig)
