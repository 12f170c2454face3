"""One checkpoint: a state copied into host memory, written by Orbax, restored onto any mesh and placement.

    PATH/arrays             by Orbax, one tree: dense, and table_NAME for each table, whose arrays are in the order of its rows
    PATH/checkpoint.json    the manifest: tables, dense arrays, checksums, sizes of files, the run; written last

`snapshot` converts and copies tables one by one. An accelerator needs room for its share of one table besides its tables. The host needs
room for all of them once more until they are on disk. Of several processes all call these functions, PATH is visible to all, and each
writes and reads what its devices hold. TensorStore detects most damage, but no changed values: so every array carries a checksum.
`checkpoints.py` calls this.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding, Sharding

from dlrm_jax.common import record
from dlrm_jax.common.flags import UserError
from dlrm_jax.embedding import relayout
from dlrm_jax.embedding.layout import Layout
from dlrm_jax.embedding.tables import OPTIMIZER_SLOTS, GroupState, Tables
from dlrm_jax.machine import hardware
from dlrm_jax.machine.mesh import REPLICATED
from dlrm_jax.training.build import Build
from dlrm_jax.training.state import TrainState, state_shapes

MANIFEST, ARRAYS = "checkpoint.json", "arrays"
FORMAT = 2  # of the directory; 1 had its arrays in directories a or b
_CHUNK_BYTES = 2**25  # of a file that is read or written at once; a share of another mesh must not be read as a whole


class Damaged(UserError):
  """A checkpoint differs from what was written; the one before it may be whole."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """A copy of a state as a checkpoint holds it; later steps do not change it.

  Attributes:
    arrays: by part (dense, table_NAME) and name, in host memory.
    facts: what the manifest holds about them.
  """

  arrays: dict[str, dict[str, jax.Array]]
  facts: dict[str, Any]


def snapshot(state: TrainState, build: Build) -> Snapshot:
  """Copies a state. Call it in all processes; it returns when the copy is made."""
  out = snapshot_dense(_dense(state), NamedSharding(build.mesh, REPLICATED))
  arrays, facts = out.arrays, out.facts | _facts(build.plan.layout, state)
  for name, group in build.plan.by_name.items():
    for i, feature in enumerate(group.features):
      part, facts["tables"][feature]["checksums"] = relayout.read(group, i, state.tables.groups[name], build.mesh)
      arrays[f"table_{feature}"] = {key: _to_host(x) for key, x in part.items()}
  return Snapshot(jax.block_until_ready(arrays), facts)


def snapshot_dense(arrays: dict[str, Any], sharding: Sharding) -> Snapshot:
  """Copies named arrays, the same on every device."""
  copies = {name: _to_host(jax.device_put(x, sharding, may_alias=False)) for name, x in arrays.items()}
  return Snapshot(
    {"dense": jax.block_until_ready(copies)}, {"dense": [_fact(name, x) | {"checksum": _crc(x)} for name, x in copies.items()]}
  )


def writer() -> ocp.AsyncCheckpointer:
  """What `start_writing` needs. Embeddings hardly compress: zstd took four times as long for 8% of the bytes."""
  several = jax.process_count() > 1
  active = set(range(jax.process_count())) if several else None  # barriers are then the coordination service's, not the devices'
  processes = ocp.options.MultiprocessingOptions(active_processes=active)
  handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=processes)
  directories = ocp.options.AsyncOptions(create_directories_asynchronously=False)
  return ocp.AsyncCheckpointer(handler, async_options=directories, multiprocessing_options=processes)


def start_writing(checkpointer: ocp.AsyncCheckpointer, path: Path, arrays: dict[str, dict[str, jax.Array]]) -> None:
  """Starts to write the arrays below `path`; `checkpointer.wait_until_finished` raises what goes wrong."""
  save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), arrays)
  checkpointer.save((path / ARRAYS).absolute(), args=ocp.args.PyTreeSave(arrays, save_args=save_args))


def seal(path: Path, facts: dict[str, Any], run: dict[str, Any]) -> None:
  """Makes the checkpoint whole by its manifest, once its arrays are on disk. `read_run` returns `run`. One process calls it."""
  files = {str(file.relative_to(path)): file.stat().st_size for file in sorted((path / ARRAYS).rglob("*")) if file.is_file()}
  record.write_json(path / MANIFEST, hardware.header() | {"format": FORMAT} | facts | {"files": files, "run": run})


def read_run(path: Path) -> dict[str, Any]:
  """The `run` that `seal` was given. Raises Damaged where the manifest is absent or is none."""
  return _manifest(path)["run"]


def restore(path: Path, build: Build) -> TrainState:
  """The state that the checkpoint at `path` holds, on the build's mesh and plan. Call it in all processes.

  Raises Damaged where it is not whole. Raises UserError, naming what differs, where it is of another model or optimiser.
  """
  plan, mesh, shapes = build.plan, build.mesh, state_shapes(build)
  wanted = _facts(plan.layout, shapes) | {"dense": [_fact(name, x) for name, x in _dense(shapes).items()]}
  with _all_or_none(path):
    manifest = _checked(path, wanted)
    dense = _read_dense(path, manifest, _dense(shapes))
  groups = {name: relayout.zeros(group) for name, group in shapes.tables.groups.items()}
  for name, group in plan.by_name.items():
    for i, feature in enumerate(group.features):
      part_shapes = relayout.ordered_shapes(relayout.arrays_of(groups[name]), plan.layout, int(group.rows[i]), mesh)
      with _all_or_none(path):
        part = _read(path, f"table_{feature}", part_shapes)
      groups[name], sums = relayout.write(group, i, groups[name], part, mesh)
      _refuse_damage(path, f"table_{feature}", sums, manifest["tables"][feature]["checksums"])
  parts = jax.tree.unflatten(jax.tree.structure(_parts(shapes)), [dense[name] for name in _dense(shapes)])
  return TrainState(tables=Tables(groups), **parts)


def restore_dense(path: Path, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """What `snapshot_dense` copied. Raises as `restore` does."""
  return _read_dense(path, _checked(path, {"dense": [_fact(name, x) for name, x in shapes.items()]}), shapes)


def _parts(state: TrainState) -> dict[str, Any]:
  """All but the tables."""
  return {"dense": state.dense, "dense_slots": state.dense_slots, "step": state.step, "progress": state.progress}


def _dense(state: TrainState) -> dict[str, Any]:
  """The arrays of `_parts` by name, in the order of its leaves."""
  leaves = jax.tree_util.tree_leaves_with_path(_parts(state))
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _to_host(x: jax.Array) -> jax.Array:
  """An array of its own, in host memory. On the CPU it is there already."""
  device: jax.Device = next(iter(x.sharding.device_set))
  if device.platform == "cpu":
    return x
  return jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))


def _fact(name: str, x: Any) -> dict[str, Any]:
  return {"name": name, "shape": list(x.shape), "dtype": str(x.dtype)}


def _facts(layout: Layout, state: TrainState) -> dict[str, Any]:
  """The facts about tables that a checkpoint and the run that goes on from it must share."""
  group: GroupState = next(iter(state.tables.groups.values()))
  slots = {name: array.ndim == 2 for name, array in group.stacks["rows"].slots.items()}
  return {
    "table_optimizer": next(name for name, known in OPTIMIZER_SLOTS.items() if known == slots),
    "rows_by": layout.rows_by,
    "tables": [
      {"name": t.name, "position": f, "num_rows": t.num_rows, "dim": t.dim, "dtype": layout.dtype, "first_order": layout.first_order}
      for f, t in enumerate(layout.tables)
    ],
  }


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
  """Facts by a name that a person can find."""
  out = {name: facts.get(name, "absent") for name in ("table_optimizer", "rows_by")}
  for kind, what in (("tables", "table"), ("dense", "dense array")):
    for fact in facts.get(kind, []):
      out |= {f"{what} {fact['name']}: {key}": value for key, value in fact.items() if key not in ("name", "checksum", "checksums")}
  return out


def _manifest(path: Path) -> dict[str, Any]:
  """The manifest of the checkpoint at `path`, complete."""
  if not (path / MANIFEST).exists():
    raise Damaged(f"{path}: has no {MANIFEST}: it was not written to its end")
  try:
    manifest = record.read_json(path / MANIFEST)
  except UserError as error:
    raise Damaged(str(error)) from error
  versions = {"schema_version": record.SCHEMA_VERSION, "format": FORMAT}
  for name, version in versions.items():
    if manifest.get(name, 1) != version:
      raise UserError(f"{path / MANIFEST}: {name} is {manifest.get(name, 1)}, this version of the program reads {version}")
  try:
    _flat(manifest)
    complete = all("checksums" in t for t in manifest.get("tables", [])) and all("checksum" in d for d in manifest["dense"])
  except (KeyError, TypeError, AttributeError):
    complete = False
  if not complete or not all(isinstance(manifest.get(name), dict) for name in ("files", "run")):
    raise Damaged(f"{path / MANIFEST}: not the manifest of a checkpoint")
  return manifest


def _checked(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
  """The manifest. It holds what is wanted, and its files are there; else it raises UserError or Damaged."""
  manifest = _manifest(path)
  found, needed = _flat(manifest), _flat(wanted)
  for name in (*needed, *found):
    here, there = needed.get(name, "absent"), found.get(name, "absent")
    if here != there:
      raise UserError(f"{path}: {name} is {there} in the checkpoint and {here} in this run; they must be the same")
  for name, size in manifest["files"].items():
    there = (path / name).stat().st_size if (path / name).exists() else None
    if there != size:
      raise Damaged(f"{path / name}: " + ("is missing" if there is None else f"has {there} bytes") + f"; the checkpoint wrote {size}")
  return manifest


def _crc(x: jax.Array) -> int:
  return zlib.crc32(np.ascontiguousarray(np.asarray(x)).tobytes())


def _refuse_damage(path: Path, part: str, found: dict[str, int], written: dict[str, int]) -> None:
  for name, checksum in found.items():
    if checksum != written[name]:
      raise Damaged(f"{path / ARRAYS}: {name} of {part} is damaged (checksum {checksum}; {written[name]} was written)")


def _read_dense(path: Path, manifest: dict[str, Any], shapes: dict[str, Any]) -> dict[str, jax.Array]:
  dense = _read(path, "dense", shapes)
  checksums = {name: _crc(x) for name, x in dense.items()}
  _refuse_damage(path, "dense", checksums, {fact["name"]: fact["checksum"] for fact in manifest["dense"]})
  return dense


def _read(path: Path, part: str, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Reads arrays of these shapes. Padding after the last row depends on the mesh: it is cut off, or zeros are added."""
  args = {name: ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype, strict=False) for name, x in shapes.items()}
  tree = ocp.args.PyTreeRestore(item={part: shapes}, restore_args={part: args}, partial_restore=True)
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      return checkpointer.restore((path / ARRAYS).absolute(), args=tree)[part]
  except Exception as error:  # Orbax raises Exception itself where a file cannot be read
    raise Damaged(f"{path / ARRAYS}: {part} cannot be read: {' '.join(str(error).split())[:200]}") from error


@contextlib.contextmanager
def _all_or_none(path: Path) -> Iterator[None]:
  """What one process finds damaged, all do: all use this checkpoint, or all use the one before."""
  damage = None
  try:
    yield
  except Damaged as error:
    damage = error
  if jax.process_count() > 1 and np.any(process_allgather(np.int32(damage is not None))):
    damage = damage or Damaged(f"{path}: another process finds it damaged")
  if damage is not None:
    raise damage
