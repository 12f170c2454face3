"""Drift along a log: whether the held-out loss of training passes follows the loss of the examples just before they are trained on.

A pass over a log in order of time mixes size with recency: a point early on its curve has seen the oldest examples, and is judged on rows
that come much later. The mean loss of training examples before each step (progressive validation, Blum, Kalai and Langford 1999) is that of
unseen examples of the same time. Where nothing drifts, both losses fall together. A log drifts, and its passes get no data law, where in
the window of data laws

- the held-out loss rises by more than `RISE` and by more than `SIGMAS` times its noise, or
- the ratio of held-out to progressive loss changes between two octaves of the log by more than `GAP` and by more than `SIGMAS` times its
  error. The octaves are the last half of the pass, the quarter before it and so on, `OCTAVES` of them. The ratio of an octave is the mean
  of its windows between evaluations. Its error is that of sampling, times how much more than it single windows scatter around their
  neighbours. A window of a part of a day has the loss of its hours. Earlier octaves may be no longer than that, so they do not count.

All configurations of a workload and learner are judged together, since they are trained on the same log. Called by `curves.py`,
`sweep_laws.py`, `schemes.py`, `additive.py` and the report.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

Array = np.ndarray
RISE = 0.02  # relative rise of the held-out loss
GAP = 0.10  # relative change of the ratio of held-out to progressive loss
SIGMAS = 4.0
OCTAVES = 4  # at the end of the pass, in which the ratio must not change
SPAN = 64.0  # the window: the last factor of this in examples
_NOISE = 0.003  # standard deviation of the log of a held-out loss where one seed does not tell it
_MIN_POINTS = 4
_WHOLE = 1.1  # an octave may begin this factor too late
_MEDIAN = 0.6745  # of the size of a standard normal variable
REMEDY = "train in shuffled order (--order=shuffled), or each length anew on the most recent examples (--data_mode=retrain --window=recent)"


@dataclasses.dataclass(frozen=True)
class Drift:
  """How losses go along a log: the mean over the configurations of one workload and learner that have its longest passes, and over seeds.

  Attributes:
    workload, learner: as in `sweep.json`.
    configurations: their number.
    order: that of their training examples, `time` or `shuffled`; `time` where the records do not say.
    runs: their config_ids.
    window: the examples at the first and last evaluation in the window.
    held_out: the log loss (nats) on held-out examples at both.
    progressive: the log loss of training examples before their step at both; None where the records do not have it.
    rise, rise_from, rise_to: the largest relative rise of the held-out loss, and the examples between which it happens.
    rise_noise: the relative noise of the difference of two held-out losses.
    progressive_change: the relative change of the progressive loss between them; None where not recorded.
    gap_low, gap_high: the ratio of held-out to progressive loss, less 1, in two octaves, the smaller one first; None where not recorded.
      They are the octaves that differ most compared with their errors.
    gap_at: the examples from which and to which these two octaves have evaluations.
    rises, parts: whether the rules of this module find the held-out loss rising, and the two losses parting.
  """

  workload: str
  learner: str
  configurations: int
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
  gap_at: tuple[tuple[float, float], tuple[float, float]] | None
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
    """Why its passes are no data law, in a few words; empty where it does not drift."""
    if not self.drifts:
      return ""
    with_it = self.progressive_change is not None and self.progressive_change > 0 and not self.parts
    return "the held-out loss rises" if self.order == "shuffled" or with_it else "the log drifts"

  @property
  def reason(self) -> str:
    """Why its passes are no data law; empty where it does not drift."""
    found = []
    if self.rises:
      with_it = ""
      if self.progressive_change is not None:
        way = "falls" if self.progressive_change < 0 else "rises"
        with_it = f", while the progressive loss {way} by {abs(self.progressive_change):.1%}"
      found.append(f"the held-out loss rises by {self.rise:.1%} from {self.rise_from:,.0f} to {self.rise_to:,.0f} examples{with_it}")
    if self.parts and self.gap_at is not None and self.gap_low is not None and self.gap_high is not None:
      (first, ratio), (second, other) = sorted(zip(self.gap_at, (self.gap_low, self.gap_high), strict=True))
      found.append(
        f"the held-out loss is {1 + ratio:.2f} times the progressive loss from {first[0]:,.0f} to {first[1]:,.0f} examples and "
        f"{1 + other:.2f} times from {second[0]:,.0f} to {second[1]:,.0f}"
      )
    return "; ".join(found)


def drift_of(log: pl.DataFrame) -> Drift | None:
  """The drift of the evaluations of one workload and learner, over all configurations and seeds that have the longest passes.

  None for planted data, which has no time, for passes over the most recent rows, which are read at their ends, and for too few evaluations.
  """
  curve = log.filter((pl.col("log_loss") > 0) & (pl.col("epochs").fill_null(0) <= 1))
  if not len(curve) or curve["planted"].any() or (curve["window"] == "recent").any():
    return None
  curve = curve.filter(pl.col("examples").max().over("config_id") == pl.col("examples").max())
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
  change = float(np.expm1(before[high] - before[low])) if known else None
  pair = _widest(_octaves(n, held - before, _sampling(curve))) if known else None
  first = curve.row(0, named=True)
  ends = [(float(np.exp(v[0])), float(np.exp(v[-1]))) for v in (held, before)]
  return Drift(
    workload=first["workload"],
    learner=first["learner"],
    configurations=len(curve.unique(["axis", "size"])),
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
    gap_low=float(np.expm1(pair[0].ratio)) if pair else None,
    gap_high=float(np.expm1(pair[1].ratio)) if pair else None,
    gap_at=(pair[0].at, pair[1].at) if pair else None,
    rises=bool(rises),
    parts=pair is not None and _beyond(*pair) > 0,
  )


def _largest_rise(held: Float[Array, " n"]) -> tuple[int, int]:
  """The indices i <= j of the largest rise held[j] - held[i]."""
  lowest = np.minimum.accumulate(held)
  high = int(np.argmax(held - lowest))
  return int(np.argmin(held[: high + 1])), high


def _noise(curve: pl.DataFrame) -> float:
  """The standard deviation of the mean log loss over the seeds of one configuration, from their differences at each number of examples."""
  scatter = curve.group_by("axis", "size", "examples").agg(pl.col("log_loss").log().std().alias("sd"), pl.len())
  several = scatter.filter(pl.col("len") > 1)
  if not len(several):
    return _NOISE
  variance = float((several["sd"] ** 2).mean() or 0.0)  # type: ignore[arg-type]
  return float(np.sqrt(variance / float(several["len"].mean() or 1.0)))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class _Octave:
  """The log ratio of held-out to progressive loss over an octave of a log, its standard error, and the examples that it spans."""

  ratio: float
  error: float
  at: tuple[float, float]


def _octaves(n: Float[Array, " n"], gap: Float[Array, " n"], relative: float) -> list[_Octave]:
  """The last octaves of a log, the earliest first, each the mean of its windows weighted by their rows.

  Args:
    n: the examples at each evaluation.
    gap: the log ratio there. The first one is left out: its progressive loss goes back to an evaluation that is not in `n`.
    relative: the standard deviation of an example's loss, over the mean loss.
  """
  rows, ends, gap = np.diff(n), n[1:], gap[1:]
  scatter = max(_scatter(np.log(ends), gap, relative / np.sqrt(rows)), 1.0)
  octave = np.floor(np.log2(n[-1] / ends) + 1e-9)
  out = []
  for number in sorted(set(octave[octave < OCTAVES]), reverse=True):
    at = np.flatnonzero(octave == number)
    if n[at[0]] > _WHOLE * n[-1] / 2 ** (number + 1):
      continue  # the first evaluation comes later than its start
    ratio, error = np.average(gap[at], weights=rows[at]), scatter * relative / np.sqrt(rows[at].sum())
    out.append(_Octave(float(ratio), float(error), (float(n[at[0]]), float(ends[at[-1]]))))
  return out


def _scatter(u: Float[Array, " n"], gap: Float[Array, " n"], error: Float[Array, " n"]) -> float:
  """How many times its sampling error a window's ratio is off the straight line between its neighbours in log examples, by the median."""
  if len(u) < 3:
    return 1.0
  share = (u[1:-1] - u[:-2]) / (u[2:] - u[:-2])
  off = gap[1:-1] - (1 - share) * gap[:-2] - share * gap[2:]
  deviation = np.sqrt(error[1:-1] ** 2 + ((1 - share) * error[:-2]) ** 2 + (share * error[2:]) ** 2)
  return float(np.median(np.abs(off) / deviation)) / _MEDIAN


