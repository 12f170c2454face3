"""One run, read top to bottom: one pass over the examples, evaluations on the way, a record at the end.

Called by `train` (one run) and by `sweeps.run` (many).
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import jax

from dlrm_jax import checkpoint, hardware, metrics, record
from dlrm_jax.batch import Batch
from dlrm_jax.config import RunConfig, config_id
from dlrm_jax.data import planted_theory
from dlrm_jax.data.planted import Planted
from dlrm_jax.data.source import Source, one_pass, open_source
from dlrm_jax.evaluation import EvalSet, Progressive, evaluate
from dlrm_jax.flags import UserError
from dlrm_jax.learner import Learner, make_learner
from dlrm_jax.progress import Reporter
from dlrm_jax.read_ahead import read_ahead

METRICS = (*(f.name for f in dataclasses.fields(metrics.Metrics)), *Progressive.FIELDS)
_MAY_DIFFER = {f"train.{name}" for name in ("num_examples", "eval_examples", "eval_split", "first_eval", "evals_per_octave")}
_CHECK_EVERY = 512  # steps between looks at the loss when no evaluation is due
_AHEAD = 2  # calls whose batches go to the devices before they are due


def eval_points(num_examples: int, batch_size: int, first: int, per_octave: int) -> list[int]:
  """Example counts to evaluate at: log-spaced from `first`, whole batches, the last one `num_examples`."""
  points, k = set(), 0
  while (wanted := first * 2 ** (k / per_octave)) < num_examples:
    points.add(min(math.ceil(round(wanted) / batch_size) * batch_size, num_examples))
    k += 1
  return sorted(points | {num_examples})


def theory(config: RunConfig, source: Source) -> dict[str, float | None] | None:
  """What the planted tail must give, for the record; None on real data."""
  if not isinstance(source, Planted):
    return None
  s, fields = config.planted.zipf_s, config.planted.tail_fields
  hashed_beyond = config.model.rows_by == "hash" and s >= 2  # kappa is not known there
  rows, rows_by = config.model.num_rows, config.model.rows_by
  floor = None if hashed_beyond else planted_theory.rows_floor(rows, s, source.tau, fields, rows_by, source.draws)
  beta_rows = None if hashed_beyond else planted_theory.beta_rows(s)
  return {"s": s, "beta_data": planted_theory.beta_data(s), "beta_rows": beta_rows, "rows_floor": floor}


def _ideal(config: RunConfig, source: Source, examples: int) -> float | None:
  if not isinstance(source, Planted):
    return None
  rows = config.model.num_rows if config.train.learner == "dlrm" else None
  if rows is not None and config.model.rows_by == "hash":
    return None  # the closed form knows tables that keep the most frequent ids
  return planted_theory.excess_ideal(examples, config.planted.zipf_s, source.tau, config.planted.tail_fields, rows, source.draws)


def _settings(config: RunConfig) -> dict[str, Any]:
  """Model and training settings by name, without those that may differ between what goes on and what was."""
  settings = {f"{part}.{name}": value for part in ("model", "train") for name, value in dataclasses.asdict(getattr(config, part)).items()}
  return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items() if name not in _MAY_DIFFER}


def seen(config: RunConfig, source: Source, examples: int) -> dict[str, Any]:
  """What a run that goes on from a checkpoint must share with it, and how many examples it has seen: its position in the data."""
  planted = dataclasses.asdict(config.planted) if isinstance(source, Planted) else None
  processes = jax.process_count() if planted is None else None  # the order of a data set depends on it (data/order.py)
  stream = {"data": source.name, "data_digest": source.digest, "planted": planted, "processes": processes}
  return {"examples": examples} | stream | _settings(config)


def restored(config: RunConfig, learner: Learner, source: Source) -> tuple[Any, Progressive]:
  """(state, examples seen and their losses): the learner's first state, or that of `--restore`. UserError where its run was another."""
  if config.restore is None:
    return learner.start(), Progressive(source.base_rate)
  if learner.restore is None:
    raise UserError(f"--restore={config.restore}: only --learner=dlrm under --parallelism=jit has checkpoints")
  if not (Path(config.restore) / checkpoint.MANIFEST).exists():
    raise UserError(f"--restore={config.restore}: no {checkpoint.MANIFEST} there; give the directory that holds it, WORKDIR/checkpoint")
  there = _settings(RunConfig()) | checkpoint.run_of(config.restore)  # a setting that is newer than the checkpoint was at its default
  here = seen(config, source, 0)
  for name, value in here.items():
    if name != "examples" and there.get(name) != value:
      raise UserError(f"--restore={config.restore}: its {name} is {there.get(name)}, this run's is {value}; they must be the same")
  if there["examples"] % config.train.batch_size:
    size, seen_ = config.train.batch_size, there["examples"]
    raise UserError(f"--restore={config.restore}: it ended inside a batch of {size}, after {seen_} examples; there is no going on")
  if there["examples"] >= config.train.num_examples:
    raise UserError(f"--num_examples={config.train.num_examples}: the checkpoint has seen {there['examples']}: nothing is left to train on")
  loss_sum = there.get("progressive_loss_sum")  # absent where it was not yet kept
  return learner.restore(config.restore), Progressive(source.base_rate, there["examples"], math.nan if loss_sum is None else loss_sum)


