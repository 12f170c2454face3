"""Keeps a finished sweep in one small file: records and curves, without the directories of the machine that ran it.

  python -m analysis.kept --workdir=DIR --output=FILE.parquet

The Parquet file has a row for each file of DIR that a report reads (`path`, `text`); `analysis.report --workdir=FILE.parquet` reads it as
it reads DIR.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any

import polars as pl

from analysis.load import KEPT_SUFFIX
from dlrm_jax.common import flags, record

_PLACES = ("workdir", "data", "data_path", "output")  # flags that name directories: only the last part of the name is kept
_LEFT_OUT = ("command", "error")  # fields of a record that may name directories


@dataclasses.dataclass(frozen=True)
class KeepConfig:
  """Flags of `python -m analysis.kept`."""

  workdir: str = flags.option(help="directory of a sweep (sweep.json, runs/), all of whose runs have ended")
  output: str = flags.option(help=f"file to write, NAME{KEPT_SUFFIX}")

  def __post_init__(self) -> None:
    flags.check(bool(self.workdir), self, "workdir", "a directory")
    flags.check(self.output.endswith(KEPT_SUFFIX), self, "output", f"a name ending in {KEPT_SUFFIX}")


def keep(workdir: Path, output: Path) -> int:
  """Writes the file and returns the number of runs in it. Raises UserError where a run of the sweep has no record yet."""
  if not (workdir / "sweep.json").exists():
    raise flags.UserError(f"--workdir={workdir}: has no sweep.json, so it is not a directory that sweeps.run made")
  sweep = record.read_json(workdir / "sweep.json")
  names = list(dict.fromkeys(point["config_id"] for point in sweep["points"]))
  missing = [name for name in names if not (workdir / "runs" / name / "record.json").exists()]
  if missing:
    raise flags.UserError(f"--workdir={workdir}: {len(missing)} of {len(names)} runs have no record: let the sweep end first")
  command = [_placeless(word) for word in sweep["command"] if not word.startswith("--slurm")]
  files = {"sweep.json": record.dumps(sweep | {"command": command}, None)}
  for name in names:
    folder, place = workdir / "runs" / name, f"runs/{name}"
    entry = record.read_json(folder / "record.json")
    files[f"{place}/record.json"] = record.dumps(_without_places(entry), None)
    curve = folder / "curve.jsonl"
    if curve.exists():
      files[f"{place}/curve.jsonl"] = curve.read_text()
  table, data = pl.DataFrame({"path": list(files), "text": list(files.values())}), io.BytesIO()
  table.write_parquet(data, compression="zstd", compression_level=19)
  record.write_bytes(output, data.getvalue())
  return len(names)


def _placeless(word: str) -> str:
  """A word of a command, with only the last part of a directory that it names."""
  flag, equals, value = word.partition("=")
  return f"{flag}={Path(value).name}" if equals and flag.lstrip("-") in _PLACES else word


def _without_places(entry: dict[str, Any]) -> dict[str, Any]:
  """A record without its command (the sweep's is kept), without the traceback of an error, and without directories."""
  config = dict(entry.get("config") or {})
  for name in _PLACES:
    if Path(config.get(name) or "").is_absolute():  # the name of a data set may have slashes
      config[name] = Path(config[name]).name
  return {name: value for name, value in entry.items() if name not in _LEFT_OUT} | {"config": config}


def main(config: KeepConfig) -> None:
  output = Path(config.output)
  count = keep(Path(config.workdir), output)
  print(f"{output}: {count} runs, {output.stat().st_size / 2**10:,.0f} KiB")


if __name__ == "__main__":
  flags.run(main, KeepConfig)
