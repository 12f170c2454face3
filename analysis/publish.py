"""Makes the study's tables and figures from its kept records: fills the sections of STUDY.md and draws the figures that it shows.

  python -m analysis.publish

Reads analysis/study/*.parquet (`analysis.kept`), which `make study` makes anew. A section is the text between two comments that name it.
The text around the sections is written by hand.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from analysis.fitting.fit_law import fit_law
from analysis.fitting.result import interval_text
from analysis.load import Sweep, axes_of
from analysis.questions.curves import final_points
from analysis.questions.parts import ideal
from analysis.questions.sweep_laws import ROWS_LIMIT
from analysis.report.analysis import Analysis, analyse
from analysis.report.paper_tables import exponent_table, frontier_table, ne_table, parts_table, scheme_table
from analysis.report.tables import ADVICE, rate_law_table, repeats_table, short
from analysis.study.predictions import predictions, ratios, teacher_floors
from dlrm_jax.common import flags, markdown, record
from dlrm_jax.common.progress import Bar
from dlrm_jax.common.terminal import Table

Analyses = dict[str, Analysis]  # by the names of NAMES
_HERE = Path(__file__).parent
SWEEPS = {  # names for people by the names of the files
  "paper": "all parts",
  "paper_tail": "tail alone, rows kept",
  "paper_hash": "tail alone, rows hashed",
  "paper_tail_half": "rows kept, half the effects, four times the examples",
  "paper_hash_half": "rows hashed, half the effects, four times the examples",
  "movielens": "MovieLens-1M",
}
MORE = {  # sweeps that the cost of the study leaves out
  "rates_batch": "all parts, batch sizes",
  "epochs": "tail alone, repeated",
  "epochs_movielens": "MovieLens-1M, repeated",
}
NAMES = SWEEPS | MORE
FIGURES = {  # the figures of each sweep's report that STUDY.md shows
  "paper": ("data_efficiency", "compute", "compute_by", "residuals"),
  "paper_tail": ("data_law",),
  "movielens": ("data_law", "data_efficiency", "compute"),
}

_ROWS = ("paper_tail", "paper_hash", "paper_tail_half", "paper_hash_half")  # sweeps of the tail alone that have a rows axis


@dataclasses.dataclass(frozen=True)
class PublishConfig:
  """Flags of `python -m analysis.publish`."""

  study: str = flags.option(str(_HERE / "study"), "directory of the kept sweeps, where the figures are written too")
  markdown: str = flags.option(str(_HERE / "STUDY.md"), "file whose sections are filled")
  figures: bool = flags.option(True, "draw the figures; without them only the tables are made")


def analysed(study: Path) -> Analyses:
  """Every kept sweep with its laws fitted. Raises UserError that names a missing file."""
  missing = [str(study / f"{name}.parquet") for name in NAMES if not (study / f"{name}.parquet").exists()]
  if missing:
    raise flags.UserError(f"{missing[0]}: no such file; make study makes it")
  return {name: analyse(study / f"{name}.parquet") for name in NAMES}


def sections(found: Analyses) -> dict[str, str]:
  """The sections of STUDY.md by name, as Markdown."""
  return {name: make(found) for name, make in SECTIONS.items()}


def _predictions(found: Analyses) -> str:
  """Theory's predictions, each with its bound."""
  return markdown.table([["what theory says", "measured", "bound", "holds"], *(one.cells for one in predictions(found))], 4)


def _advice(one: Analysis) -> str:
  """The tables of advice with their verdicts."""
  tables = [table for table in one.tables if table.title.startswith(ADVICE)]
  return "\n\n".join(f"{_table(table, 1)}\n\n{table.note}" for table in tables) or "No advice: too few sizes."


def _tail(tail: Analysis) -> str:
  """The excess over the closed form by examples, tail alone."""
  table = ratios(tail)
  at = [n for n in sorted(set(table["examples"])) if n >= 2**17][::2]
  lines = [["workload", "learner", *map(short, at)]]
  for (workload, learner), group in table.group_by("workload", "learner", maintain_order=True):
    known = dict(zip(group["examples"], group["ratio"], strict=True))
    lines.append([str(workload), str(learner), *(f"{known[n]:.3f}" if n in known else "-" for n in at)])
  return markdown.table(lines, 2)


def _table(table: Table, num_names: int, without: list[str] | None = None) -> str:
  """A table of the report as Markdown, without some columns."""
  keep = [i for i, column in enumerate(table.columns) if column not in (without or [])]
  lines = [[str(row[i]).replace("|", "/") for i in keep] for row in [table.columns, *table.rows]]
  return markdown.table(lines, num_names)


