"""Trains the runs of a sweep in worker processes of this machine, which share its devices or cores.

Called by `run` for --launcher=local. Each worker is a `sweeps.worker`; workers see each other's claims as all sweepers do. This process
only starts them, restarts them when they die, and ends them when it ends. It uses no device itself.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax

from dlrm_jax.common import flags, stopping
from dlrm_jax.common.progress import say
from sweeps import claims, store
from sweeps.launch_flags import extended
from sweeps.points import Run, SweepConfig
from sweeps.worker import WorkerConfig

_POLL_S = 0.2
# When this many workers in a row have ended before they claimed a run, the sweep ends. The second limit is for workers ended by a signal.
_MAX_FAILED_STARTS, _MAX_KILLED_STARTS = 3, 10
_SAVE_S = 60.0  # time that workers have to save after they were asked to stop
# The environment variable that restricts a process to some devices, by jax's name of the platform.
_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES", "rocm": "ROCR_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}
_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # the arrangement of a process's chips, in the form that libtpu expects


@dataclasses.dataclass(frozen=True)
class WorkerPlace:
  """Where one worker runs: the cores it is pinned to (none: all), and environment variables that name its devices."""

  cores: tuple[int, ...] = ()
  environment: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class WorkerGroup:
  """Runs that need the same number of devices, and the places of the workers that train them."""

  config_ids: tuple[str, ...]
  places: list[WorkerPlace]


def groups(sweep: SweepConfig, todo: list[Run]) -> list[WorkerGroup]:
  """Groups the runs by the devices that they need. Raises UserError where --workers do not fit."""
  platform, devices = _devices()
  by_devices: dict[int, list[str]] = {}
  for point, _ in todo:
    by_devices.setdefault(1 if platform == "cpu" else point.config.mesh.num_devices, []).append(point.config_id)
  workers = sweep.launch.workers
  return [WorkerGroup(tuple(ids), divide(platform, devices, needed, workers, len(ids))) for needed, ids in sorted(by_devices.items())]


def launch(sweep: SweepConfig, groups: list[WorkerGroup], tick: Callable[[], None]) -> None:
  """Has the runs trained, one group after another. Returns when every run has ended.

  Raises UserError with a worker's own message where it met bad input or a directory that it cannot write. Raises Stopped after SIGTERM or
  SIGUSR2, once all workers have saved.
  """
  with stopping.installed(several=False):  # known, so that jax takes no device here
    for group in groups:
      _Workers(sweep, group, tick).run()


def _devices() -> tuple[str, list[str]]:
  """The platform that workers will use, and the names of its devices. Another process asks jax, which takes the devices it lists."""
  if jax.config.jax_platforms == "cpu":  # type: ignore[attr-defined]
    return "cpu", []
  code = "import jax; print(jax.devices()[0].platform, jax.local_device_count(), 'rocm' in jax.devices()[0].client.platform_version)"
  asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  if asked.returncode:
    raise flags.UserError(f"--launcher=local: jax finds no device: {asked.stderr.strip().splitlines()[-1]}")
  platform, count, rocm = asked.stdout.split()[-3:]
  platform = "rocm" if rocm == "True" else platform
  named = os.environ.get(_VISIBLE.get(platform, ""), "")
  return platform, named.split(",") if named else [str(index) for index in range(int(count))]


def divide(platform: str, devices: list[str], needed: int, workers: int, runs: int) -> list[WorkerPlace]:
  """Divides the cores of this machine, or its devices, among workers.

  Args:
    platform: on "cpu" cores are divided, neighbours together; else devices are. The cores of a worker do not depend on the runs left,
      since their number changes the last bits of results.
    devices: the names of the devices.
    needed: devices of a run.
    workers: the number of workers asked for; 0: as many as fit, on a CPU one for each core.
    runs: the number of runs to train; there are no more workers than that.

  Raises UserError where the workers do not fit.
  """
  if platform == "cpu":
    cores = sorted(os.sched_getaffinity(0))
    most, what = len(cores), f"this process may use {len(cores)} cores"
  else:
    most, what = len(devices) // needed, f"jax finds {len(devices)} {platform} devices, and a run takes {needed}"
  if workers > most or not most:
    raise flags.UserError(f"--workers={workers}: must be at most {most}: {what}")
  count = min(workers or most, runs)
  if platform == "cpu":
    each = len(cores) // (workers or most)
    return [WorkerPlace(cores=tuple(cores[k * each : (k + 1) * each])) for k in range(count)]
  groups = [devices[k * needed : (k + 1) * needed] for k in range(count)]
  bounds = (("TPU_PROCESS_BOUNDS", "1,1,1"), ("TPU_CHIPS_PER_PROCESS_BOUNDS", _BOUNDS.get(needed, ""))) if platform == "tpu" else ()
  return [WorkerPlace(environment=((_VISIBLE[platform], ",".join(group)), *bounds)) for group in groups]


def command(sweep: SweepConfig, group: WorkerGroup) -> list[str]:
  """The command line that starts a worker."""
  config = extended(sweep, WorkerConfig, only=group.config_ids, wait=True, parent=os.getpid())
  return [sys.executable, "-m", "sweeps.worker", *flags.words(config)]


class _Workers:
  """The worker processes of a group, from their start until all runs have ended.

  Args:
    sweep: the sweep.
    group: the runs to train, and the place of each worker.
    tick: called regularly, to show progress.
  """

  def __init__(self, sweep: SweepConfig, group: WorkerGroup, tick: Callable[[], None]):
    self._workdir, self._config_ids, self._places, self._tick = Path(sweep.run.workdir), group.config_ids, group.places, tick
    self._words = command(sweep, group)
    self._processes: dict[int, subprocess.Popen[bytes]] = {}
    self._deaths, self._claimed = 0, 0

  def run(self) -> None:
    """Starts the workers and waits until all have left."""
    try:
      for number in range(len(self._places)):
        self._start(number)
      while self._processes and not stopping.requested():
        self._tick()
        time.sleep(_POLL_S)
        for number, process in list(self._processes.items()):
          if process.poll() is not None:
            self._left(number, process)
      if stopping.requested():
        raise stopping.Stopped(f"{len(self._places)} workers were stopped; their runs are saved under {self._workdir}/runs")
    except BaseException as error:
      if isinstance(error, KeyboardInterrupt):
        say("the workers save their runs; Ctrl-C again ends them at once")
      self._end()
      raise

  def _log(self, number: int) -> Path:
    return self._workdir / "logs" / f"{claims.identity()['host']}-{number}.log"

  def _start(self, number: int) -> None:
    place, log = self._places[number], self._log(number)
    log.parent.mkdir(exist_ok=True)
    everything = os.sched_getaffinity(0) if place.cores else set()
    with open(log, "ab") as out:
      if place.cores:
        os.sched_setaffinity(0, place.cores)  # the worker inherits it, so no code of ours has to run between fork and exec
      try:
        # In a session of its own, so that Ctrl-C reaches this process alone, which then ends the workers.
        self._processes[number] = subprocess.Popen(
          self._words, env=os.environ | dict(place.environment), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
      finally:
        if everything:
          os.sched_setaffinity(0, everything)

  def _left(self, number: int, process: subprocess.Popen[bytes]) -> None:
    """Handles the end of a worker: restarts it, or ends the sweep with a UserError."""
    del self._processes[number]
    if process.returncode == 0:
      return
    lines = self._log(number).read_text(errors="replace").splitlines() or [""]
    if process.returncode == 2:
      raise flags.UserError(lines[-1].removeprefix("error: "))
    claimed = sum(1 for config_id in self._config_ids for _ in store.run_directory(self._workdir, config_id).glob("attempts/*.json"))
    self._deaths, self._claimed = self._deaths + 1 if claimed == self._claimed else 1, claimed
    how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"code {process.returncode}"
    if self._deaths >= (_MAX_KILLED_STARTS if process.returncode < 0 else _MAX_FAILED_STARTS):
      raise flags.UserError(f"{self._deaths} workers in a row ended ({how}) without beginning a run; see {self._log(number)}")
    say(f"worker {number} ended ({how}) and is started again; its output is in {self._log(number)}")
    self._start(number)

  def _end(self) -> None:
    """Asks all workers to save and end, and waits for them. A second Ctrl-C does not wait."""
    try:
      for process in self._processes.values():
        process.terminate()  # not SIGINT, which Python loses during jax's callbacks
      until = time.monotonic() + _SAVE_S
      for process in self._processes.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(max(0.0, until - time.monotonic()))
    finally:
      for process in self._processes.values():
        process.kill()
        process.wait()
