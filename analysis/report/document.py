"""The page of a report: the commands that made it, findings, setting, figures and tables, every run. Called by `analysis.report`."""

import shlex
from typing import Any

import polars as pl

from analysis.fitting.result import METHODS
from analysis.load import Sweep
from analysis.report.analysis import Analysis
from analysis.report.findings import findings, law_reasons
from analysis.report.tables import ADVICE, LAW_COLUMNS, known, law_cells, runs_table
from dlrm_jax.common import record
from dlrm_jax.common.figures import page
from dlrm_jax.common.figures.render import Figure
from dlrm_jax.common.terminal import Table
from dlrm_jax.common.text import number_of

LAW_CAPTION = (
  "Power laws: L(x) = alpha * x**-beta + gamma (gamma = 0 in law power), fitted by least squares on log L. Window: the fitted range of x. "
  "Held-out error: prediction / measured - 1 at the largest x, by a fit to the smaller x. ? is an end that the points leave open. Status "
  "misfit: the points contradict the law (a constant above them, a bend in the residuals, the last points missed) by more than noise "
  "and by 2% of the curve's fall or more. What the table then shows is the closest law, not a result."
)
_TRAINED = {  # columns of the setting by fields of the configuration
  "batch_size": "batch",
  "table_optimizer": "tables by",
  "table_lr": "table lr",
  "dense_optimizer": "MLPs by",
  "dense_lr": "MLP lr",
  "lr_schedule": "schedule",
  "decay_examples": "decay examples",
  "warmup_examples": "warm-up examples",
  "table_warmup_examples": "tables' warm-up examples",
}
_BEFORE_LAWS = ("data_law", "Schemes and resources", "data_efficiency", "compute", "compute_by", "Which scheme wins where")
_AFTER_LAWS = ("residuals", "Extrapolation, and laws compared")


def document(found: Analysis, figures: list[Figure]) -> str:
  """The whole page as HTML."""
  sweep, laws = found.everything, found.laws
  left: dict[str, Table | Figure] = {table.title: table for table in found.tables} | {figure.name: figure for figure in figures}
  advice = [title for title in left if title.startswith(ADVICE)]
  before, after = ([left.pop(name) for name in names if name in left] for names in ((*_BEFORE_LAWS, *advice), _AFTER_LAWS))
  hardware, software = sweep.source.get("hardware") or {}, sweep.source.get("software") or {}
  methods = dict.fromkeys(row.fit.method for row in laws if row.fit.method)
  body = page.render(
    "analysis.report",
    "report.html",
    made=shlex.join(str(word) for word in sweep.source.get("command", [])),
    command=shlex.join(record.command()),
    machine=", ".join(str(v) for v in (hardware.get("cpu"), f"{hardware['cores']} cores" if hardware.get("cores") else None) if v),
    versions=", ".join(f"{name} {version}" for name, version in software.items() if version),
    findings=findings(found),
    warnings=found.warnings,
    setting=_setting(sweep),
    cost=_cost(sweep),
    before_laws=before,
    laws=Table("Laws", LAW_COLUMNS, [law_cells(row) for row in laws], LAW_CAPTION),
    key_laws={i for i, row in enumerate(laws) if row.axis == "data" and row.x == "examples"},
    law_notes=[*(f"{name}: {METHODS[name]}." for name in methods), *law_reasons(laws)],
    after_laws=[*after, *left.values()],
    runs=runs_table(sweep),
    listed=_listed(sweep),
  )
  axes = ", ".join(dict.fromkeys(sweep.points["axis"]))
  counts = number_of(sweep.num_done, "run"), number_of(sweep.points["workload"].n_unique(), "workload")
  subtitle = f"{', '.join(counts)}, {'axes' if ',' in axes else 'axis'} {axes}"
  return page.page(f"Scaling laws: {sweep.path.resolve().name}", subtitle, body, figures)


def _listed(sweep: Sweep) -> str:
  """How many runs the table of runs lists."""
  runs, points = sweep.points["config_id"].n_unique(), len(sweep.points)
  return number_of(runs, "run") + ("" if runs == points else f", {points} rows: a run has one for each axis that it is on")


def _setting(sweep: Sweep) -> Table:
  """The base configuration of each workload, a row each."""
  rows = []
  joined = sweep.points.join(sweep.runs.filter(status="done"), on="config_id", maintain_order="left")
  axes = pl.col("axis").n_unique().over("workload", "config_id")  # the base is a point of most axes
  base_rates = -pl.col("lr_factor").log().abs()  # the rates that the others are multiples of
  joined = joined.sort((pl.col("axis") == "data", axes, pl.col("examples"), base_rates), descending=True, maintain_order=True)
  for (workload,), group in joined.group_by("workload", maintain_order=True):
    base = group.row(0, named=True)
    config = sweep.configs.get(base["config_id"]) or {}
    model, train = config.get("model") or {}, config.get("train") or {}
    widths = [model.get(name) for name in ("embed_dim", "num_rows", "bottom", "overarch", "overarch_inputs", "interaction")]
    trained = [train.get(name) for name in _TRAINED]
    counts = [len(group["config_id"].unique()), group["seed"].n_unique(), base["examples"]]
    data = config.get("data") or "planted"
    losses = [known(base[name], ".5g") for name in ("ne", "base_rate_ne", "logistic_ne")]
    rows.append([workload, data, *counts, *losses, *(_text(value) for value in [*widths, *trained])])
  columns = [
    "workload",
    "data",
    "runs",
    "seeds",
    "examples",
    "NE",
    "base rate's NE",
    "logistic regression's NE",
    "dim",
    "rows at most",
    "bottom",
    "overarch",
    "overarch inputs",
  ]
  columns += ["interaction", *_TRAINED.values()]
  note = (
    "The base configuration of each workload; every axis varies one thing of it. Runs are listed at the end. NE: the held-out one of one "
    "seed of the base, of the click rate of the training examples always predicted, and of a logistic regression trained once on the same "
    "examples. An alarm says where a run is worse than either by more than noise."
  )
  return Table("Setting", columns, rows, note)


def _cost(sweep: Sweep) -> str:
  """The time and FLOPs of all runs, and the sizes of their models."""
  low, high = sweep.runs["params_total"].min(), sweep.runs["params_total"].max()
  wall = float(sweep.runs["wall_s"].fill_null(0.0).sum())
  flops = float(sweep.runs.filter(pl.col("flops_total").is_not_null())["flops_total"].sum())
  span = "" if low is None or high is None else f", models of {low!s} to {high!s} parameters"
  return f"All runs together: {wall / 3600:.2f} hours of training, {flops:.3g} FLOPs{span}."


def _text(value: Any) -> str:
  return "-" if value is None else "-".join(map(str, value)) if isinstance(value, list) else str(value)
