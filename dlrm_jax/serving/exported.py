"""An exported model: its program (StableHLO, by jax.export), its arrays, vocabularies and metadata, written into a directory.

`export` has the list of the files. `example.py` reads them without this package.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jaxtyping import Array, Float

from dlrm_jax.batch import Batch
from dlrm_jax.common import record
from dlrm_jax.config import RunConfig
from dlrm_jax.data.dataset import shape_of
from dlrm_jax.data.prepare.schema import Bag, CategoricalColumn
from dlrm_jax.data.prepare.scoring import Encoder
from dlrm_jax.data.shapes import random_batch
from dlrm_jax.embedding.tables import GroupState, Stack, Tables
from dlrm_jax.machine import hardware
from dlrm_jax.serving.restored import Restored
from dlrm_jax.training.state import Progress, TrainState, graphdef_of
from dlrm_jax.training.step import OneRun, predict

FORMAT = 1  # of the directory
EXAMPLES = 16  # that an export holds with their logits


def arrays_of(state: TrainState) -> dict[str, Any]:
  """The trained weights by name: `tables.rows` [V, D] and perhaps `tables.first_order` [V, 1], then those of the MLPs."""
  (group,) = state.tables.groups.values()
  leaves = jax.tree_util.tree_leaves_with_path(state.dense)
  dense = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
  return {f"tables.{name}": stack.rows_vd for name, stack in group.stacks.items()} | {f"dense.{name}": x for name, x in dense.items()}


def logits_of(model: Restored) -> Any:
  """The function that is exported, as jax.jit takes it: (arrays, dense, ids[, weights]) -> logits."""
  build, (group_name,) = model.build, model.state.tables.groups
  graphdef, tree = graphdef_of(build), jax.tree.structure(model.state.dense)

  def logits(
    arrays: dict[str, Array], dense_bm: Float[Array, "b M"], ids_bl: Array, bag_weight_bl: Array | None = None
  ) -> Float[Array, " b"]:
    tables = {name.removeprefix("tables."): Stack(x, {}) for name, x in arrays.items() if name.startswith("tables.")}
    dense = jax.tree.unflatten(tree, [arrays[name] for name in arrays_of(model.state) if name.startswith("dense.")])
    state = TrainState(Tables({group_name: GroupState(tables, np.zeros(1, np.int32))}), dense, (), np.int32(0), Progress.zero())
    ones_b = jnp.ones(ids_bl.shape[0])
    return predict(OneRun(build), graphdef, state, Batch(dense_bm, ids_bl, ones_b, ones_b, bag_weight_bl))[0]

  return logits


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
  """Programs lowered within this context name the files of their source code without directories."""
  name = "jax_hlo_source_file_canonicalization_regex"
  before = getattr(jax.config, name)
  jax.config.update(name, ".*/")
  try:
    yield
  finally:
    jax.config.update(name, before)


def exported(model: Restored, platforms: tuple[str, ...]) -> jax_export.Exported:
  """The program, for any batch size."""
  batch = model.build.batch_shapes()
  (b,) = jax_export.symbolic_shape("b")
  inputs = [batch.dense_bm, batch.ids_bl, *([] if batch.bag_weight_bl is None else [batch.bag_weight_bl])]
  shapes = [jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype) for x in inputs]
  arrays = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays_of(model.state).items()}
  with jax.default_matmul_precision(model.build.model.matmul_precision), _without_paths():
    return jax_export.export(jax.jit(logits_of(model)), platforms=platforms)(arrays, *shapes)


def examples(model: Restored) -> dict[str, np.ndarray]:
  """Some random inputs and their logits, by the names of the program's arguments."""
  config = RunConfig(model=model.build.model, train=dataclasses.replace(RunConfig().train, batch_size=EXAMPLES))
  shape = shape_of(model.contents).first(len(model.build.plan.layout.tables))
  batch = random_batch(config, shape, seed=0)
  inputs = {"dense": batch.dense_bm, "ids": batch.ids_bl} | ({} if batch.bag_weight_bl is None else {"weights": batch.bag_weight_bl})
  with jax.default_matmul_precision(model.build.model.matmul_precision):
    logits = jax.jit(logits_of(model))(arrays_of(model.state), *inputs.values())
  return {name: np.asarray(x) for name, x in inputs.items()} | {"logits": np.asarray(logits)}


def write_arrays(directory: Path, arrays: dict[str, Any]) -> list[dict[str, Any]]:
  """Writes a .npy file for each array; their entries in the metadata. bfloat16 is written as pairs of bytes, with its name as dtype."""
  (directory / "arrays").mkdir()
  entries = []
  for i, (name, x) in enumerate(arrays.items()):
    file = f"arrays/{i:03d}.npy"
    np.save(directory / file, np.asarray(x), allow_pickle=False)
    entries.append({"name": name, "file": file, "shape": list(x.shape), "dtype": str(x.dtype)})
  return entries


def write_features(directory: Path, encoder: Encoder) -> list[dict[str, Any]]:
  """Writes the vocabularies; the entries of the features in the metadata."""
  (directory / "vocabulary").mkdir()
  entries: list[dict[str, Any]] = []
  for i, feature in enumerate(encoder.features):
    entry: dict[str, Any] = {"name": feature.name, "lookups": feature.length, "bag": isinstance(feature, Bag)}
    entry |= {"hexadecimal": isinstance(feature, CategoricalColumn) and feature.hexadecimal}
    if encoder.vocabularies is not None:
      for what, values in (("hash", encoder.vocabularies[i].hash_v), ("id", encoder.vocabularies[i].id_v)):
        entry[what] = f"vocabulary/{i:05d}.{what}.npy"
        np.save(directory / entry[what], values, allow_pickle=False)
    entries.append(entry)
  bins = [{"column": one.column, "edges": list(one.edges)} for one in encoder.bins]
  return entries + [{"name": one.name, "lookups": 1, "bag": False, "bins": b} for one, b in zip(encoder.bins, bins, strict=True)]


def write(model: Restored, platforms: tuple[str, ...], directory: Path) -> None:
  """Writes the files of an export into an empty directory."""
  encoder = Encoder.of(model.data, model.contents, len(model.build.plan.layout.tables))
  program = exported(model, platforms)
  (directory / "program.bin").write_bytes(program.serialize())
  np.savez(directory / "example.npz", **examples(model))  # type: ignore[arg-type]
  shutil.copy(Path(__file__).parent / "example.py", directory / "example.py")
  metadata = hardware.header() | {
    "format": FORMAT,
    "platforms": list(platforms),
    "inputs": {
      "dense": [dataclasses.asdict(one) for one in encoder.inputs],
      "ids": list(encoder.lookup_names),
      "weights": encoder.weighted,
    },
    "features": write_features(directory, encoder),
    "schema": model.contents["schema"],
    "arrays": write_arrays(directory, arrays_of(model.state)),
    "data": {"name": model.contents["name"], "digest": model.contents["digest"]},
    "examples_trained": model.facts["examples"],
    "base_rate": model.base_rate,
  }
  record.write_json(directory / "metadata.json", metadata)
