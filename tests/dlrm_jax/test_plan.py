"""`sweeps.plan` and the time that it says: from finished runs, or from steps measured."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_sweep import in_directory, sweep_of, with_train

from dlrm_jax.common import record
from dlrm_jax.training import loop
from sweeps import estimate, plan
from sweeps.estimate import Sample, Speed, chosen, measured, point_cost, speed_of, work_of
from sweeps.launch_flags import extended
from sweeps.points import Point, expand


def test_plan_lists_the_runs_and_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(estimate, "measured", lambda todo: pytest.fail("a device was used"))
  sweep = sweep_of(seeds=2)
  plan.main(dataclasses.replace(extended(sweep, plan.PlanConfig, measure=False), assumed_examples_per_s=1024.0))
  shown = capsys.readouterr().out
  assert "6 runs, 0 done" in shown
  assert "about 12 s at 1,024 examples/s" in shown
  assert expand(sweep)[0][0].config_id in shown
  plan.main(extended(sweep, plan.PlanConfig, measure=False))
  assert "time unknown (no finished run; see --measure)" in capsys.readouterr().out
  assert list(tmp_path.iterdir()) == []


def record_of(point: Point, source, directory: Path) -> dict:
  """The record of a point's run."""
  loop.train(point.config, directory / "runs" / point.config_id, source, quiet=True)
  return record.read_json(directory / "runs" / point.config_id / "record.json")


def test_plan_costs_and_times_are_those_of_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  (small, source), (large, _) = expand(sweep_of(axes=("rows",)))
  written = record_of(small, source, tmp_path)
  counted = point_cost(small, source)
  assert counted is not None
  assert dataclasses.asdict(counted) == {name: written[name] for name in ("params", "flops_per_example", "bytes")}
  speed = speed_of([(large, source)], {small.config_id: written}, measure=False)
  assert speed is not None
  np.testing.assert_allclose(speed.seconds(small, source), written["wall_s"], rtol=0.02)  # what the run did between its parts
  record.write_json(tmp_path / "sweep.json", {"points": []})
  plan.main(in_directory(extended(sweep_of(axes=("rows",)), plan.PlanConfig, measure=False), tmp_path))
  assert "2 runs, 1 done" in (shown := capsys.readouterr().out) and "(by 1 finished runs)" in shown
  failed = {small.config_id: written | {"status": "failed"}}
  assert speed_of([(large, source)], failed, measure=False) is None


def test_steps_are_interpolated_by_their_work():
  """Seconds that are a sum of overhead, examples, FLOPs and bytes are found again from samples of some models."""
  points = expand(sweep_of(axes=("dim", "mlp", "batch_size"), sizes_dim=(1, 2, 8), sizes_mlp=(0.25, 4), sizes_batch_size=(64, 1024)))

  def step_s(work: np.ndarray) -> float:
    return float(work @ np.array([2e-4, 1e-7, 3e-11, 5e-10]))

  samples = tuple(Sample("dlrm", work_of(p, s), step_s(work_of(p, s)), 0.25, 3.0) for p, s in points[:-1])
  speed = Speed(samples, "a test")
  for point, source in points:
    train = point.config.train
    evaluated = train.eval_examples * (2 if train.batch_size == 1024 else 5)  # after 512, 724, 1024, ... up to whole batches
    expected = step_s(work_of(point, source)) / train.batch_size * (train.num_examples + 0.25 * evaluated)
    np.testing.assert_allclose(speed.seconds(point, source), expected, rtol=1e-6)


def test_workers_share_the_time_but_not_a_run():
  todo = [run for run in expand(sweep_of(axes=("rows",), seeds=4)) if run[0].size == 50]
  (point, source) = todo[0]
  speed = Speed((Sample("dlrm", work_of(point, source), 0.5, 0.0, 6.0),), "by hand")
  each = 0.5 * 2048 / 256
  assert [speed.total_s(todo, n) for n in (1, 2, 16)] == [4 * each + 6, (4 * each + 6) / 2, each]
  assert speed.total_line(todo, 2) == "about 11 s with 2 workers (by hand)"
  assert speed.total_line([]) == "nothing to do"


def test_the_smallest_the_middle_and_the_largest_model_are_measured():
  sweep = sweep_of(axes=("data", "dim"), sizes_dim=(8, 1, 4, 2, 16), seeds=2, judge=True)
  points = expand(dataclasses.replace(sweep, run=dataclasses.replace(sweep.run, planted=type(sweep.run.planted)())))
  assert [(p.learner, p.config.model.embed_dim) for p, _ in chosen(points, 1)] == [("dlrm", 1), ("dlrm", 4), ("dlrm", 16), ("per_id", 4)]
  assert chosen(expand(sweep_of(axes=("devices",), sizes_devices=(2, 4))), 1) == []


def test_a_measured_run_takes_about_what_it_was_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  """Within a factor of 5: other programs may be running."""
  sweep = with_train(sweep_of(axes=("rows",), sizes_rows=(50,)), num_examples=2**17, eval_examples=256)
  run = point, source = expand(sweep)[0]
  (sample,) = measured([run])
  assert capsys.readouterr().err == f"measuring the time of a step, 1 of 1 models: {point.name}\n"
  speed = speed_of([run], {}, measure=True)
  assert speed is not None and speed.basis == "1 models measured"
  assert sample.start_s > sample.step_s > 0 and sample.evaluation > 0
  took = record_of(point, source, tmp_path)["wall_s"]
  assert took / 5 < speed.seconds(point, source) < 5 * took


@pytest.mark.slow
def test_measuring_apart_leaves_this_process_without_devices(tmp_path: Path):
  (run,) = expand(sweep_of(axes=("rows",), sizes_rows=(50,)))
  speed = speed_of([run], {}, measure=True, apart=1, cache=tmp_path)
  assert speed is not None
  (sample,) = speed.samples
  assert sample.learner == "dlrm" and sample.step_s > 0
  np.testing.assert_array_equal(sample.work, work_of(*run))
