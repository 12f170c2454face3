"""Shows how the tables of a run would be placed on a machine that may be absent: bytes per device, bytes exchanged per step.

python -m dlrm_jax.plan --preset=mlperf_v1 --mesh=8 --device_memory_gib=80
"""

import dataclasses

from dlrm_jax.common import flags
from dlrm_jax.config import RunConfig
from dlrm_jax.data.shapes import shape_of
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import LANES, Machine, make_plan
from dlrm_jax.embedding.print_plan import print_plan
from dlrm_jax.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class PlanConfig:
  """A run and the kind of machine."""

  platform: str = flags.option("gpu", "kind of device: on a TPU each lookup touches 128 values", ("cpu", "gpu", "tpu"))
  run: RunConfig = RunConfig()

  def __post_init__(self) -> None:
    flags.check_fields(self)


def main(config: PlanConfig) -> None:
  """Plans and prints, or refuses what does not fit."""
  run = config.run
  machine = Machine(run.mesh.num_devices, lanes=LANES if config.platform == "tpu" else 0)
  print_plan(make_plan(run, make_layout(run.model, shape_of(run)), machine), run, machine)


if __name__ == "__main__":
  flags.run(main, PlanConfig, {name: PlanConfig(run=run) for name, run in PRESETS.items()})
