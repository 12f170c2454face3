"""Section `w1`: whole training steps of small models by benchmarks.step, over sizes, dtypes and steps in a call."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks import step
from benchmarks.accelerator.rows import Rows
from benchmarks.measure import ceilings
from benchmarks.measure.table import Row
from benchmarks.measure.workloads import RUNS
from benchmarks.profile import WITHOUT_GRAPHS
from dlrm_jax.config import RunConfig
from dlrm_jax.data.shapes import shape_of
from dlrm_jax.training.learner import NO_OPTIONS


def with_model(run: RunConfig, **changes: Any) -> RunConfig:
  """The run with another model."""
  return dataclasses.replace(run, model=dataclasses.replace(run.model, **changes))


def with_batch(run: RunConfig, batch_size: int) -> RunConfig:
  """The run with another batch size."""
  return dataclasses.replace(run, train=dataclasses.replace(run.train, batch_size=batch_size))


def measure(rows: Rows) -> None:
  """Keeps a row for each size of W1, and one for each change of it."""
  w1 = with_batch(RUNS["W1"], 64) if rows.tiny else RUNS["W1"]
  for num_rows in (1000, 2000) if rows.tiny else (1000, 100_000, 1_000_000):
    case(rows, "W1", with_model(w1, num_rows=num_rows), 200)
  if jax.default_backend() == "gpu":
    case(rows, "W1 without graphs", w1, 200, WITHOUT_GRAPHS)
  case(rows, "W1, 8 steps a call", dataclasses.replace(w1, steps_per_call=8), 200)
  small = dataclasses.replace(RUNS["small"], data="criteo_like")
  case(rows, "small", with_batch(small, 64) if rows.tiny else small, 400)
  if rows.tiny:
    return
  case(rows, "W1 in bfloat16", with_model(w1, compute_dtype="bfloat16"), 200)
  case(rows, "W1, batch 16,384", with_batch(w1, 16_384), 100)
  case(rows, "W1", with_model(w1, num_rows=10_000_000), 200)
  case(rows, "W2", RUNS["W2"], 200)


def case(rows: Rows, name: str, run: RunConfig, steps: int, options: Mapping[str, Any] = NO_OPTIONS) -> None:
  """Times a run; a CPU takes a tenth of the steps."""
  steps = 4 if rows.tiny else steps if jax.default_backend() != "cpu" else max(2, steps // 10)
  rows.case(functools.partial(timed, name, run, steps, options), name=name, num_rows=run.model.num_rows)


def timed(name: str, run: RunConfig, steps: int, options: Mapping[str, Any] = NO_OPTIONS) -> Row:
  """A row of benchmarks.step; where its shares are of a data sheet, with those of the measured ceilings, too."""
  config, shape = step.StepConfig(name=name, steps=steps, warmup=max(2, steps // 10), run=run), shape_of(run)
  (one,) = step.cases(config, shape)
  row = step.measure(config, one, shape, options)
  row["table_dtype"] = run.model.table_dtype
  if row["peak_source"] == "measured":
    return row
  measured = ceilings.measure(run.model.compute_dtype, run.model.matmul_precision)
  flops, num_bytes = row["flops_per_example"] * row["batch_size"], row["bytes_per_s"] * row["batch_size"] / row["examples_per_s"]
  shares = measured.shares(1e-3 * row["pipelined_ms"], flops, num_bytes)
  return row | {f"measured_{what}": shares[what] for what in ("mfu", "bandwidth_share")}
