"""Makes the mesh of devices and every PartitionSpec.

A mesh has one axis (data) or two (data x model). Batches are split over all of its devices. So are tables (embedding/planner.py decides
how). Dense parameters are on every device.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlrm_jax.batch import Batch
from dlrm_jax.common.flags import UserError
from dlrm_jax.config import RunConfig

MESH_AXES = ("data", "model")
REPLICATED = PartitionSpec()


def connect(config: RunConfig) -> RunConfig:
  """Connects this process to the others of its run. It does nothing without --coordinator. Call it before the first jax computation.

  Returns the config with the actual number of processes, which on a cluster no flag gives.
  """
  if config.coordinator == "auto":
    try:
      jax.distributed.initialize(local_device_ids=slurm_devices(os.environ))
    except ValueError as error:
      raise UserError(f"--coordinator=auto: jax finds no cluster here ({error}); give host:port") from None
  elif config.coordinator:
    jax.distributed.initialize(config.coordinator, config.num_processes, config.process_id)
  return dataclasses.replace(config, num_processes=jax.process_count(), process_id=jax.process_index()) if config.coordinator else config


def slurm_devices(environ: Mapping[str, str]) -> list[int] | None:
  """Returns which of the node's visible GPUs this process uses under Slurm, or None to leave the choice to jax.

  The processes of a node get equal shares, in order. jax itself would take one GPU for each process, so a process alone on its node would
  use one of many. Where each process sees its own GPUs (`srun --gpus-per-task`), fewer than the node has processes, it uses all it sees.
  """
  visible = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", environ.get("ROCR_VISIBLE_DEVICES", "")).split(",") if gpu]
  if not visible or "SLURM_STEP_NUM_NODES" not in environ or "JAX_LOCAL_DEVICE_IDS" in environ:
    return None
  here = int(environ["SLURM_NTASKS"]) // int(environ["SLURM_STEP_NUM_NODES"])
  share = len(visible) // here
  first = int(environ["SLURM_LOCALID"]) * share
  return list(range(first, first + share)) or list(range(len(visible)))


def make_mesh(config: RunConfig, devices: list[jax.Device] | None = None) -> Mesh:
  """Makes the mesh of `--mesh` from the first of `devices` (default: all that jax has). Raises UserError if there are too few."""
  shape, wanted = config.mesh.shape, config.mesh.num_devices
  devices = jax.devices() if devices is None else devices
  if wanted > len(devices) or (jax.process_count() > 1 and wanted != len(devices)):
    kind = devices[0].platform
    hint = f"; JAX_NUM_CPU_DEVICES={wanted} simulates them on the CPU" if kind == "cpu" and jax.process_count() == 1 else ""
    whose = f"the {jax.process_count()} processes have" if jax.process_count() > 1 else "there are" if len(devices) > 1 else "there is"
    raise UserError(f"--mesh={config.mesh.mesh}: needs {wanted} devices, {whose} {len(devices)} ({kind}){hint}")
  if jax.process_count() > 1 and len(set(Counter(device.process_index for device in devices).values())) > 1:
    raise UserError(f"--mesh={config.mesh.mesh}: the processes have different numbers of devices; each must have as many")
  return Mesh(np.array(devices[:wanted]).reshape(shape), MESH_AXES[: len(shape)], axis_types=(AxisType.Auto,) * len(shape))


def split(mesh: Mesh) -> PartitionSpec:
  """Splits the first dimension over all devices: the examples of a batch, or the rows of a table."""
  return PartitionSpec(mesh.axis_names)


def placed(shapes: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
  """Returns a tree of shapes with their sharding, as `jax.jit` takes for its arguments."""
  sharding = NamedSharding(mesh, spec)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def constrain(tree: Any, like: Any) -> Any:
  """Gives the arrays of `tree` the shardings of `like`. Call it inside jit."""
  return jax.tree.map(lambda x, shape: jax.lax.with_sharding_constraint(x, shape.sharding), tree, like)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
  """Splits a whole batch, on the host or on one device, over the mesh. Every process holds the whole batch and feeds its own devices.

  Copies are started, not waited for. On one CPU device nothing is copied.
  """
  if mesh.size == 1 and mesh.devices.flat[0].platform == "cpu":
    return batch
  sharding = NamedSharding(mesh, split(mesh))
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  host = jax.tree.map(np.asarray, batch)
  return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), host)


def put_part(batch: Batch, mesh: Mesh) -> Batch:
  """Splits a batch, of which every process holds an equal part, over the mesh. The devices of a process get its own part."""
  if jax.process_count() == 1:
    return put_batch(batch, mesh)
  sharding = NamedSharding(mesh, split(mesh))
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
