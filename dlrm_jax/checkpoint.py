"""Checkpoints of a `TrainState`, written on one mesh and placement and restored onto any other. The loop calls `save` and `restore`.

    PATH/checkpoint.json    what is kept: tables, dense arrays, checksums, sizes of files, and which of a, b holds the arrays
    PATH/a or PATH/b        table_0, table_1, ... and dense, each written by Orbax; a table's arrays are in the order of its rows

A save fills the directory that checkpoint.json does not name, then replaces checkpoint.json: until then the checkpoint before it is
whole. Tables are converted and written one by one, so that a device needs room for its share of one table beside its tables. With
several processes all call, PATH is seen by all, and each writes and reads what its devices have.

TensorStore tells of most damage by itself, but not of changed values: so every array carries a checksum.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import broadcast_one_to_all, sync_global_devices
from jax.sharding import Mesh, NamedSharding

from dlrm_jax import hardware, record
from dlrm_jax.config import RunConfig
from dlrm_jax.embedding import relayout
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.placement import Plan
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS, GroupState, Tables
from dlrm_jax.flags import UserError
from dlrm_jax.mesh import REPLICATED
from dlrm_jax.state import TrainState, state_shapes

MANIFEST = "checkpoint.json"
_CHUNK_BYTES = 2**25  # of a file that is read or written at once; a share of another mesh must not be read as a whole


def save(path: str | Path, state: TrainState, plan: Plan, mesh: Mesh, run: dict[str, Any] | None = None) -> None:
  """Writes the state as the checkpoint at `path` and then removes the one before it. Call it in all processes.

  `run` goes into the manifest: what `run_of` is to tell of the run.
  Raises OSError where it cannot be written; the checkpoint before it then stays.
  """
  path, primary = Path(path), jax.process_index() == 0
  old = record.read_json(path / MANIFEST).get("arrays") if (path / MANIFEST).exists() else None
  arrays = "ab"[int(broadcast_one_to_all(np.int32(old == "a")))]  # other processes may see an older file
  if primary:
    shutil.rmtree(path / arrays, ignore_errors=True)  # of a save that did not end
    path.mkdir(parents=True, exist_ok=True)
  facts = _facts(plan.layout, state) | {"arrays": arrays, "step": int(state.step)}
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    dense = {name: jax.device_put(x, NamedSharding(mesh, REPLICATED)) for name, x in _dense(state).items()}
    for fact, x in zip(facts["dense"], dense.values(), strict=True):
      fact["checksum"] = _checksum(x)
    _write(checkpointer, path / arrays / "dense", dense)
    for name, group in plan.by_name.items():
      for i, feature in enumerate(group.features):
        part, facts["tables"][feature]["checksums"] = relayout.read(group, i, state.tables.groups[name], mesh)
        _write(checkpointer, path / arrays / f"table_{feature}", part)
  if primary:
    files = {str(file.relative_to(path)): file.stat().st_size for file in sorted((path / arrays).rglob("*")) if file.is_file()}
    record.write_json(path / MANIFEST, hardware.header() | facts | {"files": files, "run": run or {}})
    shutil.rmtree(path / ("a" if arrays == "b" else "b"), ignore_errors=True)
  sync_global_devices("checkpoint saved")


def run_of(path: str | Path) -> dict[str, Any]:
  """What `save` was told of the run. Raises UserError where there is no checkpoint."""
  return record.read_json(Path(path) / MANIFEST).get("run") or {}


def restore(path: str | Path, config: RunConfig, plan: Plan, num_dense: int, mesh: Mesh) -> TrainState:
  """The state that the checkpoint at `path` holds, on this mesh and plan. Call it in all processes.

  Raises UserError, naming what differs, where the checkpoint is absent, damaged or of another model or optimiser.
  """
  path, shapes = Path(path), state_shapes(config, plan, num_dense, mesh)
  manifest = record.read_json(path / MANIFEST)
  _refuse_differences(path, manifest, _facts(plan.layout, shapes))
  for name, size in manifest["files"].items():
    there = (path / name).stat().st_size if (path / name).exists() else None
    if there != size:
      raise UserError(f"{path / name}: " + ("is missing" if there is None else f"has {there} bytes") + f"; the checkpoint wrote {size}")
  arrays = path / manifest["arrays"]
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    dense = _read(checkpointer, arrays / "dense", _dense(shapes))
    for fact in manifest["dense"]:
      _refuse_damage(arrays / "dense", {fact["name"]: _checksum(dense[fact["name"]])}, {fact["name"]: fact["checksum"]})
    groups = {name: relayout.zeros(group) for name, group in shapes.tables.groups.items()}
    for name, group in plan.by_name.items():
      for i, feature in enumerate(group.features):
        part_shapes = relayout.part_shapes(relayout.arrays_of(groups[name]), plan.layout, int(group.rows[i]), mesh)
        part = _read(checkpointer, arrays / f"table_{feature}", part_shapes)
        groups[name], sums = relayout.write(group, i, groups[name], part, mesh)
        _refuse_damage(arrays / f"table_{feature}", sums, manifest["tables"][feature]["checksums"])
  parts = jax.tree.unflatten(jax.tree.structure(_parts(shapes)), [dense[name] for name in _dense(shapes)])
  return TrainState(tables=Tables(groups), **parts)


def _parts(state: TrainState) -> dict[str, Any]:
  """All but the tables."""
  return {"dense": state.dense, "dense_slots": state.dense_slots, "step": state.step, "progress": state.progress}


def _dense(state: TrainState) -> dict[str, Any]:
  """The arrays of `_parts` by name, in the order of its leaves."""
  leaves = jax.tree_util.tree_leaves_with_path(_parts(state))
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _facts(layout: Layout, state: TrainState) -> dict[str, Any]:
  """What the checkpoint and the run that continues it must agree on."""
  group: GroupState = next(iter(state.tables.groups.values()))
  slots = {name: array.ndim == 2 for name, array in group.stacks["rows"].slots.items()}
  return {
    "table_optimizer": next(name for name, known in OPTIMIZER_SLOTS.items() if known == slots),
    "rows_by": layout.rows_by,
    "tables": [
      {"name": t.name, "position": f, "num_rows": t.num_rows, "dim": t.dim, "dtype": layout.dtype, "first_order": layout.first_order}
      for f, t in enumerate(layout.tables)
    ],
    "dense": [{"name": name, "shape": list(x.shape), "dtype": str(x.dtype)} for name, x in _dense(state).items()],
  }


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
  """Facts by a name that a person can find."""
  out = {name: facts[name] for name in ("table_optimizer", "rows_by")}
  for kind, what in (("tables", "table"), ("dense", "dense array")):
    for fact in facts[kind]:
      out |= {f"{what} {fact['name']}: {key}": value for key, value in fact.items() if key not in ("name", "checksum", "checksums")}
  return out


def _refuse_differences(path: Path, manifest: dict[str, Any], wanted: dict[str, Any]) -> None:
  version = manifest.get("schema_version")
  if version != record.SCHEMA_VERSION:
    raise UserError(f"{path / MANIFEST}: schema_version is {version}, this version of the program reads {record.SCHEMA_VERSION}")
  try:
    found, needed = _flat(manifest), _flat(wanted)
    complete = all("checksums" in t for t in manifest["tables"]) and all("checksum" in d for d in manifest["dense"])
  except (KeyError, TypeError, AttributeError):
    complete = False
  if not complete or manifest.get("arrays") not in ("a", "b") or not isinstance(manifest.get("files"), dict):
    raise UserError(f"{path / MANIFEST}: not the manifest of a checkpoint")
  for name in (*needed, *found):
    here, there = needed.get(name, "absent"), found.get(name, "absent")
    if here != there:
      raise UserError(f"{path}: {name} is {there} in the checkpoint and {here} in this run; they must be the same")


def _checksum(x: Any) -> int:
  values = np.asarray(x).reshape(-1, 1)
  return int(relayout.checksum(values, jnp.arange(len(values)), np.ones(len(values), bool)))


def _refuse_damage(path: Path, found: dict[str, int], written: dict[str, int]) -> None:
  for name, checksum in found.items():
    if checksum != written[name]:
      raise UserError(f"{path}: {name} is damaged (checksum {checksum}; {written[name]} was written)")


def _write(checkpointer: ocp.Checkpointer, path: Path, arrays: dict[str, Any]) -> None:
  save_args = {name: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES) for name in arrays}
  checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(arrays, save_args=save_args))


def _read(checkpointer: ocp.Checkpointer, path: Path, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
  """Arrays of these shapes. Padding after the last row depends on the mesh: it is cut off, or zeros are added."""
  args = {name: ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype, strict=False) for name, x in shapes.items()}
  try:
    return checkpointer.restore(path.absolute(), args=ocp.args.PyTreeRestore(restore_args=args))
  except Exception as error:  # Orbax raises Exception itself where a file cannot be read
    raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error
