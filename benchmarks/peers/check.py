"""Checks that the trainers compute the same: their losses from the same weights on the same batches, before anything is timed."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.process import Worker
from benchmarks.peers.worker import Spec
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say

# Each batch once. A rounding that flips a ReLU changes the whole gradient of an example, and row-wise Adagrad steps as far for small
# gradients as for large ones. Two float32 runs of one formula differed by 2e-4 after these steps and by 7e-4 two steps later.
STEPS = 8
TOLERANCE = 1e-3  # relative difference of the losses


def difference(losses: Sequence[float], ours: Sequence[float]) -> float:
  """The greatest relative difference of a loss from ours."""
  return float(np.max(np.abs(np.subtract(losses, ours)) / np.abs(ours)))


def check_losses(specs: Sequence[Spec], directory: Path, start: Callable[[Spec], Worker]) -> dict[str, float]:
  """The greatest difference of each trainer's first losses from ours under the same optimiser of the tables.

  Args:
    specs: one for each trainer to check, of the same workload and size. Ours is run once for each optimiser among them.
    directory: where the common initial weights are written.
    start: starts a worker.

  Raises:
    UserError: naming a trainer whose losses differ by more than TOLERANCE.
  """
  weights, expected, out = str(directory / "weights.npz"), {}, {}
  for spec in specs:
    optimizer = spec.table_optimizer
    if optimizer not in expected:
      with start(dataclasses.replace(spec, trainer="ours")) as ours:
        ours.ask({"export": weights})
        expected[optimizer] = ours.ask({"run": STEPS, "warmup": 0})["losses"]
    with start(dataclasses.replace(spec, weights=weights)) as peer:
      losses = peer.ask({"run": STEPS, "warmup": 0})["losses"]
    out[spec.trainer] = difference(losses, expected[optimizer])
    say(f"check: losses of {spec.trainer} within {out[spec.trainer]:.1e} of ours over {STEPS} steps ({optimizer})")
    if not out[spec.trainer] <= TOLERANCE:
      last = f"after {STEPS} steps {losses[-1]:.5f}, ours {expected[optimizer][-1]:.5f}"
      raise UserError(
        f"{spec.trainer} does not compute what ours does: losses differ by {out[spec.trainer]:.1e}, more than {TOLERANCE:g}; {last}"
      )
  return out
