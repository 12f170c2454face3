"""`Restored`: a trained model from a checkpoint, with the data set that it was trained on. `predict` and `export` use it."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlrm_jax.batch import Batch
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import MeshConfig, ModelConfig, RunConfig, TrainConfig
from dlrm_jax.data.dataset import encoding_of, read_contents, shape_of
from dlrm_jax.embedding.layout import make_layout
from dlrm_jax.embedding.planner import Machine, make_plan
from dlrm_jax.machine.hardware import compiler_options
from dlrm_jax.machine.mesh import make_mesh, put_batch
from dlrm_jax.training import checkpoint
from dlrm_jax.training.build import Build, build_of
from dlrm_jax.training.checkpoints import restore_newest
from dlrm_jax.training.resume import checkpoints_at
from dlrm_jax.training.state import TrainState
from dlrm_jax.training.step import OneRun, lower_predict


@dataclasses.dataclass(frozen=True)
class Restored:
  """A trained model.

  Attributes:
    path: of the checkpoint.
    facts: what the checkpoint holds of its run.
    data: the directory of the data set.
    contents: of its dataset.json.
    build: what its programs depend on.
    state: the trained state.
  """

  path: Path
  facts: dict[str, Any]
  data: Path
  contents: dict[str, Any]
  build: Build
  state: TrainState

  @property
  def base_rate(self) -> float:
    """The click rate of the rows that it was trained on, which NE refers to."""
    return float(self.facts.get("base_rate") or self.contents["splits"]["train"]["base_rate"])

  @functools.cached_property
  def _predict(self) -> Any:
    return lower_predict(OneRun(self.build)).compile(compiler_options(self.build.mesh.devices.flat[0].platform))

  def logits(self, batch: Batch) -> jax.Array:
    """The logits of a batch of the build's batch size, float32 [B]. They may still be computed when it returns."""
    placed = put_batch(jax.tree.map(np.asarray, batch), self.build.mesh)
    return self._predict(self.state, placed)[0]


def config_of(facts: dict[str, Any], path: Path) -> RunConfig:
  """The model and training settings of a checkpoint's run, on one device. Those newer than the checkpoint are at their defaults.

  Raises UserError for a setting that is unknown, or of a wrong type or value.
  """
  parts: dict[str, Any] = {}
  kinds: dict[str, Any] = {"model": ModelConfig, "train": TrainConfig}
  for part, cls in kinds.items():
    given = {name.partition(".")[2]: value for name, value in facts.items() if name.startswith(f"{part}.")}
    if unknown := sorted(set(given) - {field.name for field in dataclasses.fields(cls)}):
      raise UserError(f"{path}: has the setting {part}.{unknown[0]}, which this version of the program does not know")
    try:
      parts[part] = cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    except (TypeError, ValueError) as error:
      raise UserError(f"{path}: its {part} settings are damaged ({str(error).partition(chr(10))[0]})") from None
  return RunConfig(**parts)


def data_of(facts: dict[str, Any], path: Path, data: str | None) -> tuple[Path, dict[str, Any]]:
  """The data set of a checkpoint's run, and the contents of its dataset.json.

  Raises UserError where it is not found, or where that at `data` (default: where the run read it) is another, with another encoding.
  """
  if facts.get("planted") is not None:
    raise UserError(f"--restore={path}: was trained on planted data, which has no columns and no vocabulary; train on a data set")
  place = data or facts.get("data_path")
  if place is None:
    raise UserError(f"--restore={path}: does not say where its data set {facts.get('data')} is; give --data=DIR")
  if data is None and not (Path(place) / "dataset.json").is_file():
    raise UserError(f"--restore={path}: its data set {facts.get('data')} is not in {place} any more; give --data=DIR")
  contents = read_contents(place)
  known = facts.get("data_encoding")
  if contents["digest"] != facts["data_digest"] and (known is None or encoding_of(contents) != known):
    hint = "has other inputs or another vocabulary than the one that the checkpoint was trained on"
    raise UserError(f"{'--data=' if data else ''}{place}: {hint} ({facts.get('data')}, digest {facts['data_digest'][:16]})")
  return Path(place), contents


def restore_model(
  restore: str, data: str | None = None, batch_size: int | None = None, mesh: str = "1", kernels: str = "auto", portable: bool = False
) -> Restored:
  """The model of the newest sound checkpoint.

  Args:
    restore: as `checkpoints_at` takes it.
    data: the directory of its data set, if it has moved.
    batch_size: examples that `Restored.logits` takes at once; by default those of a step of training.
    mesh, kernels: as of a run.
    portable: with one row a line and no CPU kernels, as every platform can read it.

  Raises:
    UserError: there is no checkpoint, or no data set that fits it.
  """

  def load(path: Path) -> Restored:
    facts = checkpoint.read_run(path)
    config = config_of(facts, path)
    if config.train.learner != "dlrm":
      raise UserError(f"--restore={path}: was trained with --learner={config.train.learner}; it must be --learner=dlrm")
    place, contents = data_of(facts, path, data)
    train = config.train if batch_size is None else dataclasses.replace(config.train, batch_size=batch_size)
    config = dataclasses.replace(config, train=train, mesh=MeshConfig(mesh=mesh), kernels="xla" if portable else kernels)
    shape = shape_of(contents).first(config.model.num_tables)
    if portable:
      devices = make_mesh(config)
      plan = make_plan(config, make_layout(config.model, shape), Machine(1))
      build = Build.of(config, plan, shape.num_dense, devices)
    else:
      build = build_of(config, shape)
    return Restored(path, facts, place, contents, build, checkpoint.restore(path, build))

  restored = restore_newest(checkpoints_at(restore), load)
  if restored is None:
    raise UserError(f"--restore={restore}: no sound checkpoint is left")
  return restored[0]
