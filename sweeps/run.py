"""Runs a sweep and writes one record for each run under WORKDIR/runs/<config_id>/. A run that has a result is never run again.

python -m sweeps.run --preset=quick --workdir=runs/quick
python -m sweeps.run --axes=rows,dim,overarch,mlp --data=DIR --workdir=runs/mine --launcher=local
"""

import dataclasses
import os
from pathlib import Path

from dlrm_jax.affects import RATE, fields_of
from dlrm_jax.common import flags, record, stopping
from dlrm_jax.common.progress import say
from dlrm_jax.config import TrainConfig
from dlrm_jax.data.source import open_source
from dlrm_jax.machine import hardware
from dlrm_jax.training.found_rates import at_found_rates, needs_search
from sweeps import data_used, estimate, local, slurm, store, worker
from sweeps.axes import with_part
from sweeps.display import Display
from sweeps.points import SweepConfig, expand, runs_of
from sweeps.presets import PRESETS
from sweeps.states import alarm_lines, failures


def main(sweep: SweepConfig) -> None:
  """Plans the sweep, prints how long it will take, trains the runs without a result, and prints how they ended.

  Raises UserError where some runs failed or all diverged, OSError where the directory cannot be written, Stopped when a signal asks for it.
  """
  workdir, launcher = sweep.run.workdir, sweep.launch.launcher
  usable = bool(workdir) and (Path(workdir).is_dir() or not Path(workdir).exists())
  flags.check(usable, sweep.run, "workdir", "a directory, for sweep.json and runs/")
  hardware.select_platform()
  if needs_search(sweep.run):
    expand(sweep)  # a bad size is refused before trials are trained
    sweep = _at_found_rates(sweep)
  points = expand(sweep)
  with Display(sweep, points, follow=launcher != "inline") as display:
    todo = [run for name, run in runs_of(points).items() if display.runs.states[name].state not in store.RESULTS]
    if launcher == "inline":
      hardware.share_compiled(store.compile_cache(workdir))
    groups = local.groups(sweep, todo) if launcher == "local" else []
    if launcher == "slurm":
      slurm.check()
    used = data_used.lines(sweep, points)
    store.write_sweep(workdir, [point for point, _ in points], record.header() | {"data_used": used})
    for line in used:
      say(line)
    count, lengths = len(display.names), sorted({point.examples for point, _ in points})
    say_time = _time(sweep, todo, groups)
    examples = " to ".join(f"{n:,}" for n in dict.fromkeys((lengths[0], lengths[-1])))
    say(f"{count} runs of {examples} examples, {count - len(todo)} done before, {len(todo)} to do: {say_time}")
    display.runs.begin()
    if launcher == "local":
      local.launch(sweep, groups, display.tick)
    elif launcher == "slurm":
      slurm.launch(sweep, todo, display.tick)
      if not sweep.slurm.wait:
        return
    else:
      with stopping.installed():
        worker.work(sweep, todo, wait=True, tick=display.tick, tell=display.say)
    counts = display.finish().counts
  for line in (*failures(display.names, display.runs.states, workdir), *alarm_lines(display.names, display.runs.states, display.small)):
    say(line)
  if counts["diverged"] == count:
    raise flags.UserError(f"all {count} runs diverged; their records are kept under {workdir}/runs")
  kept = f", {counts['diverged']} diverged (kept as results, left out of fits)" if counts["diverged"] else ""
  if counts["failed"]:
    failed = f"{counts['failed']} of {count} runs failed"
    raise flags.UserError(f"{failed}{kept}; the same command with a larger --max_attempts tries them again")
  if left := counts["queued"] + counts["running"]:
    raise flags.UserError(f"{left} of {count} runs have not ended{kept}; the same command goes on")
  say(f"all {count} runs recorded{kept}")


def _at_found_rates(sweep: SweepConfig) -> SweepConfig:
  """The sweep at the learning rates that `--lr_find` picks for its base configuration, once for all points.

  The trials are trained in this process, also where jobs train the runs.
  """
  if sweep.launch.launcher == "slurm":
    slurm.check()
    if sweep.run.mesh.num_devices > 1:
      flag = "--lr_find" if sweep.run.lr_find else "--decay_examples=found"
      raise flags.UserError(
        f"{flag}: its trials would be trained in this process, which has not the {sweep.run.mesh.num_devices} devices of the jobs; "
        "find the rates with dlrm_jax.train in a job, then give them as flags"
      )
    say("rates: the trials are trained here, in this process, before the jobs are submitted")
  base = with_part(sweep.run, "planted", zipf_s=sweep.zipf_s_values[0]) if sweep.zipf_s_values else sweep.run
  hardware.share_compiled(store.compile_cache(sweep.run.workdir))
  with stopping.installed():
    train = at_found_rates(base, open_source(base)).train
  found = {name: getattr(train, name) for name in fields_of(TrainConfig, [RATE])}
  run = with_part(sweep.run, "train", **found)
  return dataclasses.replace(sweep, run=dataclasses.replace(run, lr_find=False))


def _time(sweep: SweepConfig, todo: list[estimate.Run], groups: list[local.WorkerGroup]) -> str:
  """How long the sweep will take, in words: from finished runs, or measured unless --measure=false."""
  if not todo:
    return "nothing to do"
  apart = len(groups[0].places[0].cores) or len(os.sched_getaffinity(0)) if groups else 0
  workers = len(groups[0].places) if groups else max(1, sweep.launch.workers) if sweep.launch.launcher == "slurm" else 1
  measure, workdir = sweep.measure and sweep.launch.launcher != "slurm", sweep.run.workdir
  speed = estimate.speed_of(todo, store.records(workdir), measure, apart, store.compile_cache(workdir))
  return speed.total_line(todo, workers) if speed else "time unknown (nothing measured, no finished run)"


if __name__ == "__main__":
  flags.run(main, SweepConfig, PRESETS)
