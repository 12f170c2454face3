"""Compares our model with logistic regression on click logs, from the raw file to held-out NE and ROC AUC.

  python -m benchmarks.quality --output=quality.json --logs=logs.toml --workdir=runs/quality

logs.toml names the logs. Paths are relative to the file:

  [movielens]
  format = "parquet"                     # as the flags of dlrm_jax.data.prepare
  input = "ml1m_events.parquet"
  schema = "movielens.toml"
  prepare = ["--eval_fraction=0.1"]      # optional: further flags of prepare
  shuffled = true                        # optional: the rows in a drawn order, so that the held-out rows are not the newest
  train = ["--preset=click_log"]         # optional: flags of dlrm_jax.train; this is the default

Each log is prepared, then trained on at the defaults and with `--lr_find`. The logistic regression of the first run's record is ours.
`outside` is scikit-learn's on target encodings of the same rows (benchmarks/peers/outside_logistic.py, in the environment of `make peers`).
All run one after the other, so that times can be compared. What is in the work directory is not done again. An output file that exists is
replaced.
"""

import dataclasses
import datetime
import json
import math
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.measure import table
from benchmarks.measure.output import check_output, write_and_show
from benchmarks.measure.table import number
from dlrm_jax.common import flags, markdown, progress, record
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.data.dataset import open_dataset
from dlrm_jax.machine import hardware
from dlrm_jax.training import metrics

WAYS = ("defaults", "lr_find", "logistic", "outside")
_ROOT = Path(__file__).resolve().parents[1]
_KEYS = {"format": str, "input": str, "schema": str, "prepare": list, "shuffled": bool, "train": list}


@dataclasses.dataclass(frozen=True)
class QualityConfig:
  """Flags of `python -m benchmarks.quality`."""

  logs: str = option(help="TOML file that names the logs")
  workdir: str = option(help="directory for data sets and runs; what it holds is not made again")
  output: str = option("", "JSON file to write; required")
  ways: tuple[str, ...] = option(WAYS, "what is compared; outside needs `make peers`", WAYS)
  markdown: str = option("", "put the table between <!-- quality --> and <!-- /quality --> of this file")
  peers_python: str = option(".venv-peers/bin/python", "Python of the peers' environment")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    flags.check(len(self.ways) == len(set(self.ways)) > 0, self, "ways", "one or more, each once")
    if "outside" in self.ways and not (_ROOT / self.peers_python).exists():
      raise UserError(f"--ways={','.join(self.ways)}: no such file {self.peers_python}: `make peers` makes the peers' environment")


@dataclasses.dataclass(frozen=True)
class Log:
  """One log of `--logs`."""

  name: str
  format: str
  input: Path
  schema: Path | None
  prepare: tuple[str, ...]
  shuffled: bool
  train: tuple[str, ...]


def read_logs(path: Path) -> list[Log]:
  """The logs of a TOML file. Raises UserError in one line that names the file and the fault."""
  try:
    tables = tomllib.loads(path.read_text())
  except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
    raise UserError(f"--logs={path}: {getattr(error, 'strerror', None) or f'not valid TOML ({error})'}") from None
  logs = []
  for name, entry in tables.items():
    where = f"{path}: [{name}]"
    if not isinstance(entry, dict) or "/" in name:
      raise UserError(f"{where}: must be a table, with a name that can be a directory's")
    for key, value in entry.items():
      if key not in _KEYS or not isinstance(value, _KEYS[key]):
        raise UserError(f"{where}: {key} = {value!r}: there are {', '.join(f'{k} ({kind.__name__})' for k, kind in _KEYS.items())}")
    if "format" not in entry or "input" not in entry:
      raise UserError(f"{where}: format and input are required")
    schema = path.parent / entry["schema"] if "schema" in entry else None
    train = tuple(map(str, entry.get("train", ["--preset=click_log"])))
    extra = tuple(map(str, entry.get("prepare", [])))
    logs.append(Log(name, entry["format"], path.parent / entry["input"], schema, extra, entry.get("shuffled", False), train))
  if not logs:
    raise UserError(f"{path}: names no log; write a table such as [movielens]")
  return logs


def _shuffled(log: Log, target: Path) -> Path:
  """A copy of the log whose rows are in a drawn order, the same one each time."""
  if log.format == "parquet":
    pl.read_parquet(log.input).sample(fraction=1, shuffle=True, seed=0).write_parquet(target, row_group_size=1 << 18)
  else:  # lines stay as they are: whatever their cells hold, a row is a line
    lines = log.input.read_bytes().splitlines(keepends=True)
    head, rows = (lines[:1], lines[1:]) if log.format == "csv" else ([], lines)
    drawn = pl.Series(rows).sample(fraction=1, shuffle=True, seed=0)
    target.write_bytes(b"".join(head) + b"".join(line.rstrip(b"\r\n") + b"\n" for line in drawn))
  return target


def _run(words: Sequence[str], what: str) -> float:
  """Runs one of our programs and returns its seconds. Raises UserError with its last line if it fails."""
  started = time.perf_counter()
  done = subprocess.run([sys.executable, "-m", *words], cwd=_ROOT, capture_output=True, text=True)
  if done.returncode:
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
    raise UserError(f"{what} failed with exit code {done.returncode}: {lines[-1]}")
  progress.say(f"{what}: {time.perf_counter() - started:.0f} s")
  return time.perf_counter() - started


