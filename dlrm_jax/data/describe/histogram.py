"""The histogram of a dense column, whose bars hold equally many of the values that the column can have. Called by `inventory`.

Bars of equal width over whole numbers hold one number here and two there, which draws spikes that the data do not have. So the step between
neighbouring numbers is found first, and every bar holds whole steps.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

MOST_BARS = 40
_FEWEST_BARS = 14  # that the search for an even division goes down to
_MOST_STEPS = 4096  # a bar of more than 100 steps is hardly higher or lower for one of them
_DECIMALS = (1, 10, 100, 1000)  # numbers with up to three decimals, such as prices
_WIDE = 3.0  # ratio of 1 + x that needs a logarithmic axis


@dataclasses.dataclass(frozen=True)
class Histogram:
  """Bars from edge to edge.

  Attributes:
    edges: ascending, one more than bars.
    counts: rows in each bar, from its lower edge up to below the upper one.
    log: whether bars are about equally wide in log(1 + x) instead of x.
  """

  edges: tuple[float, ...]
  counts: tuple[int, ...]
  log: bool


@dataclasses.dataclass(frozen=True)
class Scale:
  """How the values of a column in a data set follow from the numbers of the log.

  Attributes:
    log: whether values are spread like log(1 + x).
    value_of: numbers to values.
    number_of: values to numbers, up to the rounding of float32.
  """

  log: bool
  value_of: Callable[[Float64[np.ndarray, " k"]], Float32[np.ndarray, " k"]]
  number_of: Callable[[Float64[np.ndarray, " k"]], Float64[np.ndarray, " k"]]


def histogram(
  value_k: Float32[np.ndarray, " k"],
  last_k: Float32[np.ndarray, " k"],
  count_k: Int64[np.ndarray, " k"],
  scale: Scale,
  low: float,
  high: float,
) -> Histogram:
  """The histogram of the numbers behind some values.

  Args:
    value_k, last_k: ranges of values, ascending, from the first to the last value of each. Both are the value itself where it is known.
    count_k: how many rows are in each range.
    scale: what they are values of.
    low, high: ranges outside of these are left out.
  """
  kept_k = (value_k >= low) & (value_k <= high)
  value_k, last_k, count_k = value_k[kept_k], last_k[kept_k], count_k[kept_k]
  exact_k = value_k.astype(np.float64)
  x_k = scale.number_of(exact_k)
  log = scale.log and bool(1 + x_k[-1] > _WIDE * (1 + x_k[0]) > 0)
  if len(value_k) == 1:
    half = max(0.5, float(np.spacing(abs(x_k[0]))))
    return Histogram((float(x_k[0]) - half, float(x_k[0]) + half), (int(count_k[0]),), False)
  if (found := _lattice(value_k, last_k, x_k, scale, log)) is not None:
    x_k, step = found
    log = log and bool(x_k[-1] - x_k[0] >= MOST_BARS * step)  # else each number has a bar
    edge_e = _growing(x_k, step) if log else _whole_steps(float(x_k[0]), float(x_k[-1]), step)
  elif (value_step := _float32_step(exact_k)) is not None:
    edge_e = scale.number_of(_whole_steps(float(exact_k[0]), float(exact_k[-1]), value_step))
  elif log:
    edge_e = np.expm1(np.linspace(np.log1p(x_k[0]), np.log1p(x_k[-1]), MOST_BARS + 1))
  else:
    edge_e = np.linspace(x_k[0], x_k[-1], MOST_BARS + 1)
  edge_e[0], edge_e[-1] = min(edge_e[0], x_k[0]), max(edge_e[-1], x_k[-1])
  before_e = np.concatenate([[0], np.cumsum(count_k)])[np.searchsorted(x_k, edge_e)]
  before_e[-1] = count_k.sum()
  return Histogram(tuple(edge_e.tolist()), tuple(np.diff(before_e).tolist()), log)


def _lattice(
  value_k: Float32[np.ndarray, " k"], last_k: Float32[np.ndarray, " k"], x_k: Float64[np.ndarray, " k"], scale: Scale, log: bool
) -> tuple[Float64[np.ndarray, " k"], float] | None:
  """The numbers without rounding, and their step, if all are multiples of 1, .1, .01 or .001; None where float32 merges neighbours.

  On a logarithmic axis steps are visible among the smallest numbers only. Larger ones may be merged.
  """
  for decimals in _DECIMALS:
    if abs(x_k).max() * decimals > 2**53:
      return None
    whole_k = np.round(x_k * decimals)
    fits_k = _within(scale.value_of(whole_k / decimals), value_k, last_k)
    if not fits_k.all():
      above_k, below_k = np.ceil(x_k * decimals), np.floor(x_k * decimals)  # a range begins below its number; the extremes may be cut off
      above_fits_k = _within(scale.value_of(above_k / decimals), value_k, last_k)
      whole_k = np.where(fits_k, whole_k, np.where(above_fits_k, above_k, below_k))
      if not _within(scale.value_of(whole_k / decimals), value_k, last_k).all():
        continue
    step = float(np.gcd.reduce(np.diff(whole_k).astype(np.int64)))
    apart_k = scale.value_of((whole_k + step) / decimals) > last_k
    return (whole_k / decimals, step / decimals) if step and (apart_k[0] if log else apart_k[:-1].all()) else None
  return None


def _within(
  value_k: Float32[np.ndarray, " k"], first_k: Float32[np.ndarray, " k"], last_k: Float32[np.ndarray, " k"]
) -> Bool[np.ndarray, " k"]:
  return (value_k >= first_k) & (value_k <= last_k)


def _float32_step(exact_k: Float64[np.ndarray, " k"]) -> float | None:
  """The step of which all differences of values are multiples, where there are few steps: float32 has few values in a narrow range."""
  least = np.float32(np.abs(exact_k[exact_k != 0]).min())
  unit = float(least) - float(np.nextafter(least, np.float32(0)))
  if np.abs(exact_k).max() / unit > 2**53:
    return None
  step = float(np.gcd.reduce(np.diff(exact_k / unit).astype(np.int64))) * unit
  return step if exact_k[-1] - exact_k[0] <= _MOST_STEPS * step else None


def _whole_steps(low: float, high: float, step: float) -> Float64[np.ndarray, " e"]:
  """Edges half-way between steps, equally many steps apart, so many that the last bar lacks as few steps as possible.

  Of a range of billions of steps only some thousand divisions are compared: its last bar lacks at most 39 steps of 2,000 or more.
  """
  steps = round((high - low) / step) + 1
  least, most = -(-steps // MOST_BARS), max(2, -(-steps // _FEWEST_BARS) + 1)
  each = min(range(least, min(most, least + _MOST_STEPS)), key=lambda each: (-steps % each / each, each))
  return low + (np.arange(-(-steps // each) + 1) * each - 0.5) * step


def _growing(x_k: Float64[np.ndarray, " k"], step: float) -> Float64[np.ndarray, " e"]:
  """Edges half-way between steps. Each bar is one step, or as many as a fortieth of the axis of log(1 + x) needs."""
  least = (np.log1p(x_k[-1]) - np.log1p(x_k[0])) / MOST_BARS
  edges = [float(x_k[0]) - min(step, 1 + float(x_k[0])) / 2]
  while edges[-1] < x_k[-1]:
    wanted = np.expm1(np.log1p(edges[-1]) + least) - edges[-1]
    edges.append(edges[-1] + step * max(1, round(float(wanted) / step)))
  return np.array(edges)
