"""Repeated data: what a sweep whose runs make several epochs (`--epochs`) shows. Called by `analysis.report`.

For every model and number of unique examples: the loss at the end of the first epoch and of later ones. Over the numbers of unique
examples: the law of repeated data (`fitting.repeated`), or that the loss rises, which this law does not describe.
"""

import dataclasses
import json
from typing import Any

import numpy as np
import polars as pl

from analysis.fitting.fit_law import fit_law
from analysis.fitting.repeated import UNREPEATED
from analysis.fitting.result import Fit, as_dict, interval_text
from analysis.fitting.uncertainty import quantile
from analysis.load import Sweep
from analysis.questions.curves import total_metric
from dlrm_jax.common.axis_names import HARDWARE_AXES

_WHOLE = 1e-3  # evaluations this near the end of an epoch are at its end


@dataclasses.dataclass(frozen=True)
class Repeat:
  """One model on one number of unique examples.

  Attributes:
    unique, seeds: unique examples, and the number of runs.
    epochs, losses: ends of epochs at which the runs were evaluated, and the mean losses there.
    lowest: the number of epochs, of all evaluations from the end of the first epoch on, with the lowest mean loss.
    change: the mean log ratio of the last loss to that after one epoch.
    half: half its 95% t interval, the variance pooled over the model's numbers of unique examples; None for one seed each.
  """

  unique: int
  seeds: int
  epochs: tuple[float, ...]
  losses: tuple[float, ...]
  lowest: float
  change: float
  half: float | None

  @property
  def what(self) -> str:
    """`rises`, `falls` or `stays`. It stays where the change of the loss is within that of the seeds, or half a per cent with one seed."""
    still = abs(self.change) <= (UNREPEATED if self.half is None else self.half)
    return "stays" if still else "rises" if self.change > 0 else "falls"


@dataclasses.dataclass(frozen=True)
class Repeats:
  """One model on several numbers of unique examples.

  Attributes:
    workload, learner, metric: the data, and the loss that is compared.
    model: its sizes on the axes of the sweep, for people; empty for the base.
    rows: one for each number of unique examples.
    fit: the law of repeated data.
  """

  workload: str
  learner: str
  metric: str
  model: str
  rows: tuple[Repeat, ...]
  fit: Fit

  @property
  def name(self) -> str:
    """The model for people."""
    return ", ".join(part for part in (self.workload, self.learner, self.model) if part)

  @property
  def verdict(self) -> str:
    """What repeating does and whether the law describes it, in a sentence."""
    rising = [row for row in self.rows if row.what == "rises"]
    most = max(self.rows, key=lambda row: row.change)
    if rising:
      numbers = f"from {most.losses[0]:.4g} after {most.epochs[0]:g} to {most.losses[-1]:.4g} after {most.epochs[-1]:g} epochs"
      counts = "every number" if len(rising) == len(self.rows) else f"{len(rising)} of {len(self.rows)} numbers"
      where = f"{numbers} of {most.unique:,} examples"
      return f"the loss rises when examples are repeated, at {counts} of unique examples, most {where}: outside the law of repeated data"
    if self.fit.refused:
      return f"no law of repeated data: {self.fit.reason}"
    epochs, r_star = max(row.epochs[-1] for row in self.rows), self.fit.params["R_star"]
    worth = [1 - r * np.expm1(-(epochs - 1) / r) if r else None for r in (r_star.estimate, r_star.ci_low, r_star.ci_high)]
    unique = f"times as many unique examples as one (R_star {interval_text(r_star, 3)}, Muennighoff et al. 2023)"
    if self.fit.status == "not_identifiable" and worth[1] is None and worth[2] is not None:
      return f"{epochs:g} epochs are worth at most {worth[2]:.2f} {unique}"
    if not self.fit.believed:
      return f"no law of repeated data: {self.fit.reason}"
    low, high = ("?" if value is None else f"{value:.2f}" for value in worth[1:])
    return f"{epochs:g} epochs are worth {worth[0]:.2f} [{low}, {high}] {unique}"

  def as_dict(self) -> dict[str, Any]:
    """The object of `laws.json`."""
    out: dict[str, Any] = {name: getattr(self, name) for name in ("workload", "learner", "metric", "model", "verdict")}
    return out | {"unique": [dataclasses.asdict(row) | {"what": row.what} for row in self.rows], "fit": as_dict(self.fit)}


def repeats(sweep: Sweep) -> list[Repeats]:
  """One for each workload, learner and model whose finished runs make more than one epoch."""
  settings = {name: config.get("train") or {} for name, config in sweep.configs.items()}
  several = [name for name, train in settings.items() if (train.get("epochs") or 1) > 1 and train.get("num_examples")]
  frame = sweep.evaluations().filter(pl.col("config_id").is_in(several) & ~pl.col("axis").is_in(HARDWARE_AXES))
  frame = frame.filter((pl.col("epochs") >= 1 - _WHOLE) & ~pl.col("horizon"))
  if not len(frame):
    return []
  unique = pl.Series([float(settings[name]["num_examples"]) for name in frame["config_id"]])
  models = pl.Series([_model(row) for row in frame.select("axis", "label", "sizes").to_dicts()])
  frame = frame.with_columns(unique.alias("unique"), models.alias("model")).unique(["config_id", "model", "examples"], maintain_order=True)
  out = []
  for (workload, learner, model), group in frame.group_by("workload", "learner", "model", maintain_order=True):
    out.append(_of(str(workload), str(learner), str(model), group))
  return out


def _model(point: dict[str, Any]) -> str:
  """The sizes of a point on the axes of the sweep, without that of the data."""
  sizes = json.loads(point["sizes"] or "{}") or {point["axis"]: point["label"]}
  return ", ".join(
    f"{axis} {size:,.12g}" if isinstance(size, float) else f"{axis} {size}" for axis, size in sizes.items() if axis != "data"
  )


def _of(workload: str, learner: str, model: str, group: pl.DataFrame) -> Repeats:
  metric = total_metric(group)
  tables = [(int(unique), _table(points, metric)) for (unique,), points in group.sort("unique").group_by("unique", maintain_order=True)]
  changes = [np.log(losses_se[:, -1] / losses_se[:, 0]) for _, (_, losses_se) in tables]
  free = sum(len(change) - 1 for change in changes)
  variance = sum(float(np.sum((change - change.mean()) ** 2)) for change in changes) / free if free else 0.0
  rows = []
  for (unique, (epochs, losses_se)), change in zip(tables, changes, strict=True):
    mean_e, whole = losses_se.mean(axis=0), np.abs(epochs - np.round(epochs)) <= _WHOLE * epochs
    half = quantile(free) * float(np.sqrt(variance / len(change))) if free else None
    ends = (tuple(np.round(epochs[whole], 3).tolist()), tuple(mean_e[whole].tolist()))
    rows.append(Repeat(unique, len(change), *ends, float(np.round(epochs[mean_e.argmin()], 3)), float(change.mean()), half))
  x, y = group.select("unique", "epochs").to_numpy(), group[metric].to_numpy()
  fit = fit_law(x, y, "repeated", group["seed"].to_numpy(), group=f"{workload} / {learner} / {model or 'base'}")
  return Repeats(workload, learner, metric, model, tuple(rows), fit)


def _table(points: pl.DataFrame, metric: str) -> tuple[np.ndarray, np.ndarray]:
  """The epochs at which all seeds were evaluated, and the losses [seeds, epochs] there."""
  table = points.pivot(on="seed", index="epochs", values=metric, aggregate_function="first").sort("epochs").drop_nulls()
  return table["epochs"].to_numpy(), table.drop("epochs").to_numpy().T
