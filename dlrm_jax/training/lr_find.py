"""Finds learning rates and how they fall (`--lr_find`, `--decay_examples=found`): the search, which trains nothing, and the file of trials.

Trials are short runs on the same training examples. They are compared on the later half of these, of which each tenth of all is predicted
by the model of the examples before it. Held-out rows are never read. `trials.py` runs them, for `found_rates.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig
from dlrm_jax.training.paired import difference_error

FILE = "lr_find.json"
STEPS = (4.0, 2.0)  # factors between neighbouring rates: the search goes in steps of the first until it improves no more, then of the next
DECAY_STEP = 8.0  # factor between neighbouring values of --decay_examples
LONGEST = 16  # times the examples of a run: the longest decay that is tried, with which rates fall by 3%
MAX_TRIALS = 40  # of a search; it ends earlier unless the loss keeps falling


@dataclasses.dataclass(frozen=True)
class Trial:
  """One short run.

  Attributes:
    table_lr, dense_lr: its learning rates.
    loss: the log loss (nats) that it is compared by, infinite if it diverged.
    decay_examples: how they fall, in examples of the whole run; 0 where the schedule has no such number.
    parts: the loss of each of equal parts of the examples that `loss` is the mean of, in order; empty in results of earlier versions.
  """

  table_lr: float
  dense_lr: float
  loss: float
  decay_examples: int = 0
  parts: tuple[float, ...] = ()

  @property
  def flags(self) -> str:
    """What a person would give to train at these rates."""
    return f"--table_lr={self.table_lr:g} --dense_lr={self.dense_lr:g}" + (
      f" --decay_examples={self.decay_examples}" if self.decay_examples else ""
    )


@dataclasses.dataclass(frozen=True)
class Found:
  """The result of a search.

  Attributes:
    picked: the trial whose rates are used (`pick`).
    tried: all trials, in order.
    examples: training examples of each trial.
    loss_examples: how many of them, the last ones, the loss is a mean over.
    noise: a standard error of the difference between the losses of the picked trial and of the best one, nats (`noise_of`).
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
    trial_id: names the unfinished search: the run's `base_id` at the rates of the flags, and the examples of a trial. None of a result.
    found: the result; None while the search has not ended.
    about: of a result, which runs it is for.
  """

  tried: tuple[Trial, ...]
  trial_id: str | None
  found: Found | None
  about: dict[str, Any]


Rates = tuple[float, float, int]  # (table_lr, dense_lr, decay_examples) of a trial
Parts = Sequence[float]  # the losses of a trial, see `Trial.parts`; not finite if it diverged
Losses = Callable[[Sequence[Rates]], Iterable[Parts]]  # of trials at these rates, one after the other


def search(
  losses: Losses,
  start: Rates,
  longest: float = math.inf,
  find_rates: bool = True,
  done: Sequence[Trial] = (),
  keep: Callable[[Sequence[Trial]], None] = lambda tried: None,
) -> tuple[Trial, ...]:
  """Trials from some rates on, until no neighbour of the best one is better. The best has the least loss; of equals the first.

  First the decay alone is changed, by factors of DECAY_STEP. Then, at the decay that `pick` takes, the neighbours of a pair of rates have
  one of them, or both, larger or smaller by a factor of STEPS. So each range grows as long as the best trial is at its edge. Where every
  trial diverges, both rates fall.

  Args:
    losses: trains at some rates and gives their losses, each as soon as it is known.
    start: where the search begins. A decay of 0 stays.
    longest: no trial has a longer decay, unless `start` has.
    find_rates: whether the rates are changed, too.
    done: trials of an earlier, unfinished search from the same rates; they are not trained again.
    keep: called with all trials whenever one has ended.

  Returns every trial in order.
  """
  tried: dict[tuple[int, int, int], Trial] = {}  # by the powers of the smallest factors
  unit, known = min(STEPS), {(trial.table_lr, trial.dense_lr, trial.decay_examples): trial for trial in done}

  def attempt(places: Sequence[tuple[int, int, int]]) -> None:
    new = [place for place in dict.fromkeys(places) if place not in tried][: MAX_TRIALS - len(tried)]
    rates = {(a, b, c): (start[0] * unit**a, start[1] * unit**b, round(start[2] * DECAY_STEP**c)) for a, b, c in new}
    tried.update({place: known[these] for place, these in rates.items() if these in known})
    rest = [place for place in new if place not in tried]
    todo = [rates[place] for place in rest]
    for place, these, parts in zip(rest, todo, losses(todo) if todo else (), strict=True):
      finite = all(map(math.isfinite, parts))
      loss = math.fsum(parts) / len(parts) if finite else math.inf
      tried[place] = Trial(these[0], these[1], loss, these[2], tuple(parts) if finite else ())
      keep(tuple(tried.values()))

  def improve(around: Callable[[int, int, int], Sequence[tuple[int, int, int]]], lower: int, powers: Collection[int] | None = None) -> None:
    """Tries the neighbours of the best trial until it stays the best, among the trials with these powers of the decay."""

    def best_place() -> tuple[int, int, int]:
      return _best({place: trial for place, trial in tried.items() if powers is None or place[2] in powers})

    while len(tried) < MAX_TRIALS:
      a, b, c = best = best_place()
      diverged = math.isinf(tried[best].loss)
      attempt([(a - lower, b - lower, c)] if diverged else around(a, b, c))
      if best_place() == best and not diverged:
        break

  attempt([(0, 0, 0)])
  far = round(math.log(max(STEPS), unit))
  if start[2]:
    improve(lambda a, b, c: [(a, b, i) for i in (c + 1, c - 1) if 1 <= start[2] * DECAY_STEP**i <= max(longest, start[2])], far)
  decay = pick(tuple(tried.values())).decay_examples
  powers = {place[2] for place, trial in tried.items() if trial.decay_examples == decay}
  for factor in STEPS if find_rates else ():
    far = round(math.log(factor, unit))
    steps = [(i * far, j * far) for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1))]
    improve(lambda a, b, c, steps=steps: [(a + i, b + j, c) for i, j in steps], far, powers)  # type: ignore[misc]
  return tuple(tried.values())


def least(tried: Sequence[Trial]) -> Trial:
  """The trial with the least loss; of equals the first."""
  return min(tried, key=lambda trial: trial.loss)


def noise_of(a: Trial, b: Trial) -> float:
  """A standard error of the difference between the losses of two trials (nats), from their differences part by part.

  Both predict the same examples, so that most of the noise of a loss is in both and cancels. It is 0 where the two have no equal numbers of
  parts, or fewer than two: then every difference counts.
  """
  if len(a.parts) < 2 or len(a.parts) != len(b.parts):
    return 0.0
  return difference_error(*(np.stack([trial.parts, np.ones(len(trial.parts))]) for trial in (a, b)))


def pick(tried: Sequence[Trial]) -> Trial:
  """Of the trials that are no worse than the least loss by more than their `noise_of`, the one whose rates are nearest to the first one's.

  The first trial has the rates of the flags. The nearest changes its rates by the least product of factors; of equals it is the first.
  """
  best = least(tried)
  as_good = [trial for trial in tried if trial == best or trial.loss - best.loss <= noise_of(trial, best)]
  return min(as_good, key=lambda trial: round(_distance(trial, tried[0]), 6))


def _distance(a: Trial, b: Trial) -> float:
  """By how much two trials differ: the sum of the logarithms of the ratios of their rates, a step of the decay counted as one of rates."""
  decays = math.log(a.decay_examples / b.decay_examples, DECAY_STEP) if a.decay_examples and b.decay_examples else 0.0
  return sum(abs(math.log(x / y, max(STEPS))) for x, y in ((a.table_lr, b.table_lr), (a.dense_lr, b.dense_lr))) + abs(decays)


def _best(tried: dict[tuple[int, int, int], Trial]) -> tuple[int, int, int]:
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
  return kept.found.as_json() if same and picked.decay_examples in (0, train.decay_examples) else None


def _trial(kept: dict[str, Any]) -> Trial:
  loss = kept["loss"]
  decay, parts = int(kept.get("decay_examples") or 0), tuple(float(part) for part in kept.get("parts") or ())
  return Trial(float(kept["table_lr"]), float(kept["dense_lr"]), math.inf if loss is None else float(loss), decay, parts)
