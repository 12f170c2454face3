"""Submits the runs of a sweep as job arrays of a Slurm cluster (`--launcher=slurm`). Called by `run`.

Runs with equal needs form a group, and each group is one array. Each job of the array is a sweeper (`sweeps.worker`) over the runs of the
group. Sweepers claim runs, so any number of jobs and arrays trains each run once. A job is asked to stop when its time limit is near, or
when its nodes are preempted. It then saves and is queued again, as is a job that died (slurm_job.py). What is submitted is a command line.
The files of submitit and the output of the jobs are in WORKDIR/slurm/.
"""

import contextlib
import dataclasses
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dlrm_jax.common import flags, record
from dlrm_jax.common.flags import UserError
from dlrm_jax.common.progress import say
from dlrm_jax.data.source import Source
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import Machine, make_plan, plan_bytes, working_bytes
from sweeps import slurm_cluster, slurm_job
from sweeps.launch_flags import extended
from sweeps.points import Point, Run, SweepConfig
from sweeps.slurm_cluster import Needs
from sweeps.worker import WorkerConfig

_RUNS_A_JOB = 4000  # their config_ids are one word of a command line, which Linux limits to 128 KiB
_ASK_EVERY_S = 5.0  # time between two queries of Slurm's controller
_ALL_WELL = ("", "None", "Resources", "Priority", "BeginTime", "JobArrayTaskLimit")  # reasons of waiting jobs that need no message
_BASE_GIB = {False: 1.5, True: 4.0}  # memory of a process without tables, without and with CUDA (0.5 GiB measured on a CPU)


def needs_of(point: Point, source: Source, sweep: SweepConfig) -> Needs:
  """What a job of a run asks for: nodes and processes from its mesh, memory from its plan unless `--slurm_mem_gib` is given."""
  slurm, devices = sweep.slurm, point.config.mesh.num_devices
  nodes = slurm.nodes(devices)
  tasks, here = slurm.processes(devices) // nodes, devices // nodes
  memory = slurm.mem_gib or _host_gib(point, source, sweep, tasks, here)
  return Needs(nodes, tasks, slurm.cpus_per_task, here if slurm.gpus else 0, memory)


def _host_gib(point: Point, source: Source, sweep: SweepConfig, tasks: int, devices: int) -> float:
  """Host memory of a node: tables, and their copy for a checkpoint. Rounded up to 2, 3, 4, 6, 8, ... so that there are few groups."""
  config, layout = point.config, make_layout(point.config.model, source.shape)
  held = plan_bytes(make_plan(config, layout, Machine(config.mesh.num_devices)), config.train.table_optimizer)
  device = held if sweep.slurm.gpus else 2 * held + working_bytes(config, layout, config.mesh.num_devices)
  needed = tasks * _BASE_GIB[sweep.slurm.gpus] + sweep.launch.together * devices * device / 2**30
  steps = (size for k in range(64) for size in (2.0**k, 1.5 * 2.0**k))
  return next(size for size in steps if size >= needed)


def check() -> None:
  """Raises UserError where no jobs can be submitted from this machine."""
  if shutil.which("sbatch") is None:
    raise UserError("--launcher=slurm: there is no sbatch here; start it where jobs are submitted, or choose --launcher=local")


def launch(sweep: SweepConfig, todo: list[Run], tick: Callable[[], None]) -> None:
  """Submits the runs that are in no job yet. With `--slurm_wait` it returns when every job has ended.

  Args:
    sweep: the sweep.
    todo: runs without a result, one for each config_id.
    tick: called about once a second while waiting.

  Raises UserError where the cluster cannot run a job; the jobs that were submitted before are then cancelled.
  """
  folder = Path(sweep.run.workdir).absolute() / "slurm"
  alive = slurm_cluster.alive()
  jobs = [job for job in _submitted(folder) if job["job"] in alive]
  covered = {run for job in jobs for run in job["runs"]}
  if there := sum(point.config_id in covered for point, _ in todo):
    say(f"{there} of the runs are in jobs that wait or run already: {', '.join(job['job'] for job in jobs)}")
  groups: dict[Needs, list[Point]] = {}
  for point, source in todo:
    if point.config_id not in covered:
      groups.setdefault(needs_of(point, source, sweep), []).append(point)
  new = _submit_all(sweep, folder, groups, jobs)
  if jobs + new:
    say(f"squeue --name={_name(sweep)} and python -m sweeps.status --workdir={sweep.run.workdir} show how far they are")
  if sweep.slurm.wait:
    _wait({job["job"] for job in jobs + new}, tick)


def _submitted(folder: Path) -> list[dict[str, Any]]:
  """What earlier commands submitted: a list of arrays, each with `job`, its id, and `runs`, its config_ids."""
  path = folder / "submitted.json"
  return record.read_json(path)["jobs"] if path.exists() else []