def stacked(tables: dict[str, Table], num_names: int, without: list[str] | None = None) -> str:
  """The same table of several sweeps as one, the sweep in the first column."""
  first = next(iter(tables.values()))
  cells = [[NAMES[name], *row] for name, table in tables.items() for row in table.rows]
  return _table(Table(first.title, ["sweep", *first.columns], cells), num_names + 1, without)


def _sizes(one: Analysis) -> str:
  """The final NE of every size of the model axes, mean and standard deviation over the seeds."""
  lines = [["axis", "size", "parameters", "NE", "± sd"]]
  frame = one.sweep.evaluations()
  for axis in (axis for axis in axes_of(frame) if axis != "data"):
    last, _ = final_points(frame.filter(axis=axis))
    table = last.group_by("size", "label").agg(pl.col("params_total").first(), pl.col("ne").mean(), pl.col("ne").std().alias("sd"))
    rows = table.sort("size").to_dicts()
    lines += [[axis, e["label"], short(e["params_total"]), f"{e['ne']:.4f}", f"{e['sd']:.4f}"] for e in rows]
  return markdown.table(lines, 2)


def _rows_laws(found: Analyses) -> str:
  """Law `power` of excess against rows, tail alone, over the sizes whose floor is nearly all of the ideal learner's excess."""
  lines = [["sweep", "workload", "rows", "exponent [95%]", "closed form, these rows", "s - 1", "excess over floor, mean"]]
  for name in _ROWS:
    parts = [p for p in found[name].parts if p["floor"] > 0]
    for workload in dict.fromkeys(p["workload"] for p in parts):
      kept = [p for p in found["paper_tail"].parts if p["workload"] == workload and p["floor"] >= ROWS_LIMIT * p["excess_ideal"]]
      sizes = [p["size"] for p in kept]
      last, _ = final_points(found[name].sweep.evaluations().filter(pl.col("size").is_in(sizes), axis="rows", workload=workload))
      x, y, seed = (last[column].to_numpy().astype(float) for column in ("size", "excess", "seed"))
      fit = fit_law(x, y, "power", seed, points="independent")
      mine = [p for p in parts if p["workload"] == workload and p["size"] in sizes]
      closed = np.polyfit(np.log(sizes), np.log([ideal(p) or np.nan for p in mine]), 1)[0]
      over = [p["excess"] / p["floor"] for p in mine]
      theory = f"{kept[0]['beta_rows']:.3f}"
      exponent = interval_text(fit.params["beta"], 3)
      lines.append([SWEEPS[name], workload, _span(sizes), exponent, f"{-closed:.3f}", theory, f"{float(np.mean(over)):.3f}"])
  return markdown.table(lines, 3)


def _rows_teacher(found: Analyses) -> str:
  """The excess over the floor of this teacher and these hash functions, by rows."""
  sizes = [10.0, 30.0, 100.0, 300.0, 1000.0]
  lines = [["sweep", "workload", *(f"{size:g}" for size in sizes)]]
  for name in _ROWS:
    over = {(p["workload"], p["size"]): p["excess"] / floor for p, floor in teacher_floors(found[name])}
    workloads = dict.fromkeys(workload for workload, _ in over)
    lines += [[SWEEPS[name], workload, *(f"{over[workload, size]:.3f}" for size in sizes)] for workload in workloads]
  return markdown.table(lines, 2)


def _rates(found: Analyses) -> str:
  """How the best learning rate moves along the axes, and along one pass."""
  names = ("paper", "rates_batch", "paper_tail", "movielens")
  return stacked({name: rate_law_table(found[name].rates) for name in names}, 4, ["learner", "metric", "verdict"])


def _epochs(found: Analyses) -> str:
  """The loss after several epochs, and what follows for the law of repeated data."""
  names = ("epochs", "epochs_movielens")
  table = stacked({name: repeats_table(found[name].repeats) for name in names}, 4, ["workload", "learner"])
  return table + "\n\n" + "\n".join(f"- {NAMES[name]}, {model.model}: {model.verdict}." for name in names for model in found[name].repeats)


