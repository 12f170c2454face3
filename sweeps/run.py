"""Runs a sweep: one record a run under WORKDIR/runs/<config_id>/. A finished run is never run again.

python -m sweeps.run --preset=quick --workdir=runs/quick
python -m sweeps.run --axes=rows,dim,overarch,mlp --data=DIR --workdir=runs/mine
"""

import sys
import time

from dlrm_jax import flags, hardware, loop
from sweeps import store
from sweeps.points import SweepConfig, expand
from sweeps.presets import PRESETS


def main(sweep: SweepConfig) -> None:
  """Plans, runs what is not done, says how each run went."""
  workdir = sweep.run.workdir
  flags.check(bool(workdir), sweep.run, "workdir", "a directory for sweep.json and runs/")
  hardware.select_platform()
  points = expand(sweep)
  store.write_sweep(workdir, [point for point, _ in points], hardware.header())
  todo = {point.config_id: (point, source) for point, source in points if not store.finished(workdir, point.config_id)}
  runs = len({point.config_id for point, _ in points})
  say(f"{runs} runs, {runs - len(todo)} done before, {len(todo)} to do; records under {workdir}/runs")
  started, diverged = time.perf_counter(), 0
  for number, (config_id, (point, source)) in enumerate(todo.items(), 1):
    out = loop.train(point.config, store.run_directory(workdir, config_id), source)
    diverged += out["status"] == "diverged"
    left = (time.perf_counter() - started) / number * (len(todo) - number)
    score = (
      ", ".join(f"{name} {out[name]:.4f}" for name in ("ne", "excess") if out[name] is not None) if out["status"] == "done" else "DIVERGED"
    )
    where = f"{point.workload} {point.axis}={point.size:g} seed {point.seed} {point.learner}"
    say(f"[{number}/{len(todo)}] {where}: {score}, {out['wall_s']:.0f} s, {out['examples_per_s']:,.0f} examples/s; about {left:.0f} s left")
  if diverged and diverged == len(todo):
    raise flags.UserError(f"all {diverged} runs diverged; their records are kept under {workdir}/runs")
  say(f"all {runs} runs recorded" + (f", {diverged} diverged (kept as results, left out of fits)" if diverged else ""))


def say(text: str) -> None:
  """Progress, on standard error."""
  print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
  flags.run(main, SweepConfig, PRESETS)
