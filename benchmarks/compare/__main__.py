"""Compares benchmark files row by row, to compare machines, versions or settings, with ratios and a chart.

  python -m benchmarks.compare laptop.json server.json                                # prints a table
  python -m benchmarks.compare before.json after.json --output=runs/compare --metric=cpu_ms_p50

It reads the files that step, lookup, input, collectives, peers, profile and topology write. Ratios are over the first file.
With --output=DIR it writes compare.svg, compare.png and compare.json there. Existing files are replaced.
"""

import dataclasses
import math
import textwrap
from collections.abc import Callable
from pathlib import Path

from benchmarks.compare import results, side_by_side
from benchmarks.compare.results import DEFAULT_METRICS, File, direction, ratio_text, value_text
from benchmarks.compare.side_by_side import Match
from benchmarks.measure import table
from benchmarks.measure.output import check_output
from benchmarks.measure.table import Row
from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError, option

_MOST_ALONE = 10  # printed rows that only one file has


@dataclasses.dataclass(frozen=True)
class CompareConfig:
  """Words and flags of `python -m benchmarks.compare`."""

  files: tuple[str, ...] = option((), "benchmark files, two at least; ratios are over the first", words=True)
  output: str = option("", "directory for compare.svg, compare.png and compare.json; none: only the table is printed")
  metric: str = option("", "metric to compare; none: the first of " + ", ".join(DEFAULT_METRICS) + " that all files have")
  ignore: tuple[str, ...] = option((), "fields in which matched rows may differ, such as batch_size or name")

  def __post_init__(self) -> None:
    if len(self.files) < 2:
      raise UserError(f"benchmark files to compare: {' '.join(self.files) or 'none'} given; name two at least, such as a.json b.json")
    twice = next((path for path in self.files if self.files.count(path) > 1), None)
    if twice:
      raise UserError(f"{twice}: given twice; name two different files")


def chosen_metric(files: list[File], wanted: str) -> str:
  """`wanted`, or the first usual metric that all files have. Raises UserError where the files do not share it, or share none."""
  known = results.metrics_of(files)
  if not known:
    raise UserError(f"{' and '.join(file.path for file in files)}: have no metric in common")
  if wanted and wanted not in known:
    raise UserError(f"--metric={wanted}: must be in all files: {', '.join(known)}")
  return wanted or next((name for name in DEFAULT_METRICS if name in known), known[0])


def mean_ratios(match: Match, count: int) -> list[float | None]:
  """The geometric mean of each file's ratios; None for a file without ratios."""
  every = [[r for line in match.lines if (r := line.ratios[n]) is not None and r > 0] for n in range(count)]
  return [math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else None for ratios in every]


def flat(files: list[File], labels: list[str], match: Match, metric: str) -> list[Row]:
  """Flat rows of compare.json: one for each matched row and file that has it."""
  return [
    {"row": line.label, "file": file.path, "file_label": label, "metric": metric, "value": value, "ratio": ratio} | line.fields
    for line in match.lines
    for file, label, value, ratio in zip(files, labels, line.values, line.ratios, strict=True)
    if value is not None
  ]


def common_text(match: Match) -> str:
  """The fields that are the same in all rows, as text."""
  return ", ".join(side_by_side.field_text(name, value) for name, value in match.common.items() if value is not None)


def show(files: list[File], labels: list[str], match: Match, metric: str, changed: dict[str, tuple[str, ...]]) -> None:
  """Prints the table, the settings that differ between the files, and the rows that were not matched."""
  better = direction(metric)
  common = common_text(match)
  shown = [{"row": line.label, "values": line.values, "ratios": line.ratios} for line in match.lines]
  if len(shown) > 1:
    shown.append({"row": "geometric mean of the ratios", "values": (None,) * len(files), "ratios": mean_ratios(match, len(files))})

  def cell(number: int) -> Callable[[Row], str]:
    def text(row: Row) -> str:
      value, ratio = row["values"][number], row["ratios"][number] if number else None
      parts = [value_text(metric, value)] if value is not None or ratio is None else []
      return "  ".join(parts + ([ratio_text(ratio)] if ratio is not None else []))

    return text

  title = f"{metric}: {better} is better; x is the ratio to the first file, {'below' if better == 'lower' else 'above'} 1 is better"
  table.show(title, {"row": "row"} | {label: cell(n) for n, label in enumerate(labels)}, shown, common)
  for name, values in (match.differing | changed).items():
    print(f"differs: {name}: {' | '.join(map(str, values))}")
  for path, label, value in match.alone[:_MOST_ALONE]:
    print(f"only in {path}: {label}: {value_text(metric, value)}")
  if len(match.alone) > _MOST_ALONE:
    print(f"and {len(match.alone) - _MOST_ALONE} more that only one file has")


def write(
  config: CompareConfig, files: list[File], labels: list[str], match: Match, metric: str, changed: dict[str, tuple[str, ...]]
) -> None:
  """Writes the chart and the numbers to --output."""
  from benchmarks.compare.chart import MOST_LINES, compare_chart, drawable
  from dlrm_jax.common.figures import render

  drawn = drawable(match.lines)
  subtitle = textwrap.wrap(common_text(match), 110)
  if min(len(drawn), MOST_LINES) < len(match.lines):
    left_out = f"{min(len(drawn), MOST_LINES)} of {len(match.lines)} rows, the first that have a value above 0; compare.json has all"
    subtitle.append(left_out)
    print(f"the chart shows {left_out}")
  better = direction(metric) or ""
  picture = render.svg(compare_chart(drawn, labels, metric, better, subtitle))
  out = {
    "metric": metric,
    "better": better,
    "files": [{"path": f.path, "label": label, **f.header} for f, label in zip(files, labels, strict=True)],
    "differences": {name: list(values) for name, values in (match.differing | changed).items()},
    "geometric_mean_ratios": mean_ratios(match, len(files)),
    "unmatched": [{"file": path, "row": label, "value": value} for path, label, value in match.alone],
    "results": flat(files, labels, match, metric),
  }
  directory = Path(config.output)
  record.write_json(directory / "compare.json", record.header() | out)
  record.write_text(directory / "compare.svg", picture)
  record.write_bytes(directory / "compare.png", render.png(picture))


def main(config: CompareConfig) -> None:
  """Reads and matches the files, writes the chart and the numbers, and prints a table."""
  files = [results.load(path) for path in config.files]
  metric = chosen_metric(files, config.metric)
  match = side_by_side.match(files, metric, config.ignore)
  changed = results.differences(files)
  labels = side_by_side.file_labels(files, match.differing, changed)
  if config.output:
    if not any(value and value > 0 for line in match.lines for value in line.values):
      raise UserError(f"--metric={metric}: no value is above 0, so there is nothing to draw")
    check_output(f"{config.output}/compare.json")
    write(config, files, labels, match, metric, changed)
  show(files, labels, match, metric, changed)
  if config.output:
    print(f"{config.output}/compare.svg, compare.png, compare.json")


if __name__ == "__main__":
  flags.run(main, CompareConfig)
