"""The columns of a click log: the label, the dense and the categorical columns, the bags."""

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from dlrm_jax.common.flags import UserError
from dlrm_jax.data import criteo
from dlrm_jax.data.prepare.dense import DenseColumn, refuse_shared_names
from dlrm_jax.data.prepare.label import Label
from dlrm_jax.data.prepare.times import TimeColumn
from dlrm_jax.data.shard_format import lookup_names

MAX_BAG_LENGTH = 1000  # preparing a block of 65,536 rows of such a bag takes 0.5 GB


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
  """A column of values that are looked up in a table: text, integers or booleans. Floats are refused, because they merge large ids.

  Attributes:
    name: the column's name in the log.
    hexadecimal: whether text other than 8 hexadecimal digits is rejected.
  """

  name: str
  hexadecimal: bool = False
  length: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True)
class Bag:
  """Several values that are looked up in one table as one feature. A missing cell is padding; in a categorical column it is a value.

  Attributes:
    name: the feature's name. It keys the hash of every value, so that all cells of the bag share one vocabulary.
    columns: columns of one value each, or a single column of lists.
    list_length: number of values that are kept of each list; None if the columns hold one value each.
  """

  name: str
  columns: tuple[str, ...]
  list_length: int | None = None

  def __post_init__(self) -> None:
    if not self.columns:
      raise UserError(f"bag '{self.name}' is empty: name at least one column")
    _refuse_repeats(self.columns, f"the columns of bag '{self.name}'")
    if not 1 <= self.length <= MAX_BAG_LENGTH:
      raise UserError(f"bag '{self.name}': a length of {self.length} must be from 1 to {MAX_BAG_LENGTH}")

  @property
  def length(self) -> int:
    """The number of ids of the bag, padding included."""
    return len(self.columns) if self.list_length is None else self.list_length

  @property
  def cell(self) -> CategoricalColumn:
    """The column whose rules hash one value of the bag."""
    return CategoricalColumn(self.name)


@dataclasses.dataclass(frozen=True)
class Cross:
  """A feature whose value is the pair of the values of two others. A missing part is a value; if both are missing, the pair is missing.

  Attributes:
    name: the feature's name. It keys the hash of every pair.
    columns: two of the schema's categorical columns and features of time.
  """

  name: str
  columns: tuple[str, ...]

  def __post_init__(self) -> None:
    if len(self.columns) != 2 or self.columns[0] == self.columns[1]:
      raise UserError(f'cross \'{self.name}\' must have two different columns, such as ["user", "hour"]')


