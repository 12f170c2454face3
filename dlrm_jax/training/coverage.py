"""Counts the rows of a data set that a run reads and those that it leaves out, for its record and as lines of text.

Called by the loop and by `sweeps`.
"""

import dataclasses
from typing import Any

from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import PreparedSource, Source, resolved
from dlrm_jax.training.eval_plan import early_octaves


@dataclasses.dataclass(frozen=True)
class Coverage:
  """The rows of a data set, and those that a run reads.

  Attributes:
    training_rows: of the data set.
    trained_rows: of an epoch of the run.
    asked: --num_examples as it was given; 0: all.
    order, window, epochs: as in the config.
    held_out_rows: of the split that is evaluated.
    evaluated, early_evaluated: rows that the last evaluation predicts, and each evaluation before it.
  """

  training_rows: int
  trained_rows: int
  asked: int
  order: str
  window: str
  epochs: int
  held_out_rows: int
  evaluated: int
  early_evaluated: int

  def lines(self, flag: str = "num_examples") -> list[str]:
    """What is left out, one line each. `flag`: the flag that gave the number of examples."""
    out, left = [], self.training_rows - self.trained_rows
    of = f"{self.trained_rows:,} of {self.training_rows:,} training rows"
    if self.asked > self.training_rows:
      out.append(f"--{flag}={self.asked}: the data has {self.training_rows:,} training rows; all of them are used")
    elif left and self.window == "recent":
      out.append(f"training on the newest {of}; the oldest {left:,} are left out (--{flag}=all takes all)")
    elif left and self.order == "shuffled":
      out.append(f"training on {of}, drawn from the whole log by --seed; {left:,} are left out (--{flag}=all takes all)")
    elif left:
      out.append(f"training on the oldest {of}; the newest {left:,} are left out (--{flag}=all takes all, --window=recent the newest)")
    if self.epochs > 1:
      repeated = f"{self.epochs} epochs: the rows are repeated after {self.trained_rows:,} examples"
      out.append(f"{repeated}; repeated rows teach less than new ones (Muennighoff et al. 2023), so that later points are no data curve")
    if self.evaluated < self.held_out_rows:
      out.append(f"evaluating the first {self.evaluated:,} of {self.held_out_rows:,} held-out rows (--eval_examples=all takes all)")
    elif self.early_evaluated < self.evaluated:
      every = f"{self.early_evaluated:,} of {self.held_out_rows:,} held-out rows, evenly spread"
      out.append(f"evaluating {every}, and all of them at the end")
    return out

  def as_record(self) -> dict[str, Any]:
    """For record.json."""
    return dataclasses.asdict(self) | {"left_out": self.lines()}


def coverage_of(config: RunConfig, source: Source, asked: int | None = None) -> Coverage | None:
  """The coverage of a run; None on planted data, which have no end.

  Args:
    config: the run; its --num_examples may be all, or above what there is.
    source: its data.
    asked: --num_examples as it was given; None: that of the config.
  """
  if not isinstance(source, PreparedSource):
    return None
  train, held_out = resolved(config, source).train, source.dataset.rows(source.eval_split)
  evaluated = source.num_eval_examples(train.eval_examples)
  return Coverage(
    training_rows=source.dataset.rows("train"),
    trained_rows=train.num_examples,
    asked=config.train.num_examples if asked is None else asked,
    order=train.order,
    window=train.window,
    epochs=train.epochs,
    held_out_rows=held_out,
    evaluated=evaluated,
    early_evaluated=source.num_eval_examples(train.eval_examples, early_octaves(train, evaluated)),
  )
