"""How the best learning rate moves along an axis of a sweep which tried several (`--lr_factors`): a power law of the minima.

At each size the loss at the end of the runs is a scan over the rates (`fitting.minima`). Where the data axis is one pass, its evaluations
are scans over the same runs: the interval is then the jackknife's over seeds, since losses along a pass are correlated. Called by
`analysis.report`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from analysis.fitting.minima import Minimum, Scan, minima, power_of_minima
from analysis.fitting.power_line import PowerLine
from analysis.fitting.result import Estimate
from analysis.fitting.uncertainty import quantile
from analysis.load import SIZE_NAMES, Sweep, on_data_curve
from analysis.questions.curves import default_x_min, last_points, total_metric
from dlrm_jax.common.axis_names import GRID, HARDWARE_AXES

_MIN_FACTORS = 3  # learning rates of a scan
_MIN_SEEDS = 3  # seeds of a jackknife
_STEP = 2.0  # least factor between the examples of two scans of one pass


@dataclasses.dataclass(frozen=True)
class RateLaw:
  """The best learning rate along an axis.

  Attributes:
    workload, learner, axis, metric: what was compared.
    along: what is varied, for people.
    sizes, labels, found: the sizes with three or more rates, and the best rate at each as its minimum of log rate.
    rate: `table_lr`, with which dense_lr moves, or `factor` of --lr_factors where records lack the rates.
    exponent: of the power law, with its 95% interval; None where there is none.
    law: the law; one along a pass of few seeds has no interval, and then no exponent is given.
    why_not: why there is no exponent, or empty.
  """

  workload: str
  learner: str
  axis: str
  metric: str
  along: str
  sizes: tuple[float, ...]
  labels: tuple[str, ...]
  found: tuple[Minimum, ...]
  rate: str
  exponent: Estimate | None
  law: PowerLine | None
  why_not: str

  @property
  def kept(self) -> list[int]:
    """Indices of the sizes that have a minimum."""
    return [i for i, minimum in enumerate(self.found) if minimum.log_x is not None]

  @property
  def verdict(self) -> str:
    """Whether the best rate moves, with the numbers, in a sentence."""
    if self.exponent is None or self.law is None:
      return f"no law of the best rate along {self.along}: {self.why_not}"
    p = self.exponent
    assert p.ci_low is not None and p.ci_high is not None
    low, high = self.kept[0], self.kept[-1]
    factors = [(self.sizes[high] / self.sizes[low]) ** value for value in (p.estimate, p.ci_low, p.ci_high)]
    span = f"x{factors[0]:.2f} [{factors[1]:.2f}, {factors[2]:.2f}] from {self.labels[low]} to {self.labels[high]}"
    still = p.ci_low <= 0 <= p.ci_high
    how = "does not move beyond its error" if still else "rises" if p.estimate > 0 else "falls"
    return f"the best rate {how} along {self.along}: exponent {p.estimate:.3f} [{p.ci_low:.3f}, {p.ci_high:.3f}], {span}"

  @property
  def left_out(self) -> str:
    """The sizes without a minimum, by reason."""
    reasons: dict[str, list[str]] = {}
    for label, minimum in zip(self.labels, self.found, strict=True):
      if minimum.log_x is None:
        reasons.setdefault(minimum.reason, []).append(label)
    return "; ".join(f"{', '.join(labels)}: {reason}" for reason, labels in reasons.items())

  def as_dict(self) -> dict[str, Any]:
    """The flat object of `laws.json`."""
    names = ("workload", "learner", "axis", "metric", "along", "rate", "verdict")
    out: dict[str, Any] = {name: getattr(self, name) for name in names}
    out |= {"exponent": None if self.exponent is None else dataclasses.asdict(self.exponent)}
    entries = []
    for size, label, m in zip(self.sizes, self.labels, self.found, strict=True):
      best, low, high = (None if v is None else float(np.exp(v)) for v in (m.log_x, m.low, m.high))
      entries.append({"size": size, "label": label, "best": best, "ci_low": low, "ci_high": high, "reason": m.reason})
    return out | {"sizes": entries}


def rate_laws(sweep: Sweep) -> list[RateLaw]:
  """A law for each workload, learner and axis of a sweep with all its learning rates; grids and hardware axes have none."""
  rows = [{"config_id": name, "table_lr": (config.get("train") or {}).get("table_lr")} for name, config in sweep.configs.items()]
  rates = pl.DataFrame(rows, schema={"config_id": pl.String, "table_lr": pl.Float64})
  frame = _complete(sweep).join(rates, on="config_id", how="left", maintain_order="left")
  frame = frame.filter(~pl.col("axis").is_in(HARDWARE_AXES) & ~pl.col("axis").str.contains(GRID, literal=True))
  out = []
  for (workload, learner, axis), group in frame.group_by("workload", "learner", "axis", maintain_order=True):
    place = (str(workload), str(learner), str(axis))
    if axis == "data" and group["size"].n_unique() == 1:
      out += _along_pass(place, group)
    else:
      out += _over_sizes(place, last_points(group))
  return out


def _complete(sweep: Sweep) -> pl.DataFrame:
  """The evaluations of the learning rates at which every planned seed of a point has finished."""
  place = ["workload", "learner", "axis", "size", "lr_factor"]
  done = pl.col("config_id").is_in(sweep.curves["config_id"].unique().to_list())
  whole = sweep.points.group_by(place).agg(done.all().alias("whole")).filter("whole").drop("whole")
  return sweep.evaluations().join(whole, on=place, how="semi", maintain_order="left")


def _scan(points: pl.DataFrame, rate: str, metric: str) -> Scan:
  return Scan(np.log(points[rate].to_numpy()), np.log(points[metric].to_numpy()), points["seed"].to_numpy())


def _rate(frame: pl.DataFrame) -> tuple[str, str]:
  """The column of the rates, and its name for people."""
  return ("lr_factor", "factor") if frame["table_lr"].is_null().any() else ("table_lr", "table_lr")


def _scans(groups: Iterable[tuple[float, str, pl.DataFrame]], rate: str, metric: str) -> tuple[list[float], list[str], list[Scan]]:
  """The sizes with enough rates, their labels and scans."""
  usable = [(at, label, points) for at, label, points in groups if points[rate].n_unique() >= _MIN_FACTORS]
  return [at for at, *_ in usable], [label for _, label, _ in usable], [_scan(points, rate, metric) for *_, points in usable]


def _over_sizes(place: tuple[str, str, str], last: pl.DataFrame) -> list[RateLaw]:
  """The law over the sizes of an axis, each of which has runs of its own."""
  metric, (rate, name) = total_metric(last), _rate(last)
  last = last.filter(pl.col(metric) > 0).sort("size", maintain_order=True)
  groups = [(float(points["size"][0]), str(points["label"][0]), points) for _, points in last.group_by("size", maintain_order=True)]
  sizes, labels, scans = _scans(groups, rate, metric)
  if len(scans) < 2:
    return []
  found = minima(scans)
  law = power_of_minima(np.array(sizes), found)
  along = SIZE_NAMES.get(place[2], place[2])
  shared = (*place, metric, along, tuple(sizes), tuple(labels), tuple(found), name)
  return [RateLaw(*shared, None, None, law) if isinstance(law, str) else RateLaw(*shared, law.exponent, law, "")]


def _along_pass(place: tuple[str, str, str], group: pl.DataFrame) -> list[RateLaw]:
  """The law over the evaluations of one pass, where no learning rate has a horizon."""
  group = group.filter(on_data_curve())
  if not len(group):
    return []
  metric, (rate, name) = total_metric(group), _rate(group)
  group = group.filter(pl.col(metric) > 0)
  start = default_x_min(group["examples"].unique().to_numpy(), bool(group["planted"].any())) if len(group) else None
  counts: list[int] = []
  for count in sorted(set(group["examples"]), reverse=True):
    if count >= (start or 0) and (not counts or counts[-1] >= _STEP * count * (1 - 1e-6)):
      counts.append(count)

  def law_of(points: pl.DataFrame) -> tuple[tuple[list[float], list[str], list[Minimum]], PowerLine | str]:
    sizes, labels, scans = _scans(((float(n), f"{n:,}", points.filter(examples=n)) for n in reversed(counts)), rate, metric)
    found = minima(scans)
    return (sizes, labels, found), power_of_minima(np.array(sizes), found) if found else "no three learning rates"

  (sizes, labels, found), law = law_of(group)
  if len(found) < 2:
    return []
  shared = (*place, metric, "examples of one pass", tuple(sizes), tuple(labels), tuple(found), name)
  if isinstance(law, str):
    return [RateLaw(*shared, None, None, law)]
  seeds = sorted(set(group["seed"]))
  if len(seeds) < _MIN_SEEDS:
    return [RateLaw(*shared, None, law, f"{len(seeds)} seeds, an interval along a pass needs {_MIN_SEEDS}")]
  without = [law_of(group.filter(pl.col("seed") != seed))[1] for seed in seeds]
  exponents = np.array([one.exponent.estimate for one in without if isinstance(one, PowerLine)])
  if len(exponents) < len(seeds):
    return [RateLaw(*shared, None, law, "without one of the seeds there is no law")]
  spread = np.sum((exponents - exponents.mean()) ** 2)
  error = float(np.sqrt((len(seeds) - 1) / len(seeds) * spread))
  half, middle = quantile(len(seeds) - 1) * error, law.exponent.estimate
  return [RateLaw(*shared, Estimate(middle, error, middle - half, middle + half), law, "")]
