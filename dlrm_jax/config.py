"""Everything a run depends on, as frozen dataclasses. Flags are generated from the fields (`flags.py`).

A config refuses nonsense where it is made, naming flag, value and what is allowed. Each field states what it affects (`affects.py`).
"""

import dataclasses
import math

from dlrm_jax.affects import DATA, EVALUATION, EXECUTION, LENGTH, NUMBERS, PLACEMENT, RATE, SEED
from dlrm_jax.common.flags import UserError, check, check_fields

ORDERS = ("time", "shuffled")  # of the training examples of a data set (data/order.py)
WINDOWS = ("oldest", "recent")  # which training rows of a data set a run takes
ALL = 0  # of num_examples and eval_examples: as many as a data set has
FOUND, FIRST_DECAY = 0, 2**15  # of decay_examples: found by trials, of which the first has this one
MOST_REPEATED = 2**31  # planted examples of a pass that is repeated
HORIZONS = ("linear", "quadratic", "cosine")  # schedules that reach 0 after --decay_examples


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

  embed_dim: int = NUMBERS.option(8, "embedding dimension D of every categorical feature", at_least=1)
  num_rows: int = NUMBERS.option(100_000, "most rows a table may have; a feature with fewer distinct ids gets a row for each")
  num_tables: int = NUMBERS.option(0, "categorical features that the model reads, the first so many of the data's; 0: all", at_least=0)
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
  cross_layers: int = NUMBERS.option(3, "layers of the cross network (interaction=dcn_v2)", at_least=1)
  cross_rank: int = NUMBERS.option(512, "rank of each cross layer's weight (interaction=dcn_v2)", at_least=1)
  overarch_inputs: tuple[str, ...] = NUMBERS.option(
    ("dense", "dots", "first_order"),
    "what the overarch reads; dots: what the interaction gives; first_order: a learned scalar per id, added to the logit",
    ("dense", "dots", "rows", "first_order"),
  )
  compute_dtype: str = NUMBERS.option("float32", "dtype of the matrix products; parameters stay float32", ("float32", "bfloat16"))
  matmul_precision: str = NUMBERS.option("default", "jax matmul precision", ("default", "high", "highest"))

  def __post_init__(self) -> None:
    check_fields(self)
    check(2 <= self.num_rows <= 2**31 - 1, self, "num_rows", "from 2 to 2147483647")
    check(len(self.overarch) >= 1 and min(self.overarch) >= 1, self, "overarch", "widths of at least 1")
    check(self.overarch[-1] == 1, self, "overarch", "widths ending in 1 (one click logit)")
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

  batch_size: int = NUMBERS.option(1024, "examples per step", at_least=1)
  table_optimizer: str = NUMBERS.option(
    "rowwise_adagrad",
    "optimiser of the tables; adam is lazy: it moves the rows of the batch only",
    ("sgd", "adagrad", "rowwise_adagrad", "adam"),
  )
  table_weight_decay: float = NUMBERS.option(0.0, "rows of the batch also shrink by learning rate x this x the row (decoupled)", at_least=0)
  table_init: float = NUMBERS.option(0.05, "embedding rows start uniform in +-table_init; first-order scalars at 0", at_least=0)
  first_logit: str = NUMBERS.option(
    "random",
    "where the last bias starts: at 0, or at the logit of the training examples' click rate; the last weights are random in both, so that "
    "logits scatter around it",
    ("random", "base_rate"),
  )
  dense_optimizer: str = NUMBERS.option("adagrad", "optimiser of the MLPs (optax)", ("sgd", "adagrad", "adam"))
  dense_accumulator: float = NUMBERS.option(
    0.1,
    "where Adagrad's sums of squares start for the MLPs; gradients are small, so that 0.1 makes it SGD at a constant rate for thousands of "
    "steps; from 0 steps are large at first and fall at once",
    at_least=0,
  )
  warmup_examples: int = NUMBERS.option(0, "the dense learning rate rises linearly over this many examples", at_least=0)
  table_warmup_examples: int = NUMBERS.option(0, "the tables' learning rate rises linearly over this many examples", at_least=0)
  lr_schedule: str = NUMBERS.option(
    "constant",
    "both learning rates after their warm-up; inverse_sqrt falls as 1/sqrt(1 + examples/decay_examples), linear, quadratic and cosine "
    "reach 0 after decay_examples (a horizon: one pass is then no data curve)",
    ("constant", "inverse_sqrt", *HORIZONS),
  )

  def __post_init__(self) -> None:
    check_fields(self)


