"""The rows of one run for the tables of a sweep: from its record and its curve. Called by `load.py`."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from analysis import recorded
from dlrm_jax.common import flags, record
from dlrm_jax.config import HORIZONS

PART_METRICS = ("excess_tail", "excess_pairs", "excess_dense", "excess_scores")  # excess of the parts of planted data
FLOORS = ("rows_floor", "pairs_floor", "dense_floor")  # the excess of a part that theory says a model of some size must leave
LOSSES = dict.fromkeys(("log_loss", "ne", "roc_auc", "calibration", "excess", *PART_METRICS), pl.Float64)
RUN = {
  **dict.fromkeys(("config_id", "status"), pl.String),
  **dict.fromkeys(("examples", "params_embedding", "params_dense", "params_total"), pl.Int64),
  **dict.fromkeys(("flops_total", "flops_per_example"), pl.Float64),
  **LOSSES,
  **dict.fromkeys(("wall_s", "examples_per_s", "beta_data", "beta_rows", *FLOORS), pl.Float64),
  **dict.fromkeys(("planted", "horizon"), pl.Boolean),
  **dict.fromkeys(("rows", "dim", "rows_cap", "base_rate", "base_rate_ne", "logistic_ne"), pl.Float64),
  **dict.fromkeys(("order", "window"), pl.String),
}
_PROGRESS = dict.fromkeys(("excess_ideal", "wall_s", "epochs", "progressive_log_loss_recent"), pl.Float64)
EVALUATION = {"config_id": pl.String, "examples": pl.Int64, **LOSSES, **_PROGRESS}
STATUSES = ("done", "diverged", "failed")


def point_of(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
  """The point of a run without a sweep: it is on the data axis."""
  config = entry.get("config") or {}
  train, theory = config.get("train") or {}, entry.get("theory") or {}
  data = str(config.get("data") or "planted")
  workload = f"s={theory['s']:.4g}" if theory.get("s") else data
  point = {"workload": workload, "axis": "data", "size": entry.get("examples"), "seed": train.get("seed", 0)}
  point |= {"learner": train.get("learner", "dlrm"), "config_id": entry.get("config_id")}
  missing = [name for name, value in point.items() if value is None]
  if missing:
    raise flags.UserError(f"{folder / 'record.json'}: has no {', '.join(missing)}")
  return point


def run_row(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
  """The row of a run in the table of runs, with the fields of `RUN`."""
  params, flops, theory = (entry.get(name) or {} for name in ("params", "flops_per_example", "theory"))
  row = {name: entry.get(name) for name in RUN}
  row |= {f"params_{group}": params.get(group) for group in ("embedding", "dense", "total")}
  row |= {name: theory.get(name) for name in ("beta_data", "beta_rows", *FLOORS)}
  train = (entry.get("config") or {}).get("train") or {}
  planted = entry.get("excess") is not None or bool(theory)
  ends_only = train.get("lr_schedule") in HORIZONS or train.get("window") == "recent"
  row |= {"flops_per_example": flops.get("total"), "planted": planted, "horizon": ends_only}
  row |= {"order": train.get("order"), "window": train.get("window")}
  row["rows"] = max((t["num_rows"] for t in entry.get("tables") or ()), default=None)
  model = (entry.get("config") or {}).get("model") or {}
  row |= {"dim": model.get("embed_dim"), "rows_cap": model.get("num_rows")}
  if row["examples_per_s"] is not None:  # the rate of the machine, over all runs that it trained together
    row["examples_per_s"] *= entry.get("trained_together") or 1
  if row["status"] not in STATUSES:
    raise flags.UserError(f"{folder / 'record.json'}: has status {row['status']}: must be among {', '.join(STATUSES)}")
  return row


def curve_rows(path: Path, entry: dict[str, Any]) -> list[dict[str, Any]]:
  """The evaluations of a run, whose record is `entry`."""
  try:
    rows = record.read_curve(path)
  except FileNotFoundError:
    raise flags.UserError(f"{path}: no such file, though its run is recorded") from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise flags.UserError(f"{path}: not valid JSON lines ({error})") from None
  recorded.check_curve(path, rows, [*EVALUATION, "common_log_loss", "common_ne", "progressive_log_loss"])
  if not rows or rows[-1].get("examples") != entry.get("examples"):
    raise flags.UserError(f"{path}: does not end at the {entry.get('examples')} examples of the record")
  return rows


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The evaluations of a run, with the log loss and NE of each as on the examples of the last one, which may be more.

  All evaluations predict some common examples. What the last one's loss is above the loss on these is added to the others: a control
  variate. Nothing is added where all evaluations predict the same examples.
  """
  last, out = rows[-1], [dict(row) for row in rows]
  for name in ("log_loss", "ne"):
    if last.get(f"common_{name}") is not None and last.get(name) is not None:
      for row in (row for row in out[:-1] if row.get(name) is not None):
        row[name] += last[name] - last[f"common_{name}"]
  return out
