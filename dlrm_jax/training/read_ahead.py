"""Taking a few items of a stream before they are asked for. Called where batches go to the devices: by the loop and by evaluations."""

import collections
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
  """The items, each given out when the `depth` after it have been taken; copies and computations that making one starts so run ahead.

  No thread: what runs beside the caller are jax's own copies and computations and, on a data set, Grain's threads. What the stream
  raises comes out as it is, up to `depth` items before its turn.
  """
  taken: collections.deque[T] = collections.deque()
  for item in items:
    taken.append(item)
    if len(taken) > depth:
      yield taken.popleft()
  yield from taken