@dataclasses.dataclass(frozen=True)
class TrainConfig(StepSettings):
  """One online pass. Under Adagrad, the default, no learning rate knows the horizon, so one pass gives the whole data curve.

  A run trains on `total_examples`: `epochs` passes over `num_examples` rows.
  """

  num_examples: int = LENGTH.option(
    1_000_000,
    "training examples of a pass; a data set with fewer is read to its end; all (or 0): every training row",
    at_least=0,
    zero="all",
  )
  epochs: int = LENGTH.option(
    1,
    "passes over the same rows of a data set, each in a new order if shuffled, or over the first planted examples; points after the first "
    "are no data curve",
    at_least=1,
  )
  seed: int = SEED.option(0, "initial weights; on planted data, which examples are drawn; on a data set, their order if it is shuffled")
  order: str = NUMBERS.option("time", "order of a data set's training examples: that of the log, or shuffled by the seed", ORDERS)
  window: str = NUMBERS.option(
    "oldest", "rows of a data set that --num_examples takes: the first in the order, or the most recent before the held-out rows", WINDOWS
  )
  learner: str = NUMBERS.option("dlrm", "the model, or the exact per-id Bayesian estimator (planted tail data only)", ("dlrm", "per_id"))
  table_lr: float = RATE.option(0.05, "learning rate of the tables", above=0)
  dense_lr: float = RATE.option(0.02, "learning rate of the MLPs", above=0)
  decay_examples: int = RATE.option(
    0,
    "the schedule's length in examples; found (or 0): chosen for inverse_sqrt by short runs on training examples, see --lr_find; the other "
    "schedules need a number",
    at_least=0,
    zero="found",
  )
  eval_examples: int = EVALUATION.option(
    65_536,
    "examples of each evaluation, on a data set at most the held-out rows; all (or 0): every held-out row at the end, and fewer before, so "
    "that evaluations take at most a third of the run",
    at_least=0,
    zero="all",
  )
  eval_split: str = EVALUATION.option("eval", "which held-out rows of a data set are evaluated", ("eval", "test"))
  first_eval: int = EVALUATION.option(4096, "examples before the first evaluation", at_least=1)
  evals_per_octave: int = EVALUATION.option(2, "evaluations for each doubling of the examples seen", at_least=1)

  def __post_init__(self) -> None:
    super().__post_init__()
    check(0 <= self.seed < 2**31, self, "seed", "from 0 to 2147483647")
    if self.lr_schedule in HORIZONS:
      check(self.decay_examples >= 1, self, "decay_examples", f"at least 1 with --lr_schedule={self.lr_schedule}")

  @property
  def finds_decay(self) -> bool:
    """Whether `decay_examples` has to be found before a run can begin."""
    return self.lr_schedule == "inverse_sqrt" and self.decay_examples == 0

  @property
  def total_examples(self) -> int:
    """Examples of the whole run: each row counts once an epoch. 0 where `num_examples` is all: see `source.resolved`."""
    return self.num_examples * self.epochs

  def step_settings(self) -> StepSettings:
    """What the compiled step depends on, without the other fields."""
    return StepSettings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(StepSettings)})


@dataclasses.dataclass(frozen=True)
class PlantedConfig:
  """The planted click model (planted/clicks.py): logit = bias + tail + pairs + dense + scores, each part with a variance of its own."""

  PREFIX = "planted_"
  seed: int = NUMBERS.option(0, "the teacher: all latent effects, and the evaluation draws")
  tail_fields: int = NUMBERS.option(8, "categorical fields of the tail part", at_least=1)
  zipf_s: float = NUMBERS.option(10 / 9, "Zipf exponent s of the tail ids, p_k ~ k^-s with infinitely many ids")
  tail_sigma: float = NUMBERS.option(0.5, "standard deviation of the effect of one tail id, in logits", above=0)
  bias: float = NUMBERS.option(-1.0, "constant logit")
  pair_variance: float = NUMBERS.option(0.0, "logit variance of the pair part over 4 fields of 64 ids; 0: the part is absent", at_least=0)
  dense_variance: float = NUMBERS.option(0.0, "logit variance of the dense part over 16 dense inputs; 0: the part is absent", at_least=0)
  score_variance: float = NUMBERS.option(0.0, "logit variance of the score part over 4 fields of 64 ids; 0: the part is absent", at_least=0)
  delta: float = NUMBERS.option(1.0, "decay of the pair and dense parts: the j-th term has variance ~ j^-(1+delta)", at_least=0)
  bag_length: int = NUMBERS.option(
    1, "most ids of a tail field in an example: bags of 1 to this many, each size as likely, effects summed", at_least=1
  )

  def __post_init__(self) -> None:
    check_fields(self)
    check(1 < self.zipf_s <= 3, self, "zipf_s", "above 1, at most 3 (at 1 the ids have no distribution)")
    check(0 <= self.seed < 2**31, self, "seed", "from 0 to 2147483647")


