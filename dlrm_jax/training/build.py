"""`Build`: what the compiled programs of a run depend on, in one object. Learner, step, state, checkpoints and benchmarks take it."""

import dataclasses
import math

import jax
from jax.sharding import Mesh

from dlrm_jax.batch import Batch, empty_batch
from dlrm_jax.config import ModelConfig, RunConfig, StepSettings
from dlrm_jax.data.source import Source
from dlrm_jax.embedding.layout import MAX_TOTAL_ROWS, make_layout
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.planner import machine_of, make_plan, memory_limit, plan_bytes, working_bytes
from dlrm_jax.machine.mesh import make_mesh
from dlrm_jax.shape import DataShape


@dataclasses.dataclass(frozen=True)
class Build:
  """A model, the settings of its step, and where it is computed. Runs whose builds are equal share their compiled programs.

  Attributes:
    model: the model.
    settings: batch size, optimisers, schedules. A program gets the learning rates as an argument.
    plan: which device holds which rows.
    num_dense: dense inputs of the data, M.
    mesh: the devices, which may be absent where programs are only compiled.
    steps_per_call: batches that one call of the train program takes.
    first_logit: where the last bias starts; None: at 0. The last weights are random, so that the first logits scatter around it.
    negatives_kept: the share of the log's negatives that the training examples have.
  """

  model: ModelConfig
  settings: StepSettings
  plan: Plan
  num_dense: int
  mesh: Mesh
  steps_per_call: int = 1
  first_logit: float | None = None
  negatives_kept: float = 1.0

  def __post_init__(self) -> None:
    if type(self.settings) is not StepSettings:  # a TrainConfig would bring seed and learning rates into the programs
      raise TypeError(f"Build.settings is a {type(self.settings).__name__}: give StepSettings, such as TrainConfig.step_settings()")

  @classmethod
  def of(cls, config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh, base_rate: float = 0.5, negatives_kept: float = 1.0) -> "Build":
    """The build of a run that is planned already."""
    settings = config.train.step_settings()
    first_logit = _logit(base_rate) if settings.first_logit == "base_rate" else None
    return cls(config.model, settings, plan, num_dense, mesh, config.steps_per_call, first_logit, negatives_kept)

  def batch_shapes(self) -> Batch:
    """Shape and dtype of every array of a batch."""
    layout = self.plan.layout
    return jax.eval_shape(lambda: empty_batch(self.settings.batch_size, self.num_dense, layout.num_lookups, layout.weighted))


def build_of(config: RunConfig, shape: DataShape, base_rate: float = 0.5) -> Build:
  """The build of a run on this machine, on data of this shape and click rate. Raises UserError where devices or memory do not suffice."""
  mesh = make_mesh(config)
  plan = make_plan(config, make_layout(config.model, shape), machine_of(mesh))
  return Build.of(config, plan, shape.num_dense, mesh, base_rate, shape.negatives_kept)


def _logit(rate: float) -> float:
  """The logit of a click rate; a log of one class has a finite one, too."""
  rate = min(max(rate, 1e-6), 1 - 1e-6)
  return math.log(rate / (1 - rate))


def runs_that_fit(config: RunConfig, source: Source) -> int:
  """How many such runs fit at once, in the device's memory and in row numbers of 31 bits; at least one."""
  build = build_of(config, source.shape)
  plan, memory = build.plan, memory_limit(config, machine_of(build.mesh))
  fitting = MAX_TOTAL_ROWS // max(group.local_rows for group in plan.groups)
  if memory is not None:
    fitting = min(fitting, memory // (plan_bytes(plan, config.train.table_optimizer) + working_bytes(config, plan.layout, 1)))
  return max(1, fitting)