def _submit_all(sweep: SweepConfig, folder: Path, groups: dict[Needs, list[Point]], jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Submits all groups or none, and adds them to `jobs` in submitted.json."""
  nodes = slurm_cluster.nodes_of(sweep.slurm.partition)
  for needs, points in groups.items():
    with _of_runs(points, needs):
      slurm_cluster.check(needs, sweep.slurm.time_min, nodes)
  new: list[dict[str, Any]] = []
  try:
    for needs, points in groups.items():
      for start in range(0, len(points), _RUNS_A_JOB):
        new.append(_submit(sweep, folder, needs, points[start : start + _RUNS_A_JOB]))
        record.write_json(folder / "submitted.json", record.header() | {"jobs": jobs + new})
  except BaseException:
    for job in new:
      slurm_cluster.ask("scancel", job["job"])
    raise
  return new


@contextlib.contextmanager
def _of_runs(points: list[Point], needs: Needs) -> Iterator[None]:
  """Adds the runs that it concerns to a UserError raised within."""
  try:
    yield
  except UserError as error:
    others = f" and {len(points) - 1} more need" if len(points) > 1 else " needs"
    raise UserError(f"--launcher=slurm: {points[0].name}{others} {needs}: {error}") from None


def _name(sweep: SweepConfig) -> str:
  """The name of the jobs, without spaces, commas and the like, which squeue does not accept."""
  return "dlrm-" + re.sub(r"[^\w.-]", "_", Path(sweep.run.workdir).absolute().name)


def words_of(sweep: SweepConfig, needs: Needs, runs: tuple[str, ...]) -> list[str]:
  """The command line of a sweeper over some runs of the sweep."""
  run = dataclasses.replace(sweep.run, coordinator="auto") if needs.nodes * needs.tasks_per_node > 1 else sweep.run
  return flags.words(extended(sweep, WorkerConfig, run=run, only=runs))


def _submit(sweep: SweepConfig, folder: Path, needs: Needs, points: list[Point]) -> dict[str, Any]:
  """Submits one array. Returns its entry of submitted.json."""
  import submitit  # only here, since the import takes a third of a second

  slurm, runs = sweep.slurm, tuple(point.config_id for point in points)
  sweepers = -(-len(runs) // sweep.launch.together)
  sweepers = min(sweepers, sweep.launch.workers or sweepers, slurm_cluster.max_array_size())
  executor = submitit.SlurmExecutor(folder=folder)
  executor.update_parameters(
    job_name=_name(sweep),
    partition=slurm.partition,
    account=slurm.account,
    time=slurm.time_min,
    nodes=needs.nodes,
    ntasks_per_node=needs.tasks_per_node,
    cpus_per_task=needs.cpus_per_task,
    gpus_per_node=needs.gpus_per_node or None,
    mem=f"{needs.mem_gib * 1024:.0f}M",
    signal_delay_s=min(180, 20 * slurm.time_min),  # jobs are asked to save this long before their time limit
    array_parallelism=sweepers,
    setup=[] if slurm.gpus else ["export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1"],
    teardown=list(slurm_job.REQUEUE),
    # Since Slurm 22.05 srun does not inherit --cpus-per-task. Without --kill-on-bad-exit processes wait for ever for one that died.
    srun_args=[f"--cpus-per-task={needs.cpus_per_task}", "--kill-on-bad-exit=1"],
    additional_parameters={"requeue": True},
  )
  with _of_runs(points, needs), contextlib.redirect_stderr(io.StringIO()):  # submitit also prints the message of its exception
    try:
      jobs = executor.map_array(slurm_job.become_sweeper, [words_of(sweep, needs, runs)] * sweepers)
    except submitit.core.utils.FailedJobError as error:
      raise UserError(f"sbatch: {slurm_cluster.one_line(str(error)) or 'no reason given'}") from None
  job = str(jobs[0].job_id).partition("_")[0]
  sizes = f"{len(runs)} runs, {sweepers} jobs at a time" if len(runs) > 1 else "1 run"
  say(f"submitted {job}: {sizes}, each {needs}")
  return {"job": job, "runs": list(runs)}


def _wait(jobs: set[str], tick: Callable[[], None]) -> None:
  """Waits until none of the jobs is left, and prints why jobs do not start. It also waits for a controller that does not answer."""
  asked, told = -_ASK_EVERY_S, dict[str, str]()
  while True:
    if time.monotonic() - asked >= _ASK_EVERY_S:
      asked = time.monotonic()
      try:
        alive = {job: reason for job, reason in slurm_cluster.alive().items() if job in jobs}
      except UserError as error:
        say(f"{error}: asking again")
      else:
        if not alive:
          return
        for job, reason in alive.items():
          if reason not in (*_ALL_WELL, told.get(job)):
            say(f"{job} waits: {reason}")
            told[job] = reason
    tick()
    time.sleep(1)
