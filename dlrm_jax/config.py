"""Everything a run depends on, as frozen dataclasses. Flags are generated from the fields (`flags.py`).

A config refuses nonsense where it is made, naming flag, value and what is allowed. `config_id` is a stable hash of what changes
the numbers.
"""

import dataclasses
import hashlib
import json
from typing import Any

from dlrm_jax.flags import UserError, check, check_choices, option

SCHEMA_VERSION = 1  # hashed into config_id: raise it when a default below changes


@dataclasses.dataclass(frozen=True)
class TableConfig:
  """One embedding table: `num_rows` rows of `dim` float32."""

  name: str
  num_rows: int
  dim: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The DLRM of Naumov et al. 2019 (arXiv 1906.00091): bottom MLP, embeddings, pairwise dots, overarch."""

  embed_dim: int = option(8, "embedding dimension D of every categorical feature")
  num_rows: int = option(100_000, "most rows a table may have; a feature with fewer distinct ids gets a row for each")
  rows_by: str = option(
    "top", "how ids share rows where the cap binds: the most frequent keep their own, or all are hashed", ("top", "hash")
  )
  bottom: tuple[int, ...] | None = option(None, "all widths of the MLP over dense inputs, ending in embed_dim; none: 4*embed_dim,embed_dim")
  overarch: tuple[int, ...] = option((64, 64, 1), "all widths of the MLP over the interactions, ending in 1")
  interaction: str = option("dot", "how the feature vectors meet", ("dot",))
  overarch_inputs: tuple[str, ...] = option(
    ("dense", "dots", "first_order"),
    "what the overarch reads; first_order is a learned scalar per id, added to the logit",
    ("dense", "dots", "rows", "first_order"),
  )
  compute_dtype: str = option("float32", "dtype of the matrix products; parameters stay float32", ("float32", "bfloat16"))
  matmul_precision: str = option("default", "jax matmul precision", ("default", "high", "highest"))

  def __post_init__(self):
    check_choices(self)
    check(self.embed_dim >= 1, self, "embed_dim", "at least 1")
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
class TrainConfig:
  """One online pass. Under Adagrad, the default, no learning rate knows the horizon, so one pass gives the whole data curve."""

  num_examples: int = option(1_000_000, "training examples; of a data set with fewer, all it has (one pass)")
  batch_size: int = option(1024, "examples per step")
  seed: int = option(0, "initial weights and, on planted data, which examples are drawn")
  learner: str = option("dlrm", "the model, or the exact per-id Bayesian estimator (planted tail data only)", ("dlrm", "per_id"))
  table_optimizer: str = option("rowwise_adagrad", "optimiser of the tables", ("sgd", "adagrad", "rowwise_adagrad"))
  table_lr: float = option(0.05, "learning rate of the tables")
  table_init: float = option(0.05, "embedding rows start uniform in +-table_init; first-order scalars at 0")
  dense_optimizer: str = option("adagrad", "optimiser of the MLPs (optax)", ("sgd", "adagrad", "adam"))
  dense_lr: float = option(0.02, "learning rate of the MLPs")
  warmup_examples: int = option(0, "the dense learning rate rises linearly over this many examples")
  eval_examples: int = option(65_536, "examples of each evaluation; on a data set at most the held-out rows")
  first_eval: int = option(4096, "examples before the first evaluation")
  evals_per_octave: int = option(2, "evaluations for each doubling of the examples seen")

  def __post_init__(self):
    check_choices(self)
    for name in ("num_examples", "batch_size", "eval_examples", "first_eval", "evals_per_octave"):
      check(getattr(self, name) >= 1, self, name, "at least 1")
    for name in ("table_lr", "dense_lr"):
      check(getattr(self, name) > 0, self, name, "above 0")
    check(self.table_init >= 0, self, "table_init", "at least 0")
    check(self.warmup_examples >= 0, self, "warmup_examples", "at least 0")
    check(0 <= self.seed < 2**31, self, "seed", "from 0 to 2147483647")


@dataclasses.dataclass(frozen=True)
class PlantedConfig:
  """The planted click model (data/planted.py): logit = bias + tail + pairs + dense + scores, each part with a variance of its own."""

  PREFIX = "planted_"
  seed: int = option(0, "the teacher: all latent effects, and the evaluation draws")
  tail_fields: int = option(8, "categorical fields of the tail part")
  zipf_s: float = option(10 / 9, "Zipf exponent s of the tail ids, p_k ~ k^-s with infinitely many ids")
  tail_sigma: float = option(0.5, "standard deviation of the effect of one tail id, in logits")
  bias: float = option(-1.0, "constant logit")
  pair_variance: float = option(0.0, "logit variance of the pair part over 4 fields of 64 ids; 0: the part is absent")
  dense_variance: float = option(0.0, "logit variance of the dense part over 16 dense inputs; 0: the part is absent")
  score_variance: float = option(0.0, "logit variance of the score part over 4 fields of 64 ids; 0: the part is absent")
  delta: float = option(1.0, "decay of the pair and dense parts: the j-th term has variance ~ j^-(1+delta)")

  def __post_init__(self):
    check(self.tail_fields >= 1, self, "tail_fields", "at least 1")
    check(1 < self.zipf_s <= 3, self, "zipf_s", "above 1, at most 3 (at 1 the ids have no distribution)")
    check(self.tail_sigma > 0, self, "tail_sigma", "above 0")
    for name in ("pair_variance", "dense_variance", "score_variance", "delta"):
      check(getattr(self, name) >= 0, self, name, "at least 0")
    check(0 <= self.seed < 2**31, self, "seed", "from 0 to 2147483647")


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """One training run."""

  data: str = option("planted", "planted, or a directory written by dlrm_jax.data.prepare")
  workdir: str = option("", "the directory that results go into")
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()
  planted: PlantedConfig = PlantedConfig()

  def __post_init__(self):
    check(bool(self.data), self, "data", "planted or a directory made by dlrm_jax.data.prepare")
    if self.train.learner == "per_id":
      planted = self.planted
      tail_only = self.data == "planted" and not planted.pair_variance + planted.dense_variance + planted.score_variance
      if not tail_only:
        raise UserError("--learner=per_id: the exact estimator knows planted tail data only (--data=planted, other variances 0)")


def non_default(config: Any) -> dict[str, Any]:
  """The fields of a dataclass that differ from their defaults."""
  out = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if value != field.default:
      out[field.name] = list(value) if isinstance(value, tuple) else value
  return out


def config_id(config: RunConfig, data_digest: str = "") -> str:
  """16 hex digits naming a run by what changes its numbers: model, data, training, seed; never where it is written.

  Fields at their default are left out, so a new field orphans no old run.

  Args:
    config: the run.
    data_digest: digest of a prepared data set; ignored for planted data, whose config is hashed instead.
  """
  planted = config.data == "planted"
  content = {
    "schema_version": SCHEMA_VERSION,
    "model": non_default(config.model),
    "train": non_default(config.train),
    "data": non_default(config.planted) if planted else data_digest,
    "kind": "planted" if planted else "dataset",
  }
  text = json.dumps(content, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]
