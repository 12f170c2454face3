"""Takes a few items of a stream before they are needed. The loop and evaluations use it where batches go to the devices."""

import collections
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
  """The items of a stream. Each is yielded once the `depth` after it have been taken: copies and computations that they start run ahead.

  It starts no thread: jax's own copies and computations run concurrently and, on a data set, Grain's threads. What the stream raises is
  raised up to `depth` items early.
  """
  taken: collections.deque[T] = collections.deque()
  for item in items:
    taken.append(item)
    if len(taken) > depth:
      yield taken.popleft()
  yield from taken
