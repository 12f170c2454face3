"""Counts the ids of a feature in bounded memory, keeps the counts as a spectrum, and fits Zipf's law. Called by `inventory`."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Int, Int64

MOST_IDS = 1 << 22  # distinct ids in memory (half as many again for a moment). A column with more ids is read again for the others
FIRST_RANK = 10  # curves of real logs bend at the most frequent ids, and a table's size depends on the tail
SEEN_ENOUGH = 10  # chance affects the ranks of rarer ids more than their probability does
LEAST_IDS = 10 * FIRST_RANK  # a slope needs a decade of ranks
_NUM_POINTS = 100  # ranks of a curve or fit, evenly spaced in their logarithm
_MERGE_IDS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Spectrum:
  """Id frequencies without the ids: `ids_c[i]` ids were seen `seen_c[i]` times each. The most frequent come first."""

  seen_c: Int64[np.ndarray, " C"]
  ids_c: Int64[np.ndarray, " C"]

  @property
  def distinct(self) -> int:
    """The number of ids that were seen."""
    return int(self.ids_c.sum())

  @property
  def often(self) -> int:
    """The number of ids that were seen SEEN_ENOUGH times or more, so that their ranks are not chance."""
    return int(self.ids_c[self.seen_c >= SEEN_ENOUGH].sum())

  def seen(self, rank_r: Int[np.ndarray, " R"]) -> Int64[np.ndarray, " R"]:
    """The count of the id at each rank. Rank 1 is the most frequent id."""
    return self.seen_c[np.searchsorted(np.cumsum(self.ids_c), rank_r)]

  def curve(self) -> tuple[Int64[np.ndarray, " R"], Int64[np.ndarray, " R"]]:
    """Log-spaced ranks from the first to the last, and the counts of the ids there."""
    rank_r = log_spaced(1, self.distinct, _NUM_POINTS)
    return rank_r, self.seen(rank_r)


@dataclasses.dataclass(frozen=True)
class Zipf:
  """The law p_k ~ k**-slope of the k-th most frequent id, fitted to log p at log-spaced ranks by least squares.

  Attributes:
    slope: s of the planted click model.
    first_rank, last_rank: range of ranks of the fit.
    error: root mean square residual of log p. exp(error) is the typical factor between the line and the counts.
    intercept: log of the count at rank 1, by the line.
  """

  slope: float
  first_rank: int
  last_rank: int
  error: float
  intercept: float

  def seen(self, rank: float) -> float:
    """The count that the law predicts for the id at a rank."""
    return float(np.exp(self.intercept) * rank**-self.slope)


def log_spaced(first: int, last: int, count: int) -> Int64[np.ndarray, " R"]:
  """At most `count` distinct ranks from `first` to `last`, evenly spaced in their logarithm; none if `last` is below `first`."""
  if last < first:
    return np.zeros(0, np.int64)
  return np.unique(np.round(np.geomspace(first, last, count)).astype(np.int64))


def counted(
  read: Callable[[], Iterable[Int[np.ndarray, " n"]]], most_ids: int = MOST_IDS, merge_ids: int = _MERGE_IDS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Counts ids. Yields pairs of ids and counts, more than one if the ids do not fit in memory. Ids ascend over all pairs.

  Args:
    read: reads the ids, chunk by chunk. It is called once for every pair.
    most_ids: the most distinct ids to hold in memory.
    merge_ids: the fewest ids that are merged at once.
  """
  low, whole = -(1 << 31), False
  while not whole:
    ids, seen, high, waiting = np.zeros(0, np.int32), np.zeros(0, np.int64), 1 << 31, []
    for id_n in read():
      within = id_n if low < -1 and high > id_n.max(initial=0) else id_n[(id_n >= low) & (id_n < high)]
      waiting.append(np.unique(within, return_counts=True))
      if sum(len(some) for some, _ in waiting) > max(merge_ids, len(ids) // 2):  # so that all merges together take linear time
        ids, seen, waiting = *merged([(ids, seen), *waiting]), []
        if len(ids) > most_ids:
          high = int(ids[most_ids // 2])
          ids, seen = ids[: most_ids // 2], seen[: most_ids // 2]
    yield merged([(ids, seen), *waiting])
    low, whole = high, high == 1 << 31


def merged(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Int[np.ndarray, " u"], Int64[np.ndarray, " u"]]:
  """Merges several lists of distinct ids and their counts into one."""
  ids, seen = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
  if not len(ids):
    return ids, seen
  order = np.argsort(ids, kind="stable")
  ids, seen = ids[order], seen[order]
  first = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
  return ids[first], np.add.reduceat(seen, first)


def spectrum(counts: Iterable[Int64[np.ndarray, " _"]]) -> Spectrum:
  """The spectrum of ids whose counts are given in several arrays."""
  seen_c, ids_c = np.zeros(0, np.int64), np.zeros(0, np.int64)
  for seen in counts:
    values, number = np.unique(seen, return_counts=True)
    seen_c, ids_c = merged([(seen_c, ids_c), (values, number)])
  return Spectrum(seen_c[::-1], ids_c[::-1])


def zipf(of: Spectrum) -> Zipf | None:
  """Zipf's law of the ids from rank FIRST_RANK to the last that was seen SEEN_ENOUGH times; None if they are fewer than LEAST_IDS."""
  if of.often < LEAST_IDS:
    return None
  rank_r = log_spaced(FIRST_RANK, of.often, _NUM_POINTS)
  x_r, y_r = np.log(rank_r), np.log(of.seen(rank_r))
  slope, intercept = np.polyfit(x_r, y_r, 1)
  error = float(np.sqrt(np.mean((y_r - slope * x_r - intercept) ** 2)))
  return Zipf(-float(slope), FIRST_RANK, of.often, error, float(intercept))
