"""Finds learning rates (`--lr_find`): the search itself, which trains nothing, and the file that keeps what was tried.

Trials are short runs on the first training examples. They are compared by the progressive loss of their last part, never by held-out rows.
`found_rates.py` runs them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig

FILE = "lr_find.json"
STEPS = (4.0, 2.0)  # factors between neighbouring rates: the search goes in steps of the first until it improves no more, then of the next
MAX_TRIALS = 40  # of a search; it ends earlier unless the loss keeps falling


@dataclasses.dataclass(frozen=True)
class Trial:
  """One short run: its learning rates, and the progressive log loss (nats) of its last examples, infinite if it diverged."""

  table_lr: float
  dense_lr: float
  loss: float


@dataclasses.dataclass(frozen=True)
class Found:
  """The result of a search.

  Attributes:
    picked: the trial whose rates are used (`pick`).
    tried: all trials, in order.
    examples: training examples of each trial.
    loss_examples: how many of them, the last ones, the loss is a mean over.
    noise: a standard error of that loss, nats; 0 in results of earlier versions, which always picked the least loss.
  """

  picked: Trial
  tried: tuple[Trial, ...]
  examples: int
  loss_examples: int
  noise: float = 0.0

  def as_json(self) -> dict[str, Any]:
    """For the record of a run at the picked rates."""
    return dataclasses.asdict(self) | {"tried": [dataclasses.asdict(trial) for trial in self.tried]}


@dataclasses.dataclass(frozen=True)
class Kept:
  """What WORKDIR/lr_find.json holds of a search: its trials so far, or its result.

  Attributes:
    tried: the trials that have ended, in order.
    trial_id: names the unfinished search: the `config_id` of a trial at the rates of the flags. None of a result.
    found: the result; None while the search has not ended.
    about: of a result, which runs it is for.
  """

  tried: tuple[Trial, ...]
  trial_id: str | None
  found: Found | None
  about: dict[str, Any]


Losses = Callable[[Sequence[tuple[float, float]]], Iterable[float]]  # of trials with these (table_lr, dense_lr), one after the other


def search(
  losses: Losses, table_lr: float, dense_lr: float, done: Sequence[Trial] = (), keep: Callable[[Sequence[Trial]], None] = lambda tried: None
) -> tuple[Trial, ...]:
  """Trials around a pair of rates, until no neighbour of the best one is better. The best has the least loss; of equals the first.

  The neighbours of a pair have one rate, or both, larger or smaller by a factor of STEPS. So the range grows as long as the best trial is
  at its edge. Where every trial diverges, both rates fall.

  Args:
    losses: trains at some pairs and gives their losses, each as soon as it is known.
    table_lr, dense_lr: where the search begins.
    done: trials of an earlier, unfinished search from the same rates; they are not trained again.
    keep: called with all trials whenever one has ended.

  Returns every trial in order.
  """
  tried: dict[tuple[int, int], Trial] = {}  # by the powers of the smallest factor
  unit, known = min(STEPS), {(trial.table_lr, trial.dense_lr): trial for trial in done}

  def attempt(places: Sequence[tuple[int, int]]) -> None:
    new = [place for place in dict.fromkeys(places) if place not in tried][: MAX_TRIALS - len(tried)]
    rates = {place: (table_lr * unit ** place[0], dense_lr * unit ** place[1]) for place in new}
    tried.update({place: known[pair] for place, pair in rates.items() if pair in known})
    rest = [place for place in new if place not in tried]
    pairs = [rates[place] for place in rest]
    for place, pair, loss in zip(rest, pairs, losses(pairs) if pairs else (), strict=True):
      tried[place] = Trial(*pair, loss if math.isfinite(loss) else math.inf)
      keep(tuple(tried.values()))

  attempt([(0, 0)])
  for factor in STEPS:
    far = round(math.log(factor, unit))
    while len(tried) < MAX_TRIALS:
      a, b = best = _best(tried)
      around = [(a + i * far, b + j * far) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1))]
      attempt([(a - far, b - far)] if math.isinf(tried[best].loss) else around)
      if _best(tried) == best and math.isfinite(tried[best].loss):
        break
  return tuple(tried.values())


def least(tried: Sequence[Trial]) -> Trial:
  """The trial with the least loss; of equals the first."""
  return min(tried, key=lambda trial: trial.loss)


def pick(tried: Sequence[Trial], noise: float) -> Trial:
  """The least loss, or the first trial, which has the rates of the flags, where it is no worse than that by more than `noise`."""
  best = least(tried)
  return tried[0] if tried[0].loss - best.loss <= noise else best


def _best(tried: dict[tuple[int, int], Trial]) -> tuple[int, int]:
  """The place of the least loss; where all diverged, that of the smallest rates."""
  return min(tried, key=lambda place: (tried[place].loss, sum(place) if math.isinf(tried[place].loss) else 0))


def write(workdir: str | Path, found: Found, about: dict[str, Any]) -> None:
  """Keeps a result in WORKDIR; `about` says which runs it is for."""
  record.write_json(Path(workdir) / FILE, record.header() | {"about": about} | found.as_json())


def write_tried(workdir: str | Path, tried: Sequence[Trial], trial_id: str) -> None:
  """Keeps the trials of a search that has not ended (`Kept`), unless another process has ended it."""
  kept = read(workdir)
  if kept is None or kept.found is None:
    trials = [dataclasses.asdict(trial) for trial in tried]
    record.write_json(Path(workdir) / FILE, record.header() | {"trial_id": trial_id, "tried": trials, "picked": None})


def read(workdir: str | Path) -> Kept | None:
  """What WORKDIR keeps of a search; None where there is nothing. Raises UserError where the file is damaged."""
  path = Path(workdir) / FILE
  if not path.exists():
    return None
  kept = record.read_json(path)
  try:
    tried = tuple(_trial(trial) for trial in kept["tried"])
    if kept["picked"] is None:
      return Kept(tried, str(kept["trial_id"]), None, {})
    noise = float(kept.get("noise") or 0.0)
    found = Found(_trial(kept["picked"]), tried, int(kept["examples"]), int(kept["loss_examples"]), noise)
    return Kept(tried, None, found, dict(kept["about"]))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"{path}: not a result of --lr_find ({type(error).__name__}: {error}); remove it") from None


def picked_for(config: RunConfig) -> dict[str, Any] | None:
  """What the record of a run holds of the search that gave it its learning rates; None where they come from flags.

  A sweep may train at multiples of the picked rates.
  """
  kept = read(config.workdir) if config.workdir else None
  if kept is None or kept.found is None:
    return None
  picked, train = kept.found.picked, config.train
  same = math.isclose(train.table_lr * picked.dense_lr, train.dense_lr * picked.table_lr, rel_tol=1e-9)
  return kept.found.as_json() if same else None


def _trial(kept: dict[str, Any]) -> Trial:
  loss = kept["loss"]
  return Trial(float(kept["table_lr"]), float(kept["dense_lr"]), math.inf if loss is None else float(loss))
