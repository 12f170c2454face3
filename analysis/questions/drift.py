"""Drift along a log: whether the held-out loss of a training pass follows the loss of the examples just before they are trained on.

A pass over a log in order of time mixes size with recency: a point early on its curve has seen the oldest examples, and is judged on rows
that come much later. The mean loss of training examples before each step (progressive validation, Blum, Kalai and Langford 1999) is that of
unseen examples of the same time. Where nothing drifts, both losses fall together. A pass drifts, and gets no data law, where in the window
of data laws

- the held-out loss rises by more than `RISE` and by more than `SIGMAS` times its noise, or
- the ratio of held-out to progressive loss changes by more than `GAP` and by more than `SIGMAS` times the sampling noise of both.

Called by `sweep_laws.py`, `additive.py` and the report.
"""

import dataclasses
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

Array = np.ndarray
RISE = 0.02  # relative rise of the held-out loss
GAP = 0.10  # relative change of the ratio of held-out to progressive loss
SIGMAS = 4.0
SPAN = 64.0  # the window: the last factor of this in examples
_NOISE = 0.003  # standard deviation of the log of a held-out loss where one seed does not tell it
_MIN_POINTS = 4
REMEDY = "train in shuffled order (--order=shuffled), or each length anew on the most recent examples (--data_mode=retrain --window=recent)"


@dataclasses.dataclass(frozen=True)
class Drift:
  """How the losses of one configuration go along the log, mean over its seeds.

  Attributes:
    workload, learner, axis, size: the point.
    order: that of its training examples, `time` or `shuffled`; `time` where the records do not say.
    runs: its config_ids.
    window: the examples at its first and last evaluation in the window.
    held_out: the log loss (nats) on held-out examples at both.
    progressive: the log loss of training examples before their step at both; None where the records do not have it.
    rise, rise_from, rise_to: the largest relative rise of the held-out loss, and the examples between which it happens.
    rise_noise: the relative noise of the difference of two held-out losses.
    progressive_change: the relative change of the progressive loss between them; None where not recorded.
    gap_low, gap_high: the smallest and largest ratio of held-out to progressive loss, less 1; None where not recorded.
    gap_at: the examples at these two.
    rises, parts: whether the rules of this module find the held-out loss rising, and the two losses parting.
  """

  workload: str
  learner: str
  axis: str
  size: float
  order: str
  runs: tuple[str, ...]
  window: tuple[float, float]
  held_out: tuple[float, float]
  progressive: tuple[float, float] | None
  rise: float
  rise_from: float
  rise_to: float
  rise_noise: float
  progressive_change: float | None
  gap_low: float | None
  gap_high: float | None
  gap_at: tuple[float, float] | None
  rises: bool
  parts: bool

  def as_dict(self) -> dict[str, Any]:
    """The flat object of `laws.json`."""
    return dataclasses.asdict(self) | {"drifts": self.drifts, "reason": self.reason}

  @property
  def drifts(self) -> bool:
    return self.rises or self.parts

  @property
  def short(self) -> str:
    """Why its curve is no data law, in a few words; empty where it does not drift."""
    if not self.drifts:
      return ""
    with_it = self.progressive_change is not None and self.progressive_change > 0 and not self.parts
    return "the held-out loss rises" if self.order == "shuffled" or with_it else "the log drifts"

  @property
  def reason(self) -> str:
    """Why its curve is no data law; empty where it does not drift."""
    found = []
    if self.rises:
      with_it = ""
      if self.progressive_change is not None:
        way = "falls" if self.progressive_change < 0 else "rises"
        with_it = f", while the progressive loss {way} by {abs(self.progressive_change):.1%}"
      found.append(f"the held-out loss rises by {self.rise:.1%} from {self.rise_from:,.0f} to {self.rise_to:,.0f} examples{with_it}")
    if self.parts and self.gap_at is not None and self.gap_low is not None and self.gap_high is not None:
      first, second = sorted(zip(self.gap_at, (self.gap_low, self.gap_high), strict=True))
      found.append(
        f"the held-out loss is {1 + first[1]:.2f} times the progressive loss at {first[0]:,.0f} examples and {1 + second[1]:.2f} times at "
        f"{second[0]:,.0f}"
      )
    return "; ".join(found)