def _beyond(one: _Octave, other: _Octave) -> float:
  """By how much the difference of two octaves is more than both limits allow."""
  return abs(other.ratio - one.ratio) - max(float(np.log1p(GAP)), SIGMAS * float(np.hypot(one.error, other.error)))


def _widest(octaves: list[_Octave]) -> tuple[_Octave, _Octave] | None:
  """The two octaves that differ most compared with what is allowed, the smaller ratio first; None with fewer than two."""
  if len(octaves) < 2:
    return None
  one, other = sorted(max(itertools.combinations(octaves, 2), key=lambda pair: _beyond(*pair)), key=lambda octave: octave.ratio)
  return one, other


def _sampling(curve: pl.DataFrame) -> float:
  """The standard deviation of an example's loss, over the mean loss.

  The variance of an example's loss is taken as L^2 + p (1 - p) logit(p)^2, with click rate p: what a constant prediction has, and as much
  again as the loss itself.
  """
  loss = float(curve["log_loss"].mean() or 1.0)  # type: ignore[arg-type]
  rate = curve["base_rate"].drop_nulls()
  p = float(np.clip(rate[0], 1e-9, 1 - 1e-9)) if len(rate) else 0.5
  return float(np.sqrt(loss**2 + p * (1 - p) * np.log(p / (1 - p)) ** 2) / loss)
