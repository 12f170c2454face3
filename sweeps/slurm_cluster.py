"""Queries a Slurm cluster about its nodes and our jobs, through its own programs. Called by `slurm`."""

import dataclasses
import math
import re
import subprocess

from dlrm_jax.common.flags import UserError


@dataclasses.dataclass(frozen=True)
class Needs:
  """What a job asks for.

  Attributes:
    nodes: the number of nodes.
    tasks_per_node: processes of each node.
    cpus_per_task: cores of each process.
    gpus_per_node: GPUs of each node.
    mem_gib: memory of each node.
  """

  nodes: int
  tasks_per_node: int
  cpus_per_task: int
  gpus_per_node: int
  mem_gib: float

  def __str__(self) -> str:
    tasks = f"{self.tasks_per_node} processes of " if self.tasks_per_node > 1 else ""
    gpus = f"{_count(self.gpus_per_node, 'GPU')}, " if self.gpus_per_node else ""
    return f"{_count(self.nodes, 'node')} with {tasks}{_count(self.cpus_per_task, 'core')}, {gpus}{self.mem_gib:g} GiB"


def _count(number: int, what: str) -> str:
  return f"{number} {what}{'s' * (number != 1)}"


@dataclasses.dataclass(frozen=True)
class Node:
  """A node of a partition: its cores, memory and GPUs, and the partition's time limit."""

  name: str
  partition: str
  cores: int
  mem_gib: float
  gpus: int
  limit_min: float

  def holds(self, needs: Needs) -> bool:
    """Whether the node is large enough for a job."""
    cores = needs.tasks_per_node * needs.cpus_per_task
    return cores <= self.cores and needs.gpus_per_node <= self.gpus and needs.mem_gib <= self.mem_gib


def ask(*command: str) -> str:
  """Runs a program of Slurm and returns its output. Raises UserError with its error message where it fails."""
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    raise UserError(f"--launcher=slurm: {one_line(done.stderr) or f'{command[0]} failed and gave no reason'}")
  return done.stdout


def one_line(text: str) -> str:
  """The error messages of a program of Slurm, joined into one line without the program's name."""
  return "; ".join(re.sub(r"^\w+: error: ", "", line.strip()) for line in text.splitlines() if line.strip())


def nodes_of(partition: str | None) -> list[Node]:
  """The nodes of the named partitions (separated by commas), or of the default one. Empty where no partition has the name."""
  lines = ask("sinfo", "--Node", "--noheader", "--format=%N|%P|%c|%m|%G|%l").splitlines()
  found = []
  for line in lines:
    name, where, cores, mib, gres, limit = (part.strip() for part in line.split("|"))
    if where.rstrip("*") in partition.split(",") if partition else where.endswith("*"):
      gpus = sum(int(number) for number in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", gres))
      found.append(Node(name, where.rstrip("*"), int(cores), int(mib) / 1024, gpus, minutes(limit)))
  return found


def minutes(limit: str) -> float:
  """Minutes of a time limit in Slurm's form [days-][hours:]minutes:seconds. Infinite for all other text, such as "infinite"."""
  found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
  if not found:
    return math.inf
  days, hours, whole, seconds = (int(part or 0) for part in found.groups())
  return (days * 24 + hours) * 60 + whole + seconds / 60


def check(needs: Needs, time_min: int, nodes: list[Node]) -> None:
  """Raises UserError where these nodes can never run such a job, which Slurm may let wait for ever. Without nodes sbatch decides."""
  if not nodes:
    return
  where = f"partition {','.join(sorted({node.partition for node in nodes}))}"
  enough = len({node.name for node in nodes if node.holds(needs)})
  if enough < needs.nodes:
    best = max(nodes, key=lambda node: (node.gpus, node.cores, node.mem_gib))
    gpus = f"{_count(best.gpus, 'GPU')}, " if needs.gpus_per_node else ""
    raise UserError(f"{where} has {enough} such nodes; its largest has {_count(best.cores, 'core')}, {gpus}{best.mem_gib:.4g} GiB")
  longest = max(node.limit_min for node in nodes)
  if time_min > longest:
    raise UserError(f"--slurm_time_min={time_min}: {where} allows jobs of at most {longest:g} minutes")


def max_array_size() -> int:
  """The most jobs that an array of this cluster may have."""
  found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
  return max(1, int(found[1])) if found else 1000


def alive() -> dict[str, str]:
  """This user's arrays and jobs that wait, run or are ending. Maps each id to the reason why some of it waits, or to an empty text."""
  lines = [line.split(maxsplit=2) for line in ask("squeue", "--me", "--noheader", "--format=%F %t %r").splitlines()]
  return {job: "" for job, _, _ in lines} | {job: reason for job, state, reason in lines if state == "PD"}
