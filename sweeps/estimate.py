"""Estimates how long the runs of a sweep take: from a few timed steps of some of its models, or from its finished runs.

A run takes `start + steps * step + evaluated examples * e`. The seconds of a step are a sum of a constant, the examples of
a device, their FLOPs and the table bytes that they move, each times a number found by non-negative least squares on relative errors.
Called by `plan` and `run`.
"""

import concurrent.futures
import dataclasses
import itertools
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from scipy import optimize

from dlrm_jax.affects import LENGTH, TOGETHER
from dlrm_jax.common.progress import say
from dlrm_jax.common.tasks import end_with
from dlrm_jax.config import RunConfig
from dlrm_jax.data.source import Source
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.identity import alike
from dlrm_jax.machine import hardware
from dlrm_jax.model.flops import Cost, cost
from dlrm_jax.training.eval_plan import eval_points, evaluated_examples
from dlrm_jax.training.evaluation import EvalSet, evaluate
from dlrm_jax.training.learner import make_learner
from sweeps.points import Point, Run
from sweeps.states import duration

_MEASURED_S, _MEASURED_CALLS = 0.5, 4  # a model is timed until both have passed
_EVALUATED = 4  # batches of the timed evaluation
_FLOPS_A_BYTE = 8.0  # about what a processor computes while a byte comes from memory: to order models by their step alone


@dataclasses.dataclass(frozen=True)
class Sample:
  """The times of one configuration.

  Attributes:
    learner: as in its config.
    work: what its step does (`work_of`).
    step_s: seconds of a training step.
    evaluation: seconds of an evaluated example over those of a trained one.
    start_s: seconds to start: until the first step and the first evaluation are over, less their later times; NaN where it is not known.
  """

  learner: str
  work: Float[np.ndarray, " 4"]
  step_s: float
  evaluation: float
  start_s: float


def point_cost(point: Point, source: Source) -> Cost | None:
  """Params, FLOPs and bytes of a point; None for the per-id estimator, which has no such structure."""
  if point.learner != "dlrm":
    return None
  return cost(point.config.model, point.config.train, make_layout(point.config.model, source.shape), source.shape.num_dense)


def work_of(point: Point, source: Source) -> Float[np.ndarray, " 4"]:
  """The work of a step: 1, and of each device the examples, FLOPs and table bytes moved."""
  counted, examples = point_cost(point, source), point.config.train.batch_size / point.config.mesh.num_devices
  each = (counted.flops_per_example["total"], counted.bytes["tables_moved_per_example"]) if counted else (0, 0)
  return np.array([1.0, examples, examples * each[0], examples * each[1]])


@dataclasses.dataclass(frozen=True)
class Speed:
  """Seconds of runs, from samples of the same sweep on the same machine.

  Attributes:
    samples: what was measured.
    basis: how they were obtained, for people.
  """

  samples: tuple[Sample, ...]
  basis: str

  def seconds(self, point: Point, source: Source) -> float:
    """Seconds of one run, without the time to compile its programs."""
    train = point.config.train
    step_s = self._step_s(point.learner, work_of(point, source))
    evaluation = statistics.median(s.evaluation for s in self._of(point.learner))
    evaluated = evaluated_examples(train, source.num_eval_examples(train.eval_examples))
    return step_s / train.batch_size * (train.total_examples + evaluation * evaluated)

  def total_s(self, todo: Sequence[Run], workers: int = 1) -> float:
    """Seconds of all runs by so many workers: each shape of model is compiled once, and no run is divided."""
    each = [self.seconds(point, source) for point, source in todo]
    starts = [s.start_s for s in self.samples if math.isfinite(s.start_s)]
    shapes = {_shape(point.config) for point, _ in todo}
    return max([*each, (sum(each) + len(shapes) * (statistics.median(starts) if starts else 0.0)) / workers])

  def total_line(self, todo: Sequence[Run], workers: int = 1) -> str:
    """The total for people, such as `about 12 min with 2 workers (3 models measured)`."""
    if not todo:
      return "nothing to do"
    return f"about {duration(self.total_s(todo, workers))}{f' with {workers} workers' if workers > 1 else ''} ({self.basis})"

  def _of(self, learner: str) -> list[Sample]:
    """The samples of a learner, or all samples where it has none."""
    return [s for s in self.samples if s.learner == learner] or list(self.samples)

  def _step_s(self, learner: str, work: Float[np.ndarray, " 4"]) -> float:
    samples = self._of(learner)
    works = np.array([s.work / s.step_s for s in samples])
    scale = works.max(axis=0)
    scale[scale == 0] = 1.0
    return float(work @ (optimize.nnls(works / scale, np.ones(len(samples)))[0] / scale))