def _cost(found: Analyses) -> str:
  """The cost of the sweeps on the machine that trained them."""
  columns = ["sweep", "runs", "examples a run", "FLOPs a run", "FLOPs in all", "examples/s", "core-hours", "by the wall, hours"]
  lines = [columns]
  for name, analysis in ((name, found[name]) for name in SWEEPS):
    sweep = analysis.everything
    runs = sweep.runs.filter(status="done")
    flops = runs.filter(pl.col("flops_total").is_not_null())["flops_total"]
    hours = float(runs["wall_s"].sum()) / 3600
    counts = [f"{len(runs)}", _span(runs["examples"].to_list()), _span(flops.to_list()), short(float(flops.sum()))]
    speed = _span(runs["examples_per_s"].to_list())
    lines.append([SWEEPS[name], *counts, speed, f"{hours:.2f}", f"{hours / _workers(sweep):.2f}"])
  return markdown.table(lines, 1)


def _made(found: Analyses) -> str:
  """The command that trained each sweep, the machine and the code."""
  lines = []
  for name, one in found.items():
    source = one.everything.source
    versions = ", ".join(f"{program} {source['software'][program]}" for program in ("python", "jax"))
    detail = f"{source['hardware']['cores']} cores; {versions}"
    lines.append(f"- {NAMES[name]}: {markdown.made_by(source, detail)}")
  return "\n".join(lines)


def _workers(sweep: Sweep) -> int:
  """The number of runs trained at once: the launcher's --workers, by default one for each core."""
  given = dict(word.removeprefix("--").split("=", 1) for word in sweep.source["command"] if word.startswith("--") and "=" in word)
  if given.get("launcher", "inline") == "inline":
    return 1
  return int(given.get("workers", 0)) or int(sweep.source["hardware"]["cores"])


def _span(values: list[float]) -> str:
  return short(min(values)) if min(values) == max(values) else f"{short(min(values))} to {short(max(values))}"


def _draw(found: Analyses, study: Path) -> None:
  """Writes NAME_FIGURE.svg for every figure that STUDY.md shows, and study.svg."""
  from analysis.report import plots
  from analysis.study.figure import study_figure
  from dlrm_jax.common.figures import render

  with Bar("drawing", sum(map(len, FIGURES.values())) + 1) as bar:
    for name, wanted in FIGURES.items():
      one = found[name]
      drawn = {f.name: f for f in plots.figures(one.sweep, one.rows, one.sizes, one.schemes, one.speeds)}
      for figure in wanted:
        record.write_text(study / f"{name}_{figure}.svg", render.svg(drawn[figure].spec))
        bar(1)
    record.write_text(study / "study.svg", render.svg(study_figure(found["paper"], found["paper_tail"])))
    bar(1)


SECTIONS: dict[str, Callable[[Analyses], str]] = {  # how each section of STUDY.md is made
  "claims": _predictions,
  "exponents": lambda found: stacked({name: exponent_table(found[name].exponents) for name in ("paper", "paper_tail")}, 4),
  "ne": lambda found: stacked({name: ne_table(found[name].ne) for name in ("paper", "paper_tail")}, 4, ["verdict"]),
  "tail": lambda found: _tail(found["paper_tail"]),
  "parts": lambda found: _table(parts_table(found["paper"].parts), 5, ["workload"]),
  "rows": lambda found: stacked({name: parts_table(found[name].parts) for name in _ROWS}, 6, ["axis", "loss", "whole"]),
  "rows-laws": _rows_laws,
  "rows-teacher": _rows_teacher,
  "schemes": lambda found: _table(scheme_table(found["paper"].schemes), 4, ["workload"]),
  "frontier": lambda found: _table(frontier_table(found["paper"].schemes), 4, ["workload"]),
  "tail-advice": lambda found: _advice(found["paper_tail"]),
  "advice": lambda found: _advice(found["paper"]),
  "movielens": lambda found: _table(scheme_table(found["movielens"].schemes), 4, ["workload", "theory"]),
  "movielens-sizes": lambda found: _sizes(found["movielens"]),
  "movielens-frontier": lambda found: _table(frontier_table(found["movielens"].schemes), 4, ["workload"]),
  "movielens-advice": lambda found: _advice(found["movielens"]),
  "rates": _rates,
  "epochs": _epochs,
  "cost": _cost,
  "made": _made,
}


def main(config: PublishConfig) -> None:
  study = Path(config.study)
  for name in SECTIONS:
    markdown.check_markers(config.markdown, name)
  found = analysed(study)
  text = Path(config.markdown).read_text()
  for name, new in sections(found).items():
    text = markdown.replaced(text, name, new)
  if config.figures:
    _draw(found, study)
  record.write_text(config.markdown, text)
  print(config.markdown)


if __name__ == "__main__":
  flags.run(main, PublishConfig)