def _timed(path: Path, make: Any) -> float:
  """The seconds that `make` takes, or took when it was run before: they are kept in the file at `path`."""
  if not path.exists():
    record.write_json(path, {"seconds": make()})
  return float(record.read_json(path)["seconds"])


def prepared(log: Log, place: Path) -> tuple[Path, float]:
  """The data set of a log, and the seconds that its preparation took."""
  data = place / "data"

  def make() -> float:
    source = log.input
    if log.shuffled:
      source = _shuffled(log, place / f"shuffled{log.input.suffix}")
    words = ["dlrm_jax.data.prepare", f"--format={log.format}", f"--input={source}", f"--output={data}", "--overwrite", *log.prepare]
    return _run(words + ([f"--schema={log.schema}"] if log.schema else []), f"{log.name}: prepare")

  place.mkdir(parents=True, exist_ok=True)
  return data, _timed(place / "prepare.json", make)


def scores(log: Log, way: str, data: Path, place: Path, python: str) -> dict[str, Any]:
  """Held-out log loss (nats), NE and ROC AUC of one way to predict, and the seconds it took."""
  if way == "outside":
    started, path = time.perf_counter(), place / "outside.json"
    if not path.exists():
      command = [str(_ROOT / python), "-m", "benchmarks.peers.outside_logistic", str(data.absolute())]
      done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
      if done.returncode:
        raise UserError(f"{log.name}: outside failed with exit code {done.returncode}: {(done.stderr.splitlines() or ['?'])[-1]}")
      record.write_json(path, json.loads(done.stdout) | {"seconds": time.perf_counter() - started})
    found = record.read_json(path)
    entropy = metrics.entropy(open_dataset(data).base_rates["train"])
    return {"log_loss": found["log_loss"], "ne": found["log_loss"] / entropy, "roc_auc": found["roc_auc"], "wall_s": found["seconds"]}
  run = place / ("defaults" if way == "logistic" else way)
  words = ["dlrm_jax.train", f"--data={data}", f"--workdir={run}", *log.train, *(["--lr_find"] if way == "lr_find" else [])]
  seconds = _timed(place / f"{run.name}.json", lambda: _run(words, f"{log.name}: {run.name}"))
  got = record.read_json(run / "record.json")
  if way == "logistic":
    return {name: got[f"logistic_{name}"] for name in ("log_loss", "ne", "roc_auc")} | {"wall_s": None}
  rates = {name: got["config"]["train"][name] for name in ("table_lr", "dense_lr")}
  return {name: got[name] for name in ("log_loss", "ne", "roc_auc", "examples")} | {"wall_s": seconds} | rates


def section(rows: Sequence[dict[str, Any]], header: dict[str, Any], date: datetime.date) -> str:
  """The table for README.md: a line a log, NE and ROC AUC of each way."""
  ways = list(dict.fromkeys(row["name"] for row in rows))
  lines = [["log", "training rows", "prepare s", *(f"{way} NE (AUC)" for way in ways), "train s"]]
  for log in dict.fromkeys(row["log"] for row in rows):
    own = {row["name"]: row for row in rows if row["log"] == log}
    cells = [f"{own[way]['ne']:.4f} ({own[way]['roc_auc'] or math.nan:.3f})" for way in ways]
    first = own[ways[0]]
    times = " / ".join(f"{own[way]['wall_s']:.0f}" for way in ways if own[way]["wall_s"] is not None)
    lines.append([log, f"{first['train_rows']:,}", f"{first['prepare_s']:.0f}", *cells, times])
  note = "NE on held-out rows (ROC AUC). Logistic: ours, one pass over the same features. Outside: scikit-learn's, on target encodings."
  note += f" Seconds are those of {', '.join(way for way in ways if way != 'logistic')}."
  return f"{markdown.table(lines, 1)}\n\n*{note} Made by {markdown.made_by(header, date)}.*"


def main(config: QualityConfig) -> None:
  """Prepares and trains on every log, writes the JSON file and prints a table."""
  hardware.select_platform()
  check_output(config.output)
  if config.markdown:
    markdown.check_markers(config.markdown, "quality")
  rows = []
  for log in read_logs(Path(config.logs)):
    place = Path(config.workdir).absolute() / log.name
    data, prepare_s = prepared(log, place)
    held = open_dataset(data)
    facts = {"log": log.name, "train_rows": held.rows("train"), "eval_rows": held.rows("eval"), "prepare_s": prepare_s}
    rows += [{"name": way} | facts | scores(log, way, data, place, config.peers_python) for way in config.ways]
  columns: table.Columns = {
    "log": "log",
    "way": "name",
    "training rows": number("train_rows", ","),
    "NE": number("ne", ".4f"),
    "ROC AUC": number("roc_auc", ".4f"),
    "log loss": number("log_loss", ".5f"),
    "s": number("wall_s", ".0f"),
  }
  header = write_and_show(config.output, rows, "held-out rows, by log and way", columns)
  if config.markdown:
    markdown.write(config.markdown, "quality", section(rows, header, datetime.date.today()))


if __name__ == "__main__":
  flags.run(main, QualityConfig)
