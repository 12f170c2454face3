"""What one run has done so far: where its calls end, and how far it says it is."""

import dataclasses
from pathlib import Path

import pytest
from resume_case import BASE as RUN
from resume_case import BATCH

from dlrm_jax.data.planted.clicks import Planted
from dlrm_jax.training import trajectory
from dlrm_jax.training.metrics import Metrics

MEASURED = Metrics(0.5, 1.0, 0.5, 0.0, 1.0)


@pytest.mark.parametrize("steps_per_call", [1, 3, 8])
def test_calls_end_where_the_loss_is_looked_at(steps_per_call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """At evaluations and at every fifth step since the start, wherever the run goes on."""
  monkeypatch.setattr(trajectory, "_CHECK_EVERY", 5)
  config, steps = dataclasses.replace(RUN, steps_per_call=steps_per_call), -(-RUN.train.num_examples // BATCH)
  looks = {step for step in range(1, steps + 1) if step % 5 == 0} | {11, 22, steps}
  for began in range(steps):
    run = trajectory.Trajectory(config, Planted(RUN.planted), tmp_path, 256)
    if began:
      run.branch({"examples": began * BATCH, "progressive": {"examples": 0, "loss_sum": 0.0, "recent_sum": 0.0, "row_examples": 0}})
    run.start()
    step = began
    while not run.ended:
      calls, step = run.steps_to_call, step + run.steps_to_call
      assert 1 <= calls <= steps_per_call and not looks & set(range(step - calls + 1, step))
      run.advance(calls)
      assert run.looking == (step in looks) and (calls == steps_per_call or run.looking)
      if run.due:
        assert step in (11, 22, steps)
        run.look(0.5, -1)
        run.evaluated(MEASURED)
    assert (run.examples, step) == (RUN.train.num_examples, steps)
