"""The flags that choose where the runs of a sweep execute. None changes what is computed. Read by `run`, `worker` and the launchers."""

import dataclasses
from typing import Any, TypeVar

from dlrm_jax.common import flags
from dlrm_jax.config import RunConfig

T = TypeVar("T")
LAUNCHERS = ("inline", "local", "slurm")


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
  """How runs are distributed; these flags apply to every launcher."""

  launcher: str = flags.option(
    "inline",
    "where runs execute: one after another in this process; in worker processes of this machine; in jobs of a Slurm cluster",
    LAUNCHERS,
  )
  workers: int = flags.option(
    0, "local: worker processes, which share the devices or cores; slurm: most jobs at a time; 0: as many as fit", at_least=0
  )
  max_attempts: int = flags.option(3, "most attempts at a run that fail, or are lost without progress; then it is given up", at_least=1)
  stale_after_s: float = flags.option(
    60.0, "a sweeper on another machine counts as dead after this long without a sign of life, seconds", at_least=1
  )
  together: int = flags.option(1, "most runs to train at once in one program; they may differ in seed and learning rates only", at_least=1)

  def __post_init__(self) -> None:
    flags.check_fields(self)


@dataclasses.dataclass(frozen=True)
class SlurmConfig:
  """What the jobs of `--launcher=slurm` ask for."""

  PREFIX = "slurm_"
  partition: str | None = flags.option(None, "partition of the jobs; none: the cluster's default")
  account: str | None = flags.option(None, "account to charge; none: the default")
  time_min: int = flags.option(
    240, "time limit of a job, minutes; a run that has not ended by then is saved and continues in the next job", at_least=1
  )
  devices_per_node: int = flags.option(1, "devices of a node; a run on a larger --mesh takes several nodes", at_least=1)
  gpus: bool = flags.option(False, "request GPUs as devices, with one process for each node; else each device is a CPU process")
  cpus_per_task: int = flags.option(2, "cores of a process", at_least=1)
  mem_gib: float = flags.option(0.0, "memory of a node, GiB; 0: estimated from the run", at_least=0)
  wait: bool = flags.option(False, "wait until every job has ended and show progress; else submit and return")

  def __post_init__(self) -> None:
    flags.check_fields(self)

  def nodes(self, num_devices: int) -> int:
    """The nodes of a run. Raises UserError where its devices do not divide evenly over them."""
    nodes = -(-num_devices // self.devices_per_node)
    if num_devices % nodes:
      raise flags.UserError(
        f"--mesh={num_devices}: its devices do not divide evenly over {nodes} nodes of --slurm_devices_per_node={self.devices_per_node}"
      )
    return nodes

  def processes(self, num_devices: int) -> int:
    """The processes of a run: with GPUs one for each node, else one for each device. Raises UserError as `nodes` does."""
    nodes = self.nodes(num_devices)
    return nodes if self.gpus else num_devices

  def over_processes(self, run: RunConfig) -> RunConfig:
    """The run with the processes that its devices need. They find each other through Slurm."""
    processes = self.processes(run.mesh.num_devices)
    return dataclasses.replace(run, coordinator="auto" if processes > 1 else None, num_processes=processes, process_id=0)


def extended(sweep: Any, cls: type[T], **more: Any) -> T:
  """Copies a SweepConfig into a `cls`, which adds fields to it. `more` sets those fields, or replaces others."""
  return cls(**{field.name: getattr(sweep, field.name) for field in dataclasses.fields(sweep)} | more)