PLACEMENTS = ("replicated", "row", "table", "column")
KERNELS = ("auto", "native", "xla")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """The devices of a run, and where each table is placed on them (embedding/planner.py)."""

  mesh: str = PLACEMENT.option("1", "devices: a number, or two axes (data x model) such as 2x4")
  placement: tuple[str, ...] = PLACEMENT.option(
    ("auto",),
    f"where tables are placed: {', '.join(PLACEMENTS)}, or auto (planned); for one table, feature:placement, as in auto,C3:row,C20:column; "
    'a name with a comma is put in quotes, as in "c,d":row',
  )
  device_memory_gib: float | None = EXECUTION.option(
    None, "memory of a device that the plan may fill, GiB; none: what the device has", above=0
  )
  parallelism: str = PLACEMENT.option(
    "jit", "jit with sharded tables, or the plain pmap baseline, whose tables are all replicated", ("jit", "pmap")
  )

  def __post_init__(self) -> None:
    check_fields(self)
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
    named = [word.rpartition(":")[0] for word in self.placement if ":" in word]
    check(len(set(named)) == len(named), self, "placement", "one placement a feature")
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
  checkpoint_every_s: float = EXECUTION.option(
    600.0, "time between checkpoints on the way, seconds; 0: only when the run is stopped", at_least=0
  )
  keep_checkpoints: int = EXECUTION.option(2, "checkpoints that are kept on the way; they go when the run has ended", at_least=1)
  restore: str | None = EXECUTION.option(
    None, "go on from another run: its WORKDIR, WORKDIR/checkpoint, or one of the directories in it; mesh, placement and length may differ"
  )
  coordinator: str | None = EXECUTION.option(
    None, "several processes: host:port of the first, or auto on a cluster that jax knows (Slurm, TPU pods)"
  )
  num_processes: int = DATA.option(1, "several processes: how many (with coordinator=host:port)", at_least=1)
  process_id: int = EXECUTION.option(0, "several processes: which one this is, from 0")
  kernels: str = EXECUTION.option(
    "auto", "on a CPU: kernels compiled for this machine's processor, or XLA's own loops; auto: kernels where they compile", KERNELS
  )
  log_to: tuple[str, ...] = EXECUTION.option(
    (),
    "loggers of the curve and of the training loss, besides curve.jsonl: csv (WORKDIR/log.csv), tensorboard (event files), or names of "
    "the entry points dlrm_jax.loggers",
  )
  logistic: str = EXECUTION.option(
    "auto",
    "train a logistic regression on the same examples, to compare the run with; auto: on data sets only, and not where --restore goes on "
    "with another data set, whose rows are all that the regression would see",
    ("auto", "yes", "no"),
  )
  lr_find: bool = EXECUTION.option(
    False,
    "choose both learning rates first, and --decay_examples of inverse_sqrt, by short runs on a part of the training examples; those of "
    "the flags are kept unless others are better by more than a standard error; with --restore, take those of the checkpoint",
  )
  steps_per_call: int = EXECUTION.option(1, "training steps in one call of the compiled program; pays where steps are short", at_least=1)
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()
  planted: PlantedConfig = PlantedConfig()
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self) -> None:
    check_fields(self)
    check(bool(self.data), self, "data", "planted or a directory made by dlrm_jax.data.prepare")
    check(0 <= self.process_id < self.num_processes, self, "process_id", f"from 0 to {self.num_processes - 1} (--num_processes - 1)")
    host, _, port = (self.coordinator or "auto:0").rpartition(":")
    check(self.coordinator in (None, "auto") or bool(host and port.isdecimal()), self, "coordinator", "host:port or auto")
    if self.num_processes > 1 and not self.coordinator:
      raise UserError(f"--num_processes={self.num_processes} needs --coordinator=host:port")
    if self.data == "planted":
      for name, default in (("order", "time"), ("window", "oldest")):
        if (value := getattr(self.train, name)) != default:
          raise UserError(f"--{name}={value}: planted examples are independent draws, without an order; leave it out")
      if self.train.epochs > 1:
        most = f"at most {MOST_REPEATED} with --epochs={self.train.epochs} on planted data"
        check(self.train.num_examples <= MOST_REPEATED, self.train, "num_examples", most)
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
      check(self.train.epochs == 1, self.train, "epochs", "1 with --learner=per_id, which takes every example for a new one")
      check(planted.bag_length == 1, planted, "bag_length", "1 with --learner=per_id, which knows one id a field")
