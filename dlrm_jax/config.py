"""Everything a run depends on, as frozen dataclasses. Flags are generated from the fields (`flags.py`).

A config refuses nonsense where it is made, naming flag, value and what is allowed. Each field states what it affects (`Affects`).
`config_id` is a stable hash of what changes the numbers.
"""

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Hashable, Sequence
from typing import Any

from dlrm_jax.common.flags import UserError, check, check_choices, option

ORDERS = ("time", "shuffled")  # of the training examples of a data set (data/order.py)
HORIZONS = ("linear", "quadratic", "cosine")  # schedules that reach 0 after --decay_examples
# Part of `config_id`. Increment it when a default below changes, or when the same config gives other numbers. One for prepared data, one
# for planted data.
SCHEMA_VERSION, PLANTED_VERSION = 1, 2


class Affects(enum.Enum):
  """What a field of a run's config affects. Each field states one of these; every other list of fields is derived from them."""

  NUMBERS = "what is trained"
  SEED = "the random draws of a run"
  RATE = "a learning rate: an argument of the compiled step"
  LENGTH = "how many examples a run trains on"
  EVALUATION = "what is measured on the way"
  PLACEMENT = "which devices do what: numbers change by rounding only"
  DATA = "which examples there are: `config_id` hashes the digest of the data instead"
  EXECUTION = "where and how the program runs"

  def option(self, default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:  # noqa: A002
    """A field that affects this, and its flag (`flags.option`)."""
    return option(default, help, choices, affects=self)


NUMBERS, SEED, RATE, LENGTH, EVALUATION, PLACEMENT, DATA, EXECUTION = Affects
IDENTITY = (NUMBERS, SEED, RATE, LENGTH, EVALUATION, PLACEMENT)  # `config_id` hashes such fields
RESUMABLE = (LENGTH, EVALUATION, PLACEMENT, EXECUTION)  # they may differ between a checkpoint and a run that goes on from it
TOGETHER = (SEED, RATE)  # they may differ between runs that one program trains at once


def fields_of(config: type, affected: Sequence[Affects]) -> list[str]:
  """The names of a config's own fields that affect one of these. Raises TypeError for a field that does not state what it affects."""
  names = []
  for field in dataclasses.fields(config):
    if dataclasses.is_dataclass(field.type):
      continue  # a nested config, whose own fields state it
    if not isinstance(field.metadata.get("affects"), Affects):
      raise TypeError(
        f"{config.__name__}.{field.name} does not state what it affects: declare it with NUMBERS.option(...), or with another of "
        "config.Affects"
      )
    if field.metadata["affects"] in affected:
      names.append(field.name)
  return names


@dataclasses.dataclass(frozen=True)
class TableConfig:
  """One embedding table of `num_rows` rows of `dim` values; an example looks up `bag_length` of them."""

  name: str
  num_rows: int
  dim: int
  bag_length: int = 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The DLRM of Naumov et al. 2019 (arXiv 1906.00091): bottom MLP, embeddings, pairwise dots, overarch."""

  embed_dim: int = NUMBERS.option(8, "embedding dimension D of every categorical feature")
  num_rows: int = NUMBERS.option(100_000, "most rows a table may have; a feature with fewer distinct ids gets a row for each")
  num_tables: int = NUMBERS.option(0, "categorical features that the model reads, the first so many of the data's; 0: all")
  rows_by: str = NUMBERS.option(
    "top", "how ids share rows where the cap binds: the most frequent keep their own, or all are hashed", ("top", "hash")
  )
  bottom: tuple[int, ...] | None = NUMBERS.option(
    None, "all widths of the MLP over dense inputs, ending in embed_dim; none: 4*embed_dim,embed_dim"
  )
  overarch: tuple[int, ...] = NUMBERS.option((64, 64, 1), "all widths of the MLP over the interactions, ending in 1")
  pooling: str = NUMBERS.option(
    "sum", "how the rows of a bag become one vector; mean divides by the sum of the bag's weights", ("sum", "mean")
  )
  table_dtype: str = NUMBERS.option(
    "float32", "dtype of the rows; bfloat16 is rounded at random, optimiser slots stay float32", ("float32", "bfloat16")
  )
  interaction: str = NUMBERS.option("dot", "how the feature vectors meet: pairwise dots, or DCN v2's cross layers", ("dot", "dcn_v2"))
  cross_layers: int = NUMBERS.option(3, "layers of the cross network (interaction=dcn_v2)")
  cross_rank: int = NUMBERS.option(512, "rank of each cross layer's weight (interaction=dcn_v2)")
  overarch_inputs: tuple[str, ...] = NUMBERS.option(
    ("dense", "dots", "first_order"),
    "what the overarch reads; dots: what the interaction gives; first_order: a learned scalar per id, added to the logit",
    ("dense", "dots", "rows", "first_order"),
  )
  compute_dtype: str = NUMBERS.option("float32", "dtype of the matrix products; parameters stay float32", ("float32", "bfloat16"))
  matmul_precision: str = NUMBERS.option("default", "jax matmul precision", ("default", "high", "highest"))

  def __post_init__(self) -> None:
    check_choices(self)
    check(self.embed_dim >= 1, self, "embed_dim", "at least 1")
    check(2 <= self.num_rows <= 2**31 - 1, self, "num_rows", "from 2 to 2147483647")
    check(self.num_tables >= 0, self, "num_tables", "at least 0")
    check(len(self.overarch) >= 1 and min(self.overarch) >= 1, self, "overarch", "widths of at least 1")
    check(self.overarch[-1] == 1, self, "overarch", "widths ending in 1 (one click logit)")
    check(self.cross_layers >= 1, self, "cross_layers", "at least 1")
    check(self.cross_rank >= 1, self, "cross_rank", "at least 1")
    check("dots" in self.overarch_inputs or "rows" in self.overarch_inputs, self, "overarch_inputs", "a list with dots or rows in it")
    if self.bottom is not None:
      check(len(self.bottom) >= 1 and min(self.bottom) >= 1, self, "bottom", "widths of at least 1")
      check(self.bottom[-1] == self.embed_dim, self, "bottom", f"widths ending in embed_dim={self.embed_dim}")

  def bottom_widths(self, num_dense: int) -> tuple[int, ...]:
    """Widths of the bottom MLP for data with `num_dense` dense inputs; empty where there are none (UserError if `bottom` is set)."""
    if num_dense == 0:
      if self.bottom is not None:
        raise UserError(
          f"--bottom={','.join(map(str, self.bottom))}: the data has no dense inputs, so there is no bottom MLP; leave it out"
        )
      return ()
    return self.bottom if self.bottom is not None else (4 * self.embed_dim, self.embed_dim)


@dataclasses.dataclass(frozen=True)
class StepSettings:
  """The training settings that the compiled step depends on. A `TrainConfig` has them too, with others that the step must not read."""

  batch_size: int = NUMBERS.option(1024, "examples per step")
  table_optimizer: str = NUMBERS.option(
    "rowwise_adagrad",
    "optimiser of the tables; adam is lazy: it moves the rows of the batch only",
    ("sgd", "adagrad", "rowwise_adagrad", "adam"),
  )
  table_weight_decay: float = NUMBERS.option(0.0, "rows of the batch also shrink by learning rate x this x the row (decoupled)")
  table_init: float = NUMBERS.option(0.05, "embedding rows start uniform in +-table_init; first-order scalars at 0")
  dense_optimizer: str = NUMBERS.option("adagrad", "optimiser of the MLPs (optax)", ("sgd", "adagrad", "adam"))
  warmup_examples: int = NUMBERS.option(0, "the dense learning rate rises linearly over this many examples")
  table_warmup_examples: int = NUMBERS.option(0, "the tables' learning rate rises linearly over this many examples")
  lr_schedule: str = NUMBERS.option(
    "constant",
    "both learning rates after their warm-up; inverse_sqrt falls as 1/sqrt(1 + examples/decay_examples), linear, quadratic and cosine "
    "reach 0 after decay_examples (a horizon: one pass is then no data curve)",
    ("constant", "inverse_sqrt", *HORIZONS),
  )
  decay_examples: int = NUMBERS.option(0, "the schedule's length in examples; required unless it is constant")

  def __post_init__(self) -> None:
    check_choices(self)
    check(self.batch_size >= 1, self, "batch_size", "at least 1")
    for name in ("table_init", "table_weight_decay", "warmup_examples", "table_warmup_examples", "decay_examples"):
      check(getattr(self, name) >= 0, self, name, "at least 0")
    if self.lr_schedule != "constant":
      check(self.decay_examples >= 1, self, "decay_examples", f"at least 1 with --lr_schedule={self.lr_schedule}")


@dataclasses.dataclass(frozen=True)
class TrainConfig(StepSettings):
  """One online pass. Under Adagrad, the default, no learning rate knows the horizon, so one pass gives the whole data curve."""

  num_examples: int = LENGTH.option(1_000_000, "training examples; a data set with fewer is read once, to its end")
  seed: int = SEED.option(0, "initial weights; on planted data, which examples are drawn; on a data set, their order if it is shuffled")
  order: str = NUMBERS.option("time", "order of a data set's training examples: that of the log, or shuffled by the seed", ORDERS)
  learner: str = NUMBERS.option("dlrm", "the model, or the exact per-id Bayesian estimator (planted tail data only)", ("dlrm", "per_id"))
  table_lr: float = RATE.option(0.05, "learning rate of the tables")
  dense_lr: float = RATE.option(0.02, "learning rate of the MLPs")
  eval_examples: int = EVALUATION.option(65_536, "examples of each evaluation; on a data set at most the held-out rows")
  eval_split: str = EVALUATION.option("eval", "which held-out rows of a data set are evaluated", ("eval", "test"))
  first_eval: int = EVALUATION.option(4096, "examples before the first evaluation")
  evals_per_octave: int = EVALUATION.option(2, "evaluations for each doubling of the examples seen")

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ("num_examples", "eval_examples", "first_eval", "evals_per_octave"):
      check(getattr(self, name) >= 1, self, name, "at least 1")
    for name in ("table_lr", "dense_lr"):
      check(getattr(self, name) > 0, self, name, "above 0")
    check(0 <= self.seed < 2**31, self, "seed", "from 0 to 2147483647")

  def step_settings(self) -> StepSettings:
    """What the compiled step depends on, without the other fields."""
    return StepSettings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(StepSettings)})


@dataclasses.dataclass(frozen=True)
class PlantedConfig:
  """The planted click model (planted/clicks.py): logit = bias + tail + pairs + dense + scores, each part with a variance of its own."""

  PREFIX = "planted_"
  seed: int = NUMBERS.option(0, "the teacher: all latent effects, and the evaluation draws")
  tail_fields: int = NUMBERS.option(8, "categorical fields of the tail part")
  zipf_s: float = NUMBERS.option(10 / 9, "Zipf exponent s of the tail ids, p_k ~ k^-s with infinitely many ids")
  tail_sigma: float = NUMBERS.option(0.5, "standard deviation of the effect of one tail id, in logits")
  bias: float = NUMBERS.option(-1.0, "constant logit")
  pair_variance: float = NUMBERS.option(0.0, "logit variance of the pair part over 4 fields of 64 ids; 0: the part is absent")
  dense_variance: float = NUMBERS.option(0.0, "logit variance of the dense part over 16 dense inputs; 0: the part is absent")
  score_variance: float = NUMBERS.option(0.0, "logit variance of the score part over 4 fields of 64 ids; 0: the part is absent")
  delta: float = NUMBERS.option(1.0, "decay of the pair and dense parts: the j-th term has variance ~ j^-(1+delta)")
  bag_length: int = NUMBERS.option(1, "most ids of a tail field in an example: bags of 1 to this many, each size as likely, effects summed")

  def __post_init__(self) -> None:
    check(self.tail_fields >= 1, self, "tail_fields", "at least 1")
    check(self.bag_length >= 1, self, "bag_length", "at least 1")
    check(1 < self.zipf_s <= 3, self, "zipf_s", "above 1, at most 3 (at 1 the ids have no distribution)")
    check(self.tail_sigma > 0, self, "tail_sigma", "above 0")
    for name in ("pair_variance", "dense_variance", "score_variance", "delta"):
      check(getattr(self, name) >= 0, self, name, "at least 0")
    check(0 <= self.seed < 2**31, self, "seed", "from 0 to 2147483647")


PLACEMENTS = ("replicated", "row", "table", "column")
KERNELS = ("auto", "native", "xla")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """The devices of a run and where each table lies on them (embedding/planner.py)."""

  mesh: str = PLACEMENT.option("1", "devices: a number, or two axes (data x model) such as 2x4")
  placement: tuple[str, ...] = PLACEMENT.option(
    ("auto",),
    f"where tables lie: {', '.join(PLACEMENTS)}, or auto (planned); for one table, feature:placement, such as auto,C3:row,C20:column",
  )
  device_memory_gib: float | None = EXECUTION.option(None, "memory of a device that the plan may fill, GiB; none: what the device has")
  parallelism: str = PLACEMENT.option(
    "jit", "jit with sharded tables, or the plain pmap baseline, whose tables are all replicated", ("jit", "pmap")
  )

  def __post_init__(self) -> None:
    check_choices(self)
    parts = self.mesh.split("x")
    ok = len(parts) in (1, 2) and all(p.isdecimal() and int(p) >= 1 for p in parts)
    check(ok, self, "mesh", "a number of devices such as 8, or two such as 2x4")
    for word in self.placement:
      feature, _, placement = word.rpartition(":")
      ok = placement in PLACEMENTS or (placement == "auto" and not feature)
      check(ok, self, "placement", f"among auto, {', '.join(PLACEMENTS)}, or feature:placement")
    check(
      sum(":" not in word for word in self.placement) <= 1, self, "placement", "one placement for all, and feature:placement for others"
    )
    named = [word.rpartition(":")[0] for word in self.placement]
    check(len(set(named)) == len(named), self, "placement", "one placement a feature")
    check(self.device_memory_gib is None or self.device_memory_gib > 0, self, "device_memory_gib", "above 0")
    if self.parallelism == "pmap":
      check(set(self.placement) <= {"auto", "replicated"}, self, "placement", "replicated with --parallelism=pmap")

  @property
  def shape(self) -> tuple[int, ...]:
    """Devices along each axis of the mesh."""
    return tuple(int(part) for part in self.mesh.split("x"))

  @property
  def num_devices(self) -> int:
    return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """One training run."""

  data: str = DATA.option(
    "planted", "planted, or a directory written by dlrm_jax.data.prepare (to plan or time a step, a shape's name will do)"
  )
  workdir: str = EXECUTION.option("", "the directory that results go into")
  checkpoint: bool = EXECUTION.option(False, "keep the trained state in WORKDIR/checkpoint")
  checkpoint_every_s: float = EXECUTION.option(600.0, "time between checkpoints on the way, seconds; 0: only when the run is stopped")
  keep_checkpoints: int = EXECUTION.option(2, "checkpoints that are kept on the way; they go when the run has ended")
  restore: str | None = EXECUTION.option(
    None, "go on from WORKDIR/checkpoint of another run, or from one of the directories in it; mesh, placement and length may differ"
  )
  coordinator: str | None = EXECUTION.option(
    None, "several processes: host:port of the first, or auto on a cluster that jax knows (Slurm, TPU pods)"
  )
  num_processes: int = DATA.option(1, "several processes: how many (with coordinator=host:port)")
  process_id: int = EXECUTION.option(0, "several processes: which one this is, from 0")
  kernels: str = EXECUTION.option(
    "auto", "on a CPU: kernels compiled for this machine's processor, or XLA's own loops; auto: kernels where they compile", KERNELS
  )
  steps_per_call: int = EXECUTION.option(1, "training steps in one call of the compiled program; pays where steps are short")
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()
  planted: PlantedConfig = PlantedConfig()
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self) -> None:
    check_choices(self)
    check(bool(self.data), self, "data", "planted or a directory made by dlrm_jax.data.prepare")
    check(self.num_processes >= 1, self, "num_processes", "at least 1")
    check(self.steps_per_call >= 1, self, "steps_per_call", "at least 1")
    check(self.checkpoint_every_s >= 0, self, "checkpoint_every_s", "at least 0")
    check(self.keep_checkpoints >= 1, self, "keep_checkpoints", "at least 1")
    check(0 <= self.process_id < self.num_processes, self, "process_id", f"from 0 to {self.num_processes - 1} (--num_processes - 1)")
    host, _, port = (self.coordinator or "auto:0").rpartition(":")
    check(self.coordinator in (None, "auto") or bool(host and port.isdecimal()), self, "coordinator", "host:port or auto")
    if self.num_processes > 1 and not self.coordinator:
      raise UserError(f"--num_processes={self.num_processes} needs --coordinator=host:port")
    if self.data == "planted" and self.train.order != "time":
      raise UserError(f"--order={self.train.order}: planted examples are independent draws, without an order; leave it out")
    devices = self.mesh.num_devices
    if self.train.batch_size % devices:
      raise UserError(f"--batch_size={self.train.batch_size}: must be a multiple of the {devices} devices of --mesh={self.mesh.mesh}")
    if self.train.learner == "per_id" and devices > 1:
      raise UserError(f"--mesh={self.mesh.mesh}: --learner=per_id runs on one device")
    if self.train.learner == "per_id":
      planted = self.planted
      tail_only = self.data == "planted" and not planted.pair_variance + planted.dense_variance + planted.score_variance
      if not tail_only:
        raise UserError("--learner=per_id: the exact estimator knows planted tail data only (--data=planted, other variances 0)")
      check(planted.bag_length == 1, planted, "bag_length", "1 with --learner=per_id, which knows one id a field")


def non_default(config: Any) -> dict[str, Any]:
  """The fields that `config_id` hashes: of a dataclass those that differ from their defaults, so that a new field orphans no old run."""
  default, values = type(config)(), {name: getattr(config, name) for name in fields_of(type(config), IDENTITY)}
  return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v != getattr(default, k)}


def alike(train: TrainConfig, *affected: Affects) -> TrainConfig:
  """Equal for settings that differ only in fields that affect one of these: such fields are at their defaults."""
  default = TrainConfig()
  return dataclasses.replace(train, **{name: getattr(default, name) for name in fields_of(TrainConfig, affected)})


def together_key(config: RunConfig) -> Hashable | None:
  """Equal for runs that one program can train at once; None for a run that is always trained alone.

  The latter are runs on several devices or processes, under pmap, of the per-id estimator, and with --restore.
  """
  alone = config.mesh.num_devices > 1 or config.num_processes > 1 or config.mesh.parallelism != "jit"
  if alone or config.train.learner != "dlrm" or config.restore is not None:
    return None
  return dataclasses.replace(config, workdir="", train=alike(config.train, *TOGETHER))


def base_id(config: RunConfig, data_digest: str = "") -> str:
  """`config_id` at seed 0 and for one example: names what runs of different seeds and lengths have in common."""
  fixed: dict[str, Any] = dict.fromkeys(fields_of(TrainConfig, [SEED]), 0) | dict.fromkeys(fields_of(TrainConfig, [LENGTH]), 1)
  return config_id(dataclasses.replace(config, train=dataclasses.replace(config.train, **fixed)), data_digest)


def config_id(config: RunConfig, data_digest: str = "") -> str:
  """16 hex digits naming a run by what changes its numbers: model, data, training, seed, mesh; never where it is written.

  How many processes read a prepared data set counts, since its order depends on it (data/order.py).

  Args:
    config: the run.
    data_digest: digest of a prepared data set; ignored for planted data, whose config is hashed instead.
  """
  planted = config.data == "planted"
  content = {
    "schema_version": PLANTED_VERSION if planted else SCHEMA_VERSION,
    "model": non_default(config.model),
    "train": non_default(config.train),
    "data": non_default(config.planted) if planted else data_digest,
    "kind": "planted" if planted else "dataset",
  }
  if config.mesh.num_devices > 1:  # on one device there is nothing to place
    content["mesh"] = non_default(config.mesh)
  if not planted and config.num_processes > 1:
    content["num_processes"] = config.num_processes
  text = json.dumps(content, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]