def speed_of(
  todo: Sequence[Run], records: dict[str, dict[str, Any]], measure: bool, apart: int = 0, cache: Path | None = None
) -> Speed | None:
  """The speed to expect: from finished runs where they are of these learners, else measured, else None.

  Args:
    todo: the runs, one a config_id.
    records: of runs of the sweep, by config_id; those of other sweeps, and failed ones, are left out.
    measure: whether a device may be used.
    apart: 0: measure in this process, whose programs the sweep then uses again; n: in a process of its own with n cores, so that this
      one holds no accelerator.
    cache: directory of compiled programs for that process, as `hardware.share_compiled` takes it.
  """
  finished = [sample for entry in records.values() if (sample := _from_record(entry)) is not None]
  if finished and {p.learner for p, _ in todo} <= {s.learner for s in finished}:
    return Speed(tuple(finished), f"by {len(finished)} finished runs")
  if not measure or not todo:
    return None
  samples = measured(todo) if apart == 0 else _measured_apart(todo, apart, cache)
  return Speed(samples, f"{len(samples)} models measured") if samples else None


def _from_record(entry: dict[str, Any]) -> Sample | None:
  config, speed = entry.get("config") or {}, entry.get("examples_per_s")
  train, model = config.get("train"), entry.get("flops_per_example")
  if entry.get("status") != "done" or not speed or not train:
    return None
  devices = math.prod(int(n) for n in str((config.get("mesh") or {}).get("mesh", "1")).split("x"))
  speed *= entry.get("trained_together", 1)  # the machine's: what it did for all of them
  examples = train["batch_size"] / devices
  moved = entry["bytes"]["tables_moved_per_example"] if model else 0
  evaluations = len(eval_points(entry["examples"], train["batch_size"], train["first_eval"], train["evals_per_octave"]))
  evaluated = entry.get("evaluated_examples") or evaluations * entry["eval_examples"]
  others = (entry["wall_s"] - entry["training_s"]) / evaluated if entry.get("training_s") else 0.0
  work = np.array([1.0, examples, examples * (model["total"] if model else 0), examples * moved])
  return Sample(train["learner"], work, train["batch_size"] / speed, others * speed, math.nan)


def chosen(todo: Iterable[Run], devices: int) -> list[Run]:
  """The runs to measure: the smallest, the middle and the largest model that so many devices can run, and the per-id estimator."""
  fitting = [run for run in todo if run.point.config.mesh.num_devices <= devices]
  others = [run for run in fitting if run.point.learner != "dlrm"][:1]
  models = sorted({_shape(run.point.config): run for run in fitting if run.point.learner == "dlrm"}.values(), key=_load)
  return [models[i] for i in sorted({0, len(models) // 2, len(models) - 1})] + others if models else others


def measured(todo: Iterable[Run]) -> tuple[Sample, ...]:
  """Times some of the models on this process's devices."""
  samples, some = [], chosen(todo, jax.device_count())
  for i, (point, source) in enumerate(some):
    say(f"measuring the time of a step, {i + 1} of {len(some)} models: {point.name}")
    try:
      samples.append(_time(point, source))
    except Exception as error:  # the sweep will report it for that run, and do the others
      say(f"{point.name}: not measured, {type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
  return tuple(samples)


def _time(point: Point, source: Source) -> Sample:
  started, config = time.perf_counter(), point.config
  train, calls = config.train, config.steps_per_call
  learner = make_learner([config], source)
  examples = train.total_examples if source.max_examples else train.batch_size * 2**40
  passes = (source.train_batches(train.seed, train.batch_size, examples) for _ in itertools.count())
  batches = ((learner.put_part(batch),) for batch in itertools.chain.from_iterable(passes))
  some = min(source.num_eval_examples(train.eval_examples), _EVALUATED * train.batch_size)
  evals = EvalSet(source, learner, dataclasses.replace(train, eval_examples=some))

  def call(state: Any) -> Any:
    return jax.block_until_ready(learner.train(state, list(itertools.islice(batches, calls))))

  state = call(learner.start())
  evaluate(learner, state, evals)
  start_s = time.perf_counter() - started
  began, count = time.perf_counter(), 0
  while count < _MEASURED_CALLS or time.perf_counter() - began < _MEASURED_S:
    state, count = call(state), count + 1
  step_s = (time.perf_counter() - began) / (count * calls)
  began = time.perf_counter()
  evaluate(learner, state, evals)
  evaluation = (time.perf_counter() - began) / evals.num_examples / (step_s / train.batch_size)
  return Sample(point.learner, work_of(point, source), step_s, evaluation, start_s)


def _measured_apart(todo: Sequence[Run], cores: int, cache: Path | None) -> tuple[Sample, ...]:
  """`measured` in a process of its own; empty where that is killed, perhaps for its memory: the sweep will report it for its runs."""
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, context, end_with, (os.getpid(),)) as process:
    try:
      return process.submit(_measure_on, list(todo), cores, cache).result()
    except concurrent.futures.process.BrokenProcessPool:
      return ()


def _measure_on(todo: list[Run], cores: int, cache: Path | None) -> tuple[Sample, ...]:
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  hardware.select_platform()
  if cache is not None:
    hardware.share_compiled(cache)
  return measured(todo)


def _shape(config: RunConfig) -> RunConfig:
  """Equal for runs that share their programs."""
  return dataclasses.replace(config, train=alike(config.train, *TOGETHER, LENGTH))


def _load(run: Run) -> tuple[float, float]:
  """Orders models by the work of a step, then by the bytes that they hold."""
  point, source = run
  work, counted = work_of(point, source), point_cost(point, source)
  return float(work[2] + _FLOPS_A_BYTE * work[3]), float(sum(counted.bytes.values()) if counted else 0)
