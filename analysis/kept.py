"""A finished sweep in one file, small enough to keep: records and curves, without the directories of the machine that ran it.

  python -m analysis.kept --workdir=DIR --output=FILE.parquet

The Parquet file has a row for each file of DIR that a report reads (`path`, `text`); `analysis.report --workdir=FILE.parquet` reads it as
it reads DIR.
"""

import contextlib
import dataclasses
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from dlrm_jax.common import flags, record

SUFFIX = ".parquet"
_PLACES = ("workdir", "data", "output")  # flags that name directories: of these the last part is kept
_LEFT_OUT = ("command", "error")  # of a record: what may name directories


@dataclasses.dataclass(frozen=True)
class KeepConfig:
  """Flags of `python -m analysis.kept`."""

  workdir: str = flags.option(help="directory of a sweep (sweep.json, runs/), all of whose runs have ended")
  output: str = flags.option(help=f"file to write, NAME{SUFFIX}")

  def __post_init__(self) -> None:
    flags.check(bool(self.workdir), self, "workdir", "a directory")
    flags.check(self.output.endswith(SUFFIX), self, "output", f"a name ending in {SUFFIX}")


def keep(workdir: Path, output: Path) -> int:
  """Writes the file and returns how many runs are in it. Raises UserError where one of the sweep has no record yet."""
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


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
  """The directory that a kept file was made from, for as long as the block lasts. Raises UserError if it is not one."""
  try:
    table = pl.read_parquet(path, columns=["path", "text"]).cast(pl.String)
  except (OSError, pl.exceptions.PolarsError) as error:
    raise flags.UserError(f"--workdir={path}: not a file of analysis.kept ({str(error).splitlines()[0]})") from None
  with tempfile.TemporaryDirectory() as folder:
    for name, text in table.rows():
      if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise flags.UserError(f"--workdir={path}: has the path {name}: must lie in the sweep's directory")
      target = Path(folder) / name
      target.parent.mkdir(parents=True, exist_ok=True)
      target.write_text(text)
    yield Path(folder)


def _placeless(word: str) -> str:
  """A word of a command, with the last part alone of a directory that it names."""
  flag, equals, value = word.partition("=")
  return f"{flag}={Path(value).name}" if equals and flag.lstrip("-") in _PLACES else word


def _without_places(entry: dict[str, Any]) -> dict[str, Any]:
  """A record without its command, which the sweep's says better, without the traceback of what failed, and without directories."""
  config = json.loads(json.dumps(entry.get("config") or {}))
  for name in _PLACES:
    if config.get(name):
      config[name] = Path(config[name]).name
  return {name: value for name, value in entry.items() if name not in _LEFT_OUT} | {"config": config}


def main(config: KeepConfig) -> None:
  output = Path(config.output)
  count = keep(Path(config.workdir), output)
  print(f"{output}: {count} runs, {output.stat().st_size / 2**10:,.0f} KiB")


if __name__ == "__main__":
  flags.run(main, KeepConfig)
