"""`Like`: the data set that `prepare --like` names, whose schema, statistics and vocabularies a new log gets."""

import dataclasses
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.data.dataset import read_contents, vocabulary_files
from dlrm_jax.data.prepare import vocabulary
from dlrm_jax.data.prepare.schema import Schema
from dlrm_jax.data.prepare.schema_json import schema_from_json

_COPIED_BYTES = 1 << 24  # at a time


@dataclasses.dataclass(frozen=True)
class Like:
  """A data set that another one is made like.

  Attributes:
    directory: where it is.
    contents: of its dataset.json.
  """

  directory: Path
  contents: dict[str, Any]

  @classmethod
  def open(cls, directory: str) -> "Like":
    """Raises UserError if there is no data set, or one that was prepared before vocabularies were kept."""
    like = cls(Path(directory), read_contents(directory))
    like.vocabularies()
    return like

  def vocabularies(self) -> list[tuple[Path, str]]:
    """`dataset.vocabulary_files` of it."""
    return vocabulary_files(self.directory, self.contents)

  def copy_vocabulary(self, feature: int, path: Path) -> None:
    """Copies the vocabulary of a feature, whole. Raises UserError if it is not the one that dataset.json states."""
    source, content = self.vocabularies()[feature]
    vocabulary.load(source, content)
    with record.written_whole(path) as out, source.open("rb") as file:
      while block := file.read(_COPIED_BYTES):
        out.write(block)

  @property
  def schema(self) -> Schema:
    """Its schema, without the name."""
    return dataclasses.replace(schema_from_json(self.contents["schema"]), name=None)

  @property
  def mode(self) -> str:
    """Its kind of ids, "frequency" or "hash"."""
    return str(self.contents["vocabulary"]["mode"])

  @property
  def min_count(self) -> int:
    """How often a value was seen that has an id, where ids are by frequency."""
    return int(self.contents["vocabulary"]["min_count"] or 1)

  @property
  def entry(self) -> dict[str, str]:
    """Its entry in the dataset.json of the new data set."""
    return {"name": self.contents["name"], "digest": self.contents["digest"]}
