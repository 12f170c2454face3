"""The flags of `python -m benchmarks.peers`, and the workers that they ask for."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from benchmarks.measure.output import check_output
from benchmarks.measure.workloads import RUNS
from benchmarks.peers.process import ROOT
from benchmarks.peers.worker import Spec
from dlrm_jax.common import flags
from dlrm_jax.common.flags import UserError, option
from dlrm_jax.data.shapes import random_batch, shape_of

# Trainer -> optimiser of its tables. All trainers use Adagrad for the MLPs.
TRAINERS = {
  "ours": "rowwise_adagrad",
  "fbgemm": "rowwise_adagrad",
  "torchrec": "rowwise_adagrad",
  "pytorch_sgd": "sgd",
  "pytorch_adagrad": "adagrad",
}
WORKLOADS = ("W1", "W2", "emb")
_W2_ROWS = 100_000
_BATCHES = 8  # distinct batches, used in turn
_PROCESS_BYTES = 5e8  # memory of a worker without its tables


@dataclasses.dataclass(frozen=True)
class PeersConfig:
  """Flags of `python -m benchmarks.peers`."""

  output: str = option("", "JSON file to write; required")
  markdown: str = option("", "put the table between <!-- how-fast --> and <!-- /how-fast --> of this file")
  trainers: tuple[str, ...] = option(tuple(TRAINERS), "trainers to time; all but ours need `make peers`", tuple(TRAINERS))
  workloads: tuple[str, ...] = option(WORKLOADS, "W1 and W2: whole steps; emb: lookup, gradient and update of W1's tables alone", WORKLOADS)
  num_rows: tuple[int, ...] = option((1000, _W2_ROWS, 1_000_000), f"rows of each table in W1 and emb; W2 has {_W2_ROWS:,}")
  batch_size: int = option(2048, "examples per step", at_least=1)
  rounds: int = option(6, "turns of each trainer", at_least=1)
  steps: int = option(8, "timed steps of a turn", at_least=1)
  warmup: int = option(2, "untimed steps before them, in each turn", at_least=0)
  cores: tuple[int, ...] = option((), "cores that each worker is pinned to; none: the first that this process may use")
  scaling: bool = option(False, f"also time W1 at {_W2_ROWS:,} rows on one core and on two")
  check: bool = option(True, "first compare the losses of a few steps with ours, from the same weights, and stop where they differ")
  peers_python: str = option(".venv-peers/bin/python", "Python of the peers' environment")

  def __post_init__(self) -> None:
    flags.check_fields(self)
    for name in ("trainers", "workloads", "num_rows"):
      flags.check(len(getattr(self, name)) == len(set(getattr(self, name))) > 0, self, name, "one or more, each once")
    flags.check(min(self.num_rows) >= 2, self, "num_rows", "each at least 2")
    usable = usable_cores()
    fits = set(self.cores) <= set(usable) and len(set(self.cores)) == len(self.cores)
    flags.check(fits, self, "cores", "among " + ", ".join(map(str, usable)) + ", each once")

  @property
  def pinned(self) -> tuple[int, ...]:
    """The cores of each worker."""
    return self.cores or usable_cores()[:1]


def usable_cores() -> tuple[int, ...]:
  """The cores this process may use."""
  return tuple(sorted(os.sched_getaffinity(0)))


def check_files(config: PeersConfig) -> None:
  """Raises UserError where the output cannot be written or the peers' environment is missing."""
  check_output(config.output)
  peers = [name for name in config.trainers if name != "ours"]
  if peers and not (ROOT / config.peers_python).exists():
    raise UserError(f"--trainers={','.join(peers)}: no such file {config.peers_python}: `make peers` makes the peers' environment")


def write_inputs(directory: Path, num_rows: int, embed_dim: int, batch_size: int) -> str:
  """Writes the batches of one size, which all trainers use, unless the file exists. Returns its path."""
  path = directory / f"{num_rows}_{embed_dim}.npz"
  if not path.exists():
    run = RUNS["W1"]
    model, train = dataclasses.replace(run.model, num_rows=num_rows), dataclasses.replace(run.train, batch_size=batch_size)
    run = dataclasses.replace(run, model=model, train=train)
    batches = [random_batch(run, shape_of(run), seed) for seed in range(_BATCHES)]
    pooled = (*batches[0].ids_bl.shape, embed_dim)
    np.savez(
      path,
      dense_kbm=np.stack([batch.dense_bm for batch in batches]),
      ids_kbf=np.stack([batch.ids_bl for batch in batches]),
      label_kb=np.stack([batch.label_b for batch in batches]),
      grad_bfd=(np.random.default_rng(_BATCHES).normal(size=pooled) / batch_size).astype(np.float32),  # as large as a mean loss's
    )
  return str(path)


def spec_of(config: PeersConfig, directory: Path, trainer: str, workload: str, num_rows: int, cores: tuple[int, ...]) -> Spec:
  """What a worker of one trainer, workload and size times."""
  run = RUNS["W2" if workload == "W2" else "W1"]
  model, train = run.model, run.train
  assert model.bottom is not None and train.dense_optimizer == "adagrad"  # as in torch_trainers.py
  return Spec(
    trainer=trainer,
    workload=workload,
    num_rows=num_rows,
    embed_dim=model.embed_dim,
    bottom=model.bottom,
    overarch=model.overarch,
    table_optimizer=TRAINERS[trainer],
    table_lr=train.table_lr,
    dense_lr=train.dense_lr,
    table_init=train.table_init,
    cores=cores,
    inputs=write_inputs(directory, num_rows, model.embed_dim, config.batch_size),
  )


def series(config: PeersConfig, directory: Path) -> dict[str, list[Spec]]:
  """The workers that take turns, by series: one series for each workload, and one for `scaling`."""
  out = {}
  for workload in config.workloads:
    sizes = (_W2_ROWS,) if workload == "W2" else config.num_rows
    out[workload] = [spec_of(config, directory, name, workload, size, config.pinned) for size in sizes for name in config.trainers]
  cores = config.cores if len(config.cores) > 1 else usable_cores()
  if config.scaling and len(cores) > 1:
    out["scaling"] = [spec_of(config, directory, name, "W1", _W2_ROWS, cores[:count]) for count in (1, 2) for name in config.trainers]
  return out


def bytes_of(spec: Spec, num_tables: int) -> float:
  """Estimates the memory of a worker: tables, accumulators and scratch, and the process itself."""
  copies = 2 if spec.table_optimizer == "adagrad" else 1
  return _PROCESS_BYTES + num_tables * spec.num_rows * (4 * spec.embed_dim * copies + 8)


def check_memory(todo: dict[str, list[Spec]], available: float, num_tables: int) -> None:
  """Raises UserError where the workers of a series need more than `available` bytes together."""
  for name, specs in todo.items():
    needed = sum(bytes_of(spec, num_tables) for spec in specs)
    if needed > available:
      sizes = ",".join(str(size) for size in sorted({spec.num_rows for spec in specs}))
      raise UserError(
        f"--num_rows={sizes}: the {len(specs)} workers of {name} need about {needed / 2**30:.1f} GiB together, "
        f"{available / 2**30:.1f} are available: fewer rows or --trainers"
      )


def available_bytes() -> float:
  """Memory that is available without swapping, as the kernel estimates it."""
  line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
  return 1024.0 * int(line.split()[1])
