"""The results of a section: rows that are on disk as soon as they are known, a JSON object a line.

A case that fails has a row with its error, and the next one runs. Called by the sections.
"""

import dataclasses
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure.table import Row
from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say

_LONGEST_ERROR = 600  # characters


@dataclasses.dataclass(frozen=True)
class Rows:
  """Where a section keeps its rows.

  Attributes:
    section: its name, a field of every row.
    path: the file of lines.
    tiny: whether sizes are those of a trial of the program, whose times mean nothing.
  """

  section: str
  path: Path
  tiny: bool = False

  def keep(self, row: Row) -> None:
    """Appends a row."""
    with self.path.open("a", encoding="utf-8") as file:
      file.write(json.dumps(json.loads(record.dumps({"section": self.section} | row))) + "\n")

  def case(self, measure: Callable[[], Row | list[Row]], **about: Any) -> None:
    """Keeps the row or rows that `measure` returns, or its error, each after the fields `about`."""
    say(f"{self.section}: " + ", ".join(f"{name} {value}" for name, value in about.items()))
    start = time.perf_counter()
    try:
      found = measure()
    except Exception as error:
      if not isinstance(error, UserError):
        traceback.print_exc()
      found = {"error": f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]}
    took_s = round(time.perf_counter() - start, 1)
    for row in found if isinstance(found, list) else [found]:
      self.keep(about | row | {"took_s": took_s})


def read(path: Path) -> list[Row]:
  """The rows of a file, without a last line that was not finished."""
  if not path.exists():
    return []
  lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line end is not finished
  return [json.loads(line) for line in lines if line]
