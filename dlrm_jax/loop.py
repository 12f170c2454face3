"""One run, read top to bottom: one pass over the examples, evaluations on the way, a record at the end.

Called by `train` (one run) and by `sweeps.run` (many).
"""

import contextlib
import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from dlrm_jax import checkpoint, hardware, metrics, record
from dlrm_jax.batch import Batch
from dlrm_jax.config import RunConfig, config_id
from dlrm_jax.data import planted_theory
from dlrm_jax.data.planted import Planted, Truth
from dlrm_jax.data.source import Source, one_pass, open_source
from dlrm_jax.flags import UserError
from dlrm_jax.learner import Learner, make_learner
from dlrm_jax.progress import Reporter

METRICS = tuple(f.name for f in dataclasses.fields(metrics.Metrics))
_MAY_DIFFER = {
  f"train.{name}" for name in ("num_examples", "eval_examples", "first_eval", "evals_per_octave")
}  # of what goes on and what was
_CHECK_EVERY = 512  # steps between looks at the loss when no evaluation is due


def eval_points(num_examples: int, batch_size: int, first: int, per_octave: int) -> list[int]:
  """Example counts to evaluate at: log-spaced from `first`, whole batches, the last one `num_examples`."""
  points, k = set(), 0
  while (wanted := first * 2 ** (k / per_octave)) < num_examples:
    points.add(min(math.ceil(round(wanted) / batch_size) * batch_size, num_examples))
    k += 1
  return sorted(points | {num_examples})


@dataclasses.dataclass(frozen=True)
class EvalBatch:
  """One evaluation batch on the devices, and what metrics need of it on the host: labels, which examples count, the teacher's logits."""

  placed: Batch
  label_b: np.ndarray
  keep_b: np.ndarray
  truth: Truth | None


def eval_batches(source: Source, learner: Learner, batch_size: int, num_examples: int) -> list[EvalBatch]:
  """The evaluation set, put where the learner wants it."""
  out = []
  for batch, truth in source.eval_batches(batch_size, num_examples):
    placed = learner.put(jax.tree.map(jnp.asarray, batch))
    out.append(EvalBatch(placed, np.asarray(batch.label_b), np.asarray(batch.weight_b) > 0, truth))
  return out


def evaluate(learner: Learner, state: Any, batches: list[EvalBatch], source: Source) -> metrics.Metrics:
  """Metrics over the evaluation batches; `excess_tail` only where the tail is not all there is to learn."""
  logit = np.concatenate([np.asarray(learner.predict(state, batch.placed)) for batch in batches])
  keep, label = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("keep_b", "label_b"))
  label = label[keep]
  if not isinstance(source, Planted):
    return metrics.evaluate(logit[keep], label, source.base_rate)
  truths = [batch.truth for batch in batches if batch.truth is not None]
  true_logit, tail = (np.concatenate([np.asarray(getattr(t, name)) for t in truths])[keep] for name in ("logit_b", "tail_b"))
  tail_only = not source.small_fields and not source.num_dense
  return metrics.evaluate(logit[keep], label, source.base_rate, true_logit, None if tail_only else tail)


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


def seen(config: RunConfig, source: Source, examples: int) -> dict[str, Any]:
  """What a run that goes on from a checkpoint must share with it, and how many examples it has seen."""
  planted = dataclasses.asdict(config.planted) if isinstance(source, Planted) else None
  stream = {"data": source.name, "data_digest": source.digest, "planted": planted}
  settings = {f"{part}.{name}": value for part in ("model", "train") for name, value in dataclasses.asdict(getattr(config, part)).items()}
  settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items() if name not in _MAY_DIFFER}
  return {"examples": examples} | stream | settings


def restored(config: RunConfig, learner: Learner, source: Source) -> tuple[Any, int]:
  """(state, examples seen): the learner's first state, or that of `--restore`. Raises UserError where its run was another."""
  if config.restore is None:
    return learner.start(), 0
  if learner.restore is None:
    raise UserError(f"--restore={config.restore}: only --learner=dlrm under --parallelism=jit has checkpoints")
  if not (Path(config.restore) / checkpoint.MANIFEST).exists():
    raise UserError(f"--restore={config.restore}: no {checkpoint.MANIFEST} there; give the directory that holds it, WORKDIR/checkpoint")
  there, here = checkpoint.run_of(config.restore), seen(config, source, 0)
  for name, value in here.items():
    if name != "examples" and there.get(name) != value:
      raise UserError(f"--restore={config.restore}: its {name} is {there.get(name)}, this run's is {value}; they must be the same")
  if there["examples"] % config.train.batch_size:
    raise UserError(f"--restore={config.restore}: it ended inside a batch, after {there['examples']} examples; there is no going on")
  if there["examples"] >= config.train.num_examples:
    raise UserError(f"--num_examples={config.train.num_examples}: the checkpoint has seen {there['examples']}: nothing is left to train on")
  return learner.restore(config.restore), there["examples"]


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
  evals = eval_batches(source, learner, settings.batch_size, settings.eval_examples)
  state, start = restored(config, learner, source)
  if config.checkpoint and learner.save is None:
    raise UserError("--checkpoint: only --learner=dlrm under --parallelism=jit has checkpoints")
  if primary:
    directory.mkdir(parents=True, exist_ok=True)
  points = eval_points(settings.num_examples, settings.batch_size, settings.first_eval, settings.evals_per_octave)
  points = [point for point in points if point > start]
  if primary and not quiet:
    learner.announce()
  examples, bad_step, training_s = start, -1, 0.0
  rows: list[dict[str, Any]] = []
  waiting: list[Batch] = []  # for the next call
  diverged, num_eval = "", sum(int(batch.keep_b.sum()) for batch in evals)
  started = resumed = time.perf_counter()
  with _curve(directory, primary) as curve, Reporter(settings.num_examples, quiet or not primary) as reporter:
    batches = source.train_batches(settings.seed, settings.batch_size, settings.num_examples, start)
    for step, batch in enumerate(batches, start // settings.batch_size):
      waiting.append(learner.put(batch))
      examples = min(examples + settings.batch_size, settings.num_examples)
      due = examples == points[len(rows)]
      check = due or (step + 1) % _CHECK_EVERY == 0
      if check or len(waiting) == config.steps_per_call:
        state, waiting = learner.train(state, *waiting), []
      if not check:
        continue
      state, train_loss, bad_step = learner.read_progress(state)
      reporter.update(examples, train_loss)
      if bad_step >= 0:
        diverged = "train log_loss"
        break
      if due:
        jax.block_until_ready(state)
        training_s += time.perf_counter() - resumed
        measured = evaluate(learner, state, evals, source)
        if not math.isfinite(measured.log_loss):
          diverged, bad_step = "eval log_loss", step
          break
        row = {"examples": examples, **dataclasses.asdict(measured), "excess_ideal": _ideal(config, source, examples)}
        rows.append(row | {"wall_s": time.perf_counter() - started})
        if curve is not None:
          curve.write(record.dumps(rows[-1], indent=None) + "\n")
          curve.flush()
          os.fsync(curve.fileno())
        resumed = time.perf_counter()
  if config.checkpoint and learner.save is not None and not diverged:
    learner.save(directory / "checkpoint", state, seen(config, source, examples))
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
    "eval_examples": num_eval,
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
