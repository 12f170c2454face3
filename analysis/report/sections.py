"""The page of a report, which reads like a paper: how it was made, findings, setting, figures and tables, every run. Called by
`analysis.report`.
"""

import shlex
from typing import Any

import polars as pl

from analysis.fitting.result import METHODS
from analysis.load import Sweep
from analysis.questions.sweep_laws import LawRow
from analysis.report.tables import LAW_COLUMNS, Extra, law_cells, run_rows
from dlrm_jax.common import record
from dlrm_jax.common.figures import chart, page, render
from dlrm_jax.common.figures.render import Figure

LAW_CAPTION = (
  "Power laws: L(x) = alpha * x**-beta + gamma (gamma = 0 in law power), least squares on log L. Window: the x that were fitted. "
  "Held-out error: fitted on the smaller x, the largest x predicted, prediction / measured - 1. ? is an end that the points leave open."
)
_FOLDED = 40  # rows from which a table is folded away
_FIRST = ("data_law", "data_efficiency", "compute", "compute_by", "residuals")  # figures that stand among the tables, in this order
_EVERY = "Press a legend's entry to see one series alone (shift for several), double-click for all; hover over a point for its run."


def document(sweep: Sweep, laws: list[LawRow], figures: list[Figure], tables: list[Extra], findings: list[str], warnings: list[str]) -> str:
  """The whole page as HTML.

  Args:
    sweep: its runs, all learning rates included.
    laws: the rows of the law table.
    figures: drawn in order, the first ones among the tables.
    tables: beside that of the laws.
    findings, warnings: a sentence each.
  """
  done = len(sweep.runs) - len(sweep.diverged) - len(sweep.failed)
  subtitle = f"{done} runs, {sweep.points['workload'].n_unique()} workloads, axes {', '.join(dict.fromkeys(sweep.points['axis']))}"
  place = {figure.name: (figure.title, page.figure(figure.name, figure.caption)) for figure in figures}
  table = {extra.title: (extra.title, page.table(extra.columns, extra.cells, extra.text)) for extra in tables}
  advice = [title for title in table if title.startswith("Advice")]
  order: list[Any] = [place.get("data_law"), table.get("Schemes and resources"), place.get("data_efficiency"), place.get("compute")]
  order += [place.get("compute_by"), table.get("Which scheme wins where"), *(table[title] for title in advice)]
  order += [_law_section(laws), place.get("residuals"), table.get("Extrapolation, and laws compared")]
  shown = {"Schemes and resources", "Which scheme wins where", "Extrapolation, and laws compared", *advice}
  order += [section for title, section in table.items() if title not in shown]
  order += [section for name, section in place.items() if name not in _FIRST]
  sections = [("", _opening(sweep, findings, warnings)), ("Setting", _setting(sweep)), *(section for section in order if section)]
  columns, cells = run_rows(sweep)
  sections.append(("Runs", f"<details><summary>{len(cells)} points</summary>{page.table(columns, cells)}</details>"))
  specs = {figure.name: figure.spec for figure in figures}
  title = f"Scaling laws: {sweep.path.resolve().name}"
  return page.page(title, subtitle, sections, specs, chart.THEMES, render.javascript())


def _opening(sweep: Sweep, findings: list[str], warnings: list[str]) -> str:
  """The commands that make this page again, the machine, what was found."""
  made = shlex.join(str(word) for word in sweep.source.get("command", []))
  commands = f"<pre>{page.escape(made)}\n{page.escape(shlex.join(record.command()))}</pre>" if made else ""
  hardware, software = sweep.source.get("hardware") or {}, sweep.source.get("software") or {}
  machine = ", ".join(str(v) for v in (hardware.get("cpu"), f"{hardware['cores']} cores" if hardware.get("cores") else None) if v)
  versions = ", ".join(f"{name} {version}" for name, version in software.items() if version)
  summary = "".join(f"<li>{page.escape(s)}</li>" for s in findings)
  warned = "".join(f'<p class="warn">{page.escape(line)}</p>' for line in warnings)
  faint = f'<p class="faint">{page.escape(machine)}<br>{page.escape(versions)}</p>'
  return commands + faint + (f"<ul>{summary}</ul>" if summary else "") + warned + f'<p class="note">{_EVERY}</p>'


def _setting(sweep: Sweep) -> str:
  """What was trained on what: one row a workload, of its base configuration."""
  rows = []
  joined = sweep.points.join(sweep.runs.filter(status="done"), on="config_id", maintain_order="left")
  axes = pl.col("axis").n_unique().over("workload", "config_id")  # the base stands on most of them
  base_rates = -pl.col("lr_factor").log().abs()  # the rates that the others are multiples of
  joined = joined.sort((pl.col("axis") == "data", axes, pl.col("examples"), base_rates), descending=True, maintain_order=True)
  for (workload,), group in joined.group_by("workload", maintain_order=True):
    base = group.row(0, named=True)
    config = sweep.configs.get(base["config_id"]) or {}
    model, train = config.get("model") or {}, config.get("train") or {}
    widths = [model.get(name) for name in ("embed_dim", "num_rows", "bottom", "overarch", "overarch_inputs", "interaction")]
    trained = [train.get(name) for name in ("batch_size", "table_optimizer", "table_lr", "dense_optimizer", "dense_lr")]
    counts = [len(group["config_id"].unique()), group["seed"].n_unique(), base["examples"]]
    data = config.get("data") or "planted"
    rows.append([workload, data, *counts, *(_text(value) for value in [*widths, *trained])])
  columns = ["workload", "data", "runs", "seeds", "examples", "dim", "rows at most", "bottom", "overarch", "overarch inputs"]
  columns += ["interaction", "batch", "tables by", "table lr", "MLPs by", "MLP lr"]
  caption = "The base configuration of each workload; every axis varies one thing of it. Runs are listed at the end."
  low, high = sweep.runs["params_total"].min(), sweep.runs["params_total"].max()
  wall = float(sweep.runs["wall_s"].fill_null(0.0).sum())
  flops = float(sweep.runs.filter(pl.col("flops_total").is_not_null())["flops_total"].sum())
  cost = f"{wall / 3600:.2f} hours of training, {flops:.3g} FLOPs"
  span = "" if low is None or high is None else f", models of {low!s} to {high!s} parameters"
  return page.table(columns, rows, caption) + f'<p class="note">All runs together: {cost}{span}.</p>'


def _text(value: Any) -> str:
  return "-" if value is None else "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _law_section(laws: list[LawRow]) -> tuple[str, str] | None:
  if not laws:
    return None
  key = {i for i, row in enumerate(laws) if row.axis == "data" and row.x == "examples"}
  table = page.table(list(LAW_COLUMNS), [law_cells(row) for row in laws], LAW_CAPTION, key)
  if len(laws) > _FOLDED:
    table = f"<details><summary>{len(laws)} laws</summary>{table}</details>"
  names = dict.fromkeys(r.fit.method for r in laws if r.fit.method)
  methods = "".join(f'<p class="note">{page.escape(f"{name}: {METHODS[name]}.")}</p>' for name in names)
  notes = dict.fromkeys(f"{r.fit.group}: {r.fit.note}." for r in laws if r.fit.note and r.axis == "data")
  return "Laws", table + methods + "".join(f'<p class="note">{page.escape(note)}</p>' for note in notes)
