"""A sweep of three runs whose training is replaced by a function that only writes the files of `loop.train`, or raises.

For tests of how sweepers react. Real sweeps are in test_sweeps.py and test_sweep_kills.py.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlrm_jax.common import record
from dlrm_jax.config import ModelConfig, RunConfig, TrainConfig
from sweeps import claims, store, worker
from sweeps.launch_flags import LaunchConfig
from sweeps.points import SweepConfig, expand

HOUR = 3600.0


def sweep_of(workdir: Path, **launch: Any) -> SweepConfig:
  """Three runs that differ in their rows only."""
  base = RunConfig(
    workdir=str(workdir),
    model=ModelConfig(embed_dim=2, num_rows=90, overarch=(4, 1)),
    train=TrainConfig(num_examples=2048, batch_size=256, eval_examples=512, first_eval=512),
  )
  return SweepConfig(run=base, axes=("rows",), sizes_rows=(30, 60, 90), measure=False, launch=LaunchConfig(**launch))


class Trainer:
  """Replaces `loop.train`: counts the calls for each run, and calls the function that `acts` has for the run's rows."""

  def __init__(self) -> None:
    self.calls: dict[int, int] = {}
    self.acts: dict[int, Callable[[int, Path], None]] = {}  # called with the number of the call, from 1, and the directory

  def __call__(self, config: RunConfig, directory: Path, source: Any, quiet: bool, on_progress: Callable[[int, float], None]) -> Any:
    rows, examples = config.model.num_rows, config.train.num_examples
    self.calls[rows] = self.calls.get(rows, 0) + 1
    on_progress(examples // 2, 0.7)
    if rows in self.acts:
      self.acts[rows](self.calls[rows], directory)
    on_progress(examples, 0.6)
    out = {"status": "done", "config_id": directory.name, "examples": examples, "seed": 0, "examples_per_s": 1000.0}
    out |= {"rows": rows, "ne": 0.9, "excess": None, "wall_s": 2.0}
    record.write_text(directory / "curve.jsonl", json.dumps({"examples": 1024}) + "\n" + json.dumps({"examples": examples}) + "\n")
    record.write_json(directory / "record.json", out)
    return out


def install(monkeypatch: pytest.MonkeyPatch) -> Trainer:
  """Replaces `loop.train` by a `Trainer`."""
  train = Trainer()
  monkeypatch.setattr(worker.loop, "train", train)
  monkeypatch.setattr(worker.hardware, "share_compiled", lambda directory: None)
  return train


@functools.cache
def _ids(sweep: SweepConfig) -> dict[tuple[int, int], str]:
  return {(point.config.model.num_rows, point.seed): point.config_id for point, _ in expand(sweep)}


def run_id(sweep: SweepConfig, rows: int, seed: int = 0) -> str:
  """The config_id of the run with these rows."""
  return _ids(sweep)[rows, seed]


def directory_of(sweep: SweepConfig, rows: int, seed: int = 0) -> Path:
  """The directory of the run with these rows."""
  return store.run_directory(sweep.run.workdir, run_id(sweep, rows, seed))


def outcomes(sweep: SweepConfig, rows: int, seed: int = 0) -> list[str | None]:
  return [attempt.outcome for attempt in claims.attempts(directory_of(sweep, rows, seed))]


def raises(error: Exception, times: int = 1000) -> Callable[[int, Path], None]:
  def act(call: int, directory: Path) -> None:
    if call <= times:
      raise error

  return act


def another_owner(sweep: SweepConfig, rows: int, *, dead: bool, generation: int = 1, seed: int = 0) -> claims.Claim:
  """A claim of another process, which lives (this one's parent) or has ended."""
  held = claims.claim(store.run_directory(sweep.run.workdir, run_id(sweep, rows, seed)), generation, 0, 2048, HOUR)
  assert held is not None
  path = held.directory / "attempts" / f"{generation:04d}.json"
  pid = os.getppid()
  who = {"pid": 2**22 + 1, "process_started": 5} if dead else {"pid": pid, "process_started": claims.process_started(pid)}
  path.write_text(json.dumps(json.loads(path.read_text()) | who))
  return held