@dataclasses.dataclass(frozen=True)
class Schema:
  """The columns of a click log, in the order in which the model sees them.

  Attributes:
    label: the column that holds 0 or 1, or a comparison of a column. None: the file has no label, and a model scores its rows.
    dense: dense columns.
    categorical: categorical columns.
    name: name of the data set, or None.
    header: the names of all columns, in order, if text files have no header line, else None.
    bags: features of several values, the last ones. There is at least one feature.
    time: the column that says when a row happened, or None.
    crosses: features of two columns, which follow the categorical columns and the features of time.
    delimiter: the character between two cells of text files.
    quotes: whether a cell of a text file may stand in double quotes, in which a doubled quote is one quote. If not, a quote is a character
      like others.
    weight: the column of example weights, or None. Rows of weight 0 are left out, except in a log to score.
    null: texts that mean a missing value, besides the empty one. A cell is compared after its quotes are removed.
  """

  label: Label | None
  dense: tuple[DenseColumn, ...]
  categorical: tuple[CategoricalColumn, ...]
  name: str | None = None
  header: tuple[str, ...] | None = None
  bags: tuple[Bag, ...] = ()
  time: TimeColumn | None = None
  crosses: tuple[Cross, ...] = ()
  delimiter: str = ","
  quotes: bool = True
  null: tuple[str, ...] = ()
  weight: str | None = None

  def __post_init__(self) -> None:
    if not self.features and not self.binned:
      raise UserError("a schema needs at least one categorical column or bag, or a dense column with bins")
    _refuse_repeats(self.dense_names, "a schema's dense columns")
    refuse_shared_names(self.dense)
    _refuse_repeats(self.categorical_names, "a schema's categorical columns")
    _refuse_repeats((feature.name for feature in self.features), "a schema's hour, weekday, crosses, categorical columns and bags")
    bins = [column.bins_name for column in self.binned]
    _refuse_repeats([*(feature.name for feature in self.features), *bins], "a schema's features, those of bins included,")
    _refuse_repeats([*self.lookup_names, *bins], "the names of a schema's ids")
    for cross in self.crosses:
      for name in cross.columns:
        if name not in (*self.categorical_names, *self.time_features):
          raise UserError(f"cross '{cross.name}': '{name}' must be a categorical column, or hour or weekday among the features of [time]")
    time_column = () if self.time is None else (self.time.column,)
    roles = {"dense": self.dense_names, "categorical": self.categorical_names, "bag": self.bag_columns, "time": time_column}
    for kind, names in roles.items():
      if self.label is not None and self.label.column in names:
        raise UserError(f"the label column '{self.label.column}' cannot be a {kind} column too")
    is_label = self.label is not None and self.weight == self.label.column
    if is_label or self.weight in self.list_columns:
      raise UserError(f"column '{self.weight}' cannot be the weight and {'the label' if is_label else 'a list'} too")
    if len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter.isalnum() or self.delimiter in '"\r\n\0':
      raise UserError(f"delimiter = {self.delimiter!r} must be one ASCII character, but no letter, digit, quote or line break")
    if self.header is not None:
      _refuse_repeats(self.header, "the columns of header")
      absent = [name for name in self.columns if name not in self.header]
      if absent:
        raise UserError(f"header has no column '{absent[0]}', which the schema names; it has {', '.join(self.header)}")
    of_one_value = {
      *self.dense_names,
      *self.categorical_names,
      *time_column,
      *(c for bag in self.bags if bag.list_length is None for c in bag.columns),
    }
    both = [name for name in self.list_columns if name in of_one_value]
    if both:
      raise UserError(f"column '{both[0]}' cannot hold lists in one place and single values in another")

  @property
  def strict(self) -> bool:
    """Whether the log is Criteo's, in which every cell must be an integer or hexadecimal digits."""
    return any(column.hexadecimal for column in self.categorical)

  @property
  def scored(self) -> bool:
    """Whether a model scores the rows. Then all of them are kept, also those without a label and those of weight 0."""
    return self.label is None or self.label.optional

  @property
  def dense_names(self) -> tuple[str, ...]:
    return tuple(column.name for column in self.dense)

  @property
  def categorical_names(self) -> tuple[str, ...]:
    return tuple(column.name for column in self.categorical)

  @property
  def time_features(self) -> tuple[str, ...]:
    """The features that the time column gives."""
    return () if self.time is None else self.time.features

  @property
  def binned(self) -> tuple[DenseColumn, ...]:
    """The dense columns whose bins are categorical features too. These follow `features` in a batch."""
    return tuple(column for column in self.dense if column.num_bins)

  @property
  def features(self) -> tuple[CategoricalColumn | Bag, ...]:
    """The categorical features with a vocabulary, in the order of a batch. Those that are computed are hashed as if they were columns."""
    computed = (CategoricalColumn(name) for name in (*self.time_features, *(cross.name for cross in self.crosses)))
    return (*self.categorical, *computed, *self.bags)

  @property
  def lookups(self) -> tuple[CategoricalColumn | Bag, ...]:
    """The feature of each of the L ids of a row."""
    return tuple(feature for feature in self.features for _ in range(feature.length))

  @property
  def lookup_names(self) -> tuple[str, ...]:
    """The names of the L ids of a row."""
    return lookup_names([feature.name for feature in self.features], [feature.length for feature in self.features])

  @property
  def bag_columns(self) -> tuple[str, ...]:
    return tuple(name for bag in self.bags for name in bag.columns)

  @property
  def list_columns(self) -> tuple[str, ...]:
    return tuple(name for bag in self.bags if bag.list_length is not None for name in bag.columns)

  @property
  def columns(self) -> tuple[str, ...]:
    """Every column that is read, once each."""
    label = () if self.label is None else (self.label.column,)
    weight, time = () if self.weight is None else (self.weight,), () if self.time is None else (self.time.column,)
    return tuple(dict.fromkeys((*label, *weight, *self.dense_names, *self.categorical_names, *self.bag_columns, *time)))

  def check_present(self, present: Iterable[str], path: str) -> None:
    """Raises UserError unless the columns of the file at `path` are distinct and include those of the schema."""
    present = list(present)
    _refuse_repeats(present, f"{path}: the header's columns")
    absent = [name for name in self.columns if name not in present]
    if absent:
      only_label = self.label is not None and absent == [self.label.column]
      hint = "; rows without their label can be scored alone (dlrm_jax.predict)" if only_label else ""
      raise UserError(f"{path}: no column '{absent[0]}', which the schema names; the file has {', '.join(present)}{hint}")


def _refuse_repeats(names: Iterable[str], what: str) -> None:
  names = list(names)
  repeated = [name for name in names if names.count(name) > 1]
  if repeated:
    raise UserError(f"{what} must differ: '{repeated[0]}' is there twice")


# The columns of Criteo's logs. Negative and missing integers become 0, as log(x + 1) after clipping at 0 does in the MLPerf reference.
CRITEO = Schema(
  label=Label("label"),
  dense=tuple(DenseColumn(name, transform="log1p", missing=0.0, integer=True) for name in criteo.DENSE_NAMES),
  categorical=tuple(CategoricalColumn(name, hexadecimal=True) for name in criteo.CATEGORICAL_NAMES),
  header=("label", *criteo.DENSE_NAMES, *criteo.CATEGORICAL_NAMES),
  delimiter="\t",
  quotes=False,
)
