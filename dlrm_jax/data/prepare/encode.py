"""`Ids` turns the values of features into ids, for shards (`shards.py`) and for files that a model scores."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, UInt64

from dlrm_jax.data.prepare import distinct, vocabulary
from dlrm_jax.data.prepare.parts import hash_values, missing_hash
from dlrm_jax.data.prepare.schema import Bag, CategoricalColumn
from dlrm_jax.data.shard_format import PADDING


@dataclasses.dataclass(frozen=True)
class Ids:
  """The ids of a data set's features.

  Attributes:
    features: the features, in order.
    lookups: for each of them, a function from hashes to ids.
  """

  features: tuple[CategoricalColumn | Bag, ...]
  lookups: tuple[Callable[[UInt64[np.ndarray, " d"]], Int32[np.ndarray, " d"]], ...]

  @classmethod
  def of(cls, features: Sequence[CategoricalColumn | Bag], vocabularies: Sequence[vocabulary.Vocabulary] | None) -> "Ids":
    """The ids by these vocabularies, one a feature; None: by hash."""
    if vocabularies is None:
      return cls(tuple(features), (vocabulary.hash_ids,) * len(features))
    return cls(tuple(features), tuple(known.lookup for _, known in zip(features, vocabularies, strict=True)))

  def of_hashes(self, feature: int, hash_d: UInt64[np.ndarray, " d"]) -> Int32[np.ndarray, " d"]:
    """The ids of values by their hashes: 0 for a value that has none, `PADDING` for a missing value of a bag."""
    of, id_d = self.features[feature], self.lookups[feature](hash_d)
    return np.where(hash_d == missing_hash(of), np.int32(PADDING), id_d) if isinstance(of, Bag) else id_d

  def of_cells(self, cells: Sequence[pa.Array]) -> Int32[np.ndarray, "n L"]:
    """The ids of rows, from one column of cells for each id of a row (`parse.Rows.cells`)."""
    ids_nl = np.empty((len(cells[0]), len(cells)), np.int32)
    first = 0
    for position, feature in enumerate(self.features):
      columns = cells[first : first + feature.length]
      number_n, values, _ = distinct.number(columns)
      hash_d = hash_values(feature, values)
      order_d = np.argsort(hash_d)  # a search for ascending hashes is fastest
      id_d = np.empty(len(order_d), np.int32)
      id_d[order_d] = self.of_hashes(position, hash_d[order_d])
      ids_nl[:, first : first + feature.length] = id_d.take(number_n).reshape(feature.length, -1).T
      first += feature.length
    return ids_nl