def batches_of(source: Source, learner: Learner, config: RunConfig, start: int) -> Iterator[Batch]:
  """The batches of a run from example `start` on, on the devices a few ahead of their use."""
  settings = config.train
  batches = source.train_batches(settings.seed, settings.batch_size, settings.num_examples, start)
  return read_ahead(map(learner.put_part, batches), _AHEAD * config.steps_per_call)


def _curve(directory: Path, primary: bool) -> contextlib.AbstractContextManager[TextIO | None]:
  """The file that evaluations go to; of several processes the first writes."""
  return open(directory / "curve.jsonl", "w") if primary else contextlib.nullcontext()


def train(config: RunConfig, directory: str | Path, source: Source | None = None, quiet: bool = False) -> dict[str, Any]:
  """Trains one configuration and writes `curve.jsonl` (as it goes) and `record.json` (whole, at the end) into `directory`.

  Of several processes each calls it alike; the first writes.
  A loss that is not finite ends the run: the record then says status "diverged" with the step. Returns the record.
  Raises UserError for bad input, before anything is written.
  """
  source = source or open_source(config)
  config = one_pass(config, source)
  settings, directory = config.train, Path(directory)
  learner, primary = make_learner(config, source), jax.process_index() == 0
  evals = EvalSet(source, learner, settings)
  state, progressive = restored(config, learner, source)
  start = progressive.examples
  if config.checkpoint and learner.save is None:
    raise UserError("--checkpoint: only --learner=dlrm under --parallelism=jit has checkpoints")
  if primary:
    directory.mkdir(parents=True, exist_ok=True)
  points = eval_points(settings.num_examples, settings.batch_size, settings.first_eval, settings.evals_per_octave)
  points = [point for point in points if point > start]
  if primary and not quiet:
    learner.announce()
    if config.checkpoint and settings.num_examples % settings.batch_size:
      whole = settings.num_examples // settings.batch_size * settings.batch_size
      text = f"no run can go on from it, which ends inside a batch of {settings.batch_size}; with --num_examples={whole} it could"
      print(f"--checkpoint: {text}", file=sys.stderr, flush=True)
  examples, bad_step, training_s = start, -1, 0.0
  rows: list[dict[str, Any]] = []
  waiting: list[Batch] = []  # for the next call
  diverged = ""
  started = resumed = time.perf_counter()
  with _curve(directory, primary) as curve, Reporter(settings.num_examples, quiet or not primary) as reporter:
    for step, batch in enumerate(batches_of(source, learner, config, start), start // settings.batch_size):
      waiting.append(batch)
      examples = min(examples + settings.batch_size, settings.num_examples)
      due = examples == points[len(rows)]
      check = due or (step + 1) % _CHECK_EVERY == 0
      if check or len(waiting) == config.steps_per_call:
        state, waiting = learner.train(state, *waiting), []
      if not check:
        continue
      state, train_loss, bad_step = learner.read_progress(state)
      progressive.add(train_loss, examples)
      reporter.update(examples, train_loss)
      if bad_step >= 0:
        diverged = "train log_loss"
        break
      if due:
        jax.block_until_ready(state)
        training_s += time.perf_counter() - resumed
        measured = evaluate(learner, state, evals)
        if not math.isfinite(measured.log_loss):
          diverged, bad_step = "eval log_loss", step
          break
        row = {"examples": examples} | dataclasses.asdict(measured) | {"excess_ideal": _ideal(config, source, examples)}
        rows.append(row | progressive.row() | {"wall_s": time.perf_counter() - started})
        if curve is not None:
          curve.write(record.dumps(rows[-1], indent=None) + "\n")
          curve.flush()
          os.fsync(curve.fileno())
        resumed = time.perf_counter()
  if config.checkpoint and learner.save is not None and not diverged:
    learner.save(directory / "checkpoint", state, seen(config, source, examples) | {"progressive_loss_sum": progressive.loss_sum})
  status = {"status": "diverged", "diverged_metric": diverged, "diverged_step": bad_step} if diverged else {"status": "done"}
  last = rows[-1] if rows and not diverged else dict.fromkeys(METRICS)
  out = hardware.header() | status | learner.facts
  if learner.facts["flops_per_example"]:
    out["flops_total"] = learner.facts["flops_per_example"]["total"] * examples
  out |= {
    "config_id": config_id(config, source.digest),
    "config": describe(config, source),
    "examples": examples,
    "restored_examples": start,  # seen before, by the run whose checkpoint this one went on from; times below are without them
    "base_rate": source.base_rate,
    "eval_examples": evals.num_examples,
    "seed": settings.seed,
    **{name: last[name] for name in METRICS},
    "wall_s": time.perf_counter() - started,
    "training_s": training_s,
    "examples_per_s": (examples - start) / training_s if training_s else math.nan,
    "theory": theory(config, source),
  }
  if primary:
    record.write_json(directory / "record.json", out)
  return out


def describe(config: RunConfig, source: Source) -> dict[str, Any]:
  """The config as the record keeps it: without where things lie, and without planted settings on real data."""
  planted = isinstance(source, Planted)
  return {
    "model": dataclasses.asdict(config.model),
    "train": dataclasses.asdict(config.train),
    "planted": dataclasses.asdict(config.planted) if planted else None,
    "mesh": dataclasses.asdict(config.mesh),
    "data": source.name,
    "data_digest": source.digest,
  }
