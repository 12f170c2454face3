"""Runs of a sweep in worker processes of this machine, among which its devices or cores are divided.

Called by `run` for --launcher=local. The workers are `sweeps.worker`s, and find each other's claims as any sweepers do; this process
only starts them, starts them again when they die, and ends them when it ends. It uses no device itself.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import jax

from dlrm_jax.common import flags, stopping
from sweeps import claims, store
from sweeps.estimate import Run
from sweeps.points import SweepConfig
from sweeps.worker import WorkerConfig

_POLL_S = 0.2
_STARTS = {False: 3, True: 10}  # deaths in a row, of themselves or by signals, without a run begun: then something is wrong for good
_SAVE_S = 60.0  # workers that were asked to stop have so long
# What restricts a process to some devices, by jax's name of the platform.
_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES", "rocm": "ROCR_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}
_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # chips of a process, as libtpu wants them said


@dataclasses.dataclass(frozen=True)
class Share:
  """What one worker gets: cores to be pinned to (none: all), and environment variables that name its devices."""

  cores: tuple[int, ...] = ()
  environment: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that take equally many devices, and the workers that share them."""

  config_ids: tuple[str, ...]
  shares: list[Share]


def groups(sweep: SweepConfig, todo: list[Run]) -> list[Group]:
  """How the runs are to be divided. Raises UserError where the workers that are asked for do not fit."""
  platform, devices = _devices()
  by_devices: dict[int, list[str]] = {}
  for point, _ in todo:
    by_devices.setdefault(1 if platform == "cpu" else point.config.mesh.num_devices, []).append(point.config_id)
  workers = sweep.launch.workers
  return [Group(tuple(ids), divide(platform, devices, needed, workers, len(ids))) for needed, ids in sorted(by_devices.items())]


def launch(sweep: SweepConfig, groups: list[Group], tick: Callable[[], None]) -> None:
  """Has the runs done, one group after the other; returns when each has ended.

  Raises UserError with a worker's own words where it met bad input or a directory that it cannot write, Stopped after SIGTERM or SIGUSR2,
  when all workers have saved.
  """
  for group in groups:
    _Workers(sweep, group, tick).run()


def _devices() -> tuple[str, list[str]]:
  """The platform that workers will use, and the names of its devices; asked of another process, since asking takes the devices."""
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


def divide(platform: str, devices: list[str], needed: int, workers: int, runs: int) -> list[Share]:
  """The share of each worker.

  Args:
    platform: cpu, whose cores are divided, neighbours together; else devices are. Every worker has equally many cores, however many runs
      are left, since results depend on their number in the last bits.
    devices: their names.
    needed: devices of a run.
    workers: how many are asked for; 0: as many as fit, on a CPU one for each core.
    runs: how many there are to do; more workers than that have nothing to do.

  Raises UserError where so many do not fit.
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
    return [Share(cores=tuple(cores[k * each : (k + 1) * each])) for k in range(count)]
  groups = [devices[k * needed : (k + 1) * needed] for k in range(count)]
  bounds = (("TPU_PROCESS_BOUNDS", "1,1,1"), ("TPU_CHIPS_PER_PROCESS_BOUNDS", _BOUNDS.get(needed, ""))) if platform == "tpu" else ()
  return [Share(environment=((_VISIBLE[platform], ",".join(group)), *bounds)) for group in groups]


def command(sweep: SweepConfig, group: Group) -> list[str]:
  """The words that start a worker."""
  fields = {f.name: getattr(sweep, f.name) for f in dataclasses.fields(SweepConfig)}
  config = WorkerConfig(**fields, only=group.config_ids, wait=True, parent=os.getpid())
  return [sys.executable, "-m", "sweeps.worker", *flags.words(config)]


class _Workers:
  """The workers of one share each, from their start until all runs have ended.

  Args:
    sweep: the sweep.
    group: the runs to do, and the share of each worker.
    tick: called now and then.
  """

  def __init__(self, sweep: SweepConfig, group: Group, tick: Callable[[], None]):
    self._workdir, self._config_ids, self._shares, self._tick = Path(sweep.run.workdir), group.config_ids, group.shares, tick
    self._words = command(sweep, group)
    self._processes: dict[int, subprocess.Popen[bytes]] = {}
    self._deaths, self._claimed, self._signum = 0, 0, 0

  def run(self) -> None:
    """Starts them and waits until all have left."""
    with self._signals():
      try:
        for place in range(len(self._shares)):
          self._start(place)
        while self._processes and not self._signum:
          self._tick()
          time.sleep(_POLL_S)
          for place, process in list(self._processes.items()):
            if process.poll() is not None:
              self._left(place, process)
      except KeyboardInterrupt:
        store.say("the workers save what they have; Ctrl-C again ends them at once")
        self._end()
        raise
      except BaseException:
        self._end()
        raise
      if self._signum:
        self._end()
        raise stopping.Stopped(f"{len(self._shares)} workers were stopped; their runs are saved under {self._workdir}/runs")

  @contextlib.contextmanager
  def _signals(self) -> Iterator[None]:
    def note(signum: int, frame: FrameType | None) -> None:
      self._signum = signum

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGTERM, signal.SIGUSR2)}
    try:
      yield
    finally:
      for signum, handler in before.items():
        signal.signal(signum, handler)

  def _log(self, place: int) -> Path:
    return self._workdir / "logs" / f"{claims.identity()['host']}-{place}.log"

  def _start(self, place: int) -> None:
    share, log = self._shares[place], self._log(place)
    log.parent.mkdir(exist_ok=True)
    everything = os.sched_getaffinity(0) if share.cores else set()
    with open(log, "ab") as out:
      if share.cores:
        os.sched_setaffinity(0, share.cores)  # what a process is started with, it keeps: no code of ours runs between fork and exec
      try:
        # A session of its own: Ctrl-C reaches this process alone, which ends the workers.
        self._processes[place] = subprocess.Popen(
          self._words, env=os.environ | dict(share.environment), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
      finally:
        if everything:
          os.sched_setaffinity(0, everything)

  def _left(self, place: int, process: subprocess.Popen[bytes]) -> None:
    """Decides what follows from a worker's end."""
    del self._processes[place]
    if process.returncode == 0:
      return
    lines = self._log(place).read_text(errors="replace").splitlines() or [""]
    if process.returncode == 2:
      raise flags.UserError(lines[-1].removeprefix("error: "))
    claimed = sum(1 for config_id in self._config_ids for _ in store.run_directory(self._workdir, config_id).glob("attempts/*.json"))
    self._deaths, self._claimed = self._deaths + 1 if claimed == self._claimed else 1, claimed
    how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"code {process.returncode}"
    if self._deaths >= _STARTS[process.returncode < 0]:
      raise flags.UserError(f"{self._deaths} workers in a row ended ({how}) without beginning a run; see {self._log(place)}")
    store.say(f"worker {place} ended ({how}) and is started again; what it said is in {self._log(place)}")
    self._start(place)

  def _end(self) -> None:
    """Asks all workers to save and end, and waits until they have; a second Ctrl-C does not wait."""
    try:
      for process in self._processes.values():
        process.terminate()  # not SIGINT: where that comes during one of jax's callbacks, Python forgets it
      until = time.monotonic() + _SAVE_S
      for process in self._processes.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(max(0.0, until - time.monotonic()))
    finally:
      for process in self._processes.values():
        process.kill()
        process.wait()
