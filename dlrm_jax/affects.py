"""What the fields of a run's config affect. Each field of `config.py` states one kind; every other list of fields follows from it."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

from dlrm_jax.common.flags import option


class Affects(enum.Enum):
  """What a field of a run's config affects. Each field states one of these; every other list of fields is derived from them."""

  NUMBERS = "what is trained"
  SEED = "the random draws of a run"
  RATE = "a learning rate: an argument of the compiled step"
  LENGTH = "how many examples a run trains on"
  EVALUATION = "what is measured on the way"
  PLACEMENT = "which devices do what: numbers change by rounding only"
  DATA = "which examples there are: `config_id` hashes the digest of the data instead"
  EXECUTION = "where and how the program runs"

  def option(self, default: Any, help: str, choices: tuple[str, ...] = (), **bounds: Any) -> Any:  # noqa: A002
    """A field that affects this, and its flag (`flags.option`)."""
    return option(default, help, choices, affects=self, **bounds)


NUMBERS, SEED, RATE, LENGTH, EVALUATION, PLACEMENT, DATA, EXECUTION = Affects
IDENTITY = (NUMBERS, SEED, RATE, LENGTH, EVALUATION, PLACEMENT)  # `config_id` hashes such fields
RESUMABLE = (LENGTH, EVALUATION, PLACEMENT, EXECUTION)  # they may differ between a checkpoint and a run that goes on from it
TOGETHER = (SEED, RATE)  # they may differ between runs that one program trains at once


def fields_of(config: type, affected: Sequence[Affects]) -> list[str]:
  """The names of a config's own fields that affect one of these. Raises TypeError for a field that does not state what it affects."""
  names = []
  for field in dataclasses.fields(config):
    if dataclasses.is_dataclass(field.type):
      continue  # a nested config, whose own fields state it
    if not isinstance(field.metadata.get("affects"), Affects):
      raise TypeError(
        f"{config.__name__}.{field.name} does not state what it affects: declare it with NUMBERS.option(...), or with another of "
        "affects.Affects"
      )
    if field.metadata["affects"] in affected:
      names.append(field.name)
  return names
