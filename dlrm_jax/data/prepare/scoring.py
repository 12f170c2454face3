"""Reads files of a log as a data set's own rows were read: its schema, statistics and vocabularies turn each line into inputs of a model.

`predict` uses it. A file is read by the code that prepares logs (`rows.read_piece`), chunk by chunk in bounded memory. Its label may be
absent, or missing in some rows. Rows of weight 0 are scored too.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from dlrm_jax.data.dataset import vocabulary_files
from dlrm_jax.data.prepare import delimited, read, vocabulary
from dlrm_jax.data.prepare.encode import Ids
from dlrm_jax.data.prepare.parse import NO_LABEL, Rows
from dlrm_jax.data.prepare.rejects import Tally
from dlrm_jax.data.prepare.rows import Read, read_piece
from dlrm_jax.data.prepare.schema import Bag, CategoricalColumn, Schema
from dlrm_jax.data.prepare.schema_json import schema_from_json
from dlrm_jax.data.prepare.weights import has_weights
from dlrm_jax.data.shard_format import PADDING, lookup_names
from dlrm_jax.data.transform import Bins, Input, bins_of, inputs_of


@dataclasses.dataclass(frozen=True)
class Examples:
  """The accepted rows of some consecutive lines, as a batch takes them.

  Attributes:
    file: index of their file.
    line_n: the line of each row in it; the first line is 1.
    label_n: 0, 1 or NO_LABEL.
    labelled_n: whether the row has a label.
    dense_nm, ids_nl: the inputs.
    bag_weight_nl: 0 for the empty places of bags; None if the data set has no bags.
    weight_n: how much each row counts in metrics, from 0 on; None if the data set has no weights.
    values_f, unknown_f: of each feature with a vocabulary, how many values there are, and how many of them have no id of their own,
      because they were unseen or rare in training.
  """

  file: int
  line_n: Int64[np.ndarray, " n"]
  label_n: UInt8[np.ndarray, " n"]
  labelled_n: Bool[np.ndarray, " n"]
  dense_nm: Float32[np.ndarray, "n M"]
  ids_nl: Int32[np.ndarray, "n L"]
  bag_weight_nl: Float32[np.ndarray, "n L"] | None
  weight_n: Float32[np.ndarray, " n"] | None
  values_f: Int64[np.ndarray, " f"]
  unknown_f: Int64[np.ndarray, " f"]

  def __len__(self) -> int:
    return len(self.line_n)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """How a data set's rows became inputs.

  Attributes:
    schema: its columns.
    vocabularies: of its features, in order; None if ids are hashes.
    features: the features whose ids are looked up in a vocabulary.
    inputs: the dense inputs.
    bins: the features of bins, which follow.
    weighted: whether batches have bag weights.
  """

  schema: Schema
  vocabularies: tuple[vocabulary.Vocabulary, ...] | None
  features: tuple[CategoricalColumn | Bag, ...]
  inputs: tuple[Input, ...]
  bins: tuple[Bins, ...]
  weighted: bool

  @classmethod
  def of(cls, directory: Path, contents: dict[str, Any], num_tables: int = 0) -> "Encoder":
    """The encoder of the data set in `directory`, for its first `num_tables` features (0: all). `contents` is its dataset.json.

    Raises UserError if it was prepared before vocabularies were kept, or if one of them is not as dataset.json states.
    """
    schema = schema_from_json(contents["schema"])
    if not schema.time_features:
      schema = dataclasses.replace(schema, time=None)  # files to score keep their order
    features = schema.features[: num_tables or None]
    known = None
    if contents["vocabulary"]["mode"] != "hash":
      known = tuple(vocabulary.load(path, content) for _, (path, content) in zip(features, vocabulary_files(directory, contents)))
    weighted = any("bag_length" in column for column in contents["columns"]["categorical"])
    bins = bins_of(contents)[: max(num_tables - len(features), 0) if num_tables else None]
    return cls(schema, known, features, inputs_of(contents), bins, weighted)

  @functools.cached_property
  def _ids(self) -> Ids:
    return Ids.of(self.features, self.vocabularies)

  @property
  def lookup_names(self) -> tuple[str, ...]:
    """The names of the L ids of a row."""
    names = lookup_names([feature.name for feature in self.features], [feature.length for feature in self.features])
    return (*names, *(bins.name for bins in self.bins))

  def examples(self, file: int, rows: Rows) -> Examples:
    """The inputs of accepted rows of a file."""
    numbers, num_rows = dict(zip(self.schema.dense_names, rows.dense, strict=True)), len(rows.line_n)
    dense_nm = np.empty((num_rows, len(self.inputs)), np.float32)
    for i, one in enumerate(self.inputs):
      dense_nm[:, i] = one.apply(numbers[one.column])
    num_looked_up = sum(feature.length for feature in self.features)
    ids_nl = np.empty((num_rows, num_looked_up + len(self.bins)), np.int32)
    if num_looked_up:
      ids_nl[:, :num_looked_up] = self._ids.of_cells(rows.cells[:num_looked_up])
    for i, bins in enumerate(self.bins):
      ids_nl[:, num_looked_up + i] = bins.ids(numbers[bins.column])
    bag_weights = (ids_nl != PADDING).astype(np.float32) if self.weighted else None
    ones_n = np.ones(num_rows, np.float32)  # of a file without the column of weights
    weights = None if self.schema.weight is None else ones_n if rows.weight_n is None else rows.weight_n
    bounds = np.cumsum([0, *(feature.length for feature in self.features)])[: -1 if self.vocabularies else 0]
    values_f, unknown_f = (
      np.add.reduceat(np.count_nonzero(x, axis=0), bounds) if len(bounds) else np.zeros(0, np.int64)
      for x in (ids_nl[:, :num_looked_up] != PADDING, ids_nl[:, :num_looked_up] == 0)
    )
    known_n = rows.label_n != NO_LABEL
    return Examples(file, rows.line_n, rows.label_n, known_n, dense_nm, np.maximum(ids_nl, 0), bag_weights, weights, values_f, unknown_f)


@dataclasses.dataclass(frozen=True)
class ScoredFile:
  """A file to score: how it is read, and its columns, without a label or a weight if the file has none.

  `weighted` is None if the file has no rows.
  """

  path: Path
  format: str
  schema: Schema
  size: int
  weighted: bool | None

  @property
  def labelled(self) -> bool:
    """Whether the file has the column of the label."""
    return self.schema.label is not None


def scored_file(path: Path, log_format: str | None, schema: Schema) -> ScoredFile:
  """How a file is read. Raises UserError if a column other than the label's or weight's is missing, or if it is no file of its format.

  Args:
    path: the file.
    log_format: as of `prepare`; None: by the ending of its name and the data set's schema.
    schema: that of the data set.
  """
  if log_format is None:
    name = path.name.removesuffix(".gz")
    log_format = "parquet" if name.endswith((".parquet", ".pq")) else "criteo_tsv" if schema.strict else "csv"
  label = schema.label
  assert label is not None
  wanted, without = (dataclasses.replace(schema, label=one) for one in (dataclasses.replace(label, optional=True), None))
  header = schema.header
  if log_format == "parquet":
    kind = read.parquet_types(path).get(label.column)
    has = kind is not None and not pa.types.is_null(kind)
  elif header is None:
    has = label.column in (delimited.header_of(path, dataclasses.replace(without, weight=None)) or ())
  else:
    has = label.column not in header or delimited.first_cells(path, schema) != len(header) - 1
    if not has:  # the columns but the label
      log_format, without = "csv", dataclasses.replace(without, header=tuple(name for name in header if name != label.column))
  weighted = has_weights(path, log_format, without)
  of_file = wanted if has else without
  return ScoredFile(path, log_format, of_file if weighted else dataclasses.replace(of_file, weight=None), path.stat().st_size, weighted)


def read_examples(
  files: Sequence[ScoredFile], encoder: Encoder, tallies: Sequence[Tally], on_bytes: Callable[[int], None]
) -> Iterator[Examples]:
  """The accepted rows of files, in order. The tally of each file counts its lines. Raises UserError naming a file that cannot be used."""
  for number, (file, tally) in enumerate(zip(files, tallies, strict=True)):
    (piece,) = read.pieces_of(number, file.path, file.format, max(file.size, 1))
    for one in read_piece(file.path, piece, file.format, file.schema, on_bytes):
      if not isinstance(one, Read):
        continue
      tally.add(one.rejects, len(one.rows.label_n))
      tally.refuse_hopeless(file.path, 0)
      if len(one.rows.label_n):
        yield encoder.examples(number, one.rows)
