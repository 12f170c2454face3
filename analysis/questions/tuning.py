"""The learning rate that is used at each point of a sweep which tried several (`--lr_factors`). Called by `analysis.report`."""

import dataclasses
from typing import Any

import polars as pl

from analysis.load import Sweep
from analysis.questions.curves import last_points, total_metric
from dlrm_jax.common.axis_names import HARDWARE_AXES

_PLACE = ("workload", "learner", "axis", "size")


@dataclasses.dataclass(frozen=True)
class Choice:
  """The learning rate kept at one point.

  Attributes:
    workload, learner, axis, size, label: the point, over its seeds.
    metric: the whole loss, compared at the end of the runs.
    losses: the mean loss over the seeds by factor, for factors with a run that is done.
    lr_factor: the best factor. A factor with fewer finished seeds ranks behind those with more.
    at_end: whether it is the smallest or the largest that was tried, so that a better one may be beyond.
  """

  workload: str
  learner: str
  axis: str
  size: float
  label: str
  metric: str
  losses: dict[float, float]
  lr_factor: float
  at_end: bool

  @property
  def warning(self) -> str:
    """What a reader must know, or empty."""
    if not self.at_end:
      return ""
    side = "largest" if self.lr_factor == max(self.losses) else "smallest"
    return f"{self.workload} / {self.learner} / {self.axis}={self.label}: the best learning rate is the {side} tried, x{self.lr_factor:g}"

  def as_dict(self) -> dict[str, Any]:
    """The flat object of `laws.json`."""
    losses = [{"lr_factor": factor, "loss": loss} for factor, loss in self.losses.items()]
    return dataclasses.asdict(self) | {"losses": losses}


def tuned(sweep: Sweep) -> tuple[Sweep, list[Choice]]:
  """The sweep with only the best learning rate of each point, and the choices. Points of hardware axes stay: they measure speed."""
  last = last_points(sweep.evaluations())
  choices, kept = [], []
  for place, group in sweep.points.group_by(_PLACE, maintain_order=True):
    choice = None
    if group["lr_factor"].n_unique() > 1 and group["axis"][0] not in HARDWARE_AXES:
      ends = last.join(group.select(*_PLACE, "config_id"), on=[*_PLACE, "config_id"], how="semi")
      choice = _choose(dict(zip(_PLACE, place, strict=True)), ends) if len(ends) else None
    choices += [choice] if choice else []
    kept.append(group.filter(lr_factor=choice.lr_factor) if choice else group)
  return dataclasses.replace(sweep, points=pl.concat(kept)), choices


def _choose(place: dict[str, Any], ends: pl.DataFrame) -> Choice:
  """The factor with the most finished seeds, and among equals the one with the least loss."""
  metric = total_metric(ends)
  table = ends.group_by("lr_factor").agg(pl.col(metric).mean(), pl.len()).sort("lr_factor")
  losses = dict(zip(table["lr_factor"], table[metric], strict=True))
  best = table.sort("len", metric, descending=[True, False])["lr_factor"][0]
  return Choice(**place, label=ends["label"][0], metric=metric, losses=losses, lr_factor=best, at_end=best in (min(losses), max(losses)))