def drift_of(curve: pl.DataFrame) -> Drift | None:
  """The drift of one configuration's evaluations over its seeds.

  None for planted data, which has no time, for passes over the most recent rows, which are read at their ends, and for too few evaluations.
  """
  curve = curve.filter((pl.col("log_loss") > 0) & (pl.col("epochs").fill_null(0) <= 1))
  if not len(curve) or curve["planted"].any() or (curve["window"] == "recent").any():
    return None
  curve = curve.filter(pl.col("examples") >= pl.col("examples").max() / SPAN).unique(["config_id", "examples"], maintain_order=True)
  counts = curve.group_by("examples").agg(pl.len()).sort("examples")
  curve = curve.filter(pl.col("examples").is_in(counts.filter(pl.col("len") == pl.col("len").max())["examples"].to_list()))
  table = (
    curve.group_by("examples").agg(pl.col("log_loss").log().mean(), pl.col("progressive_log_loss_recent").log().mean()).sort("examples")
  )
  n, held, before = (table[name].to_numpy().astype(np.float64) for name in table.columns)
  if len(n) < _MIN_POINTS:
    return None
  noise = np.sqrt(2) * _noise(curve)
  low, high = _largest_rise(held)
  rise = float(held[high] - held[low])
  rises = rise > np.log1p(RISE) and rise > SIGMAS * noise
  known = bool(np.isfinite(before).all())
  parts = False
  change: float | None = None
  gaps: tuple[float, float] | None = None
  at: tuple[float, float] | None = None
  if known:
    change = float(np.expm1(before[high] - before[low]))
    gap, error = held - before, _sampling(curve, n)
    gap, error, places = gap[1:], error[1:], n[1:]  # the first recent loss goes back to the start of the pass
    small, large = int(np.argmin(gap)), int(np.argmax(gap))
    moved = float(gap[large] - gap[small])
    parts = moved > np.log1p(GAP) and moved > SIGMAS * float(np.hypot(error[small], error[large]))
    gaps, at = (float(np.expm1(gap[small])), float(np.expm1(gap[large]))), (float(places[small]), float(places[large]))
  first = curve.row(0, named=True)
  ends = [(float(np.exp(v[0])), float(np.exp(v[-1]))) for v in (held, before)]
  return Drift(
    workload=first["workload"],
    learner=first["learner"],
    axis=first["axis"],
    size=first["size"],
    order=first["order"] or "time",
    runs=tuple(sorted(set(curve["config_id"]))),
    window=(float(n[0]), float(n[-1])),
    held_out=ends[0],
    progressive=ends[1] if known else None,
    rise=float(np.expm1(rise)),
    rise_from=float(n[low]),
    rise_to=float(n[high]),
    rise_noise=float(noise),
    progressive_change=change,
    gap_low=gaps[0] if gaps else None,
    gap_high=gaps[1] if gaps else None,
    gap_at=at,
    rises=bool(rises),
    parts=bool(parts),
  )


def _largest_rise(held: Float[Array, " n"]) -> tuple[int, int]:
  """The indices i <= j of the largest rise held[j] - held[i]."""
  lowest = np.minimum.accumulate(held)
  high = int(np.argmax(held - lowest))
  return int(np.argmin(held[: high + 1])), high


def _noise(curve: pl.DataFrame) -> float:
  """The standard deviation of the mean log loss over the seeds, from their differences at each number of examples."""
  scatter = curve.group_by("examples").agg(pl.col("log_loss").log().std().alias("sd"), pl.len())
  several = scatter.filter(pl.col("len") > 1)
  if not len(several):
    return _NOISE
  variance = float((several["sd"] ** 2).mean() or 0.0)  # type: ignore[arg-type]
  return float(np.sqrt(variance / float(several["len"].mean() or 1.0)))  # type: ignore[arg-type]


def _sampling(curve: pl.DataFrame, n: Float[Array, " n"]) -> Float[Array, " n"]:
  """The relative sampling error of the ratio of both losses at each evaluation.

  The variance of an example's loss is taken as L^2 + p (1 - p) logit(p)^2, with click rate p: what a constant prediction has, and as much
  again as the loss itself.
  """
  loss = float(curve["log_loss"].mean() or 1.0)  # type: ignore[arg-type]
  rate = curve["base_rate"].drop_nulls()
  p = float(np.clip(rate[0], 1e-9, 1 - 1e-9)) if len(rate) else 0.5
  relative = np.sqrt(loss**2 + p * (1 - p) * np.log(p / (1 - p)) ** 2) / loss
  recent = np.diff(n, prepend=0.0)
  return relative / np.sqrt(np.maximum(recent, 1.0))
