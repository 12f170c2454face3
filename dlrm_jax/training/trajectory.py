"""`Trajectory`: what one run has done so far, its curve and its record. The loop has one for each run that it trains.

It computes nothing on devices: the loop reports to it what was trained on and what was measured.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlrm_jax.common import record
from dlrm_jax.config import RunConfig
from dlrm_jax.data.planted.theory import ideal, theory
from dlrm_jax.data.source import Source, examples_before, seen_digest
from dlrm_jax.identity import config_id
from dlrm_jax.machine import hardware
from dlrm_jax.training import lr_find, metrics
from dlrm_jax.training.alarms import EARLY, Alarm, alarms_of, as_json
from dlrm_jax.training.baselines import Logistic
from dlrm_jax.training.coverage import coverage_of
from dlrm_jax.training.eval_plan import points_of
from dlrm_jax.training.evaluation import Progressive
from dlrm_jax.training.loggers import Loggers
from dlrm_jax.training.paired import LossSums, difference_error
from dlrm_jax.training.run_facts import describe, earlier_of, place_of, stream_of, weighting_of

METRICS = (*metrics.NAMES, *Progressive.FIELDS)
_CHECK_EVERY = 512  # steps between looks at the loss when no evaluation is due

OnProgress = Callable[[int, float], None]  # (examples, mean training log loss since the last look)


class Trajectory:
  """One run from its first example, or from where it goes on, to its record.

  Attributes:
    config, source, directory: the run, its data, and where curve.jsonl and record.json go.
    id: its config_id.
    examples: trained on so far.
    rows: of the curve so far.
    progressive: the losses of examples before they were trained on.
    diverged: the metric that was not finite, or "".
    baseline: a logistic regression on the same examples (`baselines.py`).
    tell: called with each alarm that is raised before the end, once.
  """

  def __init__(
    self,
    config: RunConfig,
    source: Source,
    directory: str | Path,
    num_eval_examples: int,
    on_progress: OnProgress | None = None,
    asked: int | None = None,
  ):
    self.config, self.source, self.directory = config, source, Path(directory)
    self.id, self.examples, self.diverged = config_id(config, seen_digest(source)), 0, ""
    self.rows: list[dict[str, Any]] = []
    self.progressive = Progressive(source.base_rate())
    self._num_eval_examples, self._on_progress, self._asked = num_eval_examples, on_progress, asked
    self._loggers = Loggers(config.log_to)
    self.baseline = Logistic()
    self._lowest, self._lowest_sums = math.inf, LossSums().sums  # of the best evaluation so far
    self.tell: Callable[[Alarm], None] = lambda alarm: None
    self._told: set[str] = set()
    self._first = self._first_step = 0  # example and step that this run began with: not 0 where it branched off another run
    self._bad_step, self._loss = -1, math.nan
    self._points: list[int] = []
    self._wall_s = self._training_s = 0.0  # of earlier processes; training also of this one until the last pause
    self._started = 0.0
    self._resumed: float | None = None

  def resume(self, facts: dict[str, Any]) -> None:
    """Goes on where `facts()` was taken: the same run, with the same bits from there. Call it before `start`."""
    self.examples, self._first, self.rows = facts["examples"], facts["first_example"], facts["rows"]
    self._first_step = facts.get("first_step", self._whole_steps(self._first))
    self.progressive.resume(facts["progressive"])
    self._wall_s, self._training_s = facts["wall_s"], facts["training_s"]
    if lowest := facts.get("lowest"):  # checkpoints of earlier versions have none
      self._lowest, self._lowest_sums = lowest["log_loss"], np.array(lowest["sums"])

  def branch(self, facts: dict[str, Any]) -> None:
    """Goes on from another run: its examples count as seen, its curve and times do not. Call it before `start`."""
    self.examples = self._first = facts["examples"]
    self._first_step = facts.get("steps", self._whole_steps(self._first))
    if self.examples == examples_before(self.source):
      self.progressive.begin(self.examples)
    else:
      self.progressive.branch(facts["progressive"])

  def start(self) -> None:
    """Makes the directory, with the curve so far, and starts the clocks. Raises OSError where it cannot be written."""
    self._points = points_of(self.config.train, self._first, examples_before(self.source))
    self._write_curve()
    if jax.process_index() == 0:
      self._loggers.open(self.directory, self.examples, describe(self.config, self.source))
    self._started = self._resumed = time.perf_counter()

  @property
  def total_examples(self) -> int:
    """Examples at the end of the run, with those of other data that the model had seen before."""
    return examples_before(self.source) + self.config.train.total_examples

  @property
  def _epochs(self) -> float:
    """Passes over this data so far."""
    return (self.examples - examples_before(self.source)) / self.config.train.num_examples

  @property
  def steps(self) -> int:
    """Steps taken so far, with those of the run that this one branched off; the last batch of a run may be short."""
    return self._steps_at(self.examples)

  def _steps_at(self, examples: int) -> int:
    return self._first_step + self._whole_steps(examples - self._first)

  def _whole_steps(self, examples: int) -> int:
    return -(-examples // self.config.train.batch_size)

  @property
  def steps_to_call(self) -> int:
    """Batches of the next call of the compiled program. It never goes past the next look at the loss.

    It follows from the step count alone, so that a save or a resume on the way changes no look.
    """
    point = self._points[len(self.rows)]
    to_point = self._steps_at(point) - self.steps
    return min(self.config.steps_per_call, to_point, _CHECK_EVERY - self.steps % _CHECK_EVERY)

  @property
  def looking(self) -> bool:
    """Whether the loss is to be read after these examples."""
    return self.due or self.steps % _CHECK_EVERY == 0

  @property
  def due(self) -> bool:
    """Whether an evaluation after these examples is outstanding."""
    return len(self.rows) < len(self._points) and self.examples == self._points[len(self.rows)]

  @property
  def ended(self) -> bool:
    """Whether there is nothing more to train on or to evaluate."""
    return bool(self.diverged) or len(self.rows) == len(self._points)

  def advance(self, batches: int) -> None:
    """Counts so many more batches as trained on."""
    self.examples = min(self.examples + batches * self.config.train.batch_size, self.total_examples)

  def look(self, loss: float, bad_step: int, weight: float = math.nan) -> None:
    """Takes the losses since the last look.

    Args:
      loss: the mean training log loss, nats.
      bad_step: the first step whose loss was not finite, or -1.
      weight: the sum of the examples' weights; used only where examples do not count alike.
    """
    shape = self.source.shape
    alike = shape.weight_column is None and shape.negatives_kept == 1  # then the float32 sum of weights need not be exact
    self.progressive.add(loss, self.examples, None if alike else weight)
    self._loss = loss
    self._loggers.log(self.examples, {"train/log_loss": loss})
    if bad_step >= 0:
      self.diverged, self._bad_step = "train log_loss", bad_step
      self.pause()
    self.confirm()

  def confirm(self) -> None:
    """Calls `on_progress`: at every look, and before the curve, a checkpoint or the record is written."""
    if self._on_progress is not None:
      self._on_progress(self.examples, self._loss)

  def pause(self) -> None:
    """Stops the clock of training. The devices must have finished."""
    if self._resumed is not None:
      self._training_s += time.perf_counter() - self._resumed
    self._resumed = None

  def go_on(self) -> None:
    """Starts the clock of training again, after a `pause`."""
    self._resumed = time.perf_counter()

  def evaluated(self, measured: metrics.Metrics, common: metrics.Metrics | None = None, examples: int | None = None) -> None:
    """Adds a row to the curve, on disk too, and goes on.

    Args:
      measured: metrics of the examples of this evaluation.
      common: those of the examples that all evaluations of the run predict; None: they are the same.
      examples: how many this evaluation predicted; None: as many as the last one does.
    """
    common = common or measured
    if self._num_eval_examples and not math.isfinite(measured.log_loss):
      self.diverged, self._bad_step = "eval log_loss", self.steps - 1
      return
    row = {"examples": self.examples} | measured.row()
    row |= {"excess_ideal": ideal(self.config, self.source, self.examples)} | self.progressive.row()
    row |= {"epochs": self._epochs, "eval_examples": examples or self._num_eval_examples}
    row |= {"common_log_loss": common.log_loss, "common_ne": common.ne}
    row |= {"rise_error": difference_error(self._lowest_sums, common.losses)}
    row |= {"logistic_error": difference_error(self.baseline.losses, measured.losses)}
    if common.losses is not None and 0 < common.log_loss < self._lowest:
      self._lowest, self._lowest_sums = common.log_loss, common.losses
    self.confirm()
    self.rows.append(row | {"wall_s": self._elapsed()})
    if jax.process_index() == 0:
      with open(self.directory / "curve.jsonl", "a") as file:
        file.write(record.dumps(self.rows[-1], indent=None) + "\n")
        file.flush()
        os.fsync(file.fileno())
    self._loggers.log(self.examples, {f"curve/{name}": value for name, value in self.rows[-1].items() if name != "examples"})
    for alarm in alarms_of(self._alarm_facts(), self.rows):
      if alarm.code in EARLY and alarm.code not in self._told:
        self._told.add(alarm.code)
        self.tell(alarm)
    self.go_on()

  def facts(self) -> dict[str, Any]:
    """What a checkpoint keeps of the run, besides the state: all that `resume` and `branch` need."""
    return (
      stream_of(self.config, self.source)
      | place_of(self.source)
      | {
        "config_id": self.id,
        "examples": self.examples,
        "first_example": self._first,
        "first_step": self._first_step,
        "steps": self.steps,
        "num_examples": self.config.train.num_examples,
        "earlier_data": earlier_of(self.source),
        "progressive": self.progressive.facts(),
        "rows": list(self.rows),
        "lowest": {"log_loss": self._lowest, "sums": self._lowest_sums.tolist()} if math.isfinite(self._lowest) else None,
        "wall_s": self._elapsed(),
        "training_s": self._training_s,
      }
    )

  def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes the record and returns it; `facts` are those of the learner."""
    status = (
      {"status": "diverged", "diverged_metric": self.diverged, "diverged_step": self._bad_step} if self.diverged else {"status": "done"}
    )
    last = self.rows[-1] if self.rows and not self.diverged else dict.fromkeys(METRICS)
    out = hardware.header() | status | facts
    if facts["flops_per_example"]:
      out["flops_total"] = facts["flops_per_example"]["total"] * self.examples
    out |= {
      "config_id": self.id,
      "config": describe(self.config, self.source),
      "examples": self.examples,
      **self._alarm_facts(),
      "epochs": self._epochs,
      "coverage": coverage.as_record() if (coverage := coverage_of(self.config, self.source, self._asked)) else None,
      "evaluated_examples": self._evaluated_examples(),
      "seed": self.config.train.seed,
      **{name: last[name] for name in METRICS},
      "base_rate_ne": self._ne(last["base_rate_log_loss"]),
      **self.baseline.fields,
      "logistic_error": last.get("logistic_error"),
      "lr_find": lr_find.picked_for(self.config),
      "wall_s": self._elapsed(),
      "training_s": self._training_s,
      "examples_per_s": (self.examples - self._first) / self._training_s if self._training_s else math.nan,
      "theory": theory(self.config, self.source),
    }
    out["alarms"] = as_json(alarms_of(out, self.rows))
    self._write_curve()  # whole again, whoever else may have written to it
    if jax.process_index() == 0:
      record.write_json(self.directory / "record.json", out)
    self._loggers.close()
    return out

  def _evaluated_examples(self) -> int:
    """How many examples all evaluations of the run predicted; the last one may have predicted those of the others apart."""
    counts = [row.get("eval_examples", self._num_eval_examples) for row in self.rows]
    return sum(counts) + (counts[0] if counts and counts[0] < counts[-1] else 0)

  def _alarm_facts(self) -> dict[str, Any]:
    """Fields of the record that do not change during a run; alarms depend on them."""
    return {
      "restored_examples": self._first,  # trained on by the run whose checkpoint this one went on from; times are without them
      "base_rate": self.source.base_rate(),
      **weighting_of(self.source),
      "eval_examples": self._num_eval_examples,
    }

  def _ne(self, log_loss: float | None) -> float | None:
    return None if log_loss is None else log_loss / metrics.entropy(self.source.base_rate())

  def _write_curve(self) -> None:
    if jax.process_index() == 0:
      record.write_text(self.directory / "curve.jsonl", "".join(record.dumps(row, indent=None) + "\n" for row in self.rows))

  def _elapsed(self) -> float:
    return self._wall_s + time.perf_counter() - self._started
